"""Load, check and split sources.

Notable: errors in the data are found here (those of labels in `labels.py`), before training starts, and messages name
the file, column or row. Nothing is skipped without a message: rows that are split off or dropped are logged.
"""

import codecs
import collections
import dataclasses
import functools
import glob
import hashlib
import importlib
import inspect
import itertools
import logging
import os
import pkgutil
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import datasets.packaged_modules
import numpy as np

from ..config import RunConfig, Source, nearest, resolve_path, typed
from ..findings import Finding, for_each, report
from ..tasks import SourceData, task_type
from ..tasks.arrow_columns import blank_rows, column_of, feature_of, values_of
from .files import SEPARATORS, check_encoding, check_parquet, find_files, loader_of
from .formats import read_formats, word_tasks
from .headers import report_headers
from .leaks import Leaks, find_leaks, text_keys
from .remembered import remembered
from .row_files import READERS, read_cached, read_row_files

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# Arguments of `load_dataset` that a builder does not take.
_LOADING = ("split", "keep_in_memory", "save_infos", "verification_mode", "num_proc", "streaming")


def load_sources(config: RunConfig, splits: Iterable[str] = SPLITS) -> dict[str, SourceData]:
    """Load every source, split off missing splits, check texts, and report or drop leaked training rows.

    Args:
        config: Config of the run.
        splits: The splits to keep.

    Raises:
        ValueError: A source is invalid. The message names the source and its file, column or row.
    """
    wanted = tuple(splits)
    sources = for_each(config.sources, lambda name: _load_source(name, config.sources[name], config))
    leaks: dict[str, Leaks] = {}
    if "train" in wanted:
        leaks = _find_leaks(sources)
    for name, data in sources.items():
        found, spec = leaks.get(name, {}), config.sources[name]
        if found and spec.drop_leaked:
            _drop_leaks(data, found)
        drawn = _draw_train_rows(data, spec.max_train_rows, found if spec.drop_leaked else ())
        if not spec.drop_leaked:
            report(_check_leaks(data, {row: found[row] for row in drawn if row in found}))
        data.splits = {split: data.splits[split] for split in wanted if split in data.splits}
    return sources


def load_file(
    path: str | Path, as_text: Collection[str] = (), loader: tuple[str, Mapping[str, Any]] | None = None
) -> datasets.Dataset:
    """Load all rows of one file.

    Args:
        path: A file with an ending of `FILE_LOADERS`; it may be compressed (`rows.csv.gz`).
        as_text: CSV columns to read as text without conversion (codes, labels); other columns become numbers if they
            hold only numbers.
        loader: Name of the loader and its arguments; None for those of the file's ending.

    Raises:
        ValueError: There is no such file, its ending is unknown, it cannot be read, or it has no rows.
    """
    path = Path(resolve_path(str(path)))
    if not path.is_file():
        hint = nearest(path.name, os.listdir(path.parent) if path.parent.is_dir() else [])
        raise ValueError(f"{path} is a folder, not a file." if path.is_dir() else f"there is no file {path}.{hint}")
    kind, arguments = loader or loader_of(path)
    source = Source(path=kind, data_files=str(path), text="", loader=dict(arguments))
    rows = _from_loader(source, str(path), as_text)[0]["train"]
    if not len(rows):
        raise ValueError(f"{path} has no rows.")
    return rows


