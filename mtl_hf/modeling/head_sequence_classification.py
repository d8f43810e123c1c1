"""`sequence_classification`: one label per text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .head import (
    EncoderShape,
    HeadInputs,
    HeadLoss,
    Linear,
    PooledHead,
    Prediction,
    softmax,
)
from .imbalance import ImbalanceSpec, check_numbers, softmax_loss


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


class SequenceClassificationHead(PooledHead):
    """Pool, dropout, linear, softmax cross-entropy. An item is a row with a label.

    Labels: class ids (B,), `-100` if missing. Logits: (B, num_labels). A prediction is the name of a label.

    Attributes:
        thresholds: `thresholds` of the specification, which may be set after training.
    """

    kind = "sequence_classification"
    spec_class = SequenceClassificationSpec
    windows = True

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.labels = spec.labels
        self.classifier = Linear(encoder.hidden_size, len(spec.labels))
        self.label_smoothing = spec.label_smoothing
        self.spec = spec
        self.thresholds: list[float] | None = spec.thresholds

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → logits (B, num_labels)."""
        return self.classifier(self.pooled(states, attention_mask, inputs))

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the cross-entropy (`imbalance.softmax_loss`) over labelled rows, and their number."""
        return softmax_loss(logits, labels, self.spec)

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
