"""Group files to splits and sources by their names, and expand folders to their files."""

import collections
import itertools
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .describe_file import Loader
from .files import (
    CONLL_ENDINGS,
    FILE_LOADERS,
    PACKED,
    WESTERN,
    find_encoding,
    find_separator,
    has_rows,
    is_ascii,
    loader_of,
)
from .shapes import conll_columns
from .sources import SPLITS

logger = logging.getLogger(__name__)

SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "devel": "validation", "test": "test", "testing": "test",
}  # fmt: skip


MAYBE_CONLL = (*CONLL_ENDINGS, ".txt")


def expand_folders(paths: Sequence[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Replace folders by the data files in them and in their sub-folders, without hidden files and folders.

    Returns:
        All files, in order; those of them that are from folders; and the other files of the folders, each with the
        reason why it is left out.

    Raises:
        ValueError: A folder has no data files.
    """
    files: list[str] = []
    found: list[str] = []
    left_out: dict[str, str] = {}
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        held = sorted(
            str(item)
            for item in Path(path).rglob("*")
            if item.is_file() and not any(part.startswith(".") for part in item.relative_to(path).parts)
        )
        reasons = {item: _no_rows(item) for item in held}
        taken = [item for item in held if not reasons[item]]
        if not taken:
            shown = ", ".join(held[:10]) + (", ..." if len(held) > 10 else "")
            raise ValueError(f"{path} is a folder without files of rows ({', '.join(FILE_LOADERS)});"
                             f" it holds {shown or 'nothing'}.")  # fmt: skip
        files += taken
        found += taken
        left_out |= {item: reason for item, reason in reasons.items() if reason}
    return files, found, left_out


def _no_rows(path: str) -> str:
    """The reason why a file is not a data file; empty if it is one."""
    ending = Path(path).suffix.lower()
    if ending == ".json":
        with open(path, encoding="utf-8", errors="replace") as file:
            try:
                return "one object, not a list of rows" if isinstance(json.load(file), dict) else ""
            except json.JSONDecodeError:  # one object per line, or not JSON, for which its reader raises an error
                return ""
    if has_rows(path):
        return ""
    if ending in MAYBE_CONLL:
        return "" if conll_columns(path) else "lines of text without labels"
    return f"ends in {ending!r}" if ending else "has no ending"


def find_loaders(paths: Sequence[str], sep: str | None = None) -> dict[str, Loader | None]:
    """File → `find_loader`, for the files of a source: plain ASCII files get the encoding of the others."""
    loaders = {path: find_loader(path, sep) for path in paths}
    found = [loader[1]["encoding"] for loader in loaders.values() if loader is not None and "encoding" in loader[1]]
    for path, loader in loaders.items():
        if found and found[0] == WESTERN and loader is not None and "encoding" not in loader[1] and is_ascii(path):
            loader[1]["encoding"] = found[0]
    return loaders


def find_loader(path: str, sep: str | None = None) -> Loader | None:
    """The loader of a file and its arguments, by its ending and content; None if there is none.

    Args:
        path: The file, which need not exist.
        sep: Separator of a CSV file; None to detect it.

    Raises:
        ValueError: The kind of CoNLL file is not supported, or the file cannot be opened.
    """
    ending = Path(path).suffix.lower()
    if ending in MAYBE_CONLL and os.path.isfile(path):
        encoding = _encoding(path)
        names = conll_columns(path, encoding.get("encoding"))
        return ("conll", {"column_names": names, **encoding}) if names else None
    if not has_rows(path) or not os.path.isfile(path):
        return None
    loader, arguments = loader_of(path)
    if loader == "parquet" or path.lower().endswith(PACKED):
        return loader, arguments
    encoding = _encoding(path)
    if loader == "csv" and "sep" not in arguments:
        found = sep or find_separator(path, encoding.get("encoding", "utf-8"))
        arguments |= {} if found == "," else {"sep": found}
    return loader, arguments | encoding


def _encoding(path: str) -> dict[str, Any]:
    """The argument `encoding` for a file that is not UTF-8, with a warning."""
    if (encoding := find_encoding(path)) is None:
        return {}
    logger.warning("%s is not UTF-8 and is read as %s: check letters such as é and ß.", path, encoding)
    return {"encoding": encoding}


def group_files(paths: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Source → split → its files, by names of splits in the names of files or of their folders.

    Raises:
        ValueError: A file is given twice, or a source has validation or test files but no training files.
    """
    counts = collections.Counter(map(os.path.abspath, paths))
    if twice := [path for path in paths if counts[os.path.abspath(path)] > 1]:
        raise ValueError(f"{twice[0]} is given twice.")
    groups: dict[tuple[str, str], dict[str, list[str]]] = collections.defaultdict(dict)
    for path in map(Path, paths):
        folder = path.absolute().parent
        stem = path.name.removesuffix("".join(path.suffixes[-2:])) if has_rows(path.stem) else path.stem  # rows.csv.gz
        parts = re.split(r"[\W_]+", stem)
        split = next((SPLIT_WORDS[part.lower()] for part in parts if part.lower() in SPLIT_WORDS), None)
        if split is not None:  # a shard's number, as in train-00000-of-00002, is no name
            rest = re.sub(r"[-_]?\d+-of-\d+$", "", stem)
            rest = "_".join(part for part in re.split(r"[\W_]+", rest) if part.lower() not in SPLIT_WORDS)
        elif folder.name.lower() in SPLIT_WORDS:
            split, rest, folder = SPLIT_WORDS[folder.name.lower()], "_".join(parts), folder.parent
        else:
            split, rest = "train", "_".join(parts)
        groups[str(folder), rest.strip("_")].setdefault(split, []).append(str(path))
    sources: dict[str, dict[str, list[str]]] = {}
    for (folder_name, rest), splits in groups.items():
        files = [path for held in splits.values() for path in held]
        if "train" not in splits:
            raise ValueError(
                f"{', '.join(files)}: by its name this is a {' and '.join(splits)} file, but there is no training file"
                " of the same source: add it, or rename the file."
            )
        for split, held in splits.items():
            if len({re.sub(r"\d+", "", Path(path).name) for path in held}) > 1:
                raise ValueError(
                    f"{', '.join(held)}: by their names all are the {split} split of one source; rename those that are"
                    " not, or give one at a time."
                )
        if len({repr(loader_of(path)) if has_rows(path) else "" for path in files}) > 1:
            raise ValueError(f"{', '.join(files)} are splits of one source, so they should have the same file type.")
        name = plain_name(rest or Path(folder_name).name) or "data"
        if name in sources:
            name = plain_name(f"{Path(folder_name).name}_{name}")
        unique = next(candidate for candidate in numbered(name) if candidate not in sources)
        sources[unique] = {split: splits[split] for split in SPLITS if split in splits}
    return sources


def numbered(name: str) -> Iterator[str]:
    """Yield a name, then the name with the suffixes _2, _3, ..."""
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def plain_name(name: str) -> str:
    """Convert a name to letters (of any script) and digits, with `_` for all other signs."""
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", name)).strip("_")
