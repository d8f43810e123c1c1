"""Tests of the corpora in `mtl_hf/data/samples`: well formed, varied, and no test sentence like a training one."""

import collections
import difflib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.config import resolve_path

SPLITS = ("train", "validation", "test")


def read(corpus: str) -> dict[str, list[dict[str, Any]]]:
    """Split → rows, found as a config finds them."""
    folder = Path(resolve_path(f"package:mtl_hf/data/samples/{corpus}"))
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in SPLITS
    }


ASSISTANT, REVIEWS = read("assistant"), read("reviews")


def words_of(row: dict[str, Any]) -> list[str]:
    """Lower-case words of an utterance or a review."""
    return re.findall(r"[\w']+", " ".join(row["tokens"] if "tokens" in row else [row["text"]]).lower())


def all_rows(corpus: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return list(itertools.chain(*corpus.values()))


@pytest.mark.parametrize("corpus", [ASSISTANT, REVIEWS], ids=["assistant", "reviews"])
def test_ids_are_unique_and_say_the_split(corpus: dict[str, list[dict[str, Any]]]) -> None:
    for split, rows in corpus.items():
        assert [row["id"] for row in rows] == [f"{split}-{number}" for number in range(len(rows))]


def test_assistant_is_large_enough() -> None:
    assert len(all_rows(ASSISTANT)) >= 500
    assert len(ASSISTANT["test"]) >= 100
    assert len({row["intent"] for row in all_rows(ASSISTANT)}) >= 8
    assert len({tag[2:] for row in all_rows(ASSISTANT) for tag in row["slots"] if tag != "O"}) >= 10


def test_reviews_are_many_enough() -> None:
    assert len(all_rows(REVIEWS)) >= 300
    assert len(REVIEWS["test"]) >= 100
    assert {row["sentiment"] for row in all_rows(REVIEWS)} == {"positive", "neutral", "negative"}


def test_assistant_rows_are_well_formed() -> None:
    for row in all_rows(ASSISTANT):
        assert list(row) == ["id", "tokens", "intent", "slots"]
        assert len(row["tokens"]) == len(row["slots"]) > 0
        assert all(token and token == token.strip() and not re.search(r"\s", token) for token in row["tokens"]), row[
            "id"
        ]
        assert re.fullmatch(r"[a-z_]+", row["intent"])
        previous = "O"
        for tag in row["slots"]:
            assert re.fullmatch(r"O|[BI]-[a-z_]+", tag), row["id"]
            assert not tag.startswith("I-") or previous[2:] == tag[2:], row["id"]
            previous = tag


def test_review_rows_are_well_formed() -> None:
    for row in all_rows(REVIEWS):
        assert list(row) == ["id", "text", "sentiment"]
        assert row["text"] == " ".join(row["text"].split()) != ""


@pytest.mark.parametrize(
    ("corpus", "column", "smallest"),
    [(ASSISTANT, "intent", 5), (REVIEWS, "sentiment", 20)],
    ids=["assistant", "reviews"],
)
def test_every_class_is_in_every_split(corpus: dict[str, list[dict[str, Any]]], column: str, smallest: int) -> None:
    counts = {split: collections.Counter(row[column] for row in rows) for split, rows in corpus.items()}
    for split in SPLITS:
        assert set(counts[split]) == set(counts["train"])
        assert min(counts[split].values()) >= smallest
        assert max(counts[split].values()) <= 0.5 * len(corpus[split])


def test_every_slot_type_of_validation_and_test_is_trained_often() -> None:
    trained = collections.Counter(tag for row in ASSISTANT["train"] for tag in row["slots"] if tag[0] == "B")
    for split in ("validation", "test"):
        assert {tag for row in ASSISTANT[split] for tag in row["slots"]} <= {
            tag for row in ASSISTANT["train"] for tag in row["slots"]
        }
    assert min(trained.values()) >= 10


@pytest.mark.parametrize("corpus", [ASSISTANT, REVIEWS], ids=["assistant", "reviews"])
def test_no_sentence_stands_twice(corpus: dict[str, list[dict[str, Any]]]) -> None:
    counts = collections.Counter(" ".join(words_of(row)) for row in all_rows(corpus))
    assert [text for text, count in counts.items() if count > 1] == []


def near_copies(rows: list[dict[str, Any]], others: list[dict[str, Any]], ratio: float) -> list[tuple[str, str]]:
    """Ids of pairs whose words agree, in order, to at least `ratio`."""
    known = [(row["id"], words_of(row)) for row in others]
    known_counts = [collections.Counter(words) for _, words in known]
    found = []
    for row in rows:
        words = words_of(row)
        counts = collections.Counter(words)
        matcher = difflib.SequenceMatcher(autojunk=False)
        matcher.set_seq2(words)
        for (other, other_words), other_counts in zip(known, known_counts, strict=True):
            # Words in common, whatever their order, are an upper bound of those that the matcher finds.
            if 2 * (counts & other_counts).total() < ratio * (len(words) + len(other_words)):
                continue
            matcher.set_seq1(other_words)
            if matcher.ratio() >= ratio:
                found.append((row["id"], other))
    return found


def test_near_copies_are_found() -> None:
    one = [{"id": "a", "text": "play some jazz in the kitchen"}]
    assert near_copies(one, [{"id": "b", "text": "Play some rock in the kitchen!"}], 0.8) == [("a", "b")]
    assert near_copies(one, [{"id": "b", "text": "kitchen the in jazz some play"}], 0.8) == []


@pytest.mark.parametrize("corpus", [ASSISTANT, REVIEWS], ids=["assistant", "reviews"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_sentence_is_a_near_copy_of_a_training_one(corpus: dict[str, list[dict[str, Any]]], split: str) -> None:
    assert near_copies(corpus[split], corpus["train"], 0.8) == []
