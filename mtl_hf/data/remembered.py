"""What was found in data, kept beside the cache of rows, so that a second start does not search them again."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import datasets

from ..files import write_atomic

_Found = TypeVar("_Found")
_VERSION = 1  # raise it when the same rows give other findings: old ones are then not read


def remembered(what: str, content: Any, find: Callable[[], _Found]) -> _Found:
    """What a function finds, from disk if it was found before. Not where `datasets` is told not to cache.

    Args:
        what: Name of what is found.
        content: All that decides it, as JSON can write it: fingerprints of rows, settings.
        find: The function. What it returns has to be the same after JSON: lists, strings as keys.
    """
    if not datasets.is_caching_enabled():
        return find()
    key = json.dumps([_VERSION, what, content], sort_keys=True)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "mtl_hf" / "found"
    path = folder / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        return json.loads(path.read_text(encoding="utf-8"))
    found = find()
    with contextlib.suppress(OSError):  # a cache that cannot be written, or another process that was quicker
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(found))
    return found
