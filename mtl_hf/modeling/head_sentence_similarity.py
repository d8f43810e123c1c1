"""`sentence_similarity`: the cosine of two texts, which the encoder reads one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .head import EncoderShape, HeadInputs, HeadLoss, PooledHead, PooledSpec, Prediction, wide


@dataclass(kw_only=True)
class SentenceSimilaritySpec(PooledSpec):
    """Options of the head.

    Attributes:
        loss: `cosine` or `ranking`.
        temperature: Of `ranking`: what cosines are divided by.
        dropout: None by default, since a cosine is not taken of noise.
    """

    loss: str = "cosine"
    temperature: float = 0.05
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in ("cosine", "ranking"):
            raise ValueError(f"`loss` is {self.loss!r}; valid are cosine, ranking.")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` is {self.temperature}; it is above 0.")


class SentenceSimilarityHead(PooledHead):
    """Pool, dropout, scale to length 1: a vector a text, whose cosine with that of another is their similarity.

    The two texts of a pair are its segments: rows 2i and 2i + 1 of the batch. An item is a pair.

    - `loss: cosine`: squared error of the cosine against a score from 0 to 1 (Reimers and Gurevych, arXiv 1908.10084,
      section 3; `CosineSimilarityLoss` of sentence-transformers).
    - `loss: ranking`: cross-entropy of each first text's own second text among all second texts of the batch, by their
      cosines over `temperature` (multiple negatives, Henderson et al., arXiv 1705.00652, section 4). From first to
      second text only, as there and as its metrics count. The negatives are those of the batch that one process sees at
      once, so accumulated batches and processes do not add any. A second text equal to one's own is no negative.

    Labels: (B,) scores, for `ranking` any number; NaN where absent. Logits, the vectors: (2B, H) float32 or wider; of
    any number of single texts as many. A prediction is the cosine.
    """

    kind = "sentence_similarity"
    spec_class = SentenceSimilaritySpec
    form = "apart"

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.ranking = spec.loss == "ranking"
        self.temperature = spec.temperature

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → vectors of length 1, (N, H)."""
        return F.normalize(self.pooled(states, attention_mask), dim=-1)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the loss over pairs with a label, and how many these are.

        Args:
            logits: (2B, H).
            labels: (B,).
            inputs: With `input_ids`, by which equal second texts are known; without them all count as different.
        """
        known = ~labels.isnan()
        vectors = wide(logits)
        first, second = vectors[0::2][known], vectors[1::2][known]
        if not self.ranking:
            error = (first * second).sum(-1) - labels[known].to(first.dtype)
            return HeadLoss(error.square().sum(), known.sum())
        with torch.autocast(first.device.type, enabled=False):  # or their product would be rounded
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

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Vectors (B, 2, H) → the cosine of each pair, in float64."""
        first, second = outputs.astype(np.float64).transpose(1, 0, 2)
        return [Prediction(cosine) for cosine in (first * second).sum(-1).tolist()]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """The cosine, from -1 to 1, which rounding may have left by a little."""
        return min(1.0, max(-1.0, prediction.value))


def number_texts(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """A number for each text, (N,): the same for those with the same tokens.

    Args:
        input_ids: (N, T).
        attention_mask: (N, T), 0 for padding.
    """
    return input_ids.masked_fill(attention_mask == 0, -1).unique(dim=0, return_inverse=True)[1]
