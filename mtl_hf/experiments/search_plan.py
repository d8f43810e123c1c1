"""The YAML of a search: read it, check its space against the config, and count its trials.

Notable: every choice and both ends of every range are checked against the config before anything is trained, so a
misspelled setting is found early. Whether a combination of values is valid is only found by the trial that uses it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig, is_secret, nearest, read_yaml, typed
from ..training.arguments import type_arguments
from .space import TRIALS, Dimension, Search, read_space
from .variants import at_home

# Settings that every trial overrides: it keeps nothing but its log, and shows no progress.
OF_TRIALS = (
    "training.save_strategy=no", "training.load_best_model_at_end=false", "training.keep_best_per_task=false",
    "training.push_to_hub=false", "training.disable_tqdm=true",
)  # fmt: skip
# Settings that decide how and when trials are scored, or what they keep: these must be equal for all trials.
_FIXED = {
    "training": frozenset((
        "metric_for_best_model", "greater_is_better", "load_best_model_at_end", "keep_best_per_task",
        "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "prediction_loss_only",
        "logging_steps",  # the default of `eval_steps`
        "save_strategy", "save_steps", "output_dir", "push_to_hub", "disable_tqdm",
    )),
    "tasks": frozenset((
        "type", "source", "label", "labels", "metrics", "score_weight", "train", "bio", "loss", "score_range",
        "mlm_probability", "whole_word_mask",
    )),
}  # fmt: skip
# Settings of a source that affect only its training rows; all others, also those of its loader, affect scored rows.
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
    """Read the YAML of a search.

    Args:
        config: The file.
        trials: Number of trials, instead of the one in the file.

    Raises:
        ValueError: Unknown keys or values that are not valid.
    """
    path = Path(config)
    tree = read_yaml(path)
    if "tasks" in tree and "model" in tree:
        raise ValueError(
            f"{path} is the config of a run. A search needs its own file with `config: {path.name}` and a `space`; see"
            " configs/tune/snips.yaml."
        )
    search = typed(Search, at_home(tree, path), "")
    if trials is not None:
        search.trials = trials
    if search.trials is not None and search.trials < 1:
        raise ValueError(f"`trials` is {search.trials}; it is at least 1.")
    return search


def num_trials(search: Search, space: Sequence[Dimension]) -> int:
    """The total number of trials; for a grid at most its number of points.

    Raises:
        ValueError: A grid over a continuous range.
    """
    if search.sampler != "grid":
        return search.trials or TRIALS
    points = math.prod(len(dimension.points()) for dimension in space)
    return min(search.trials or points, points)


def check_space(search: Search, space: Sequence[Dimension], overrides: Sequence[str] = ()) -> None:
    """Check each choice and both ends of each range against the config, one at a time.

    Args:
        search: The search.
        space: Its parsed `space`.
        overrides: Overrides of every trial, besides those in the file.

    Raises:
        ValueError: A setting does not exist, does not accept a value, may not be searched, or cannot be searched with
            pruning.
    """
    given = [*search.overrides, *overrides]
    base = RunConfig.load(search.config, given)
    overridden = {text.partition("=")[0].strip() for text in given}
    for dimension in space:
        where = f"`space.{dimension.name}`"
        for key in sorted(dimension.keys):
            parts = key.split(".")
            if len(parts) < (3 if parts[0] in ("tasks", "sources") else 2):
                raise ValueError(f"{where}: {key} is a section, which may contain settings that decide how trials are"
                                 " scored. Name single settings, such as training.learning_rate.")  # fmt: skip
            if is_secret(key):
                raise ValueError(f"{where}: {key} is secret and cannot be searched, because searched values are saved.")
            if _is_fixed(parts):
                raise ValueError(f"{where}: {key} decides how trials are scored or what they keep, so it must be the"
                                 " same for all trials. Set it in `config` or in `overrides`.")  # fmt: skip
            if dimension.name in overridden:
                raise ValueError(f"{where} is searched, so an override of it has no effect: remove one of them.")
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
    """Whether a setting (`a.b.c`, split into parts) decides how trials are scored or what they keep."""
    section, name = parts[0], "".join(parts[1:2] if parts[0] == "training" else parts[2:3])
    if section == "sources":
        return bool(name) and name not in _OF_TRAINING_ROWS
    return name in _FIXED.get(section, ())


def _check_pruning(space: Sequence[Dimension], training: Mapping[str, Any]) -> None:
    """Raise an error if pruning would compare trials after unequal shares of their training.

    Args:
        space: The dimensions of the search.
        training: The `training:` section with typed values.
    """
    by_steps = (training.get("max_steps") or -1) > 0  # the length of a trial is given in steps, else in epochs
    strategy = training.get("eval_strategy", "epoch")
    interval = training.get("eval_steps") or training.get("logging_steps", 50)
    uneven = strategy == "epoch" if by_steps else strategy == "steps" and interval >= 1
    for dimension in space:
        for key in sorted(dimension.keys):
            parts = key.split(".")
            if key in _LENGTH:
                raise ValueError(
                    f"`space.{dimension.name}`: trials of different lengths are at different points of their learning"
                    f" rate schedule at the same evaluation, so {key} cannot be searched with `prune: true`; set"
                    " `prune: false`."
                )
            if uneven and parts[-1] in _STEPS_AN_EPOCH.get(parts[0], ()):
                raise ValueError(
                    f"`space.{dimension.name}`: {key} changes the number of steps per epoch, and evaluations happen"
                    f" {'every epoch of a fixed number of steps' if by_steps else f'every {interval:g} steps'}: `prune:"
                    " true` would compare trials after unequal shares of their training. Set"
                    f" {'' if by_steps else '`eval_strategy: epoch`, '}`eval_steps` as a fraction, or `prune: false`."
                )


def read_checked(config: str | Path, trials: int | None, overrides: Sequence[str]) -> tuple[Search, list[Dimension]]:
    """Read a search and its space, with all checks that need no data.

    Raises:
        ValueError: The search or its space is not valid.
    """
    search = read_search(config, trials)
    space = read_space(search.space)
    num_trials(search, space)
    check_space(search, space, overrides)
    return search, space
