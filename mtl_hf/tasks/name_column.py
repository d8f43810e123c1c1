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

_READ = 20_000  # rows that are read at once
_BLOCK = 2_000  # rows that are worked on at once, so that indices of all items need not be in memory


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
        self.names, self.codes = names, codes.astype(_smallest(len(names)), copy=False)
        self.offsets, self.missing = offsets, missing

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
        held = column_of(rows, column)
        numbers: dict[Any, int] = {}
        codes, lengths, missing = [np.zeros(0, dtype=np.int8)], [np.zeros(0, dtype=int)], [np.zeros(0, dtype=bool)]
        for begin in range(0, len(held), _READ):
            block = held.slice(begin, _READ).combine_chunks()
            items = (block.flatten() if lists else block).dictionary_encode()  # without those of missing lists
            new = [numbers.setdefault(name, len(numbers)) for name in items.dictionary.to_pylist()]
            own = pc.fill_null(items.indices, len(new)).to_numpy(zero_copy_only=False)
            codes.append(np.array([*new, -1], dtype=_smallest(len(numbers)))[own])
            if lists:
                lengths.append(pc.fill_null(pc.list_value_length(block), 0).to_numpy(zero_copy_only=False))
                missing.append(block.is_null().to_numpy(zero_copy_only=False))
        if not lists:
            lengths, missing = [np.ones(len(held), dtype=int)], [np.zeros(len(held), dtype=bool)]
        offsets = np.append(0, np.cumsum(np.concatenate(lengths)))
        return cls(list(numbers), np.concatenate(codes), offsets, np.concatenate(missing))

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
        for block in self.blocks():
            items, ends = block.items, block.offsets.tolist()
            for begin, end, missing in zip(ends, ends[1:], block.missing.tolist(), strict=False):
                yield None if missing else items[begin:end]

    def blocks(self) -> Iterator["NameColumn"]:
        """The rows, some thousand at a time."""
        return (self[begin : begin + _BLOCK] for begin in range(0, len(self), _BLOCK))

    @overload
    def __getitem__(self, row: int) -> Any: ...
    @overload
    def __getitem__(self, row: slice) -> "NameColumn": ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            begin, end, step = row.indices(len(self))
            if step != 1:
                return self.take(np.arange(len(self))[row])
            offsets = self.offsets[begin : max(begin, end) + 1]
            codes = self.codes[offsets[0] : offsets[-1]]
            return NameColumn(self.names, codes, offsets - offsets[0], self.missing[begin:end])
        row = range(len(self))[row]
        if self.missing[row]:
            return None
        return [
            None if code < 0 else self.names[code] for code in self.codes[self.offsets[row] : self.offsets[row + 1]]
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __repr__(self) -> str:
        return repr(list(self))

    @property
    def lengths(self) -> np.ndarray:
        """Number of items in each row, (rows,)."""
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int] | np.ndarray) -> "NameColumn":
        """Some rows, in that order."""
        return NameColumn.join([self], (np.zeros(len(rows), dtype=int), np.asarray(rows, dtype=int)))

    @classmethod
    def join(cls, parts: list["NameColumn"], order: tuple[np.ndarray, np.ndarray] | None = None) -> "NameColumn":
        """The rows of several columns, one after the other.

        Args:
            parts: The columns.
            order: Which column, and which row in it, each row of the result is, (n,) and (n,); by default all rows.
        """
        numbers: dict[Any, int] = {}
        new = [
            np.array([*(numbers.setdefault(name, len(numbers)) for name in part.names), -1], dtype=np.int32)
            for part in parts
        ]
        if order is None:
            which = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            rows = np.concatenate([np.arange(len(part)) for part in parts]) if parts else np.zeros(0, dtype=int)
        else:
            which, rows = order
        lengths, missing = np.zeros(len(rows), dtype=int), np.zeros(len(rows), dtype=bool)
        for number, part in enumerate(parts):
            here = which == number
            lengths[here], missing[here] = part.lengths[rows[here]], part.missing[rows[here]]
        offsets = np.append(0, np.cumsum(lengths))
        codes = np.empty(offsets[-1], dtype=_smallest(len(numbers)))
        for number, part in enumerate(parts):
            (here,) = np.nonzero(which == number)
            for begin in range(0, len(here), _BLOCK):
                to = here[begin : begin + _BLOCK]
                places = ragged(offsets[:-1][to], lengths[to])
                codes[places] = new[number][part.codes[ragged(part.offsets[:-1][rows[to]], lengths[to])]]
        return cls(list(numbers), codes, offsets, missing)

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
        found: dict[int, int] = {}
        begin = 0
        for block in self.blocks():
            codes, first = np.unique(block.codes, return_index=True)
            for code, item in zip(codes.tolist(), first.tolist(), strict=True):
                if code >= 0:
                    found.setdefault(code, begin + item)
            begin += len(block.codes)
        return sorted(found.items(), key=operator.itemgetter(1))

    def rows_of(self, items: np.ndarray) -> np.ndarray:
        """The row of each of the given items."""
        return np.searchsorted(self.offsets, items, side="right") - 1

    def place(self, item: int) -> tuple[int, int]:
        """The row of an item, and its position in the row."""
        row = int(self.rows_of(np.array(item)))
        return row, int(item) - int(self.offsets[row])

    def counts(self) -> dict[Any, int]:
        """Label → number of items that have it, in the order of first occurrence."""
        numbers = np.zeros(len(self.names) + 1, dtype=int)
        for block in self.blocks():
            numbers += np.bincount(block.codes.astype(np.int64) + 1, minlength=len(self.names) + 1)
        return {self.names[code]: int(numbers[code + 1]) for code, _ in self._first_items()}

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
        found = [np.zeros(0, dtype=bool)]
        for block in self.blocks():
            rows = np.repeat(np.arange(len(block)), block.lengths)
            some = np.bincount(rows, block.codes >= 0, len(block)) > 0
            found.append(~block.missing & (some | (block.lengths == 0)))
        return np.concatenate(found)

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
        names, total = [*self.names, None], collections.Counter[tuple[Any, Any]]()
        for block in self.blocks():
            before, own = block._pairs()
            last = block.offsets[1:][block.lengths > 0] - 1
            number = before * len(names) + own
            found, kinds = block._kinds(np.concatenate([number, own[last] * len(names) + len(self.names)]))
            counts = np.bincount(kinds, minlength=len(found))
            for pair, count in zip(found.tolist(), counts.tolist(), strict=True):
                total[names[pair // len(names)], names[pair % len(names)]] += count
        return total

    def map_pairs(self, change: Callable[[Any, Any], tuple[Any, bool]]) -> tuple["NameColumn", np.ndarray]:
        """Map labels to new names that may depend on the label before.

        Args:
            change: (label before, label) → (new name, whether to select the item). The label before is the original
                one, None at the beginning of a row.

        Returns:
            The new column, and the indices of the selected items, in order.
        """
        names = [*self.names, None]
        numbers: dict[Any, int] = {}
        decided: dict[int, tuple[int, bool]] = {}  # number of a pair → the code that it becomes, whether it is chosen
        codes, chosen, begin = [np.zeros(0, dtype=np.int8)], [np.zeros(0, dtype=int)], 0
        for block in self.blocks():
            before, own = block._pairs()
            found, kinds = block._kinds(before * len(names) + own)
            for pair in found.tolist():
                if pair not in decided:
                    name, pick = change(names[pair // len(names)], names[pair % len(names)])
                    decided[pair] = (-1 if name is None else numbers.setdefault(name, len(numbers)), pick)
            new, picked = np.array([decided[pair] for pair in found.tolist()], dtype=int).reshape(-1, 2).T
            codes.append(new[kinds].astype(_smallest(len(numbers))))
            chosen.append(np.flatnonzero(picked[kinds]) + begin)
            begin += len(block.codes)
        return NameColumn(list(numbers), np.concatenate(codes), self.offsets, self.missing), np.concatenate(chosen)


def ragged(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places of the items of some rows, one row after the other: from each start so many."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _smallest(number: int) -> Any:
    """The smallest type of numbers that holds -1 and so many codes."""
    return np.int8 if number <= 127 else np.int16 if number <= 32_767 else np.int32
