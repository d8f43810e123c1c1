"""Thresholds of predicted probabilities: the option `threshold`, and the choice of the best ones on validation rows.

Notable: the choice is a pure function of scores and labels. All thresholds between two neighbouring scores give the
same predictions; of these the one in the middle is taken, or 0.5 if it is among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..config import RunConfig, Task, option
from .imbalance import ImbalancedType, ImbalanceOptions, check_label
from .source_data import SourceData
from .task_type import TaskData

DEFAULT = 0.5


@dataclass(kw_only=True)
class ThresholdOptions(ImbalanceOptions):
    """Keys of `tasks.<name>` for types that predict a label from a probability."""

    threshold: Literal["tuned"] | float | dict[str, float] | None = option(
        "probability from which a label is predicted: a number, {label: number}, or tuned: the best one on validation"
        " rows after training (sequence_classification: with two labels only) (default: 0.5)",
        None,
    )


class ThresholdedType(ImbalancedType):
    """Base class of the types that have `ThresholdOptions`."""

    options = ThresholdOptions

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Also check the numbers of `threshold`."""
        super().check(name, spec, run)
        found, path = self.read_options(name, spec).threshold, f"tasks.{name}.threshold"
        if found is not None and not spec.train:
            raise ValueError(f"`{path}` cannot be used with `train: false`, which keeps the head as it is. Remove one.")
        numbers = found if isinstance(found, dict) else {} if found in (None, "tuned") else {"": found}
        for label, number in numbers.items():
            if not 0 < number < 1:
                raise ValueError(
                    f"`{path}{'.' if label else ''}{label}` is {number:g}; it should be a probability above 0 and"
                    " below 1."
                )

    def changed_options(self, spec: Task, options: Any) -> dict[str, Any]:
        """A run that sets `threshold` replaces the thresholds of the head; otherwise the head keeps its own."""
        changed = super().changed_options(spec, options)
        return changed if options.threshold is None else changed | {"thresholds": None}

    def resolved_options(self, task: TaskData, sources: Sequence[SourceData]) -> dict[str, Any]:
        """Thresholds that are numbers, in the order of the labels."""
        found, threshold = super().resolved_options(task, sources), task.options.threshold
        for label in threshold if isinstance(threshold, dict) else ():
            check_label(task, "threshold", label)
        if self.exclusive and threshold is not None:
            _check_two(task)
        if threshold is None or threshold == "tuned":
            return found
        return found | {"thresholds": self.fixed_thresholds(task, threshold)}

    def fixed_thresholds(self, task: TaskData, threshold: float | dict[str, float]) -> list[float]:
        """Thresholds in the order of the labels, from the config's."""
        if isinstance(threshold, dict):
            return [threshold.get(label, DEFAULT) for label in task.labels]
        return [threshold] * len(task.labels)

    def facts(self, task: TaskData) -> dict[str, Any]:
        """Without numbers, which are in the head's specification; `tuned` changes nothing before the end of a run."""
        return {key: value for key, value in super().facts(task).items() if key != "threshold"}

    def tunes_thresholds(self, task: TaskData) -> bool:
        """Whether its thresholds are chosen after training."""
        return bool(task.options.threshold == "tuned")


def _check_two(task: TaskData) -> None:
    """Raise `ValueError` unless a threshold can decide between the labels of a task, of which an item has one."""
    path, threshold = f"`tasks.{task.name}.threshold`", task.options.threshold
    if len(task.labels) != 2:
        raise ValueError(f"{path} only works with two labels; the task has {len(task.labels)}. Remove it.")
    if isinstance(threshold, float) or (isinstance(threshold, dict) and len(threshold) != 1):
        raise ValueError(
            f"{path} should name the label that it is for, and one only, because the probabilities of two labels sum to"
            f" 1: `threshold: {{{task.labels[1]}: 0.3}}`."
        )


# ---- the choice ----


def best_thresholds(scores: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """For each of C independent labels, the threshold with the highest F1 of the label.

    Args:
        scores: Probabilities, (n, C).
        gold: Whether a row has the label, (n, C).

    Returns:
        (C,), from 0 to 1: a label is predicted if its probability is at least its threshold. Of equally good thresholds
        the nearest to 0.5; 0.5 for a label that no row has.
    """
    found = np.full(scores.shape[1], DEFAULT)
    for label in np.flatnonzero(gold.any(0)):
        thresholds, chosen, right = _cuts(scores[:, label], gold[:, label])
        found[label] = _nearest_best(thresholds, 2 * right / (chosen + gold[:, label].sum()))
    return found


def best_threshold(scores: np.ndarray, gold: np.ndarray) -> float:
    """The threshold of one of two labels with the highest macro F1.

    Args:
        scores: Probability of the label, (n,).
        gold: Whether a row has the label, (n,); else it has the other one.

    Returns:
        As `best_thresholds`; 0.5 if no row or every row has the label.
    """
    if gold.all() or not gold.any():
        return DEFAULT
    thresholds, chosen, right = _cuts(scores, gold)
    positives, others = gold.sum(), len(gold) - chosen
    own = 2 * right / (chosen + positives)
    other = 2 * (others - (positives - right)) / (others + len(gold) - positives)
    return _nearest_best(thresholds, (own + other) / 2)


def _cuts(scores: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A threshold for each different set of predicted rows.

    Returns:
        The thresholds from high to low; for each the number of rows at or above it, and how many of these have the
        label.
    """
    order = np.argsort(-scores, kind="stable")
    falling, right = scores[order], np.append(0, np.cumsum(gold[order]))
    # Cut k predicts the first k rows. It is valid between two different scores: low < threshold <= high.
    high, low = np.append(1.0, falling), np.append(falling, -1.0)
    (cuts,) = np.nonzero(low < high)
    high, low = high[cuts], np.maximum(low[cuts], 0.0)
    middle = (low + high) / 2
    middle = np.where(middle > low, middle, high)  # of neighbouring floats the middle may be the lower one
    thresholds = np.where((low < DEFAULT) & (high >= DEFAULT), DEFAULT, middle)
    return thresholds, cuts, right[cuts]


def _nearest_best(thresholds: np.ndarray, values: np.ndarray) -> float:
    best = thresholds[values == values.max()]
    return float(min(best.tolist(), key=lambda threshold: (abs(threshold - DEFAULT), threshold)))
