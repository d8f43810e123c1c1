"""Tables of scores, with intervals and baselines if available, and of several models side by side.

Notable: tables show scores times 100; files contain fractions.
"""

import csv
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_file, write_atomic
from ..metrics import show_number as show_number  # re-exported

MOST_LABELS = 10  # of a task in a table


def scores_table(results: Mapping[str, Any]) -> str:
    """The results of `metrics.score` as a table, times 100, with the labels of each task, worst first.

    Args:
        results: With `tasks`, `joint`, `rows` and `score`; `split` if known.
    """
    header = f"{'task':<24}{'metric':<16}{'score':>8}{'95 % interval':>18}{'majority':>10}"
    lines = [header, "-" * len(header)]
    for name, numbers in results["tasks"].items():
        primary = numbers["primary"]
        # With one label per row (if there is a Matthews coefficient), micro F1 equals accuracy.
        same = (primary, "micro_f1") if "matthews" in numbers else (primary,)
        others = [key for key in _SHOWN if key in numbers and key not in same]
        for index, metric in enumerate([primary, *others]):
            interval = baseline = ""
            if index == 0 and "interval" in numbers:
                interval = " to ".join(show_number(metric, end, digits=1) for end in numbers["interval"])
                baseline = show_number(metric, numbers["baseline"], digits=1) if "baseline" in numbers else ""
            value = numbers[metric]
            shown = show_number(metric, value)
            lines.append(f"{name if index == 0 else '':<24}{metric:<16}{shown:>8}{interval:>18}{baseline:>10}".rstrip())
        if "unchanged" in numbers:
            lines.append(_unchanged_line(numbers))
        elif "before" in numbers:
            lines.append(f"  {'before training':<22}{primary:<16}{show_number(primary, numbers['before'][primary]):>8}")
        for source, own in numbers.get("per_source", {}).items():
            lines.append(f"  {source:<22}{primary:<16}{show_number(primary, own[primary]):>8}")
        lines += _label_lines(numbers)
        lines += _threshold_lines(numbers, results.get("split"))
    for source, value in results["joint"].items():
        lines.append(f"{'all tasks right':<24}{source:<16}{100 * value:>8.2f}")
    if not math.isnan(results["score"]):
        lines.append(f"{'score':<40}{100 * results['score']:>8.2f}")
    lines.append(f"({_rows_line(results)})")
    if "experts" in results:
        lines += ["", *_experts_table(results["experts"])]
    if "layer_mix" in results:
        lines += ["", *_layers_table(results["layer_mix"])]
    return "\n".join(lines)


def _label_lines(numbers: Mapping[str, Any]) -> Iterator[str]:
    """Support and F1 of the labels (of entities, the types) of a task, the lowest F1 first, at most `MOST_LABELS`."""
    labels: Mapping[str, Any] = numbers.get("per_label") or numbers.get("per_type") or {}
    if not labels:
        return
    yield f"  {'label':<22}{'support':<16}{'f1':>8}"
    for name in sorted(labels, key=lambda name: (labels[name]["f1"], -labels[name]["support"]))[:MOST_LABELS]:
        shown = name if len(name) <= 21 else f"{name[:20]}\u2026"
        yield f"  {shown:<22}{labels[name]['support']:<16,}{show_number('f1', labels[name]['f1']):>8}"
    if len(labels) > MOST_LABELS:
        yield f"  and {len(labels) - MOST_LABELS} more in metrics.json"


def _threshold_lines(numbers: Mapping[str, Any], split: str | None) -> Iterator[str]:
    """The thresholds of a task, at most `MOST_LABELS`, and whether they were chosen on the scored rows."""
    thresholds: Mapping[str, float] = numbers.get("thresholds") or {}
    if not thresholds:
        return
    shown = ", ".join(f"{name} {value:.3g}" for name, value in list(thresholds.items())[:MOST_LABELS])
    more = f" and {len(thresholds) - MOST_LABELS} more" if len(thresholds) > MOST_LABELS else ""
    chosen = numbers.get("thresholds_from")
    optimistic = ", so these scores are optimistic" if chosen is not None and chosen == split else ""
    where = f" (chosen on {chosen} rows{optimistic})" if chosen else ""
    yield f"  thresholds{where}: {shown}{more}"


