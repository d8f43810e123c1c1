"""Tags of spans with types of any alphabet: words → spans → words is the identity in every scheme."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mtl_hf.modeling.tags import bio_spans
from mtl_hf.tasks.tag_schemes import Scheme, WrittenTags, from_bio, to_bio
from mtl_hf.tasks.written_tags import read_line, tag_lines
from tests.fuzz.conftest import inputs, try_all

NAMES = ("IO", "IOB1", "BIO", "BIOES", "BILOU", "BMES")
FORMS = ("B-PER", "B_PER", "PER-B", "PER_B", "B")
Spans = list[tuple[str, int, int]]


@st.composite
def schemes(draw: DrawFn) -> Scheme:
    name, lower = draw(st.sampled_from(NAMES)), draw(st.booleans())
    form = draw(st.sampled_from([*FORMS, "PER"] if name == "IO" else FORMS))
    return Scheme(name, form, lower, outside=draw(st.sampled_from("oO")) if lower else "O")


def is_type(kind: str, scheme: Scheme) -> bool:
    """Whether a text can be a type: any text can, but where tags are types alone."""
    alone = any(map(str.isalpha, kind)) and kind not in ("o", "O") and kind[:2] not in ("B-", "I-")
    return kind == kind.strip() and (alone or scheme.form != "PER")


@st.composite
def rows(draw: DrawFn, scheme: Scheme) -> tuple[int, Spans, list[int]]:
    """Number of words, spans of them, and words without a tag."""
    types = st.text(min_size=1, max_size=4).filter(lambda kind: is_type(kind, scheme))
    kinds = ["entity"] if scheme.form == "B" else draw(st.lists(types, min_size=1, max_size=3))
    spans: Spans = []
    position = 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=5)):
        begin = position + gap
        spans.append((draw(st.sampled_from(kinds)), begin, begin + length))
        position = begin + length
    number = position + draw(st.integers(0, 2))
    outside = sorted(set(range(number)) - {word for _, begin, end in spans for word in range(begin, end)})
    return number, spans, draw(st.lists(st.sampled_from(outside), unique=True)) if outside else []


def written(scheme: Scheme, number: int, spans: Spans, absent: list[int]) -> list[str | None]:
    """The tags of spans, letter by letter as the definition of the scheme has it."""
    first, inner, last, only = {"BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}.get(scheme.name, "BIIB")
    tags: list[str | None] = [None if word in absent else scheme.outside for word in range(number)]
    ends = {(kind, end) for kind, _, end in spans}
    for kind, begin, end in spans:
        for word in range(begin, end):
            letter = only if end - begin == 1 else first if word == begin else last if word == end - 1 else inner
            if scheme.name == "IO" or (scheme.name == "IOB1" and not (word == begin and (kind, begin) in ends)):
                letter = "I"
            letter = letter.lower() if scheme.lower else letter
            tags[word] = {"B-PER": f"{letter}-{kind}", "B_PER": f"{letter}_{kind}", "PER-B": f"{kind}-{letter}",
                          "PER_B": f"{kind}_{letter}", "B": letter, "PER": kind}[scheme.form]  # fmt: skip
    return tags


def joined(spans: Spans) -> Spans:
    """Spans without borders between neighbours of one type."""
    found: Spans = []
    for kind, begin, end in spans:
        touches = bool(found) and (found[-1][0], found[-1][2]) == (kind, begin)
        found[-1:] = [(kind, found[-1][1], end)] if touches else [*found[-1:], (kind, begin, end)]
    return found


@inputs(quick=99, slow=5000)
def test_words_to_spans_to_words_is_the_identity(number: int) -> None:
    def check(drawn: tuple[Scheme, tuple[int, Spans, list[int]]]) -> None:
        scheme, (length, spans, absent) = drawn
        tags = written(scheme, length, spans, absent)
        converted, strays = to_bio(tags, scheme)
        expected = joined(spans) if scheme.name == "IO" else spans
        assert bio_spans(converted) == expected
        assert not strays
        assert from_bio(converted, scheme) == tags
        assert not any(scheme.leaves_open(*pair) for pair in pairwise([*tags, None]))

    try_all(number, with_rows(), check)


@inputs(quick=99, slow=5000)
def test_spans_to_words_to_spans_is_the_identity_where_neighbours_can_be_separated(number: int) -> None:
    def check(drawn: tuple[Scheme, tuple[int, Spans, list[int]]]) -> None:
        scheme, (length, spans, absent) = drawn
        bio = written(Scheme("BIO"), length, spans, absent)
        assert from_bio(bio, scheme) == written(scheme, length, spans, absent)
        if scheme.name != "IO":
            assert to_bio(from_bio(bio, scheme), scheme)[0] == bio

    try_all(number, with_rows(), check)


@inputs(quick=99, slow=5000)
def test_any_tags_are_read_again_from_a_line_of_predictions(number: int) -> None:
    def check(drawn: tuple[Scheme, list[str | None]]) -> None:
        scheme, tags = drawn
        (line,) = json.loads(json.dumps(tag_lines(WrittenTags(scheme), [tags], [tags])))
        assert read_line(line) == (tags, tags)
        spans = bio_spans(tags)
        exact = tags == written(
            Scheme("BIO"), len(tags), spans, [place for place, tag in enumerate(tags) if tag is None]
        )
        if exact and scheme.name != "IO" and scheme.form != "B":
            assert "bio" not in line

    types = st.text(min_size=1, max_size=3)
    tag = st.none() | st.just("O") | st.builds(str.__add__, st.sampled_from(["B-", "I-"]), types | st.just("x"))
    try_all(number, st.tuples(schemes(), st.lists(tag, max_size=8)), check)


def with_rows() -> Any:
    return schemes().flatmap(lambda scheme: st.tuples(st.just(scheme), rows(scheme)))
