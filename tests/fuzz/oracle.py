"""What the rows of a file are, read by Python's own modules: nothing of ours, of pandas or of Arrow.

A file that these modules refuse, or in which a cell cannot be told from another, is `Malformed`: it has to be refused.
"""

import csv
import io
import json
from typing import Any


class MalformedError(Exception):
    """A file that nobody can read with certainty."""


def csv_rows(content: bytes, *, separator: str, encoding: str, used: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a CSV file as text, None for an empty or missing cell.

    Args:
        content: The file.
        separator: Between two cells.
        encoding: Of the file.
        used: Columns that have to be there.
    """
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise MalformedError(str(error)) from None
    found = _csv_lines(text.removeprefix("\ufeff"), separator)
    lines = [line for line in found if len(line) > 1 or "".join(line).strip()]
    if not lines:
        raise MalformedError("no header")
    header, *cells = lines
    for name in used:
        if name not in header:
            raise MalformedError(f"no column {name!r}")
    if any(len(row) > len(header) for row in cells):
        raise MalformedError("a row with more cells than the header")
    padded = [[cell or None for cell in row] + [None] * (len(header) - len(row)) for row in cells]
    return [dict(reversed([*zip(header, row, strict=True)])) for row in padded]  # the first of columns of one name


def _csv_lines(text: str, separator: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise MalformedError(str(error)) from None


def json_rows(content: bytes, used: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of JSON lines, or of one JSON array, as they are.

    Args:
        content: The file.
        used: Keys that a row may not have twice.
    """

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if any(keys.count(name) > 1 for name in used):
            raise MalformedError("a key twice")
        return dict(pairs)

    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
        if text.lstrip().startswith("["):
            rows = json.loads(text, object_pairs_hook=whole)
        else:
            rows, decoder = [], json.JSONDecoder(object_pairs_hook=whole)
            while text := text.lstrip():  # an object may go over several lines, where a byte became the end of one
                row, end = decoder.raw_decode(text)
                rows.append(row)
                text = text[end:]
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from None
    if not all(isinstance(row, dict) for row in rows):
        raise MalformedError("a row that is no object")
    return rows


def class_names(value: Any) -> set[str] | None:
    """The names that a label of `sequence_classification` may have; None where the row has none; empty: no label.

    A text is what it is, but for space around it; a number of another type than text may be written in two ways.
    """
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool):
        return {str(value), str(value).lower()}
    if isinstance(value, str):
        return {value.strip()} if value.strip() else None
    if isinstance(value, int):
        return {str(value)}
    if isinstance(value, float) and value.is_integer():
        return {str(value), str(int(value)), repr(value)}
    return {str(value), json.dumps(value)} if isinstance(value, float) else set()


def names_of_lists(values: list[Any], names: list[str] | None) -> list[list[str] | None]:
    """The label names of each row of `multi_label_classification`, sorted.

    Args:
        values: A list or None for each row.
        names: `labels:` of the task, which one-hot lists need.
    """
    given = [value for value in values if value is not None]
    if not all(isinstance(value, list) for value in given):
        raise MalformedError("a label that is no list")
    flat = [item for value in given for item in value]
    hot = all(isinstance(item, bool | int | float) and item in (0, 1) for item in flat)
    if flat and hot and len({len(value) for value in given}) == 1 and len(given[0]) > 1:
        if names is None or len(names) != len(given[0]):
            raise MalformedError("one-hot lists without as many names")
        return [
            None if value is None else sorted(name for name, on in zip(names, value, strict=True) if on)
            for value in values
        ]
    if any(not isinstance(item, str | int | float) or not str(item).strip() or item != item for item in flat):
        raise MalformedError("a label that is no name")
    return [None if value is None else sorted({_written(item).strip() for item in value}) for value in values]


def _written(item: Any) -> str:
    """A label as JSON writes it, without quotes."""
    return item if isinstance(item, str) else json.dumps(item)


def number(value: Any) -> float | None:
    """A label of `regression`; None where the row has none."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value.strip(), parse_constant=float)
        except ValueError:
            raise MalformedError("no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedError("no number")
    if value != value:
        return None
    if abs(value) > 1e300:
        raise MalformedError("not finite, or its square is not")
    return float(value)


Span = tuple[str, int, int]


def bio_spans(tags: list[str]) -> set[Span]:
    """Entities (type, first word, word after the last) of clean BIO tags; an I- after another type begins one."""
    spans, start = set(), None
    for index, tag in enumerate([*tags, "O"]):
        goes_on = start is not None and tag == f"I-{tags[start][2:]}"
        if start is not None and not goes_on:
            spans.add((tags[start][2:], start, index))
            start = None
        if tag != "O" and not goes_on:
            start = index
    return spans


HEADERS = [["TOKEN", "TAG"], ["TOKEN", "POS", "CHUNK", "TAG"]]  # lines that name the columns


def conll_sentences(content: bytes, columns: int, delimiter: str | None) -> list[tuple[list[str], list[str]]]:
    """Words and last column of each sentence; documents' borders, comments and headers are left out.

    Args:
        content: The file.
        columns: How many each line has.
        delimiter: Between two of them; None for tabs if half of the lines have one inside, else any white space.
    """
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise MalformedError(str(error)) from None
    if "\x00" in text:
        raise MalformedError("a NUL")
    sentences: list[tuple[list[str], list[str]]] = []
    words: list[str] = []
    tags: list[str] = []
    lines = [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]
    held = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-"))]
    if delimiter is None and held and 2 * sum("\t" in line for line in held) >= len(held):
        delimiter = "\t"
    for line in lines:
        if not line.strip():
            if words:
                sentences.append((words, tags))
            words, tags = [], []
            continue
        if line.startswith(("-DOCSTART-", "# ")) or line.split() in HEADERS:
            continue
        fields = [field.strip(" ") for field in line.split(delimiter)]
        if len(fields) != columns or not all(fields):
            raise MalformedError(f"a line with {len(fields)} columns: {line!r}")
        words.append(fields[0])
        tags.append(fields[-1])
    return sentences
