"""The examples in a model's card, to try the model with. No torch."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

logger = logging.getLogger(__name__)

_EXAMPLES = 8  # at most


def card_examples(path: str | os.PathLike[str], revision: str | None = None) -> list[Any]:
    """The examples in the card of a model (`widget` in the metadata of its README.md), at most eight.

    Args:
        path: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub.

    Returns:
        Strings, or `{"text", "text_pair"}`.
    """
    card: str | None = os.path.join(path, "README.md")
    if not os.path.isdir(path):
        from transformers.utils.hub import cached_file

        options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        card = cached_file(os.fspath(path), "README.md", revision=revision, **options)
    if card is None or not os.path.isfile(card):
        return []
    text = Path(card).read_text(encoding="utf-8", errors="replace")
    _, _, rest = text.partition("---\n")
    try:
        metadata = yaml.safe_load(rest.partition("\n---")[0]) if text.startswith("---\n") else None
    except yaml.YAMLError as error:
        logger.warning("%s: its metadata are not YAML, so there are no examples (%s).", card, type(error).__name__)
        return []
    widget = metadata.get("widget") if isinstance(metadata, Mapping) else None
    found = []
    for item in widget if isinstance(widget, list) else []:
        example, pair = (item.get("text"), item.get("text_pair")) if isinstance(item, Mapping) else (None, None)
        if isinstance(example, str) and example.strip():
            found.append({"text": example, "text_pair": pair} if isinstance(pair, str) else example)
    return found[:_EXAMPLES]
