"""Leaks: training rows whose text is also in a validation or test split.

Notable: the search is over all sources of a run, because one encoder learns from all of them. Part of STS-B was drawn
from MRPC, for example, so training on one leaks into the test of the other.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

Texts = Sequence[Any]  # strings, lists of words or tuples of two strings
Leaks = dict[int, set[tuple[str, str]]]  # training row → the (source, split) that have its text
_END = "\0"  # separates texts that are joined to be searched at once
_OTHERS = re.compile(rf"[^\w{_END}]+")


def text_key(text: Any) -> str:
    """A key that is equal for texts that count as the same: letters and digits in lower case, pairs in either order.

    Args:
        text: A string, a list of words, or a tuple of two strings.
    """
    return text_keys([text])[0]


def text_keys(texts: Texts) -> list[str]:
    """The `text_key` of each text. For speed, all texts are joined to one string and searched once."""
    if any(isinstance(text, tuple) for text in texts):
        sides = [text_keys(side) for side in zip(*texts, strict=True)]
        return ["\n".join(sorted(pair)) for pair in zip(*sides, strict=True)]
    whole = [text if isinstance(text, str) else "\n".join(text) for text in texts]
    joined = _END.join(whole)
    if joined.count(_END) != max(0, len(whole) - 1):  # a text has this character itself
        return [" ".join(re.findall(r"\w+", text.lower())) or text for text in whole]
    spaced = _OTHERS.sub(" ", joined.lower())
    keys = spaced.replace(f"{_END} ", _END).replace(f" {_END}", _END).removeprefix(" ").removesuffix(" ").split(_END)
    return [key or text for key, text in zip(keys, whole, strict=True)] if whole else []


def find_leaks(texts: Mapping[str, Mapping[str, Texts]]) -> dict[str, Leaks]:
    """Find training rows whose text is in a validation or test split of any source, in linear time.

    Args:
        texts: Source → split → its texts.

    Returns:
        Source → its leaks, without sources and rows that have none.
    """
    keys = {source: {split: text_keys(held) for split, held in splits.items()} for source, splits in texts.items()}
    trained = set().union(*(splits.get("train", ()) for splits in keys.values()))
    places: dict[str, set[tuple[str, str]]] = collections.defaultdict(set)
    for source, splits in keys.items():
        for split in splits.keys() - {"train"}:
            for key in trained.intersection(splits[split]):
                places[key].add((source, split))
    if not places:
        return {}
    leaks = {
        source: {row: places[key] for row, key in enumerate(splits.get("train", ())) if key in places}
        for source, splits in keys.items()
    }
    return {source: rows for source, rows in leaks.items() if rows}
