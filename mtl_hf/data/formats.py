"""Read the formats of token tasks as lists of words with one list of tags each, before a source is checked.

Formats: spans of characters or words (`spans:`), lists written as text, items between spaces, one word per row
(`group_by:`). Notable: what a column holds is decided from all splits together, and the result is an Arrow file beside
the loaded rows, cached by content, so that a second run converts nothing. What was read otherwise than written is
logged, then and in each later run.
"""

import collections
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.table import InMemoryTable

from ..config import Source, Task
from ..modeling.encoding import split_words
from ..tasks import task_type
from ..tasks.arrow_columns import column_of, feature_of, table_of, values_of
from ..tasks.column import label_name
from .row_files import open_rows, read_cached, write_rows
from .spans import FLAT, Read, Span, looks_like_spans, read_items, tag_characters, tag_words
from .word_rows import find_starts, group_rows, varying
from .written_lists import are_lists, parse_list, split_at_blanks

logger = logging.getLogger(__name__)

_VERSION = 1  # increase it when the same rows give other words or tags (also by `split_words`): old caches are ignored
_FACTS = b"mtl_hf"  # key in the metadata of a file: what `_Converted` holds beside its rows
_WORDS = datasets.List(datasets.Value("string"))
_OFFSETS = datasets.List(datasets.List(datasets.Value("int32")))


