"""What the metrics of several task types share."""

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
    """Metrics, and the mean cross-entropy of all items that have one; NaN where answers come without (from a file)."""
    num_rows = len(answers.rows)
    if not len(answers.losses):
        return {**metrics, **undefined(["cross_entropy"], num_rows)}
    sums, some = np.zeros(num_rows), answers.num_losses > 0
    sums[some] = np.add.reduceat(answers.losses, (np.cumsum(answers.num_losses) - answers.num_losses)[some])
    return {**metrics, "cross_entropy": ratio(sums, answers.num_losses)}


def undefined(names: Sequence[str], num_rows: int) -> dict[str, Metric]:
    """Metrics of rows with too little to score: NaN."""
    return dict.fromkeys(names, mean(np.full(num_rows, np.nan)))


def equal(predicted: Sequence[Any], gold: Sequence[Any]) -> list[bool]:
    """Which answers are those of the labels."""
    return [guess == label for guess, label in zip(predicted, gold, strict=True)]


def per_label(counts: LabelCounts) -> dict[str, Any]:
    """`per_label`: label → its F1, precision, recall and support; nothing where no label occurs."""
    return {"per_label": counts.by_label()} if counts.names else {}
