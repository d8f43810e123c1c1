"""Tags of spans: detect and check their scheme, convert them to BIO, and warn about suspicious tags."""

import collections
import functools
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ..config import RunConfig
from .name_column import NameColumn
from .names import are_numbers, count_names, label_names
from .source_data import SourceData
from .tag_schemes import (
    BARE_TYPE,
    BIO,
    Scheme,
    WrittenTags,
    bio_labels,
    is_span_tag,
    named_scheme,
    recognise_pairs,
    to_bio,
)
from .task_type import TaskData, training_labels

logger = logging.getLogger(__name__)


def read_schemes(
    name: str,
    sources: Sequence[SourceData],
    run: RunConfig,
    bio: str,
    given: Sequence[str] | None,
    chosen: str = "auto",
) -> dict[str, Scheme]:
    """Detect the tag scheme of each source, and convert its tags to BIO in place.

    `SourceData.written_tags` keeps how a source writes its tags.

    Args:
        name: Name of the task.
        sources: Its sources, with its labels.
        run: Config of the run.
        bio: `repair` or `refuse` tags that continue no span.
        given: Labels of a trained model. Its types replace types that differ only in case, or missing types.
        chosen: Name of the scheme in the config, or `auto`.

    Returns:
        Source → its scheme, for sources with tags of spans.

    Raises:
        ValueError: Most tags of a source fit a scheme but some do not, or they are of two schemes; or some do not fit
            the chosen one. The message names their rows.
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
        if chosen == "auto" or not written:
            scheme = recognise_pairs(pairs, {label[2:] for label in given or () if label != "O"})
        else:
            scheme = named_scheme(chosen, pairs)
        if scheme is None:
            _leave_out_empty_tags(name, source)
            if unlike := sorted(written - {"O"}):
                others[source.name] = unlike
            continue
        found[source.name] = scheme
        for split in source.splits:
            _check_fit(name, source, split, scheme, chosen, drop=run.sources[source.name].drop_bad_rows)
            _check_ends(name, bio, source, split, scheme, may_mix=chosen != "auto" or given is not None)
        types = _model_types(scheme, written, given)
        if scheme.is_bio and not types:
            continue
        source.written_tags[name] = WrittenTags(scheme, types)
        if not scheme.is_bio:
            logger.info("Task %s: %s tags in source %s, read as BIO.", name, scheme, source.name)
        for split in source.splits:
            _convert(name, bio, source, split, scheme, types)
    if found and others and given is None:
        other, tags = next(iter(others.items()))
        spans = " and ".join(f"{source} ({scheme})" for source, scheme in found.items())
        raise ValueError(f"`tasks.{name}`: the tags of source {other!r} ({', '.join(map(repr, tags[:10]))}) are not"
                         f" tags of spans, but those of {spans} are: use one scheme for all sources.")  # fmt: skip
    return found


def tags_of(name: str, source: SourceData, split: str) -> NameColumn:
    """The tags of a split."""
    tags = source.gold[split][name]
    return tags if isinstance(tags, NameColumn) else NameColumn.of(tags)


def fits(tags: NameColumn, chosen: str) -> bool:
    """Whether all tags fit the scheme of a name in the config."""
    tags = tags.rename(lambda tag, row: str(tag).strip())
    scheme = named_scheme(chosen, tags.pairs())
    return all(scheme.split(tag) is not None for tag in tags.counts())


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
    """Replace empty tags by None if tags are labels of words, with a warning."""
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


def _check_fit(name: str, source: SourceData, split: str, scheme: Scheme, chosen: str, *, drop: bool) -> None:
    """Raise an error for tags that do not fit the scheme, or drop their rows."""
    gold = tags_of(name, source, split)
    counts = gold.counts()
    wrong = [tag for tag in counts if scheme.split(tag) is None]
    if not wrong:
        return
    loaded, numbers = source.origin(split)
    firsts = {tag: gold.place(gold.items_with([tag])[0]) for tag in wrong[:10]}
    shown = ", ".join(
        f"{tag!r} ({f'{counts[tag]:,} times, first in ' * (counts[tag] > 1)}row {numbers[row] + 1}, word {place + 1})"
        for tag, (row, place) in firsts.items()
    )
    shown += f" and {len(wrong) - 10} other tags" if len(wrong) > 10 else ""
    items = gold.items_with(wrong)
    misfits = np.unique(gold.rows_of(items))
    if not drop:
        which = f"the scheme of the others, {scheme}" if chosen == "auto" else f"`scheme: {chosen}`, read as {scheme}"
        many = 10 * len(items) > sum(counts.values()) - counts.get("O", 0)
        other = _scheme_of({*wrong, "O"}, gold) if chosen == "auto" and many else None
        which, remedy = (which, "Correct them") if other is None else (f"{which}, but {other}", "Use one scheme")
        raise ValueError(
            f"`tasks.{name}`: {len(items)} of {sum(counts.values())} tags of the split {loaded!r} of source"
            f" {source.name!r} do not fit {which}: {shown}. {remedy}, or set"
            f" `sources.{source.name}.drop_bad_rows: true` to drop these rows ({len(misfits)})."
        )
    kept = np.delete(np.arange(len(gold)), misfits).tolist()
    if not kept:
        raise ValueError(f"`tasks.{name}`: no row of the split {split!r} of source {source.name!r} has only tags that"
                         f" fit {scheme}: {shown}.")  # fmt: skip
    logger.warning("Source %s, %s: %d of %d rows have tags that do not fit %s (task %s) and are dropped: %s.",
                   source.name, split, len(misfits), len(gold), scheme, name, shown)  # fmt: skip
    source.keep(split, kept)
    source.gold[split] = {
        task: labels.take(kept) if isinstance(labels, NameColumn) else [labels[row] for row in kept]
        for task, labels in source.gold[split].items()
    }


def _scheme_of(tags: Collection[str], column: NameColumn) -> Scheme | None:
    """The scheme of some of the tags of a column."""
    pairs: collections.Counter[tuple[str | None, ...]] = collections.Counter()
    for pair, count in column.pairs().items():
        pairs[tuple(tag if tag in tags else None for tag in pair)] += count
    return recognise_pairs(pairs)  # type: ignore[arg-type]


def _check_ends(name: str, bio: str, source: SourceData, split: str, scheme: Scheme, *, may_mix: bool) -> None:
    """Warn about spans without an end tag in a scheme that has them; many are an error, as they are of another scheme.

    Raises:
        ValueError: Many are, or `bio` is `refuse`.
    """
    tags = tags_of(name, source, split)
    pairs = tags.pairs()
    open_pairs = {pair for pair in pairs if scheme.leaves_open(*pair)}
    number = sum(pairs[pair] for pair in open_pairs)
    if not number:
        return
    first = _first_pair(source, split, tags, open_pairs)
    lasts = {pair for pair in pairs if scheme.ends(pair[0])}
    ended = sum(pairs[pair] for pair in lasts)
    if not may_mix and number > (number + ended) / 10:
        more = f", {ended} end with one (the first: {_first_pair(source, split, tags, lasts)})" if ended else ""
        raise ValueError(
            f"`tasks.{name}`: the tags of source {source.name!r} mix two schemes. In the split {split!r}, {number}"
            f" spans have no end tag of {scheme} (the first: {first}){more}. Write all tags in one scheme, or set"
            f" `tasks.{name}.scheme: {scheme.name.lower()}` to read spans without an end tag, too."
        )
    if bio == "refuse":
        raise ValueError(f"`tasks.{name}`: {number} spans have no end tag of {scheme} (the first: {first}); correct"
                         " them, or set `bio: repair` to end them at their last tag.")  # fmt: skip
    logger.warning("Task %s: %d spans of %s %s have no end tag of %s and end at their last tag (the first: %s).",
                   name, number, source.name, split, scheme, first)  # fmt: skip


def _first_pair(source: SourceData, split: str, tags: NameColumn, pairs: Collection[tuple[str | None, ...]]) -> str:
    """The first tag that is followed by a certain one, with its row and word."""
    for row, held in enumerate(tags):
        for place, pair in enumerate(itertools.pairwise([*(held or ()), None])):
            if pair in pairs:
                return f"{source.where(split, row)}, word {place + 1}: {pair[0]}"
    raise AssertionError("no such pair")


def _model_types(scheme: Scheme, tags: Collection[str], given: Sequence[str] | None) -> dict[str, str]:
    """Type → its name in a trained model, for types whose names differ."""
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
    """The label names of a feature in BIO, without unused names that are not tags of spans."""
    if others := [label for label in declared if scheme.split(label) is None]:
        logger.warning("Task %s: unused label names of its feature that are not tags of spans are left out: %s.",
                       name, ", ".join(map(repr, others)))  # fmt: skip
    fitting = [label for label in declared if label not in others]
    return fitting if scheme.is_bio else bio_labels(fitting, scheme)


def report_word_labels(task: TaskData, sources: Sequence[SourceData]) -> None:
    """Warn about word labels that may be meant as spans, and about numbers without names."""
    counts: collections.Counter[str] = collections.Counter()
    for labels in training_labels(task.name, sources):
        counts.update(count_names(labels))
    shown = [tag for tag, _ in counts.most_common(10)]
    if are_numbers(task.labels):
        names = "{" + ", ".join(f"{tag}: NAME" for tag in sorted(shown, key=int)[:3]) + ", ...}"
        logger.warning(
            "Task %s: its tags are numbers without names (%s) and are scored as labels of words, with macro F1 as the"
            " primary metric. Name them with `tasks.%s.labels: %s`; names such as O, B-PER and I-PER are scored as"
            " spans.",
            task.name, ", ".join(sorted(shown, key=int)), task.name, names,
        )  # fmt: skip
    elif {"O", "o"} & counts.keys():
        tags = ", ".join(shown) + (", ..." if len(counts) > 10 else "")
        like_spans = [tag for tag in counts if len(tag) > 1 and is_span_tag(tag)]
        if 2 * len(like_spans) >= len(counts) - 1 > 0:
            why = f"some look like tags of spans ({', '.join(like_spans[:5])})"
            remedy = f"name their scheme, such as `tasks.{task.name}.scheme: bio`, to see which do not fit"
        else:
            why, remedy = (
                "O marks words outside of spans and the others are types",
                f"set `tasks.{task.name}.scheme: io`",
            )
        logger.warning("Task %s: its tags (%s) are scored as labels of words, not as spans. If %s, %s.",
                       task.name, tags, why, remedy)  # fmt: skip


def check_bio(task: TaskData, source: SourceData, split: str, *, may_grow: bool) -> None:
    """Find I- tags that continue no span, and repair or refuse them by the task's option `bio`.

    A B- tag that a repair creates is added to the vocabulary if it `may_grow`; that of a trained model may not.
    """
    strays = _convert(task.name, task.options.bio, source, split, BIO)
    if may_grow:
        needed = dict.fromkeys(f"B-{tag[2:]}" for tag in strays)
        task.labels += [tag for tag in needed if tag not in task.labels]


def _convert(
    name: str, bio: str, source: SourceData, split: str, scheme: Scheme, types: Mapping[str, str] | None = None
) -> list[str]:
    """Convert tags to BIO in place, and return those that continue no span."""
    tags = tags_of(name, source, split)

    renamed = tuple((types or {}).items())
    source.gold[split][name], items = tags.map_pairs(lambda before, tag: _second_to_bio(before, tag, scheme, renamed))
    _report_strays(name, bio, source, split, tags, items)
    return [tags.names[code] for code in tags.codes[items].tolist()]


@functools.lru_cache(maxsize=100_000)  # sources have few distinct pairs
def _second_to_bio(
    before: str | None, tag: str | None, scheme: Scheme, types: tuple[tuple[str, str], ...]
) -> tuple[str | None, bool]:
    """Convert the second of two tags to BIO; also return whether it should continue a span but does not."""
    (_, converted), strays = to_bio([before, tag], scheme, dict(types))
    return converted, 1 in strays


def _report_strays(name: str, choice: str, source: SourceData, split: str, tags: NameColumn, items: np.ndarray) -> None:
    """Raise an error for tags that should continue a span but do not, or warn that they begin one.

    Args:
        name: Name of the task.
        choice: Its option `bio`.
        source: The source.
        split: The split.
        tags: The original tags.
        items: Indices of the tags that continue no span.
    """
    if not len(items):
        return
    row, position = tags.place(items[0])
    tag = tags[row][position]
    where = f"{source.where(split, row)}, word {position + 1}: {tag}"
    kinds = "I- tags" if tag.startswith("I-") else "inner tags"
    if choice == "refuse":
        raise ValueError(
            f"`tasks.{name}`: {len(items)} {kinds} continue no span (the first: {where}); correct them, or set"
            " `bio: repair` to read them as B-."
        )
    logger.warning("Task %s: %d %s of %s %s continue no span and are read as B- (the first: %s).",
                   name, len(items), kinds, source.name, split, where)  # fmt: skip