def _load_source(name: str, source: Source, config: RunConfig) -> SourceData:
    where = f"sources.{name}"
    if (source.path is None) == (source.dataset is None):
        raise ValueError(f"`{where}` needs either `path` or, in Python, `dataset`.")
    if source.dataset is not None and (source.loader or source.data_files is not None):
        key = next(iter(source.loader), "data_files")
        raise ValueError(f"`{where}.{key}` only works with `path`, not with a `dataset` from Python. Remove it."
                         f"{nearest(key, [item.name for item in dataclasses.fields(Source)])}")  # fmt: skip
    if source.dataset is not None:
        loaded, kind = _from_python(source.dataset, where), None
    else:
        loaded, kind = _from_loader(source, where, _text_columns(name, source, config))
    if kind == "csv":
        report_headers(loaded, name)
    shares = _choose_splits(loaded, source.split, where)
    if "train" not in loaded and shares:
        raise ValueError(f"`{where}`: there are no training rows to split off from; it has {', '.join(loaded)}.")
    columns = [source.text] if isinstance(source.text, str) else list(source.text)
    if not columns:
        raise ValueError(
            f"`{where}.text` is empty; it should be a column, [first, second] for pairs, or [text, choices]."
        )
    tasks = {task: spec for task, spec in config.tasks.items() if name in spec.sources}
    labels = [
        (f"tasks.{task}.{'label' if spec.spans is None else 'spans'}", column)
        for task, spec in tasks.items()
        for column in spec.label_columns
    ]
    groups = [source.group_by] if isinstance(source.group_by, str) else source.group_by or []
    labels += [(f"{where}.group_by", column) for column in groups]
    wanted = [*((f"{where}.text", column) for column in columns), *labels]
    if empty := [split for split, rows in loaded.items() if not len(rows)]:
        raise ValueError(f"`{where}`: the split {empty[0]!r} has no rows.")
    report(finding for split, rows in loaded.items() for finding in _check_columns(rows, wanted, split, name))
    read = read_formats(name, source, word_tasks(tasks), loaded)
    form = _find_form(read.splits, read.columns, where)
    data = SourceData(
        name,
        form,
        read.columns,
        read.splits,
        origins=read.origins,
        untyped=kind == "csv",
        offsets=read.offsets,
        strings=None if read.offsets is None else columns[0],
    )
    report(finding for split in list(data.splits) for finding in _drop_bad_rows(data, split, source.drop_bad_rows))
    if shares:
        stratify = source.split.get("stratify") or next(
            (str(spec.label) for spec in tasks.values() if task_type(spec.type).one_name_a_row), None
        )
        if stratify:
            report(_check_columns(data.splits["train"], [(f"{where}.split.stratify", stratify)], "train", name))
        carve(data, shares, stratify, typed(int, source.split.get("seed", 13), f"{where}.split.seed"))
    return data


def _text_columns(name: str, source: Source, config: RunConfig) -> set[str]:
    """Columns of a source to read as text without conversion: its texts, and labels that are names."""
    texts = [source.text] if isinstance(source.text, str) else source.text
    tasks = [spec for spec in config.tasks.values() if name in spec.sources and not task_type(spec.type).numeric]
    return {*texts, *(column for spec in tasks for column in spec.label_columns)}


def _find_leaks(sources: Mapping[str, SourceData]) -> dict[str, Leaks]:
    """`find_leaks` for all rows of all sources, cached on disk."""

    def find() -> dict[str, Any]:
        texts = {name: {split: data.joined_texts(split) for split in data.splits} for name, data in sources.items()}
        return {
            name: [[row, sorted(places)] for row, places in leaks.items()] for name, leaks in find_leaks(texts).items()
        }

    content = {name: [*map(data.content, data.splits)] for name, data in sources.items()}
    return {
        name: {row: {(source, split) for source, split in places} for row, places in leaks}
        for name, leaks in remembered("leaks", content, find).items()
    }


def _drop_leaks(data: SourceData, leaks: Leaks) -> None:
    """Drop the training rows whose text is also in a validation or test split, with a warning."""
    num_rows = len(data.splits["train"])
    if len(leaks) == num_rows:
        raise ValueError(
            f"`sources.{data.name}.drop_leaked`: every training row has a text that is also in {_places(leaks)}; no"
            " row would be left."
        )
    logger.warning(
        "Source %s: %d of %d training rows dropped, whose text is also in %s.",
        data.name, len(leaks), num_rows, _places(leaks),
    )  # fmt: skip
    data.keep("train", np.delete(np.arange(num_rows), list(leaks)).tolist())


def _check_leaks(data: SourceData, leaks: Leaks) -> Iterator[Finding]:
    """Report training rows whose text is also in a validation or test split."""
    if leaks:
        yield Finding(
            logging.WARNING,
            f"Source {data.name}",
            f"{len(leaks)} of {len(data.splits['train'])} training rows have a text that is also in {_places(leaks)}",
            f"scores on these splits are too high; `sources.{data.name}.drop_leaked: true` drops these rows",
            tuple(leaks),
        )


