"""Tags in `predictions.jsonl`: written as those of their source, and read again as BIO.

Notable: a line names its scheme unless it is BIO, and character spans come with the words that they were made of, so a
file can be scored alone and gives the scores of `metrics.json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..modeling.tags import bio_spans
from .arrow_columns import values_of
from .source_data import SourceData
from .tag_schemes import WrittenTags, parse_scheme, to_bio

Tags = Sequence[str | None]


def tag_lines(written: WrittenTags, predicted: Sequence[Tags], gold: Sequence[Tags]) -> list[dict[str, Any]]:
    """`predicted` and `gold` of some rows in the scheme of their source, and its `scheme` unless it is BIO."""
    named = {} if written.scheme.is_bio else {"scheme": str(written.scheme)}
    return [
        {"predicted": written.write(own), "gold": written.write(label)} | named
        for own, label in zip(predicted, gold, strict=True)
    ]


def span_lines(
    name: str, source: SourceData, split: str, rows: Sequence[int], predicted: Sequence[Tags], gold: Sequence[Tags]
) -> list[dict[str, Any]]:
    """`predicted` and `gold` of some rows as spans of characters: lists of `start`, `end` and `label`.

    Args:
        name: Name of the task.
        source: The source, with `offsets`.
        split: The split.
        rows: Numbers of the rows.
        predicted: Tags of the words with a label, None for a word without tokens.
        gold: Their labels.

    Returns:
        Also `words`, the spans of these words, and `unread`, those of the words without tokens, if there are any.
    """
    offsets = values_of(source.splits[split].select(rows), str(source.offsets))
    lines = []
    for row, words, own, label in zip(rows, offsets, predicted, gold, strict=True):
        known = [list(span) for span, tag in zip(words, source.gold[split][name][row], strict=True) if tag is not None]
        unread = [span for span, tag in zip(known, own, strict=True) if tag is None]
        lines.append(
            {"predicted": _characters(own, known), "gold": _characters(label, known), "words": known}
            | ({"unread": unread} if unread else {})
        )
    return lines


def read_line(line: Mapping[str, Any]) -> tuple[Tags, Tags]:
    """The tags in BIO of what `tag_lines` or `span_lines` returned for a row: predicted and gold."""
    if "words" in line:
        own, label = (_tags(line[key], line["words"]) for key in ("predicted", "gold"))
        unread = line.get("unread", ())
        return [None if span in unread else tag for span, tag in zip(line["words"], own, strict=True)], label
    if "scheme" not in line:
        return line["predicted"], line["gold"]
    scheme = parse_scheme(line["scheme"])
    return to_bio(line["predicted"], scheme)[0], to_bio(line["gold"], scheme)[0]


def _characters(tags: Tags, words: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Spans of words as spans of characters."""
    return [{"start": words[begin][0], "end": words[end - 1][1], "label": kind} for kind, begin, end in bio_spans(tags)]


def _tags(spans: Sequence[Mapping[str, Any]], words: Sequence[Sequence[int]]) -> Tags:
    """Spans of characters as tags of BIO."""
    tags: list[str | None] = ["O"] * len(words)
    for span in spans:
        inside = [place for place, (start, end) in enumerate(words) if span["start"] <= start and end <= span["end"]]
        for place in inside:
            tags[place] = f"{'B' if place == inside[0] else 'I'}-{span['label']}"
    return tags
