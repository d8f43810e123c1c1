"""CPU seconds of the bootstrap interval of each metric of each task type, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py
    OMP_NUM_THREADS=1 python benchmarks/intervals.py --rows 100000 --labels 500

The answers are random, about a third of them wrong, for texts of 20 words. The time is that from the answers of all
rows to the two ends of the interval.
"""

import argparse
import time
from typing import Any

import numpy as np

from mtl_hf.config import Task
from mtl_hf.metrics import interval, metric_names
from mtl_hf.tasks import Answers, TaskData

WORDS = 20


def make_cases(num_rows: int, num_labels: int) -> dict[str, tuple[TaskData, Answers]]:
    """Create a task of each kind with answers for `num_rows` rows."""
    rng = np.random.default_rng(0)
    labels = [f"label {number}" for number in range(num_labels)]
    tags = ["O", *(f"{letter}-{number}" for number in range(num_labels // 2) for letter in "BI")]
    numbers = rng.normal(size=num_rows)

    def names(names: list[str], *shape: int) -> list[Any]:
        return np.array(names, dtype=object)[rng.integers(len(names), size=shape)].tolist()

    def spoil(gold: list[Any], other: list[Any]) -> list[Any]:
        return [guess if wrong else label
                for label, guess, wrong in zip(gold, other, rng.random(len(gold)) < 1 / 3, strict=True)]  # fmt: skip

    def case(kind: str, predicted: list[Any], gold: list[Any], vocabulary: list[str], **losses: np.ndarray) -> Any:
        label = None if kind in ("ranks", "masked_lm") else "label"
        task_type = {"ranks": "sentence_similarity", "spans": "token_classification"}.get(kind, kind)
        task = TaskData(kind, Task(type=task_type, source="only", label=label), vocabulary, "string", kind == "spans")
        return task, Answers(np.arange(num_rows), predicted, gold, **losses)

    per_row = {"losses": rng.gamma(1, size=num_rows), "num_losses": np.ones(num_rows, dtype=int)}
    per_word = {"losses": rng.gamma(1, size=num_rows * WORDS), "num_losses": np.full(num_rows, WORDS)}
    classes = names(labels, num_rows)
    sets = [sorted(set(row)) for row in names(labels, num_rows, 3)]
    words, spans = names(labels, num_rows, WORDS), names(tags, num_rows, WORDS)
    masked = np.stack([rng.gamma(WORDS, size=num_rows), rng.integers(WORDS, size=num_rows)], axis=1).tolist()
    noisy = (numbers + rng.normal(size=num_rows)).tolist()
    ranks = rng.integers(1, 10, num_rows).astype(float).tolist()
    return {
        "sequence_classification": case(
            "sequence_classification", spoil(classes, names(labels, num_rows)), classes, labels, **per_row
        ),
        "multi_label_classification": case(
            "multi_label_classification", spoil(sets, [[label] for label in classes]), sets, labels, **per_row
        ),
        "token_classification, spans": case(
            "spans", [spoil(row, ["O"] * WORDS) for row in spans], spans, tags, **per_word
        ),
        "multiple_choice": case(
            "multiple_choice", rng.integers(4, size=num_rows).tolist(), [0] * num_rows, [], **per_row
        ),
        "extractive_qa": case(
            "extractive_qa", spoil(classes, names(labels, num_rows)), [[label] for label in classes], [], **per_row
        ),
        "token_classification, words": case(
            "token_classification", [spoil(row, [labels[0]] * WORDS) for row in words], words, labels, **per_word
        ),
        "regression": case("regression", noisy, numbers.tolist(), []),
        "sentence_similarity": case("sentence_similarity", noisy, numbers.round(1).tolist(), []),
        "sentence_similarity, ranks": case("ranks", ranks, [1.0] * num_rows, []),
        "masked_lm": case("masked_lm", masked, [WORDS] * num_rows, []),
    }


def main() -> None:
    """Print one line per metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=50)
    arguments = parser.parse_args()
    worst = 0.0
    print(f"{arguments.rows} rows, {arguments.labels} labels, CPU seconds")
    for name, (task, answers) in make_cases(arguments.rows, arguments.labels).items():
        for metric in metric_names(task):
            task.config.metrics = [metric]
            started = time.process_time()
            interval(task, answers)
            seconds = time.process_time() - started
            worst = max(worst, seconds)
            print(f"{name:<30}{metric:<16}{seconds:>6.2f}", flush=True)
    print(f"slowest {worst:.2f}")


if __name__ == "__main__":
    main()
