"""`mtl-hf tune`: search for the settings of a config with the best validation score.

Notable: every trial is a complete run in this process. The same command, run again, continues the search; run several
times at once, the processes share it. The result is a YAML to train and test once: trials keep no weights.
"""

import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..config import RunConfig
from ..evaluation.figures import check_matplotlib
from ..files import write_atomic
from .inputs import run_inputs
from .search_plan import num_trials, read_checked
from .space import Dimension, Search, show_declared
from .variants import output_override

if TYPE_CHECKING:  # these need optuna
    from .study import StudyFolder
    from .trials import Goal

logger = logging.getLogger(__name__)

POLL = 2  # seconds between two checks whether other processes are done
MAX_FIRST_FAILURES = 3  # failures before any trial is scored, after which the search stops


def tune(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    trials: int | None = None,
    to: str | Path | None = None,
    dry_run: bool = False,
    plot: bool = True,
) -> dict[str, Any]:
    """Search for the settings of a config with the best score on the validation split.

    Args:
        config: The YAML of a search (`configs/tune/`).
        overrides: `a.b=c` changes to the config of every trial.
        trials: Total number of trials, instead of the one in the file. A larger number continues a finished search.
        to: Folder; by default `outputs/tune/<name of the file>`. A search in it is continued.
        dry_run: Check the search, and build the config up to its first step, unchanged and with each choice; then stop.
        plot: Whether to draw the plot `importance` (PNG and SVG), which needs matplotlib.

    Returns:
        The result of `search_report.summary`, and `config`: the file of the best config, None if no trial is complete.
        With `dry_run` only the plan: `trials`, `metric`, `space` (name → range or choices, as text), `sampler`, `prune`
        and `folder`.

    Raises:
        ValueError: The search or the config is not valid; the folder has a search with other settings, data, models or
            packages; or the first trials all fail.
    """
    _check_machine(plot)
    search, space = read_checked(config, trials, overrides)
    from .search_report import plot_importance, summary, write_trials
    from .study import STUDY, open_study
    from .trials import find_goal, try_choices

    given = [*search.overrides, *overrides]
    folder = Path(to) if to is not None else Path("outputs") / "tune" / Path(config).stem
    with tempfile.TemporaryDirectory() as scratch:
        goal = find_goal(search.config, given, Path(scratch))
        if dry_run or not (folder / STUDY).exists():  # a search that continues was already checked
            try_choices(search.config, given, space, Path(scratch))
    if dry_run:
        return {
            "trials": num_trials(search, space),
            "metric": goal.metric,
            "space": {name: show_declared(value) for name, value in search.space.items()},
            "sampler": search.sampler,
            "prune": search.prune,
            "folder": str(folder),
        }
    settings = _settings(search, RunConfig.load(search.config, given))
    with open_study(folder, settings, _inputs(search, space, given), goal.maximize) as opened:
        _search(search, space, given, opened, goal)
        result = summary(opened.study, goal)
        result["config"] = None
        with opened.lock:
            if result["best"] is not None:
                result["config"] = str(_write_best(folder, search, space, given, result))
            write_trials(folder, result)
            if plot and result["importance"]:
                plot_importance(folder, result)
    logger.info("Written to %s.", folder)
    return result


def _check_machine(plot: bool) -> None:
    """Check the environment before anything is read."""
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("`mtl-hf tune` needs optuna: pip install 'mtl_hf[search]'")
    if plot:
        check_matplotlib()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"a trial is trained by one process, and this is one of {os.environ['WORLD_SIZE']} (if one stopped a trial"
            " early, the others would wait forever). Start `mtl-hf tune` without a launcher; to share a search, start"
            " it several times, each with its own CUDA_VISIBLE_DEVICES."
        )


def _settings(search: Search, base: RunConfig) -> str:
    """The settings that all calls of a search must share, as two YAML documents."""
    declared = {"space": search.space, "sampler": search.sampler, "seed": search.seed, "prune": search.prune}
    return (
        f"# What is searched.\n{yaml.safe_dump(declared, sort_keys=False, allow_unicode=True, width=110)}"
        f"---\n# Where it begins.\n{base.to_yaml()}"
    )


def _inputs(search: Search, space: Sequence[Dimension], given: Sequence[str]) -> dict[str, str]:
    """The inputs of trials besides their settings, for all choices."""
    found: dict[str, str] = {}
    for changes in ([], *(changes for dimension in space for changes in dimension.choices.values())):
        found |= run_inputs(RunConfig.load(search.config, [*given, *changes]))
    return found


def _search(
    search: Search, space: Sequence[Dimension], given: Sequence[str], opened: "StudyFolder", goal: "Goal"
) -> None:
    """Run trials until the requested number exists and all of them are done.

    Raises:
        ValueError: The first trials all failed, or data changed.
    """
    from .search_report import show_settings, trial_line
    from .study import GRACE, check_inputs, study_options
    from .trials import SearchTrainer, train_trial

    def run_trial(trial: Any) -> float:
        values = {dimension.name: dimension.suggest(trial) for dimension in space}
        opened.lock.release()  # others may draw now
        logger.info("Trial %d (of %d): %s", trial.number, total, show_settings(values))
        folder = opened.path / "trials" / str(trial.number)
        return train_trial(trial, search.config, [*given, *_changes(space, values)], folder, goal)

    total = num_trials(search, space)
    trainer = SearchTrainer(opened.path, run_trial)
    failures = 0
    waits = False
    while True:
        with opened.lock:
            due = opened.num_taken() < total
            if due:
                check_inputs(opened.path, _inputs(search, space, given))
                try:
                    number = trainer.add_trial(opened, goal, study_options(search, space, opened))
                except BaseException:
                    opened.give_back(trainer.number)
                    logger.info("Stopped; run the same command to continue.")
                    raise
        if due and opened.was_stopped(number):
            logger.warning("Trial %d: this process sent no heartbeat for %d seconds, so the trial counts as dead.",
                           number, GRACE)  # fmt: skip
        elif due:
            line, failed = trial_line(opened.study, number, goal)
            logger.info("Trial %d: %s", number, line)
            failures += failed
            if failures == MAX_FIRST_FAILURES and not opened.any_scored():
                raise ValueError(f"the first {MAX_FIRST_FAILURES} trials all failed; the last one: {line}")
        elif running := opened.num_running():
            if not waits:
                logger.info("Waiting for %d trials of other processes.", running)
            waits = True
            time.sleep(POLL)
        else:
            return


def _changes(space: Sequence[Dimension], values: Mapping[str, Any]) -> list[str]:
    """The overrides of a trial."""
    return [text for dimension in space for text in dimension.overrides(values[dimension.name])]


def _write_best(
    folder: Path, search: Search, space: Sequence[Dimension], given: Sequence[str], result: Mapping[str, Any]
) -> Path:
    """Write the config with the settings of the best trial; its `output_dir` is the folder `best` beside it."""
    best = result["trials"][result["best"]]
    changes = _changes(space, best["settings"])
    config = RunConfig.load(search.config, [*given, *changes, output_override(folder / "best")])
    path = folder / "best.yaml"
    write_atomic(
        path,
        f"# Trial {best['number']}, the best of {len(result['trials'])}: {result['metric']} {best['value']:.4f} on the"
        f" validation split.\n#   mtl-hf train {path}\n{config.to_yaml()}",
    )
    return path
