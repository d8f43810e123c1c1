"""Functions shared by the metrics of several task types."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..statistics import LabelCounts, Metric, mean, ratio
from .task_type import Answers


def cross_entropies(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Logits (n, C), ids (n,) → −log softmax at the ids, in float64."""
    if not len(ids):
        return np.zeros(0)
    scores = logits.astype(np.float64)
    return logsumexp(scores, axis=-1) - scores[np.arange(len(ids)), ids]


def with_cross_entropy(metrics: Mapping[str, Metric], answers: Answers) -> dict[str, Metric]:
    """Metrics, plus the mean cross-entropy over all items that have one; NaN for answers without (from a file)."""
    num_rows = len(answers.rows)
    if not len(answers.losses):
        return {**metrics, **undefined(["cross_entropy"], num_rows)}
    sums, some = np.zeros(num_rows), answers.num_losses > 0
    sums[some] = np.add.reduceat(answers.losses, (np.cumsum(answers.num_losses) - answers.num_losses)[some])
    return {**metrics, "cross_entropy": ratio(sums, answers.num_losses)}


def undefined(names: Sequence[str], num_rows: int) -> dict[str, Metric]:
    """Metrics that are NaN, for too few rows to score."""
    return dict.fromkeys(names, mean(np.full(num_rows, np.nan)))


def equal(predicted: Sequence[Any], gold: Sequence[Any]) -> list[bool]:
    """For each row, whether the prediction equals the label."""
    return [guess == label for guess, label in zip(predicted, gold, strict=True)]


def per_label(counts: LabelCounts) -> dict[str, Any]:
    """`per_label`: label → its F1, precision, recall and support; empty if there are no labels."""
    return {"per_label": counts.by_label()} if counts.names else {}
