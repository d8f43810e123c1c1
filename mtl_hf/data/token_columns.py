"""Convert the columns of a split to lists of words and lists of tags, one of each for a row.

Notable: `formats.py` decides what the columns hold. What is read otherwise than written is a note with its number and
the first place, which `formats.py` logs, also when the converted rows come from the cache.
"""

import collections
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..modeling.words import split_words
from ..tasks.arrow_columns import table_of, values_of
from ..tasks.column import label_name
from ..tasks.written_lists import parse_list, split_at_blanks
from .spans import FLAT, Read, Span, read_items, tag_characters, tag_words
from .word_rows import find_starts, group_rows

_WORDS = datasets.List(datasets.Value("string"))
_OFFSETS = datasets.List(datasets.List(datasets.Value("int32")))


@dataclass(frozen=True)
class Layout:
    """What the columns hold, in all splits.

    Attributes:
        text: The column of words; for strings the one they come from.
        forms: Column of strings → `lists` (as text), `spaces` (between the items) or `characters` (with spans).
        spans: Columns of spans.
        lists: With `group_by`: the columns that become lists.
    """

    text: str
    forms: Mapping[str, str]
    spans: Sequence[str] = ()
    lists: frozenset[str] = frozenset()

    @property
    def words(self) -> str:
        """The column of words: a new one if the strings are kept."""
        return self.text if self.forms.get(self.text, "lists") == "lists" else f"{self.text} (words)"

    @property
    def offsets(self) -> str | None:
        """The column with the character spans of words."""
        return f"{self.text} (offsets)" if self.forms.get(self.text) == "characters" else None


@dataclass
class Rows:
    """The columns of a split while it is converted.

    Attributes:
        columns: Name → values.
        features: Name → type.
        numbers: The row number of each row in the split as it was loaded.
        notes: Level and text of what is logged.
    """

    columns: dict[str, pa.ChunkedArray]
    features: dict[str, Any]
    numbers: np.ndarray
    notes: list[tuple[int, str]] = field(default_factory=list)

    def set(self, name: str, values: Sequence[Any], feature: Any) -> None:
        """Set a column to Python values."""
        kind = datasets.Features({name: feature}).arrow_schema.field(0).type
        parts = [pa.array(values[begin : begin + 10_000], kind) for begin in range(0, len(values), 10_000)]
        self.columns[name], self.features[name] = pa.chunked_array(parts, kind), feature


def convert(
    rows: datasets.Dataset,
    split: str,
    source: str,
    key: str,
    layout: Callable[[], Layout],
    groups: Sequence[str],
    drop: bool,
) -> tuple[pa.Table, dict[str, Any]]:
    """The converted rows of a split, and what is to be known of them: text column, offsets, row numbers, notes."""
    plan = layout()

    def where(row: int) -> str:
        return f"row {row + 1} of the split {split!r} of {source}"

    if groups:
        starts = find_starts(rows, groups, f"`{key}.group_by`, split {split!r}")
        columns, features = group_rows(rows, starts, plan.lists)
        held = Rows(columns, dict(features), starts)
        named = ", ".join(name for name in rows.column_names if name in plan.lists)
        held.notes.append((logging.INFO, f"{len(rows):,} rows of one word are {len(starts):,} sentences by"
                           f" {' and '.join(groups)} (lists: {named})."))  # fmt: skip
    else:
        table = table_of(rows)
        held = Rows(
            dict(zip(table.column_names, table.columns, strict=True)), dict(rows.features), np.arange(len(rows))
        )
    for column, form in plan.forms.items():
        _read_strings(held, column, form, plan, where)
    bad = [_read_spans(held, column, values_of(rows, column), plan, where, key, drop=drop) for column in plan.spans]
    kept = np.ones(len(held.numbers), dtype=bool)
    for found in bad:
        kept[found] = False
    if not kept.any():
        raise ValueError(f"`{key}`: no row of the split {split!r} would be left without those that have bad spans.")
    schema = datasets.Features(held.features).arrow_schema
    converted = pa.Table.from_arrays([held.columns[field.name].cast(field.type) for field in schema], schema=schema)
    if not kept.all():
        converted = converted.filter(pa.array(kept))
    numbers = None if kept.all() and not groups else held.numbers[kept].tolist()
    return converted, {"text": plan.words, "offsets": plan.offsets, "numbers": numbers, "notes": held.notes}


def _read_strings(held: Rows, column: str, form: str, plan: Layout, where: Callable[[int], str]) -> None:
    """Lists of words or tags from a column of strings, in place, or for the text in new columns beside it."""
    cells = held.columns[column].to_pylist()
    shown = next((cell for cell in cells if cell and cell.strip()), "")
    shown = repr(shown if len(shown) <= 50 else f"{shown[:47]}...")
    if form == "lists":
        held.set(
            column, [_list_of(cell, column, column == plan.text, where, row) for row, cell in enumerate(cells)], _WORDS
        )
        held.notes.append(
            (logging.INFO, f"the column {column!r} holds lists written as text ({shown}), read as lists.")
        )
    elif form == "spaces":
        target = plan.words if column == plan.text else column
        held.set(target, [None if cell is None else split_at_blanks(cell) for cell in cells], _WORDS)
        held.notes.append((logging.INFO, f"the column {column!r} is split at its spaces ({shown})."))
    else:
        offsets = [None if cell is None else split_words(cell) for cell in cells]
        words = [
            None if cell is None else [cell[start:end] for start, end in spans or ()]
            for cell, spans in zip(cells, offsets, strict=True)
        ]
        held.set(plan.words, words, _WORDS)
        held.set(f"{plan.text} (offsets)", offsets, _OFFSETS)


