"""Read JSON lines, or a file that is one JSON list, without conversion.

Notable: the readers of Arrow and `datasets` read "2020-01-01" as a date, and "01" as 1 if another row has a number.
Here a string stays a string.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .csv_files import FileRows
from .files import open_text


class _RepeatedKeyError(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in found if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_json(path: str, options: Mapping[str, Any]) -> FileRows:
    """Read a file of JSON lines, of one list of objects (or of strings: the column `text`), or of objects in a row.

    Args:
        path: The file.
        options: Arguments of `path: json`: `encoding`, `encoding_errors`, and `field`, the key of the list where the
            file is one object.

    Raises:
        ValueError: The file is not JSON, a row is not an object, or a row has a key twice. The message names the line.
    """
    field = options.get("field")
    with open_text(path, options.get("encoding") or "utf-8", options.get("encoding_errors") or "strict") as text:
        start = next((line for line in text if line.strip()), "")
        text.seek(0)
        if field is not None or start.lstrip().startswith("["):
            values, lines = _read_list(path, text.read(), field), None
        else:
            lines, values = [], []
            for line, value in _read_objects(path, text):
                lines.append(line)
                values.append(value)
    rows = FileRows(path, {}, lines)
    for place, value in enumerate(values):
        if not isinstance(value, dict):
            kind = {list: "list", str: "string", bool: "truth value", type(None): "null"}.get(type(value), "number")
            unit = "line" if lines else "row"
            raise ValueError(f'{rows.where(place)}: a {kind}; each {unit} should be an object ({{"text": ...}}).')
    names = dict.fromkeys(itertools.chain.from_iterable(values))
    rows.columns = {name: [value.get(name) for value in values] for name in names}
    tables = [name for name, held in rows.columns.items() if _is_table(held[0])]
    if len(values) == 1 and tables and lines is not None:
        raise ValueError(f"{path} is one object, not rows: set `field: {tables[0]}` to read the rows in {tables[0]!r}.")
    return rows


def _is_table(value: Any) -> bool:
    """Whether a value is a list of objects, other than spans of a text."""
    objects = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    return objects and not value[0].keys() & {"start", "start_offset"}


def _read_list(path: str, text: str, field: str | None) -> list[Any]:
    """The rows of a file that is one list, or that has one under the key `field`."""
    values = _decode(path, text, 1)
    if field is not None:
        if not isinstance(values, dict) or field not in values:
            known = f"; it has {', '.join(values)}" if isinstance(values, dict) else ""
            raise ValueError(f"{path} is not an object with the key {field!r} (`field`){known}.")
        values = values[field]
    if not isinstance(values, list):
        raise ValueError(f"{path}: `field: {field}` holds a {type(values).__name__}; it should hold a list of rows.")
    return [{"text": value} for value in values] if all(isinstance(value, str) for value in values) else values


def _read_objects(path: str, text: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """Each value of a file with the line in which it begins: one a line, or objects that take several lines each."""
    lines = ((number, line) for number, line in enumerate(text, start=1) if line.strip())
    for place, (number, line) in enumerate(lines):
        try:
            value = _decode(path, line.rstrip(), number)
        except ValueError as error:
            if place > 0:
                raise
            try:
                values = list(_read_joined(path, line + "".join(text), number))
            except ValueError:
                if line.strip() == "{":
                    raise
                raise error from None
            yield from values
            return
        yield number, value


def _read_joined(path: str, text: str, number: int) -> Iterator[tuple[int, Any]]:
    """Values that follow each other, each over any number of lines; the text begins in line `number`."""
    place, length = 0, len(text)
    while place < length:
        while place < length and text[place].isspace():
            number += text[place] == "\n"
            place += 1
        if place < length:
            value, end = _decode_one(path, text, number, place)
            yield number, value
            number += text.count("\n", place, end)
            place = end


def _decode(path: str, text: str, number: int) -> Any:
    """The only value of a text that begins in line `number`."""
    start = len(text) - len(text.lstrip())
    value, end = _decode_one(path, text, number + text.count("\n", 0, start), start)
    if text[end:].strip():
        line = number + text.count("\n", 0, end)
        raise ValueError(f"{path}, line {line}: not JSON (there is more after the end of the value).")
    return value


def _decode_one(path: str, text: str, number: int, place: int) -> tuple[Any, int]:
    """The value that begins at a place of a text, in line `number`, and where it ends."""
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        line = number + text.count("\n", place, error.pos)
        raise ValueError(
            f"{path}, line {line}: not JSON ({error.msg.removesuffix(' at')} at column {error.colno})."
        ) from None
    except _RepeatedKeyError as error:
        raise ValueError(f"{path}, line {number}: an object has the key {error.args[0]!r} twice.") from None
    except RecursionError:
        raise ValueError(f"{path}, line {number}: lists or objects within each other, too deep to be read.") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path}, line {number}: {str(error).split(';')[0]}.") from None
