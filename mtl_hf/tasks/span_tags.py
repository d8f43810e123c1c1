"""Tags of words that write spans: their scheme found, checked and converted to BIO, and what is odd about them said."""

import collections
import functools
import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ..config import RunConfig
from .name_column import NameColumn
from .names import are_numbers, count_names, label_names
from .source_data import SourceData
from .tag_schemes import BARE_TYPE, BIO, Scheme, bio_labels, recognise_pairs, to_bio
from .task_type import TaskData, training_labels

logger = logging.getLogger(__name__)


def read_schemes(
    name: str, sources: Sequence[SourceData], run: RunConfig, bio: str, given: Sequence[str] | None
) -> dict[str, Scheme]:
    """Find the scheme of the tags of each source, and convert them to BIO in place.

    Args:
        name: The task.
        sources: Its sources, with its labels.
        run: The run.
        bio: What to do with tags that continue nothing.
        given: Labels of a trained model, whose names of types are kept where they differ in case only, or where tags
            have no types.

    Returns:
        Source → its scheme, of those whose tags are of spans.

    Raises:
        ValueError: Most tags of a source fit a scheme and some do not, with their rows.
    """
    found: dict[str, Scheme] = {}
    others: dict[str, list[str]] = {}  # source → tags of no scheme
    for source in sources:
        _strip_tags(name, source)
        written_tags = [tags_of(name, source, split) for split in source.splits]
        written = set().union(*map(label_names, written_tags))
        pairs: collections.Counter[tuple[str | None, str | None]] = collections.Counter()
        for column in written_tags:
            pairs.update(column.pairs())
        scheme = recognise_pairs(pairs, {label[2:] for label in given or () if label != "O"})
        if scheme is None:
            _leave_out_empty_tags(name, source)
            if unlike := sorted(written - {"O"}):
                others[source.name] = unlike
            continue
        found[source.name] = scheme
        for split in source.splits:
            _check_fit(name, source, split, scheme, drop=run.sources[source.name].drop_bad_rows)
        types = _model_types(scheme, written, given)
        if scheme.is_bio and not types:
            continue
        if not scheme.is_bio:
            logger.info("Task %s: %s tags in source %s, read as BIO.", name, scheme, source.name)
        for split in source.splits:
            _convert(name, bio, source, split, scheme, types)
    if found and others and given is None:
        other, tags = next(iter(others.items()))
        spans = " and ".join(f"{source} ({scheme})" for source, scheme in found.items())
        raise ValueError(f"`tasks.{name}`: the tags of source {other!r} ({', '.join(map(repr, tags[:10]))}) are in no"
                         f" scheme of spans, and those of {spans} are: write all of them in one.")  # fmt: skip
    return found


def tags_of(name: str, source: SourceData, split: str) -> NameColumn:
    """The tags of a split."""
    tags = source.gold[split][name]
    return tags if isinstance(tags, NameColumn) else NameColumn.of(tags)


def _strip_tags(name: str, source: SourceData) -> None:
    """Remove the spaces around tags, with a warning."""
    for split in source.splits:
        tags = tags_of(name, source, split)
        items = tags.items_with(tag for tag in tags.counts() if tag != tag.strip())
        if not len(items):
            continue
        row, position = tags.place(items[0])
        first = f"{tags[row][position]!r} in {source.where(split, row)}, word {position + 1}"
        logger.warning("Task %s: spaces around %d tags of %s %s are removed (the first: %s).",
                       name, len(items), source.name, split, first)  # fmt: skip
        source.gold[split][name] = tags.rename(lambda tag, row: tag.strip())


def _leave_out_empty_tags(name: str, source: SourceData) -> None:
    """Replace empty tags by None where tags are labels of words, with a warning."""
    for split in source.splits:
        tags = tags_of(name, source, split)
        items = tags.items_with([""])
        if not len(items):
            continue
        row, position = tags.place(items[0])
        logger.warning("Task %s: %d words of %s %s have an empty tag and count as words without a label (the first:"
                       " %s, word %d).", name, len(items), source.name, split, source.where(split, row),
                       position + 1)  # fmt: skip
        source.gold[split][name] = tags.rename(lambda tag, row: tag or None)


def _check_fit(name: str, source: SourceData, split: str, scheme: Scheme, *, drop: bool) -> None:
    """Refuse tags that do not fit the scheme of the others, or drop their rows."""
    gold = tags_of(name, source, split)
    counts = gold.counts()
    items = gold.items_with(tag for tag in counts if scheme.split(tag) is None)
    if not len(items):
        return
    loaded, numbers = source.origin(split)
    shown = ", ".join(
        f"{gold[row][place]!r} (row {numbers[row] + 1}, word {place + 1})" for row, place in map(gold.place, items[:10])
    )
    number, total = len(items), sum(counts.values())
    misfits = np.unique(gold.rows_of(items))
    shown += f" and {number - 10} more" if number > 10 else ""
    if not drop:
        raise ValueError(
            f"`tasks.{name}`: {number} of {total} tags of the split {loaded!r} of source {source.name!r} do not fit the"
            f" scheme of the others, {scheme}: {shown}. Correct them, or set"
            f" `sources.{source.name}.drop_bad_rows: true` to leave out such rows ({len(misfits)})."
        )
    kept = np.delete(np.arange(len(gold)), misfits).tolist()
    if not kept:
        raise ValueError(f"`tasks.{name}`: no row of the split {split!r} of source {source.name!r} has only tags that"
                         f" fit {scheme}: {shown}.")  # fmt: skip
    logger.warning("Source %s, %s: %d of %d rows have tags of %s that do not fit %s and are dropped: %s.",
                   source.name, split, len(misfits), len(gold), name, scheme, shown)  # fmt: skip
    source.keep(split, kept)
    source.gold[split] = {
        task: labels.take(kept) if isinstance(labels, NameColumn) else [labels[row] for row in kept]
        for task, labels in source.gold[split].items()
    }


