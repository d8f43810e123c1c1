"""Read several labels of a row that are not a list: names in one string, a list written as text, a column per label.

Notable: what a column holds is decided from its distinct values, not row by row.
"""

import logging
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from ..config import Task
from .arrow_columns import feature_of, values_of
from .name_column import NameColumn
from .names import find_class_label
from .source_data import SourceData
from .written_lists import parse_list

logger = logging.getLogger(__name__)

_LIST = re.compile(r"\s*(\[.*\]|\(.*\)|\{.*\})\s*", re.DOTALL)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_ON, _OFF, _MISSING, _OTHER = 1, 0, 2, 3
_STATES = {"1": _ON, "1.0": _ON, "true": _ON, "0": _OFF, "0.0": _OFF, "false": _OFF, "": _MISSING}
MAX_NAMES = 200  # a column with more distinct values does not hold label names


# ---- one column of text ----


def lists_of_text(
    name: str, spec: Task, source: SourceData, separator: str | None, trained: bool
) -> dict[str, list[Any]]:
    """Split → the lists of its rows, for splits whose label column holds text that stands for lists.

    Args:
        name: Name of the task.
        spec: Its section of the config.
        source: The source.
        separator: The text between the names of a cell; None if cells hold lists written as text (or other splits only
            lists, which are left out of the result).
        trained: Whether the vocabulary is that of a trained model: then a file may have no row with two labels.

    Raises:
        ValueError: With a separator, a split does not hold text, or no cell has the separator; without, a cell is not a
            list although others are. The message shows the cell.
    """
    column = str(spec.label)
    cells = {
        split: values_of(rows, column)
        for split, rows in source.splits.items()
        if is_text(feature_of(rows, column), separator is not None)
    }
    if separator is None:
        return _parse_cells(name, column, source, cells)
    if other := next((split for split in source.splits if split not in cells), None):
        feature = feature_of(source.splits[other], column)
        held = "lists" if hasattr(feature, "feature") else f"{getattr(feature, 'dtype', feature)} values"
        raise ValueError(
            f"`tasks.{name}.label_separator` is {separator!r}, but the column {column!r} of the split {other!r} of"
            f" source {source.name!r} holds {held}, not text. Remove it."
        )
    found = list(dict.fromkeys(cell for held in cells.values() for cell in held if cell and cell.strip()))
    if not trained and not any(separator in cell for cell in found):
        raise ValueError(
            f"`tasks.{name}.label_separator` is {separator!r}, which occurs in no cell of the column {column!r} of"
            f" source {source.name!r}. The first cells are {', '.join(map(repr, found[:3])) or 'empty'}."
        )
    return {split: _split_cells(name, column, source, split, held, separator) for split, held in cells.items()}


def is_text(feature: Any, or_empty: bool = False) -> bool:
    """Whether a column holds strings; with `or_empty`, also whether it has no values at all."""
    plain = type(feature).__name__ == "Value"  # of `datasets`, which is slow to import
    return plain and feature.dtype in ("string", "large_string", *(["null"] if or_empty else []))


def _split_cells(
    name: str, column: str, source: SourceData, split: str, cells: Sequence[str | None], separator: str
) -> list[Any]:
    """The names of each cell, with the spaces around them. Empty cells, in CSV also missing ones, have no names."""
    lists: list[Any] = []
    empty, gaps = [], []  # rows
    for row, cell in enumerate(cells):
        if cell is None and not source.untyped:
            lists.append(None)
            continue
        parts = (cell or "").split(separator)
        names = [part for part in parts if part.strip()]
        if not names and len(parts) == 1:
            empty.append(row)
        elif len(names) < len(parts):
            gaps.append(row)
        lists.append(names)
    if empty:
        logger.info("Task %s: %d empty cells of the column %r are rows without labels (the first: %s).",
                    name, len(empty), column, source.where(split, empty[0]))  # fmt: skip
    if gaps:
        logger.warning(
            "Task %s: %d cells have a separator %r without a name beside it, which is ignored (the first: %r in %s).",
            name, len(gaps), separator, cells[gaps[0]], source.where(split, gaps[0]),
        )  # fmt: skip
    return lists


def _parse_cells(
    name: str, column: str, source: SourceData, cells: dict[str, list[str | None]]
) -> dict[str, list[Any]]:
    """The lists that are written as text; nothing if most cells are no such lists."""
    distinct = dict.fromkeys(cell for held in cells.values() for cell in held if cell and cell.strip())
    if not looks_like_lists(distinct, share=0.5):
        return {}
    parsed = {cell: parse_list(cell) for cell in distinct}
    blank = 0
    for split, held in cells.items():
        for row, cell in enumerate(held):
            blank += cell is not None and not cell.strip()
            if cell and cell.strip() and parsed[cell] is None:
                example = next((good for good, found in parsed.items() if found), "['a', 'b']")
                raise ValueError(
                    f"`tasks.{name}`: {source.where(split, row)} has {cell!r} in the column {column!r}; it should be a"
                    f" list written as in JSON or Python, such as {example}, as in other rows."
                )
    logger.info("Task %s: the column %r of source %s holds lists written as text, such as %s; they are read as lists.",
                name, column, source.name, next(iter(distinct)))  # fmt: skip
    if blank:
        logger.warning("Task %s: %d labels are empty text and count as missing.", name, blank)
    return {split: [parsed.get(cell) if cell else None for cell in held] for split, held in cells.items()}


def looks_like_lists(cells: Collection[str], share: float) -> bool:
    """Whether at least a share of the cells, which are not empty, are in brackets."""
    return bool(cells) and sum(bool(_LIST.fullmatch(cell)) for cell in cells) >= share * len(cells)


