"""Tests of `mtl_hf.data.token_layout`: `init` writes a config that reads each format of words and tags."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtl_hf.config import RunConfig
from mtl_hf.data.draft import draft_config
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from tests.data.test_formats import CHARACTERS, SENTENCES, TEXTS, WORDS, write

OTHERS = ["harbour", "orchard", "library", "station", "market"]
PAIRS = [([*words[:-1], OTHERS[number % 5]], tags) for number, (words, tags) in enumerate(SENTENCES * 7)]
STRINGS = [" ".join(words) for words, _ in PAIRS]


def spans_of(make: Callable[[int, int, str], Any], of: list[Any]) -> list[Any]:
    return [[make(*span) for span in spans] for spans in of * 7]


def word_rows(first_only: bool, name: str = "Sentence #") -> list[dict[str, Any]]:
    return [
        {name: f"Sentence: {number}" if place == 0 or not first_only else "", "Word": word, "Tag": tag}
        for number, (words, tags) in enumerate(PAIRS)
        for place, (word, tag) in enumerate(zip(words, tags, strict=True))
    ]


FORMATS: dict[str, tuple[str, list[dict[str, Any]], str, dict[str, Any]]] = {
    "doccano": (
        "jsonl",
        [{"text": t, "label": s} for t, s in zip(STRINGS, spans_of(lambda *span: list(span), CHARACTERS), strict=True)],
        'label: spans of characters of text, such as [0, 7, "PER"]',
        {"text": "text", "spans": "label"},
    ),
    "spacy": (
        "jsonl",
        [{"text": t, "entities": s} for t, s in zip(
            STRINGS, spans_of(lambda a, b, c: {"start": a, "end": b, "label": c}, CHARACTERS), strict=True)],
        "entities: spans of characters of text",
        {"text": "text", "spans": "entities"},
    ),
    "label studio's csv": (
        "csv",
        [{"text": t, "label": json.dumps(s), "id": number} for number, (t, s) in enumerate(zip(
            STRINGS, spans_of(lambda a, b, c: {"start": a, "end": b, "labels": [c]}, CHARACTERS), strict=True))],
        "label: spans of characters of text",
        {"text": "text", "spans": "label"},
    ),
    "gliner": (
        "jsonl",
        [{"tokenized_text": words, "ner": s} for (words, _), s in zip(
            PAIRS, spans_of(lambda *span: list(span), WORDS), strict=True)],
        "ner: spans of words of tokenized_text, whose ends are the first and the last word",
        {"text": "tokenized_text", "spans": "ner"},
    ),
    "lists as text": (
        "csv", [{"tokens": str(words), "ner_tags": str(tags)} for words, tags in PAIRS],
        "lists written as text: words in tokens, tags in ner_tags", {"text": "tokens", "label": "ner_tags"},
    ),
    "spaces": (
        "csv", [{"sentence": " ".join(words), "tags": " ".join(tags)} for words, tags in PAIRS],
        "words in sentence with spaces between, and one tag for each of them in tags, with spaces between",
        {"text": "sentence", "label": "tags"},
    ),
    "strings and lists": (
        "jsonl", [{"sentence": " ".join(words), "tags": tags} for words, tags in PAIRS],
        "words in sentence with spaces between, and one tag for each of them in tags, in a list",
        {"text": "sentence", "label": "tags"},
    ),
    "a word a row": (
        "csv", word_rows(False),
        "one word per row: words in Word, tags in Tag, and the number of the sentence in Sentence #",
        {"text": "Word", "label": "Tag", "group_by": "Sentence #"},
    ),
    "a number in the first row": (
        "csv", word_rows(True, "sentence_id"), "one word per row: words in Word, tags in Tag, and the number",
        {"text": "Word", "label": "Tag", "group_by": "sentence_id"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_init_writes_a_config_that_reads_the_format(name: str, tmp_path: Path) -> None:
    ending, rows, taken_for, expected = FORMATS[name]
    path = write(tmp_path / f"rows.{ending}", rows)
    draft = draft_config([path])
    assert f"# taken for {taken_for}" in draft
    config = RunConfig.load(yaml.safe_load(draft) | {"model": {"encoder": "unused"}})
    (source,), (task,) = config.sources.values(), config.tasks.values()
    found = {"text": source.text, "label": task.label, "spans": task.spans, "group_by": source.group_by}
    assert {key: value for key, value in found.items() if value is not None} == expected
    config.sources["rows"].split = {"validation": 0.1}
    sources = load_sources(config)
    build_tasks(config, sources)
    assert task.type == "token_classification"
    read = [
        (words, tags)
        for split, rows_of in sources["rows"].splits.items()
        for words, tags in zip(
            sources["rows"].texts(split), sources["rows"].gold[split][next(iter(config.tasks))], strict=True
        )
        if len(rows_of)
    ]
    assert sorted(read) == sorted(PAIRS)


def test_rows_with_bad_spans_are_dropped_and_counted(tmp_path: Path) -> None:
    _, rows, _, _ = FORMATS["doccano"]
    bad = [{"text": "Bo came", "label": [[5, 99, "PER"]]}]
    draft = draft_config([write(tmp_path / "rows.jsonl", [*rows, *bad])])
    assert "    drop_bad_rows: true  # 1 rows have spans outside of the text, or without a word in it\n" in draft
    assert f"# rows: {len(rows)} train rows" in draft


def test_a_test_file_without_labels_is_left_out(tmp_path: Path) -> None:
    _, rows, _, _ = FORMATS["spaces"]
    train = write(tmp_path / "train.csv", rows)
    test = write(tmp_path / "test.csv", [{"sentence": row["sentence"]} for row in rows])
    assert "# the split test is left out: " in draft_config([train, test])


def test_another_type_for_the_label_column_reads_it_as_it_is(tmp_path: Path) -> None:
    _, rows, _, _ = FORMATS["spaces"]
    draft = draft_config([write(tmp_path / "rows.csv", rows)], labels=["tags=sequence_classification"])
    assert "type: sequence_classification" in draft
    assert "taken for" not in draft


def test_a_list_beside_a_text_is_no_tag_of_its_words(tmp_path: Path) -> None:
    rows = [{"text": text, "topics": ["harbour", "quay"][: number % 3]} for number, text in enumerate(TEXTS * 9)]
    assert "multi_label_classification" in draft_config([write(tmp_path / "rows.jsonl", rows)])


def test_a_file_in_a_code_page_is_read_with_its_encoding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_bytes("".join(["text;label\n", *["un café noir;a\n", "du thé vert;b\n"] * 9]).encode("cp1252"))
    dev.write_text("text;label\nvin rouge;a\n")
    draft = draft_config([str(train), str(dev)])
    assert "    encoding: cp1252  # a guess" in draft
    assert "train.csv is not UTF-8 and is read as cp1252" in caplog.text
    config = RunConfig.load(yaml.safe_load(draft) | {"model": {"encoder": "unused"}})
    (source,) = load_sources(config).values()
    assert source.texts("train")[0] == "un café noir"
