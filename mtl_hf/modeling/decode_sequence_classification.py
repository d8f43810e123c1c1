"""`sequence_classification`: its options, and the label of each text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decoding import Decoder, Prediction, mean_by_row, softmax
from .spec import ImbalanceSpec, check_numbers


@dataclass(kw_only=True)
class SequenceClassificationSpec(ImbalanceSpec):
    """Options of the head; `pooling` and `window_pooling` are those of `PooledSpec`.

    Attributes:
        thresholds: The probability from which a label is predicted, in the order of the labels; only for two labels,
            where the second is predicted from its threshold, and the first otherwise.
    """

    pooling: str | None = None
    window_pooling: str = "mean"
    thresholds: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "thresholds", most=1.0)
        self.check_kind()

    def check_kind(self) -> None:
        """Check what depends on whether a row has one label or several."""
        if self.thresholds is not None and len(self.labels) != 2:
            raise ValueError(f"a {self.type} head takes `thresholds` only with two labels; it has {len(self.labels)}.")


class SequenceClassificationDecoder(Decoder):
    """A prediction is the name of a label.

    Attributes:
        thresholds: `thresholds` of the specification, which may be set after training.
    """

    kind = "sequence_classification"
    spec_class = SequenceClassificationSpec

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.labels: list[str] = spec.labels
        self.thresholds: list[float] | None = spec.thresholds

    def by_row(self, outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean logits over the windows of each row, (B, num_labels): the layer after pooling is linear."""
        return mean_by_row(outputs, batch)

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Logits (B, num_labels) → the most likely label of each row, or that of the thresholds."""
        best, scores = outputs.argmax(-1), softmax(outputs)
        if self.thresholds is not None:
            best = (scores[:, 1] >= self.thresholds[1]).astype(int)
        return [Prediction(self.labels[index], row) for index, row in zip(best.tolist(), scores, strict=True)]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """`{"label", "score"}`; if `top_k` is not 1, a list of the `top_k` best, best first."""
        if top_k == 1:
            return {"label": prediction.value, "score": float(prediction.scores[self.labels.index(prediction.value)])}
        return best_labels(self.labels, prediction.scores, top_k)


def best_labels(labels: Sequence[str], scores: np.ndarray, top_k: int | None) -> list[dict[str, Any]]:
    """The `top_k` labels with the best scores (all for None), best first, each as `{"label", "score"}`."""
    chosen = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": labels[index], "score": float(scores[index])} for index in chosen]
