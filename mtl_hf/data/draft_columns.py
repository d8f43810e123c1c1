"""Detect which column of a file is its text, and which task type another column has labels of.

Notable: detection uses mainly values; names of columns only help.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ..tasks import TASK_TYPES
from ..tasks.column import MAX_LABELS, MAX_NUMBERS, Candidate, Column
from .describe_file import PAIR_COLUMNS, TEXT_COLUMNS, FileDescription
from .draft_source import quoted
from .file_groups import SPLIT_WORDS
from .shapes import Shape, column_shapes, file_shape

Ask = Callable[[str, Sequence[str]], str]  # a question and its possible answers → one of them

_ID = re.compile(r"(?i)(.*[_ -])?(id|ids|uuid|guid|idx|index|url|uri|hash)|unnamed: ?\d+|\w*[a-z]I[dD]")
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T]\d.*)?")
_SCORE = re.compile(r"(?i)(.*[_ -])?(score|scores|rating|stars|label|target|value|y|similarity|relatedness)")
_CLASS = re.compile(r"(?i)(.*[_ -])?(label|class|target|category|intent|topic)([_ -]?id)?")


def find_shapes(file: FileDescription, given: Mapping[str, str | None]) -> dict[str, Shape]:
    """The columns whose shape is not supported, without those that `--label` gives a task type.

    Raises:
        ValueError: The shape of the whole file, or of a column that `--label` names without a type, is not supported.
    """
    shape = file_shape(file)
    if shape is not None and not any(given.values()):
        raise ValueError(f"{file.path} {shape}.")
    shapes = {name: shape for name, shape in column_shapes(file).items() if not given.get(name)}
    for name in given:
        if name in shapes:
            raise ValueError(f"`--label {name}`: this column of {file.path} {shapes[name]}.")
    return shapes


def name_shapes(file: FileDescription, shapes: Mapping[str, Shape]) -> str:
    """The columns of a file whose shape is not supported, with what to convert them to."""
    return f"{file.path}: the column " + " The column ".join(f"{name!r} {shape}." for name, shape in shapes.items())


def choose_text(
    file: FileDescription,
    exclude: Collection[str] = (),
    shapes: Mapping[str, Shape] | None = None,
    ask: Ask | None = None,
) -> list[str]:
    """Choose the text column of a file, or the two of a pair.

    Args:
        file: The file.
        exclude: Label columns.
        shapes: Columns with an unsupported shape.
        ask: Prompts the user if the text column is ambiguous; None to raise an error instead.

    Raises:
        ValueError: No column could be the text, or several could.
    """
    shapes = shapes or {}
    columns = [column for column in file.columns.values() if column.name not in (*exclude, *shapes)]
    strings = [column.name for column in columns if column.kind == "string" and column.num_values]
    for pair in PAIR_COLUMNS:
        if set(pair) <= set(strings):
            return list(pair)
    lists = [column for column in columns if column.kind == "words" and column.num_values]
    words = [column for column in lists if column.name in TEXT_COLUMNS]
    if not words:  # of list columns with equal lengths (words and tags), the one with the most distinct values
        aligned = [column for column in lists if any(_aligned(column, other) for other in lists if other is not column)]
        words = [max(aligned, key=lambda column: column.num_distinct)] if aligned else []
    likely = [column.name for column in words] or [
        column.name for column in columns if column.name in strings and _is_text(column)
    ]
    if not likely:
        likely = [name for name in strings if name in TEXT_COLUMNS]
    words_of = {name: float(np.median(file.columns[name].lengths)) for name in likely}
    longest = max(words_of.values(), default=0)
    likely = [name for name in likely if words_of[name] > 2 or longest < 6]  # not a place or name beside a longer text
    if len(likely) > 1 and len(usual := [name for name in likely if name in TEXT_COLUMNS]) == 1:
        likely = usual
    if len(likely) == 1:
        return likely
    options = likely or [name for name in strings if not _ID.fullmatch(name)]
    if not options and len(lists) == 1:
        return [lists[0].name]
    if not options and shapes:
        raise ValueError(name_shapes(file, shapes))
    if not options:
        raise ValueError(f"{file.path} has no column with text (strings, or lists of words); it has:"
                         f" {', '.join(file.columns)}.")  # fmt: skip
    if len(options) == 2:
        options = [*options, ",".join(options)]
    found = f"{' and '.join(likely)} could all be" if likely else "none looks like"
    question = f"{file.path} has the columns {', '.join(file.columns)}: {found} the text that the encoder reads"
    if ask is None:
        raise ValueError(f"{question}. Choose it with {' or '.join(f'`--text {option}`' for option in options)}"
                         f"{'' if len(options) == 3 else ' (FIRST,SECOND for pairs)'}.")  # fmt: skip
    return ask(f"{question}. Which is it?", options).split(",")


def _is_text(column: Column) -> bool:
    """Whether a column has strings of several words that are mostly distinct."""
    lengths = column.lengths[column.lengths >= 0]
    several = bool(len(lengths)) and float(np.mean(lengths)) >= 2 and not _ID.fullmatch(column.name)
    return several and not _is_label(column) and not _is_date(column) and column.num_distinct > column.num_values / 4


def _is_date(column: Column) -> bool:
    """Whether a column has dates, or strings that look like dates."""
    values = [value for value, _ in column.common]
    return column.kind == "date" or (column.kind == "string" and bool(values) and all(map(_DATE.fullmatch, values)))


def _is_label(column: Column) -> bool:
    """Whether a column has few distinct short strings, which repeat."""
    lengths = column.lengths[column.lengths >= 0]
    short = bool(len(lengths)) and float(np.median(lengths)) <= 5
    return short and column.num_distinct <= min(MAX_LABELS, column.num_values / 2)


def _aligned(first: Column, second: Column) -> bool:
    """Whether the lists of two columns have equal lengths in nearly every row that has both."""
    both = (first.lengths >= 0) & (second.lengths >= 0)
    return bool(both.any()) and float((first.lengths == second.lengths)[both].mean()) >= 0.9


def task_type_of(column: Column, file: FileDescription, text: Sequence[str]) -> tuple[str | None, str]:
    """Detect the task type of a column other than the text.

    Args:
        column: The column.
        file: Its file.
        text: The text columns.

    Returns:
        The task type, or None if the column is left out; and a remark or the reason, which may be empty.
    """
    if _is_date(column):
        return None, "dates: not labels of the text"
    if not column.num_values:
        return None, "empty" if column.kind != "other" else "neither text, labels nor numbers"
    if column.num_distinct < 2:
        return None, f"always {quoted(column.common[0][0])}"
    found = _candidate(column, file, text)
    lists = column.kind in ("words", "numbers")
    if lists and not found.aligned and column.num_distinct > min(MAX_LABELS * 5, column.num_values / 2):
        return None, f"lists of {column.num_distinct:,} different values: too many for labels"
    if not lists and column.kind != "truth":
        if _is_id(column):
            return None, "an id: not a label of the text"
        if column.kind == "number" and not all(map(math.isfinite, column.bounds or ())):
            row = next(row for row, value in enumerate(file.rows[column.name]) if value in (math.inf, -math.inf))
            return None, f"row {row + 1} has {file.rows[row][column.name]}, which is not a finite number: correct it"
        if column.kind != "number" and {value.lower() for value, _ in column.common} <= SPLIT_WORDS.keys():
            return None, "the split of a row: write one file per split, such as train.csv and test.csv"
    for name, kind in TASK_TYPES.items():
        if (decided := kind.recognise(found)) is not None:
            taken, why = decided
            return (name if taken else None), why
    if _is_text(column):
        return None, f"another text: `--text {','.join([*text, column.name][:2])}` reads both as a pair"
    return None, f"{column.num_distinct:,} different values: to use them as labels, add `--label {column.name}`"


def _is_id(column: Column) -> bool:
    """Whether a column has ids of rows: by its name, or because its values are unique."""
    if _ID.fullmatch(column.name) and not _CLASS.fullmatch(column.name):
        return True
    once = column.num_distinct == column.num_values > 2 and not _SCORE.fullmatch(column.name)
    return once and (column.whole if column.kind == "number" else int(column.lengths.max()) == 1)


def _candidate(column: Column, file: FileDescription, text: Sequence[str]) -> Candidate:
    """The properties of a column from which its task type is detected."""
    if column.kind in ("words", "numbers"):
        words = file.columns[text[0]]
        return Candidate(column, aligned=len(text) == 1 and words.kind == "words" and _aligned(column, words))
    if column.kind != "number":
        return Candidate(column, few_names=column.kind != "truth" and _is_label(column))
    named = bool(_CLASS.fullmatch(column.name))
    few = column.num_distinct <= min(MAX_NUMBERS, column.num_values / 10)
    code = named and few and file.is_csv and len(text) == 1  # 1.0, 1.1: may be codes
    measures = not column.whole or column.num_distinct > (MAX_LABELS if named else MAX_NUMBERS)
    return Candidate(column, code=code, quantity=measures and not code, only_number=_is_only_number(file, text))


def _is_only_number(file: FileDescription, text: Sequence[str]) -> bool:
    """Whether texts are pairs with a single numeric column, and without a column of label names."""
    others = [column for column in file.columns.values() if column.name not in text]
    numbers = [column for column in others if column.kind == "number" and not _ID.fullmatch(column.name)]
    names = any(column.kind == "string" and _is_label(column) for column in others)
    return len(text) == 2 and len(numbers) == 1 and not names


def forced_type(column: Column) -> str:
    """The default task type of a column that the user names as a label column."""
    return next(name for name, kind in TASK_TYPES.items() if kind.takes(Candidate(column)))


def check_type(column: Column, name: str, file: FileDescription) -> None:
    """Raise `ValueError` if a column cannot hold labels of the task type that the user chose."""
    kind = TASK_TYPES[name]
    if column.kind not in kind.column_kinds or not column.num_values or kind.label is None:
        takes = kind.label or "no label column"
        shown = ", ".join(quoted(value) for value, _ in column.common[:3]) or "nothing of use"
        raise ValueError(
            f"`--label {column.name}={name}`: {name} takes {takes}, but the column {column.name!r} of {file.path} holds"
            f" {shown}."
        )
