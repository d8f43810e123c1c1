"""A study in a folder: the trials of all processes that search together, in SQLite.

Notable: a trial is drawn under a lock, so that processes together make as many as were asked for and no two draw from
the same random numbers; those depend on the seed and the trial's number only, so a search that was stopped between
trials goes on as it would have. A trial whose process has died is known by its heartbeat, and done again: it takes a
number more, so what is drawn after it differs from what would have been.
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

from ..files import write_whole
from .compare import changed_lines
from .inputs import changed_inputs
from .space import Dimension, Search

STUDY = "study.db"
SETTINGS = "search.yaml"  # beside it: what all processes and calls must agree on
INPUTS = "inputs.json"  # and the data, models and packages that all trials are of (`run_inputs`)
HEARTBEAT, GRACE = 30, 120  # seconds from one sign of life to the next, and until a trial without one is taken for dead
STARTUP = 5  # complete trials before any is pruned
RETRIES = 2  # of a trial whose process died: one that brings down each does not go on for ever
REASON = "reason"  # why a trial failed
_NAME = "search"
_HISTORY = "retry_history"  # Optuna's: the trials that a trial repeats


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
        """Trials that are done or under way; call it with the lock held.

        One that failed of itself is done. One whose process was stopped or died is not, unless that has happened to it
        several times; it waits to be done again, also where its process has not come to say so.
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
        """Trials under way."""
        return sum(trial.state == TrialState.RUNNING for trial in self.trials())

    def any_scored(self) -> bool:
        """Whether some trial has got so far as to be scored."""
        return any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self.trials())

    def was_stopped(self, number: int) -> bool:
        """Whether something else than its values has ended a trial."""
        return _was_stopped(self.trials()[number])

    def give_back(self, number: int | None) -> None:
        """Let a trial be done again with the same values, once, if something else than these has stopped it."""
        if number is None or not self.was_stopped(number):
            return
        with self.lock:
            if any(number in trial.system_attrs.get(_HISTORY, ()) for trial in self.trials()):
                return  # another process has seen it first
            trial = self.study.get_trials()[number]  # a copy, which Optuna changes
            with _no_warnings():
                RetryHeartbeatStaleTrialCallback(RETRIES)(self.study, trial)


def _was_stopped(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


@contextlib.contextmanager
def open_study(folder: Path, settings: str, inputs: Mapping[str, str], maximize: bool) -> Iterator[StudyFolder]:
    """A folder's study, made if there is none; Optuna's own log is silent meanwhile.

    Args:
        folder: The folder.
        settings: What a call that goes on must agree on, as text.
        inputs: What trials depend on besides (`run_inputs`).
        maximize: Whether more is better.

    Raises:
        ValueError: The study there is of other settings or inputs.
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
        write_whole(path, settings)
    elif changed := changed_lines(path.read_text(encoding="utf-8"), settings):
        raise ValueError(
            f"{folder} holds a search of other settings ({'; '.join(changed[:4])}): choose another folder with --to, or"
            " remove that one. (Only `trials` may change.)"
        )


def check_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Note what the trials of a study depend on or, where that is noted, check that it is as it was.

    Raises:
        ValueError: It is not, or a study of an earlier version has not noted it.
    """
    path = folder / INPUTS
    if path.is_file():
        changed = changed_inputs(json.loads(path.read_text(encoding="utf-8")), inputs)
    elif (folder / STUDY).exists():
        changed = ["what they were trained on was not recorded"]
    else:
        changed = []
        write_whole(path, json.dumps(inputs, indent=2, ensure_ascii=False) + "\n")
    if changed:
        raise ValueError(
            f"{folder} holds trials that further ones could not be compared with ({'; '.join(changed[:4])}): choose"
            " another folder with --to, or remove that one."
        )


def study_options(search: Search, space: Sequence[Dimension], opened: StudyFolder) -> dict[str, Any]:
    """Arguments of `optuna.create_study` for one more trial."""
    seed = _seed(search.seed, len(opened.trials()))
    sampler: optuna.samplers.BaseSampler
    if search.sampler == "grid":
        points: Mapping[str, Any] = {dimension.name: dimension.points() for dimension in space}
        sampler = optuna.samplers.GridSampler(points, seed=search.seed)
    elif search.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed)
    # Judged from the second evaluation on, since while rates warm up good ones look like bad ones.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=2) if search.prune else None
    return {
        "study_name": _NAME,
        "storage": opened.storage,
        "load_if_exists": True,
        "sampler": sampler,
        "pruner": pruner or optuna.pruners.NopPruner(),
    }


def _seed(seed: int, number: int) -> int:
    """Of the sampler for one trial: seeds that follow each other would be no independent ones for every generator."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Without those that heartbeats are experimental, which they have been since Optuna 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
