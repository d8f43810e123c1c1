"""Tests of `mtl_hf.data.token_counts`: lengths of texts as the encoder reads them, against encoding them by hand."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from mtl_hf.data import token_counts
from mtl_hf.data.draft import draft_config
from mtl_hf.data.token_counts import count_tokens, load_counter


def rows_of(**columns: list[Any]) -> list[datasets.Dataset]:
    return [datasets.Dataset.from_dict(columns)]


def test_tokens_are_those_that_the_encoder_reads(encoder_folder: str) -> None:
    tokenizer, limit = load_counter(encoder_folder, words=True)
    assert tokenizer is not None
    assert limit == 64
    first, second = ["play jazz", "rome " * 90, None], ["is it warm in rome", "oslo", "oslo"]
    alone = [[len(tokenizer(text)["input_ids"]) for text in texts if text] for texts in (first, second)]
    joined = [len(tokenizer(*pair)["input_ids"]) for pair in zip(first, second, strict=True) if all(pair)]
    assert alone[0][1] > 90
    files = rows_of(first=first, second=second)
    assert sorted(count_tokens(files, ["first"], "string", tokenizer)) == sorted(alone[0])
    assert sorted(count_tokens(files, ["first", "second"], "pair", tokenizer)) == sorted(joined)
    assert sorted(count_tokens(files, ["first", "second"], "apart", tokenizer)) == sorted(alone[0] + alone[1][:2])
    words = [["play", "jazz"], [], ["rome"] * 70]
    assert sorted(count_tokens(rows_of(words=words), ["words"], "words", tokenizer)) == [
        len(tokenizer(text, is_split_into_words=True)["input_ids"]) for text in (words[0], words[2])
    ]


def test_of_many_texts_the_longest_are_counted(encoder_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counts, "COUNTED", 2)
    tokenizer, _ = load_counter(encoder_folder, words=False)
    assert tokenizer is not None
    texts = ["rome " * number for number in (3, 9, 1, 7)]
    assert count_tokens(rows_of(text=texts), ["text"], "string", tokenizer) == [
        len(tokenizer(texts[row])["input_ids"]) for row in (1, 3)
    ]


def test_an_encoder_that_is_not_on_this_machine_makes_an_estimate(tmp_path: Path) -> None:
    assert load_counter("someone/some-encoder", words=False) == (None, 512)
    with pytest.raises(ValueError, match="the Python package 'no_such_package' is not installed"):
        load_counter("package:no_such_package/model", words=False)
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"the food of day {number}", "mood": "ab"[number % 2]} for number in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    yaml = draft_config([str(path)], encoder="someone/some-encoder")
    assert "max_length: 32  # tokens; an estimate, since the encoder's tokenizer is not on this machine: 99 of" in yaml


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (0.5, "max_length: 64  # tokens; the longest text has {alone}"),  # sentence_similarity: read apart
        ("a", "max_length: 64  # tokens; longer texts are truncated: 1 of rows (the longest has {joined})\n"),
    ],
)
def test_init_counts_pairs_as_their_task_reads_them(
    label: Any, expected: str, encoder_folder: str, tmp_path: Path
) -> None:
    tokenizer, _ = load_counter(encoder_folder, words=False)
    assert tokenizer is not None
    pairs = [("play jazz", f"is it warm in rome {number}") for number in range(19)] + [("rome " * 40, "oslo " * 40)]
    labels = [0.5 * (number % 3) if label == 0.5 else "ab"[number % 2] for number in range(20)]
    rows = [
        {"sentence1": one, "sentence2": two, "label": value} for (one, two), value in zip(pairs, labels, strict=True)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    alone = max(len(tokenizer(text)["input_ids"]) for text in pairs[-1])
    joined = len(tokenizer(*pairs[-1])["input_ids"])
    assert alone <= 64 < joined
    assert expected.format(alone=alone, joined=joined) in draft_config([str(path)], encoder=encoder_folder)


def test_init_names_the_option_that_reads_long_texts_whole(encoder_folder: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"{'rome ' * 80}{number}", "label": "ab"[number % 2]} for number in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "); `overflow: window` reads them whole\n" in draft_config([str(path)], encoder=encoder_folder)
