"""The rows of one source, with the labels that tasks read in them."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .arrow_columns import column_of, join_words, values_of

if TYPE_CHECKING:
    import datasets


@dataclass
class SourceData:
    """A loaded and checked source.

    Attributes:
        name: Its name in the config.
        form: What its texts are: `string`, `words`, `pair` or `choices` (`modeling.encoding.FORMS`).
        columns: Its text column, or two for a pair; of choices the text, and the column or the columns with them.
        splits: Split → rows as they were loaded.
        gold: Split → task → the label of each row as names: a string, a list of them, a number, or None.
        origins: Split → the loaded split and row numbers that its rows came from, where rows were moved or dropped.
        untyped: Whether its files are CSV, in which numbers are text too.
    """

    name: str
    form: str
    columns: list[str]
    splits: "dict[str, datasets.Dataset]"
    gold: dict[str, dict[str, Sequence[Any]]] = field(default_factory=lambda: collections.defaultdict(dict))
    origins: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    untyped: bool = False

    def keep(self, split: str, rows: Sequence[int], of: str | None = None) -> None:
        """Make a split of some rows of one (of itself by default), and remember where they came from."""
        of = of or split
        loaded, numbers = self.origin(of)
        self.splits[split] = self.splits[of].select(rows)
        self.origins[split] = (loaded, [numbers[row] for row in rows])

    def where(self, split: str, row: int) -> str:
        """A row as messages name it: by its split and number (from 1) in what was loaded."""
        loaded, numbers = self.origin(split)
        return f"row {numbers[row] + 1} of the split {loaded!r} of source {self.name!r}"

    def origin(self, split: str) -> tuple[str, Sequence[int]]:
        """The loaded split and the row numbers (from 0) that the rows of a split came from."""
        return self.origins.get(split, (split, range(len(self.splits[split]))))

    def texts(self, split: str, rows: Sequence[int] | None = None) -> list[Any]:
        """The texts of a split, or of some of its rows.

        They are strings, lists of words, tuples of two strings, or of a string and a list of strings.
        """
        of = self.splits[split] if rows is None else self.splits[split].select(rows)
        return join_columns(self.form, [values_of(of, column) for column in self.columns])

    def joined_texts(self, split: str) -> list[Any]:
        """As `texts`, with the words of a list as lines of one string, which takes a tenth of the time."""
        if self.form != "words":
            return self.texts(split)
        return join_words(column_of(self.splits[split], self.columns[0])).to_pylist()

    def content(self, split: str) -> list[Any]:
        """What identifies the texts of a split, as JSON can write it."""
        return [split, self.form, self.columns, self.splits[split]._fingerprint]


def join_columns(form: str, columns: Sequence[Sequence[Any]]) -> list[Any]:
    """The texts of rows, from their text columns."""
    if form == "pair":
        return list(zip(*columns, strict=True))
    if form == "choices":
        first, *others = columns
        choices = others[0] if len(others) == 1 else map(list, zip(*others, strict=True))
        return list(zip(first, choices, strict=True))
    return list(columns[0])
