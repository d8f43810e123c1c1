"""The parts of a comparison: its file, its variants, and the runs of each variant.

Notable: runs of a comparison differ only in what the variants name. `alone` trains one model per task and `together`
one model for all tasks, from the same config; any other variant is a list of `a.b=c` overrides, for one model or for
one per task. Every run has its own YAML, which can be inspected and trained by hand.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RunConfig, nearest, option, read_yaml, typed

ALONE, TOGETHER = "alone", "together"
FIRST_SEED = 13
_FIRST = re.compile(r"\$\{first\.([^}]*)\}")
_SECTIONS = ("variants", "first")  # sections with variants
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(kw_only=True)
class Variant:
    """`variants.<name>:` and `first.<name>:` what to train."""

    config: str | None = option("a run's YAML, relative to this file (default: that of the comparison)", None)
    overrides: list[str] = option("a.b=c changes to it", [])
    against: str | None = option("the variant to compare with (default: the reference)", None)
    alone: bool = option("whether to train one model per task", False)


@dataclass(kw_only=True)
class Comparison:
    """A comparison's file."""

    config: str = option("a run's YAML, relative to this file")
    seeds: list[int] = option(
        "training.seed of each run of a variant; a number n means 13, 14, ... 12 + n", [13, 14, 15]
    )
    overrides: list[str] = option("a.b=c changes for every run except those of `first`", [])
    first: dict[str, Variant] = option(
        "runs to train once before the others, which refer to them as ${first.<name>}", {}
    )
    variants: dict[str, Variant] = option("name -> overrides, a list, or {config, overrides, against, alone}", {})
    alone: bool | None = option("whether one model per task is a variant (default: if `variants` is empty)", None)
    together: bool | None = option("whether the unchanged config is a variant (default: if `variants` is empty)", None)
    reference: str | None = option("the variant to compare the others with (default: alone, else the first)", None)

    @property
    def names(self) -> list[str]:
        """The variants, in the order of the table."""
        own = [
            name
            for name, requested in ((ALONE, self.alone), (TOGETHER, self.together))
            if (not self.variants if requested is None else requested)
        ]
        return [*own, *self.variants]

    def against(self, name: str) -> str:
        """The variant that another variant is compared with."""
        own = self.variants[name].against if name in self.variants else None
        return own or self.reference or self.names[0]


@dataclass(frozen=True)
class PlannedRun:
    """One model to train.

    Attributes:
        variant: Its variant; empty for a run of `first`.
        model: Which of the variant's models: the task if there is one model per task, else empty.
        seed: Its seed.
        config: Its config, with its output folder.
        needs: Runs of `first` that must be trained before.
    """

    variant: str
    model: str
    seed: int
    config: RunConfig
    needs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Its output folder; its YAML, its log and its resource usage are beside it."""
        return Path(self.config.training["output_dir"])

    def beside(self, suffix: str) -> Path:
        """A file beside the output folder."""
        return self.folder.with_name(self.folder.name + suffix)

    @property
    def name(self) -> str:
        """Its name in progress bars and messages."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def read_comparison(
    config: str | Path, variants: str | Path | None = None, seeds: int | Sequence[int] | None = None
) -> Comparison:
    """Read a comparison, or create the default comparison of a run's YAML.

    Args:
        config: The YAML of a comparison or of a run.
        variants: A YAML with more variants: a mapping like `variants` of a comparison, or one with the keys `variants`,
            `first` and `reference`.
        seeds: Seeds to use instead of those in the file.

    Raises:
        ValueError: Unknown keys, values that are not valid, or missing files.
    """
    path = Path(config)
    tree = read_yaml(path)
    tree = _own({"config": path.name} if "tasks" in tree and "model" in tree else tree, path)
    if variants is not None:
        more = read_yaml(Path(variants))
        more = _own(more if "variants" in more else {"variants": more}, Path(variants), f"{variants}: ")
        tree |= {key: tree[key] | value if key in _SECTIONS else value for key, value in more.items()}
    if seeds is not None:
        tree["seeds"] = seeds
    number = tree.get("seeds", 3)
    if not isinstance(number, list | tuple):
        number = typed(int, number, "seeds")
        tree["seeds"] = [FIRST_SEED + place for place in range(number)]
    comparison = typed(Comparison, tree, "")
    if not comparison.seeds or len(set(comparison.seeds)) < len(comparison.seeds):
        raise ValueError(f"`seeds` is {comparison.seeds}; it needs at least one seed, and no seed twice.")
    names = comparison.names
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two variants; {path} has {', '.join(names) or 'none'}.")
    for name in [*comparison.variants, *comparison.first]:
        if not _NAME.fullmatch(name) or name in (ALONE, TOGETHER):
            raise ValueError(f"a variant cannot be called {name!r}: use letters, digits, `_`, `.` and `-`, and neither"
                             f" {ALONE} nor {TOGETHER}, which have their own keys.")  # fmt: skip
    wanted = {f"variants.{name}.against": spec.against for name, spec in comparison.variants.items()}
    for key, name in {"reference": comparison.reference, **wanted}.items():
        if name is not None and name not in names:
            raise ValueError(f"`{key}` is {name!r}.{nearest(name, names)} The variants are {', '.join(names)}.")
    return comparison


