"""Tests of `mtl_hf.tasks.tag_schemes`: each scheme against entities that are written in it, and against seqeval."""

import itertools
import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from mtl_hf.modeling.tags import bio_spans
from mtl_hf.tasks.tag_schemes import BIO, Scheme, bio_labels, recognise, to_bio

Spans = list[tuple[str, int, int]]


def random_spans(draw: random.Random, length: int) -> Spans:
    """Spans without overlap, which may be neighbours."""
    spans, position = [], 0
    while position < length:
        if draw.random() < 0.5:
            end = min(length, position + draw.randint(1, 4))
            spans.append((draw.choice(["PER", "LOC", "a-b_c"]), position, end))
            position = end
        else:
            position += 1
    return spans


def write(spans: Spans, length: int, name: str, form: str, lower: bool) -> list[str]:
    """The tags of spans in a scheme, letter by letter as its definition has it."""
    letters = {"BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}.get(name, "BIIB")  # first, inner, last, only word
    tags = ["O"] * length
    ends = {(kind, end) for kind, _, end in spans}
    for kind, begin, end in spans:
        for word in range(begin, end):
            if end - begin == 1:
                letter = letters[3]
            else:
                letter = letters[0] if word == begin else letters[2] if word == end - 1 else letters[1]
            if name == "IO" or (name == "IOB1" and not (word == begin and (kind, begin) in ends)):
                letter = "I"
            joined = {"B-PER": f"{letter}-{kind}", "B_PER": f"{letter}_{kind}", "PER-B": f"{kind}-{letter}",
                      "PER_B": f"{kind}_{letter}", "B": letter}[form]  # fmt: skip
            tags[word] = joined
    return [tag.lower() for tag in tags] if lower else tags


def expected(spans: Spans, name: str, form: str, lower: bool) -> Spans:
    """The spans that can be read again: IO joins neighbours, lower case changes types, bare tags have one."""
    found: Spans = []
    for kind, begin, end in spans:
        kind = "entity" if form == "B" else kind.lower() if lower else kind
        if name == "IO" and found and found[-1][0] == kind and found[-1][2] == begin:
            found[-1] = (kind, found[-1][1], end)
        else:
            found.append((kind, begin, end))
    return found


@pytest.mark.parametrize(
    ("name", "form", "lower"),
    [
        ("IOB1", "B-PER", False),  # these two are read with the type after the letter only
        ("IO", "B-PER", False),
        *itertools.product(("BIO", "BIOES", "BILOU", "BMES"), ("B-PER", "B_PER", "PER-B", "PER_B", "B"), (False, True)),
    ],
)
def test_random_spans_are_recognised_and_read_again_in_every_scheme(name: str, form: str, lower: bool) -> None:
    draw = random.Random(1)
    lengths = [draw.randint(1, 12) for _ in range(80)]
    spans = [random_spans(draw, length) for length in lengths]
    rows = [write(own, length, name, form, lower) for own, length in zip(spans, lengths, strict=True)]
    scheme = recognise(rows)
    assert scheme is not None
    assert (scheme.name, scheme.form, scheme.lower) == (name, form, lower)
    for row, own in zip(rows, spans, strict=True):
        tags, strays = to_bio(row, scheme)
        assert bio_spans([tag or "O" for tag in tags]) == expected(own, name, form, lower)
        assert not strays


@pytest.mark.parametrize("scheme", [BIO, Scheme("IOB1"), Scheme("IO"), Scheme("BIOES", letters="BIES")], ids=str)
def test_tags_in_any_order_hold_the_entities_that_seqeval_reads(scheme: Scheme) -> None:
    draw = random.Random(2)
    tags = ["O", *(f"{letter}-{kind}" for letter in scheme.letters for kind in ("x", "y"))]
    for _ in range(2000):
        row = draw.choices(tags, k=draw.randint(1, 9))
        converted, _ = to_bio(row, scheme)
        assert bio_spans([tag or "O" for tag in converted]) == [(k, b, e + 1) for k, b, e in get_entities(row)]


def test_tags_that_continue_nothing_are_counted_where_the_scheme_has_begins() -> None:
    bioes = Scheme("BIOES", letters="BIES")
    assert to_bio(["O", "E-x", "I-x", None, "I-x", "S-x"], bioes) == (
        ["O", "B-x", "B-x", None, "B-x", "B-x"], [1, 2, 4]
    )  # fmt: skip
    assert to_bio(["I-x", "I-y"], BIO) == (["B-x", "B-y"], [0, 1])
    assert to_bio(["I-x", "I-y"], Scheme("IO")) == (["B-x", "B-y"], [])


@pytest.mark.parametrize(
    "tags",
    [
        "NN|SYM NN . , -X- NNP VBZ '' ( \"",  # as conll2003's parts of speech
        "PER O O LOC O",  # could be either
        "NOUN-S VERB-S O N-B NOUN-P",  # one in five looks like a tag of spans
        "N O V S A I L",  # single letters, some of them those of spans
        "0 1 2",
        "O O O",
        "I O I",
        "B I",
        "B B O E E O E B O",  # two languages
        "O N_B N_S V_S V_B N_E",
        "O B_B I_I B_B",
        "",
    ],
)
def test_other_tags_are_of_no_scheme(tags: str) -> None:
    assert recognise([tags.split()] * 20) is None


def test_words_of_a_text_without_spaces_are_spans_though_none_is_outside() -> None:
    scheme = recognise([["B", "E", "S"], ["S", "B", "M", "M", "E"]] * 20)
    assert scheme == Scheme("BMES", "B", letters="BMES")
    assert to_bio(["B", "E", "S"], scheme)[0] == ["B-entity", "I-entity", "B-entity"]


@pytest.mark.parametrize(
    ("tags", "form", "spans"),
    [
        ("O PER-S O", "PER-B", [("PER", 1, 2)]),
        ("PER-B PER-I", "PER-B", [("PER", 0, 2)]),
        ("b_per i_per", "B_PER", [("per", 0, 2)]),
        ("PER_B LOC_B LOC_I", "PER_B", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("U-PER L-LOC", "B-PER", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("I-PER I-PER", "B-PER", [("PER", 0, 2)]),
    ],
)
def test_types_of_a_model_tell_the_scheme_of_few_rows(tags: str, form: str, spans: Spans) -> None:
    row = tags.split()
    assert recognise([row]) is None
    assert recognise([row], ["ORG", "DATE"]) is None
    assert recognise([[*row, "X-PER"]], ["PER", "LOC"]) is None
    scheme = recognise([row], ["PER", "LOC"])
    assert scheme is not None
    assert scheme.form == form
    assert bio_spans(to_bio(row, scheme)[0]) == spans


def test_bare_tags_of_few_rows_are_those_of_a_model_with_one_type() -> None:
    assert recognise([["O", "S"], ["O"]], ["entity"]) == Scheme("BIOES", "B")
    assert recognise([["O", "S"], ["O"]], ["PER", "LOC"]) is None
    assert recognise([["O", "O"]], ["entity"]) is None


@pytest.mark.parametrize("bad", ["-", "", "0", "o", "B-", "b-PER", "PER", "B PER", "E-PER", "B-PER "])
def test_a_few_mistakes_do_not_hide_the_scheme_and_do_not_fit_it(bad: str) -> None:
    scheme = recognise([["B-PER", "I-PER", "O"], ["O", "B-LOC"]] * 20 + [["O", bad]])
    assert scheme == BIO
    assert (scheme.split(bad) is None) is (bad != "B-PER ")  # spaces are removed before


def test_zeros_for_all_o_are_mistakes() -> None:
    scheme = recognise([["B-PER", "I-PER", "0", "0", "0", "0"]] * 20)
    assert scheme == BIO
    assert scheme.split("0") is None


def test_labels_of_a_scheme_become_those_of_bio() -> None:
    bioes = Scheme("BIOES", letters="BIES")
    assert bio_labels(["S-a", "O", "B-b", "I-b", "E-b", "other"], bioes) == ["B-a", "O", "B-b", "I-b", "other"]
    assert bio_labels(["O", "I-a"], Scheme("IO")) == ["O", "B-a", "I-a"]
    assert bio_labels(["o", "b", "i"], Scheme("BIO", "B", lower=True)) == ["O", "B-entity", "I-entity"]


def test_schemes_are_named_with_how_their_tags_are_put_together() -> None:
    assert [str(scheme) for scheme in (BIO, Scheme("BIOES", "PER-B"), Scheme("BIO", "B_PER", lower=True))] == [
        "BIO", "BIOES (as PER-B)", "BIO (as b_per)"
    ]  # fmt: skip
    assert str(Scheme("BIO", "B")) == "BIO (without types)"
