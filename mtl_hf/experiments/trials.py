"""One trial: a whole run of its own, scored on the validation split, through `Trainer.hyperparameter_search`.

Notable: a trial may change the encoder, the data or the tasks, so the Trainer that searches has no model: its `train`
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
from ..files import write_whole
from ..run import build, flush_denormals
from ..saved.models import RUN_FILE
from .search_plan import OF_TRIALS
from .space import Dimension
from .study import REASON, StudyFolder
from .variants import output_override

logger = logging.getLogger("mtl_hf")  # of the whole package

LOG = "log.txt"
# What is wrong with a trial's values: it has failed, and the search goes on.
FAILURES = (ValueError, FloatingPointError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Goal:
    """What trials are compared by.

    Attributes:
        metric: `score`, or a number of an evaluation without its `eval_`.
        maximize: Whether more of it is better.
        best: Whether a trial counts by its best evaluation, as a run does that ends with its best checkpoint, or by the
            last one.
    """

    metric: str
    maximize: bool
    best: bool


class SearchTrainer(Trainer):
    """The Trainer whose `hyperparameter_search` is used; what it trains is a run of its own for each trial.

    Args:
        folder: Where it might write; it does not.
        run_trial: Trains the run of a trial and returns what it reaches.
    """

    def __init__(self, folder: Path, run_trial: Callable[[Any], float]) -> None:
        arguments = TrainingArguments(str(folder), report_to="none", save_strategy="no", use_cpu=True)
        super().__init__(model_init=lambda: cast(Any, nn.Identity()), args=arguments)
        self.objective: float | None = None
        self.run_trial = run_trial
        self.number: int | None = None  # of the trial that was begun last
        self.stopped_by: BaseException | None = None  # if by something else than its values

    def add_trial(self, opened: StudyFolder, goal: Goal, options: Mapping[str, Any]) -> int:
        """Draw one trial and train it.

        Where the study has taken it for dead meanwhile, since this process gave no sign of life, what it reached is
        dropped.

        Args:
            opened: The study.
            goal: What trials are compared by.
            options: Of `optuna.create_study`.

        Returns:
            Its number.
        """
        direction = "maximize" if goal.maximize else "minimize"
        self.number = self.stopped_by = None
        try:
            self.hyperparameter_search(backend="optuna", direction=direction, n_trials=1, catch=FAILURES, **options)
        except (ValueError, AssertionError):
            # The stock method ends by asking for the best trial, and there may be none yet; and Optuna does not expect
            # that a trial has been taken for dead. Either way the trial is over.
            if self.number is None or not opened.trials()[self.number].state.is_finished():
                raise
            if self.stopped_by is not None:
                raise self.stopped_by from None
        assert self.number is not None
        return self.number

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Train and score the run of a trial; one that fails says why."""
        self.number = trial.number
        gc.collect()  # of a trial that failed, the model: it and its trainer refer to each other
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
        trial: Optuna's, which is told of each evaluation.
        config: The run's YAML.
        overrides: All changes to it, the trial's own too.
        folder: For its log, its YAML and what its trainer logs.
        goal: What it is scored by.

    Raises:
        ValueError: Its settings do not go together.
        FloatingPointError: A loss, or a score, is not a number.
        optuna.TrialPruned: It is hopeless.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _log_to(folder / LOG):
        run = build(config, [*overrides, *OF_TRIALS, output_override(folder)])
        write_whole(folder / RUN_FILE, run.config.to_yaml())
        trainer: Any = run.trainer
        flush_denormals(trainer.args.device)
        sign = 1 if goal.maximize else -1
        best = -sign * math.inf

        def objective(metrics: dict[str, float]) -> float:
            nonlocal best
            value = metrics[f"eval_{goal.metric}"]
            if not math.isfinite(value):  # trials cannot be compared by it, nor pruned
                raise FloatingPointError(f"{goal.metric} is {value} at an evaluation, which is no number.")
            if not goal.best or sign * value > sign * best:
                best = value
            return best

        trainer.hp_search_backend, trainer.hp_name, trainer.objective = HPSearchBackend.OPTUNA, None, None
        trainer.hp_space, trainer.compute_objective = (lambda _: {}), objective
        try:
            trainer.train(trial=trial)
        finally:
            trainer.save_state()
        if trainer.objective is None:  # no evaluation on the way
            trainer.objective = objective(trainer.evaluate())
    return float(trainer.objective)


def find_goal(config: str, overrides: Sequence[str], folder: Path) -> Goal:
    """What the trials of a config are compared by; it is built for that, so what is wrong with it is found.

    Args:
        config: The run's YAML.
        overrides: Changes for every trial.
        folder: Where its trainer and its log may write.

    Raises:
        ValueError: Anything wrong with the config or its data.
    """
    with _log_to(folder / LOG):
        run = build(config, [*overrides, "training.disable_tqdm=true", output_override(folder)])
    arguments = run.trainer.args
    metric = str(arguments.metric_for_best_model or "score").removeprefix("eval_")
    return Goal(metric, arguments.greater_is_better is not False, bool(arguments.load_best_model_at_end))


def try_choices(config: str, overrides: Sequence[str], space: Sequence[Dimension], folder: Path) -> None:
    """Build the config once with each choice, alone, and warn of those that are refused: each costs a build.

    Args:
        config: The run's YAML.
        overrides: Changes for every trial.
        space: What is searched; values of ranges are not built.
        folder: Where the trainers and their log may write.
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
    logger.info("Building the config with each of %d choices that change it, to see which are refused.", len(choices))
    for dimension, value, changes in choices:
        try:
            find_goal(config, [*overrides, *changes], folder)
        except FAILURES as error:
            logger.warning(
                "`space.%s`, %s: its trials fail, unless another setting that is searched mends it: %s",
                dimension.name, value, " ".join(str(error).split()),
            )  # fmt: skip
        gc.collect()  # its model: it and its trainer refer to each other


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send our log to a file instead of to the terminal."""
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
