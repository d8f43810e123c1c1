"""Columns of text that stand for lists of labels, which `mtl-hf init` describes like columns of lists.

Notable: lists as long as those of another column, or as the text has words, are tags of words and are left alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np

from ..tasks.column import label_name
from ..tasks.label_lists import find_separator, is_text, looks_like_lists
from ..tasks.written_lists import parse_list
from .describe_file import FileDescription, describe_column, is_missing
from .shapes import MOST


def find_joined(file: FileDescription, exclude: Collection[str]) -> dict[str, str | None]:
    """Column → the separator of its names, or None for lists written as text.

    Args:
        file: The file.
        exclude: Columns that are something else.
    """
    cells = {
        name: [cell for cell in file.rows[name] if not is_missing(cell)]
        for name, column in file.columns.items()
        if column.kind == "string" and is_text(file.rows.features[name])
    }
    written = {
        name: [None if is_missing(cell) else parse_list(cell) for cell in file.rows[name]]
        for name, held in cells.items()
        if looks_like_lists(held, MOST)
    }
    lengths = {name: _lengths(lists) for name, lists in written.items()}
    others = {name: column.lengths for name, column in file.columns.items() if len(column.lengths)}
    found: dict[str, str | None] = {}
    for name, held in cells.items():
        if name in exclude:
            continue
        if name not in written:
            if separator := find_separator(held):
                found[name] = separator
        elif _holds_labels(written[name], len(held)) and not any(
            _equal(lengths[name], lengths.get(other, length)) for other, length in others.items() if other != name
        ):
            found[name] = None
    return found


def with_lists(file: FileDescription, joined: Mapping[str, str | None]) -> FileDescription:
    """Describe the columns of `find_joined` as the lists that a run reads from them."""
    rows, columns = file.rows, dict(file.columns)
    for name, separator in joined.items():
        if name not in columns or columns[name].kind in ("words", "numbers"):
            continue
        cells = [None if is_missing(cell) else label_name(cell) for cell in rows[name]]
        if separator is None:
            lists = [None if cell is None else parse_list(cell) for cell in cells]
        else:  # an empty cell of CSV has no labels
            lists = [
                ([] if file.is_csv else None)
                if cell is None
                else [part.strip() for part in cell.split(separator) if part.strip()]
                for cell in cells
            ]
        rows = rows.remove_columns(name).add_column(name, _of_one_type(lists))
        columns[name] = describe_column(name, rows.features[name], list(rows[name]))
    return replace(file, rows=rows, columns=columns)


def _lengths(lists: Sequence[list[Any] | None]) -> np.ndarray:
    return np.array([-1 if held is None else len(held) for held in lists])


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two columns have equally many items, and more than one, in nearly every row that has both."""
    both = (first >= 0) & (second >= 0)
    return bool(both.any()) and float((first == second)[both].mean()) >= 0.9 and float(first[both].mean()) > 1


def _holds_labels(lists: Sequence[list[Any] | None], num_cells: int) -> bool:
    """Whether nearly all cells are lists, and all lists hold plain values."""
    plain = all(isinstance(item, str | int | float) for held in lists for item in held or ())
    return plain and sum(held is not None for held in lists) >= MOST * num_cells


def _of_one_type(lists: list[Any]) -> Any:
    """Lists for one Arrow column: numbers of several types as floats, other values of several types as text."""
    kinds = {type(item) for held in lists for item in held or ()}
    if len(kinds) > 1:
        make = float if kinds == {int, float} else label_name
        lists = [held and [make(item) for item in held] for held in lists]
    return datasets.Dataset.from_dict({"lists": lists}).data.column("lists")
