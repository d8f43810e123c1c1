"""The words of a raw text, as character spans.

Notable: without rules, words are the matches of one regular expression (`split_words`). A model trained on lists of
words has rules learned from them (`word_rules` in its config.json, `data/words.py`), because data sets split
differently: `st.` is one word or two, and `John's` as well. A run of characters without blanks is looked up as a whole,
then by its shape; otherwise signs and clitics are split from its ends one by one. No character is lost or moved.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Span = tuple[int, int]

# Lists of the rules of a model, each a list of strings. A string with spaces shows where a run of characters is split.
# Numbers are written as 0, those of more than two digits as 9.
RULES = {
    "words": "words in lower case: `st.` is one word, `i .` two",
    "shapes": "words with letters as a (two or more) or x (one): `9-0-0` is one word, `0 %` two",
    "clitics": "short words that are split from the word before or after: `'s`, `l'`",
    "signs": "words of several signs: `...`",
    "start": "signs that begin a word, and are not split from it",
    "end": "signs that end a word",
    "inside": "signs between letters that join them, besides those in JOINING",
    "unseen": "signs of no training word: they end a word, except at the end of the text",
}
MOST_RULES = 20_000  # in all lists; the learned ones are far fewer

JOINING = "-'’.,:/@_&"
# Runs of letters and digits, joined by inner apostrophes, hyphens, dots and the like; any other sign is its own word.
_WORD = re.compile(rf"\w+(?:[{JOINING}]\w+)*|[^\w\s]")
_RUN = re.compile(r"\S+")
_NUMBER = re.compile(r"\d+")
_UNIT = re.compile(r"\d+|[^\W\d]+|.", re.DOTALL)
_LETTER = re.compile(r"\w")
_MOST_KNOWN = 50_000  # runs whose cuts a splitter stores
_LONGEST = 200  # characters of a run that is split by rules; longer ones are hardly words


def split_words(text: str) -> list[Span]:
    """Character spans (start, end) of the words of a raw text; punctuation marks are words of their own."""
    return [match.span() for match in _WORD.finditer(text)]


def words_of(text: str | list[str], split: Callable[[str], list[Span]] = split_words) -> tuple[str, list[Span]]:
    """A text (string or list of words) as a string, and the character span of each word.

    Args:
        text: The text.
        split: Splits a string: the result of `splitter`.
    """
    if isinstance(text, str):
        return text, split(text)
    spans, position = [], 0
    for word in text:
        spans.append((position, position + len(word)))
        position += len(word) + 1
    return " ".join(text), spans


def splitter(rules: Mapping[str, Any] | None) -> Callable[[str], list[Span]]:
    """The function that splits raw texts of a model: text → spans of words, in order, with every non-blank character.

    Args:
        rules: `word_rules` of its configuration; None for `split_words`.
    """
    return _splitter(json.dumps(rules, sort_keys=True)) if rules else split_words


@functools.lru_cache(maxsize=8)
def _splitter(rules: str) -> Callable[[str], list[Span]]:
    return WordSplitter(json.loads(rules))


def check_rules(rules: Any) -> None:
    """Check the word rules of a configuration.

    Raises:
        ValueError: They are not lists of strings by the names in `RULES`, or too many.
    """
    if not isinstance(rules, dict) or rules.keys() - RULES.keys():
        raise ValueError(f"`word_rules` is {rules!r:.60}; it should be a mapping with {', '.join(RULES)}.")
    for key, found in rules.items():
        if not isinstance(found, list) or not all(isinstance(rule, str) and rule.strip() for rule in found):
            raise ValueError(f"`word_rules.{key}` is {found!r:.60}; it should be a list of strings.")
    if sum(map(len, rules.values())) > MOST_RULES:
        raise ValueError(f"`word_rules` has more than {MOST_RULES:,} rules.")


def fold(text: str) -> str:
    """A word as the rules `words` write it: in lower case, with numbers as in `shape`."""
    lower = text.lower()
    return _NUMBER.sub(lambda number: _class_of(number.group()), lower if len(lower) == len(text) else text)


def shape(text: str) -> str:
    """A word as the rules `shapes` write it.

    Letters are `a` (two or more) or `x` (one), numbers 0 (at most two digits) or 9, and signs unchanged.
    """
    return "".join(map(_class_of, _UNIT.findall(text)))


def _class_of(unit: str) -> str:
    if not _LETTER.match(unit):
        return unit
    if _NUMBER.match(unit):
        return "0" if len(unit) <= 2 else "9"
    return "a" if len(unit) > 1 else "x"


class WordSplitter:
    """Splits texts by rules.

    Args:
        rules: Lists by the names in `RULES`; those that are absent are empty.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]]) -> None:
        self._words, self._shapes = _cuts(rules.get("words", ())), _cuts(rules.get("shapes", ()))
        clitics = sorted(rules.get("clitics", ()), key=lambda clitic: (-len(clitic), clitic))
        self._clitics = frozenset(clitics)
        self._before = tuple(clitic for clitic in clitics if not _LETTER.match(clitic[-1]))
        self._after = tuple(clitic for clitic in clitics if _LETTER.match(clitic[-1]))
        self._signs = sorted(rules.get("signs", ()), key=lambda sign: (-len(sign), sign))
        self._unseen = frozenset(rules.get("unseen", ()))
        self._start, self._end = frozenset(rules.get("start", ())), frozenset(rules.get("end", ())) | self._unseen
        self._inside = frozenset(rules.get("inside", ()))
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[Span]:
        """Character spans (start, end) of the words."""
        spans: list[Span] = []
        last = len(text.rstrip())
        for match in _RUN.finditer(text):
            run, (begin, end) = match.group(), match.span()
            if run.isalnum():
                spans.append((begin, end))
                continue
            ends = end == last and run[-1] in self._unseen and len(run) > 1
            for cut in [*self.cuts(run[:-1]), 1] if ends else self.cuts(run):
                spans.append((begin, begin + cut))
                begin += cut
        return spans

    def cuts(self, run: str) -> list[int]:
        """The lengths of the words of a run of characters without blanks."""
        found = self._known.get(run)
        if found is None:
            found = self._split(run) if len(run) <= _LONGEST else [end - begin for begin, end in split_words(run)]
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[run] = found
        return found

    def _split(self, run: str) -> list[int]:
        left: list[int] = []
        right: list[int] = []  # from the right
        while run:
            whole = self._look_up(run)
            if whole is not None:
                return left + whole + right[::-1]
            if first := self._first(run):  # first, because a sign at the end may belong to the word: `(U.S.`
                left.append(first)
                run = run[first:]
            elif last := self._last(run):
                right.append(last)
                run = run[: len(run) - last]
            else:
                return left + self._inner(run) + right[::-1]
        return left + right[::-1]

    def _look_up(self, run: str) -> list[int] | None:
        """The lengths of the words of a run that is a rule, or whose shape is one."""
        parts = self._words.get(fold(run))
        if parts is not None:
            return _lengths([len(unit) for unit in re.findall(r"\d+|.", run, re.DOTALL)], parts)
        if run.lower() in self._clitics:
            return [len(run)]
        # A run that is cut by a clitic can have the shape of a word.
        parts = None if self._clitic(run) else self._shapes.get(shape(run))
        return None if parts is None else _lengths([len(unit) for unit in _UNIT.findall(run)], parts)

    def _clitic(self, run: str) -> int:
        """The length of a clitic at the end of a run, negative at its start; 0 if there is none."""
        lower = run.lower()
        for clitic in self._after:
            if len(run) > len(clitic) and lower.endswith(clitic) and _LETTER.match(run[-len(clitic) - 1]):
                return len(clitic)
        for clitic in self._before:
            if len(run) > len(clitic) and lower.startswith(clitic) and _LETTER.match(run[len(clitic)]):
                return -len(clitic)
        return 0

    def _last(self, run: str) -> int:
        """The length of the sign or clitic to split from the end of a run; 0 for none."""
        if _LETTER.match(run[-1]):
            return max(self._clitic(run), 0)
        if run[-1] in self._end and _LETTER.search(run):
            return 0
        return next((len(sign) for sign in self._signs if run.endswith(sign)), 1)

    def _first(self, run: str) -> int:
        """The length of the sign or clitic to split from the start of a run; 0 for none."""
        if _LETTER.match(run[0]):
            return max(-self._clitic(run), 0)
        if run[0] in self._start and _LETTER.search(run):
            return 0
        return next((len(sign) for sign in self._signs if run.startswith(sign)), 1)

    def _inner(self, run: str) -> list[int]:
        """The lengths of the words of a run from whose ends nothing is split."""
        begin, end = 0, len(run)
        while begin < end and not _LETTER.match(run[begin]):
            begin += 1
        while end > begin and not _LETTER.match(run[end - 1]):
            end -= 1
        like_letter = [bool(_LETTER.match(char)) or char in self._inside for char in run]
        lengths: list[int] = []
        joined = False  # whether the next character continues the last word
        for place, char in enumerate(run):
            glued = (
                place < begin
                or place >= end
                or like_letter[place]
                or (char in JOINING and like_letter[place - 1] and like_letter[place + 1])
            )
            if glued and joined:
                lengths[-1] += 1
            else:
                lengths.append(1)
            joined = glued
        return lengths


def _cuts(rules: Iterable[str]) -> dict[str, list[int]]:
    """Run of characters → the number of its characters in each word."""
    return {"".join(parts): list(map(len, parts)) for parts in map(str.split, rules)}


def _lengths(units: Sequence[int], parts: Sequence[int]) -> list[int]:
    """The lengths of words with these numbers of units, from the lengths of the units."""
    remaining = iter(units)
    return [sum(next(remaining) for _ in range(number)) for number in parts]
