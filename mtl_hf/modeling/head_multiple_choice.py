"""`multiple_choice`: the one of several texts that fits a text, such as the answer to a question."""

from typing import Any

import torch
from torch import Tensor

from .decode_multiple_choice import MultipleChoiceDecoder
from .head import EncoderShape, HeadInputs, HeadLoss, Linear, PooledHead, cross_entropy


class MultipleChoiceHead(PooledHead):
    """Pool, dropout, linear: a score for each choice, softmax cross-entropy over the choices of a row.

    Like `AutoModelForMultipleChoice` of transformers (Radford et al., Improving language understanding by generative
    pre-training, section 3.3), but rows may have different numbers of choices. The segments of a row are its text with
    each of its choices. An item is a row with a label.

    Labels: index of the right choice, from 0, (B,), `-100` if missing. Logits: a score for each segment, (N,). A
    prediction is the index of a choice.
    """

    decoder_class = MultipleChoiceDecoder
    kind = decoder_class.kind
    spec_class = decoder_class.spec_class
    form = "choices"

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.scorer = Linear(encoder.hidden_size, 1)

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → scores (N,)."""
        return self.scorer(self.pooled(states, attention_mask)).squeeze(-1)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the cross-entropy over labelled rows, and their number."""
        return cross_entropy(self.by_row(logits, inputs), labels)

    def by_row(self, logits: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """The scores of each row, (B, largest number of choices), -inf where a row has fewer."""
        assert inputs is not None
        assert inputs.num_segments is not None
        counts = inputs.num_segments
        real = torch.arange(int(counts.max()), device=logits.device) < counts[:, None]
        scores = logits.new_full(real.shape, -torch.inf)
        return scores.masked_scatter(real, logits)
