"""Read the formats of token tasks as lists of words with one list of tags each, before a source is checked.

Formats: spans of characters or words (`spans:`), lists written as text, items between spaces, one word per row
(`group_by:`). Notable: what a column holds is decided from all splits together, and the result is an Arrow file beside
the loaded rows, cached by content, so that a second run converts nothing. What was read otherwise than written is
logged, then and in each later run.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa

from ..config import Source, Task
from ..tasks import task_type
from ..tasks.arrow_columns import column_of, feature_of, values_of
from ..tasks.written_lists import are_lists, split_at_blanks
from .row_files import cached_beside
from .spans import looks_like_spans, read_items
from .token_columns import Layout, convert
from .word_rows import find_starts, varying

logger = logging.getLogger(__name__)

_VERSION = 1  # increase it when the same rows give other words or tags (also by `split_words`): old caches are ignored
_FACTS = b"mtl_hf"  # key in the metadata of a file: what `convert` returns beside the rows


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
class WordTasks:
    """What tasks that read words need of a source.

    Attributes:
        labels: Task → its column of tags, for tasks with one.
        spans: Columns of spans.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    spans: Sequence[str] = ()


def word_tasks(tasks: Mapping[str, Task]) -> WordTasks | None:
    """What the tasks of a source that read words need; None if there are none."""
    readers = {task: spec for task, spec in tasks.items() if task_type(spec.type).form == "words"}
    if not readers:
        return None
    labels = {task: spec.label for task, spec in readers.items() if isinstance(spec.label, str)}
    return WordTasks(labels, list(dict.fromkeys(spec.spans for spec in readers.values() if spec.spans is not None)))


def read_formats(
    name: str, source: Source, tasks: WordTasks | None, loaded: Mapping[str, datasets.Dataset]
) -> Formatted:
    """Convert the rows of a source to lists of words and tags where its tasks need them and its columns are not.

    Args:
        name: Name of the source.
        source: Its section of the config.
        tasks: Result of `word_tasks` for the tasks that read it.
        loaded: Split → its rows, which have the columns of the config.

    Raises:
        ValueError: A row is not of the format of the others. The message names it.
    """
    columns = [source.text] if isinstance(source.text, str) else list(source.text)
    groups = [source.group_by] if isinstance(source.group_by, str) else source.group_by or []
    labels, spans = ([], []) if tasks is None else ([*tasks.labels.values()], [*tasks.spans])
    for task, label in () if tasks is None else tasks.labels.items():
        _check_no_spans(f"tasks.{task}", label, loaded)
    read = () if tasks is None else dict.fromkeys((*columns, *labels))
    written = [column for column in read if _are_strings(loaded, column)]
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
    def layout() -> Layout:
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
        work = functools.partial(convert, rows, split, where, f"sources.{name}", layout, groups, source.drop_bad_rows)
        found.splits[split], facts = _cached(rows, [*content, split], f"Source {name}, {split}", work)
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
) -> Layout:
    forms = {}
    single: dict[str, list[str]] = {}  # columns with one item in each cell → their cells
    for column in written:
        cells = [cell for rows in loaded.values() for cell in column_of(rows, column).to_pylist()]
        if are_lists(cells):
            forms[column] = "lists"
        elif column == text or text in written:  # beside lists of words, a string is no tags
            forms[column] = "characters" if column == text and spans else "spaces"
        filled = [cell for cell in cells if cell and cell.strip()]
        if forms.get(column) == "spaces" and all(len(split_at_blanks(cell)) == 1 for cell in filled):
            single[column] = filled
    if len(words := single.get(text, [])) > 1:
        raise ValueError(
            f"`{where}`: the column {text!r} has a single word in each row ({words[0]!r}, {words[1]!r}, ...): name the"
            " column with the number of the sentence, as in `group_by: sentence_id`."
        )
    if single.keys() - {text} and not spans:  # labels of whole texts, which the task refuses
        return Layout(text, {}, spans)
    return Layout(text, forms, spans)


def _layout_of_groups(
    where: str, text: str, labels: Sequence[str], groups: Sequence[str], loaded: Mapping[str, datasets.Dataset]
) -> Layout:
    for column in (text, *labels):
        if _are_lists(loaded, column):
            raise ValueError(f"`{where}`: the column {column!r} holds lists already; remove `group_by`, which is for"
                             " files with one word per row.")  # fmt: skip
    lists = {text, *labels}
    for split, rows in loaded.items():
        lists |= varying(rows, find_starts(rows, groups, f"`{where}`, split {split!r}"))
    return Layout(text, {}, lists=frozenset(lists - {*groups}))


# ---- the cache ----


def _cached(
    rows: datasets.Dataset, content: Any, what: str, convert: Callable[[], tuple[pa.Table, dict[str, Any]]]
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The converted rows of a split and their facts, from an Arrow file beside the loaded rows if there is one."""
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    made: list[dict[str, Any]] = []  # rows in memory have no metadata

    def make() -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
        table, facts = convert()
        made.append(facts)
        written = json.dumps(facts | {"rows": len(table)})
        schema = table.schema.with_metadata({**(table.schema.metadata or {}), _FACTS: written})
        return schema, table.replace_schema_metadata(schema.metadata).to_batches(max_chunksize=1000)

    found = cached_beside(
        rows, fingerprint, make, lambda held: int(_facts(held)["rows"]), f"{what}: the words and tags"
    )
    return found, made[-1] if made else _facts(found)


def _facts(rows: datasets.Dataset) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(rows.data.schema.metadata[_FACTS])
    return facts
