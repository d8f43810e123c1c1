"""Labels of words and tokens: the values for missing labels, and tags → spans. No torch."""

from collections.abc import Sequence

IGNORE_INDEX = -100  # a missing class label; also the padding of token labels
UNLABELLED = -101  # a word without a label, in labels that mark the places of all words
NO_TOKEN = -1  # position of a word without tokens: truncated, or dropped by the tokenizer
ALIGNMENTS = ("first", "last", "mean", "max")  # which tokens of a word give its state (`alignment.py`)


def bio_spans(tags: Sequence[str | None]) -> list[tuple[str, int, int]]:
    """Spans of a tag sequence as (type, first word, word after the last); None and tags without a prefix are O."""
    spans: list[tuple[str, int, int]] = []
    open_type, begin = None, 0
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, kind = (tag or "O").partition("-")
        continues = prefix == "I" and kind == open_type
        if open_type is not None and not continues:
            spans.append((open_type, begin, index))
            open_type = None
        if kind and not continues and prefix in ("B", "I"):
            open_type, begin = kind, index
    return spans


def is_span_scheme(labels: Sequence[str]) -> bool:
    """Whether tag labels are a BIO scheme: O, and B- or I- with a type."""
    return "O" in labels and all(label == "O" or (label[:2] in ("B-", "I-") and len(label) > 2) for label in labels)


def check_alignment(name: str) -> None:
    """Raise `ValueError` unless `name` is an alignment."""
    if name not in ALIGNMENTS:
        raise ValueError(f"`alignment` is {name!r}; valid are {', '.join(ALIGNMENTS)}.")
