"""The report of a comparison: a page of tables in Markdown, and two plots.

Notable: scores are times 100, losses are unchanged; each difference is shown with its interval. Δm is the average
relative gain over tasks.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..evaluation.figures import COLOURS, save_figure, scale_axis
from ..evaluation.report import show_number
from ..metrics import LOSS_LIKE

_INTERVALS = (
    "Values: mean ± standard deviation over seeds, then the difference to the named variant with its 95 % interval,"
    " from a paired bootstrap that draws the same test rows for both variants and all seeds. The interval reflects the"
    " choice of test rows; the standard deviation reflects the choice of seeds."
)


def comparison_markdown(result: Mapping[str, Any]) -> str:
    """The report as Markdown: what was compared, scores, training cost, inference cost.

    Args:
        result: The result of `compare.collect`.
    """
    lines = [f"# {result['name']}", "", f"`{result['config']}`, seeds {', '.join(map(str, result['seeds']))}."]
    if result["overrides"]:
        lines += ["For every run: " + ", ".join(f"`{text}`" for text in result["overrides"]) + "."]
    lines += ["", *_scores(result), "", _INTERVALS, "", *_costs(result)]
    if any(numbers["validation"] for numbers in result["variants"].values()):
        lines += ["", *_validation(result)]
    if result.get("answering", {}).get("tasks"):
        lines += ["", *_answering(result)]
    return "\n".join(lines) + "\n"


def _scores(result: Mapping[str, Any]) -> Iterator[str]:
    """The table of scores: one row per variant, one column per task."""
    variants = result["variants"]
    columns: dict[tuple[str, str], str] = {}
    for section, title in (("tasks", "{}"), ("joint", "all tasks right, {}")):
        for numbers in variants.values():
            for task, found in numbers[section].items():
                columns.setdefault((section, task), f"{title.format(task)}, {found['metric']}")
    gains = any(numbers.get("gain") for numbers in variants.values())
    yield f"| | {' | '.join([*columns.values(), *(['Δm'] if gains else [])])} |"
    yield "|---" * (1 + len(columns) + gains) + "|"
    for name, numbers in variants.items():
        cells = [_cell(numbers[section].get(task)) for section, task in columns]
        if gains:
            gain = numbers.get("gain")
            cells.append(f"{mean(gain):+.2f} %{_spread(gain, '.2f')}" if gain else "")
        against = f" (against {numbers['against']})" if "against" in numbers else ""
        yield f"| **{name}**{against} | {' | '.join(cells)} |"


def _cell(numbers: Mapping[str, Any] | None) -> str:
    if numbers is None or numbers["mean"] is None:
        return "-"
    metric = numbers["metric"]
    text = show_number(metric, numbers["mean"])
    if numbers["deviation"] is not None:
        text += f" ± {show_number(metric, numbers['deviation'])}"
    if "difference" in numbers:
        text += f"; {show_number(metric, numbers['difference'], sign='+')}"
    if "interval" in numbers:
        text += " ({} to {})".format(*(show_number(metric, end, sign="+") for end in numbers["interval"]))
    return text


def _spread(values: list[float], form: str) -> str:
    return f" ± {stdev(values):{form}}" if len(values) > 1 else ""


def _costs(result: Mapping[str, Any]) -> Iterator[str]:
    titles = ("variant", "changes", "budget", "models", "parameters", "trained", "steps", "best step", "training, s",
              "peak memory, MB")  # fmt: skip
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    entries = [(f"first: {name}", numbers) for name, numbers in result["first"].items()]
    entries += result["variants"].items()
    for name, numbers in entries:
        changes = ", ".join(f"`{text}`" for text in numbers.get("overrides", []))
        seconds, peak = numbers["seconds"], max(numbers["peak_memory"]) / 1e6
        yield (
            f"| {name} | {changes} | {numbers['budget']} | {numbers['models']} | {numbers['parameters'] / 1e6:.2f} M |"
            f" {numbers['trained'] / 1e6:.2f} M | {_span(numbers['steps'])} | {_span(numbers['best_steps'])} |"
            f" {mean(seconds):.0f}{_spread(seconds, '.0f')}{' *' * numbers['resumed']} | {peak:,.0f} |"
        )
    yield ""
    yield (
        "Parameters (all and trained ones), steps and training time are sums over a variant's models; training time"
        " includes evaluations. The best step (also a sum) is the step of the chosen checkpoint."
    )
    if any(numbers["resumed"] for _, numbers in entries):
        yield "\\* A run was resumed: its time and memory count from the last resume."


def _span(steps: Sequence[int | None]) -> str:
    """Steps of all seeds: one number, or minimum and maximum."""
    found = sorted({step for step in steps if step is not None})
    if not found:
        return "-"
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _validation(result: Mapping[str, Any]) -> Iterator[str]:
    """The table of validation losses at the chosen checkpoints: one row per variant, one column per task."""
    variants = result["variants"]
    columns = {task: found["metric"] for numbers in variants.values() for task, found in numbers["validation"].items()}
    yield f"| validation loss | {' | '.join(f'{task}, {metric}' for task, metric in columns.items())} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, numbers in variants.items():
        yield f"| {name} | {' | '.join(_cell(numbers['validation'].get(task)) for task in columns)} |"


def _answering(result: Mapping[str, Any]) -> Iterator[str]:
    found = result["answering"]
    number = len(found["tasks"])
    yield (
        f"Inference for {', '.join(found['tasks'])} on {found['texts']} test texts, batch size {found['batch_size']}:"
    )
    yield ""
    yield "| | seconds | weights, MB | peak memory, MB |"
    yield "|---|---|---|---|"
    for way, title in (("one", "one model"), ("several", f"{number} models" if number > 1 else "a single-task model")):
        yield (
            f"| {title} | {found['seconds'][way]:.2f} | {found['bytes'][way] / 1e6:.1f} |"
            f" {found['memory'][way] / 1e6:,.0f} |"
        )
    ratios = (found[key]["several"] / found[key]["one"] for key in ("bytes", "memory"))
    yield f"| ratio | {found['ratio']:.2f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


# ---- plots ----


def plot_scores(result: Mapping[str, Any], folder: Path) -> None:
    """Write `scores.png` and `.svg`: a panel per task, a line per variant, a dot per seed and a bar at the mean."""
    import matplotlib.pyplot as plt

    variants = result["variants"]
    tasks = list(dict.fromkeys(task for numbers in variants.values() for task in numbers["tasks"]))
    size = (1 + 3.4 * len(tasks), 1.1 + 0.34 * len(variants))
    figure, axes = plt.subplots(1, len(tasks), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for place, numbers in enumerate(variants.values()):
            found = numbers["tasks"].get(task)
            if found is None or found["mean"] is None:
                continue
            scale = 1 if found["metric"] in LOSS_LIKE else 100
            colour = COLOURS[place % len(COLOURS)]
            values = [scale * value for value in found["values"] if value is not None]
            axis.plot(values, [place] * len(values), "o", color=colour, alpha=0.5, markersize=5)
            axis.plot([scale * found["mean"]], [place], "|", color=colour, markersize=18, markeredgewidth=2.5)
            axis.set_xlabel(found["metric"])
        axis.set_title(task, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(variants)), list(variants))
    axes[0][0].set_ylim(len(variants) - 0.5, -0.5)
    save_figure(figure, folder / "scores")


def plot_curves(result: Mapping[str, Any], folder: Path) -> None:
    """Write `curves.png` and `.svg`: the validation metric by step, with a panel per task and a colour per variant.

    Each seed has a line. Losses have a logarithmic axis if they span more than a factor of 10.
    """
    import matplotlib.pyplot as plt

    groups = {**{f"first: {name}": numbers for name, numbers in result["first"].items()}, **result["variants"]}
    tasks = list(dict.fromkeys(task for numbers in groups.values() for task in numbers["curves"]))
    figure, axes = plt.subplots(1, len(tasks), figsize=(1 + 3.6 * len(tasks), 3.2), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        losses: list[float] = []
        for place, (name, numbers) in enumerate(groups.items()):
            for number, curve in enumerate(numbers["curves"].get(task, [])):
                metric = numbers["tasks"][task]["metric"] if task in numbers["tasks"] else ""
                scale = 1 if metric in LOSS_LIKE else 100
                steps, values = [step for step, _ in curve], [scale * value for _, value in curve]
                losses += values if metric in LOSS_LIKE else []
                label = name if number == 0 else None
                axis.plot(steps, values, color=COLOURS[place % len(COLOURS)], alpha=0.7, linewidth=1.2, label=label)
                axis.set_ylabel(metric)
        scale_axis(axis, losses)
        axis.set_title(f"{task}, validation", fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    save_figure(figure, folder / "curves")
