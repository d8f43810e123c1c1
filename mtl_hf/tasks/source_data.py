"""The rows of one source, with the labels of its tasks."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .arrow_columns import column_of, join_words, values_of
from .tag_schemes import WrittenTags

if TYPE_CHECKING:
    import datasets


@dataclass
class SourceData:
    """A loaded and checked source.

    Attributes:
        name: Name of the source in the config.
        form: Form of its texts: `string`, `words`, `pair` or `choices` (`modeling.encoding.FORMS`).
        columns: Its text columns: one, two for a pair, or the text and one or more columns of choices.
        splits: Split → its rows.
        gold: Split → task → the label of each row: a name, a list of names, a number, or None.
        origins: Split → the loaded split and the row numbers of its rows, if rows were moved or dropped.
        untyped: Whether its files are CSV, in which numbers are text.
        offsets: Column with the character span (start, end) of each word; None if its texts are not made from strings.
        strings: Column of the strings that its words come from; None if `offsets` is.
        written_tags: Task → how the source writes its tags, if that is not the BIO used here.
    """

    name: str
    form: str
    columns: list[str]
    splits: "dict[str, datasets.Dataset]"
    gold: dict[str, dict[str, Sequence[Any]]] = field(default_factory=lambda: collections.defaultdict(dict))
    origins: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    untyped: bool = False
    offsets: str | None = None
    strings: str | None = None
    written_tags: dict[str, WrittenTags] = field(default_factory=dict)

    def keep(self, split: str, rows: Sequence[int], of: str | None = None) -> None:
        """Set a split to some rows of another split (default: of itself), and record their origin."""
        of = of or split
        loaded, numbers = self.origin(of)
        self.splits[split] = self.splits[of].select(rows)
        self.origins[split] = (loaded, [numbers[row] for row in rows])

    def where(self, split: str, row: int) -> str:
        """Description of a row in messages: its split and number (from 1) in the loaded data."""
        loaded, numbers = self.origin(split)
        return f"row {numbers[row] + 1} of the split {loaded!r} of source {self.name!r}"

    def origin(self, split: str) -> tuple[str, Sequence[int]]:
        """The loaded split of a split's rows, and their row numbers (from 0) in it."""
        return self.origins.get(split, (split, range(len(self.splits[split]))))

    def texts(self, split: str, rows: Sequence[int] | None = None) -> list[Any]:
        """The texts of a split, or of some of its rows.

        Each is a string, a list of words, a tuple of two strings, or a tuple of a string and a list of strings.
        """
        of = self.splits[split] if rows is None else self.splits[split].select(rows)
        return join_columns(self.form, [values_of(of, column) for column in self.columns])

    def strings_of(self, split: str, rows: Sequence[int]) -> list[tuple[str, list[tuple[int, int]]]]:
        """The strings of rows of a split, and the character span of each word; needs `strings` and `offsets`."""
        chosen = self.splits[split].select(rows)
        texts, offsets = (values_of(chosen, str(column)) for column in (self.strings, self.offsets))
        return [(text, [(start, end) for start, end in spans]) for text, spans in zip(texts, offsets, strict=True)]

    def joined_texts(self, split: str) -> list[Any]:
        """`texts`, with lists of words joined to strings by line breaks, which takes a tenth of the time."""
        if self.form != "words":
            return self.texts(split)
        return join_words(column_of(self.splits[split], self.columns[0])).to_pylist()

    def content(self, split: str) -> list[Any]:
        """A JSON value that identifies the texts of a split, for cache keys."""
        return [split, self.form, self.columns, self.splits[split]._fingerprint]


def join_columns(form: str, columns: Sequence[Sequence[Any]]) -> list[Any]:
    """Combine text columns to the texts of rows."""
    if form == "pair":
        return list(zip(*columns, strict=True))
    if form == "choices":
        first, *others = columns
        choices = others[0] if len(others) == 1 else map(list, zip(*others, strict=True))
        return list(zip(first, choices, strict=True))
    return list(columns[0])
