"""A study in a folder: the trials of all processes that share a search, in SQLite.

Notable: a trial is drawn under a lock, so the processes together run exactly the requested number of trials, and no two
use the same random numbers. These depend only on the seed and the trial's number, so a search that was stopped between
trials continues as if it had not been stopped. A trial whose process died is detected by its heartbeat and repeated
under a new number, so the trials after it differ from those of an uninterrupted search.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from ..files import write_atomic
from .compare import changed_lines
from .inputs import changed_inputs
from .space import Dimension, Search

STUDY = "study.db"
SETTINGS = "search.yaml"  # settings that must be the same for all processes and calls
INPUTS = "inputs.json"  # data, models and packages, which must be the same for all trials (`run_inputs`)
HEARTBEAT, GRACE = 30, 120  # seconds between heartbeats, and without one until a trial counts as dead
STARTUP = 5  # complete trials before pruning starts
RETRIES = 2  # of a trial whose process died, so that a trial that always crashes ends
REASON = "reason"  # why a trial failed
_NAME = "search"
_HISTORY = "retry_history"  # attribute of Optuna: the trials that a trial repeats


@dataclass
class StudyFolder:
    """An open study.

    Attributes:
        path: Its folder.
        storage: Its data base.
        lock: Held by the process that draws a trial.
        study: Its trials.
    """

    path: Path
    storage: RDBStorage
    lock: FileLock
    study: optuna.Study

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.study.get_trials(deepcopy=False)

    def num_taken(self) -> int:
        """Number of trials that are done or running; call it with the lock held.

        A trial that failed because of its values is done. A trial whose process was stopped or died is not (unless that
        happened several times): it will be repeated, even if its process could not record that it stopped.
        """
        with _no_warnings():
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.trials():
            if _was_stopped(trial):
                self.give_back(trial.number)
        return sum(
            not _was_stopped(trial) or len(trial.system_attrs.get(_HISTORY, ())) >= RETRIES
            if trial.state == TrialState.FAIL
            else trial.state != TrialState.WAITING
            for trial in self.trials()
        )

    def num_running(self) -> int:
        """Number of running trials."""
        return sum(trial.state == TrialState.RUNNING for trial in self.trials())

    def any_scored(self) -> bool:
        """Whether any trial has been scored."""
        return any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self.trials())

    def was_stopped(self, number: int) -> bool:
        """Whether a trial ended for another reason than its values."""
        return _was_stopped(self.trials()[number])

    def give_back(self, number: int | None) -> None:
        """Queue a trial again with the same values, once, if it stopped for another reason than its values."""
        if number is None or not self.was_stopped(number):
            return
        with self.lock:
            if any(number in trial.system_attrs.get(_HISTORY, ()) for trial in self.trials()):
                return  # another process did it first
            trial = self.study.get_trials()[number]  # a copy, which Optuna changes
            with _no_warnings():
                RetryHeartbeatStaleTrialCallback(RETRIES)(self.study, trial)


def _was_stopped(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


@contextlib.contextmanager
def open_study(folder: Path, settings: str, inputs: Mapping[str, str], maximize: bool) -> Iterator[StudyFolder]:
    """Open the study in a folder, or create it; Optuna's own log is off meanwhile.

    Args:
        folder: The folder.
        settings: Settings that must be the same when a search continues, as text.
        inputs: Other inputs of the trials (`run_inputs`).
        maximize: Whether higher is better.

    Raises:
        ValueError: The existing study has other settings or inputs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    lock = FileLock(folder / ".lock")
    storage = None
    try:
        with lock:
            _check_settings(folder, settings)
            check_inputs(folder, inputs)
            with _no_warnings():
                storage = RDBStorage(
                    f"sqlite:///{folder.absolute() / STUDY}",
                    engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait for another process that writes
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
                )
            study = optuna.create_study(
                storage=storage,
                study_name=_NAME,
                direction="maximize" if maximize else "minimize",
                load_if_exists=True,
            )
        yield StudyFolder(folder, storage, lock, study)
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def _check_settings(folder: Path, settings: str) -> None:
    path = folder / SETTINGS
    if not path.is_file():
        write_atomic(path, settings)
    elif changed := changed_lines(path.read_text(encoding="utf-8"), settings):
        raise ValueError(
            f"{folder} has a search with other settings ({'; '.join(changed[:4])}): choose another folder with --to, or"
            " remove this one. (Only `trials` may change.)"
        )


def check_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Record the inputs of a study's trials or, if they are recorded, check that they are unchanged.

    Raises:
        ValueError: They changed, or a study of an earlier version did not record them.
    """
    path = folder / INPUTS
    if path.is_file():
        changed = changed_inputs(json.loads(path.read_text(encoding="utf-8")), inputs)
    elif (folder / STUDY).exists():
        changed = ["their training data were not recorded"]
    else:
        changed = []
        write_atomic(path, json.dumps(inputs, indent=2, ensure_ascii=False) + "\n")
    if changed:
        raise ValueError(
            f"{folder} has trials with which new trials cannot be compared ({'; '.join(changed[:4])}): choose"
            " another folder with --to, or remove this one."
        )


def study_options(search: Search, space: Sequence[Dimension], opened: StudyFolder) -> dict[str, Any]:
    """Arguments of `optuna.create_study` for the next trial."""
    seed = _seed(search.seed, len(opened.trials()))
    sampler: optuna.samplers.BaseSampler
    if search.sampler == "grid":
        points: Mapping[str, Any] = {dimension.name: dimension.points() for dimension in space}
        sampler = optuna.samplers.GridSampler(points, seed=search.seed)
    elif search.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed)
    # Prune from the second evaluation on: during warm-up, good and bad learning rates look alike.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=2) if search.prune else None
    return {
        "study_name": _NAME,
        "storage": opened.storage,
        "load_if_exists": True,
        "sampler": sampler,
        "pruner": pruner or optuna.pruners.NopPruner(),
    }


def _seed(seed: int, number: int) -> int:
    """The sampler's seed for one trial; hashed, because consecutive seeds are not independent for every generator."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppress the warnings that heartbeats are experimental, as they have been since Optuna 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