def find_separator(cells: Iterable[str | None]) -> str | None:
    """The separator of a column of joined names: `;`, `|` or `,`; None if its cells are single values or sentences.

    At least one cell in fifty has several names, and the names are few and short: a comma inside a name would make as
    many parts as cells.
    """
    found = [cell.strip() for cell in cells if cell and cell.strip()]
    for separator in ";|,":
        joined = [cell for cell in found if separator in cell]
        names = {part.strip() for cell in found for part in cell.split(separator)}
        few = len(names) <= MAX_NAMES and len(names) < len({*found})
        short = all(0 < len(part.split()) <= 4 for part in names)
        numbers = all(map(_DECIMAL_COMMA.fullmatch, found))
        if len(joined) > 1 and len(joined) >= len(found) / 50 and few and short and not numbers:
            return separator
    return None


# ---- a column per label ----


def read_columns(name: str, spec: Task, source: SourceData) -> dict[str, NameColumn]:
    """Split → sorted names of the columns that hold 1 or true in each row; None for rows without any value.

    Raises:
        ValueError: A column holds something else, columns differ in type, or a row has values in some columns only.
    """
    states: dict[str, np.ndarray] = {}
    kinds: dict[str, tuple[str, str]] = {}  # column → what it holds, and the value that shows it best with its row
    for split, rows in source.splits.items():
        found = []
        for column in spec.label_columns:
            own, kind, shown = _read_states(rows, column, source, split)
            found.append(own)
            if kind and (column not in kinds or kinds[column][0] in _HOT):
                kinds[column] = (kind, shown)
        states[split] = np.stack(found, axis=1)
    _check_kinds(name, kinds)
    return {split: _sets(name, spec.label_columns, source, split, held) for split, held in states.items()}


def _read_states(rows: Any, column: str, source: SourceData, split: str) -> tuple[np.ndarray, str, str]:
    """On, off, missing or other of each row, (rows,); what the column holds (empty: nothing), and an example of it."""
    held = NameColumn.read(rows, column, lists=False)
    if held is None:
        return np.zeros(len(rows), dtype=np.int8), "lists", f"{rows[0][column]!r:.60} in {source.where(split, 0)}"
    class_label = find_class_label(feature_of(rows, column))
    values = [_name_of(value, class_label) for value in held.names]
    states = np.array([*map(_state, values), _MISSING], dtype=np.int8)
    kinds = {place: _kind(value, source.untyped) for place, value in enumerate(values) if states[place] != _MISSING}
    if not kinds:
        return states[held.codes], "", ""
    place = next((place for place in kinds if states[place] == _OTHER), next(iter(kinds)))
    row = int(np.flatnonzero(held.codes == place)[0])
    return states[held.codes], kinds[place], f"{values[place]!r} in {source.where(split, row)}"


def _name_of(value: Any, class_label: Any) -> Any:
    """The value, or the name of a class: its number alone could be the other way round (`[toxic, fine]`)."""
    if class_label is None:
        return value
    return None if value == -1 else class_label.int2str(value)


def _state(value: Any) -> int:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _MISSING
    return _STATES.get(str(value).strip().lower(), _OTHER)


_HOT = ("0 and 1", "true and false", "0 and 1 as text", "true and false as text")


def _kind(value: Any, untyped: bool) -> str:
    """What a column with this value holds. In CSV all values are text, so only their content counts."""
    text = isinstance(value, str)
    if _state(value) == _OTHER:
        return "text" if text else "numbers"
    hot = "true and false" if str(value).strip().lower() in ("true", "false") else "0 and 1"
    return f"{hot} as text" if text and not untyped else hot


def _check_kinds(name: str, kinds: dict[str, tuple[str, str]]) -> None:
    """Raise an error if columns do not hold 0 and 1, or differ in type."""
    wrong = next((column for column, (kind, _) in kinds.items() if kind not in _HOT), None)
    first = next((column for column, (kind, _) in kinds.items() if kind in _HOT), None)
    if wrong is None and first is not None:
        wrong = next((column for column, (kind, _) in kinds.items() if kind != kinds[first][0]), None)
    if wrong is None:
        return
    kind, shown = kinds[wrong]
    beside = f", but {first!r} holds {kinds[first][0]}" if first is not None else ""
    raise ValueError(
        f"`tasks.{name}.label`: the column {wrong!r} holds {kind} ({shown}){beside}. With several columns all should"
        " hold 0 and 1, or all true and false: whether the row has the label with the name of the column."
    )


def _sets(name: str, columns: Sequence[str], source: SourceData, split: str, states: np.ndarray) -> NameColumn:
    """The labels of each row as names; states are (rows, columns)."""
    lacking = states == _MISSING
    missing = lacking.all(1)
    if len(partly := np.flatnonzero(lacking.any(1) & ~missing)):
        row = int(partly[0])
        empty = [column for column, lacks in zip(columns, lacking[row], strict=True) if lacks]
        more = f" (and {len(partly) - 1} more rows lack some)" if len(partly) > 1 else ""
        raise ValueError(
            f"`tasks.{name}`: {source.where(split, row)} has no value in {', '.join(map(repr, empty))}, but in other"
            f" columns of `label`{more}. Fill in 0 or 1, or leave all of them empty for a row without label."
        )
    rows, codes = np.nonzero(states == _ON)
    offsets = np.append(0, np.cumsum(np.bincount(rows, minlength=len(states))))
    return NameColumn(list(columns), codes, offsets, missing).sets()