def _places(leaks: Leaks) -> str:
    """The splits with leaked texts, with the number of them."""
    counts = collections.Counter(place for places in leaks.values() for place in places)
    return ", ".join(f"{source} {split} ({count})" for (source, split), count in sorted(counts.items()))


def _draw_train_rows(data: SourceData, number: int | None, leaked: Collection[int]) -> list[int]:
    """Keep a fixed sample of `number` training rows; smaller samples are subsets of larger ones.

    Args:
        data: The source.
        number: Number of rows to keep; None for all.
        leaked: Training rows that were dropped as leaks. They depend on the other sources of the run, so they are part
            of the draw, which then does not change with these sources.

    Returns:
        The kept training rows.
    """
    left = len(data.splits.get("train", ()))
    if number is None or number >= left:
        return list(range(left))
    order = np.random.default_rng(13).permutation(left + len(leaked))
    stays = np.ones(len(order), dtype=bool)
    stays[list(leaked)] = False
    here = np.cumsum(stays) - 1  # row before leaks were dropped → row now
    drawn = np.sort(here[order[stays[order]][:number]]).tolist()
    data.keep("train", drawn)
    logger.warning("Source %s: training uses %d of %d rows (max_train_rows).", data.name, number, left)
    return drawn


def _from_python(dataset: Any, where: str) -> dict[str, datasets.Dataset]:
    if isinstance(dataset, datasets.Dataset):
        return {"train": dataset}
    if isinstance(dataset, Mapping) and all(isinstance(rows, datasets.Dataset) for rows in dataset.values()):
        return {str(split): rows for split, rows in dataset.items()}
    raise ValueError(
        f"`{where}.dataset` is a {type(dataset).__name__}; it should be a datasets.Dataset or DatasetDict."
    )


def _from_loader(source: Source, where: str, as_text: Collection[str] = ()) -> tuple[dict[str, datasets.Dataset], str]:
    """Load the splits of a source; also return the name of the loader that read them."""
    arguments = dict(source.loader)
    path = resolve_path(str(source.path))
    _check_loader_arguments(path, arguments, where)
    encoding = arguments.get("encoding") or "utf-8"
    try:
        "a".encode(encoding)  # LookupError also for codecs such as base64
    except (LookupError, ValueError, TypeError):
        raise ValueError(f"`{where}.encoding` is {encoding!r}, which Python does not know as one of text.") from None
    try:
        codecs.lookup_error(arguments.get("encoding_errors") or "strict")
    except (LookupError, ValueError, TypeError):
        raise ValueError(f"`{where}.encoding_errors` is {arguments['encoding_errors']!r}; valid are strict, replace,"
                         " ignore and the other error handlers of Python.") from None  # fmt: skip
    files: dict[str, list[str]] = {}
    if source.data_files is not None:
        files = find_files(source.data_files, f"{where}.data_files")
        # These are names of files, not patterns.
        arguments["data_files"] = {
            split: [path if "://" in path else glob.escape(path) for path in held] for split, held in files.items()
        }
    if arguments.get("streaming"):
        raise ValueError(f"`{where}`: streamed datasets are not supported. Remove `streaming`.")
    if path in (*READERS, "parquet", "text") and not files and "data_dir" not in arguments:
        raise ValueError(f"`{where}.data_files` is missing: name the files for `path: {path}`.")
    local = [file for file in itertools.chain.from_iterable(files.values()) if "://" not in file]
    for file in local:
        if path == "parquet":
            check_parquet(file)
        elif path == "text" and arguments.get("encoding_errors") in (None, "strict"):
            check_encoding(file, encoding)
    try:
        loader = path if path in READERS and "features" not in arguments else None
        # `datasets` finds the files of URLs, folders and Hub ids; CSV and JSON files are read by our own readers.
        remote = any("://" in file for held in files.values() for file in held)
        if remote or (not files and (loader or path not in packaged_loaders())):
            loader, files = _resolve_files(datasets.load_dataset_builder(path, **_without(arguments, _LOADING)))
        loaded = {} if loader else _load_dataset(path, arguments, where)
    except (datasets.exceptions.DatasetsError, ValueError, TypeError, OSError, KeyError, StopIteration) as error:
        names = ", ".join(dict.fromkeys(itertools.chain.from_iterable(files.values())))
        found = _first_cause(error) or f"no rows in {names}"
        if empty := re.fullmatch(r'Instruction "(.+)" corresponds to no data!', found):
            raise ValueError(f"`{where}`: the split {empty[1]!r} has no rows.") from error
        raise ValueError(f"`{where}` cannot be loaded: {found}{f' ({names})' if names else ''}") from error
    if loader:
        known = inspect.signature(datasets.load_dataset).parameters.keys() - {"cache_dir"}
        if loader == "conll" and arguments.get("column_names") is None:
            arguments["wanted"] = sorted(as_text)
        return read_row_files(loader, files, _without(arguments, known), as_text), loader
    if isinstance(loaded, datasets.Dataset):
        return {"train": loaded}, path
    return {str(split): rows for split, rows in loaded.items()}, path


