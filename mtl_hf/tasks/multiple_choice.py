"""`multiple_choice`: the right one of the choices of a row."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..config import Task
from ..modeling.tags import IGNORE_INDEX
from ..statistics import mean
from .arrow_columns import feature_of
from .column import Column, TaskColumns
from .measures import cross_entropies, equal, with_cross_entropy
from .names import find_class_label, most_common, no_label
from .source_data import SourceData
from .task_type import Answers, Labels, Measured, ScoredRows, TaskData, TaskType

if TYPE_CHECKING:
    import datasets

# Names of columns by which `mtl-hf init` finds questions with choices.
_CHOICES = re.compile(r"(?i)choices|options|endings|candidates|alternatives|answers")
_CHOICE = re.compile(r"(?i)(choice|option|opt|ending|candidate|alternative|answer|solution|sol)[ _-]?(\d|[a-h])")
_LETTER = re.compile(r"()([A-H])")
_QUESTIONS = ("question", "query", "prompt", "stem", "startphrase", "premise", "text", "sentence", "ctx", "context")
_RIGHT = re.compile(r"(?i)(.*[_ -])?(label|answer|answerkey|correct|gold|target|right|key)([_ -].*)?")


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

    # ---- detection by `mtl-hf init` ----

    def find_columns(self, columns: Mapping[str, Column], rows: "datasets.Dataset") -> TaskColumns | None:
        """A text, choices (a column of lists, or a column each), and the number or letter of the right one."""
        choices = _find_choices(columns)
        others = [column for column in columns.values() if column.name not in choices and column.num_values]
        strings = {column.name: column for column in others if column.kind == "string"}
        question = next((name for name in _QUESTIONS if name in strings), None)
        if not choices or question is None:
            return None
        held = rows[choices[0]] if len(choices) == 1 else zip(*(rows[name] for name in choices), strict=True)
        lists = [list(items or ()) for items in held]
        taken = f"questions in {question} with choices in {', '.join(choices)}"
        labels = [column.name for column in others if column.name != question and _RIGHT.fullmatch(column.name)]
        for name in labels:
            if _all_fit(rows[name], lists, _is_number_of):
                return TaskColumns([question, *choices], name, f"{taken}, and the right one in {name}")
        for name in labels:
            if _all_fit(rows[name], lists, _is_number_from_one):
                problem = "has the numbers of the right choices from 1: subtract 1, or write letters from A"
            elif _all_fit(rows[name], lists, lambda value, items: value in items):
                problem = "has the texts of the right choices: write their numbers from 0, or letters from A"
            else:
                continue
            return TaskColumns([question, *choices], name, taken, f"the column {name!r} {problem}")
        return None

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """A comment on the form of the labels."""
        letters = any(isinstance(value, str) and not value.strip().isdecimal() for value in rows if value)
        return {}, "the letter of the right choice" if letters else "the number of the right choice, from 0"

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """A choice."""
        return "the best of its choices", '{"choice": ..., "text": ..., "score": ...}'


def _find_choices(columns: Mapping[str, Column]) -> list[str]:
    """The column with lists of choices, or the columns with a choice each in their order; empty if there are none."""
    for column in columns.values():
        lengths = column.lengths[column.lengths >= 0]
        if column.kind == "words" and _CHOICES.fullmatch(column.name) and len(lengths) and lengths.min() > 1:
            return [column.name]
    names = [name for name, column in columns.items() if column.kind in ("string", "number") and column.num_values]
    found = [match for name in names if (match := _CHOICE.fullmatch(name) or _LETTER.fullmatch(name))]
    found.sort(key=lambda match: (match[1].lower(), match[2].lower()))
    groups = [list(group) for _, group in itertools.groupby(found, key=lambda match: match[1].lower())]
    longest = max(groups, key=len, default=[])
    several = len(longest) > 1 and any(columns[match[0]].kind == "string" for match in longest)
    return [match[0] for match in longest] if several else []


def _all_fit(labels: Iterable[Any], lists: Sequence[list[Any]], fits: Callable[[Any, list[Any]], bool]) -> bool:
    """Whether all labels that are not missing fit the choices of their rows."""
    pairs = [(label, items) for label, items in zip(labels, lists, strict=True) if not _is_missing(label, True)]
    return bool(pairs) and all(fits(label, items) for label, items in pairs)


def _is_number_of(label: Any, items: list[Any]) -> bool:
    number = _number(label)
    return number is not None and number < len(items)


def _is_number_from_one(label: Any, items: list[Any]) -> bool:
    number = _number(label)
    return number is not None and 1 <= number <= len(items)


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
