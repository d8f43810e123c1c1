"""How the gradients of tasks met in a run: its log of conflicts (`training/conflicts.py`), read, and told in sentences.

`evaluation/run_plots.py` draws it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CONFLICTS_FILE = "gradient_conflicts.jsonl"
_LAYERS = "encoder.layers."


def read_conflicts(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log of conflicts: `step`, `steps` (task → step of its gradient), `pairs`.

    A last line that a killed run has left half written is passed over.

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
    """All parts that a pair is compared in, from the input up, `all` last; some may have been opened on the way."""
    found = {part for cosines in by_step.values() for part in cosines}
    layers = sorted((part for part in found if part.startswith(_LAYERS)), key=lambda part: int(part.rpartition(".")[2]))
    others = sorted(found - {"embeddings", "all", *layers})
    return [part for part in ("embeddings", *layers, *others, "all") if part in found]


def conflict_sentences(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence a pair: in which share of the steps compared the cosine is below 0, and in which parts most often.

    "Most" are the parts whose share is within 0.05 of the highest. Of a pair that conflicts in no step nothing is said
    of parts, in which it may.
    """
    for (first, second), by_step in pairs_of(lines).items():
        shares = {
            part: _share_below_0([cosines.get(part) for cosines in by_step.values()]) for part in parts_of(by_step)
        }
        together = shares.pop("all")
        if together == 0:
            yield f"{first} and {second} did not conflict in any step ({len(by_step)} compared)."
            continue
        sentence = f"{first} and {second} conflict in {100 * together:.0f} % of steps ({len(by_step)} compared)"
        highest = max(shares.values())
        worst = [part for part, share in shares.items() if share >= highest - 0.05]
        if len(worst) == len(shares):
            yield f"{sentence}, everywhere alike."
        else:
            yield f"{sentence}, most in {_name_parts(worst)}."


def _share_below_0(cosines: Sequence[float | None]) -> float:
    known = [cosine for cosine in cosines if cosine is not None]
    return sum(cosine < 0 for cosine in known) / len(known) if known else 0.0


def _name_parts(parts: Sequence[str]) -> str:
    """Parts as one reads them: layers that follow each other as a range."""
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