def _without(arguments: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in keys}


@functools.cache
def packaged_loaders() -> frozenset[str]:
    """Names of the loaders in `datasets`, such as `csv`; any other `path` is a Hub id or a folder."""
    return frozenset(module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__))


def _resolve_files(builder: datasets.DatasetBuilder) -> tuple[str | None, dict[str, list[str]]]:
    """Our reader for the files of a builder (None if there is none), and the local files of each split."""
    loader = type(builder).__module__.rpartition(".")[2]
    if loader not in READERS or builder.info.features is not None:  # features are declared: types are known
        return None, {}
    manager = datasets.DownloadManager(
        download_config=datasets.DownloadConfig(token=builder.token, storage_options=builder.storage_options)
    )
    return loader, {
        str(split): [str(manager.download_and_extract(path)) if "://" in path else path for path in held]
        for split, held in (builder.config.data_files or {}).items()
    }


def _load_dataset(path: str, arguments: Mapping[str, Any], where: str) -> Any:
    """`datasets.load_dataset`, which reads files again if their cached rows are damaged."""
    return read_cached(
        functools.partial(datasets.load_dataset, path, **arguments),
        _lacking_rows,
        functools.partial(datasets.load_dataset, path, **{**arguments, "download_mode": "reuse_cache_if_exists"}),
        f"`{where}`: rows that are cached in {datasets.config.HF_DATASETS_CACHE}",
    )


def _lacking_rows(loaded: Any) -> str:
    """Describe a split that has fewer rows than were written to the cache; empty if there is none."""
    for split, rows in loaded.items() if isinstance(loaded, datasets.DatasetDict) else ():
        written = (rows.info.splits or {}).get(split)
        if written is not None and written.num_examples > len(rows):
            return f"{split} has {len(rows):,} of {written.num_examples:,} rows"
    return ""


