"""What a run's folder says about how tasks shared the encoder: sentences, a heat map, weights over time.

Reads `gradient_conflicts.jsonl` (`training/conflicts.py`) and the training log of `trainer_state.json`. Pictures need
matplotlib, the extra `plots`.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints import list_checkpoints

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


def conflict_sentences(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence a pair: in which share of the steps compared the cosine is below 0, and in which parts most often.

    "Most" are the parts whose share is within 0.05 of the highest.
    """
    for (first, second), by_step in pairs_of(lines).items():
        shares = {
            part: _share_below_0([cosines.get(part) for cosines in by_step.values()])
            for part in next(iter(by_step.values()))
        }
        together = shares.pop("all")
        sentence = f"{first} and {second} conflict in {100 * together:.0f} % of steps ({len(by_step)} compared)"
        highest = max(shares.values())
        worst = [part for part, share in shares.items() if share >= highest - 0.05]
        if highest == 0:
            yield f"{sentence}, in no part."
        elif len(worst) == len(shares):
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


def plot_conflicts(folder: Path) -> list[Path]:
    """Draw the log of conflicts: a panel a pair of tasks, a row a part of the model, a column a step compared.

    Args:
        folder: Of a run.

    Returns:
        What was written into it: `gradient_conflicts.png` and `.svg`.

    Raises:
        ValueError: There is no log, or no line in it; matplotlib is missing.
    """
    pairs = pairs_of(read_conflicts(folder))
    if not pairs:
        raise ValueError(f"{folder / CONFLICTS_FILE} has no line yet.")
    plt = _pyplot()
    parts = [part for part in next(iter(next(iter(pairs.values())).values())) if part != "all"]
    values = {
        pair: [[by_step[step].get(part) for step in by_step] for part in reversed(parts)]
        for pair, by_step in pairs.items()
    }
    size = (7, 0.6 + len(pairs) * (0.9 + 0.22 * len(parts)))
    figure, axes = plt.subplots(len(pairs), 1, figsize=size, squeeze=False, layout="constrained")
    limit = max((abs(cell) for rows in values.values() for row in rows for cell in row if cell is not None), default=1)
    for axis, (pair, by_step) in zip(axes[:, 0], pairs.items(), strict=True):
        cells = [[float("nan") if cell is None else cell for cell in row] for row in values[pair]]
        image = axis.imshow(cells, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_title(" and ".join(pair), fontsize=10)
        axis.set_yticks(range(len(parts)), [part.removeprefix("encoder.") for part in reversed(parts)], fontsize=7)
        steps = list(by_step)
        ticks = range(0, len(steps), max(1, len(steps) // 8))
        axis.set_xticks(ticks, [str(steps[tick]) for tick in ticks])
        figure.colorbar(image, ax=axis, label="cosine")
    axes[-1, 0].set_xlabel("step")
    return _save(figure, folder / "gradient_conflicts")


def plot_weights(folder: Path) -> list[Path]:
    """Draw what the losses of tasks were multiplied by over time: a line a task.

    Args:
        folder: Of a run, also of one that still goes on and has a checkpoint.

    Returns:
        What was written into it: `weights.png` and `.svg`.

    Raises:
        ValueError: The log has no weights; matplotlib is missing.
    """
    states = [folder / "trainer_state.json", *(path / "trainer_state.json" for path in list_checkpoints(folder)[::-1])]
    there = [path for path in states if path.is_file()]
    log = json.loads(there[0].read_text(encoding="utf-8"))["log_history"] if there else []
    lines: dict[str, list[tuple[int, float]]] = {}
    for entry in log:
        for key, value in entry.items():
            if key.endswith("_weight"):
                lines.setdefault(key.removesuffix("_weight"), []).append((entry["step"], value))
    if not lines:
        raise ValueError(
            f"the training log in {folder} has no weights: the run has neither `loss_balancing` nor"
            " `gradient_aggregation`, or has not logged yet."
        )
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for task, points in lines.items():
        axis.plot([step for step, _ in points], [value for _, value in points], label=task, linewidth=1.2)
    axis.set_xlabel("step")
    axis.set_ylabel("weight")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return _save(figure, folder / "weights")


def _pyplot() -> Any:
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install 'mtl_hf[plots]'.")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    written = [path.with_suffix(ending) for ending in (".png", ".svg")]
    for one in written:
        figure.savefig(one, dpi=150)
    plt.close(figure)
    return written
