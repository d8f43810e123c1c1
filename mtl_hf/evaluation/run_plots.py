"""`mtl-hf plot`: plots of a run by step, from the log in its `trainer_state.json`.

Notable: everything is read from files, so it works for finished runs and for runs that are still training.
"""

import importlib.util
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..metrics import LOSS_LIKE
from ..saved.models import run_file
from ..training.checkpoints import list_checkpoints
from ..training.conflict_report import CONFLICTS_FILE, pairs_of, parts_of, read_conflicts
from .figures import COLOURS, marks, save_figure, scale_axis, spans_decade

logger = logging.getLogger(__name__)

STATE = "trainer_state.json"
Curve = list[tuple[int, float]]  # step, value


def plot_run(folder: str | Path) -> list[Path]:
    """Plot a run's log into `plots/` in its folder, each plot as PNG and SVG.

    - `learning_rates`: the learning rate of each part; parts with equal rates share a line. Logarithmic (without rates
      of 0) if the peaks of the parts span more than a factor of 10. Thin vertical lines mark where parts were unfrozen.
    - `losses`: training loss and (dashed) validation loss of each task; all axes are logarithmic if one of the curves
      spans more than a factor of 10.
    - `validation`: the primary metric of each task (for an unfinished run, the first metric that is logged).
    - `loss_weights`: the loss weight of each task, if the run logs them.
    - `gradient_conflicts`: the cosine between the gradients of each two tasks, by part and step, if the run logs them.

    Values that were not logged are not drawn: a run shorter than its `logging_steps` has only its evaluations.

    Args:
        folder: A run folder, finished or not, or one of its `checkpoint-N`.

    Returns:
        The files that were written.

    Raises:
        ValueError: There is no log, or it is empty.
        ImportError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("plots need matplotlib: pip install 'mtl_hf[plots]'")
    folder = Path(folder)
    history = read_history(folder)
    metrics = folder / "metrics.json"
    scored = json.loads(metrics.read_text(encoding="utf-8"))["tasks"] if metrics.is_file() else {}
    primary = {name: numbers["primary"] for name, numbers in scored.items()}
    lines = [entry for entry in history if "loss" in entry]  # training logs; all others are evaluations
    logged = dict.fromkeys(key for line in lines for key in line)
    parts = [key.removeprefix("lr_") for key in logged if key.startswith("lr_")]
    tasks = [key.removesuffix("_loss") for key in logged if key.endswith("_loss") and not key.startswith("lr_")]
    if not tasks:  # `eval_<task>_<metric>` is ambiguous: both names may have underscores
        own = run_file(folder)
        tasks = list(primary) or list(RunConfig.load(own).tasks if own else ())
    weights = {task: curve(lines, f"{task}_weight") for task in tasks if f"{task}_weight" in logged}
    opened = [entry["step"] for entry in history if any(key.startswith("opened_") for key in entry)]
    conflicts = pairs_of(read_conflicts(folder)) if (folder / CONFLICTS_FILE).is_file() else {}
    figures: dict[str, Callable[[], Any]] = {
        "learning_rates": lambda: _draw_rates({part: curve(lines, f"lr_{part}") for part in parts}, opened),
        "losses": lambda: _draw_losses({task: curve(lines, f"{task}_loss") for task in tasks}, history),
        "validation": lambda: _draw_validation(history, tasks, primary),
        "loss_weights": lambda: _draw_weights(weights),
        "gradient_conflicts": lambda: _draw_conflicts(conflicts),
    }
    plots = folder / "plots"
    written: list[Path] = []
    for name, draw in figures.items():
        if (figure := draw()) is not None:
            plots.mkdir(exist_ok=True)
            written += save_figure(figure, plots / name)
    if not written:
        raise ValueError(f"{folder}: the log is still empty (a run logs every `logging_steps` steps).")
    logger.info("Written to %s: %s.", plots, ", ".join(path.name for path in written))
    return written


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read a run's log; for an unfinished run, the log of its newest checkpoint.

    Raises:
        ValueError: There is no log.
    """
    for place in [folder, *reversed(list_checkpoints(folder))]:
        path = place / STATE
        if path.is_file():
            return list(json.loads(path.read_text(encoding="utf-8"))["log_history"])
    raise ValueError(f"{folder} has no {STATE}: it is not a run folder, or the run has no checkpoint yet.")