def _first_cause(error: BaseException) -> str:
    """The message of the original error, which `datasets` wraps in a general one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _check_loader_arguments(path: str, arguments: Mapping[str, Any], where: str) -> None:
    """Check `storage_options`, and keys of packaged loaders; a Hub dataset may have options of its own."""
    if not isinstance(arguments.get("storage_options") or {}, Mapping):  # its value is a secret, so it is not shown
        raise ValueError(f"`{where}.storage_options` should be a mapping, such as {{key: ..., secret: ...}}.")
    module = f"datasets.packaged_modules.{path}.{path}"
    if path not in packaged_loaders():
        return
    options = [
        item.name
        for name, kind in vars(importlib.import_module(module)).items()
        if name.endswith("Config") and dataclasses.is_dataclass(kind)
        for item in dataclasses.fields(kind)
    ]
    known = {*options, *inspect.signature(datasets.load_dataset).parameters} | {
        item.name for item in dataclasses.fields(Source) if item.name not in ("loader",)
    }
    for key in arguments:
        if key not in known:
            raise ValueError(
                f"unknown key `{key}` in `{where}`: it is neither a key of sources nor an option of `path: {path}`."
                f"{nearest(key, known)}"
            )


def _choose_splits(loaded: dict[str, datasets.Dataset], chosen: Mapping[str, Any], where: str) -> dict[str, float]:
    """Rename splits in place by the config; return the shares to split off from the training rows."""
    shares: dict[str, float] = {}
    for key, value in chosen.items():
        if key in ("stratify", "seed"):
            continue
        if key not in SPLITS:
            raise ValueError(f"unknown key `{key}` in `{where}.split`; known are {', '.join(SPLITS)}, stratify, seed.")
        if isinstance(value, str):
            if value not in loaded:
                raise ValueError(f"`{where}.split.{key}` is {value!r}; the dataset has {', '.join(loaded)}.")
            loaded[key] = loaded.pop(value) if value not in SPLITS else loaded[value]
        elif isinstance(value, int | float) and 0 < value < 1 and key != "train":
            if key in loaded:
                raise ValueError(
                    f"`{where}.split.{key}` splits off training rows, but the dataset already has a split {key!r}."
                    " Remove it, or name another split."
                )
            shares[key] = float(value)
        else:
            raise ValueError(
                f"`{where}.split.{key}` is {value!r}; it should be a share such as 0.1, or the name of a split."
            )
    if "train" in loaded and "validation" not in loaded and "validation" not in shares:
        shares["validation"] = 0.1
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"`{where}.split` splits off {sum(shares.values()):g} of the training rows: no row would be left."
        )
    for split in [split for split in loaded if split not in SPLITS]:
        logger.info("Source %s: the split %r is not used.", where.split(".")[1], split)
        del loaded[split]
    return shares


def carve(data: SourceData, shares: Mapping[str, float], stratify: str | None, seed: int) -> None:
    """Split off rows from the training rows of `data`, in place, with a warning.

    Rows with the same text (letters and digits, lower case) stay together. A hash of seed and text decides which rows
    are split off, so the result is the same in every run and does not depend on the order of rows.

    Args:
        data: The source.
        shares: Split → share of the training rows; with `stratify`, of each stratum.
        stratify: Column whose values keep their shares; None for no strata. Rounding errors of one stratum are
            corrected in the next one, and at least one group of rows of a stratum stays in training.
        seed: Seed of the split.
    """
    train = data.splits["train"]
    sides: dict[str, list[int]] = remembered(
        "carved",
        [data.content("train"), shares, stratify, seed],
        lambda: _carve(
            text_keys(data.joined_texts("train")), values_of(train, stratify) if stratify else None, shares, seed
        ),
    )
    for split, rows in sides.items():
        if not rows:
            num_texts = len(set(text_keys(data.joined_texts("train"))))
            raise ValueError(
                f"`sources.{data.name}`: {len(train)} training rows are too few to split off {shares[split]:g} of them"
                f" as {split}: they have {num_texts} distinct texts, and rows with equal texts stay together. Add a"
                f" {split} file, or set a larger share in `split`."
            )
        data.keep(split, sorted(rows), of="train")
        logger.warning(
            "Source %s: %d of %d training rows split off as %s%s, seed %d.",
            data.name, len(rows), len(train), split, f", stratified by {stratify}" if stratify else "", seed,
        )  # fmt: skip
    data.keep("train", np.delete(np.arange(len(train)), list(itertools.chain(*sides.values()))).tolist())


def _carve(
    keys: Sequence[str], strata: Sequence[Any] | None, shares: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Split → the rows that `carve` splits off; rows with the same key stay together."""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    by_stratum: dict[str, list[list[int]]] = collections.defaultdict(list)
    ordered = sorted(groups.items(), key=lambda item: hashlib.sha256(f"{seed}:{item[0]}".encode()).digest())
    for _, rows in ordered:
        by_stratum[min(str(strata[row]) for row in rows) if strata else ""].append(rows)
    sides: dict[str, list[int]] = {split: [] for split in shares}
    due = dict.fromkeys(shares, 0.0)  # rows that each split still lacks
    for stratum in by_stratum.values():
        total, start = sum(map(len, stratum)), 0
        for split, share in shares.items():
            due[split] += share * total
            while start < len(stratum) - 1 and len(stratum[start]) <= due[split] + 0.5:
                sides[split] += stratum[start]
                due[split] -= len(stratum[start])
                start += 1
    return sides


