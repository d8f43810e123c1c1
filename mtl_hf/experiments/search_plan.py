"""A search's file: which config, what trials differ in, how many there are; and what is wrong with it.

Notable: each end of each range and each choice is tried on the config alone before anything is trained, so a misspelled
setting is found then. Whether values go together only the trial that is given them can tell.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig, is_secret, nearest, read_yaml, typed
from ..training.arguments import type_arguments
from .space import TRIALS, Dimension, Search, read_space
from .variants import at_home

# What every trial has otherwise than its config: nothing is kept of it but its log, and it is silent.
OF_TRIALS = (
    "training.save_strategy=no", "training.load_best_model_at_end=false", "training.keep_best_per_task=false",
    "training.push_to_hub=false", "training.disable_tqdm=true",
)  # fmt: skip
# What decides how trials are scored, when, or what is kept of them: trials that differ in it cannot be compared.
_FIXED = {
    "training": frozenset((
        "metric_for_best_model", "greater_is_better", "load_best_model_at_end", "keep_best_per_task",
        "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "prediction_loss_only",
        "logging_steps",  # which `eval_steps` defaults to
        "save_strategy", "save_steps", "output_dir", "push_to_hub", "disable_tqdm",
    )),
    "tasks": frozenset((
        "type", "source", "label", "labels", "metrics", "score_weight", "train", "bio", "loss", "score_range",
        "mlm_probability", "whole_word_mask",
    )),
}  # fmt: skip
# Of a source these are of its training rows alone; all else, what its loader is given too, says which rows are scored.
_OF_TRAINING_ROWS = ("batch_size", "max_train_rows", "drop_leaked")
# Settings that change how many steps an epoch has.
_STEPS_AN_EPOCH = {
    "training": frozenset((
        "policy", "stopping_rule", "examples_cap", "gradient_accumulation_steps", "gradient_aggregation",
        "per_device_train_batch_size",
    )),
    "sources": frozenset(_OF_TRAINING_ROWS),
}  # fmt: skip
_LENGTH = frozenset(("training.num_train_epochs", "training.max_steps"))


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
        ValueError: A setting that there is not, a value that it does not take, one that may not be searched, or one
            that pruning cannot be fair to.
    """
    given = [*search.overrides, *overrides]
    base = RunConfig.load(search.config, given)
    overridden = {text.partition("=")[0].strip() for text in given}
    for dimension in space:
        where = f"`space.{dimension.name}`"
        for key in sorted(dimension.keys):
            parts = key.split(".")
            if len(parts) < (3 if parts[0] in ("tasks", "sources") else 2):
                raise ValueError(f"{where}: {key} is no single setting, and may hold what decides how trials are"
                                 " scored; name the settings themselves, such as training.learning_rate.")  # fmt: skip
            if is_secret(key):
                raise ValueError(f"{where}: {key} is secret, and what is searched is written down.")
            if _is_fixed(parts):
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
    if search.prune:
        _check_pruning(space, type_arguments(base.training))


def _is_fixed(parts: Sequence[str]) -> bool:
    """Whether a setting, `a.b.c` as its parts, decides how trials are scored or what is kept of them."""
    section, name = parts[0], "".join(parts[1:2] if parts[0] == "training" else parts[2:3])
    if section == "sources":
        return bool(name) and name not in _OF_TRAINING_ROWS
    return name in _FIXED.get(section, ())


def _check_pruning(space: Sequence[Dimension], training: Mapping[str, Any]) -> None:
    """Refuse to compare trials on the way where the same evaluation comes at other shares of each.

    Args:
        space: What is searched.
        training: The `training:` section, typed.
    """
    by_steps = (training.get("max_steps") or -1) > 0  # then the end of a trial is a number of steps, else of epochs
    strategy = training.get("eval_strategy", "epoch")
    interval = training.get("eval_steps") or training.get("logging_steps", 50)
    uneven = strategy == "epoch" if by_steps else strategy == "steps" and interval >= 1
    for dimension in space:
        for key in sorted(dimension.keys):
            parts = key.split(".")
            if key in _LENGTH:
                raise ValueError(
                    f"`space.{dimension.name}`: trials of other lengths are at other points of their rates' schedule"
                    f" after as many evaluations, so {key} cannot be searched with `prune: true`; set `prune: false`."
                )
            if uneven and parts[-1] in _STEPS_AN_EPOCH.get(parts[0], ()):
                raise ValueError(
                    f"`space.{dimension.name}`: {key} changes how many steps an epoch has, and evaluations come"
                    f" {'every epoch of a fixed number of steps' if by_steps else f'every {interval:g} steps'}: `prune:"
                    " true` would compare trials after unequal shares of their training. Set"
                    f" {'' if by_steps else '`eval_strategy: epoch`, '}`eval_steps` as a fraction, or `prune: false`."
                )


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
