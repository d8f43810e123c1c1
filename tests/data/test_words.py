"""Tests of `mtl_hf.data.words`: rules learned from training words split the words of new texts alike."""

import json
import random
import time

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_hf.config import Task
from mtl_hf.data import words as words_module
from mtl_hf.data.words import count_votes, learn_word_rules, rules_of
from mtl_hf.modeling.words import check_rules, split_words, splitter, words_of
from mtl_hf.tasks import SourceData, TaskData

TAGS = TaskData("tags", Task(type="token_classification", source="one", label="tags"), ["O"], "words")
TOPIC = TaskData("topic", Task(type="sequence_classification", source="one", label="topic"), ["a"], "words")


def learn(rows: list[list[str]]) -> dict:
    return rules_of(count_votes([pa.chunked_array([pa.array(rows, pa.list_(pa.string()))])]))["rules"]


def split(text: str, rules: dict) -> list[str]:
    return [text[start:end] for start, end in splitter(rules)(text)]


def news(seed: int, num_rows: int = 400) -> list[list[str]]:
    """Rows split as treebanks are, with names and numbers that differ by seed."""
    draw, rows = random.Random(seed), []

    def name() -> str:
        return "".join(draw.choices("bcdfgklmnprst", k=5)).capitalize()

    for _ in range(num_rows):
        city = draw.choice([["St.", name()], [name()], [f"New-{name()}"], ["U.S."], [f"{name()}", ",", "Calif."]])
        day = f"{draw.randint(1990, 1999)}-{draw.randint(10, 12)}-{draw.randint(10, 28)}"
        rows.append(
            [*city, day, "(", name(), ")", name(), "'s", *name().lower().split(), "do", "n't", "pay", "$",
             str(draw.randint(1, 99)), "or", str(draw.randint(1, 99)), "%", "of", name().lower(), "."]
        )  # fmt: skip
    return rows


def share_alike(rows: list[list[str]], rules: dict) -> float:
    read = splitter(rules)
    return sum(read(" ".join(row)) == words_of(row)[1] for row in rows) / len(rows)


def test_rules_of_some_rows_split_the_joined_words_of_others() -> None:
    rules, others = learn(news(0)), news(1)
    assert share_alike(others, {}) < 0.2
    assert share_alike(others, rules) == 1
    assert len(json.dumps(rules)) < 500
    text = "St. Louis (U.S.) didn't pay John's $5, or 10% on 1994-11-12."
    assert split(text, rules) == ["St.", "Louis", "(", "U.S.", ")", "did", "n't", "pay", "John", "'s", "$", "5", ",",
                                  "or", "10", "%", "on", "1994-11-12", "."]  # fmt: skip


def test_rules_do_not_depend_on_the_order_of_rows_and_are_valid() -> None:
    rows = news(0)
    rules = learn(rows)
    assert learn(rows[::-1]) == rules == learn(rows)
    check_rules(rules)


def test_words_that_the_plain_splitting_keeps_need_no_rules() -> None:
    rows = [split_words_of("Play jazz in St. Louis, e.g. at 5:30 (or so) for $5..."), split_words_of("it's a-b.")]
    assert learn(rows * 20) == {}


def split_words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


def test_the_more_frequent_way_to_split_wins() -> None:
    whole, parts = ["go", "to", "st.", "oslo"], ["the", "st", ".", "now"]
    assert split("a st. b", learn([whole] * 5 + [parts] * 2)) == ["a", "st.", "b"]
    assert split("a st. b", learn([whole] * 2 + [parts] * 5)) == ["a", "st", ".", "b"]


def test_signs_that_always_end_a_word_end_new_ones() -> None:
    rules = learn([[f"w{chr(97 + place)}x:", "play"] for place in range(10)])
    assert rules["end"] == [":"]
    assert split("dragons: now", rules) == ["dragons:", "now"]


def test_vowel_signs_are_part_of_words() -> None:
    rows = [["हिन्दी", "में", "लिखो"], ["यह", "किताब", "मेरी"], ["दिल्ली", "की", "बिजली"]]
    assert share_alike(rows, {}) == 0
    rules = learn(rows * 6)
    assert split("मिली किताबें , नदी", rules) == ["मिली", "किताबें", ",", "नदी"]


def test_words_without_dots_leave_dots_to_abbreviations() -> None:
    rules = learn([["fly", "to", "st", "louis"]] * 3)
    assert rules == {"unseen": ["."]}
    assert split("fly to st. louis.", rules) == ["fly", "to", "st.", "louis", "."]


def test_missing_empty_and_blank_words_are_left_out() -> None:
    assert learn([]) == learn([[]]) == {"unseen": ["."]}
    rows = [["a b.", "", "."], None, ["c", None, "."]] * 9
    assert learn(rows) == {}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.text("ab1.'-%ंि ", max_size=4), max_size=5), max_size=8))
def test_any_words_give_valid_rules(rows: list[list[str]]) -> None:
    rules = learn(rows)
    check_rules(rules)
    for row in rows:
        text = " ".join(row)
        assert "".join(split(text, rules)) == text.replace(" ", "")


def test_rules_for_single_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "MOST_WORDS", 2)
    often = [["st.", "x"]] * 9 + [["dr.", "x"]] * 7 + [["vs.", "x"]] * 5 + [["it", "."], ["so", "."], ["we", "."]] * 30
    found = rules_of(count_votes([pa.chunked_array([pa.array(often)])]))
    assert found["rules"]["words"] == ["st.", "dr."]
    assert found["left_out"] == 1


# sources


def source(rows: list[list[str]], form: str = "words", name: str = "one") -> SourceData:
    return SourceData(name, form, ["tokens"], {"train": datasets.Dataset.from_dict({"tokens": rows})})


def test_rules_are_learned_from_tasks_that_label_words(caplog: pytest.LogCaptureFixture) -> None:
    rows = source(news(0))
    caplog.set_level("INFO")
    rules = learn_word_rules({"tags": TAGS, "topic": TOPIC}, {"one": rows})
    assert rules == learn(news(0))
    assert f"split as the training words of one, by {sum(map(len, rules.values()))} rules" in caplog.text
    assert learn_word_rules({"topic": TOPIC}, {"one": rows}) is None, "no task labels words"
    assert learn_word_rules({"tags": TAGS}, {"two": rows}) is None, "a source of another task"
    assert learn_word_rules({"tags": TAGS}, {"one": source(["a b"], "string")}) is None, "strings"


def test_rules_are_cached_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = source(news(0))
    rules = learn_word_rules({"tags": TAGS}, {"one": rows})
    monkeypatch.setattr(words_module, "rules_of", lambda votes: pytest.fail("not cached"))
    assert learn_word_rules({"tags": TAGS}, {"one": rows}) == rules


def test_a_hundred_thousand_texts_take_seconds() -> None:
    read, texts = splitter(learn(news(0))), [" ".join(row) for row in news(2, 1000)] * 100
    started = time.process_time()
    for text in texts:
        read(text)
    assert time.process_time() - started < 10
