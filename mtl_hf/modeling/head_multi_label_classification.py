"""`multi_label_classification`: any number of labels per text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .head import HeadInputs, HeadLoss, Prediction, sigmoid
from .head_sequence_classification import SequenceClassificationHead, best_labels
from .tags import IGNORE_INDEX


class MultiLabelClassificationHead(SequenceClassificationHead):
    """Pool, dropout, linear, one sigmoid per label. An item is a row with labels (an empty set counts as labels).

    The loss of a row is the mean over the labels, so that it has the scale of other tasks' losses.
    Labels: multi-hot (B, num_labels) with 0 and 1; a row without labels is all `-100`. A prediction is the list of
    labels with a probability of at least 0.5, in the order of the vocabulary.
    """

    kind = "multi_label_classification"

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum over labelled rows of the mean binary cross-entropy over labels, and the number of these rows."""
        known = labels[:, 0] != IGNORE_INDEX
        targets = labels[known].to(torch.promote_types(logits.dtype, torch.float32))
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        rows = F.binary_cross_entropy_with_logits(logits[known].to(targets.dtype), targets, reduction="none")
        return HeadLoss(rows.mean(1).sum(), known.sum())

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Logits (B, num_labels) → the labels of each row whose probability is at least 0.5."""
        return [
            Prediction([self.labels[index] for index in np.flatnonzero(row >= 0)], scores)
            for row, scores in zip(outputs, sigmoid(outputs), strict=True)
        ]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """A list of `{"label", "score"}`: the predicted labels; if `top_k` is not 1, the `top_k` best, best first."""
        if top_k == 1:
            scores = dict(zip(self.labels, prediction.scores.tolist(), strict=True))
            return [{"label": label, "score": scores[label]} for label in prediction.value]
        return best_labels(self.labels, prediction.scores, top_k)
