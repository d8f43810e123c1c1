"""Tests of `mtl_hf.modeling.words`: raw texts are split by the rules of a model, and no character is lost."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.pipeline import MultiTaskPipeline
from mtl_hf.modeling.words import RULES, WordSplitter, fold, shape, split_words, splitter, words_of

TREEBANK = {
    "words": ["st.", "i .", "9-0-0", "shi'ite"],
    "shapes": ["x.x.", "x.", "x$", "0 %"],
    "clitics": ["'s", "n't", "l'"],
    "signs": ["...", "--"],
    "start": ["+"],
    "end": ["*"],
    "inside": ["–"],
}


def words(text: str, rules: dict | None = None) -> list[str]:
    return [text[start:end] for start, end in splitter(rules)(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n\t", []),
        ("play some jazz", ["play", "some", "jazz"]),
        ("Rome, (today)!", ["Rome", ",", "(", "today", ")", "!"]),
        ("it's 5.30 at a-b_c.", ["it's", "5.30", "at", "a-b_c", "."]),
        ("me@x.org: https://x.org/y", ["me@x.org", ":", "https", ":", "/", "/", "x.org/y"]),
        ("  Zürich\u00a0日本語 🙂", ["Zürich", "日本語", "🙂"]),
    ],
)
def test_words_of_a_raw_text_without_rules(text: str, found: list[str]) -> None:
    assert words(text) == words(text, {}) == found
    assert splitter(None) is splitter({}) is split_words, "a model without rules splits as it did"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("St. Louis is nice.", ["St.", "Louis", "is", "nice", "."]),
        ("It is I.", ["It", "is", "I", "."]),
        ("the U.S., (the U.N.)", ["the", "U.S.", ",", "(", "the", "U.N.", ")"]),
        ("(U.S. J. Smith", ["(", "U.S.", "J.", "Smith"]),
        ("1996-08-30: A$ 5, 10%", ["1996-08-30", ":", "A$", "5", ",", "10", "%"]),
        ("John's don't l'est", ["John", "'s", "do", "n't", "l'", "est"]),
        ("Shi'ite O'Brien's", ["Shi'ite", "O'Brien", "'s"]),
        ("so... yes--no --", ["so", "...", "yes", "-", "-", "no", "--"]),
        ("+1 a* 12–13 ++", ["+1", "a*", "12–13", "+", "+"]),
        ("'S n't l' 'x", ["'S", "n't", "l'", "'", "x"]),
        ("İ.", ["İ."]),
    ],
)
def test_words_of_a_raw_text_by_rules(text: str, found: list[str]) -> None:
    assert words(text, TREEBANK) == found


def test_a_sign_of_no_training_word_ends_a_word_but_not_a_text() -> None:
    rules = {"unseen": ["."]}
    assert words("st. louis and st. ", rules) == ["st.", "louis", "and", "st", "."]
    assert words("st. louis, (st.) .", rules) == ["st.", "louis", ",", "(", "st.", ")", "."]


def test_how_rules_write_words() -> None:
    assert fold("Sep.1996-12") == "sep.9-0"
    assert fold("İ1") == "İ0", "its lower case has two characters"
    assert shape("A.B-word 12:345_é²") == "x.x-a 0:9a"


PLAIN = WordSplitter({})
ANY_TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab1.-'’…$ –+*n'ts")))


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT)
def test_rules_without_any_split_as_no_rules(text: str) -> None:
    assert PLAIN(text) == split_words(text)


RULE = st.text(st.sampled_from("ax09.-'’s%nt…İ "), min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT, st.dictionaries(st.sampled_from(sorted(RULES)), st.lists(RULE, max_size=6)))
def test_every_character_is_in_one_word(text: str, rules: dict[str, list[str]]) -> None:
    spans = WordSplitter(rules)(text)
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert "".join(text[start:end] for start, end in spans) == re.sub(r"\s", "", text)
    assert not any(re.search(r"\s", text[start:end]) for start, end in spans)


def test_a_very_long_run_is_split_plainly() -> None:
    text = "a." * 50_000
    assert WordSplitter({"shapes": ["x."]})(text) == split_words(text)


# models


@pytest.fixture
def saved(bert: MultiTaskModel, tmp_path: Path) -> Path:
    bert.config.word_rules = {"words": ["st."], "clitics": ["'s"]}
    bert.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


TEXT, WORDS = "book a table in st. oslo, near nina's river.", "book a table in st. oslo , near nina 's river ."


def answers(found: dict) -> list[tuple]:
    return [(one["type"], one["score"]) for one in found["slots"]]


def test_a_saved_model_splits_strings_as_its_training_words(saved: Path) -> None:
    model = MultiTaskModel.from_pretrained(saved)
    by_words, joined, text = model.predict([WORDS.split(), WORDS, TEXT], batch_size=1)
    assert joined == by_words
    assert answers(text) == answers(by_words)
    assert len(answers(text)) > 1
    assert words_of(WORDS, splitter(model.config.word_rules)) == words_of(WORDS.split())
    assert [TEXT[one["start"] : one["end"]] for one in text["slots"]] == [one["text"] for one in text["slots"]]
    assert MultiTaskPipeline(model=model, batch_size=1)(TEXT) == text
    model.config.word_rules = None
    assert model.predict([WORDS.split()], batch_size=1)[0] == by_words
    assert answers(model.predict([WORDS])[0]) != answers(by_words)


def test_the_saved_code_splits_strings_alike(saved: Path, bert: MultiTaskModel, tmp_path: Path) -> None:
    """In another process: loading code of a model registers its classes. Every word is an entity."""
    classifier = bert.heads["slots"].classifier
    torch.nn.init.zeros_(classifier.weight)
    begins = torch.tensor([label.startswith("B-") for label in bert.config.heads["slots"]["labels"]])
    classifier.bias.data = (begins.cumsum(0).eq(1) & begins).float()  # the first of these labels
    bert.save_pretrained(saved)
    script = """
import json, sys
sys.modules["mtl_hf"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps(model.predict([sys.argv[2]])))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved), TEXT],
        capture_output=True, text=True, check=False, env={"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert [one["text"] for one in found["slots"]] == WORDS.split()


def test_a_model_that_keeps_only_the_encoder_has_no_rules(saved: Path) -> None:
    assert MultiTaskModel.from_encoder(saved).config.word_rules is None
    assert MultiTaskModel.from_encoder(saved, keep_heads=True).config.word_rules == {
        "words": ["st."],
        "clitics": ["'s"],
    }
