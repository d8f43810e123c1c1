"""Tag schemes of spans, with one tag per word: detect them, and convert them to BIO.

Notable: pure functions on lists of tags. Other files use only BIO, so that metrics, heads and saved models have one
scheme. Converted tags have the same entities that seqeval's default mode reads from the original tags.
"""

import collections
import functools
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_INNER, _LAST, _SINGLE = "IM", "EL", "SUW"  # letters besides B: inside a span, its last word, its only word
_LETTERS = "B" + _INNER + _LAST + _SINGLE
_FORMS = {  # how letter and type are combined to a tag
    "B-PER": r"(?P<letter>[{0}])-(?P<type>.+)",
    "B_PER": r"(?P<letter>[{0}])_(?P<type>.+)",
    "PER-B": r"(?P<type>.+)-(?P<letter>[{0}])",
    "PER_B": r"(?P<type>.+)_(?P<letter>[{0}])",
    "B": r"(?P<letter>[{0}])(?P<type>)",
}
_PATTERNS = {
    (form, lower): re.compile(pattern.format(_LETTERS.lower() if lower else _LETTERS), re.DOTALL)
    for lower in (False, True)
    for form, pattern in _FORMS.items()
}
Pairs = Mapping[tuple[str | None, str | None], int]  # (tag, next tag in the row) → count
BARE_TYPE = "entity"  # the type of spans whose tags have no type
# If at least this share of the tags other than O has a form, the others are mistakes. B-PER is almost always a tag of
# spans, but a few part-of-speech tags may look like one of the other forms.
_LEAST_SHARE = 0.2
_LEAST_SHARE_OF_OTHERS = 0.8


@dataclass(frozen=True)
class Scheme:
    """A tag scheme.

    Attributes:
        name: BIO, IOB1, IO, BIOES, BILOU or BMES.
        form: Form of a tag, as an example: B-PER, B_PER, PER-B, PER_B or B.
        lower: Whether the letters are in lower case.
        letters: The letters that it uses.
    """

    name: str
    form: str = "B-PER"
    lower: bool = False
    letters: str = "BI"

    @property
    def is_bio(self) -> bool:
        """Whether its tags need no conversion."""
        return self == BIO

    def split(self, tag: str) -> tuple[str, str] | None:
        """Split a tag into (letter, type), ("O", "") outside of spans; None if it does not fit the scheme."""
        return _split(self, tag)

    def __str__(self) -> str:
        form = self.form.replace("B", "b").replace("PER", "per") if self.lower else self.form
        return self.name if form == "B-PER" else f"{self.name} ({'without types' if form in 'Bb' else f'as {form}'})"


@functools.lru_cache(maxsize=10_000)  # a file has few different tags
def _split(scheme: Scheme, tag: str) -> tuple[str, str] | None:
    if tag == "O" or (scheme.lower and tag == "o"):
        return "O", ""
    found = _PATTERNS[scheme.form, scheme.lower].fullmatch(tag)
    if found is None or found["letter"].upper() not in scheme.letters:
        return None
    return found["letter"].upper(), found["type"]


BIO = Scheme("BIO")


def recognise(rows: Iterable[Sequence[str | None]], types: Collection[str] = ()) -> Scheme | None:
    """Detect the scheme of most tags in these rows; None if they are not tags of spans.

    A few tags may not fit the scheme (`Scheme.split` returns None for them): they are mistakes.

    Args:
        rows: Tags of each row, None for words without a tag.
        types: Types of a trained model. With them, a scheme is detected also in few rows, which may lack O or B.
    """
    pairs = (pair for row in rows for pair in itertools.pairwise([None, *row, None]))
    return recognise_pairs(collections.Counter(pairs), types)


def recognise_pairs(pairs: Pairs, types: Collection[str] = ()) -> Scheme | None:
    """`recognise` from counts of pairs of consecutive tags; None is a word without a tag, or the edge of a row."""
    counts: collections.Counter[str] = collections.Counter()
    for (_, tag), count in pairs.items():
        if tag is not None:
            counts[tag] += count
    candidates = [_candidate(counts, form, lower) for lower in (False, True) for form in _FORMS]
    share, form, lower, letters = max(candidates, key=lambda candidate: candidate[0])
    if share:
        scheme = _named(pairs, form, lower, letters)
        if (form, lower) == ("B-PER", False) or _holds_together(pairs, scheme):
            return scheme
    kinds = {kind.casefold() for kind in types}
    for form, lower in _PATTERNS if kinds else ():
        scheme = Scheme("", form, lower, _LETTERS)
        letters, found = collections.Counter(), set()
        for tag, count in counts.items():
            letter, kind = scheme.split(tag) or ("", tag)
            letters[letter] += count
            found |= set() if letter == "O" else {kind.casefold()}
        if found and not letters[""] and (len(kinds) == 1 if form == "B" else found <= kinds):
            return _named(pairs, form, lower, letters)
    return None


