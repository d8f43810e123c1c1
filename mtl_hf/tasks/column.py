"""Statistics of a column, from which `mtl-hf init` detects the task type of a column."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

MAX_LABELS = 200  # a column with more distinct values does not hold labels
MAX_NUMBERS = 20  # a column with more distinct whole numbers holds a quantity


@dataclass
class Column:
    """Statistics of one column.

    Attributes:
        name: Name of the column.
        kind: `string`, `words` (lists of strings), `numbers` (lists of numbers or booleans), `number`, `truth`
            (booleans), `date` or `other`.
        num_missing: Number of rows without a value: null, NaN, an empty or blank string.
        num_blank: For strings and lists of strings: number of rows that a source could not read as text.
        num_values: Number of values that are not missing; for lists, of items.
        num_distinct: Number of distinct values, without spaces around strings.
        common: The five most frequent values, as text, with their counts.
        lengths: Number of words (for lists, of items) of each row, (rows,); -1 if missing. Empty for numbers.
        longest: 99th percentile of the number of characters.
        bounds: Smallest and largest number; None without numbers.
        mean: Mean of its numbers; 0 without numbers.
        deviation: Standard deviation of its numbers.
        whole: Whether all of its numbers are whole.
    """

    name: str
    kind: Literal["string", "words", "numbers", "number", "truth", "date", "other"]
    num_missing: int = 0
    num_blank: int = 0
    num_values: int = 0
    num_distinct: int = 0
    common: list[tuple[str, int]] = field(default_factory=list)
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    longest: int = 0
    bounds: tuple[float, float] | None = None
    mean: float = 0.0
    deviation: float = 0.0
    whole: bool = False


@dataclass(frozen=True)
class Candidate:
    """A column that may hold labels.

    Attributes:
        column: Its statistics.
        aligned: Whether its lists have one item per word of the text, in nearly every row.
        few_names: Whether it has a few short strings that repeat.
        code: Whether its numbers may be codes: few distinct ones in a CSV file, in a column named like a class.
        quantity: Whether its numbers are a quantity: not whole, or many distinct ones.
        only_number: Whether texts are pairs, and it is the only numeric column and there is no column of names.
    """

    column: Column
    aligned: bool = False
    few_names: bool = False
    code: bool = False
    quantity: bool = False
    only_number: bool = False


@dataclass(frozen=True)
class TaskColumns:
    """The columns of a file whose rows are made for one task type, such as questions with choices.

    Attributes:
        text: Text columns in the order of `sources.<name>.text`.
        label: Label column.
        taken_for: What the rows were taken for, for a comment.
        problem: Why the labels cannot be read as they are, and what to convert; empty if they can.
    """

    text: list[str]
    label: str
    taken_for: str
    problem: str = ""


def one_hot_length(column: Column, values: Iterable[Any]) -> int:
    """The common length of a column's one-hot lists (of 0 and 1, all of one length); 0 if it has other values."""
    lengths = {int(length) for length in column.lengths[column.lengths >= 0]}
    items = {label_name(item) for value in values if value is not None for item in value}
    one_hot = (
        column.kind == "numbers"
        and len(lengths) == 1
        and max(lengths) > 1
        and (items <= {"0", "1"} or items <= {"true", "false"})
    )
    return lengths.pop() if one_hot else 0


def label_name(value: Any) -> str:
    """The label name of a value. CSV reads a whole number as 1.0 if the column has empty cells; it becomes "1"."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
