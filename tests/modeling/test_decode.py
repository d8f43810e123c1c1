"""Tests of what heads decode and answer: probabilities by hand, spans as seqeval reads them, answers of each type."""

import math
import random
from typing import Any

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities

from mtl_hf.modeling.decoding import softmax
from mtl_hf.modeling.head import EncoderShape
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.tags import NO_TOKEN, bio_spans, is_span_scheme

BIO = ["O", "B-city", "I-city", "B-when", "I-when"]


def answer(spec: dict, logits: np.ndarray, text: str = "", words: Any = (), top_k: int | None = 1) -> Any:
    """What a head of this specification answers for one row; a word whose logits are NaN has no token."""
    head = build_head(spec, EncoderShape(hidden_size=4))
    columns = {}
    if spec["type"] == "token_classification":
        lost = np.isnan(logits).any(-1)
        columns["word_starts"] = [[NO_TOKEN if gone else place for place, gone in enumerate(lost)]]
    (prediction,) = head.decode(logits[None], columns)
    return head.answer(prediction, text, words, top_k)


def one_hot(labels: list[str], tags: list[str | None], size: float = 4.0) -> np.ndarray:
    """Logits that choose `tags`; NaN rows for words without a token (None)."""
    logits = np.zeros((len(tags), len(labels)), dtype=np.float32)
    for row, tag in zip(logits, tags, strict=True):
        if tag is None:
            row[:] = np.nan
        else:
            row[labels.index(tag)] = size
    return logits


def test_softmax_is_the_exponential_over_its_sum() -> None:
    logits = np.array([[0.5, -2.0, 3.0], [700.0, 700.0, -700.0]], dtype=np.float32)
    total = sum(math.exp(value) for value in (0.5, -2.0, 3.0))
    assert softmax(logits)[0] == pytest.approx([math.exp(value) / total for value in (0.5, -2.0, 3.0)], rel=1e-12)
    assert softmax(logits)[1] == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-a"], [("a", 0, 1)]),
        (["B-a", "I-a", "O"], [("a", 0, 2)]),
        (["B-a", "B-a"], [("a", 0, 1), ("a", 1, 2)]),
        (["I-a", "I-a", "O", "I-a"], [("a", 0, 2), ("a", 3, 4)]),
        (["B-a", "I-b", "I-b"], [("a", 0, 1), ("b", 1, 3)]),
        (["O", "B-a-b", "I-a-b"], [("a-b", 1, 3)]),
        (["NOUN", "B-a", "NOUN", "I-a"], [("a", 1, 2), ("a", 3, 4)]),
    ],
)
def test_spans_of_tags(tags: list[str], spans: list) -> None:
    assert bio_spans(tags) == spans


def test_spans_are_those_that_seqeval_counts() -> None:
    generator = random.Random(0)
    num_spans = 0
    for _ in range(500):
        tags = [generator.choice(BIO) for _ in range(generator.randrange(13))]
        theirs = [(kind, begin, last + 1) for kind, begin, last in get_entities(tags)]
        assert bio_spans(tags) == theirs
        num_spans += len(theirs)
    assert num_spans > 500


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (BIO, True),
        (["O", "I-city"], True),
        (["B-city", "I-city"], False),
        (["O", "NOUN"], False),
        (["O", "B-"], False),
        (["O", "S-city"], False),
    ],
)
def test_span_scheme_is_o_with_typed_b_and_i(labels: list[str], expected: bool) -> None:
    assert is_span_scheme(labels) is expected


def test_classification_answers_the_best_label_with_its_probability() -> None:
    spec = {"type": "sequence_classification", "labels": ["no", "yes", "maybe"]}
    found = answer(spec, np.array([0.0, 2.0, 1.0], dtype=np.float32))
    assert found == {"label": "yes", "score": pytest.approx(math.exp(2) / (1 + math.exp(2) + math.exp(1)), rel=1e-12)}


def test_multi_label_answers_every_label_of_at_least_one_half() -> None:
    spec = {"type": "multi_label_classification", "labels": ["a", "b", "c", "d"]}
    found = answer(spec, np.array([0.0, -1e-3, 1.5, -1e5], dtype=np.float32))
    assert found == [{"label": "a", "score": 0.5}, {"label": "c", "score": pytest.approx(1 / (1 + math.exp(-1.5)))}]
    assert answer(spec, np.full(4, -1e5, dtype=np.float32)) == []


