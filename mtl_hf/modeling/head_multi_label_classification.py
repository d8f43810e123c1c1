"""`multi_label_classification`: any number of labels per text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .head import HeadInputs, HeadLoss, Prediction, sigmoid
from .head_sequence_classification import SequenceClassificationHead, SequenceClassificationSpec, best_labels
from .imbalance import sigmoid_loss
from .tags import IGNORE_INDEX


@dataclass(kw_only=True)
class MultiLabelClassificationSpec(SequenceClassificationSpec):
    """Options of the head: `thresholds` has the probability from which each label is predicted (default: 0.5)."""

    def check_kind(self) -> None:
        """Refuse options for labels that exclude each other."""
        if self.logit_adjustment:
            raise ValueError(f"a {self.type} head does not take `logit_adjustment`: a row may have several labels.")


class MultiLabelClassificationHead(SequenceClassificationHead):
    """Pool, dropout, linear, one sigmoid per label. An item is a row with labels (an empty set counts as labels).

    The loss of a row is the mean over the labels, so that it has the scale of other tasks' losses.
    Labels: multi-hot (B, num_labels) with 0 and 1; a row without labels is all `-100`. A prediction is the list of
    labels with a probability of at least 0.5, or of at least their threshold, in the order of the vocabulary.
    """

    kind = "multi_label_classification"
    spec_class = MultiLabelClassificationSpec

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum over labelled rows of the mean loss (`imbalance.sigmoid_loss`) over labels, and their number."""
        known = labels[:, 0] != IGNORE_INDEX
        targets = labels[known].to(torch.promote_types(logits.dtype, torch.float32))
        return HeadLoss(sigmoid_loss(logits[known], targets, self.spec).mean(1).sum(), known.sum())

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
