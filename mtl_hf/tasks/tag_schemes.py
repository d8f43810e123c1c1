"""Tag schemes of spans, with one tag per word: detect them, and convert them to BIO and back.

Notable: pure functions on lists of tags. Other files use only BIO, so that metrics, heads and saved models have one
scheme. Converted tags have the same entities that seqeval's default mode reads from the original tags.
"""

import collections
import functools
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..modeling.tags import bio_spans

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
TYPES = "PER"  # the form of tags of IO that are types alone; detected only for the types of a trained model
_LETTERS_OF = {"IO": "I", "IOB1": "BI", "BIO": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
_WITH_ENDS = {"BIOES": "BIES", "BILOU": "BILU", "BMES": "BMESW"}
_NAMES = {name.lower(): name for name in _LETTERS_OF} | {"iob2": "BIO", "iobes": "BIOES"}  # as `scheme:` has them
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
        form: Form of a tag, as an example: B-PER, B_PER, PER-B, PER_B, B, or PER for types alone.
        lower: Whether the letters are in lower case.
        letters: The letters that it uses (default: those of its name).
        outside: The tag of words outside of spans.
    """

    name: str
    form: str = "B-PER"
    lower: bool = False
    letters: str = ""
    outside: str = "O"

    def __post_init__(self) -> None:
        object.__setattr__(self, "letters", self.letters or _LETTERS_OF[self.name])

    @property
    def is_bio(self) -> bool:
        """Whether its tags need no conversion."""
        return self == BIO

    def split(self, tag: str) -> tuple[str, str] | None:
        """Split a tag into (letter, type), ("O", "") outside of spans; None if it does not fit the scheme."""
        return _split(self, tag)

    def join(self, letter: str, kind: str) -> str:
        """The tag of a letter and a type: the inverse of `split`."""
        if self.form == TYPES:
            return kind if letter == "I" else f"{letter}-{kind}"
        letter = letter.lower() if self.lower else letter
        return {
            "B-PER": f"{letter}-{kind}", "B_PER": f"{letter}_{kind}",
            "PER-B": f"{kind}-{letter}", "PER_B": f"{kind}_{letter}", "B": letter,
        }[self.form]  # fmt: skip

    def ends(self, tag: str | None) -> bool:
        """Whether a tag is the last of a span, or the only one, in a scheme that has letters for these."""
        return _parts(tag, self)[0] in _LAST + _SINGLE

    def leaves_open(self, tag: str | None, following: str | None) -> bool:
        """Whether a span stops after a tag but has no end tag, in a scheme that has them."""
        (letter, kind), (next_letter, next_kind) = _parts(tag, self), _parts(following, self)
        goes_on = next_letter in _INNER + _LAST and kind == next_kind
        return bool(set(self.letters) & set(_LAST)) and letter in "B" + _INNER and not goes_on

    def __str__(self) -> str:
        form = self.form.replace("B", "b").replace("PER", "per") if self.lower else self.form
        shown = {"B": "without types", "b": "without types, lower case"}.get(form, f"as {form}")
        return self.name if form == "B-PER" else f"{self.name} ({shown})"


@functools.lru_cache(maxsize=10_000)  # a file has few different tags
def _split(scheme: Scheme, tag: str) -> tuple[str, str] | None:
    if tag == "O" or (scheme.lower and tag == "o"):
        return "O", ""
    if scheme.form == TYPES:
        return _split_type(scheme, tag)
    found = _PATTERNS[scheme.form, scheme.lower].fullmatch(tag)
    if found is None or found["letter"].upper() not in scheme.letters:
        return None
    return found["letter"].upper(), found["type"]


def _split_type(scheme: Scheme, tag: str) -> tuple[str, str] | None:
    """Split a tag that is a type alone: it has letters, and is neither O nor the tag of another scheme."""
    named = any(map(str.isalpha, tag)) and tag != "o" and not tag.startswith(("B-", "I-"))
    return ("I", tag) if named else None


BIO = Scheme("BIO")


@dataclass(frozen=True)
class WrittenTags:
    """How a source writes the tags of a task.

    Attributes:
        scheme: Their scheme.
        types: Type as written → its name in BIO, for those that differ.
    """

    scheme: Scheme
    types: Mapping[str, str] = field(default_factory=dict)

    def rename(self, tags: Sequence[str | None]) -> list[str | None]:
        """Tags of BIO with the types that the source writes."""
        types = {name: written for written, name in self.types.items()}
        return [tag if tag in (None, "O") else tag[:2] + types.get(tag[2:], tag[2:]) for tag in tags]


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
    counts = _tag_counts(pairs)
    candidates = [_candidate(counts, form, lower) for lower in (False, True) for form in _FORMS]
    share, form, lower, letters = max(candidates, key=lambda candidate: candidate[0])
    if share:
        scheme = _named(pairs, form, lower, letters)
        if (form, lower) == ("B-PER", False) or _holds_together(pairs, scheme):
            return scheme
    kinds = {kind.casefold() for kind in types}
    for form, lower in [*_PATTERNS, (TYPES, False), (TYPES, True)] if kinds else ():
        scheme = Scheme("", form, lower, _LETTERS)
        letters, found = collections.Counter(), set()
        for tag, count in counts.items():
            letter, kind = scheme.split(tag) or ("", tag)
            letters[letter] += count
            found |= set() if letter == "O" else {kind.casefold()}
        if found and not letters[""] and (len(kinds) == 1 if form == "B" else found <= kinds):
            return _named(pairs, form, lower, letters)
    return None


def named_scheme(name: str, pairs: Pairs) -> Scheme:
    """The scheme of a name of `scheme:`, in the form that most tags have; tags may not fit it.

    Args:
        name: io, iob1, bio, bioes, bilou, bmes, or another spelling of one of them.
        pairs: See `recognise_pairs`.
    """
    counts, title = _tag_counts(pairs), _NAMES[name]

    def num_fitting(way: tuple[str, bool], letters: str) -> int:
        scheme = Scheme(title, *way, letters)
        return sum(count for tag, count in counts.items() if (scheme.split(tag) or ("O", ""))[0] != "O")

    form, lower = max(_PATTERNS, key=lambda way: (num_fitting(way, ""), num_fitting(way, _LETTERS)))
    if title == "IO" and num_fitting((form, lower), _LETTERS) < (counts.total() - counts["O"] - counts["o"]) / 2:
        form, lower = TYPES, counts["o"] > counts["O"]
    return Scheme(title, form, lower, outside=_outside(counts, lower))


def _tag_counts(pairs: Pairs) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    for (_, tag), count in pairs.items():
        if tag is not None:
            counts[tag] += count
    return counts


def _outside(counts: collections.Counter[str], lower: bool) -> str:
    """How words outside of spans are tagged."""
    return "o" if lower and counts["o"] > counts["O"] else "O"


def _named(pairs: Pairs, form: str, lower: bool, letters: Mapping[str, int]) -> Scheme:
    """The scheme of tags in a form, by the counts of their letters."""
    outside = _outside(_tag_counts(pairs), lower)
    ends = "".join(letter for letter in _LETTERS if letters[letter] and letter not in "BI")
    if letters["B"] and sum(letters[letter] for letter in ends) < letters["B"] / 10:
        ends = ""  # a scheme with end tags has one for each B, so a few of them are mistakes
    if not ends or form == TYPES:
        scheme = Scheme("BIO", form, lower)
        return Scheme(_inner_scheme(pairs, scheme) if form != TYPES else "IO", form, lower, outside=outside)
    fitting = {name: sum(map(letters.__getitem__, held)) for name, held in _WITH_ENDS.items()}
    name = max(fitting, key=fitting.__getitem__)
    own = _LETTERS_OF[name]
    for letter, role in zip(own[1:], (_INNER, _LAST, _SINGLE), strict=True):  # such as W in BMEW
        others = [other for other in role if letters[other] and not letters[letter]]
        own = own.replace(letter, others[0]) if others else own
    return Scheme(name, form, lower, own, outside)


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
    checked = ["inside"] if not set(scheme.letters) & set(_LAST + _SINGLE) else ["inside", "begins"]
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


def from_bio(tags: Sequence[str | None], scheme: Scheme) -> list[str | None]:
    """Convert the BIO tags of one row to a scheme: the inverse of `to_bio`.

    IO cannot separate neighbouring spans of one type, which become one span; all other schemes can. If tags have no
    types (form B), the types are lost.

    Args:
        tags: Tags of BIO, None for words without a tag. An I- that continues no span begins one.
        scheme: The scheme.
    """
    inner, last, single = (
        next((letter for letter in scheme.letters if letter in role), "") for role in (_INNER, _LAST, _SINGLE)
    )
    converted: list[str | None] = [None if tag is None else scheme.outside for tag in tags]
    before = None  # type and end of the span before
    for name, begin, end in bio_spans(tags):
        kind = "" if scheme.form == "B" else name
        neighbours = before == (kind, begin)
        first = "I" if scheme.name == "IO" or (scheme.name == "IOB1" and not neighbours) else "B"
        letters = [first, *[inner] * (end - begin - 2), last or inner] if end - begin > 1 else [single or first]
        converted[begin:end] = [scheme.join(letter, kind) for letter in letters]
        before = kind, end
    return converted


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


@functools.cache
def _readable() -> dict[str, Scheme]:
    """Description of each scheme → the scheme with all letters."""
    ways = [(form, lower) for form in _FORMS for lower in (False, True)]
    schemes = [Scheme(name, form, lower, _LETTERS) for name in _LETTERS_OF for form, lower in ways]
    return {str(scheme): scheme for scheme in [*schemes, Scheme("IO", TYPES), Scheme("IO", TYPES, lower=True)]}


def parse_scheme(text: str) -> Scheme:
    """The scheme that `str` describes, to read tags that `from_bio` returned."""
    return _readable()[text]
