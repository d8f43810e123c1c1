"""What a column of a file holds, and what it could teach: by this `mtl-hf init` finds the task type of a column."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

MAX_LABELS = 200  # more different values than this are no labels
MAX_NUMBERS = 20  # more different whole numbers than this are a quantity


@dataclass
class Column:
    """What one column holds.

    Attributes:
        name: Its name.
        kind: `string`, `words` (lists of strings), `numbers` (lists of numbers or of true and false), `number`,
            `truth`, `date` or `other`.
        num_missing: Rows without a value: null, NaN, an empty or blank string.
        num_blank: Of strings and lists of strings, the rows that a source could not read as text.
        num_values: Values that are there; of lists, items.
        num_distinct: Different ones among them; spaces around strings do not count.
        common: The five most frequent of them, as text, with their counts.
        lengths: Words of each row, shape (rows,); of lists, items; -1 where the value is missing. Empty for numbers.
        longest: Characters that one row in a hundred exceeds.
        bounds: Least and greatest number; None where it holds none.
        mean: Of its numbers; 0 where it holds none.
        deviation: Their standard deviation.
        whole: Whether its numbers are all whole.
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
    """A column beside the text, which may hold labels.

    Attributes:
        column: What it holds.
        aligned: Of lists, whether there is an item for each word of the text, in nearly every row.
        few_names: Whether it holds few short strings that come again.
        code: Whether its numbers may be codes: few of them in a CSV file, under the name of a class.
        quantity: Whether its numbers measure something: not whole, or many different ones.
        only_number: Whether texts are pairs and it is the only number beside them, without any names.
    """

    column: Column
    aligned: bool = False
    few_names: bool = False
    code: bool = False
    quantity: bool = False
    only_number: bool = False


def one_hot_length(column: Column, values: Iterable[Any]) -> int:
    """The length of a column's lists where all have one and hold only 0 and 1; 0 where they are no one-hot lists."""
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
    """A value as labels are named: CSV makes 1.0 of whole numbers beside empty cells."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
