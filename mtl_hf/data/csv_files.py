"""Read CSV files with every cell as text, without conversion.

Notable: `row_files.py` chooses the type of a column from all files of a source. Rows with more or fewer fields than the
header are errors here, because pandas would shift or fill them without a message.
"""

import codecs
import collections
import csv
import itertools
import logging
import re
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from datasets.packaged_modules.csv.csv import CsvConfig

from .files import EXCEL_HINT, find_separator, open_file, open_text

# Options of the reader below; with any other one pandas reads the file.
_KNOWN = {
    "sep", "delimiter", "quotechar", "quoting", "doublequote", "escapechar", "skipinitialspace", "encoding",
    "encoding_errors", "names", "column_names", "decimal", "thousands", "chunksize", "low_memory", "memory_map",
    "engine", "float_precision", "true_values", "false_values", "index_col", "on_bad_lines",
}  # fmt: skip
_MAX_FIELD = 1 << 27  # characters of one cell; the csv module stops at 128 KiB, which long documents exceed


@dataclass
class FileRows:
    """The rows of one file.

    Attributes:
        path: The file.
        columns: Column → the value of each row, None for missing ones.
        lines: The line of the file in which each row begins, from 1; None if unknown.
        notes: Messages about the file, each with a level of `logging`.
    """

    path: str
    columns: dict[str, list[Any]]
    lines: list[int] | None = None
    notes: list[tuple[int, str]] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def where(self, row: int) -> str:
        """Description of a row in messages."""
        return f"{self.path}, line {self.lines[row]}" if self.lines else f"{self.path}, row {row + 1}"


def read_csv(path: str, options: Mapping[str, Any]) -> FileRows:
    """Read a CSV file: every cell as text, None for empty ones.

    Args:
        path: The file.
        options: Arguments of `path: csv`. Without `sep` or `delimiter` the separator is detected, and a note names it.

    Raises:
        ValueError: A row has another number of fields than the header, or a quote is not closed. The message names the
            line.
    """
    options = dict(options)
    separator = options.get("delimiter") or options.get("sep")
    notes = []
    if separator is None and not options.get("dialect"):
        separator = find_separator(path, options.get("encoding") or "utf-8")
        options["sep"] = separator
        if separator != ",":
            notes.append((logging.INFO, f"{path}: its columns are separated by {separator!r} (`sep` sets another)."))
    plain = (
        not options.keys() - _KNOWN
        and len(str(separator)) == 1
        and options.get("quoting", 0) in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE)
        and options.get("index_col") in (None, False)
        and options.get("on_bad_lines", "error") == "error"
    )
    rows = _read_plain(path, str(separator), options) if plain else _read_pandas(path, options)
    rows.notes[:0] = notes
    return rows


def _read_plain(path: str, separator: str, options: Mapping[str, Any]) -> FileRows:
    dialect: dict[str, Any] = {
        key: options[key]
        for key in ("quotechar", "quoting", "doublequote", "escapechar", "skipinitialspace")
        if options.get(key) is not None
    }
    names = options.get("names") or options.get("column_names")
    if names is not None:
        check_names(names, path)
    held: list[list[str]] = []
    lines: list[int] = []
    before = csv.field_size_limit(_MAX_FIELD)
    start = 1
    try:
        with open_text(path, options.get("encoding") or "utf-8", options.get("encoding_errors") or "strict") as text:
            first = text.readline()
            skipped = bool(EXCEL_HINT.fullmatch(first))
            source = text if skipped else itertools.chain([first], text)
            try:
                reader = csv.reader(source, delimiter=separator, strict=True, **dialect)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: cannot be read with these options ({error}).") from None
            start += skipped
            for cells in reader:
                line, start = start, reader.line_num + 1 + skipped
                if not cells or (len(cells) == 1 and not cells[0].strip()):
                    continue  # a blank line
                if names is None:
                    names = cells
                elif len(cells) != len(names):
                    raise _wrong_length(path, line, cells, list(names), separator)
                else:
                    held.append(cells)
                    lines.append(line)
    except csv.Error as error:
        opened = "a quote opens a cell here and is not closed" if "unexpected end" in str(error) else str(error)
        raise ValueError(
            f"{path}, line {start}: {opened}. A quote inside a quoted cell has to be doubled; if quotes are part of the"
            f" text, set `quoting: {csv.QUOTE_NONE}`."
        ) from None
    finally:
        csv.field_size_limit(before)
    cells_of = list(zip(*held, strict=True)) or [()] * len(names or ())
    rows = FileRows(path, {}, lines)
    counts: collections.Counter[str] = collections.Counter()
    taken = set(names or ())
    for place, (name, column) in enumerate(zip(names or (), cells_of, strict=True)):
        if not name:
            if not any(column):
                continue  # separators at the end of every line
            name = f"Unnamed: {place}"
        counts[name] += 1
        if counts[name] > 1:
            renamed = next(new for new in (f"{name}.{number}" for number in itertools.count(1)) if new not in taken)
            taken.add(renamed)
            rows.notes.append((logging.WARNING, f"{path}: the header has {name!r} more than once; the first is read as"
                               f" {name!r}, this one as {renamed!r}."))  # fmt: skip
            name = renamed
        rows.columns[name] = [cell or None for cell in column]
    return rows


def check_names(names: Any, path: str) -> None:
    """Raise `ValueError` unless `column_names` is a list of distinct strings."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"`column_names` is {names!r}; it should be a list of names, one for each column of {path}.")
    if len(set(names)) < len(names):
        raise ValueError(f"`column_names` has a name twice: {', '.join(names)}.")


def _wrong_length(path: str, line: int, cells: list[str], names: list[str], separator: str) -> ValueError:
    """The error for a row that does not match the header."""
    listed = textwrap.shorten(", ".join(names), 200)
    number = f"{len(cells)} field{'s' * (len(cells) != 1)}"
    if len(cells) > len(names):
        remedy = f"a cell that holds {separator!r} needs quotes around it, and every column a name in the header"
    else:
        remedy = "a cell that holds a line break needs quotes around it, and an empty cell at the end its separator"
    return ValueError(
        f"{path}, line {line}: {number}, but the header has {len(names)} ({listed}); {remedy}. The columns"
        f" are separated by {separator!r} (`sep`)."
    )


def _read_pandas(path: str, options: Mapping[str, Any]) -> FileRows:
    """Read a file with options that only pandas supports."""
    if not {"keep_default_na", "na_values"} & options.keys():
        # pandas would read labels such as None, NA or null as missing values.
        options = {**options, "keep_default_na": False, "na_values": [""]}
    arguments = CsvConfig(**options).pd_read_csv_kwargs
    arguments.pop("chunksize", None)
    if len(str(arguments["sep"])) > 1 and arguments.get("engine") is None:
        arguments["engine"] = "python"  # pandas would choose it too, with a warning
    if arguments.get("index_col") is None:
        arguments["index_col"] = False  # else the first column becomes the index if rows have one field too many
    if codecs.lookup(arguments.get("encoding") or "utf-8").name == "utf-8":
        arguments["encoding"] = "utf-8-sig"
    try:
        with open_file(path) as stream, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(stream, dtype=str, **arguments)
    except pd.errors.EmptyDataError:
        return FileRows(path, {})
    except (ValueError, TypeError, IndexError, re.error, pd.errors.ParserWarning) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({' '.join(str(error).split())}).") from error
    table = table.astype(object).where(table.notna(), None)
    return FileRows(path, {str(name): table[name].tolist() for name in table.columns})
