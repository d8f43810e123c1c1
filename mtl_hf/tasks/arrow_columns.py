"""Columns of a dataset as Arrow arrays, to read and check them without iterating over rows."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import datasets


def feature_of(rows: "datasets.Dataset", name: str) -> Any:
    """The feature of a column, without the copy of all features that `rows.features` makes."""
    return rows.info.features[name]


def table_of(rows: "datasets.Dataset") -> pa.Table:
    """All columns, in the order of the rows."""
    table = rows.data.table
    return table if rows._indices is None else table.take(rows._indices.column(0))


def column_of(rows: "datasets.Dataset", name: str) -> pa.ChunkedArray:
    """A column in the order of the rows, without rows that `select` left out."""
    column = rows.data.column(name)
    return column if rows._indices is None else column.take(rows._indices.column(0))


def values_of(rows: "datasets.Dataset", name: str) -> list[Any]:
    """A column as a list of Python values, like `list(rows[name])` but faster."""
    if type(feature_of(rows, name)).__name__ in ("Value", "ClassLabel", "List"):
        return column_of(rows, name).to_pylist()
    return list(rows[name])  # other features need decoding


def join_words(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of words as strings with one word per line."""
    return pc.binary_join(lists.cast(pa.list_(pa.string())), "\n")


def blank_rows(texts: pa.ChunkedArray) -> np.ndarray:
    """Mask of the rows without text, (rows,), of a column of strings or of lists of words.

    A list with a null among its words counts as without text, too.
    """
    strings = pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type) or pa.types.is_null(texts.type)
    return np.concatenate([_blank(part) if strings else _blank_lists(part) for part in texts.chunks])


def _blank_lists(lists: pa.Array) -> np.ndarray:
    words = lists.flatten()  # without those of missing lists
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(lists)), lengths)
    filled = np.zeros(len(lists), dtype=bool)
    filled[rows[~_blank(words)]] = True
    filled[rows[words.is_null().to_numpy(zero_copy_only=False)]] = False
    return ~filled


def _blank(strings: pa.Array) -> np.ndarray:
    """Mask of the strings that are missing, empty or only spaces."""
    if pa.types.is_null(strings.type):
        return np.ones(len(strings), dtype=bool)
    blank = pc.or_(pc.utf8_is_space(strings), pc.equal(pc.binary_length(strings), 0))
    return pc.fill_null(blank, True).to_numpy(zero_copy_only=False)
