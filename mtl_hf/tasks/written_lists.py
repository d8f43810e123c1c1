"""Read lists that cells hold as text: JSON, Python (`['a', 'b']`), numpy (`['a' 'b']`), or items between spaces.

Notable: nothing is evaluated. `['a' 'b']` is two items, as numpy writes it, not the one string that Python would read.
"""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

# One item of a list: a quoted string, or a bare number or constant; with the comma after it.
_ITEM = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"\[\](){}]+)\s*(,?)""", re.DOTALL)
_CONSTANTS = {"None": None, "null": None, "nan": None, "True": True, "False": False, "true": True, "false": False}
_BLANKS = re.compile(r"[ \t\r\n\f\v]+")  # other kinds of spaces (U+00A0) are parts of words, as in CoNLL files


def parse_list(cell: str) -> list[Any] | None:
    """The items of a list of strings, numbers or constants that is written as text; None if the cell is not one."""
    cell = cell.strip()
    if len(cell) < 2 or cell[0] + cell[-1] not in ("[]", "()", "{}"):
        return None
    if cell[0] == "[":
        try:
            found = json.loads(cell)
            return found if not any(isinstance(item, list | dict) for item in found) else None
        except (ValueError, RecursionError):
            pass  # Python's or numpy's form
    items, place, end = [], 1, len(cell) - 1
    while cell[place:end].strip():
        match = _ITEM.match(cell, place, end)
        if match is None:
            return None
        try:
            items.append(_item(match[1]))
        except (ValueError, SyntaxError):
            return None
        place = match.end()
    return sorted(items, key=str) if cell[0] == "{" else items


def _item(written: str) -> Any:
    if written in _CONSTANTS:
        return _CONSTANTS[written]
    return ast.literal_eval(written) if written[0] in "'\"" else json.loads(written)


def are_lists(cells: Sequence[str | None]) -> bool:
    """Whether most cells that are not blank are lists written as text."""
    filled = [cell for cell in cells if cell and cell.strip()]
    return bool(filled) and 2 * sum(parse_list(cell) is not None for cell in filled) > len(filled)


def split_at_blanks(cell: str) -> list[str]:
    """The items of a cell with spaces between: `Ana flew`."""
    return [item for item in _BLANKS.split(cell) if item]
