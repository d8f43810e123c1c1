"""Tests of `mtl_hf.evaluation.report`: the labels and thresholds of a task in the table of a run."""

from typing import Any

from mtl_hf.evaluation.report import MOST_LABELS, scores_table


def results_of(**tasks: Any) -> dict[str, Any]:
    return {"split": "test", "score": 0.5, "tasks": tasks, "joint": {}, "rows": {"rows": 9}}


def numbers(f1: float, support: int) -> dict[str, Any]:
    return {"f1": f1, "precision": f1, "recall": f1, "support": support}


def test_labels_are_shown_worst_first_with_their_support() -> None:
    labels = {
        "fine": numbers(0.9, 1200),
        "rare": numbers(0.25, 3),
        "none": numbers(0.25, 40),
        "x" * 30: numbers(1.0, 5),
    }
    task = {"accuracy": 0.8, "primary": "accuracy", "per_label": labels}
    lines = scores_table(results_of(kind=task, names=task | {"per_type": {"city": numbers(0.5, 2)}, "per_label": {}}))
    lines = lines.splitlines()
    assert lines[2:9] == [
        "kind                    accuracy           80.00",
        "  label                 support               f1",
        "  none                  40                 25.00",
        "  rare                  3                  25.00",
        "  fine                  1,200              90.00",
        f"  {'x' * 20}\u2026 5                 100.00",
        "names                   accuracy           80.00",
    ]
    assert lines[10] == "  city                  2                  50.00"


def test_at_most_ten_labels_of_a_task_are_shown() -> None:
    labels = {f"label {place}": numbers(place / 100, 1) for place in reversed(range(23))}
    table = scores_table(results_of(kind={"accuracy": 0.8, "primary": "accuracy", "per_label": labels})).splitlines()
    shown = [line.split()[1] for line in table if line.startswith("  label ") and "support" not in line]
    assert shown == [str(place) for place in range(MOST_LABELS)]
    assert "  and 13 more in metrics.json" in table


def test_tasks_without_labels_have_no_block() -> None:
    assert "support" not in scores_table(results_of(stars={"pearson": 0.8, "primary": "pearson"}))


def test_thresholds_are_shown_with_the_rows_that_they_were_chosen_on() -> None:
    task = {"macro_f1": 0.8, "primary": "macro_f1", "thresholds": {"a": 0.25, "b": 0.5}}
    assert "  thresholds: a 0.25, b 0.5" in scores_table(results_of(kind=task)).splitlines()
    tuned = task | {"thresholds_from": "validation"}
    assert (
        "  thresholds (chosen on validation rows): a 0.25, b 0.5" in scores_table(results_of(kind=tuned)).splitlines()
    )
    on_them = scores_table(results_of(kind=tuned) | {"split": "validation"})
    assert "  thresholds (chosen on validation rows, so these scores are optimistic): a 0.25, b 0.5" in on_them
