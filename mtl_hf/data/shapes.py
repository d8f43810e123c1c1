"""Detect shapes of files that the package cannot read yet, and suggest how to convert them.

Notable: there is one function per shape, so that it can be removed when the shape is supported. Detection uses mainly
values; names of columns only help.
"""

import collections
import itertools
import json
import re
from collections.abc import Iterable
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
_SENTENCE_BARE = re.compile(r"(?i)(sent|sentence|doc|document|utt|utterance|paragraph|sequence)s?")
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
    return nested_annotations(file) or ungrouped_words(file)


def column_shapes(file: FileDescription) -> dict[str, Shape]:
    """Column → its unsupported shape, for columns that have one."""
    found = {}
    for column in file.columns.values():
        values = [value for value in file.rows[column.name] if value is not None]
        shape = None
        if is_written(column, file):
            shape = decimal_commas(values)
        if shape is not None:
            found[column.name] = shape
    return found


def is_written(column: Column, file: FileDescription) -> bool:
    """Whether a column holds strings, and not class ids."""
    return column.kind == "string" and column.num_values > 0 and file.rows.features[column.name].dtype != "int64"


def nested_annotations(file: FileDescription) -> Shape | None:
    """Label Studio's own JSON: texts in `data`, and labels in the `result` of `annotations`."""
    if not {"data", "annotations"} <= file.columns.keys():
        return None
    found = [item for value in file.rows["annotations"] if isinstance(value, list) for item in value]
    if not found or not all(isinstance(item, dict) and "result" in item for item in found):
        return None
    return Shape(
        "Label Studio's nested export", "its JSON-MIN or CSV export, which has a row with text and label a task"
    )


@dataclass(frozen=True)
class WordRows:
    """Columns of a file with one word per row.

    Attributes:
        word: Column of words.
        labels: Columns of their tags.
        group: Column with the number of the sentence; None if there is none.
    """

    word: str
    labels: list[str]
    group: str | None


def word_rows(file: FileDescription) -> WordRows | None:
    """One word per row, with tags of spans or the number of its sentence in another column."""
    strings = [column for column in file.columns.values() if is_written(column, file)]
    single = [column for column in strings if float((_lengths(column) == 1).mean()) >= MOST]
    tags = [column for column in single if are_tags(file.rows[column.name])]
    groups = [column.name for column in file.columns.values() if _numbers_sentences(column)]
    words = [column for column in single if column not in tags and column.name not in groups]
    if (
        not words
        or not (tags or groups)
        or any(column not in single for column in strings if column.name not in groups)
    ):
        return None
    word = max(words, key=lambda column: column.num_distinct)
    labels = tags or [column for column in words if column is not word]
    return WordRows(word.name, [column.name for column in labels], next(iter(groups), None)) if labels else None


def ungrouped_words(file: FileDescription) -> Shape | None:
    """One word per row, without a column that tells where sentences begin."""
    found = word_rows(file)
    if found is None or found.group is not None:
        return None
    first = file.rows[:2]
    example = {name: list(first[name]) for name in (found.word, *found.labels)}
    return Shape(
        f"one word per row: words in `{found.word}`, their tags in"
        f" {' and '.join(f'`{name}`' for name in found.labels)}",
        "rows with the number of the sentence in another column, such as `sentence_id`, or one sentence per row, with a"
        f" list of words and a list of tags: {_json(example)}",
    )


def are_tags(values: Iterable[Any]) -> bool:
    """Whether nearly all values are tags of spans and O."""
    counts = collections.Counter(value for value in values if value)
    tags = counts["O"] + sum(count for value, count in counts.items() if is_span_tag(value))
    return bool(counts["O"]) and len(counts) > 1 and tags >= MOST * counts.total()


def _numbers_sentences(column: Column) -> bool:
    """Whether a column has the number of the sentence: by its name, or by a name such as `sentence` and numbers."""
    bare = column.kind == "number" and column.whole and _SENTENCE_BARE.fullmatch(column.name) is not None
    return (bare or _SENTENCE.fullmatch(column.name) is not None) and _repeats(column)


def _repeats(column: Column) -> bool:
    """Whether values repeat, or are empty in most rows as in a spreadsheet."""
    rows = column.num_values + column.num_missing
    return 1 < column.num_distinct <= rows / 2


def _lengths(column: Column) -> Any:
    return column.lengths[column.lengths >= 0]


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


def conll_columns(path: str | Path, encoding: str | None = None) -> list[str]:
    """Names for the columns of a CoNLL file: one word per line with its tags, and a blank line between sentences.

    Args:
        path: Any file of text. Its first 5,000 lines decide.
        encoding: Its encoding; None for UTF-8.

    Returns:
        The names: `tokens`, others, `tags`, or the usual ones for CoNLL-2003; empty if it is not a CoNLL file.

    Raises:
        ValueError: The words are numbered, as in CoNLL-U, which cannot be read yet.
    """
    with open(path, encoding=encoding or "utf-8-sig", errors="replace") as file:
        lines = [line.strip() for line in itertools.islice(file, 5000)]
    kept = [line for line in lines if line and not line.startswith(("#", "-DOCSTART-"))]
    rows = [line.split("\t") if "\t" in line else line.split() for line in kept]
    usual = collections.Counter(map(len, rows)).most_common(1)
    if not usual or usual[0][0] < 2 or usual[0][1] < MOST * len(rows) or "" not in lines:
        return []
    width = usual[0][0]
    columns = list(zip(*(row for row in rows if len(row) == width), strict=True))
    if not any(are_tags(column) or len({*column}) <= min(MAX_NAMES, len(column) / 4) for column in columns[1:]):
        return []
    if sum(map(str.isdecimal, columns[0])) >= MOST * len(columns[0]):
        shape = Shape(
            "CoNLL-U, with the number of each word in the first column",
            "one word and its tag per line, separated by a tab, and a blank line after each sentence",
        )
        raise ValueError(f"{path} {shape}.")
    if width == 4 and are_tags(columns[3]) and all(tag == "O" or is_span_tag(tag) for tag in columns[2]):
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
