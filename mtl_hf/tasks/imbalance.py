"""Options for labels of unequal frequency: class weights, focal loss, logit adjustment, and `balance` of a source.

Notable: weights and priors are computed once, from the training rows of all sources of a task, and become part of the
head's specification as numbers in the order of its labels. So a saved model has them, and a run that continues it
without these options trains with the same numbers.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..config import RunConfig, Task, nearest, option
from .names import count_names
from .source_data import SourceData
from .task_type import TaskData, TaskType, task_type, training_labels

logger = logging.getLogger(__name__)

LARGEST_WEIGHT = 100.0  # of positives with `balanced`: beyond it a few positives decide every step they are in
_SHOWN = 10  # labels in a log line


@dataclass(kw_only=True)
class ImbalanceOptions:
    """Keys of `tasks.<name>` for types whose labels can be weighted."""

    class_weights: Literal["balanced"] | dict[str, float] | None = option(
        "weight of each label in the loss. balanced: from the training rows · {label: weight}, 1 for all others", None
    )
    focal_loss: float | None = option("focal loss with this gamma, such as 2; 0 is off (arXiv 1708.02002)", None)
    logit_adjustment: float | None = option(
        "add this tau, such as 1, times the log prior to the logits in the loss; 0 is off (arXiv 2007.07314)", None
    )


LOSS_KEYS = ("class_weights", "focal_loss", "logit_adjustment")


class ImbalancedType(TaskType):
    """Base class of the types that have `ImbalanceOptions`.

    Attributes:
        exclusive: Whether an item has exactly one label, as the logit adjustment needs.
    """

    options = ImbalanceOptions
    exclusive = True

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check the options of the loss, alone and together."""
        options, path = self.read_options(name, spec), f"tasks.{name}"
        if not spec.train:
            refuse_losses(name, options, "`train: false`, which does not train the head")
        for key in ("focal_loss", "logit_adjustment"):
            value = getattr(options, key)
            if value is not None and not 0 <= value < np.inf:
                raise ValueError(f"`{path}.{key}` is {value:g}; it should be a finite number of at least 0 (0 is off).")
        given = options.class_weights if isinstance(options.class_weights, dict) else {}
        for label, weight in given.items():
            if not 0 <= weight < np.inf:
                raise ValueError(
                    f"`{path}.class_weights.{label}` is {weight:g}; it should be a finite number of at least 0."
                )
        if options.logit_adjustment and not self.exclusive:
            raise ValueError(
                f"`{path}.logit_adjustment` only works where a row or word has one label, not with {self.name}. Use"
                " `class_weights` or `threshold` instead."
            )
        if options.focal_loss and spec.label_smoothing:
            raise ValueError(
                f"`{path}` has both `focal_loss` and `label_smoothing`: one lowers the loss of confident predictions,"
                " the other raises it. Remove one of them."
            )
        balanced = "class_weights: balanced" if options.class_weights == "balanced" else ""
        if options.logit_adjustment and balanced:
            raise ValueError(
                f"`{path}` has both `{balanced}` and `logit_adjustment`, which correct for the same frequencies. Remove"
                " one of them."
            )
        corrects = balanced or ("logit_adjustment" if options.logit_adjustment else "")
        for source in spec.sources:
            if corrects and run.sources[source].balance is not None and run.sources[source].balance == spec.label:
                raise ValueError(
                    f"`{path}` has `{corrects}`, and `sources.{source}.balance` draws its labels equally often: both"
                    " correct for the same frequencies. Remove one of them."
                )

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """Adds the numbers that need no data."""
        own = {key: found for key in ("focal_loss", "logit_adjustment") if (found := getattr(options, key))}
        return super().head_options(spec, options, dropout) | own

    def changed_options(self, spec: Task, options: Any) -> dict[str, Any]:
        """A run that sets any option of the loss replaces all of them; otherwise the head keeps its own."""
        changed = super().changed_options(spec, options)
        if all(getattr(options, key) is None for key in LOSS_KEYS):
            return changed
        plain = {"class_weights": None, "label_priors": None}
        return changed | plain | {key: getattr(options, key) or 0.0 for key in ("focal_loss", "logit_adjustment")}

    def resolved_options(self, task: TaskData, sources: Sequence[SourceData]) -> dict[str, Any]:
        """Class weights and priors as numbers in the order of the labels; logs them."""
        options, name = task.options, task.name
        found = super().resolved_options(task, sources)
        if options.class_weights is None and not options.logit_adjustment:
            return found
        labels = training_labels(name, sources)
        counts = np.zeros(len(task.labels))
        for own in labels:
            for label, number in count_names(own).items():
                if label in task.ids:
                    counts[task.ids[label]] += number
        if options.logit_adjustment:
            found["label_priors"] = priors(counts).tolist()
            _log(task, "label_priors", found["label_priors"], counts)
        if isinstance(options.class_weights, dict):
            for label in options.class_weights:
                check_label(task, "class_weights", label)
            found["class_weights"] = [options.class_weights.get(label, 1.0) for label in task.labels]
        elif options.class_weights is not None:
            num_rows = sum(label is not None for own in labels for label in own)
            weights = balanced_weights(counts) if self.exclusive else positive_weights(counts, num_rows)
            found["class_weights"] = weights.tolist()
        if options.class_weights is not None:
            _log(task, "class_weights", found["class_weights"], counts)
        return found

    def facts(self, task: TaskData) -> dict[str, Any]:
        """Without the options of the loss, whose numbers are in the head's specification."""
        return {key: value for key, value in super().facts(task).items() if key not in LOSS_KEYS}


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """The weights n / (C n_c) of labels that exclude each other, as `class_weight="balanced"` of scikit-learn.

    Args:
        counts: Number n_c of training items with each label; n is their sum, C the number of labels that occur.

    Returns:
        (labels,); 1 for a label that does not occur.
    """
    some = counts > 0
    return np.divide(counts.sum() / max(1, some.sum()), counts, out=np.ones(len(counts)), where=some)