@pytest.mark.parametrize(("top_k", "expected"), [(2, ["c", "a"]), (None, ["c", "a", "b"]), (9, ["c", "a", "b"])])
@pytest.mark.parametrize("kind", ["sequence_classification", "multi_label_classification"])
def test_more_labels_come_as_a_list_the_best_first(kind: str, top_k: int | None, expected: list[str]) -> None:
    logits = [-1.0, -3.0, 2.0]
    found = answer({"type": kind, "labels": ["a", "b", "c"]}, np.array(logits, dtype=np.float32), top_k=top_k)
    total = sum(map(math.exp, logits))
    chance = {
        label: math.exp(value) / total if kind == "sequence_classification" else 1 / (1 + math.exp(-value))
        for label, value in zip("abc", logits, strict=True)
    }
    assert found == [{"label": label, "score": pytest.approx(chance[label], rel=1e-6)} for label in expected]


def test_a_word_is_read_at_its_first_token() -> None:
    logits = np.arange(8, dtype=np.float32).reshape(4, 2)
    logits[3] = [9, 2]
    head = build_head({"type": "token_classification", "labels": ["a", "b"]}, EncoderShape(hidden_size=4))
    first, none, last = head.decode(np.stack([logits] * 3), {"word_starts": [[1, NO_TOKEN, 3], [], [0]]})
    assert (first.value, none.value, last.value) == (["b", None, "a"], [], ["b"])
    assert first.scores == pytest.approx([1 / (1 + math.exp(-1)), 0, 1 / (1 + math.exp(-7))])
    assert len(none.scores) == 0


def test_regression_answers_a_number() -> None:
    found = answer({"type": "regression"}, np.array(2.5, dtype=np.float32))
    assert found == 2.5
    assert type(found) is float


def test_entities_have_text_character_offsets_and_mean_score() -> None:
    text = "from New  York, today"
    words = [(0, 4), (5, 8), (10, 14), (14, 15), (16, 21)]
    logits = one_hot(BIO, ["O", "B-city", "I-city", "O", "B-when"])
    logits[2] /= 2
    strong, weak = (math.exp(size) / (math.exp(size) + 4) for size in (4.0, 2.0))
    assert answer({"type": "token_classification", "labels": BIO}, logits, text, words) == [
        {"type": "city", "text": "New  York", "start": 5, "end": 14, "score": pytest.approx((strong + weak) / 2)},
        {"type": "when", "text": "today", "start": 16, "end": 21, "score": pytest.approx(strong)},
    ]


def test_word_without_a_token_is_outside_every_entity() -> None:
    text, words = "new york city", [(0, 3), (4, 8), (9, 13)]
    logits = one_hot(BIO, ["B-city", None, "I-city"])
    found = answer({"type": "token_classification", "labels": BIO}, logits, text, words)
    assert [(entity["start"], entity["end"]) for entity in found] == [(0, 3), (9, 13)]


def test_labels_that_are_no_spans_are_answered_a_word() -> None:
    labels = ["NOUN", "VERB"]
    logits = one_hot(labels, ["VERB", "NOUN", None], size=1.0)
    found = answer({"type": "token_classification", "labels": labels}, logits, "go home now", [(0, 2), (3, 7), (8, 11)])
    score = pytest.approx(math.e / (math.e + 1))
    assert found == [
        {"label": "VERB", "text": "go", "start": 0, "end": 2, "score": score},
        {"label": "NOUN", "text": "home", "start": 3, "end": 7, "score": score},
        {"label": None, "text": "now", "start": 8, "end": 11, "score": 0.0},  # it has no token
    ]


@pytest.mark.parametrize("labels", [BIO, ["NOUN", "VERB"]])
def test_text_without_words_has_no_tags(labels: list[str]) -> None:
    assert answer({"type": "token_classification", "labels": labels}, np.zeros((0, len(labels)), np.float32)) == []


def test_two_vectors_become_their_cosine() -> None:
    found = answer({"type": "sentence_similarity"}, np.array([[0.6, 0.8], [0.0, 1.0]], dtype=np.float32))
    assert type(found) is float
    assert found == pytest.approx(0.8)
    rounded_up = np.array([[1.0000001, 0.0]] * 2, dtype=np.float32)
    assert answer({"type": "sentence_similarity"}, rounded_up) == 1.0  # an angle can be taken of it
