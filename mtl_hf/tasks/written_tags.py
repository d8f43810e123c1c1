"""Tags in `predictions.jsonl`: written as those of their source, and read again as BIO.

Notable: a file can be scored alone and gives the scores of `metrics.json`. So a line names its scheme unless it is BIO,
has the words that character spans were made of, and adds the tags of the model where the scheme cannot express them:
neighbours in IO, types in tags without types, an I- that begins a span.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..modeling.tags import bio_spans
from .arrow_columns import values_of
from .source_data import SourceData
from .tag_schemes import Scheme, WrittenTags, from_bio, parse_scheme, to_bio

Tags = Sequence[str | None]


def tag_lines(written: WrittenTags, predicted: Sequence[Tags], gold: Sequence[Tags]) -> list[dict[str, Any]]:
    """`predicted` and `gold` of some rows in the scheme of their source.

    Returns:
        Also `scheme`, its name, unless it is BIO; and `bio`, those of the tags that the scheme cannot express, in BIO.
    """
    named = {} if written.scheme.is_bio else {"scheme": str(written.scheme)}
    lines = []
    for own, label in zip(predicted, gold, strict=True):
        tags = {"predicted": written.rename(own), "gold": written.rename(label)}
        line = {key: from_bio(held, written.scheme) for key, held in tags.items()}
        lost = {key: held for key, held in tags.items() if _read(line[key], written.scheme) != held}
        lines.append({**line, **named} | ({"bio": lost} if lost else {}))
    return lines


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
        Also `words`, the spans of these words; and `bio`, those of the tags that the spans do not express: of words
        without tokens, and an I- that begins a span.
    """
    offsets = values_of(source.splits[split].select(rows), str(source.offsets))
    lines = []
    for row, words, own, label in zip(rows, offsets, predicted, gold, strict=True):
        known = [list(span) for span, tag in zip(words, source.gold[split][name][row], strict=True) if tag is not None]
        tags = {"predicted": list(own), "gold": list(label)}
        line = {key: _characters(held, known) for key, held in tags.items()}
        lost = {key: held for key, held in tags.items() if _tags(line[key], known) != held}
        lines.append({**line, "words": known} | ({"bio": lost} if lost else {}))
    return lines


def with_unlabelled(line: dict[str, Any], labels: Tags) -> dict[str, Any]:
    """A line whose lists have None where a word of the row has no label, so that they have one item for each word.

    Args:
        line: What `tag_lines` returned for the row.
        labels: The label of each word.
    """
    if None not in labels:
        return line

    def spread(tags: Tags) -> list[str | None]:
        remaining = iter(tags)
        return [None if label is None else next(remaining) for label in labels]

    return _of_lists(line, spread)


def without_unlabelled(line: Mapping[str, Any]) -> dict[str, Any]:
    """What `with_unlabelled` was given."""
    known = [tag is not None for tag in line["gold"]]
    return _of_lists(line, lambda tags: [tag for tag, kept in zip(tags, known, strict=True) if kept])


def _of_lists(line: Mapping[str, Any], change: Callable[[Tags], list[str | None]]) -> dict[str, Any]:
    """A line with its lists of tags changed."""
    changed = {key: change(held) if isinstance(held, list | tuple) else held for key, held in line.items()}
    return changed | ({"bio": _of_lists(line["bio"], change)} if "bio" in line else {})


def read_line(line: Mapping[str, Any]) -> tuple[Tags, Tags]:
    """The tags in BIO of what `tag_lines` or `span_lines` returned for a row: predicted and gold."""
    tags = {key: line[key] for key in ("predicted", "gold")}
    if "words" in line:
        tags = {key: _tags(spans, line["words"]) for key, spans in tags.items()}
    elif "scheme" in line:
        tags = {key: _read(held, parse_scheme(line["scheme"])) for key, held in tags.items()}
    tags |= line.get("bio", {})
    return tags["predicted"], tags["gold"]


def _read(tags: Tags, scheme: Scheme) -> Tags | None:
    """The tags in BIO; None if one does not fit the scheme, such as a type alone that has no letters."""
    fitting = all(tag is None or scheme.split(tag) is not None for tag in tags)
    return to_bio(tags, scheme)[0] if fitting else None


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