@dataclass
class Formatted:
    """The rows of a source, as its tasks read them.

    Attributes:
        splits: Split → its rows.
        columns: Its text columns.
        offsets: Column with the character span of each word in the column of strings; None if no task has such spans.
        origins: Split → the split and the row numbers of its rows before, if rows were grouped or dropped.
    """

    splits: dict[str, datasets.Dataset]
    columns: list[str]
    offsets: str | None = None
    origins: dict[str, tuple[str, list[int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Layout:
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
class _Rows:
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


def read_formats(
    name: str, source: Source, tasks: Mapping[str, Task], loaded: Mapping[str, datasets.Dataset]
) -> Formatted:
    """Convert the rows of a source to lists of words and tags where its tasks need them and its columns are not.

    Args:
        name: Name of the source.
        source: Its section of the config.
        tasks: The tasks that read it.
        loaded: Split → its rows, which have the columns of the config.

    Raises:
        ValueError: A row is not of the format of the others. The message names it.
    """
    columns = [source.text] if isinstance(source.text, str) else list(source.text)
    readers = {task: spec for task, spec in tasks.items() if task_type(spec.type).form == "words"}
    groups = [source.group_by] if isinstance(source.group_by, str) else source.group_by or []
    labels = [spec.label for spec in readers.values() if isinstance(spec.label, str)]
    spans = list(dict.fromkeys(spec.spans for spec in readers.values() if spec.spans is not None))
    for task, spec in readers.items():
        if isinstance(spec.label, str):
            _check_no_spans(f"tasks.{task}", spec.label, loaded)
    written = [column for column in dict.fromkeys((*columns, *labels)) if readers and _are_strings(loaded, column)]
    if not groups and not spans and not written:
        return Formatted(dict(loaded), columns)
    if len(columns) > 1:
        key = "group_by" if groups else "text"
        raise ValueError(f"`sources.{name}.{key}`: words with tags need one text column, but `text` names"
                         f" {len(columns)}.")  # fmt: skip
    if groups and spans:
        raise ValueError(f"`sources.{name}.group_by` makes lists of words and tags from rows; it cannot be used with"
                         " `spans`.")  # fmt: skip

    @functools.cache
    def layout() -> _Layout:
        if groups:
            return _layout_of_groups(f"sources.{name}.group_by", columns[0], labels, groups, loaded)
        return _layout(f"sources.{name}.text", columns[0], written, spans, loaded)

    content = [
        _VERSION,
        columns,
        labels,
        spans,
        groups,
        source.drop_bad_rows,
        *(loaded[s]._fingerprint for s in loaded),
    ]
    found = Formatted({}, columns)
    for split, rows in loaded.items():
        where = f"source {name!r}"
        convert = functools.partial(
            _convert, rows, split, where, f"sources.{name}", layout, groups, source.drop_bad_rows
        )
        found.splits[split], facts = _cached(rows, [*content, split], f"Source {name}, {split}", convert)
        found.columns, found.offsets = [facts["text"]], facts["offsets"]
        if facts["numbers"] is not None:
            found.origins[split] = (split, facts["numbers"])
        for level, note in facts["notes"]:
            logger.log(level, "Source %s, %s: %s", name, split, note)
    return found


# ---- what the columns hold ----


def _are_strings(loaded: Mapping[str, datasets.Dataset], column: str) -> bool:
    """Whether a column holds strings in any split."""
    return any(getattr(feature_of(rows, column), "dtype", "") in ("string", "large_string") for rows in loaded.values())


def _are_lists(loaded: Mapping[str, datasets.Dataset], column: str) -> bool:
    """Whether a column holds lists in any split."""
    return any(hasattr(feature_of(rows, column), "feature") for rows in loaded.values())


def holds_spans(rows: datasets.Dataset, column: str) -> bool:
    """Whether a column holds spans, by its first 100 rows."""
    feature = feature_of(rows, column)
    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.ClassLabel) or isinstance(inner, datasets.Value | datasets.ClassLabel):
        return False
    return looks_like_spans(values_of(rows.select(range(min(len(rows), 100))), column))


def _check_no_spans(where: str, column: str, loaded: Mapping[str, datasets.Dataset]) -> None:
    """Raise an error if a label column holds spans, for which `spans` is the key."""
    for split, rows in loaded.items():
        if holds_spans(rows, column):
            shown = next(spans[0] for spans in map(read_items, filter(None, values_of(rows, column))) if spans)
            raise ValueError(f"`{where}.label`: the column {column!r} of the split {split!r} holds spans, such as"
                             f" {shown}: write `spans: {column}` instead of `label`.")  # fmt: skip


def _layout(
    where: str, text: str, written: Sequence[str], spans: Sequence[str], loaded: Mapping[str, datasets.Dataset]
) -> _Layout:
    forms = {}
    for column in written:
        cells = [cell for rows in loaded.values() for cell in column_of(rows, column).to_pylist()]
        if are_lists(cells):
            forms[column] = "lists"
        elif column == text or text in written:  # beside lists of words, a string is no tags
            forms[column] = "characters" if column == text and spans else "spaces"
        filled = [cell for cell in cells if cell and cell.strip()]
        if forms.get(column) == "spaces" and column == text and len(filled) > 1 and all(map(_is_one_item, filled)):
            raise ValueError(
                f"`{where}`: the column {text!r} has a single word in each row ({filled[0]!r}, {filled[1]!r}, ...):"
                " name the column with the number of the sentence, as in `group_by: sentence_id`."
            )
    return _Layout(text, forms, spans)


def _layout_of_groups(
    where: str, text: str, labels: Sequence[str], groups: Sequence[str], loaded: Mapping[str, datasets.Dataset]
) -> _Layout:
    for column in (text, *labels):
        if _are_lists(loaded, column):
            raise ValueError(f"`{where}`: the column {column!r} holds lists already; remove `group_by`, which is for"
                             " files with one word per row.")  # fmt: skip
    lists = {text, *labels}
    for split, rows in loaded.items():
        lists |= varying(rows, find_starts(rows, groups, f"`{where}`, split {split!r}"))
    return _Layout(text, {}, lists=frozenset(lists - {*groups}))


def _is_one_item(cell: str) -> bool:
    return len(split_at_blanks(cell)) == 1


# ---- the conversion ----


def _convert(
    rows: datasets.Dataset,
    split: str,
    source: str,
    key: str,
    layout: Callable[[], _Layout],
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
        held = _Rows(columns, dict(features), starts)
        named = ", ".join(name for name in rows.column_names if name in plan.lists)
        held.notes.append((logging.INFO, f"{len(rows):,} rows of one word are {len(starts):,} sentences by"
                           f" {' and '.join(groups)} (lists: {named})."))  # fmt: skip
    else:
        table = table_of(rows)
        held = _Rows(
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


def _read_strings(held: _Rows, column: str, form: str, plan: _Layout, where: Callable[[int], str]) -> None:
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
    held: _Rows,
    column: str,
    values: Sequence[Any],
    plan: _Layout,
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
    unit = "characters" if characters else "words, whose ends are the first and the last word of a span"
    rows = {row for row, _ in bad}
    raise ValueError(
        f"{len(bad)} spans in {len(rows)} rows of the column {column!r} are outside of their text or have no word in"
        f" it; the first is {span} in {where(row)}, whose text has {len(texts[row])} {unit}. Correct them, or set"
        f" `{key}.drop_bad_rows: true` to drop these rows."
    )


def _notes(
    column: str, found: Mapping[str, list[tuple[int, Span]]], texts: Sequence[Any], characters: bool, plan: _Layout
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


# ---- the cache ----


def _cached(
    rows: datasets.Dataset, content: Any, what: str, convert: Callable[[], tuple[pa.Table, dict[str, Any]]]
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The converted rows of a split and their facts, from an Arrow file beside the loaded rows if there is one."""
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def with_facts() -> pa.Table:
        table, facts = convert()
        written = json.dumps(facts | {"rows": len(table)})
        return table.replace_schema_metadata({**(table.schema.metadata or {}), _FACTS: written})

    if not rows.cache_files or not datasets.is_caching_enabled():
        table = with_facts()
        found = datasets.Dataset(InMemoryTable(table), fingerprint=fingerprint)
        return found, json.loads(table.schema.metadata[_FACTS])
    path = Path(rows.cache_files[0]["filename"]).with_name(f"cache-{fingerprint}.arrow")

    def write() -> datasets.Dataset:
        table = with_facts()
        write_rows(path, table.schema, table.to_batches(max_chunksize=1000))
        return open_rows(path, fingerprint)

    found = read_cached(
        lambda: open_rows(path, fingerprint) if path.is_file() else write(),
        lambda held: "" if len(held) == _facts(held)["rows"] else f"{len(held):,} of {_facts(held)['rows']:,} rows",
        write,
        f"{what}: the words and tags cached in {path.parent}",
    )
    return found, _facts(found)


def _facts(rows: datasets.Dataset) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(rows.data.schema.metadata[_FACTS])
    return facts
