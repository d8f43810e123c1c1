"""Texts that are trained on and scored: training rows whose text is also in a validation or test split.

Notable: over all sources of a run, because one encoder learns from them all. Part of STS-B was drawn from MRPC, and a
model that has learned the pairs of one is no longer tested by the other.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

Texts = Sequence[Any]  # strings, lists of words or tuples of two strings
Leaks = dict[int, set[tuple[str, str]]]  # training row → the (source, split) that have its text


def text_key(text: Any) -> str:
    """What two texts share that count as the same: letters and digits in lower case; of a pair in either order.

    Args:
        text: A string, a list of words, or a tuple of two strings.
    """
    if isinstance(text, tuple):
        return "\n".join(sorted(map(text_key, text)))
    whole = text if isinstance(text, str) else "\n".join(text)
    return " ".join(re.findall(r"\w+", whole.lower())) or whole


def find_leaks(texts: Mapping[str, Mapping[str, Texts]]) -> dict[str, Leaks]:
    """Training rows whose text is in a validation or test split of any source, in time linear in the rows.

    Args:
        texts: Source → split → its texts.

    Returns:
        Source → its leaks. Sources and rows without any are left out.
    """
    places: dict[str, set[tuple[str, str]]] = collections.defaultdict(set)
    for source, splits in texts.items():
        for split in splits.keys() - {"train"}:
            for text in splits[split]:
                places[text_key(text)].add((source, split))
    leaks: dict[str, Leaks] = {}
    for source, splits in texts.items():
        keys = enumerate(map(text_key, splits.get("train", ())))
        if rows := {row: places[key] for row, key in keys if key in places}:
            leaks[source] = rows
    return leaks
