"""Columns of a dataset as Arrow arrays, read and checked as a whole instead of row by row."""

from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def column_of(rows: datasets.Dataset, name: str) -> pa.Array:
    """A column as one Arrow array, in the order of the rows and without what `select` left out."""
    column = rows.data.column(name)
    if rows._indices is not None:
        column = column.take(rows._indices.column(0))
    column = column.combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def values_of(rows: datasets.Dataset, name: str) -> list[Any]:
    """A column as a list of Python values, as `list(rows[name])`."""
    if isinstance(rows.features[name], datasets.Value | datasets.ClassLabel | datasets.List):
        return column_of(rows, name).to_pylist()
    return list(rows[name])  # features that have to be decoded


def blank_rows(texts: pa.Array) -> np.ndarray:
    """Which rows of a column of strings, or of lists of words, hold no text: a mask, (rows,).

    A list with something else than words, a missing one for example, holds none either.
    """
    if not isinstance(texts, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _blank(texts)
    if pa.types.is_fixed_size_list(texts.type):
        texts = texts.cast(pa.list_(texts.type.value_type))
    words = texts.flatten()  # without those of missing lists
    lengths = pc.fill_null(pc.list_value_length(texts), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(texts)), lengths)
    missing = words.is_null().to_numpy(zero_copy_only=False)
    filled = np.zeros(len(texts), dtype=bool)
    filled[rows[~_blank(words)]] = True
    filled[rows[missing]] = False
    return ~filled


def _blank(strings: pa.Array) -> np.ndarray:
    """Which strings are missing, empty or only spaces."""
    if pa.types.is_null(strings.type):
        return np.ones(len(strings), dtype=bool)
    blank = pc.or_(pc.utf8_is_space(strings), pc.equal(pc.binary_length(strings), 0))
    return pc.fill_null(blank, True).to_numpy(zero_copy_only=False)
