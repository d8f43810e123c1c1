"""`multiple_choice`: the right one of the choices of a row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import Task
from ..modeling.tags import IGNORE_INDEX
from ..statistics import mean
from .arrow_columns import feature_of
from .measures import cross_entropies, equal, with_cross_entropy
from .names import find_class_label, most_common, no_label
from .source_data import SourceData
from .task_type import Answers, Labels, Measured, ScoredRows, TaskData, TaskType


class MultipleChoice(TaskType):
    """Accuracy of choices, and the cross-entropy of the right one."""

    name = "multiple_choice"
    label = "the right choice: its number, from 0, or its letter, from A"
    metrics = ("accuracy", "cross_entropy")
    rejects = ("labels", "label_smoothing")
    hub_task = "multiple-choice"

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """Numbers from 0, None for rows without a label."""
        labels: dict[str, list[Any]] = {}
        for split, rows in source.splits.items():
            counts = [len(choices) for _, choices in source.texts(split)]
            hidden = find_class_label(feature_of(rows, str(spec.label))) is not None
            labels[split] = []
            for row, (value, count) in enumerate(zip(rows[spec.label], counts, strict=True)):
                number = _number(value)
                if number is None and not _is_missing(value, hidden):
                    raise no_label(name, spec, source, split, row, value)
                if count < 2 or (number is not None and number >= count):
                    raise ValueError(
                        f"`tasks.{name}`: {source.where(split, row)} has {count} choice{'s' * (count != 1)} in"
                        f" {' and '.join(source.columns[1:])!r} and the label {value!r} in the column {spec.label!r};"
                        " there should be at least two choices, and the label should be the number of one, from 0."
                    )
                labels[split].append(number)
        return labels

    # ---- encoded rows ----

    def feature(self) -> Any:
        """The number of a choice."""
        import datasets

        return datasets.Value("int32")

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """Numbers."""
        return [IGNORE_INDEX if label is None else label for label in gold]

    def collate(self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]) -> Labels:
        """Numbers of choices, (B,)."""
        numbers = labels.to_numpy().astype(np.int64)
        return numbers, numbers != IGNORE_INDEX

    # ---- scores ----

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """The answers, with the cross-entropy of each row."""
        answers = super().read_answers(task, rows)
        answers.losses = cross_entropies(rows.outputs[rows.known], np.array(answers.gold, dtype=int))
        answers.num_losses = np.ones(len(answers.rows), dtype=int)
        return answers

    def evaluate_features(self) -> tuple[Any, Any]:
        """A number."""
        import datasets

        return datasets.Value("int64"), datasets.Value("int64")

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """One number per row."""
        return with_cross_entropy({"accuracy": mean(equal(answers.predicted, answers.gold))}, answers), {}

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The most frequent number."""
        return [most_common(gold)] * len(gold)

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """A choice."""
        return "the best of its choices", '{"choice": ..., "text": ..., "score": ...}'


def _is_missing(value: Any, hidden: bool) -> bool:
    """Whether a row has no label; with `hidden`, -1 is a label that is not published, as in many test splits."""
    return value is None or value == "" or value != value or (hidden and value == -1)


def _number(value: Any) -> int | None:
    """Convert a label to the number of a choice; None if it is not a number or letter."""
    if isinstance(value, str):
        value = value.strip()
        if len(value) == 1 and "A" <= value.upper() <= "Z":
            return ord(value.upper()) - ord("A")
        return int(value) if value.isdecimal() else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
        return None
    return int(value) if value == int(value) else None
