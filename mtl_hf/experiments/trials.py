"""One trial: a separate run, scored on the validation split, through `Trainer.hyperparameter_search`.

Notable: a trial may change the encoder, the data or the tasks, so the searching Trainer has no model: its `train`
builds a trainer for each trial, which reports to Optuna as the stock one does. The test split is never scored.
"""

import contextlib
import gc
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from ..config import MaskSecrets, RunConfig, masked_message
from ..files import write_atomic
from ..run import build, flush_denormals
from ..saved.models import RUN_FILE
from .search_plan import OF_TRIALS
from .space import Dimension
from .study import REASON, StudyFolder
from .variants import output_override

logger = logging.getLogger("mtl_hf")  # the package's logger

LOG = "log.txt"
# Errors that are caused by a trial's values: the trial fails, and the search continues.
FAILURES = (ValueError, FloatingPointError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Goal:
    """The metric by which trials are compared.

    Attributes:
        metric: `score`, or the key of an evaluation metric without `eval_`.
        maximize: Whether higher is better.
        best: Whether the best evaluation of a trial counts (as in a run that ends with its best checkpoint), or the
            last one.
    """

    metric: str
    maximize: bool
    best: bool


class SearchTrainer(Trainer):
    """The Trainer whose `hyperparameter_search` is used; it trains a separate run for each trial.

    Args:
        folder: Its `output_dir`, to which it writes nothing.
        run_trial: Trains the run of a trial and returns its score.
    """

    def __init__(self, folder: Path, run_trial: Callable[[Any], float]) -> None:
        arguments = TrainingArguments(str(folder), report_to="none", save_strategy="no", use_cpu=True)
        super().__init__(model_init=lambda: cast(Any, nn.Identity()), args=arguments)
        self.objective: float | None = None
        self.run_trial = run_trial
        self.number: int | None = None  # of the last trial
        self.stopped_by: BaseException | None = None  # if not by its values

    def add_trial(self, opened: StudyFolder, goal: Goal, options: Mapping[str, Any]) -> int:
        """Draw one trial and train it.

        If the study marked it as dead meanwhile, because this process sent no heartbeat, its result is dropped.

        Args:
            opened: The study.
            goal: The metric by which trials are compared.
            options: Arguments of `optuna.create_study`.

        Returns:
            The number of the trial.
        """
        direction = "maximize" if goal.maximize else "minimize"
        self.number = self.stopped_by = None
        try:
            self.hyperparameter_search(backend="optuna", direction=direction, n_trials=1, catch=FAILURES, **options)
        except (ValueError, AssertionError):
            # The stock method ends with a request for the best trial, and there may be none yet; and Optuna does not
            # expect that a trial is marked as dead. In both cases the trial is over.
            if self.number is None or not opened.trials()[self.number].state.is_finished():
                raise
            if self.stopped_by is not None:
                raise self.stopped_by from None
        assert self.number is not None
        return self.number

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Train and score the run of a trial; a failed trial records the reason."""
        self.number = trial.number
        gc.collect()  # the model of a failed trial: it and its trainer refer to each other
        try:
            self.objective = self.run_trial(trial)
        except BaseException as error:
            if isinstance(error, FAILURES):
                trial.set_user_attr(REASON, masked_message(" ".join(str(error).split())))
            elif not isinstance(error, optuna.TrialPruned | UpdateFinishedTrialError):
                self.stopped_by = error
            raise


def train_trial(trial: Any, config: str, overrides: Sequence[str], folder: Path, goal: Goal) -> float:
    """Train a trial's run and return its best, or last, score on the validation split.

    Args:
        trial: Optuna's trial, to which each evaluation is reported.
        config: The run's YAML.
        overrides: All overrides, including those of the trial.
        folder: Folder for its log, its YAML and the output of its trainer.
        goal: The metric to score it by.

    Raises:
        ValueError: Its settings cannot be combined.
        FloatingPointError: A loss or a score is not finite.
        optuna.TrialPruned: The trial is pruned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _log_to(folder / LOG):
        run = build(config, [*overrides, *OF_TRIALS, output_override(folder)])
        write_atomic(folder / RUN_FILE, run.config.to_yaml())
        trainer: Any = run.trainer
        flush_denormals(trainer.args.device)
        sign = 1 if goal.maximize else -1
        best = -sign * math.inf

        def objective(metrics: dict[str, float]) -> float:
            nonlocal best
            value = metrics[f"eval_{goal.metric}"]
            if not math.isfinite(value):  # it can neither be compared nor pruned
                raise FloatingPointError(f"{goal.metric} is {value} in an evaluation, which is not finite.")
            if not goal.best or sign * value > sign * best:
                best = value
            return best

        trainer.hp_search_backend, trainer.hp_name, trainer.objective = HPSearchBackend.OPTUNA, None, None
        trainer.hp_space, trainer.compute_objective = (lambda _: {}), objective
        try:
            trainer.train(trial=trial)
        finally:
            trainer.save_state()
        if trainer.objective is None:  # no evaluation during training
            trainer.objective = objective(trainer.evaluate())
    return float(trainer.objective)


def find_goal(config: str, overrides: Sequence[str], folder: Path) -> Goal:
    """The metric by which trials of a config are compared; builds the config once, which also checks it.

    Args:
        config: The run's YAML.
        overrides: Overrides of every trial.
        folder: Folder for the output of its trainer and its log.

    Raises:
        ValueError: The config or its data are not valid.
    """
    with _log_to(folder / LOG):
        run = build(config, [*overrides, "training.disable_tqdm=true", output_override(folder)])
    arguments = run.trainer.args
    metric = str(arguments.metric_for_best_model or "score").removeprefix("eval_")
    return Goal(metric, arguments.greater_is_better is not False, bool(arguments.load_best_model_at_end))


def try_choices(config: str, overrides: Sequence[str], space: Sequence[Dimension], folder: Path) -> None:
    """Build the config once with each single choice, and warn about choices that are not valid.

    Args:
        config: The run's YAML.
        overrides: Overrides of every trial.
        space: The dimensions of the search; ranges are not built.
        folder: Folder for the output of the trainers and their log.
    """
    base = RunConfig.load(config, overrides)
    choices = [
        (dimension, value, changes)
        for dimension in space
        for value, changes in dimension.choices.items()
        if RunConfig.load(config, [*overrides, *changes]) != base
    ]
    if not choices:
        return
    logger.info("Checking %d choices: building the config with each of them.", len(choices))
    for dimension, value, changes in choices:
        try:
            find_goal(config, [*overrides, *changes], folder)
        except FAILURES as error:
            logger.warning(
                "`space.%s`, %s: trials with this value will fail, unless another searched setting fixes it: %s",
                dimension.name, value, " ".join(str(error).split()),
            )  # fmt: skip
        gc.collect()  # the model: it and its trainer refer to each other


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write the package's log to a file instead of the terminal."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.addFilter(MaskSecrets())
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        handler.close()
