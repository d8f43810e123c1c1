"""Rows of one word each → rows of one sentence each (`group_by` of a source).

Notable: operations on Arrow columns. Rows with the same value in a row are a sentence; in a spreadsheet only its first
row may have the value.
"""

from collections.abc import Collection, Mapping, Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tasks.arrow_columns import blank_rows, column_of, table_of


def find_starts(rows: datasets.Dataset, columns: Sequence[str], where: str) -> np.ndarray:
    """The first row of each sentence, (sentences,).

    Args:
        rows: One word per row.
        columns: Columns whose values are equal in the rows of a sentence, and only there.
        where: Description of the rows for messages: the key of the config, and the split.

    Raises:
        ValueError: A row has no value, or a value comes back after others. The message names the row.
    """
    changes = np.zeros(len(rows), dtype=bool)
    changes[:1] = True
    ids = []
    for name in columns:
        column = column_of(rows, name)
        missing = _missing(column)
        if missing.any():
            _check_missing(column, missing, f"{where}: the column {name!r}")
        codes = _codes(column)
        codes = codes[np.maximum.accumulate(np.where(missing, 0, np.arange(len(codes))))]  # the value above
        changes[1:] |= codes[1:] != codes[:-1]
        ids.append(codes)
    starts = np.flatnonzero(changes)
    groups = np.stack([codes[starts] for codes in ids], axis=1)
    _, first = np.unique(groups, axis=0, return_index=True)
    if len(first) < len(starts):
        again = int(np.setdiff1d(np.arange(len(starts)), first)[0])
        before = int(np.flatnonzero((groups == groups[again]).all(1))[0])
        shown = ", ".join(f"{name} {column_of(rows, name)[int(starts[again])].as_py()!r}" for name in columns)
        raise ValueError(
            f"{where}: row {starts[again] + 1} begins a second group with {shown}, after that of row"
            f" {starts[before] + 1}. The rows of a sentence should follow each other; if numbers begin again in each"
            " document, name its column too, as in `group_by: [document, sentence]`."
        )
    return starts


def _missing(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_string(column.type) or pa.types.is_null(column.type):
        return blank_rows(column)
    missing = column.is_null()
    if pa.types.is_floating(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.is_nan(column), False))
    return missing.to_numpy()


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.combine_chunks()
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)


def _check_missing(column: pa.ChunkedArray, missing: np.ndarray, where: str) -> None:
    """Raise an error for rows without a value, unless only the first row of each sentence has one."""
    first = int(np.flatnonzero(missing)[0])
    if first == 0:
        raise ValueError(
            f"{where} has no value in row 1; it should name the sentence of each row, or of its first row."
        )
    codes, filled = _codes(column), ~missing
    if (filled[1:] & filled[:-1] & (codes[1:] == codes[:-1])).any():
        raise ValueError(
            f"{where} has no value in {int(missing.sum())} rows (the first: row {first + 1}), but other sentences have"
            " it in each of their rows. Fill it in."
        )


def varying(rows: datasets.Dataset, starts: np.ndarray) -> set[str]:
    """Columns that have more than one value in a sentence, apart from missing ones."""
    found = set()
    groups = np.searchsorted(starts, np.arange(len(rows)), side="right") - 1
    for name in rows.column_names:
        column = column_of(rows, name)
        if pa.types.is_nested(column.type):
            found.add(name)
            continue
        keep = ~_missing(column)
        codes, own = _codes(column)[keep], groups[keep]
        if ((codes[1:] != codes[:-1]) & (own[1:] == own[:-1])).any():
            found.add(name)
    return found


def group_rows(
    rows: datasets.Dataset, starts: np.ndarray, lists: Collection[str]
) -> tuple[dict[str, pa.ChunkedArray], Mapping[str, object]]:
    """The columns of the sentences, and their features: lists, or the first value of a sentence.

    Args:
        rows: One word per row.
        starts: The first row of each sentence.
        lists: Columns that become lists.
    """
    table = table_of(rows)
    ends = np.append(starts, len(rows))
    columns: dict[str, pa.ChunkedArray] = {}
    features = dict(rows.features)
    for name in rows.column_names:
        column = table[name]
        if name not in lists:
            places = np.where(_missing(column) if not pa.types.is_nested(column.type) else False,
                              len(rows), np.arange(len(rows)))  # fmt: skip
            first = np.minimum.reduceat(places, starts)  # the first row of the sentence with a value
            columns[name] = column.take(pa.array(np.where(first == len(rows), starts, first)))
            continue
        features[name] = datasets.List(features[name])
        parts = []
        for begin in range(0, len(starts), 10_000):  # a chunk of strings holds 2 GiB at most
            stops = ends[begin : begin + 10_001]
            words = column.slice(stops[0], stops[-1] - stops[0]).combine_chunks()
            words = words if isinstance(words, pa.Array) else pa.concat_arrays(words.chunks)
            parts.append(pa.ListArray.from_arrays(pa.array(stops - stops[0], pa.int32()), words))
        columns[name] = pa.chunked_array(parts)
    return columns, features
