"""Tests of `mtl_hf.data.leaks` against comparing every text with every other, and of `drop_leaked`."""

import itertools
import logging
import random
import time
from typing import Any

import datasets
import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data.leaks import find_leaks, text_key
from mtl_hf.data.sources import load_sources
from mtl_hf.tasks import SourceData

WORDS = ["Tea", "tea", "milk,", "no", "42", "...", "Ärger", "a_b"]


def random_text(generator: random.Random, form: str) -> Any:
    """Few words, so that texts meet."""
    words = [generator.choice(WORDS) for _ in range(generator.randint(1, 2))]
    if form == "words":
        return words
    text = generator.choice([" ", "  ", " - "]).join(words)
    return (text, random_text(generator, "string")) if form == "pair" else text


def same(first: Any, second: Any) -> bool:
    """Written without the code that it checks: character by character, both orders of a pair."""

    def words(text: str | list[str]) -> list[str]:
        text = text if isinstance(text, str) else "\n".join(text)
        spaced = "".join(character if character.isalnum() or character == "_" else " " for character in text.lower())
        return spaced.split() or [text]

    if isinstance(first, tuple) != isinstance(second, tuple):
        return False
    if isinstance(first, tuple):
        return any(all(words(a) == words(b) for a, b in zip(first, other, strict=True))
                   for other in itertools.permutations(second))  # fmt: skip
    return words(first) == words(second)


@pytest.mark.parametrize("seed", range(8))
def test_leaks_are_those_of_comparing_all_with_all(seed: int) -> None:
    generator = random.Random(seed)
    texts: dict[str, dict[str, list[Any]]] = {}
    for number, form in enumerate(("string", "words", "pair", "pair")):
        splits = ("train", "validation", "test") if number != 1 else ("train", "test")
        texts[f"{form}{number}"] = {
            split: [random_text(generator, form) for _ in range(generator.randint(1, 12))] for split in splits
        }
    expected: dict[str, dict[int, set[tuple[str, str]]]] = {}
    for source, splits in texts.items():
        for row, text in enumerate(splits["train"]):
            for other, others in texts.items():
                for split in ("validation", "test"):
                    if any(same(text, held_out) for held_out in others.get(split, [])):
                        expected.setdefault(source, {}).setdefault(row, set()).add((other, split))
    assert expected
    assert find_leaks(texts) == expected


