"""Read CoNLL files: one word per line with its tags, and a blank line after each sentence.

Notable: the reader of `datasets` reads comments and headers as words, fills missing tags with empty ones and drops
columns without a name. This reader skips comments and headers, and raises an error for invalid lines.
"""

import collections
import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .csv_files import FileRows, check_names
from .files import open_text

# Names of columns in headers.
_HEADER = {
    "id", "index", "token", "tokens", "word", "words", "form", "text", "lemma", "pos", "pos_tag", "pos_tags", "upos",
    "xpos", "chunk", "chunk_tag", "chunk_tags", "ner", "ner_tag", "ner_tags", "tag", "tags", "label", "labels",
    "entity",
}  # fmt: skip
_NUMBER = re.compile(r"[0-9]+([-.][0-9]+)?")  # of a word in its sentence; of several (2-3), or of none (8.1)
_PLACE = re.compile(r"-?[0-9]+")  # the number of a column
_KEY = re.compile(r"#\s*(\S+\s*=|newdoc|newpar)")  # `# sent_id = 1`


def read_conll(path: str, options: Mapping[str, Any]) -> FileRows:
    """Read the sentences of a CoNLL file: for each column a list of strings, one per word.

    Columns are separated by tabs if half of the lines have one, else by blanks. If the first column numbers the words,
    lines for several words (`2-3`) or for none (`8.1`) are left out. `-DOCSTART-` lines end a sentence. Lines before a
    sentence that begin with `#` are comments, unless they have a tag like other words. A first line with names of
    columns is left out. Notes count the lines that are left out.

    Args:
        path: The file.
        options: Arguments of `path: conll`: `column_names`, one for each column of the file; `delimiter`, `encoding`,
            `encoding_errors`, `comment_prefix` (then only such lines are comments), `skip_docstart`. Without
            `column_names`, columns have the names in the header if there is one, else their numbers from 0; `wanted`
            then holds the columns that are used, which may be numbers from the end (-1: the last).

    Raises:
        ValueError: The number of columns of a line differs from the number of names, or a column is empty.
    """
    names = options.get("column_names")
    if names is not None:
        check_names(names, path)
    prefix, delimiter = (options.get(key) and str(options[key]) for key in ("comment_prefix", "delimiter"))
    with open_text(path, options.get("encoding") or "utf-8", options.get("encoding_errors") or "strict") as text:
        raw = [line.rstrip("\r\n") for line in text]
    if not delimiter:
        lines = [line.strip(" \t") for line in raw if not line.startswith(("#", "-DOCSTART-"))]
        delimiter = "\t" if 2 * sum("\t" in line for line in lines) >= max(1, sum(map(bool, lines))) else None
    cells = [_split(line, delimiter) for line in raw]
    docstart = options.get("skip_docstart", True)
    documents = {row for row, line in enumerate(raw) if docstart and line.startswith("-DOCSTART-")}
    borders = documents | {row for row in range(len(raw)) if not cells[row]}
    written = [row for row in range(len(raw)) if row not in borders]
    if prefix:
        comments = {row for row in written if raw[row].startswith(prefix)}
    else:
        comments = _comments(written, raw, cells, borders)
    words = [row for row in written if row not in comments]
    rows = FileRows(path, {}, [])
    if documents:
        first = f"the first: line {min(documents) + 1}"
        rows.notes.append((logging.INFO, f"{path}: {len(documents)} -DOCSTART- lines are left out ({first})."))
    if comments:
        first = f"the first: line {min(comments) + 1}, {raw[min(comments)][:50]!r}"
        rows.notes.append((logging.INFO, f"{path}: {len(comments)} comment lines are left out ({first})."))
    header: list[str] = []
    if words and _is_header(cells[words[0]], [cells[row][-1] for row in words[1:]], names or ()):
        header = cells[words[0]]
        rows.notes.append(
            (logging.INFO, f"{path}, line {words[0] + 1}: names of columns ({' '.join(header)}), left out.")
        )
        del words[0]
    firsts = {cells[row][0] for row in words}
    if "1" in firsts and all(map(_NUMBER.fullmatch, firsts)):
        others = [row for row in words if not cells[row][0].isdigit()]
        words = [row for row in words if cells[row][0].isdigit()]
        if others:
            first = f"the first: line {others[0] + 1}, {raw[others[0]][:50]!r}"
            rows.notes.append((logging.INFO, f"{path}: {len(others)} lines of several words or of none (as CoNLL-U has"
                               f" them: 2-3, 8.1) are left out ({first})."))  # fmt: skip
    wanted = [str(column) for column in options.get("wanted") or ()]
    numbered = names is None
    if names is None:
        width = collections.Counter(len(cells[row]) for row in words).most_common(1)[0][0] if words else 0
        names = [str(place) for place in range(width)]
        if not all(_PLACE.fullmatch(column) for column in wanted) and len(set(header)) == width:
            names, numbered = header, False
        elif not all(_PLACE.fullmatch(column) for column in wanted):
            raise _no_names(path, cells[words[0]] if words else ["words", "tags"])
    sentences: list[list[list[str]]] = []
    before = None
    for row in words:
        if len(cells[row]) != len(names) or not all(cells[row]):
            if numbered:
                raise _wrong_width(path, row, cells[row], len(names))
            raise _wrong_line(path, row, cells[row], list(names), cells[words[0]])
        if before is None or not borders.isdisjoint(range(before + 1, row)):
            sentences.append([])
            rows.lines.append(row + 1)  # type: ignore[union-attr]
        sentences[-1].append(cells[row])
        before = row
    rows.columns = {
        name: [[word[place] for word in sentence] for sentence in sentences] for place, name in enumerate(names)
    }
    for column in wanted if numbered else ():
        if column.startswith("-") and int(column) >= -len(names):
            rows.columns[column] = rows.columns[names[int(column)]]
    return rows


