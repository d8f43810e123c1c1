"""Entities as spans → one BIO tag per word: spans of characters in a string, or of words in a list.

Notable: functions of one row, without its number. What was read otherwise than written (blanks at the border of a span,
a border inside a word, overlaps) is returned beside the tags, so that the caller can count it and name the first place.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Keys of annotation tools: Prodigy, spaCy and Label Studio write start and end, doccano start_offset and end_offset.
_KEYS = (("start", "end"), ("start_offset", "end_offset"))
_LABELS = ("label", "labels", "type", "tag", "entity_group", "entity")
FLAT = '[{"start": 0, "end": 3, "label": "PER"}] or [[0, 3, "PER"]]'


class Span(NamedTuple):
    """An entity: its first and last position as written, and its label."""

    start: int
    end: int
    label: str

    def __str__(self) -> str:
        return json.dumps(list(self), ensure_ascii=False)


class Read(NamedTuple):
    """A row's tags, and what was read otherwise than written.

    Attributes:
        tags: One BIO tag per word.
        trimmed: Spans with blanks at their borders, which are left out.
        widened: Spans with a border inside a word, which take the whole word.
        dropped: Spans that overlap a longer one, or an equally long one before them.
        bad: Spans that are outside of the text or have no word; they get no tags.
    """

    tags: list[str]
    trimmed: list[Span]
    widened: list[Span]
    dropped: list[Span]
    bad: list[Span]


def read_items(value: Any) -> list[Span]:
    """The spans of a cell: a list of `{start, end, label}` or `[start, end, label]`, or such a list as text.

    Also a mapping of lists, `{start: [...], end: [...], label: [...]}`, as features of `datasets` have it.

    Raises:
        ValueError: It is something else. The message says what was found and continues "it should be ...".
    """
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, Mapping) and not value.keys().isdisjoint(_LABELS):
        lists = [held for held in value.values() if isinstance(held, list)]
        if len(lists) == len(value) and len(set(map(len, lists))) == 1:
            value = [dict(zip(value, item, strict=True)) for item in zip(*lists, strict=True)]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_shown(value)} is not a list of spans")
    return [_read_item(item) for item in value]


def _from_text(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        pass  # Python's form
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell


def _read_item(item: Any) -> Span:
    if isinstance(item, Mapping):
        if item.get("result") is not None:
            raise ValueError("it is Label Studio's nested export; export the project as JSON-MIN instead")
        start, end = next(
            ((item[first], item[last]) for first, last in _KEYS if _given(item, first) and _given(item, last)),
            (None,) * 2,
        )
        label = next((item[key] for key in _LABELS if _given(item, key)), None)
    elif isinstance(item, list | tuple) and len(item) == 3:
        start, end, label = item
    else:
        raise ValueError(f"{_shown(item)} is not a span")
    if isinstance(label, list | tuple):
        if len(label) != 1:
            raise ValueError(f"{_shown(item)} has {len(label)} labels; a span has one")
        (label,) = label
    start, end = _position(start), _position(end)
    if start is None or end is None or not isinstance(label, str) or not label.strip():
        raise ValueError(f"{_shown(item)} is not a span")
    return Span(start, end, label.strip())


def _given(item: Mapping[str, Any], key: str) -> bool:
    return item.get(key) is not None  # Arrow fills keys that some items lack with null


def _position(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():  # numbers among text, read as text
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        return None
    return int(value)


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def looks_like_spans(values: Sequence[Any]) -> bool:
    """Whether the values of a column are lists of spans, of which at least one has an item."""
    found = False
    for value in values:
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            found |= bool(read_items(value))
        except ValueError:
            return False
    return found


def tag_characters(text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> Read:
    """Tags of the words of a string from spans of its characters.

    Args:
        text: The string.
        offsets: Start and end of each word, in order.
        spans: Spans of characters; `end` is the position after the last one.
    """
    trimmed, widened, bad = [], [], []
    placed: list[tuple[int, int, Span]] = []  # first word, word after the last, span
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            bad.append(span)
            continue
        inside = text[span.start : span.end]
        start = span.start + len(inside) - len(inside.lstrip())
        end = span.end - (len(inside) - len(inside.rstrip()))
        words = [place for place, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
        if not words:
            bad.append(span)
            continue
        if (start, end) != (span.start, span.end):
            trimmed.append(span)
        if offsets[words[0]][0] < start or offsets[words[-1]][1] > end:
            widened.append(span)
        placed.append((words[0], words[-1] + 1, span))
    tags, dropped = _place(placed, len(offsets))
    return Read(tags, trimmed, widened, dropped, bad)


def tag_words(num_words: int, spans: Sequence[Span]) -> Read:
    """Tags of the words of a list from spans of words; `end` is the last word, as GLiNER writes it."""
    bad = [span for span in spans if not 0 <= span.start <= span.end < num_words]
    placed = [(span.start, span.end + 1, span) for span in spans if span not in bad]
    tags, dropped = _place(placed, num_words)
    return Read(tags, [], [], dropped, bad)


def _place(placed: Sequence[tuple[int, int, Span]], num_words: int) -> tuple[list[str], list[Span]]:
    """BIO tags, and the spans without tags because they share a word with one that is longer, or as long and before."""
    tags = ["O"] * num_words
    dropped = []
    order = sorted(range(len(placed)), key=lambda place: (placed[place][2].start - placed[place][2].end, place))
    for place in order:
        first, stop, span = placed[place]
        if any(tag != "O" for tag in tags[first:stop]):
            dropped.append((place, span))
            continue
        tags[first:stop] = [f"B-{span.label}", *[f"I-{span.label}"] * (stop - first - 1)]
    return tags, [span for _, span in sorted(dropped, key=lambda item: item[0])]
