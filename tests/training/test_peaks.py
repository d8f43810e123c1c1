"""Tests of `mtl_hf.training.peaks`: when each task was best (that its checkpoint is kept: `test_checkpoints`)."""

import math

from mtl_hf.config import Task
from mtl_hf.tasks import TaskData
from mtl_hf.training.peaks import describe_peaks, find_peaks


def task(name: str, kind: str, **options) -> TaskData:
    return TaskData(name, Task(type=kind, source="only", label="y", **options), ["a", "b"], "string", False)


TASKS = {
    "intent": task("intent", "sequence_classification"),
    "stars": task("stars", "regression", metrics=["mse"]),
    "kept": task("kept", "sequence_classification", train=False),
}
HISTORY = [
    {"step": 1, "loss": 0.5},
    {"step": 2, "eval_score": 0.1, "eval_intent_accuracy": 0.5, "eval_stars_mse": 2.0, "eval_kept_accuracy": 1.0},
    {"step": 4, "eval_score": 0.4, "eval_intent_accuracy": 0.7, "eval_stars_mse": math.nan, "eval_kept_accuracy": 1.0},
    {"step": 6, "eval_score": 0.3, "eval_intent_accuracy": 0.7, "eval_stars_mse": 1.0, "eval_kept_accuracy": 1.0},
    {"step": 8, "eval_score": 0.2, "eval_intent_accuracy": 0.6, "eval_stars_mse": 3.0, "eval_kept_accuracy": 1.0},
]


def test_the_first_of_equal_steps_counts_least_errors_are_best_and_what_is_not_a_number_never_is():
    assert find_peaks(TASKS, HISTORY) == {"intent": (4, 0.7), "stars": (6, 1.0)}
    assert find_peaks(TASKS, HISTORY[:3]) == {"intent": (4, 0.7), "stars": (2, 2.0)}
    assert find_peaks(TASKS, []) == {}


def test_each_peak_is_told_in_a_line_and_the_step_that_was_chosen():
    lines = ["Best: intent accuracy 70.00 at step 4.", "Best: stars mse 1.0000 at step 6."]
    assert describe_peaks(TASKS, HISTORY, None) == lines
    for metric in ("score", "eval_score"):
        assert describe_peaks(TASKS, HISTORY, (metric, 6)) == [*lines, f"Chosen checkpoint: step 6, {metric} 30.00."]
    assert describe_peaks(TASKS, HISTORY, ("score", 5)) == lines, "nothing was scored there"
