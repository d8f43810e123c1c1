"""Detect shapes of files that the package cannot read yet, and suggest how to convert them.

Notable: there is one function per shape, so that it can be removed when the shape is supported. Detection uses mainly
values; names of columns only help.
"""

import collections
import itertools
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tasks.column import Column
from ..tasks.tag_schemes import is_span_tag
from .describe_file import FileDescription

MOST = 0.95  # least share of rows that have a shape; the others may be mistakes
MAX_NAMES = 200  # a column with more distinct values does not hold label names
_SENTENCE = re.compile(
    r"(?i)\W*(sent|sentence|doc|document|utt|utterance|paragraph|sequence)[\W_]*(ids?|no|nr|num|number|idx|index|#)\W*"
)
_LIST = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.DOTALL)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")


@dataclass(frozen=True)
class Shape:
    """A shape that cannot be read yet.

    Attributes:
        looks: Completes "it looks like ...".
        convert: Completes "convert it to ...".
    """

    looks: str
    convert: str

    def __str__(self) -> str:
        return f"looks like {self.looks}. This cannot be read yet; convert it to {self.convert}"


def file_shape(file: FileDescription) -> Shape | None:
    """The unsupported shape of a whole file; None if there is none."""
    return word_per_row(file)


def column_shapes(file: FileDescription) -> dict[str, Shape]:
    """Column → its unsupported shape, for columns that have one."""
    found = {}
    for column in file.columns.values():
        values = [value for value in file.rows[column.name] if value is not None]
        shape = spans(column, values, file) if column.kind == "other" else None
        if _is_written(column, file):
            shape = lists_as_text(column, values) or decimal_commas(values)
        if shape is not None:
            found[column.name] = shape
    return found | tags_between_spaces(file, exclude=found)


def _is_written(column: Column, file: FileDescription) -> bool:
    """Whether a column holds strings, and not class ids."""
    return column.kind == "string" and column.num_values > 0 and file.rows.features[column.name].dtype != "int64"


def word_per_row(file: FileDescription) -> Shape | None:
    """One word per row, with tags of spans or the number of its sentence in another column."""
    strings = [column for column in file.columns.values() if _is_written(column, file)]
    single = [column for column in strings if float((_lengths(column) == 1).mean()) >= MOST]
    tags = [column for column in single if _is_tags(file.rows[column.name])]
    groups = [column.name for column in file.columns.values() if _SENTENCE.fullmatch(column.name) and _repeats(column)]
    words = [column for column in single if column not in tags and column.name not in groups]
    if (
        not words
        or not (tags or groups)
        or any(column not in single for column in strings if column.name not in groups)
    ):
        return None
    word = max(words, key=lambda column: column.num_distinct)
    labels = tags or [column for column in words if column is not word]
    if not labels:
        return None
    first = file.rows[:2]
    example = {column.name: list(first[column.name]) for column in (word, *labels)}
    sentences = f", with the sentences numbered in `{groups[0]}`" if groups else ""
    return Shape(
        f"one word per row: words in `{word.name}`, their tags in"
        f" {' and '.join(f'`{column.name}`' for column in labels)}{sentences}",
        f"one sentence per row, with a list of words and a list of tags: {_json(example)}",
    )


def _is_tags(values: Iterable[Any]) -> bool:
    """Whether nearly all values are tags of spans and O."""
    counts = collections.Counter(value for value in values if value)
    tags = counts["O"] + sum(count for value, count in counts.items() if is_span_tag(value))
    return bool(counts["O"]) and len(counts) > 1 and tags >= MOST * counts.total()


def _repeats(column: Column) -> bool:
    """Whether values repeat, or are empty in most rows as in a spreadsheet."""
    rows = column.num_values + column.num_missing
    return 1 < column.num_distinct <= rows / 2


def _lengths(column: Column) -> Any:
    return column.lengths[column.lengths >= 0]


def spans(column: Column, values: list[Any], file: FileDescription) -> Shape | None:
    """Entities as [start, end, label] or {start, end, label}: of characters in a string, or of words in a list."""
    found = [item for value in values if isinstance(value, list) for item in value]
    if not found or not all(map(_is_span, found)):
        return None
    words = any(other.kind == "words" and other.num_values for other in file.columns.values())
    writer = "doccano writes" if isinstance(found[0], list) else "spaCy and Prodigy write"
    kind = "words, as GLiNER reads" if words else f"characters, as {writer}"
    return Shape(
        f"entities as spans of {kind} them ({_json(found[0])})",
        "a list of words and a list of tags:"
        ' {"tokens": ["Ana", "flew", "to", "Riga"], "tags": ["B-PER", "O", "O", "B-LOC"]}',
    )


def _is_span(item: Any) -> bool:
    if isinstance(item, dict):
        ends = [item.get(key, item.get(f"{key}_offset")) for key in ("start", "end")]
        return all(isinstance(end, int) for end in ends)
    return (
        isinstance(item, list)
        and len(item) == 3
        and sorted(type(part).__name__ for part in item) == ["int", "int", "str"]
    )


