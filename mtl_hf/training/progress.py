"""What a person sees while a run goes on: a progress bar, and one short line a log and an evaluation."""

import logging
import math
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from ..metrics import show_number

logger = logging.getLogger(__name__)


class ScoreProgressCallback(ProgressCallback):
    """The Trainer's progress bar, with task losses and scores in place of a printed dict.

    With `disable_tqdm` there is no bar, and the lines go to the log.

    Args:
        primary: Task → name of its primary metric.
    """

    def __init__(self, primary: dict[str, str]) -> None:
        super().__init__()
        self.primary = primary
        self._predicting: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar."""
        if not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """One bar a source."""
        if args.disable_tqdm:
            return
        if eval_dataloader is not self._predicting:
            self.on_evaluate(args, state, control)
            self._predicting = eval_dataloader
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the line."""
        if not state.is_world_process_zero or not (line := self.line(state, logs or {})):
            return
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            logger.info("%s", line)

    def line(self, state: TrainerState, logs: dict[str, Any]) -> str:
        """One line for a training log or an evaluation; nothing for other logs."""
        epoch = f"epoch {state.epoch or 0:5.2f}  step {state.global_step:>5}"
        if "loss" in logs:
            losses = "  ".join(f"{task} {logs[f'{task}_loss']:.4f}" for task in self.primary if f"{task}_loss" in logs)
            return (
                f"{epoch}  loss {logs['loss']:.4f}  ({losses})  lr {logs['learning_rate']:.2e}"
                f"  {logs['labelled_rows_per_second']:.0f} labelled rows/s"
            )
        if opened := [key.removeprefix("opened_") for key in logs if key.startswith("opened_")]:
            return f"{epoch}  trained from here on: {', '.join(opened)}"
        if "eval_score" in logs:
            scores = "  ".join(
                f"{task} {metric} {show_number(metric, logs[f'eval_{task}_{metric}'])}"
                for task, metric in self.primary.items()
                if f"eval_{task}_{metric}" in logs
            )
            joint = "  ".join(
                f"{key.removeprefix('eval_').replace('_', ' ', 1)} {100 * value:.2f}"
                for key, value in logs.items()
                if key.startswith("eval_joint_")
            )
            score = "" if math.isnan(logs["eval_score"]) else f"  score {100 * logs['eval_score']:.2f}"
            return f"{epoch}{score}  {scores}  {joint}".rstrip()
        return ""