def curve(history: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """The values of a key in the log, with their steps; missing values are left out."""
    return [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]


def validation_curve(history: Sequence[Mapping[str, Any]], task: str, metrics: Iterable[str]) -> tuple[str, Curve]:
    """The first of the metrics that evaluations log for a task, with its curve; empty if none is logged."""
    found = ((metric, curve(history, f"eval_{task}_{metric}")) for metric in metrics)
    return next((item for item in found if item[1]), ("", []))


def _panels(number: int) -> tuple[Any, Sequence[Any]]:
    """A figure with a row of `number` panels, for curves by step."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, number, figsize=(1.4 + 3.6 * number, 3.4), squeeze=False, layout="constrained")
    for axis in axes[0]:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    return figure, axes[0]


def _height(part: str) -> float:
    """Sort key: the depth of an encoder part, from the input up."""
    number = part.rpartition(".")[2]
    return -1.0 if part == "embeddings" else float(number) if number.isdecimal() else math.inf


def _draw_rates(rates: Mapping[str, Curve], opened: Iterable[int]) -> Any:
    if not rates:
        return None
    import matplotlib.pyplot as plt

    figure, (axis,) = _panels(1)
    figure.set_size_inches(7.2, 3.8)
    encoder = [name for name in rates if name == "embeddings" or name.startswith("encoder.")]
    depth = sorted(encoder, key=_height)  # parts that are unfrozen later are logged in another order
    others = [name for name in rates if name not in depth]
    logarithmic = spans_decade(max(value for _, value in points) for points in rates.values())
    alike: dict[tuple[bool, tuple[tuple[int, float], ...]], list[str]] = {}  # equal curves, which would hide each other
    for name in [*depth, *others]:
        alike.setdefault((name in depth, tuple(rates[name])), []).append(name)
    for (inside, points), names in alike.items():
        look: dict[str, Any]
        if inside:
            look = {"color": plt.get_cmap("viridis")(0.9 * depth.index(names[0]) / max(1, len(depth) - 1))}
        else:
            look = {"color": COLOURS[(others.index(names[0]) + 1) % len(COLOURS)], "linestyle": "--"}
        label = ", ".join(names) if len(names) < 3 else f"{names[0]} ... {names[-1]}"
        shown = [point for point in points if point[1] > 0 or not logarithmic] or points
        axis.plot(*zip(*shown, strict=True), label=f" {label}", linewidth=1.4, **look, **marks(shown))
    for step in opened:
        axis.axvline(step, color="grey", linewidth=0.6, linestyle=":", zorder=0)
    if logarithmic:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_ylabel("learning rate")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7)
    return figure


def _draw_losses(losses: Mapping[str, Curve], history: Sequence[Mapping[str, Any]]) -> Any:
    names = [name for name in LOSS_LIKE if name != "perplexity"]
    found = {task: (points, *validation_curve(history, task, names)) for task, points in losses.items()}
    found = {task: (points, metric, scored) for task, (points, metric, scored) in found.items() if points or scored}
    if not found:
        return None
    figure, axes = _panels(len(found))
    logarithmic = any(spans_decade(value for _, value in [*points, *scored]) for points, _, scored in found.values())
    axes[0].set_ylabel("loss (logarithmic axis)" if logarithmic else "loss")
    for axis, (task, (points, metric, scored)) in zip(axes, found.items(), strict=True):
        if logarithmic:
            axis.set_yscale("log")
        if points:
            axis.plot(*zip(*points, strict=True), color=COLOURS[0], linewidth=1.2, label="training", **marks(points))
        if scored:
            look = {"color": COLOURS[1], "linestyle": "--", "marker": "o", "markersize": 3}
            axis.plot(*zip(*scored, strict=True), label=f"validation, {metric}", **look)
        axis.set_title(f"{task}, loss", fontsize=10)
        axis.legend(fontsize=7)
    return figure


def _draw_validation(history: Sequence[Mapping[str, Any]], tasks: Sequence[str], primary: Mapping[str, str]) -> Any:
    found = {}
    for task in tasks:
        named = (
            key.removeprefix(f"eval_{task}_") for entry in history for key in entry if key.startswith(f"eval_{task}_")
        )
        metric, scores = validation_curve(history, task, [primary[task]] if task in primary else named)
        if scores:
            found[task] = metric, scores
    if not found:
        return None
    figure, axes = _panels(len(found))
    for axis, (task, (metric, scores)) in zip(axes, found.items(), strict=True):
        scale = 1 if metric in LOSS_LIKE else 100
        values = [scale * value for _, value in scores]
        axis.plot([step for step, _ in scores], values, color=COLOURS[2], marker="o", markersize=3, linewidth=1.4)
        if metric in LOSS_LIKE:
            scale_axis(axis, values)
        axis.set_title(f"{task}, validation", fontsize=10)
        axis.set_ylabel(metric)
    return figure


def _draw_weights(weights: Mapping[str, Curve]) -> Any:
    if not weights:
        return None
    figure, (axis,) = _panels(1)
    for place, (task, points) in enumerate(weights.items()):
        look = {"color": COLOURS[place % len(COLOURS)], "linewidth": 1.4} | marks(points)
        axis.plot(*zip(*points, strict=True), label=task, **look)
    scale_axis(axis, [value for points in weights.values() for _, value in points])
    axis.set_ylabel("weight of the loss")
    axis.legend(fontsize=7)
    return figure


def _draw_conflicts(pairs: Mapping[tuple[str, str], Mapping[int, Mapping[str, float | None]]]) -> Any:
    """One panel per pair of tasks, with a row per part of the model (input at the bottom) and a column per step."""
    if not pairs:
        return None
    import matplotlib.pyplot as plt

    everywhere = {step: cosines for by_step in pairs.values() for step, cosines in by_step.items()}
    parts = [part for part in parts_of(everywhere) if part != "all"][::-1]
    cells = {
        pair: [[math.nan if (cosine := by_step[step].get(part)) is None else cosine for step in by_step]
               for part in parts]
        for pair, by_step in pairs.items()
    }  # fmt: skip
    limit = max((abs(cell) for rows in cells.values() for row in rows for cell in row if cell == cell), default=1)
    size = (7, 0.6 + len(pairs) * (0.9 + 0.22 * len(parts)))
    figure, axes = plt.subplots(len(pairs), 1, figsize=size, squeeze=False, layout="constrained")
    for axis, (pair, by_step) in zip(axes[:, 0], pairs.items(), strict=True):
        image = axis.imshow(cells[pair], aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_title(" and ".join(pair), fontsize=10)
        axis.set_yticks(range(len(parts)), [part.removeprefix("encoder.") for part in parts], fontsize=7)
        steps = list(by_step)
        ticks = range(0, len(steps), max(1, len(steps) // 8))
        axis.set_xticks(ticks, [str(steps[tick]) for tick in ticks])
        figure.colorbar(image, ax=axis, label="cosine")
    axes[-1, 0].set_xlabel("step")
    return figure
