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
    LabelledSpec,
    Linear,
    PooledHead,
    Prediction,
    cross_entropy,
    softmax,
)


@dataclass(kw_only=True)
class SequenceClassificationSpec(LabelledSpec):
    """Options of the head; `pooling` and `window_pooling` are those of `PooledSpec`."""

    pooling: str | None = None
    window_pooling: str = "mean"


class SequenceClassificationHead(PooledHead):
    """Pool, dropout, linear, softmax cross-entropy. An item is a row with a label.

    Labels: class ids (B,), `-100` if missing. Logits: (B, num_labels). A prediction is the name of a label.
    """

    kind = "sequence_classification"
    spec_class = SequenceClassificationSpec
    windows = True

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.labels = spec.labels
        self.classifier = Linear(encoder.hidden_size, len(spec.labels))
        self.label_smoothing = spec.label_smoothing

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → logits (B, num_labels)."""
        return self.classifier(self.pooled(states, attention_mask, inputs))

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the cross-entropy over labelled rows, and their number."""
        return cross_entropy(logits, labels, self.label_smoothing)

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Logits (B, num_labels) → the most likely label of each row."""
        best, scores = outputs.argmax(-1), softmax(outputs)
        return [Prediction(self.labels[index], row) for index, row in zip(best.tolist(), scores, strict=True)]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """`{"label", "score"}`; if `top_k` is not 1, a list of the `top_k` best, best first."""
        if top_k == 1:
            return {"label": prediction.value, "score": float(prediction.scores.max())}
        return best_labels(self.labels, prediction.scores, top_k)


def best_labels(labels: Sequence[str], scores: np.ndarray, top_k: int | None) -> list[dict[str, Any]]:
    """The `top_k` labels with the best scores (all for None), best first, each as `{"label", "score"}`."""
    chosen = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": labels[index], "score": float(scores[index])} for index in chosen]
