"""Inputs of a run besides its config: the content of its files, and the versions of packages.

Notable: the check loads neither rows nor weights. Files are compared by a hash of their content, computed once per file
and process; data on the Hub or at a URL are compared by commit or entity tag. So checking fifty finished runs on the
same data takes as long as reading the data once.
"""

import functools
import glob
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import datasets
from transformers.utils.hub import cached_file, extract_commit_hash

from .. import __version__
from ..config import RunConfig, Source, resolve_path
from ..data.files import list_paths

# Packages that affect the trained weights or the encoded rows.
_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "torchjd")
# Files in a model's folder that a run reads when it starts from the model, by ending; files that a run writes about
# itself are excluded.
_MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".model", ".py")
_ABOUT_RUNS = ("metrics.json", "trainer_state.json", "complete.json", "comparison.json")


def run_inputs(config: RunConfig) -> dict[str, str]:
    """The inputs of a run besides its config.

    Args:
        config: Config of the run; a `dataset` passed in Python is ignored.

    Returns:
        Path or name → its hash, commit or version, for data files, the encoder or the model in `model.from`, metric
        files, and packages. The value is `missing` for what does not exist.
    """
    found: dict[str, str] = {}
    for source in config.sources.values():
        found |= _data(source)
    found |= _model(config.model.encoder or str(config.model.from_), config.model.revision)
    for task in config.tasks.values():
        for metric in task.metrics or ():
            path = str(metric.get("path", "") if isinstance(metric, Mapping) else metric)
            if os.path.isfile(path):
                found[path] = _file_hash(path)
    found["mtl_hf"] = __version__
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def changed_inputs(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The differences between two results of `run_inputs`, as phrases."""
    changes = []
    for name in dict.fromkeys([*then, *now]):
        before, after = then.get(name, "missing"), now.get(name, "missing")
        if before == after:
            continue
        if name in ("mtl_hf", *_PACKAGES):
            changes.append(f"{name} was {before} and is {after}")
        elif "missing" in (before, after):
            changes.append(f"{name} {'is new' if before == 'missing' else 'is gone'}")
        else:
            changes.append(f"{name} has changed")
    return changes


def _data(source: Source) -> dict[str, str]:
    """Data of a source → fingerprint: of each local file, or of the data set on the Hub."""
    if source.path is None:
        return {}
    given = [*list_paths(source.data_files), *list_paths(source.loader.get("data_dir"))]
    place = resolve_path(source.path)
    if os.path.isdir(place):
        given.append(place)
    files = [name for pattern in given for name in _local_files(resolve_path(pattern))]
    if files:
        return {name: _file_hash(name) for name in files}
    if given and not any("://" in pattern for pattern in given):
        return dict.fromkeys(given, "missing")
    arguments = dict(source.loader) | ({} if source.data_files is None else {"data_files": source.data_files})
    return {", ".join(given) or source.path: _remote_data(source.path, json.dumps(arguments, sort_keys=True))}


@functools.cache
def _remote_data(path: str, arguments: str) -> str:
    """The commit or the entity tags of remote data; one request per process.

    Args:
        path: Argument of `datasets.load_dataset`.
        arguments: Its other arguments, as JSON.
    """
    given = {key: value for key, value in json.loads(arguments).items() if key not in ("split", "streaming")}
    try:
        builder = datasets.load_dataset_builder(path, **given)
    except (datasets.exceptions.DatasetsError, ValueError, TypeError, OSError):
        return "missing"  # the run itself reports the reason
    return f"{builder.hash} {builder.config_id}"


def _model(name: str, revision: str | None) -> dict[str, str]:
    """Fingerprints of an encoder or a multi-task model: of each file in its folder, or its commit on the Hub."""
    try:
        place = resolve_path(name)
    except ValueError:
        return {name: "missing"}
    if os.path.isdir(place):
        return {
            path: _file_hash(path)
            for path in sorted(str(path) for path in Path(place).iterdir())
            if path.endswith(_MODEL_FILES) and os.path.basename(path) not in _ABOUT_RUNS and os.path.isfile(path)
        } or {name: "missing"}
    place, _, commit = place.partition("@")
    # The commit of the last download, without a request to the Hub: loading the model makes one and updates it.
    config = cached_file(
        place, "config.json", revision=commit or revision or "main", local_files_only=True,
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return {name: extract_commit_hash(config, None) or "missing"}


def _local_files(pattern: str) -> list[str]:
    """The files that match a path or a pattern; for a folder, all files in it."""
    found = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
    files = []
    for name in sorted(found):
        inside = sorted(map(str, Path(name).rglob("*"))) if os.path.isdir(name) else [name]
        files += [path for path in inside if os.path.isfile(path)]
    return files


def _file_hash(path: str) -> str:
    state = os.stat(path)
    return _hash(os.path.abspath(path), state.st_size, state.st_mtime_ns)


@functools.cache
def _hash(path: str, size: int, modified: int) -> str:
    """Hash of a file's content, cached by path, size and modification time, so that a changed file is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