def lists_as_text(column: Column, values: list[Any]) -> Shape | None:
    """Lists that a table holds as text: `['a', 'b']`."""
    cells = [value.strip() for value in values if value.strip()]
    lists = [cell for cell in cells if _LIST.fullmatch(cell)]
    if not cells or len(lists) < MOST * len(cells):
        return None
    shown = lists[0] if len(lists[0]) <= 40 else f"{lists[0][:37]}..."
    return Shape(
        f"lists written as text ({shown})", f"lists, in .jsonl or .parquet: {_json({column.name: ['a', 'b']})}"
    )


def decimal_commas(values: list[Any]) -> Shape | None:
    """Numbers as `3,5`."""
    cells = [value.strip() for value in values if value.strip()]
    commas = [cell for cell in cells if "," in cell]
    if not commas or not all(map(_DECIMAL_COMMA.fullmatch, cells)):
        return None
    return Shape(
        f"numbers with a comma ({commas[0]})",
        'numbers with a decimal point, or write a YAML whose source has `decimal: ","` and whose task reads the column',
    )


def tags_between_spaces(file: FileDescription, exclude: Collection[str] = ()) -> dict[str, Shape]:
    """Two columns of strings with equal numbers of words, one of words and one of tags: `Ana flew` and `B-PER O`."""
    strings = [item for item in file.columns.values() if _is_written(item, file) and item.name not in exclude]
    found = {}
    for words, tags in itertools.permutations(strings, 2):
        both = (words.lengths > 0) & (tags.lengths > 0)
        if not both.any() or float(tags.lengths[both].mean()) < 2:
            continue
        if float((words.lengths == tags.lengths)[both].mean()) < MOST:
            continue
        vocabulary, kinds = (" ".join(filter(None, file.rows[column.name])).split() for column in (words, tags))
        few = len({*kinds}) <= MAX_NAMES and 2 * len({*kinds}) < len({*vocabulary})
        if not few and not _is_tags(kinds):
            continue
        row = file.rows[int(both.argmax())]
        example = {column.name: row[column.name].split() for column in (words, tags)}
        found[tags.name] = Shape(
            f"one tag for each word of `{words.name}`, with spaces between ({row[tags.name][:40]})",
            f"lists, in .jsonl or .parquet: {_json(example)}",
        )
    return found


def conll_columns(path: str | Path) -> list[str]:
    """Names for the columns of a CoNLL file: one word per line with its tags, and a blank line between sentences.

    Args:
        path: Any file of text. Its first 5,000 lines decide.

    Returns:
        The names: `tokens`, others, `tags`, or the usual ones for CoNLL-2003; empty if it is not a CoNLL file.

    Raises:
        ValueError: The words are numbered, as in CoNLL-U, which cannot be read yet.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.strip() for line in itertools.islice(file, 5000)]
    kept = [line for line in lines if line and not line.startswith(("#", "-DOCSTART-"))]
    rows = [line.split("\t") if "\t" in line else line.split() for line in kept]
    usual = collections.Counter(map(len, rows)).most_common(1)
    if not usual or usual[0][0] < 2 or usual[0][1] < MOST * len(rows) or "" not in lines:
        return []
    width = usual[0][0]
    columns = list(zip(*(row for row in rows if len(row) == width), strict=True))
    if not any(_is_tags(column) or len({*column}) <= min(MAX_NAMES, len(column) / 4) for column in columns[1:]):
        return []
    if sum(map(str.isdecimal, columns[0])) >= MOST * len(columns[0]):
        shape = Shape(
            "CoNLL-U, with the number of each word in the first column",
            "one word and its tag per line, separated by a tab, and a blank line after each sentence",
        )
        raise ValueError(f"{path} {shape}.")
    if width == 4 and _is_tags(columns[3]) and all(tag == "O" or is_span_tag(tag) for tag in columns[2]):
        return ["tokens", "pos_tags", "chunk_tags", "ner_tags"]
    return ["tokens", *(f"column_{number}" for number in range(2, width)), "tags"]


def one_hot_columns(file: FileDescription) -> list[str]:
    """Columns with 0 or 1 in every row, or with true or false if these are more: each may be a label."""
    columns = [column for column in file.columns.values() if column.num_values and not column.num_missing]
    numbers = [item.name for item in columns if item.kind == "number" and item.whole and item.bounds in _ZERO_ONE]
    truths = [item.name for item in columns if item.kind == "truth" or (file.is_csv and _is_truth(item))]
    return max(numbers, truths, key=len)


_ZERO_ONE = ((0, 1), (0, 0))


def _is_truth(column: Column) -> bool:
    """Whether a column of text has only true and false."""
    return column.kind == "string" and {value.lower() for value, _ in column.common} <= {"true", "false"}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
