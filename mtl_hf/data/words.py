"""How the words of training rows were split, as rules for raw texts (`modeling/words.py`).

Notable: a list of words does not show which words had a space between them, so each rule is a vote. Words that hold a
sign (`st.`) vote for keeping it; neighbours with a sign at their border (`house`, `.`) vote for splitting their joined
form (`house.`). A rule is kept only where the more general rules are outvoted, so that most data sets need few.
"""

import collections
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..modeling.words import JOINING, WordSplitter, fold, shape
from ..tasks import SourceData, TaskData
from ..tasks.arrow_columns import column_of
from ..tasks.task_type import flat
from .remembered import remembered

logger = logging.getLogger(__name__)

MOST_WORDS = 1000  # rules for single words, the most frequent ones
MOST_SHAPES = 200
MOST_SIGNS = 50
_FEWEST = 2  # votes of a rule for several words
_FEWEST_SIGNS = 5  # votes of a rule for a sign at any word
_MAY_BE_UNSEEN = (".",)  # signs of abbreviations: without them in training, `st.` is read like `st`

# Words that stood joined in a text: their votes. One word votes for itself, several for a split.
Votes = dict[tuple[str, ...], int]

_LETTER = re.compile(r"\w")
_BLANK = re.compile(r"\s")
_CLITIC_AFTER = re.compile(r"n?['’][^\W\d]{1,2}")
_CLITIC_BEFORE = re.compile(r"[^\W\d]{1,7}['’]")
_SIGNS = re.compile(r"[^\w\s]+")


def learn_word_rules(tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData]) -> dict[str, list[str]] | None:
    """Learn how raw texts are split from the training words of tasks that label words.

    The result is cached by the content of the rows.

    Args:
        tasks: The tasks that are trained.
        sources: Source → its rows.

    Returns:
        `word_rules` of the model's configuration: empty if the plain splitting fits all words, or if the words come
        from strings; None without such a task.
    """
    readers = [task for task in tasks.values() if task.kind.form == "words"]
    read = [
        source
        for name, source in sources.items()
        if source.form == "words" and "train" in source.splits and any(name in task.config.sources for task in readers)
    ]
    if not read:
        return None
    strings = [source.name for source in read if source.offsets is not None]  # split plainly already
    read = [source for source in read if source.offsets is None]
    if not read:
        return {}
    found = remembered(
        "words",
        [source.content("train") for source in read],
        lambda: rules_of(count_votes(column_of(source.splits["train"], source.columns[0]) for source in read)),
    )
    rules, left_out = found["rules"], found["left_out"]
    if rules:
        logger.info(
            "Words of raw texts: split as the training words of %s, by %d rules%s.",
            ", ".join(source.name for source in read), sum(map(len, rules.values())),
            f" ({left_out:,} rules for rare words are left out)" if left_out else "",
        )  # fmt: skip
    if rules and strings:
        logger.warning(
            "The strings of %s are trained with the plain splitting, but the model splits strings by these rules;"
            " `f1_raw_text` is scored with the rules.", ", ".join(strings),
        )  # fmt: skip
    return rules


def count_votes(columns: Iterable[pa.ChunkedArray]) -> Votes:
    """Count words with signs and neighbours with a sign at their border, in columns of lists of words."""
    votes: collections.Counter[tuple[str, ...]] = collections.Counter()
    for column in columns:
        votes.update(_votes_of(column))
    return dict(votes)


def _votes_of(column: pa.ChunkedArray) -> Votes:
    _, lengths = flat(column)
    flattened = pc.fill_null(column.combine_chunks().flatten(), "")
    encoded = (flattened.combine_chunks() if isinstance(flattened, pa.ChunkedArray) else flattened).dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
    if not len(codes):
        return {}
    usable = np.array([bool(name) and not _BLANK.search(name) for name in names])
    letter_first = np.array([bool(_LETTER.match(name[:1])) for name in names])
    letter_last = np.array([bool(_LETTER.match(name[-1:])) for name in names])
    signs_only = np.array([bool(_SIGNS.fullmatch(name)) for name in names])
    clitic_after = np.array([bool(_CLITIC_AFTER.fullmatch(name.lower())) for name in names])
    clitic_before = np.array([bool(_CLITIC_BEFORE.fullmatch(name.lower())) for name in names])
    counts = np.bincount(codes, minlength=len(names)).tolist()
    votes: Votes = {
        (name,): count for name, count, able in zip(names, counts, usable, strict=True) if able and not name.isalnum()
    }
    rows = np.repeat(np.arange(len(lengths)), lengths)
    first, second = codes[:-1], codes[1:]
    near = (rows[:-1] == rows[1:]) & usable[first] & usable[second]
    before, after = signs_only[second] & ~signs_only[first], signs_only[first] & ~signs_only[second]
    both = clitic_after[second] & letter_last[first] | clitic_before[first] & letter_first[second]
    return votes | _distinct(names, (first, second), near & (before | after | both))


