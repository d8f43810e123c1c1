"""`masked_lm`: masked language modelling, which trains the encoder; it makes no predictions for raw texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization

from .decoding import Prediction
from .head import EncoderShape, Head, HeadInputs, HeadLoss, Linear, cross_entropy, wide, wide_linear
from .tags import IGNORE_INDEX


class MaskedLMHead(Head):
    """Dense, GELU, LayerNorm, then the product with the input embeddings, plus a bias per token of the vocabulary.

    Devlin et al., arXiv 1810.04805, section 3.1. The output layer is tied to the input embeddings (Press and Wolf,
    arXiv 1608.05859): the model passes their matrix in, so it exists once in memory and in files. An item is a masked
    token.

    Labels: (B, T) with the ids of masked tokens, `-100` elsewhere. Logits: of the N masked tokens, (N, V), if there are
    labels; otherwise of all tokens, (B, T, V).
    """

    kind = "masked_lm"
    answers_texts = False
    windows = True

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.dense = Linear(encoder.hidden_size, encoder.embedding_size)
        self.norm = nn.LayerNorm(encoder.embedding_size, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(encoder.vocab_size))

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (B, T, H) → logits; `inputs` has `embeddings`, (V, E), and optionally `labels`."""
        assert inputs is not None
        assert inputs.embeddings is not None
        if inputs.labels is not None:
            states = states[inputs.labels != IGNORE_INDEX]
        hidden = F.gelu(self.dense(states))
        weight, bias = self.norm.weight.to(hidden.dtype), self.norm.bias.to(hidden.dtype)
        normed = F.layer_norm(hidden, self.norm.normalized_shape, weight, bias, self.norm.eps)
        return wide_linear(normed, inputs.embeddings, self.bias)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the cross-entropy over masked tokens, and their number."""
        return cross_entropy(logits, labels[labels != IGNORE_INDEX])

    def by_row(self, logits: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """Per row: sum of -log p over its masked tokens, their number, and how many are predicted right, (B, 3)."""
        if inputs is None or inputs.labels is None:
            return logits
        hidden, counts = inputs.labels != IGNORE_INDEX, inputs.num_segments
        rows = torch.arange(len(hidden), device=hidden.device)
        if counts is not None:  # the row of each segment
            rows = torch.repeat_interleave(torch.arange(len(counts), device=hidden.device), counts)
        scores, ids = wide(logits), inputs.labels[hidden]
        losses = F.cross_entropy(scores, ids, reduction="none")
        found = torch.stack([losses, torch.ones_like(losses), (scores.argmax(-1) == ids).to(losses.dtype)], dim=1)
        num_rows = len(hidden) if counts is None else len(counts)
        return losses.new_zeros(num_rows, 3).index_add(0, rows[hidden.nonzero()[:, 0]], found)

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """(B, 3) → for each row [sum of -log p, number of masked tokens, how many are predicted right]."""
        return [Prediction(row) for row in outputs.astype(float).tolist()]

    def init_weights(self) -> None:
        """Initialize the bias with zeros."""
        initialization.zeros_(self.bias)

    def resize(self, vocab_size: int) -> None:
        """Adapt the bias to a new size of the vocabulary, whose last tokens were added or removed."""
        bias = self.bias.new_zeros(vocab_size)
        kept = min(vocab_size, len(self.bias))
        bias[:kept] = self.bias.detach()[:kept]
        self.bias = nn.Parameter(bias)