def _rows_line(results: Mapping[str, Any]) -> str:
    """The scored split or file, and the number of rows of each source."""
    rows = ", ".join(f"{source} {number}" for source, number in results["rows"].items())
    which = f"rows of {results['data']}" if "data" in results else f"{results.get('split', 'scored')} rows"
    return f"{which}: {rows}"


def _experts_table(usage: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The mean weight of each expert by task, and the overlap of the mixtures of each two tasks."""
    numbers = range(1, 1 + len(next(iter(usage.values()))))
    yield f"{'mean weight of expert':<24}{''.join(f'{number:>8}' for number in numbers)}"
    for task, weights in usage.items():
        yield f"{task:<24}{''.join(f'{weight:>8.2f}' for weight in weights)}"
    for (one, first), (other, second) in itertools.combinations(usage.items(), 2):
        yield f"The mean mixtures of {one} and {other} overlap by {sum(map(min, first, second)):.0%}."


def _layers_table(mixes: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The weight of each layer by task, 0 for the output of the embeddings."""
    numbers = range(len(next(iter(mixes.values()))))
    yield f"{'weight of layer':<24}{''.join(f'{number:>8}' for number in numbers)}"
    for task, weights in mixes.items():
        yield f"{task:<24}{''.join(f'{weight:>8.3f}' for weight in weights)}"


def _unchanged_line(numbers: Mapping[str, Any]) -> str:
    """Score before → after of a task whose head was not trained, and whether its predictions changed."""
    primary, drift = numbers["primary"], numbers["drift"]
    before, after = (show_number(primary, found[primary]) for found in (numbers["before"], numbers))
    what = f"unchanged, all {drift['rows']:,} predictions"
    if not numbers["unchanged"]:
        what = f"CHANGED, {drift['changed']:,} of {drift['rows']:,} predictions"
    bits = ", bit for bit" if drift["logits"] == 0 else f", logits by at most {drift['logits']:.2g}"
    return f"  head not trained: {before} \u2192 {after}, {what}{bits}"


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Model → its name without the parent folders that all models share."""
    parts = {}
    for model in models:
        own = Path(model).parts
        parts[model] = Path(model).absolute().resolve().parts if not own or ".." in own else own
    shared = 0
    while all(len(own) > shared + 1 for own in parts.values()) and len({own[shared] for own in parts.values()}) == 1:
        shared += 1
    return {model: str(Path(*own[shared:])) for model, own in parts.items()}


def folder_names(models: Sequence[str]) -> dict[str, str]:
    """Model → a folder name made of its short name; duplicates (`x/y` and `x-y` give `x-y`) get a number."""
    names: dict[str, str] = {}
    for model, short in short_names(models).items():
        plain = name = short.strip("/").replace("/", "-")
        number = 1
        while name in names.values():
            number += 1
            name = f"{plain}-{number}"
        names[model] = name
    return names


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Several models side by side by the primary metric of each task, times 100, with differences to the first.

    Args:
        comparison: The result of `evaluate` for several models.
    """
    short = short_names(list(comparison["models"]))
    first, *others = short
    reference = comparison["models"][first]
    table: list[list[str]] = [[*short.values(), *(f"{short[other]} - {short[first]}" for other in others)]]
    named = [f"{'task':<24}{'metric':<16}"]

    def add(task: str, metric: str, values: list[Any], differences: list[Mapping[str, Any]]) -> None:
        cells = ["-" if value is None else show_number(metric, value) for value in values]
        for found in differences:
            difference = found.get("difference")
            shown = "-" if difference is None else show_number(metric, difference, sign="+")
            if "interval" in found:
                shown += " ({} to {})".format(*(show_number(metric, end, sign="+") for end in found["interval"]))
            cells.append(shown)
        named.append(f"{task:<24}{metric:<16}")
        table.append(cells)

    def differences(*path: str) -> list[Mapping[str, Any]]:
        found: list[Any] = []
        for other in others:
            value: Any = comparison["differences"][other]
            for key in path:
                value = value[key]
            found.append(value if isinstance(value, Mapping) else {"difference": value})
        return found

    for task, numbers in reference["tasks"].items():
        metric = numbers["primary"]
        scores = [result["tasks"][task].get(metric) for result in comparison["models"].values()]
        add(task, metric, scores, differences("tasks", task))
    for source in reference["joint"]:
        joint = [result["joint"][source] for result in comparison["models"].values()]
        add("all tasks right", source, joint, differences("joint", source))
    add("score", "", [result["score"] for result in comparison["models"].values()], differences("score"))
    widths = [max(10, 2 + max(map(len, column))) for column in zip(*table, strict=True)]
    lines = [
        name + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in zip(named, table, strict=True)
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines.append(f"({_rows_line(reference)}; in brackets 95 % intervals of the difference, by a paired bootstrap)")
    return "\n".join(lines)


def write_comparison(folder: Path, comparison: Mapping[str, Any]) -> None:
    """Write `comparison.json`, and `comparison.csv` with one line per model, task and metric."""
    write_atomic(folder / "comparison.json", json_text(comparison) + "\n")
    with atomic_file(folder / "comparison.csv") as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "metric", "model", "value", "difference", "low", "high"])
        for model, results in comparison["models"].items():
            writer.writerows(_lines(model, results, comparison))