def positive_weights(counts: np.ndarray, num_rows: int) -> np.ndarray:
    """The weights negatives / positives of independent labels, at most `LARGEST_WEIGHT`.

    Args:
        counts: Number of training rows with each label.
        num_rows: Number of labelled training rows.

    Returns:
        (labels,); 1 for a label that no row has or every row has.
    """
    some = (counts > 0) & (counts < num_rows)
    weights = np.divide(num_rows - counts, counts, out=np.ones(len(counts)), where=some)
    return np.minimum(weights, LARGEST_WEIGHT)


def priors(counts: np.ndarray) -> np.ndarray:
    """The share of each label; one that does not occur counts as one that occurs once, so that its log is finite.

    Args:
        counts: Number of training items with each label; at least one is above 0.
    """
    return np.maximum(counts, 1) / counts.sum()


def check_label(task: TaskData, key: str, label: str) -> None:
    """Raise `ValueError` if an option names a label that the task does not have."""
    if label not in task.ids:
        shown = ", ".join(task.labels[:20]) + (f" and {len(task.labels) - 20} more" if len(task.labels) > 20 else "")
        raise ValueError(
            f"`tasks.{task.name}.{key}` has {label!r}, which is not a label.{nearest(label, task.labels)} The labels"
            f" are: {shown}."
        )


def _log(task: TaskData, key: str, numbers: Sequence[float], counts: np.ndarray) -> None:
    """Log numbers of labels, the rarest label first."""
    order = np.argsort(counts, kind="stable")[:_SHOWN].tolist()
    shown = ", ".join(f"{task.labels[place]} {numbers[place]:.4g}" for place in order)
    more = f" and {len(task.labels) - _SHOWN} more labels" if len(task.labels) > _SHOWN else ""
    none = int((counts == 0).sum())
    absent = f" ({none} of the labels {'is' if none == 1 else 'are'} in no training row)" if none else ""
    logger.info("Task %s, %s: %s%s%s.", task.name, key, shown, more, absent)


def refuse_losses(name: str, options: ImbalanceOptions, what: str) -> None:
    """Raise `ValueError` if a task has an option of the loss together with `what`, which cannot use it."""
    for key in LOSS_KEYS:
        if getattr(options, key) not in (None, 0):  # 0 turns a loss off
            raise ValueError(f"`tasks.{name}.{key}` cannot be used with {what}. Remove one of them.")


# ---- balanced rows of a source ----


def balanced_task(run: RunConfig, source: str) -> str | None:
    """The task by whose labels the rows of a source are drawn equally often (`sources.<name>.balance`); None if none.

    Raises:
        ValueError: The column is not the label column of a trained task of this source with one label per row.
    """
    column = run.sources[source].balance
    if column is None:
        return None
    own = {name: spec for name, spec in run.tasks.items() if source in spec.sources and spec.label is not None}
    fitting = {
        str(spec.label): name for name, spec in own.items() if spec.train and task_type(spec.type).one_name_a_row
    }
    if column in fitting:
        return fitting[column]
    why = "which is not the label column of one of its tasks"
    for name, spec in own.items():
        if spec.label == column:
            why = f"the label column of {name}, which is {spec.type}" if spec.train else f"and {name} is not trained"
    raise ValueError(
        f"`sources.{source}.balance` is {column!r}, {why}. It names the label column of a trained task with one label"
        f" per row{': ' + ', '.join(fitting) if fitting else ', and this source has no such task'}."
        f"{nearest(column, fitting)}"
    )


def balanced_tasks(run: RunConfig) -> Mapping[str, str]:
    """Source → `balanced_task`, of the sources with `balance`."""
    return {source: task for source in run.sources if (task := balanced_task(run, source))}
