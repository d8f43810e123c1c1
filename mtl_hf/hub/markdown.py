"""Text of others in Markdown: labels, names and paths that bring no markup of their own.

Notable: text that is not plainly harmless becomes a code span, in which Markdown and HTML are literal (CommonMark 0.31,
section 6.1); a fence longer than any run of backticks in it cannot be closed from inside.
"""

import json
import re
from collections.abc import Iterable

_PLAIN = re.compile(r"(-(?=\d))?[A-Za-z0-9(](([\w %(),+-]|(?<=\d)\.(?=\d))*[A-Za-z0-9)%])?")


class Markdown(str):
    """Markdown of ours, which `table` takes as it is."""


def literal(text: str) -> str:
    """Text as Markdown that shows it: as it is where nothing in it could be markup, else as a code span."""
    return text if _PLAIN.fullmatch(text) and "__" not in text else code(text)


def code(text: str) -> str:
    """Text as a code span on one line."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split()) or "(empty)"
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def quoted(text: str) -> str:
    """Text as a string of Python in double quotes, which ends no code span and no code block."""
    return json.dumps(text, ensure_ascii=False).replace("`", "\\u0060")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown.

    Args:
        header: Names of the columns.
        rows: Cells: `Markdown` as it is, other text by `literal`.
    """
    columns = list(header)
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell if isinstance(cell, Markdown) else literal(cell) if cell else "" for cell in row] for row in rows]
    # A bar ends a cell also inside a code span, unless it has a backslash before it.
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