def at_home(item: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A section of a file, with its `config` path (relative to the file) made relative to the current folder."""
    own = item.get("config")
    return {**item} if own is None else {**item, "config": os.path.normpath(path.parent / str(own))}


def _own(tree: dict[str, Any], path: Path, where: str = "") -> dict[str, Any]:
    """The content of a file, with config paths resolved and variants that are lists of overrides made mappings."""
    tree = at_home(tree, path)
    for section in _SECTIONS:
        found = tree.get(section) or {}
        if not isinstance(found, Mapping):
            raise ValueError(f"`{where}{section}` should be a mapping from names to lists of overrides.")
        for name, item in found.items():
            if not isinstance(item, Mapping | list):
                raise ValueError(
                    f"`{where}{section}.{name}` should be a list of overrides, or have the keys config and overrides."
                )
        tree[section] = {
            str(name): {"overrides": item} if isinstance(item, list) else at_home(item, path)
            for name, item in found.items()
        }
    return tree


def plan_runs(
    comparison: Comparison, to: Path, overrides: Sequence[str] = ()
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """The runs of `first`, and all others, variant by variant and seed by seed.

    Args:
        comparison: The result of `read_comparison`.
        to: The comparison's folder.
        overrides: Overrides of every run, also those of `first`.

    Raises:
        ValueError: A config is not valid; the message names the variant.
    """
    places = {name: to / "first" / name for name in comparison.first}
    first = [
        _planned(comparison, "", spec, comparison.seeds[0], places[name], overrides, places, of_first=True)
        for name, spec in comparison.first.items()
    ]
    runs = []
    for seed in comparison.seeds:
        for name in comparison.names:
            spec = comparison.variants.get(name, Variant())
            folder = to / "runs" / name / f"seed-{seed}"
            run = _planned(comparison, name, spec, seed, folder, overrides, places)
            runs += _alone(run, to) if name == ALONE or spec.alone else [run]
    folders = [run.folder for run in runs]
    if twice := [run for run in runs if folders.count(run.folder) > 1]:
        raise ValueError(f"two variants would both write to {twice[0].folder}: rename one of them.")
    return first, runs


def _planned(
    comparison: Comparison,
    variant: str,
    spec: Variant,
    seed: int,
    folder: Path,
    overrides: Sequence[str],
    places: Mapping[str, Path],
    of_first: bool = False,
) -> PlannedRun:
    title = f"first.{folder.name}" if of_first else f"variant {variant}"
    if of_first and spec.alone:
        raise ValueError(f"{title}: `alone` is not supported in `first`, because other runs start from a single model.")
    given = [*([] if of_first else comparison.overrides), *spec.overrides, *overrides]
    needs = list(dict.fromkeys(name for text in given for name in _FIRST.findall(text)))
    if unknown := [name for name in needs if of_first or name not in places]:
        raise ValueError(
            f"{title}: `${{first.{unknown[0]}}}` is not a run of `first`, which has {', '.join(places) or 'none'}."
        )
    given = [_FIRST.sub(lambda match: str(places[match[1]]), text) for text in given]
    given += [f"training.seed={seed}", output_override(folder)]
    path = spec.config or comparison.config
    try:
        return PlannedRun(variant, "", seed, RunConfig.load(path, given), tuple(needs))
    except ValueError as error:
        raise ValueError(f"{title} ({path}): {error}") from error


def output_override(folder: Path) -> str:
    """The override that sets a run's output folder."""
    return f"training.output_dir={json.dumps(str(folder))}"


def _narrow(training: dict[str, Any], others: set[str], sources: Sequence[str]) -> None:
    """Remove settings of other tasks or sources, or of several tasks, from a single-task run, in place."""
    parts = {f"{side}.{name}" for side in ("heads", "adapters") for name in others}
    if isinstance(frozen := training.get("freeze"), list):
        training["freeze"] = [pattern for pattern in frozen if pattern not in parts]
    if isinstance(rates := training.get("learning_rates"), Mapping):
        training["learning_rates"] = {pattern: rate for pattern, rate in rates.items() if pattern not in parts}
    if isinstance(thawing := training.get("unfreeze"), Mapping):
        kept = {
            key: {name: value for name, value in given.items() if name not in others | parts}
            if isinstance(given, Mapping) else given
            for key, given in thawing.items()
        }  # fmt: skip
        training["unfreeze"] = {key: given for key, given in kept.items() if given != {}}
        if kept.get("at") == {}:  # no part of this task is unfrozen
            del training["unfreeze"]
    if isinstance(shares := training.get("sampling_probabilities"), Mapping):
        own = {source: float(share) for source, share in shares.items() if source in sources}
        training["sampling_probabilities"] = {source: share / sum(own.values()) for source, share in own.items()}
    if training.pop("gradient_aggregation", None) is not None:
        training.pop("gradient_accumulation_steps", None)  # a step is no longer a round
    for key in ("loss_balancing", "log_gradient_conflicts"):
        training.pop(key, None)


def _alone(run: PlannedRun, to: Path) -> list[PlannedRun]:
    """Split a run into one run per task, each with only the task's sources."""
    runs = []
    for name, task in run.config.tasks.items():
        if not task.train:  # there is nothing to compare
            continue
        training: dict[str, Any] = dict(run.config.training)
        training["output_dir"] = str(to / "runs" / f"{run.variant}-{name}" / f"seed-{run.seed}")
        best = str(training.get("metric_for_best_model", "score")).removeprefix("eval_")
        owners = [task_name for task_name in run.config.tasks if best.startswith(f"{task_name}_")]
        if best != "score" and max(owners, key=len, default="") != name:  # the metric of another task
            for key in ("metric_for_best_model", "greater_is_better"):
                training.pop(key, None)
        _narrow(training, {other for other in run.config.tasks if other != name}, task.sources)
        model, renaming = run.config.model, run.config.model.rename
        if renaming:
            kept = {old: new for old, new in renaming.items() if new == name}
            model = dataclasses.replace(model, rename=kept or None)
        config = dataclasses.replace(
            run.config,
            model=model,
            tasks={name: task},
            sources={
                source: spec if spec.balance == task.label else dataclasses.replace(spec, balance=None)
                for source, spec in run.config.sources.items()
                if source in task.sources
            },
            training=training,
            variables={},
            template=None,
        )
        runs.append(dataclasses.replace(run, model=name, config=config))
    return runs
