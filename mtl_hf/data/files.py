"""Find, open and check files of rows before anything reads them.

Notable: pandas, Arrow and `datasets` report an error by their own blocks, or repair it without a message. These checks
find it first, and name its file and line.
"""

import bz2
import codecs
import csv
import functools
import glob
import gzip
import io
import itertools
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from ..config import nearest, resolve_path

# Ending → the loader of `datasets` and its arguments.
FILE_LOADERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t", "quoting": csv.QUOTE_NONE}),  # otherwise an opening quote would swallow rows
    ".parquet": ("parquet", {}),
}
CONLL_ENDINGS = (".conll", ".iob", ".bio")
SEPARATORS = (",", ";", "\t", "|")
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
WESTERN = "cp1252"  # the code page of Windows, and so of Excel, in Western Europe
PACKED = (".zip", ".zst", ".lz4", ".7z")  # compressed files that only `datasets` opens
EXCEL_HINT = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # the first line of some files that Excel writes


def has_rows(path: str | Path) -> bool:
    """Whether a file has rows with columns, by its ending; other files have lines of text, or are CoNLL."""
    return _ending(path) in FILE_LOADERS


def is_conll(path: str | Path) -> bool:
    """Whether a file is CoNLL, by its ending. Such a file does not name its columns."""
    return _ending(path) in CONLL_ENDINGS


