"""Choose the thresholds of heads on validation rows, after training.

Notable: the thresholds become part of the head, so that every answer uses them, and of its specification, so that they
are saved with it. They are chosen on all validation rows of a task; scores of these rows are then optimistic.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.rows import EncodedSplit
from ..tasks import TaskData
from ..tasks.task_type import ScoredRows

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

_SHOWN = 10  # labels in the log line


def check_thresholds(tasks: Mapping[str, TaskData], validation: Mapping[str, EncodedSplit]) -> None:
    """Check that tasks whose thresholds are chosen have rows for it.

    Args:
        tasks: Task name → task.
        validation: Source → its encoded validation rows.

    Raises:
        ValueError: A task has no validation row with a label.
    """
    for name, task in tasks.items():
        if not task.kind.tunes_thresholds(task):
            continue
        own = [validation[source] for source in task.config.sources if source in validation]
        if not any(label is not None for split in own for label in split.gold[name]):
            raise ValueError(
                f"`tasks.{name}.threshold` is tuned, but no validation row of {' and '.join(task.config.sources)} has a"
                " label of it to choose thresholds on. Add a validation split (`split: {validation: 0.1}` takes a share"
                " of the training rows), or set numbers."
            )


def tune_thresholds(trainer: "MultiTaskTrainer") -> None:
    """Choose the thresholds of all tasks that request it, and set them in the model; logs each with its gain."""
    tuned = [name for name, task in trainer.tasks.items() if task.kind.tunes_thresholds(task)]
    splits: dict[str, EncodedSplit] = {}
    for source, split in trainer.eval_splits.items():
        if gold := {name: split.gold[name] for name in tuned if name in split.gold}:
            splits[source] = replace(split, gold=gold)
    if not splits:
        return
    logits: dict[str, dict[str, list[np.ndarray]]] = {}
    trainer.score(splits, keep_logits=logits, keep_heads=tuned)
    for name in tuned:
        labels: list[Any] = []
        outputs: list[np.ndarray] = []
        for source, split in splits.items():
            if name in split.gold:
                labels += split.gold[name]
                outputs += logits[source][name]
        _tune(trainer, name, np.array(outputs), labels)


def _tune(trainer: "MultiTaskTrainer", name: str, outputs: np.ndarray, labels: Sequence[Any]) -> None:
    """Choose the thresholds of one task by the outputs of its head for rows, and set them."""
    task: TaskData = trainer.tasks[name]
    head: Any = trainer.model.heads[name]

    def scored() -> tuple[ScoredRows, float]:
        rows = ScoredRows(np.arange(len(labels)), labels, outputs, head.decode(outputs, {}), {})
        metrics, _ = task.kind.measure(task, task.kind.read_answers(task, rows))
        return rows, 100 * metrics["macro_f1"].number()

    rows, before = scored()
    scores = np.array([rows.predictions[row].scores for row in rows.known])
    thresholds = task.kind.tune_thresholds(task, scores, [labels[row] for row in rows.known])
    head.decoder.thresholds = thresholds
    trainer.model.config.heads[name]["thresholds"] = thresholds
    _, after = scored()
    named = list(zip(task.labels, thresholds, strict=True))
    shown = ", ".join(f"{label} {number:.3g}" for label, number in named[:_SHOWN])
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    logger.info(
        "Task %s: thresholds chosen on validation rows: %s%s. Macro F1 on these rows is %.2f with 0.5, and %.2f with"
        " them, which is optimistic.", name, shown, more, before, after,
    )  # fmt: skip
