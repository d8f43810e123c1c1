"""Find, open and check files of rows before anything reads them.

Notable: the readers below (pandas, Arrow, `datasets`) name a fault by their own blocks, or repair it in silence. Here
it is found first, and named with its file and line.
"""

import bz2
import codecs
import csv
import gzip
import io
import itertools
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SEPARATORS = (",", ";", "\t", "|")
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@contextmanager
def open_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file to read its bytes, decompressed where its ending is .gz, .bz2 or .xz.

    Raises:
        ValueError: It cannot be opened, or its compressed data are broken or end too early.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name its files, as in {path / '*.jsonl'}.")
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as stream:  # type: ignore[operator]
            yield stream
    except EOFError:
        raise ValueError(f"{path}: the compressed data end too early; the file was cut off.") from None
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path}: no valid {path.suffix} file ({error}).") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}).") from None


def find_separator(path: str | Path, encoding: str = "utf-8") -> str:
    """The separator of a CSV file: comma, semicolon, tab or pipe, whichever splits most rows as it splits the header.

    Looks at the first 100 rows. A file with one column has none; then a comma is returned, as well as for an empty one.

    Args:
        path: The file; may be compressed.
        encoding: Of the file.

    Raises:
        ValueError: The file cannot be read.
    """
    with open_file(path) as stream:
        raw = stream.read(1 << 18)
    sample = raw.decode("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding, errors="replace")
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