def loader_of(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The loader of a file of rows and its arguments, by its ending.

    Raises:
        ValueError: Its ending is not one of `FILE_LOADERS`, also before one of compressed files.
    """
    if not has_rows(path):
        raise ValueError(f"{path} ends in {Path(path).suffix!r}; files of rows end in {', '.join(FILE_LOADERS)}.")
    loader, arguments = FILE_LOADERS[_ending(path)]
    return loader, dict(arguments)


def _ending(path: str | Path) -> str:
    path = Path(path)
    return (Path(path.stem) if path.suffix.lower() in (*_OPENERS, *PACKED) else path).suffix.lower()


def list_paths(files: Any) -> list[str]:
    """The paths and patterns of `data_files`: one, a list, or a mapping from splits to either; none for None."""
    if isinstance(files, Mapping):
        files = list(files.values())
    if isinstance(files, list | tuple):
        return [path for held in files for path in list_paths(held)]
    return [] if files is None else [str(files)]


def find_files(files: Any, where: str) -> dict[str, list[str]]:
    """The files of each split.

    A path that exists is a file, also if it looks like a pattern. URLs (`hf://...`) are returned unchanged.

    Args:
        files: A path or pattern, a list of these, or a mapping from splits to these. Without splits it is `train`.
        where: The key of the config, for messages.

    Raises:
        ValueError: There is no such file, or it is a folder.
    """
    if isinstance(files, Mapping):
        return {str(split): _expand_all(held, where) for split, held in files.items()}
    return {"train": _expand_all(files, where)}


def _expand_all(files: Any, where: str) -> list[str]:
    return [path for given in list_paths(files) for path in _expand(resolve_path(given), where)]


def _expand(path: str, where: str) -> list[str]:
    if "://" in path or os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        raise ValueError(f"`{where}`: {path} is a folder; name its files, as in {os.path.join(path, '*.jsonl')}.")
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not found:
        folder = Path(path).parent
        hint = nearest(Path(path).name, os.listdir(folder)) if folder.is_dir() else (
            f" There is no folder {folder} either (`mtl-hf data` downloads the public sets of our configs)."
        )  # fmt: skip
        raise ValueError(f"`{where}`: there is no file {path}.{hint}")
    return found


@contextmanager
def open_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file to read its bytes, decompressed where its ending is .gz, .bz2 or .xz.

    Raises:
        ValueError: It cannot be opened, or its compressed data are broken or end too early.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it.")
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as stream:  # type: ignore[operator]
            yield stream
    except EOFError:
        raise ValueError(f"{path}: the compressed data end too early; the file is incomplete.") from None
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path}: not a valid {path.suffix} file ({error}).") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}).") from None


@contextmanager
def open_text(path: str | Path, encoding: str = "utf-8", errors: str = "strict") -> Iterator[io.TextIOWrapper]:
    """Open a file as `open_file` does, and read text with unchanged line ends and without a byte order mark."""
    with open_file(path) as stream, io.TextIOWrapper(stream, _without_mark(encoding), errors, newline="") as text:
        try:
            yield text
        except UnicodeError as error:
            raise ValueError(f"{path}: not {encoding.upper()} ({error}).") from None


def _without_mark(encoding: str) -> str:
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def read_lines(file: str | None) -> Iterator[str]:
    """Lines of a file, or of standard input, as they come.

    Raises:
        ValueError: A line that is not UTF-8, with its number.
    """
    with open_file(file) if file else nullcontext(sys.stdin.buffer) as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1 and line == codecs.BOM_UTF8:  # a mark and nothing else: no line
                return
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{file or 'standard input'}, line {number}: not UTF-8 ({error}).") from None


def check_encoding(path: str | Path, encoding: str) -> None:
    """Raise `ValueError` with the first line of a file that is not text in `encoding`."""
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))  # no lines to be found in its bytes
    if not wide and _is_text(path, encoding):  # in blocks, which is quicker
        return
    with open_file(path) as file:
        for number, line in enumerate(file, start=1):
            if wide:
                continue  # only decompressed, to find out whether that works
            if b"\0" in line:
                raise ValueError(
                    f"{path}, line {number}: a NUL byte, which text does not have: it is another kind of file, or text"
                    " in UTF-16 (`encoding: utf-16`, or utf-16-le, utf-16-be where it has no byte order mark)."
                )
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
                hint = "`encoding: utf-16`" if number == 1 and line.startswith(marks) else "the source's `encoding`"
                western = line.decode(WESTERN, errors="replace")
                if "utf-16" not in hint and _is_western(western):
                    begin = max(0, error.start - 20)
                    hint += f" (`encoding: {WESTERN}` would read {western[begin : error.start + 20].strip()!r} there)"
                raise ValueError(
                    f"{path}, line {number}: not {encoding.upper()} (byte {line[error.start]:#04x} at position"
                    f" {error.start}); give {hint} in a YAML, or convert the file to UTF-8 (often from Excel's Windows"
                    " code page: `iconv -f cp1252 -t utf-8`)."
                ) from None


def find_encoding(path: str | Path) -> str | None:
    """The encoding of a file that is not UTF-8, if it can be told: UTF-16 by its mark, or the Windows code page.

    Returns:
        `utf-16` or `cp1252`; None for UTF-8, and for files of which it cannot be told.
    """
    if _is_text(path, "utf-8"):
        return None
    with open_file(path) as file:
        sample = file.read(1 << 20)
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return WESTERN if b"\0" not in sample and _is_western(sample.decode(WESTERN, errors="replace")) else None


def is_ascii(path: str | Path) -> bool:
    """Whether a file has only ASCII characters, which UTF-8 and code pages share."""
    return _is_text(path, "ascii")


def _is_western(text: str) -> bool:
    """Whether text that was decoded as cp1252 reads like a language of Western Europe: mostly letters from a to z."""
    letters = [character for character in text if character.isalpha()]
    others = sum(not letter.isascii() for letter in letters)
    return "\ufffd" not in text and 4 * others <= len(letters)


def _is_text(path: str | Path, encoding: str) -> bool:
    """Whether a file is text in `encoding` and has no NUL byte."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_file(path) as file:
        try:
            for block in iter(functools.partial(file.read, 1 << 20), b""):
                if b"\0" in block:
                    return False
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeError:
            return False
    return True


def check_parquet(path: str | Path) -> None:
    """Raise `ValueError` if a file is not a complete Parquet file."""
    with open(path, "rb") as file:
        begin = file.read(4)
        file.seek(max(len(begin), os.path.getsize(path) - 4))
        if not begin == file.read(4) == b"PAR1":
            raise ValueError(f"{path}: not a Parquet file, or an incomplete one.")


def find_separator(path: str | Path, encoding: str = "utf-8") -> str:
    """Detect the separator of a CSV file: comma, semicolon, tab or pipe, whichever splits most rows like the header.

    It reads the first 100 rows. For a file with one column, or an empty one, it returns a comma.

    Args:
        path: The file; may be compressed.
        encoding: Encoding of the file.

    Raises:
        ValueError: The file cannot be read.
    """
    with open_file(path) as stream:
        sample = stream.read(1 << 18).decode(_without_mark(encoding), errors="replace")
    if written := EXCEL_HINT.match(sample):
        return written[1]
    fits: dict[str, tuple[int, int]] = {}  # separator → rows with as many fields as the header, number of fields
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
        try:
            rows = [row for row in itertools.islice(reader, 101) if row]
        except csv.Error:  # a field of more than 128 KiB
            continue
        if rows and len(rows[0]) > 1:
            fits[separator] = (sum(len(row) == len(rows[0]) for row in rows[1:]), len(rows[0]))
    return max(fits, key=lambda separator: fits[separator], default=",")
