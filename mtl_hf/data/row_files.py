"""Read data files as datasets, with one type per column in all files of a source; cached by content.

Notable: a column is either text or numbers in all splits, so that labels have the same form in all of them. Rows are
written once, as memory-mapped Arrow files.
"""

import collections
import copy
import hashlib
import itertools
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import pyarrow as pa
from datasets.table import InMemoryTable, MemoryMappedTable

from .conll import read_conll
from .csv_files import FileRows, read_csv
from .files import PACKED, check_encoding
from .json_files import read_json

logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")

READERS: dict[str, Callable[[str, Mapping[str, Any]], FileRows]] = {
    "csv": read_csv,
    "json": read_json,
    "conll": read_conll,
}
_VERSION = 3  # increase it when the same files give other rows: old caches are then ignored
# Numbers in the form that programs write. Others are codes: 007, +1, 1E10, or more digits than a float has.
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_NUMBER = re.compile(
    r"-?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][-+][0-9]{1,3})?|-?(inf|infinity|nan)", re.IGNORECASE
)
_DIGIT = re.compile(r"[0-9]")
_OPENED: dict[str, datasets.Dataset] = {}  # schema and features → rows that have them
_NOTES = b"mtl_hf"  # key in the metadata of a file: sizes of the splits, and notes on how the files were read
_CHUNK = 10_000  # rows; a chunk of strings holds 2 GiB at most


def read_row_files(
    loader: str, files: Mapping[str, Sequence[str]], options: Mapping[str, Any], as_text: Collection[str] = ()
) -> dict[str, datasets.Dataset]:
    """Read the files of every split.

    Args:
        loader: `csv`, `json` or `conll`.
        files: Split → its local files.
        options: Arguments of the loader.
        as_text: CSV columns to read as text; others are numbers if all their cells are.

    Returns:
        Split → rows. All have the same columns; if a file lacks one, its rows have None, with a warning.

    Raises:
        ValueError: A file is invalid. The message names file and line.
    """
    paths = {split: [_local(path) for path in held] for split, held in files.items()}
    key = json.dumps(
        [_VERSION, loader, dict(options), sorted(as_text) if loader == "csv" else [],
         {split: [(path, _digest(path)) for path in held] for split, held in paths.items()}],
        default=str, sort_keys=True,
    )  # fmt: skip
    root = Path(options.get("cache_dir") or datasets.config.HF_DATASETS_CACHE) / "mtl_hf"
    path = root / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    try:
        loaded, notes = _load(path, paths)
    except (ValueError, OSError):  # missing, or damaged: pyarrow's errors are ValueErrors
        if path.exists():
            logger.warning("The cache %s is damaged and is rebuilt.", path)
        _write(path, loader, paths, options, as_text)
        loaded, notes = _load(path, paths)
    for level, note in notes:
        logger.log(level, "%s", note)
    return loaded


def _load(path: Path, paths: Mapping[str, Any]) -> tuple[dict[str, datasets.Dataset], list[tuple[int, str]]]:
    """The rows of each split and the notes that `_write` has written."""
    table = MemoryMappedTable.from_file(str(path))
    written = json.loads((table.schema.metadata or {}).get(_NOTES, b""))
    if sum(written["rows"]) != len(table):
        raise ValueError(f"{path} lacks rows.")  # cut off between two batches
    begins = itertools.accumulate(written["rows"], initial=0)
    loaded = {
        split: _as_rows(table.slice(begin, size), f"{path.stem}{place}", split)
        for place, (split, begin, size) in enumerate(zip(paths, begins, written["rows"], strict=False))
    }
    return loaded, written["notes"]


def open_rows(path: Path, fingerprint: str) -> datasets.Dataset:
    """Map an Arrow file into memory, like `Dataset.from_file`, with a given fingerprint.

    Args:
        path: The file, with the schema of `datasets`.
        fingerprint: Identifies the content, at most 64 characters.
    """
    return _as_rows(MemoryMappedTable.from_file(str(path)), fingerprint)


def _as_rows(table: MemoryMappedTable, fingerprint: str, split: str | None = None) -> datasets.Dataset:
    schema = f"{table.schema.remove_metadata()}{(table.schema.metadata or {}).get(b'huggingface')}"
    if schema not in _OPENED:
        _OPENED[schema] = datasets.Dataset(table, fingerprint=fingerprint)
    rows = copy.copy(_OPENED[schema])  # a tenth of the time of making one, which counts with hundreds of sources
    rows._data, rows._fingerprint = table, fingerprint
    rows._info, rows._split = copy.copy(rows._info), None if split is None else datasets.NamedSplit(split)
    return rows