def _distinct(names: Sequence[str], codes: Sequence[np.ndarray], chosen: np.ndarray) -> Votes:
    """Count the distinct tuples of words among the chosen ones."""
    tuples = np.stack([column[chosen] for column in codes])
    found, counts = np.unique(tuples, axis=1, return_counts=True)
    return {
        tuple(names[code] for code in column): count
        for column, count in zip(found.T.tolist(), counts.tolist(), strict=True)
    }


def rules_of(votes: Votes) -> dict[str, Any]:
    """The rules that agree with most votes.

    Returns:
        `rules`: lists by the names in `modeling.words.RULES`, without empty ones; and `left_out`, how many rules for
        single words are not among them.
    """
    rules: dict[str, list[str]] = {}
    rules["signs"] = _sign_words(votes)
    rules |= _edges(votes)
    rules["clitics"] = _clitics(votes)
    rules["shapes"] = _outvoted(votes, rules, shape, _FEWEST)[:MOST_SHAPES]
    words = _outvoted(votes, rules, fold, _FEWEST)
    rules["words"] = words[:MOST_WORDS]
    return {"rules": {key: found for key, found in rules.items() if found}, "left_out": len(words[MOST_WORDS:])}


def _by_votes(counts: Mapping[str, int], fewest: int = 1) -> list[str]:
    """The keys with at least this count, the highest first."""
    return sorted((key for key, count in counts.items() if count >= fewest), key=lambda key: (-counts[key], key))


def _sign_words(votes: Votes) -> list[str]:
    counts = {
        words[0]: count for words, count in votes.items() if len(words) == 1 and re.fullmatch(r"[^\w\s]{2,}", words[0])
    }
    return _by_votes(counts, _FEWEST)[:MOST_SIGNS]


def _edges(votes: Votes) -> dict[str, list[str]]:
    """Which signs stay at the start or the end of a word, or between letters, by votes for and against it."""
    start, end, inside = (collections.Counter[str]() for _ in range(3))
    seen = {char for words in votes for word in words for char in word}
    for words, count in votes.items():
        if len(words) == 1:
            (word,) = words
            places = [place for place, char in enumerate(word) if _LETTER.match(char)]
            if not places:
                continue
            if places[0]:
                start[word[0]] += count
            if places[-1] < len(word) - 1:
                end[word[-1]] += count
            for sign in {char for char in word[places[0] : places[-1]] if not _LETTER.match(char)}:
                inside[sign] += count
        elif _SIGNS.fullmatch(words[1]):
            end[words[1][-1]] -= count
            inside[words[1][-1]] -= count
        elif _SIGNS.fullmatch(words[0]):
            start[words[0][0]] -= count
    return {
        "start": _by_votes(start, _FEWEST_SIGNS),
        "end": _by_votes(end, _FEWEST_SIGNS),
        "inside": [sign for sign in _by_votes(inside, _FEWEST_SIGNS) if sign not in JOINING],
        "unseen": [sign for sign in _MAY_BE_UNSEEN if sign not in seen],
    }


def _clitics(votes: Votes) -> list[str]:
    """Clitics that are words of their own more often than part of another word."""
    counts: collections.Counter[str] = collections.Counter()
    for words, count in votes.items():
        if len(words) == 2:
            first, second = (word.lower() for word in words)
            if _CLITIC_AFTER.fullmatch(second) and _LETTER.match(first[-1]):
                counts[second] += count
            if _CLITIC_BEFORE.fullmatch(first) and _LETTER.match(second[0]):
                counts[first] += count
    for words, count in votes.items():
        if len(words) == 1:
            word = words[0].lower()
            for length in range(2, min(len(word), 9)):
                if word[-length:] in counts and _LETTER.match(word[-length - 1]):
                    counts[word[-length:]] -= count
                if word[:length] in counts and _LETTER.match(word[length]):
                    counts[word[:length]] -= count
    return _by_votes(counts, _FEWEST)


def _outvoted(votes: Votes, rules: Mapping[str, Sequence[str]], name: Any, fewest: int) -> list[str]:
    """Rules by name for runs that most votes split otherwise than the rules so far, those with most votes first.

    Args:
        votes: The votes.
        rules: The rules so far.
        name: `fold` or `shape`: what the new rules name.
        fewest: How many more votes than the rules so far a new one needs.
    """
    split = WordSplitter(rules)
    ballots: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    agreeing: collections.Counter[str] = collections.Counter()
    whole: dict[str, set[str]] = collections.defaultdict(set)
    for words in votes:
        if len(words) == 1:
            whole[name(words[0])].add(fold(words[0]))
    whole = {key: found for key, found in whole.items() if name is fold or len(found) > 1}  # a shape is of many words
    for words, count in votes.items():
        run = "".join(words)
        key = name(run)
        parts = list(map(name, words))
        if "".join(parts) != key or key not in whole:
            continue
        ballots[key][" ".join(parts)] += count
        if split.cuts(run) == list(map(len, words)):
            agreeing[key] += count
    gains = {}
    for key, ballot in ballots.items():
        best = min(ballot, key=lambda rule: (-ballot[rule], rule))
        if (gain := ballot[best] - agreeing[key]) >= fewest:
            gains[best] = gain
    return _by_votes(gains)
