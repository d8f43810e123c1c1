"""`multiple_choice`: the best choice of each text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .decoding import Decoder, Prediction, softmax
from .spec import PooledSpec


class MultipleChoiceDecoder(Decoder):
    """A prediction is the index of a choice."""

    kind = "multiple_choice"
    spec_class = PooledSpec

    def by_row(self, outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The scores of each row, (B, largest number of choices), -inf where a row has fewer."""
        counts = batch["num_segments"]
        real = np.arange(counts.max()) < counts[:, None]
        scores = np.full(real.shape, -np.inf, outputs.dtype)
        scores[real] = outputs
        return scores

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Scores (B, largest number of choices) → the best choice of each row."""
        best, scores = outputs.argmax(-1), softmax(outputs)
        return [Prediction(index, row) for index, row in zip(best.tolist(), scores, strict=True)]

    def answer(
        self, prediction: Prediction, text: Any = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """`{"choice", "text", "score"}`; if `top_k` is not 1, a list of the `top_k` best, best first."""
        choices = text[1]
        scores = prediction.scores[: len(choices)]
        found = [
            {"choice": index, "text": choices[index], "score": float(scores[index])}
            for index in np.argsort(-scores, kind="stable")[:top_k].tolist()
        ]
        return found[0] if top_k == 1 else found