def write_rows(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write an Arrow file under a temporary name, and rename it when it is complete."""
    draft = path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_cached(
    read: Callable[[], _Found], fault: Callable[[_Found], str], again: Callable[[], _Found], rows: str
) -> _Found:
    """Read rows that may be cached, and compute them again if the cache is damaged.

    Args:
        read: Reads the rows, with the cache.
        fault: Rows → description of what is wrong with them, empty if nothing is.
        again: Computes the rows, without the cache.
        rows: Name of the rows in the warning.
    """
    try:
        found = read()
        problem = fault(found)
        if not problem:
            return found
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and type(error) is not OSError:  # arrow's own is just that
            raise
        problem = str(error)
    logger.warning("%s are damaged (%s); they are created again.", rows, problem)
    return again()


def cached_beside(
    rows: datasets.Dataset,
    fingerprint: str,
    make: Callable[[], tuple[pa.Schema, Iterable[pa.RecordBatch]]],
    num_rows: Callable[[datasets.Dataset], int],
    what: str,
) -> datasets.Dataset:
    """Rows that are made from others: an Arrow file beside these, if they have one and caching is on; else in memory.

    Args:
        rows: The other rows.
        fingerprint: Identifies what they are made from, at most 64 characters.
        make: Makes them: their schema, with that of `datasets`, and their batches.
        num_rows: Rows that were read → how many there should be.
        what: Name of the rows in the warning about a damaged file.
    """
    if not rows.cache_files or not datasets.is_caching_enabled():
        schema, batches = make()
        return datasets.Dataset(InMemoryTable(pa.Table.from_batches(batches, schema)), fingerprint=fingerprint)
    path = Path(rows.cache_files[0]["filename"]).with_name(f"cache-{fingerprint}.arrow")

    def write() -> datasets.Dataset:
        write_rows(path, *make())
        return open_rows(path, fingerprint)

    return read_cached(
        lambda: open_rows(path, fingerprint) if path.is_file() else write(),
        lambda found: "" if len(found) == num_rows(found) else f"{len(found):,} of {num_rows(found):,} rows",
        write,
        f"{what} cached in {path.parent}",
    )


def _local(path: str) -> str:
    """The path of a file, unpacked first if only `datasets` can open it."""
    return str(datasets.DownloadManager().extract(path)) if path.lower().endswith(PACKED) else path


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _write(
    target: Path,
    loader: str,
    paths: Mapping[str, Sequence[str]],
    options: Mapping[str, Any],
    as_text: Collection[str],
) -> None:
    """Read files, and write their rows and the notes as one Arrow file, atomically."""
    held: dict[str, list[FileRows]] = {}
    for split, files in paths.items():
        for path in files:
            if options.get("encoding_errors") in (None, "strict"):
                check_encoding(path, options.get("encoding") or "utf-8")
        held[split] = [READERS[loader](path, options) for path in files]
    everything = list(itertools.chain.from_iterable(held.values()))
    notes = [note for rows in everything for note in rows.notes]
    names = list(dict.fromkeys(name for rows in everything for name in rows.columns))
    for rows in everything:
        notes += [
            (logging.WARNING, f"{rows.path} has no column {name!r}, which other files have; its rows have no value.")
            for name in names
            if name not in rows.columns and rows.num_rows
        ]
    columns: dict[str, list[list[Any]]] = {
        name: [rows.columns.get(name, [None] * rows.num_rows) for rows in everything] for name in names
    }
    features = {}
    for name, values in columns.items():
        if loader == "csv":
            if name not in as_text:
                columns[name] = _numbers(values, options)
            features[name] = _scalar_type(map(type, itertools.chain.from_iterable(columns[name])))
        else:
            columns[name], features[name], note = _one_type(name, values, everything)
            notes += [(logging.WARNING, note)] if note else []
    sizes = [sum(rows.num_rows for rows in rows_of) for rows_of in held.values()]
    schema = datasets.Features(features).arrow_schema
    schema = schema.with_metadata(
        {**schema.metadata, _NOTES: json.dumps({"rows": sizes, "notes": list(dict.fromkeys(notes))})}
    )
    batches = (
        _batches(schema, {name: columns[name][number] for name in names}, rows)
        for number, rows in enumerate(everything)
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_rows(target, schema, itertools.chain.from_iterable(batches))


def _batches(schema: pa.Schema, columns: Mapping[str, list[Any]], rows: FileRows) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows.num_rows, _CHUNK):
        arrays = []
        for name, values in columns.items():
            part = values[start : start + _CHUNK]
            try:
                arrays.append(pa.array(part, type=schema.field(name).type))
            except UnicodeEncodeError:
                row = start + next(row for row, value in enumerate(part) if not _is_unicode(value))
                raise ValueError(
                    f"{rows.where(row)}: the column {name!r} holds half of a surrogate pair (\\ud800 to \\udfff), which"
                    " is not a valid character."
                ) from None
        yield from pa.Table.from_arrays(arrays, schema=schema).to_batches(max_chunksize=1000)


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- types ----


def _scalar_type(kinds: Iterable[type]) -> Any:
    """The feature for values of these types; None if they are not scalars of one kind."""
    held = set(kinds) - {type(None)}
    if not held:
        return datasets.Value("null")
    for types, name in (({str}, "string"), ({bool}, "bool"), ({int}, "int64"), ({int, float}, "float64")):
        if held <= types:
            return datasets.Value(name)
    return None


def _numbers(values: list[list[str | None]], options: Mapping[str, Any]) -> list[list[Any]]:
    """Convert a CSV column to numbers if all its cells in all files are numbers; otherwise return it unchanged."""
    decimal, thousands = options.get("decimal") or ".", options.get("thousands")
    if decimal != "." or thousands:
        plain = [
            [None if cell is None else _plain_number(cell, decimal, thousands) for cell in held] for held in values
        ]
    else:
        plain = values
    cells = {cell for held in plain for cell in held if cell is not None}
    if not all(map(_NUMBER.fullmatch, cells)) or not any(map(_DIGIT.search, cells)):
        return values
    number: Callable[[str], float] = int if all(map(_WHOLE.fullmatch, cells)) else float
    found = {cell: number(cell) for cell in cells}
    return [[None if cell is None else found[cell] for cell in held] for held in plain]


def _plain_number(cell: str, decimal: str, thousands: str | None) -> str:
    return (cell.replace(thousands, "") if thousands else cell).replace(decimal, ".")


def _one_type(name: str, values: list[list[Any]], files: Sequence[FileRows]) -> tuple[list[list[Any]], Any, str | None]:
    """A JSON column with its type, and a note if values were converted to a common type."""
    flat = itertools.chain.from_iterable
    kinds = _count_types(lambda: flat(values))
    if set(kinds) == {list}:
        return _typed(name, values, files, _count_types(lambda: flat(filter(None, flat(values)))), in_lists=True)
    return _typed(name, values, files, kinds, in_lists=False)


def _count_types(values: Callable[[], Iterable[Any]]) -> collections.Counter[type]:
    """Type → number of values, without None; with a single type only its presence is counted."""
    kinds = set(map(type, values())) - {type(None)}
    counts = collections.Counter(kinds if len(kinds) < 2 else map(type, values()))
    del counts[type(None)]
    return counts


def _typed(
    name: str, values: list[list[Any]], files: Sequence[FileRows], kinds: collections.Counter[type], *, in_lists: bool
) -> tuple[list[list[Any]], Any, str | None]:
    """`_one_type` for values with the given types (for lists, types of the items)."""
    feature = _scalar_type(kinds)
    if feature is not None and (int not in kinds or _fit(values, 53 if float in kinds else 63, in_lists)):
        return values, datasets.List(feature) if in_lists else feature, None
    if set(kinds) <= {str, bool, int, float}:
        text: Callable[[Any], Any] = _items_as_text if in_lists else _as_text
        feature = datasets.Value("string")
        note = _mixture_note(name, values, files, kinds, in_lists=in_lists)
        values = [[text(value) for value in held] for held in values]
        return values, datasets.List(feature) if in_lists else feature, note
    try:
        found = pa.infer_type(itertools.chain.from_iterable(values))
        return values, datasets.Features.from_arrow_schema(pa.schema([(name, found)]))[name], None
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # lists beside strings, and the like
        values = [[None if value is None else json.dumps(value) for value in held] for held in values]
        return values, datasets.Json(), None


def _fit(values: list[list[Any]], bits: int, in_lists: bool) -> bool:
    """Whether all whole numbers fit into this number of bits."""
    flat = itertools.chain.from_iterable(values)
    items = itertools.chain.from_iterable(value or () for value in flat) if in_lists else flat
    return all(-(1 << bits) <= item < 1 << bits for item in items if type(item) is int)


def _as_text(value: Any) -> str | None:
    """A value as JSON text; None for None and NaN."""
    if value is None or isinstance(value, str):
        return value
    return None if isinstance(value, float) and math.isnan(value) else json.dumps(value)


def _items_as_text(values: list[Any] | None) -> list[str | None] | None:
    return None if values is None else [_as_text(value) for value in values]


def _mixture_note(
    name: str, values: list[list[Any]], files: Sequence[FileRows], kinds: collections.Counter[type], *, in_lists: bool
) -> str | None:
    """The note on a column with values of several types: how many differ from the most frequent type, and the first."""
    called = {str: "text", bool: "truth values", int: "numbers", float: "numbers"}
    if len({called[kind] for kind in kinds}) < 2:  # whole numbers that are too large
        return None
    most = called[kinds.most_common(1)[0][0]]
    other = [
        (rows, row, item)
        for rows, held in zip(files, values, strict=True)
        for row, value in enumerate(held)
        for item in ((value or ()) if in_lists else (value,))
        if item is not None and called[type(item)] != most
    ]
    rows, row, item = other[0]
    return (
        f"{rows.where(row)}: the column {name!r} holds {json.dumps(item)}, but {most} in most rows. The column is"
        f" read as text ({len(other):,} of its values are not {most})."
    )