def _split(line: str, delimiter: str | None) -> list[str]:
    """The columns of a line; none if it is blank. Other kinds of spaces (U+00A0) are parts of words."""
    if not line.strip(" \t"):
        return []
    return [cell.strip(" ") for cell in line.split(delimiter)] if delimiter else re.split(r"[ \t]+", line.strip(" \t"))


def _comments(written: Sequence[int], raw: Sequence[str], cells: Sequence[list[str]], borders: set[int]) -> set[int]:
    """Lines before a sentence that begin with `#` and are not words.

    A word has as many columns as others, and is `#` with a tag of other words, or a longer string (`#fun`).
    """
    tags = {"#"} | {cells[row][-1] for row in written if not raw[row].startswith("#")}
    usual = {len(cells[row]) for row in written if not raw[row].startswith("#")}
    comments: set[int] = set()
    for row in written:
        first = row == 0 or row - 1 in borders or row - 1 in comments
        known = cells[row][-1] in tags or cells[row][0] != "#"
        token = len(cells[row]) in usual and known and not _KEY.match(raw[row])
        if raw[row].startswith("#") and first and not token:
            comments.add(row)
    return comments


def _is_header(first: Sequence[str], tags: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a line is a header: its first and last column have usual names, and the last is not used as a tag."""
    known = _HEADER | {name.lower() for name in names}
    return len(first) > 1 and {first[0].lower(), first[-1].lower()} <= known and first[-1] not in tags


def _no_names(path: str, first: Sequence[str]) -> ValueError:
    shown = ", ".join(["words", *("other" for _ in first[2:]), *(["tags"] if len(first) > 1 else [])])
    return ValueError(
        f"`column_names` is missing: {path} has {len(first)} columns, as in {' '.join(first)!r}; write numbers (`text:"
        f" 0`, `label: -1` for the last), or name each of them, as in `column_names: [{shown}]`."
    )


def _wrong_width(path: str, row: int, cells: Sequence[str], width: int) -> ValueError:
    """The error for a line with another number of columns than most lines, in a file without names."""
    found = f"{len(cells)} column{'s' * (len(cells) != 1)} ({textwrap.shorten(' | '.join(cells), 100)})"
    if len(cells) == width:
        return ValueError(f"{path}, line {row + 1}: the column {cells.index('')} is empty in {' | '.join(cells)!r}.")
    return ValueError(
        f"{path}, line {row + 1}: {found}, but most lines have {width}: a word has a tag in each of them, and sentences"
        " have a blank line between."
    )


def _wrong_line(path: str, row: int, cells: Sequence[str], names: Sequence[str], first: Sequence[str]) -> ValueError:
    """The error for a line that does not match the names."""
    where = f"{path}, line {row + 1}"
    found = f"{len(cells)} column{'s' * (len(cells) != 1)} ({textwrap.shorten(' | '.join(cells), 100)})"
    if len(cells) == len(names):
        return ValueError(f"{where}: the column {names[list(cells).index('')]!r} is empty in {' | '.join(cells)!r}.")
    if len(cells) == len(first):
        return ValueError(
            f"{where}: {found}, but `column_names` has {len(names)}"
            f" ({', '.join(names)}); name every column of the file."
        )
    return ValueError(
        f"{where}: {found}, but {len(names)} are named ({', '.join(names)}): a word"
        " has a tag in each of them, and sentences have a blank line between."
    )
