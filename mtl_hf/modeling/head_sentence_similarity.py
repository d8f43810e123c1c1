"""`sentence_similarity`: the cosine of the embeddings of two texts, which the encoder reads one by one."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .decode_sentence_similarity import SentenceSimilarityDecoder
from .head import EncoderShape, HeadInputs, HeadLoss, PooledHead, wide


class SentenceSimilarityHead(PooledHead):
    """Pool, dropout, normalize: one vector of length 1 per text. The cosine of two vectors is the similarity.

    The two texts of a pair are its segments: rows 2i and 2i + 1 of the batch. An item is a pair.

    - `loss: cosine`: MSE between the cosine and a score from 0 to 1 (Reimers and Gurevych, arXiv 1908.10084, section 3;
      `CosineSimilarityLoss` of sentence-transformers).
    - `loss: ranking`: in-batch negatives (multiple negatives, Henderson et al., arXiv 1705.00652, section 4): the
      cross-entropy of the cosines of a first text with all second texts of the batch, divided by `temperature`, where
      its own second text is the right one. One direction only, from first to second text, as in the paper and in the
      metrics. Negatives are those of one batch on one process, so gradient accumulation and more processes add none. A
      second text that equals the own one is not a negative.

    Labels: (B,), scores, or for `ranking` any number; NaN if missing. Logits: the vectors, (2B, H), float32 or wider;
    for single texts, one vector each. A prediction is the cosine.
    """

    decoder_class = SentenceSimilarityDecoder
    kind = decoder_class.kind
    spec_class = decoder_class.spec_class
    form = "apart"

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.ranking = spec.loss == "ranking"
        self.temperature = spec.temperature

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → vectors of length 1, (N, H)."""
        return F.normalize(self.pooled(states, attention_mask), dim=-1)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the loss over pairs with a label, and the number of these pairs.

        Args:
            logits: (2B, H).
            labels: (B,).
            inputs: `input_ids` to find equal second texts; without them all texts count as different.
        """
        known = ~labels.isnan()
        vectors = wide(logits)
        first, second = vectors[0::2][known], vectors[1::2][known]
        if not self.ranking:
            error = (first * second).sum(-1) - labels[known].to(first.dtype)
            return HeadLoss(error.square().sum(), known.sum())
        with torch.autocast(first.device.type, enabled=False):  # autocast would round the product
            scores = first @ second.T / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        if inputs is not None and inputs.input_ids is not None and inputs.attention_mask is not None:
            seconds = number_texts(inputs.input_ids, inputs.attention_mask)[1::2][known]
            equal = (seconds[:, None] == seconds).fill_diagonal_(False)
            scores = scores.masked_fill(equal, -torch.inf)
        return HeadLoss(F.cross_entropy(scores, own, reduction="sum"), known.sum())

    def by_row(self, logits: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """The two vectors of each pair, (B, 2, H)."""
        return logits.unflatten(0, (-1, 2))


def number_texts(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """A number for each text, (N,), the same for texts with the same tokens.

    Args:
        input_ids: (N, T).
        attention_mask: (N, T), 0 for padding.
    """
    return input_ids.masked_fill(attention_mask == 0, -1).unique(dim=0, return_inverse=True)[1]
