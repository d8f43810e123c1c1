"""Numbers as a person reads them: one table of scores, with intervals and baselines where there are some."""

from collections.abc import Mapping
from typing import Any


def scores_table(results: Mapping[str, Any]) -> str:
    """The results of `metrics.score` as a table, times 100.

    Args:
        results: With `tasks`, `joint`, `rows` and `score`; `split` if known.
    """
    header = f"{'task':<24}{'metric':<16}{'score':>8}{'95 % interval':>18}{'majority':>10}"
    lines = [header, "-" * len(header)]
    for name, numbers in results["tasks"].items():
        primary = numbers["primary"]
        # With one label a row (where there is a Matthews coefficient) micro F1 is the accuracy.
        same = (primary, "micro_f1") if "matthews" in numbers else (primary,)
        others = [key for key in _SHOWN if key in numbers and key not in same]
        for index, metric in enumerate([primary, *others]):
            interval = baseline = ""
            if index == 0 and "interval" in numbers:
                low, high = numbers["interval"]
                interval, baseline = f"{100 * low:.1f} to {100 * high:.1f}", f"{100 * numbers['baseline']:.1f}"
            value = numbers[metric]
            shown = f"{value:.4f}" if metric in ("cross_entropy", "mse") else f"{100 * value:.2f}"
            lines.append(f"{name if index == 0 else '':<24}{metric:<16}{shown:>8}{interval:>18}{baseline:>10}".rstrip())
        for source, own in numbers.get("per_source", {}).items():
            lines.append(f"  {source:<22}{primary:<16}{100 * own[primary]:>8.2f}")
    for source, value in results["joint"].items():
        lines.append(f"{'all tasks right':<24}{source:<16}{100 * value:>8.2f}")
    lines.append(f"{'score':<40}{100 * results['score']:>8.2f}")
    rows = ", ".join(f"{source} {number}" for source, number in results["rows"].items())
    lines.append(f"({results.get('split', 'scored')} rows: {rows})")
    return "\n".join(lines)


_SHOWN = (
    "accuracy",
    "f1",
    "macro_f1",
    "micro_f1",
    "precision",
    "recall",
    "pearson",
    "spearman",
    "mse",
    "cross_entropy",
)
