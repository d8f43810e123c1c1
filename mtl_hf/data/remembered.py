"""A cache on disk for results of checks on data, so that a second run does not compute them again."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import datasets

from ..files import write_atomic

_Found = TypeVar("_Found")
_VERSION = 1  # increase it when the same rows give other results: older results are then ignored


def remembered(what: str, content: Any, find: Callable[[], _Found]) -> _Found:
    """The result of a function, read from the cache if it is there. If caching of `datasets` is off, it is not used.

    Args:
        what: Name of the result.
        content: A JSON value with everything that the result depends on: fingerprints of rows, settings.
        find: Computes the result, which has to be a JSON value: lists, mappings with string keys.
    """
    if not datasets.is_caching_enabled():
        return find()
    key = json.dumps([_VERSION, what, content], sort_keys=True)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "mtl_hf" / "found"
    path = folder / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):  # missing or damaged
        return json.loads(path.read_text(encoding="utf-8"))
    found = find()
    with contextlib.suppress(OSError):  # the cache is not writable, or another process was faster
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(found))
    return found
