"""Gradient conflicts of a run: read its log (`training/conflicts.py`) and summarize it in sentences.

`evaluation/run_plots.py` draws the plots.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

CONFLICTS_FILE = "gradient_conflicts.jsonl"
MIN_COMPARISONS = 20  # comparisons, below which no percentage is given
_LAYERS = "encoder.layers."


def read_conflicts(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's conflict log: `step`, `steps` (task → step of its gradient), `pairs`.

    A last line that a killed run left incomplete is skipped.

    Raises:
        ValueError: There is no log.
    """
    path = folder / CONFLICTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFLICTS_FILE}: train with `training.log_gradient_conflicts: 50`.")
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def pairs_of(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[int, dict[str, float | None]]]:
    """Pair of tasks → step → part → cosine."""
    found: dict[tuple[str, str], dict[int, dict[str, float | None]]] = {}
    for line in lines:
        for pair in line["pairs"]:
            first, second = sorted(pair["tasks"])
            found.setdefault((first, second), {})[line["step"]] = pair["cosines"]
    return found


def parts_of(by_step: Mapping[int, Mapping[str, float | None]]) -> list[str]:
    """All parts in which a pair is compared, from the input up, `all` last; parts may be unfrozen during training."""
    found = {part for cosines in by_step.values() for part in cosines}
    layers = sorted((part for part in found if part.startswith(_LAYERS)), key=lambda part: int(part.rpartition(".")[2]))
    others = sorted(found - {"embeddings", "all", *layers})
    return [part for part in ("embeddings", *layers, *others, "all") if part in found]


def conflict_sentences(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One sentence per pair: the share of compared steps with a cosine below 0, the parts with most conflict, the mean.

    The named parts are the one with the lowest mean cosine and those below 0 by at least half as much; none is named if
    no mean is below 0 or if this holds for all parts. Below `MIN_COMPARISONS` comparisons, only counts are given.
    """
    for (first, second), by_step in pairs_of(lines).items():
        together = _known([cosines.get("all") for cosines in by_step.values()])
        if not together:
            yield f"{first} and {second} could not be compared: one of the gradients was always 0."
            continue
        conflicts = sum(cosine < 0 for cosine in together)
        mean = f"mean cosine {round(fmean(together), 2) + 0.0:.2f}"  # + 0.0: no -0.00
        count = len(together)
        if count < MIN_COMPARISONS:
            of = f"{conflicts} of {count} compared steps, too few to judge"
            yield f"{first} and {second} conflict in {of} ({mean})."
            continue
        sentence = f"{first} and {second} conflict in {100 * conflicts / count:.0f} % of steps"
        if worst := _worst_parts(by_step):
            sentence += f", most in {_name_parts(worst)}"
        yield f"{sentence} ({mean} over {count} compared)."


def _worst_parts(by_step: Mapping[int, Mapping[str, float | None]]) -> list[str]:
    """The parts with most conflict of a pair, by mean cosine; none if these are all parts."""
    parts = [part for part in parts_of(by_step) if part != "all"]
    known = {part: _known([cosines.get(part) for cosines in by_step.values()]) for part in parts}
    means = {part: fmean(found) for part, found in known.items() if found}
    lowest = min(means.values(), default=0.0)
    worst = [part for part, mean in means.items() if lowest < 0 and mean <= lowest / 2]
    return worst if len(worst) < len(means) else []


def _known(cosines: Sequence[float | None]) -> list[float]:
    return [cosine for cosine in cosines if cosine is not None]


def _name_parts(parts: Sequence[str]) -> str:
    """Format names of parts, with consecutive layers as a range."""
    layers = sorted(int(part.removeprefix(_LAYERS)) for part in parts if part.startswith(_LAYERS))
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    ranges = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    names = [part.removeprefix("encoder.") for part in parts if not part.startswith(_LAYERS)]
    if ranges:
        names.append(f"layer{'s' if len(layers) > 1 else ''} {', '.join(ranges)}")
    return " and ".join(names)
