"""`sentence_similarity`: its options, and the cosine of each pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decoding import Decoder, Prediction
from .spec import PooledSpec


@dataclass(kw_only=True)
class SentenceSimilaritySpec(PooledSpec):
    """Options of the head.

    Attributes:
        loss: `cosine` or `ranking`.
        temperature: `ranking` only: divisor of the cosines.
        dropout: Dropout rate of the embeddings; none by default, since it would add noise to the cosines.
    """

    loss: str = "cosine"
    temperature: float = 0.05
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in ("cosine", "ranking"):
            raise ValueError(f"`loss` is {self.loss!r}; valid are cosine, ranking.")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` is {self.temperature}; it should be above 0.")


class SentenceSimilarityDecoder(Decoder):
    """A prediction is the cosine of the vectors of two texts."""

    kind = "sentence_similarity"
    spec_class = SentenceSimilaritySpec

    def by_row(self, outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The two vectors of each pair, (B, 2, H)."""
        return outputs.reshape(-1, 2, outputs.shape[-1])

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Vectors (B, 2, H) → the cosine of each pair, in float64."""
        first, second = outputs.astype(np.float64).transpose(1, 0, 2)
        return [Prediction(cosine) for cosine in (first * second).sum(-1).tolist()]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """The cosine, clipped to [-1, 1], which rounding may exceed."""
        return min(1.0, max(-1.0, prediction.value))
