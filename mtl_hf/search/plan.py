"""A search's file: which config, what trials differ in, how many there are; and what is wrong with it.

Notable: each end of each range and each choice is tried on the config alone before anything is trained, so a misspelled
setting is found then. Whether values go together only the trial that is given them can tell.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from ..config import RunConfig, nearest, read_yaml, typed
from ..evaluation.variants import at_home
from ..training.arguments import type_arguments
from .space import TRIALS, Dimension, Search, read_space

# What every trial has otherwise than its config: nothing is kept of it but its log, and it is silent.
OF_TRIALS = (
    "training.save_strategy=no", "training.load_best_model_at_end=false", "training.keep_best_per_task=false",
    "training.push_to_hub=false", "training.disable_tqdm=true",
)  # fmt: skip
# What decides how trials are scored, or where they write: trials that differ in it cannot be compared.
_FIXED = frozenset((
    "metric_for_best_model", "greater_is_better", "score_weight", "metrics", "split", "output_dir", "push_to_hub",
    "save_strategy", "load_best_model_at_end", "keep_best_per_task", "disable_tqdm",
))  # fmt: skip


def read_search(config: str | Path, trials: int | None = None) -> Search:
    """Read a search's file.

    Args:
        config: The file.
        trials: Instead of its own number.

    Raises:
        ValueError: Unknown keys, or values that do not fit.
    """
    path = Path(config)
    tree = read_yaml(path)
    if "tasks" in tree and "model" in tree:
        raise ValueError(
            f"{path} is a run's config. A search is a file of its own, with `config: {path.name}` and a `space`; see"
            " configs/tune/snips.yaml."
        )
    search = typed(Search, at_home(tree, path), "")
    if trials is not None:
        search.trials = trials
    if search.trials is not None and search.trials < 1:
        raise ValueError(f"`trials` is {search.trials}; it is at least 1.")
    return search


def num_trials(search: Search, space: Sequence[Dimension]) -> int:
    """Trials in all; of a grid no more than it has points.

    Raises:
        ValueError: A grid over a range without steps.
    """
    if search.sampler != "grid":
        return search.trials or TRIALS
    points = math.prod(len(dimension.points()) for dimension in space)
    return min(search.trials or points, points)


def check_space(search: Search, space: Sequence[Dimension], overrides: Sequence[str] = ()) -> None:
    """Try each choice and both ends of each range on the config, one at a time.

    Args:
        search: The search.
        space: Its `space`, read.
        overrides: For every trial, besides those of the file.

    Raises:
        ValueError: A setting that there is not, a value that it does not take, or one that may not be searched.
    """
    given = [*search.overrides, *overrides]
    base = RunConfig.load(search.config, given)
    overridden = {text.partition("=")[0].strip() for text in given}
    for dimension in space:
        where = f"`space.{dimension.name}`"
        for key in sorted(dimension.keys):
            parts = key.split(".")
            if _FIXED.intersection([*parts[2:3], parts[-1]]):
                raise ValueError(f"{where}: {key} decides how trials are scored or what is kept of them, which is the"
                                 " same for all; set it in `config`, or in `overrides`.")  # fmt: skip
            if dimension.name in overridden:
                raise ValueError(f"{where} is searched, so an override of it would do nothing: take one of them out.")
            for section, known in (("tasks", base.tasks), ("sources", base.sources)):
                if parts[0] == section and len(parts) > 2 and parts[1] not in known:
                    raise ValueError(
                        f"{where}: {parts[1]!r} is not in `{section}`.{nearest(parts[1], known)} There are:"
                        f" {', '.join(known)}."
                    )
        for value in dimension.ends:
            try:
                config = RunConfig.load(search.config, [*given, *dimension.overrides(value)])
                type_arguments(config.training)
            except ValueError as error:
                raise ValueError(f"{where}, {value}: {error}") from error


def read_checked(config: str | Path, trials: int | None, overrides: Sequence[str]) -> tuple[Search, list[Dimension]]:
    """A search's file and its space, checked as far as it can be without data.

    Raises:
        ValueError: Anything wrong with either.
    """
    search = read_search(config, trials)
    space = read_space(search.space)
    num_trials(search, space)
    check_space(search, space, overrides)
    return search, space