def _model_types(scheme: Scheme, tags: Collection[str], given: Sequence[str] | None) -> dict[str, str]:
    """What a trained model calls the types of tags, where that is not as they are written."""
    known = {label[2:] for label in given or () if label != "O"}
    if scheme.form == "B":
        return {BARE_TYPE: known.pop()} if len(known) == 1 else {}
    written = {parts[1] for tag in tags if (parts := scheme.split(tag))} - {""}
    by_fold = collections.Counter(kind.casefold() for kind in known)
    return {
        kind: other
        for kind in written - known
        for other in known
        if other.casefold() == kind.casefold() and by_fold[kind.casefold()] == 1
    }


def span_names(name: str, declared: Sequence[str], scheme: Scheme) -> list[str]:
    """The names of a feature in BIO, without those that are no tags of spans, which no row has."""
    if others := [label for label in declared if scheme.split(label) is None]:
        logger.warning("Task %s: names of its feature that no row has and that are no tags of spans are left out: %s.",
                       name, ", ".join(map(repr, others)))  # fmt: skip
    fitting = [label for label in declared if label not in others]
    return fitting if scheme.is_bio else bio_labels(fitting, scheme)


def report_word_labels(task: TaskData, sources: Sequence[SourceData]) -> None:
    """Warn of word labels that may have been meant as spans, and of numbers without names."""
    counts: collections.Counter[str] = collections.Counter()
    for labels in training_labels(task.name, sources):
        counts.update(count_names(labels))
    shown = [tag for tag, _ in counts.most_common(10)]
    if are_numbers(task.labels):
        names = "{" + ", ".join(f"{tag}: NAME" for tag in sorted(shown, key=int)[:3]) + ", ...}"
        logger.warning(
            "Task %s: its tags are numbers without names (%s) and are scored as labels of words, by macro F1 first."
            " `tasks.%s.labels: %s` names them; with names as O, B-PER and I-PER they are scored as spans.",
            task.name, ", ".join(sorted(shown, key=int)), task.name, names,
        )  # fmt: skip
    elif {"O", "o"} & counts.keys():
        names = ", ".join(f"{tag}: {'O' if tag in 'Oo' else f'I-{tag}'}" for tag in shown)
        logger.warning(
            "Task %s: its tags (%s) are scored as labels of words, not as spans. If words outside of spans are O and"
            " the others types of spans, set `tasks.%s.labels: {%s%s}`.",
            task.name, ", ".join(shown), task.name, names, ", ..." if len(counts) > 10 else "",
        )  # fmt: skip


def check_bio(task: TaskData, source: SourceData, split: str, *, may_grow: bool) -> None:
    """Find I- tags that continue nothing; repair or refuse them as the task says.

    A B- tag that only a repair makes joins the vocabulary where that `may_grow`; a trained model's may not.
    """
    strays = _convert(task.name, task.options.bio, source, split, BIO)
    if may_grow:
        needed = dict.fromkeys(f"B-{tag[2:]}" for tag in strays)
        task.labels += [tag for tag in needed if tag not in task.labels]


def _convert(
    name: str, bio: str, source: SourceData, split: str, scheme: Scheme, types: Mapping[str, str] | None = None
) -> list[str]:
    """Convert tags to BIO in place, which the tag before each decides, and return those that continue nothing."""
    tags = tags_of(name, source, split)

    renamed = tuple((types or {}).items())
    source.gold[split][name], items = tags.map_pairs(lambda before, tag: _second_to_bio(before, tag, scheme, renamed))
    _report_strays(name, bio, source, split, tags, items)
    return [tags.names[code] for code in tags.codes[items].tolist()]


@functools.lru_cache(maxsize=100_000)  # all sources have the same few pairs
def _second_to_bio(
    before: str | None, tag: str | None, scheme: Scheme, types: tuple[tuple[str, str], ...]
) -> tuple[str | None, bool]:
    """What the second of two tags becomes in BIO, and whether it continues nothing though it should."""
    (_, converted), strays = to_bio([before, tag], scheme, dict(types))
    return converted, 1 in strays


def _report_strays(name: str, choice: str, source: SourceData, split: str, tags: NameColumn, items: np.ndarray) -> None:
    """Refuse tags that should continue a span and do not, or warn that they begin one.

    Args:
        name: The task.
        choice: Its `bio`.
        source: The source.
        split: Its split.
        tags: The tags as they were.
        items: Those that continue nothing.
    """
    if not len(items):
        return
    row, position = tags.place(items[0])
    tag = tags[row][position]
    where = f"{source.where(split, row)}, word {position + 1}: {tag}"
    kinds = "I- tags" if tag.startswith("I-") else "inner tags"
    if choice == "refuse":
        raise ValueError(
            f"`tasks.{name}`: {len(items)} {kinds} continue nothing (the first: {where}); mend them, or set"
            " `bio: repair` to read them as B-."
        )
    logger.warning("Task %s: %d %s of %s %s continue nothing and are read as B- (the first: %s).",
                   name, len(items), kinds, source.name, split, where)  # fmt: skip