def _list_of(cell: str | None, column: str, text: bool, where: Callable[[int], str], row: int) -> list[Any] | None:
    """The words or tags of a list that is written as text."""
    if cell is None or not cell.strip():
        return None
    items = parse_list(cell)
    if items is None:
        shown = cell if len(cell) <= 60 else f"{cell[:57]}..."
        raise ValueError(
            f"{where(row)}: the column {column!r} has {shown!r}, which is not a list, as most of its cells are:"
            ' "[\'Ana\', \'flew\']" or ["Ana", "flew"].'
        )
    for item in items if text else ():
        if not isinstance(item, str):
            raise ValueError(f"{where(row)}: the list in the column {column!r} has {item!r}, which is not a word; put"
                             " it in quotes.")  # fmt: skip
    return items if text else [None if item is None else label_name(item) for item in items]


def _read_spans(
    held: Rows,
    column: str,
    values: Sequence[Any],
    plan: Layout,
    where: Callable[[int], str],
    key: str,
    *,
    drop: bool,
) -> list[int]:
    """Replace a column of spans by tags of the words; return the rows with bad spans, which are to be dropped.

    Raises:
        ValueError: A cell does not hold spans, or a span is bad and rows are not dropped.
    """
    texts = held.columns[plan.text].to_pylist()
    characters = plan.offsets is not None
    offsets = held.columns[plan.offsets].to_pylist() if plan.offsets else held.columns[plan.words].to_pylist()
    tags: list[list[str] | None] = []
    found: dict[str, list[tuple[int, Span]]] = collections.defaultdict(list)
    for row, (value, text, words) in enumerate(zip(values, texts, offsets, strict=True)):
        if value is None or words is None or (isinstance(value, str) and not value.strip()):
            tags.append(None)
            continue
        try:
            spans = read_items(value)
        except ValueError as error:
            raise ValueError(f"{where(row)}: the column {column!r} should hold spans, as in {FLAT}: {error}.") from None
        read = tag_characters(text, words, spans) if characters else tag_words(len(words), spans)
        tags.append(read.tags)
        found["spans"] += [(row, span) for span in spans]
        for kind in Read._fields[1:]:
            found[kind] += [(row, span) for span in getattr(read, kind)]
    _check_bad(found["bad"], column, texts, characters, where, key, drop)
    held.set(column, tags, _WORDS)
    held.notes += _notes(column, found, texts, characters, plan)
    return sorted({row for row, _ in found["bad"]})


def _check_bad(
    bad: Sequence[tuple[int, Span]],
    column: str,
    texts: Sequence[Any],
    characters: bool,
    where: Callable[[int], str],
    key: str,
    drop: bool,
) -> None:
    if not bad or drop:
        return
    row, span = bad[0]
    unit = "characters" if characters else f"words, 0 to {len(texts[row]) - 1} (the end of a span is its last word)"
    rows = {row for row, _ in bad}
    raise ValueError(
        f"{len(bad)} spans in {len(rows)} rows of the column {column!r} are outside of their text or have no word in"
        f" it; the first is {span} in {where(row)}, whose text has {len(texts[row])} {unit}. Correct them, or set"
        f" `{key}.drop_bad_rows: true` to drop these rows."
    )


def _notes(
    column: str, found: Mapping[str, list[tuple[int, Span]]], texts: Sequence[Any], characters: bool, plan: Layout
) -> Iterable[tuple[int, str]]:
    """What is logged of the spans of a column."""

    def first(kind: str) -> str:
        row, span = found[kind][0]
        text = texts[row]
        held = text[span.start : span.end] if characters else " ".join(text[span.start : span.end + 1])
        return f"{span} {held!r} in row {row + 1}"

    if good := len(found["spans"]) - len(found.get("bad", ())) - len(found.get("dropped", ())):
        unit = f"characters of {plan.text!r}" if characters else f"words of {plan.text!r}, both ends included,"
        shown = first("spans") if found["spans"][0] not in found.get("bad", ()) else ""
        yield (
            logging.INFO,
            f"{good:,} spans of {unit} in {column!r} are read as tags of words{shown and f' (the first: {shown})'}.",
        )
    for kind, what in (
        ("trimmed", "have blanks at a border, which are left out"),
        ("widened", "begin or end inside a word and take the whole word"),
        ("dropped", "share words with a longer span, or an equally long one before them, and are left out"),
    ):
        if found.get(kind):
            yield logging.WARNING, f"{len(found[kind]):,} spans in {column!r} {what} (the first: {first(kind)})."
    if bad := found.get("bad"):
        rows = {row for row, _ in bad}
        yield (logging.WARNING, f"{len(rows):,} rows are dropped, with {len(bad):,} spans in {column!r} outside of"
               f" their text or without a word (the first: {bad[0][1]} in row {bad[0][0] + 1}).")  # fmt: skip