def json_value(value: Any) -> Any:
    """Convert a value for JSON: arrays become lists, NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {key: json_value(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, margin: str = "\n") -> str:
    """Format a value as indented JSON, with lists and mappings of plain values (such as matrix rows) on one line.

    Args:
        value: A JSON value.
        margin: Line break and indentation that each line starts with.
    """
    items = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
    if not any(isinstance(item, Mapping | list) for item in items):
        return json.dumps(value, ensure_ascii=False)
    lines = [json_text(item, margin + "  ") for item in items]
    if isinstance(value, Mapping):
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {line}" for key, line in zip(value, lines, strict=True)]
    opening, closing = "{}" if isinstance(value, Mapping) else "[]"
    return opening + ",".join(f"{margin}  {line}" for line in lines) + margin + closing


def _lines(model: str, results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Lines of the CSV; differences are to the first model, `low` and `high` are the ends of their interval."""
    first = next(iter(comparison["models"].values()))
    own = comparison["differences"].get(model)

    def line(task: str, metric: str, value: Any, reference: Any, interval: Sequence[float] | None = None) -> list[Any]:
        known = own is not None and value is not None and reference is not None
        return [task, metric, model, value, value - reference if known else None, *(interval or (None, None))]

    for task, numbers in results["tasks"].items():
        found = own["tasks"][task] if own else {}
        for metric, value in numbers.items():
            if isinstance(value, float) and metric != "baseline":
                interval = found.get("interval") if found.get("metric") == metric else None
                yield line(task, metric, value, first["tasks"][task].get(metric), interval)
    for source, value in results["joint"].items():
        yield line("all tasks right", source, value, first["joint"][source])
    alike = own is None or own["score"] is not None  # else they are means of different metrics
    yield line("score", "", results["score"], first["score"] if alike else None)


_SHOWN = (
    "accuracy",
    "accuracy_raw_text",
    "f1",
    "f1_raw_text",
    "macro_f1",
    "micro_f1",
    "precision",
    "recall",
    "pearson",
    "spearman",
    "mrr",
    "mse",
    "perplexity",
    "cross_entropy",
)