# ---- checking ----


def _check_columns(
    rows: datasets.Dataset, wanted: Sequence[tuple[str, str]], split: str, source: str
) -> Iterator[Finding]:
    """Report columns, (key of the config, name), that a split does not have."""
    for path, column in wanted:
        if column not in rows.column_names:
            yield Finding(
                logging.ERROR,
                f"`{path}`",
                f"`{path}` is {column!r}, but the split {split!r} of source {source!r} has no such column."
                f"{nearest(column, rows.column_names)} It has: {', '.join(rows.column_names)}."
                f"{_separator_hint(rows.column_names)}",
            )


def _separator_hint(columns: Sequence[str]) -> str:
    """A hint at the separator if the header was not split into columns."""
    found = [separator for separator in SEPARATORS if len(columns) == 1 and separator in columns[0]]
    return f' That looks like several columns: set `sep: "{found[0]}"`.'.replace("\t", "\\t") if found else ""


def _find_form(splits: Mapping[str, datasets.Dataset], columns: list[str], where: str) -> str:
    forms = set()
    for split, rows in splits.items():
        for column in columns:
            feature = feature_of(rows, column)
            inner = getattr(feature, "feature", None)
            if getattr(feature, "dtype", None) in ("string", "large_string", "null"):
                forms.add((column, "string"))
            elif getattr(inner, "dtype", None) in ("string", "large_string", "null"):
                forms.add((column, "words"))
            else:
                held = "values of several kinds" if type(feature).__name__ == "Json" else feature
                raise ValueError(
                    f"`{where}.text`: the column {column!r} of the split {split!r} holds {held}; it should hold"
                    " strings or lists of words."
                )
    found = [{form for column, form in forms if column == name} for name in columns]
    if len(columns) > 2 and all(held == {"string"} for held in found):
        return "choices"  # a text column, and one column per choice
    if len(columns) == 2 and found == [{"string"}, {"words"}]:
        return "choices"
    if len({form for _, form in forms}) > 1 or (len(columns) > 1 and found != [{"string"}, {"string"}]):
        raise ValueError(f"`{where}.text`: its column should hold strings in all splits, or lists of words in all"
                         " splits (pairs are strings; in [text, choices] the second column holds lists).")  # fmt: skip
    return "pair" if len(columns) == 2 else found[0].pop()


def has_text(value: Any) -> bool:
    """Whether a string or a list of words has any text; a list with other values than words does not."""
    if isinstance(value, str):
        return bool(value.strip())
    return bool(value) and all(isinstance(word, str) for word in value) and any(word.strip() for word in value)


def _drop_bad_rows(data: SourceData, split: str, drop: bool) -> Iterator[Finding]:
    """Report rows without text, and drop them if `drop` is set."""
    rows = data.splits[split]
    blank = np.logical_or.reduce([blank_rows(column_of(rows, column)) for column in data.columns])
    bad = np.flatnonzero(blank).tolist()
    if not bad:
        return
    numbers = data.origin(split)[1]
    listed = ", ".join(str(numbers[row] + 1) for row in bad[:10]) + (", ..." if len(bad) > 10 else "")
    lack = f"lack one of their texts ({' and '.join(data.columns)})" if len(data.columns) > 1 else "have no text"
    if not drop:
        yield Finding(
            logging.ERROR,
            f"`sources.{data.name}`",
            f"{len(bad)} of {len(rows)} rows of the split {split!r} {lack} (rows {listed})",
            "correct them, or set `drop_bad_rows: true`",
            tuple(bad),
        )
        return
    yield Finding(
        logging.WARNING,
        f"Source {data.name}, {split}",
        f"{len(bad)} of {len(rows)} rows {lack} and are dropped (rows {listed})",
        rows=tuple(bad),
    )
    if len(bad) == len(rows):
        yield Finding(logging.ERROR, f"`sources.{data.name}`", f"no row of the split {split!r} has text")
        return
    data.keep(split, np.flatnonzero(~blank).tolist())
