"""Describe a file of rows: kind, lengths, values, range and missing values of each column.

Notable: this file only collects statistics; `draft.py` detects tasks from them.
"""

import collections
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..tasks.column import Column, label_name
from .files import loader_of
from .sources import has_text, load_file

Loader = tuple[str, dict[str, Any]]  # a loader of `datasets`, as `csv`, and its arguments
# Usual names of columns with text, or with pairs of texts.
TEXT_COLUMNS = (
    "text", "sentence", "tokens", "words", "utterance", "review", "content", "question", "query", "title",
    "tokenized_text",
)  # fmt: skip
PAIR_COLUMNS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"),
    ("question", "sentence"), ("first", "second"), ("text", "text_pair"),
)  # fmt: skip


@dataclass
class FileDescription:
    """Description of a file.

    Attributes:
        path: Path of the file.
        loader: Loader of `datasets`, and its arguments.
        rows: The rows.
        columns: Name → statistics of the column.
    """

    path: str
    loader: Loader
    rows: datasets.Dataset
    columns: dict[str, Column]

    @property
    def is_csv(self) -> bool:
        """Whether it is a CSV file, in which numbers are text."""
        return self.loader[0] == "csv"

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.rows)


def describe_file(path: str | Path, loader: Loader | None = None, as_text: Collection[str] = ()) -> FileDescription:
    """Describe every column of a file.

    Args:
        path: The file.
        loader: Loader of `datasets` and its arguments; None for those of its ending.
        as_text: CSV columns to read as text without conversion, like labels in a run.

    Raises:
        ValueError: The file cannot be read, or has no rows.
    """
    return describe_rows(str(path), loader or loader_of(path), load_file(path, as_text, loader))


def describe_rows(path: str, loader: Loader, rows: datasets.Dataset) -> FileDescription:
    """Describe every column of rows that were read from a file."""
    columns = {name: describe_column(name, rows.features[name], list(rows[name])) for name in rows.column_names}
    return FileDescription(path, loader, rows, columns)


def describe_column(name: str, feature: Any, values: list[Any]) -> Column:
    """Describe a column.

    Args:
        name: Its name.
        feature: Its feature.
        values: Its values.
    """
    inner = getattr(feature, "feature", None)
    labels = next((item for item in (feature, inner) if isinstance(item, datasets.ClassLabel)), None)
    if labels is not None:  # -1 is a missing label
        values = [_names(value, labels) for value in values]
        kind = "string" if inner is None else "words"
    elif inner is None:
        held = str(getattr(feature, "dtype", ""))
        kind = "date" if held.startswith(("date", "timestamp")) else _KINDS.get(held.rstrip("0123456789"), "other")
    else:
        kind = {"string": "words", "number": "numbers", "truth": "numbers"}.get(
            _KINDS.get(str(getattr(inner, "dtype", "")).rstrip("0123456789"), ""), "other"
        )
    present = [value for value in values if not is_missing(value)]
    column = Column(name, kind, num_missing=len(values) - len(present))  # type: ignore[arg-type]
    if kind in ("date", "other"):
        return column
    if kind in ("string", "words"):
        column.num_blank = sum(not has_text(value) for value in values)
    items: Iterable[Any] = present
    if kind in ("words", "numbers"):
        items = [item for value in present for item in value]
        column.lengths = np.array([-1 if is_missing(value) else len(value) for value in values])
        characters = [sum(len(str(item)) + 1 for item in value) for value in present]
    else:
        if kind == "string":
            column.lengths = np.array([-1 if is_missing(value) else len(value.split()) for value in values])
        characters = [len(str(value)) for value in present]
    counts = collections.Counter(label_name(item).strip() for item in items if item is not None)
    column.num_values = sum(counts.values())
    column.num_distinct = len(counts)
    column.common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    column.longest = int(np.percentile(characters, 99)) if characters else 0
    if kind == "number" and present:
        column.bounds = (float(min(present)), float(max(present)))
        with np.errstate(over="ignore", invalid="ignore"):  # of inf and 1e308
            column.mean, column.deviation = float(np.mean(present)), float(np.std(present))
        column.whole = all(float(value).is_integer() for value in present)
    return column


_KINDS = {
    "string": "string", "large_string": "string", "bool": "truth", "int": "number", "uint": "number", "float": "number",
}  # fmt: skip


def _names(value: Any, labels: datasets.ClassLabel) -> Any:
    if isinstance(value, list):
        return [_names(item, labels) for item in value]
    return None if value is None or value == -1 else labels.int2str(value)


def is_missing(value: Any) -> bool:
    """Whether a cell is missing: None, only spaces, or NaN."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))
