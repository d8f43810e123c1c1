"""When each task was best, read from a run's log: which checkpoints to keep for it, and what the end of a run says.

Notable: nothing is kept but the log, which a checkpoint has anyway, so a resumed run knows the peaks of all of the run.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..data.labels import TaskData
from ..metrics import LOSS_LIKE, primary_metric, show_logged
from .checkpoints import checkpoint_step
from .features import Feature

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)


def find_peaks(tasks: Mapping[str, TaskData], history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """The step at which each task's primary metric was best so far (the first such step), and its value there.

    Args:
        tasks: Task name → task; those that are only scored have no peak.
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


def peaks_told(
    tasks: Mapping[str, TaskData], history: Sequence[Mapping[str, Any]], chosen: tuple[str, int] | None
) -> list[str]:
    """A line for each task's peak, and one for the step whose weights were chosen.

    Args:
        tasks: As of `find_peaks`.
        history: As of `find_peaks`.
        chosen: The metric to choose by and the step that was chosen, of a run that has a best checkpoint.
    """
    peaks = {name: (primary_metric(tasks[name]), *peak) for name, peak in find_peaks(tasks, history).items()}
    if chosen is not None:
        metric, step = chosen
        key = f"eval_{metric.removeprefix('eval_')}"
        for entry in history:
            if entry["step"] == step and key in entry:
                peaks["chosen by"] = (metric, step, entry[key])
    return [
        f"{name} {metric} {show_logged(metric, value)} at step {step}" for name, (metric, step, value) in peaks.items()
    ]


class BestSteps(Feature):
    """Keeps the checkpoints at which tasks were best, and logs the steps when training ends.

    Args:
        tasks: Task name → task.
        keep: Whether to keep the checkpoints.
    """

    def __init__(self, tasks: Mapping[str, TaskData], keep: bool) -> None:
        self.tasks, self.keep = tasks, keep

    def steps_to_keep(self, state: TrainerState) -> set[int]:
        """Where each task was best so far."""
        return {step for step, _ in find_peaks(self.tasks, state.log_history).values()} if self.keep else set()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log when each task was best, and which step was chosen."""
        best, chosen = state.best_model_checkpoint, None
        if best:  # not always of the best step, which may have had no checkpoint
            chosen = str(args.metric_for_best_model), checkpoint_step(best)
        for line in peaks_told(self.tasks, state.log_history, chosen):
            logger.info("Best: %s.", line)


def make_best_steps(trainer: "MultiTaskTrainer") -> BestSteps:
    """The feature of `keep_best_per_task`."""
    return BestSteps(trainer.tasks, trainer.args.keep_best_per_task)
