"""Progress of a run: a progress bar, and one short line per training log and per evaluation.

Notable: there is a bar on a terminal and in a notebook; in a file, each log is a line. Everything is also written to
`train.log`.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.import_utils import is_in_notebook

from ..config import MaskSecrets
from ..metrics import show_number

logger = logging.getLogger(__name__)

LOG = "train.log"


def shows_bars() -> bool:
    """Whether progress bars can be shown: on a terminal or in a notebook."""
    return sys.stderr.isatty() or is_in_notebook()


@contextmanager
def kept_log() -> Iterator[Callable[[Path], None]]:
    """Write the package's log of the block to a file.

    Yields:
        A function that takes a path. When called, it appends all earlier lines to that file, and each later line.
        If it is not called, nothing is written.
    """
    package = logging.getLogger("mtl_hf")
    early = MemoryHandler(100_000, flushLevel=sys.maxsize, flushOnClose=False)
    handlers: list[logging.Handler] = [early]

    def begin(path: Path) -> None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        file.addFilter(MaskSecrets())
        early.setTarget(file)
        early.flush()
        package.removeHandler(early)
        package.addHandler(file)
        handlers.append(file)

    package.addHandler(early)
    try:
        yield begin
    except BaseException as error:
        # The caller shows the error; here it is the last line of the file.
        last = f"{type(error).__name__}: {error}".removesuffix(": ")
        for handler in handlers[1:]:
            handler.handle(logging.LogRecord(package.name, logging.ERROR, __file__, 0, last, None, None))
        raise
    finally:
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()


class LogSums:
    """Sums from one training log to the next.

    Losses stay on their device, so no step waits for a transfer.

    Args:
        tasks: Names of the tasks.

    Attributes:
        labelled_rows: Number of (row, task) pairs with a label in this process.
        seconds: Seconds of training, without evaluation.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tasks
        self._clear()

    def _clear(self) -> None:
        self._losses: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self.labelled_rows = 0
        self.seconds = 0.0

    def add_loss(self, task: str, loss: Tensor) -> None:
        """Add the contribution of a micro-batch of this process to a task's loss in a step, ()."""
        loss = loss.detach()
        self._losses[task] = self._losses[task] + loss if task in self._losses else loss.clone()

    def add_step(self, task: str) -> None:
        """Count a step in which a task has a labelled item, on any process."""
        self._steps[task] = self._steps.get(task, 0) + 1

    def take(self, accelerator: Any) -> dict[str, float]:
        """The values for a log, over all processes; resets the sums.

        Args:
            accelerator: The accelerator of the run.

        Returns:
            `<task>_loss`, the unweighted mean over the steps with the task, and `labelled_rows_per_second`.
        """
        zero = torch.zeros((), dtype=torch.float64)
        losses = [self._losses[name].double().cpu() if name in self._losses else zero for name in self.tasks]
        sums = torch.stack([*losses, torch.tensor(float(self.labelled_rows), dtype=torch.float64)])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.to(accelerator.device), "sum").cpu()
        *totals, labelled_rows = sums.tolist()
        logs = {
            f"{name}_loss": total / accelerator.num_processes / self._steps[name]
            for name, total in zip(self.tasks, totals, strict=True)
            if name in self._steps
        }
        logs["labelled_rows_per_second"] = labelled_rows / max(self.seconds, 1e-9)
        self._clear()
        return logs


class ScoreProgressCallback(ProgressCallback):
    """The Trainer's progress bar, with lines of task losses and scores instead of a printed dict.

    The lines go to the log, or above the bar if the log does not show INFO. With `disable_tqdm` there is no bar.

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
        """Show the bar."""
        if not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar."""
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
        """Show one bar per source, with its name."""
        if args.disable_tqdm:
            return
        if eval_dataloader is not self._predicting:
            self.on_evaluate(args, state, control)
            self._predicting = eval_dataloader
        begins = self.prediction_bar is None
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)
        if begins and self.prediction_bar is not None:
            self.prediction_bar.set_description(", ".join(eval_dataloader.dataset.names))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line."""
        if not state.is_world_process_zero or not (line := self.line(state, logs or {})):
            return
        if self.training_bar is not None and not logger.isEnabledFor(logging.INFO):
            self.training_bar.write(line)
        else:
            logger.info("%s", line)

    def line(self, state: TrainerState, logs: dict[str, Any]) -> str:
        """Format a training log or an evaluation as one line; empty for other logs.

        A loss with a balanced weight is followed by its weight in the last step.
        """
        epoch = f"epoch {state.epoch or 0:5.2f}  step {state.global_step:>5}"
        if "loss" in logs:
            losses = "  ".join(
                f"{task} {logs[f'{task}_loss']:.4f}"
                + (f" x{logs[f'{task}_weight']:.3g}" if f"{task}_weight" in logs else "")
                for task in self.primary
                if f"{task}_loss" in logs
            )
            rates = " / ".join(f"{side} {rate:.1e}" for side, rate in highest_rates(logs).items())
            return (
                f"{epoch}  loss {logs['loss']:.4f}  ({losses})  lr {rates}"
                f"  {logs['labelled_rows_per_second']:.0f} labelled rows/s"
            )
        if opened := [key.removeprefix("opened_") for key in logs if key.startswith("opened_")]:
            return f"{epoch}  now also trained: {', '.join(opened)}"
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


def highest_rates(logs: dict[str, Any]) -> dict[str, float]:
    """`encoder`, `adapters`, `experts`, `heads`, if they are trained → the highest learning rate of their parts.

    Args:
        logs: A log with `lr_<part>` for each part (`optimizer.Part.name`).
    """
    found = dict.fromkeys(("encoder", "adapters", "experts", "heads"), -1.0)
    for key, rate in logs.items():
        if key.startswith("lr_"):
            side = key.removeprefix("lr_").split(".")[0]
            side = "encoder" if side == "embeddings" else side
            if side in found:  # a task may be called lr_...
                found[side] = max(found[side], rate)
    return {side: rate for side, rate in found.items() if rate >= 0}
