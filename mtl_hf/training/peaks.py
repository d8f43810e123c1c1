"""The best step of each task, read from a run's log: which checkpoints to keep, and the summary at the end of a run.

Notable: no state is needed besides the log, which is in every checkpoint, so a resumed run knows all earlier peaks.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..metrics import LOSS_LIKE, primary_metric, show_logged
from ..tasks import TaskData
from .checkpoints import checkpoint_step
from .features import Feature

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)


def find_peaks(tasks: Mapping[str, TaskData], history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """The (first) step at which each task's primary metric was best so far, and its value.

    Args:
        tasks: Task name → task; tasks that are only scored have no peak.
        history: The log (`TrainerState.log_history`).
    """
    peaks: dict[str, tuple[int, float]] = {}
    for name, task in tasks.items():
        if not task.config.train:
            continue
        primary = primary_metric(task)
        sign = -1 if primary in LOSS_LIKE else 1
        for entry in history:
            value = entry.get(f"eval_{name}_{primary}")
            if value is not None and sign * value > sign * peaks.get(name, (0, -sign * math.inf))[1]:  # no NaN
                peaks[name] = (int(entry["step"]), value)
    return peaks


def describe_peaks(
    tasks: Mapping[str, TaskData], history: Sequence[Mapping[str, Any]], chosen: tuple[str, int] | None
) -> list[str]:
    """A line for each task's peak, and one for the chosen checkpoint.

    Args:
        tasks: See `find_peaks`.
        history: See `find_peaks`.
        chosen: The selection metric and the chosen step, in a run with a best checkpoint.
    """
    found = []
    for name, (step, value) in find_peaks(tasks, history).items():
        metric = primary_metric(tasks[name])
        found.append(f"Best: {name} {metric} {show_logged(metric, value)} at step {step}.")
    if chosen is not None:
        metric, step = chosen
        key = f"eval_{metric.removeprefix('eval_')}"
        values = [entry[key] for entry in history if entry["step"] == step and key in entry]
        if values:
            found.append(f"Chosen checkpoint: step {step}, {metric} {show_logged(metric, values[-1])}.")
    return found


class BestSteps(Feature):
    """Keeps the checkpoints at which tasks were best, and logs the steps when training ends.

    Args:
        tasks: Task name → task.
        keep: Whether to keep the checkpoints.
    """

    def __init__(self, tasks: Mapping[str, TaskData], keep: bool) -> None:
        self.tasks, self.keep = tasks, keep

    def steps_to_keep(self, state: TrainerState) -> set[int]:
        """The best step of each task so far."""
        return {step for step, _ in find_peaks(self.tasks, state.log_history).values()} if self.keep else set()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the best step of each task, and the chosen step."""
        best, chosen = state.best_model_checkpoint, None
        if best:  # not always the best step, which may have no checkpoint
            chosen = str(args.metric_for_best_model), checkpoint_step(best)
        for line in describe_peaks(self.tasks, state.log_history, chosen):
            logger.info("%s", line)


def make_best_steps(trainer: "MultiTaskTrainer") -> BestSteps:
    """The feature of `keep_best_per_task`."""
    return BestSteps(trainer.tasks, trainer.args.keep_best_per_task)