def _named(pairs: Pairs, form: str, lower: bool, letters: Mapping[str, int]) -> Scheme:
    """The scheme of tags in a form, by the counts of their letters."""
    present = "".join(letter for letter in _LETTERS if letters[letter])
    if letters["B"] and sum(letters[letter] for letter in present if letter not in "BI") < letters["B"] / 10:
        present = "BI"  # a scheme with end tags has one for each B, so a few of them are mistakes
    if set(present) <= {"B", "I"}:
        scheme = Scheme("BIO", form, lower)
        return Scheme(_inner_scheme(pairs, scheme), form, lower)
    name = "BILOU" if set(present) & {"L", "U"} else "BMES" if set(present) & {"M", "W"} else "BIOES"
    return Scheme(name, form, lower, present)


def _holds_together(pairs: Pairs, scheme: Scheme) -> bool:
    """Whether most inner and last tags continue a span and, in a scheme with end tags, most B tags are followed by one.

    Labels of words may look like tags of spans (`B`, `E` and `O` for two languages), but not in a consistent order.
    """
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    for pair, number in pairs.items():
        (letter, kind), (following, next_kind) = (_parts(tag, scheme) for tag in pair)
        goes_on = letter in "B" + _INNER and following in _INNER + _LAST and kind == next_kind
        counts["begins", goes_on] += number * (letter == "B")
        counts["inside", goes_on] += number * (following in _INNER + _LAST)
    checked = ["inside"] if scheme.letters == "BI" else ["inside", "begins"]
    return all(counts[what, True] >= counts[what, False] for what in checked)


def _parts(tag: str | None, scheme: Scheme) -> tuple[str, str]:
    """The letter and the type of a tag; those of O if there is no tag or it does not fit."""
    return (None if tag is None else scheme.split(tag)) or ("O", "")


def _candidate(counts: Mapping[str, int], form: str, lower: bool) -> tuple[float, str, bool, collections.Counter[str]]:
    """The share of the tags other than O that have a form (0 if it cannot be this form), and counts of its letters."""
    letters: collections.Counter[str] = collections.Counter()
    for tag, count in counts.items():
        if match := _PATTERNS[form, lower].fullmatch(tag):
            letters[match["letter"].upper()] += count
    outside = sum(counts.get(tag, 0) for tag in "Oo")
    share = letters.total() / max(1, sum(counts.values()) - outside)
    if form == "B-PER" and not lower:
        begins = letters["B"] or (letters["I"] and outside)
        fits = share >= (_LEAST_SHARE if begins else _LEAST_SHARE_OF_OTHERS) and bool(begins or outside)
    else:
        fits = share >= _LEAST_SHARE_OF_OTHERS and bool(letters["B"] and (outside or letters["E"] or letters["L"]))
    return (share if fits else 0.0), form, lower, letters


def _inner_scheme(pairs: Pairs, scheme: Scheme) -> str:
    """IO without B; IOB1 if B only separates neighbouring spans of one type and I begins all others; else BIO."""
    any_begin = stray = False
    for pair in pairs:
        (_, previous), (letter, kind) = (_parts(tag, scheme) for tag in pair)
        if letter == "B":
            any_begin = True
            if kind != previous or scheme.form == "B":  # bare tags all have the same type
                return "BIO"
        elif letter == "I" and kind != previous:
            stray = True
    return "IO" if not any_begin else "IOB1" if stray else "BIO"


def to_bio(
    tags: Sequence[str | None], scheme: Scheme, types: Mapping[str, str] | None = None
) -> tuple[list[str | None], list[int]]:
    """Convert the tags of one row to BIO.

    Args:
        tags: Tags that fit the scheme, None for words without a tag.
        scheme: Their scheme.
        types: Type → its name in the result (default: the same name; `entity` for tags without types).

    Returns:
        The tags, and the positions of those that should continue a span but do not: they begin one. In IO and IOB1
        such tags are regular.
    """
    converted: list[str | None] = []
    strays: list[int] = []
    open_type = None
    for position, tag in enumerate(tags):
        if tag is None or tag == "O":  # most tags, in every scheme
            converted.append(tag)
            open_type = None
            continue
        parts = scheme.split(tag)
        if parts is None:
            raise ValueError(f"the tag {tag!r} does not fit {scheme}.")
        letter, kind = parts
        if letter == "O":
            converted.append("O")
            open_type = None
            continue
        inner = letter in _INNER + _LAST
        begins = not inner or kind != open_type
        if begins and inner and scheme.name not in ("IO", "IOB1"):
            strays.append(position)
        name = kind or BARE_TYPE
        converted.append(f"{'B' if begins else 'I'}-{(types or {}).get(name, name)}")
        open_type = None if letter in _LAST + _SINGLE else kind
    return converted, strays


def bio_labels(labels: Iterable[str], scheme: Scheme) -> list[str]:
    """Convert a vocabulary of tags to BIO, with a B- for each I-; names that do not fit the scheme are not changed."""
    converted: list[str] = []
    for label in labels:
        parts = scheme.split(label)
        if parts is None or parts[0] == "O":
            converted.append(label if parts is None else "O")
            continue
        name = parts[1] or BARE_TYPE
        converted += [f"B-{name}", f"I-{name}"] if parts[0] in _INNER + _LAST else [f"B-{name}"]
    return list(dict.fromkeys(converted))


def is_span_tag(tag: str) -> bool:
    """Whether a tag has the form of a tag inside a span in some scheme: B-PER, PER_I, b-per, or B alone."""
    return any(pattern.fullmatch(tag) for pattern in _PATTERNS.values())
