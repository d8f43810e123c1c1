"""A column of labels, dictionary-encoded: an integer code per item, and each distinct label once.

Notable: a function of labels runs once per distinct label, and a function of a label and the one before it, as for tags
of spans, once per distinct pair. From outside the column is a sequence of labels, like a list.
"""

import collections
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow.compute as pc

from .arrow_columns import column_of, feature_of

if TYPE_CHECKING:
    import datasets


class NameColumn(Sequence[Any]):
    """One list of labels per row: None for a row without a list, and None inside a list for an item without a label.

    With one label per row, each list has one item, and the labels are `items`.

    Args:
        names: The distinct labels, in the order of their first occurrence.
        codes: Index into `names` of each item, -1 for no label, (items,).
        offsets: Index of the first item of each row, and the end of the last row, (rows + 1,).
        missing: Mask of the rows without a list, (rows,).
    """

    def __init__(self, names: list[Any], codes: np.ndarray, offsets: np.ndarray, missing: np.ndarray) -> None:
        self.names, self.codes, self.offsets, self.missing = names, codes, offsets, missing

    @classmethod
    def read(cls, rows: "datasets.Dataset", column: str, *, lists: bool) -> "NameColumn | None":
        """Read a column of plain values, or of lists of them; return None if it holds something else."""
        feature = feature_of(rows, column)
        plain = ("Value", "ClassLabel")  # of `datasets`, which is slow to import
        if lists and type(feature).__name__ in ("List", "LargeList"):
            feature = feature.feature
        elif lists:
            return None
        if type(feature).__name__ not in plain:
            return None
        held = column_of(rows, column).combine_chunks()
        items = (held.flatten() if lists else held).dictionary_encode()  # without those of missing lists
        codes = pc.fill_null(items.indices, -1).to_numpy(zero_copy_only=False)
        if not lists:
            return cls(items.dictionary.to_pylist(), codes, np.arange(len(held) + 1), np.zeros(len(held), dtype=bool))
        lengths = pc.fill_null(pc.list_value_length(held), 0).to_numpy(zero_copy_only=False)
        missing = held.is_null().to_numpy(zero_copy_only=False)
        return cls(items.dictionary.to_pylist(), codes, np.append(0, np.cumsum(lengths)), missing)

    @classmethod
    def of(cls, lists: Iterable[Sequence[Any] | None]) -> "NameColumn":
        """Create a column from Python lists."""
        lists = list(lists)
        numbers: dict[Any, int] = {}  # keys have the type, because 1, 1.0 and True are equal
        codes = [
            -1 if name is None else numbers.setdefault((type(name), name), len(numbers))
            for held in lists
            for name in held or ()
        ]
        lengths = [len(held or ()) for held in lists]
        missing = np.array([held is None for held in lists], dtype=bool)
        names = [name for _, name in numbers]
        return cls(names, np.array(codes, dtype=np.int32), np.append(0, np.cumsum(lengths, dtype=int)), missing)

    def __len__(self) -> int:
        return len(self.missing)

    @property
    def items(self) -> list[Any]:
        """The labels of all items, in the order of the rows."""
        names = np.empty(len(self.names) + 1, dtype=object)
        names[:-1] = self.names
        return names[self.codes].tolist()

    def __iter__(self) -> Iterator[Any]:
        items, ends = self.items, self.offsets.tolist()
        for begin, end, missing in zip(ends, ends[1:], self.missing.tolist(), strict=False):
            yield None if missing else items[begin:end]

    @overload
    def __getitem__(self, row: int) -> Any: ...
    @overload
    def __getitem__(self, row: slice) -> "NameColumn": ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        row = range(len(self))[row]
        if self.missing[row]:
            return None
        return [
            None if code < 0 else self.names[code] for code in self.codes[self.offsets[row] : self.offsets[row + 1]]
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))

    @property
    def lengths(self) -> np.ndarray:
        """Number of items in each row, (rows,)."""
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int] | np.ndarray) -> "NameColumn":
        """Select rows, in the given order."""
        lengths = self.lengths[rows]
        offsets = np.append(0, np.cumsum(lengths))
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return NameColumn(self.names, self.codes[places], offsets, self.missing[rows])

    def rename(self, name_of: Callable[[Any, int], Any]) -> "NameColumn":
        """Map labels to new names; None removes a label.

        Args:
            name_of: (label, first row that has it) → new name. Several labels may get the same name.
        """
        numbers: dict[Any, int] = {}
        new = np.full(len(self.names) + 1, -1, dtype=np.int32)  # the last entry: items without a label
        for code, item in self._first_items():
            if (name := name_of(self.names[code], self.place(item)[0])) is not None:
                new[code] = numbers.setdefault(name, len(numbers))
        return NameColumn(list(numbers), new[self.codes], self.offsets, self.missing)

    def _first_items(self) -> list[tuple[int, int]]:
        """(code, index of its first item) of each code that occurs, sorted by index."""
        first = np.full(len(self.names) + 1, -1)
        first[self.codes[::-1]] = np.arange(len(self.codes))[::-1]
        found = ((code, item) for code, item in enumerate(first[:-1].tolist()) if item >= 0)
        return sorted(found, key=operator.itemgetter(1))

    def rows_of(self, items: np.ndarray) -> np.ndarray:
        """The row of each of the given items."""
        return np.searchsorted(self.offsets, items, side="right") - 1

    def place(self, item: int) -> tuple[int, int]:
        """The row of an item, and its position in the row."""
        row = int(self.rows_of(np.array(item)))
        return row, int(item) - int(self.offsets[row])

    def counts(self) -> dict[Any, int]:
        """Label → number of items that have it, in the order of first occurrence."""
        numbers = np.bincount(self.codes + 1, minlength=len(self.names) + 1)[1:].tolist()
        return {self.names[code]: numbers[code] for code, _ in self._first_items()}

    def items_with(self, names: Iterable[Any]) -> np.ndarray:
        """Indices of the items that have one of these labels, in order."""
        wanted = set(names)
        chosen = np.array([*(name in wanted for name in self.names), False])
        return np.flatnonzero(chosen[self.codes])

    def ids(self, ids: Mapping[Any, int], absent: int) -> np.ndarray:
        """The id of each item's label, (items,); `absent` for no label, and for a label without an id."""
        return np.array([*(ids.get(name, absent) for name in self.names), absent])[self.codes]

    def sets(self) -> "NameColumn":
        """The labels of each row, sorted and without duplicates; every item needs a label."""
        names = sorted(self.names)
        places = {name: place for place, name in enumerate(names)}
        ranks = np.array([places[name] for name in self.names] or [0])[self.codes]
        rows = np.repeat(np.arange(len(self)), self.lengths)
        found = np.unique(rows * max(1, len(names)) + ranks)
        rows, codes = np.divmod(found, max(1, len(names)))
        lengths = np.bincount(rows, minlength=len(self))
        return NameColumn(names, codes, np.append(0, np.cumsum(lengths)), self.missing)

    def labelled(self) -> np.ndarray:
        """Mask of the rows with a label, (rows,): an empty list, or at least one item that is not None."""
        rows = np.repeat(np.arange(len(self)), self.lengths)
        some = np.bincount(rows, self.codes >= 0, len(self)) > 0
        return ~self.missing & (some | (self.lengths == 0))

    # ---- each item with the one before it ----

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The code before each item (`len(names)` at the beginning of a row), and the code of each item."""
        none = len(self.names)
        own = np.where(self.codes < 0, none, self.codes).astype(np.int64)
        before = np.append(none, own[:-1])[: len(own)]
        before[self.offsets[:-1][self.lengths > 0]] = none
        return before, own

    def _kinds(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distinct pair numbers, and the index of each pair's number among them, like `np.unique`."""
        most = (len(self.names) + 1) ** 2
        if most > 1_000_000:
            return np.unique(number, return_inverse=True)
        found = np.flatnonzero(np.bincount(number, minlength=most))  # a tenth of the time of sorting
        places = np.zeros(most, dtype=np.int64)
        places[found] = np.arange(len(found))
        return found, places[number]

    def pairs(self) -> collections.Counter[tuple[Any, Any]]:
        """(label, next label in the row) → count, with None for no label and before and after a row."""
        before, own = self._pairs()
        names = [*self.names, None]
        last = self.offsets[1:][self.lengths > 0] - 1
        number = before * len(names) + own
        found, kinds = self._kinds(np.concatenate([number, own[last] * len(names) + len(self.names)]))
        counts = np.bincount(kinds, minlength=len(found))
        return collections.Counter(
            {
                (names[pair // len(names)], names[pair % len(names)]): count
                for pair, count in zip(found.tolist(), counts.tolist(), strict=True)
            }
        )

    def map_pairs(self, change: Callable[[Any, Any], tuple[Any, bool]]) -> tuple["NameColumn", np.ndarray]:
        """Map labels to new names that may depend on the label before.

        Args:
            change: (label before, label) → (new name, whether to select the item). The label before is the original
                one, None at the beginning of a row.

        Returns:
            The new column, and the indices of the selected items, in order.
        """
        before, own = self._pairs()
        names = [*self.names, None]
        found, kinds = self._kinds(before * len(names) + own)
        numbers: dict[Any, int] = {}
        codes = np.zeros(len(found), dtype=np.int32)
        chosen = np.zeros(len(found), dtype=bool)
        for place, pair in enumerate(found.tolist()):
            name, chosen[place] = change(names[pair // len(names)], names[pair % len(names)])
            codes[place] = -1 if name is None else numbers.setdefault(name, len(numbers))
        return NameColumn(list(numbers), codes[kinds], self.offsets, self.missing), np.flatnonzero(chosen[kinds])
