"""Escape text for Markdown: labels, names and paths are shown literally and cannot add markup.

Notable: text that may contain markup becomes a code span, in which Markdown and HTML are literal (CommonMark 0.31,
section 6.1); its fence is longer than any run of backticks in the text, so the text cannot close it.
"""

import json
import re
from collections.abc import Iterable

_PLAIN = re.compile(r"(-(?=\d))?[A-Za-z0-9(](([\w %(),+-]|(?<=\d)\.(?=\d))*[A-Za-z0-9)%])?")


class Markdown(str):
    """Text that already is Markdown; `table` does not escape it."""


def literal(text: str) -> str:
    """Escape text for Markdown: unchanged if nothing in it can be markup, else a code span."""
    return text if _PLAIN.fullmatch(text) and "__" not in text else code(text)


def code(text: str) -> str:
    """Format text as a code span on one line."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split()) or "(empty)"
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def quoted(text: str) -> str:
    """Format text as a Python string in double quotes, without backticks that could end a code span or block."""
    return json.dumps(text, ensure_ascii=False).replace("`", "\\u0060")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a Markdown table.

    Args:
        header: Names of the columns.
        rows: Cells: `Markdown` is kept, other text is escaped by `literal`.
    """
    columns = list(header)
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell if isinstance(cell, Markdown) else literal(cell) if cell else "" for cell in row] for row in rows]
    # A bar ends a cell even inside a code span, unless it is escaped by a backslash.
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