def test_four_times_the_rows_take_about_four_times_as_long() -> None:
    generator = random.Random(0)
    rows = [[f"w{generator.randrange(3000)}" for _ in range(15)] for _ in range(20_700)]

    def seconds(share: int) -> float:
        """CPU time, the least of three."""
        train, validation, test = rows[: 14_000 // share], rows[13_990 : 13_990 + 3_310 // share], rows[17_300::share]
        taken = []
        for _ in range(3):
            started = time.process_time()
            find_leaks({"news": {"train": train, "validation": validation, "test": test}})
            taken.append(time.process_time() - started)
        return min(taken)

    leaks = find_leaks({"news": {"train": rows[:14_000], "validation": rows[13_990:17_300], "test": rows[17_300:]}})
    assert set(leaks["news"]) == set(range(13_990, 14_000))
    assert seconds(1) < 8 * seconds(4)  # of comparing each with each it would be 16


def test_what_has_no_letters_is_compared_as_it_is() -> None:
    assert text_key("!!!") == "!!!"
    assert text_key("!!!") != text_key("???")


def load(
    first: dict[str, Any], second: dict[str, Any], splits: tuple[str, ...] = ("train", "test"), **keys: Any
) -> dict[str, Any]:
    """Two sources of pairs; a row's number is its label, so that it can be followed."""

    def rows(texts: list[tuple[str, str]]) -> datasets.Dataset:
        return datasets.Dataset.from_dict(
            {"a": [a for a, _ in texts], "b": [b for _, b in texts], "n": [float(row) for row in range(len(texts))]}
        )

    config = {
        "model": {"encoder": "unused"},
        "sources": {
            name: {"dataset": {split: rows(spec[split]) for split in ("train", "validation", "test")},
                   "text": ["a", "b"], "drop_leaked": spec.get("drop_leaked", False), **keys}
            for name, spec in (("first", first), ("second", second))
        },
        "tasks": {name: {"type": "regression", "source": name, "label": "n"} for name in ("first", "second")},
    }  # fmt: skip
    return load_sources(RunConfig.load(config), splits)


# A test pair of `second` is in `first`'s training rows the other way round; `second` has one of its own in validation.
FIRST = {
    "train": [("a", "b"), ("It rains.", "The sun"), ("c", "d")],
    "validation": [("v", "1")],
    "test": [("t", "1")],
}
SECOND = {
    "train": [("V!", "2"), ("e", "f")],
    "validation": [("v", "2")],
    "test": [("the sun", "it rains")],
}


def numbers(data: SourceData) -> list[float]:
    return list(data.splits["train"]["n"])


def test_leaks_are_reported_and_rows_stay(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        sources = load(FIRST, SECOND)
    assert numbers(sources["first"]) == [0, 1, 2]
    assert numbers(sources["second"]) == [0, 1]
    assert caplog.messages == [
        "Source first: 1 of 3 training rows have a text that is also in second test (1): scores on these splits"
        " are too high; `sources.first.drop_leaked: true` drops these rows.",
        "Source second: 1 of 2 training rows have a text that is also in second validation (1): scores on these"
        " splits are too high; `sources.second.drop_leaked: true` drops these rows.",
    ]


def test_leaked_rows_are_dropped_and_the_others_know_where_they_were(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        sources = load(FIRST | {"drop_leaked": True}, SECOND, splits=("train",))
    assert list(sources["first"].splits) == ["train"]
    assert numbers(sources["first"]) == [0, 2]
    assert numbers(sources["second"]) == [0, 1]
    assert sources["first"].where("train", 1) == "row 3 of the split 'train' of source 'first'"
    assert caplog.messages[0] == "Source first: 1 of 3 training rows dropped, whose text is also in second test (1)."
    assert len(caplog.messages) == 2


def test_nothing_is_said_where_nothing_is_trained(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        load(FIRST, SECOND, splits=("test",))
    assert caplog.messages == []


def test_training_rows_that_all_leak_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`sources\.second\.drop_leaked`: every training row .* second validation"):
        load(FIRST, SECOND | {"train": SECOND["train"][:1], "drop_leaked": True})


def test_carving_keeps_a_pair_and_its_reverse_on_one_side(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [(f"one {number // 2}", f"two {number // 2}")[:: 1 if number % 2 else -1] for number in range(40)]
    rows = {"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "n": [float(row) for row in range(40)]}
    config = {
        "model": {"encoder": "unused"},
        "sources": {"s": {"dataset": datasets.Dataset.from_dict(rows), "text": ["a", "b"]}},
        "tasks": {"t": {"type": "regression", "source": "s", "label": "n"}},
    }
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        sources = load_sources(RunConfig.load(config))
    assert {int(n) // 2 for n in numbers(sources["s"])}.isdisjoint(
        int(n) // 2 for n in sources["s"].splits["validation"]["n"]
    )
    assert len(caplog.messages) == 1  # that of carving


def test_leaks_are_counted_among_the_rows_that_are_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    train = [(f"one {row}", f"two {row}") for row in range(60)]
    first = {"train": train, "validation": [("v", "1")], "test": train[:30]}
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        drawn = numbers(load(first, SECOND, max_train_rows=20)["first"])
    count = sum(number < 30 for number in drawn)
    assert 0 < count < 20
    assert caplog.messages[0] == "Source first: training uses 20 of 60 rows (max_train_rows)."
    assert caplog.messages[1].startswith(f"Source first: {count} of 20 training rows have a text that is also in first")


def test_max_train_rows_draws_the_same_rows_whatever_leaks_were_dropped() -> None:
    train = [(f"one {row}", f"two {row}") for row in range(60)]
    first = {"train": train, "validation": [("v", "1")], "test": [("t", "1")], "drop_leaked": True}

    def drawn(leaking: list[int], number: int) -> set[float]:
        other = SECOND | {"test": [train[row] for row in leaking] or [("x", "y")]}
        return set(load(first, other, max_train_rows=number)["first"].splits["train"]["n"])

    without = drawn([], 20)
    assert len(without) == 20
    leaking = [int(row) for row in sorted(without)[:3]] + [int(min(set(range(60)) - without))]
    dropped = drawn(leaking, 20)
    assert len(dropped) == 20
    assert dropped & without == without - set(leaking), "only rows that leak are replaced"
    assert drawn(leaking, 10) < dropped
