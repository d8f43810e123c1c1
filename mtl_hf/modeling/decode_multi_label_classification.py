"""`multi_label_classification`: its options, and the labels of each text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decode_sequence_classification import SequenceClassificationDecoder, SequenceClassificationSpec, best_labels
from .decoding import Prediction, sigmoid


@dataclass(kw_only=True)
class MultiLabelClassificationSpec(SequenceClassificationSpec):
    """Options of the head: `thresholds` has the probability from which each label is predicted (default: 0.5)."""

    def check_kind(self) -> None:
        """Refuse options for labels that exclude each other."""
        if self.logit_adjustment:
            raise ValueError(f"a {self.type} head does not take `logit_adjustment`: a row may have several labels.")


class MultiLabelClassificationDecoder(SequenceClassificationDecoder):
    """A prediction is the list of labels with a probability of at least their threshold (0.5 by default)."""

    kind = "multi_label_classification"
    spec_class = MultiLabelClassificationSpec

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Logits (B, num_labels) → the labels of each row whose probability is at least their threshold."""
        scores = sigmoid(outputs)
        chosen = outputs >= 0 if self.thresholds is None else scores >= np.array(self.thresholds)
        return [
            Prediction([self.labels[index] for index in np.flatnonzero(row)], own)
            for row, own in zip(chosen, scores, strict=True)
        ]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """A list of `{"label", "score"}`: the predicted labels; if `top_k` is not 1, the `top_k` best, best first."""
        if top_k == 1:
            scores = dict(zip(self.labels, prediction.scores.tolist(), strict=True))
            return [{"label": label, "score": scores[label]} for label in prediction.value]
        return best_labels(self.labels, prediction.scores, top_k)
