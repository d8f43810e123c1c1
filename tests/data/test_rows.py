"""Tests of `mtl_hf.data.rows`: encoded rows, the cache of them, and what is left out or cut."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data import rows as rows_module
from mtl_hf.data.collator import row_lengths
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.rows import encode_rows, report_cut, trainable_rows
from mtl_hf.data.sources import load_sources
from mtl_hf.modeling.tokenizing import load_tokenizer
from mtl_hf.tasks import SourceData, TaskData
from tests.conftest import SENTENCES, assistant_rows, review_rows, warnings_of, wordpiece_tokenizer

Built = tuple[SourceData, dict[str, TaskData]]


def build(source: dict[str, Any], tasks: dict[str, dict[str, Any]]) -> Built:
    """One source and its tasks."""
    config = RunConfig.load(
        {
            "model": {"encoder": "unused"},
            "sources": {"only": source},
            "tasks": {name: {"source": "only", "label": name} | task for name, task in tasks.items()},
        }
    )
    sources = load_sources(config)
    return sources["only"], build_tasks(config, sources)


def assistant(rows: datasets.Dataset | None = None) -> Built:
    """Intents and slots."""
    rows = assistant_rows(16) if rows is None else rows
    return build(
        {"dataset": {"train": rows, "validation": rows}, "text": "tokens"},
        {"intent": {"type": "sequence_classification"}, "slots": {"type": "token_classification"}},
    )


def reviews(rows: datasets.Dataset | None = None) -> Built:
    """Numbers and sets of labels."""
    rows = review_rows(12) if rows is None else rows
    return build(
        {"dataset": {"train": rows, "validation": rows}, "text": "text"},
        {"stars": {"type": "regression"}, "topics": {"type": "multi_label_classification"}},
    )


def test_words_begin_where_their_first_token_is_and_labels_stay_by_word() -> None:
    tokenizer = wordpiece_tokenizer()
    source, tasks = assistant()
    encoded = encode_rows(source, "train", tasks, tokenizer, 64)
    assert len(encoded) == 16
    for row, found in zip(source.splits["train"], encoded, strict=True):
        # A twin that tokenizes word by word.
        ids, starts = [tokenizer.cls_token_id], []
        for word in row["tokens"]:
            starts.append(len(ids))
            ids += tokenizer(word, add_special_tokens=False)["input_ids"]
        assert found["input_ids"] == [*ids, tokenizer.sep_token_id]
        assert found["word_starts"] == starts
        assert found["cut"] is False
        assert [tasks["slots"].labels[index] for index in found["label:slots"]] == row["slots"]
        assert tasks["intent"].labels[found["label:intent"]] == row["intent"]
        assert set(found["token_type_ids"]) == {0}


def test_words_beyond_the_cut_have_no_token() -> None:
    tokenizer = wordpiece_tokenizer()
    source, tasks = assistant()
    whole = encode_rows(source, "train", tasks, tokenizer, 64)
    cut = encode_rows(source, "train", tasks, tokenizer, 6)
    for one, other in zip(whole, cut, strict=True):
        assert len(other["input_ids"]) == min(len(one["input_ids"]), 6)
        assert other["cut"] is (len(one["input_ids"]) > 6)
        assert other["word_starts"] == [start if start < 5 or len(one["input_ids"]) <= 6 else -1
                                        for start in one["word_starts"]]  # fmt: skip
        assert other["label:slots"] == one["label:slots"]


def test_words_of_tokens_are_kept_where_a_head_aligns_and_words_without_a_label_where_it_has_a_crf() -> None:
    tokenizer = wordpiece_tokenizer()
    rows = assistant_rows(4).to_list()
    rows[0]["slots"][0] = None
    rows[1]["slots"] = None
    table = datasets.Dataset.from_list(rows)
    given = {"dataset": {"train": table, "validation": table}, "text": "tokens"}
    plain = {"type": "token_classification"}
    encoded, labels = [], []
    for options in ({}, {"alignment": "mean"}, {"crf": True}):
        source, tasks = build(given, {"slots": plain | options})
        encoded.append(encode_rows(source, "train", tasks, tokenizer, 6))
        labels.append(encoded[-1]["label:slots"][:])
    assert ["word_ids" in one.column_names for one in encoded] == [False, True, False]
    for row, ids, starts in zip(rows, encoded[1]["word_ids"], encoded[1]["word_starts"], strict=True):
        found = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=6).word_ids()
        assert ids == [-1 if word is None else word for word in found]
        assert [ids.index(word) if word in ids else -1 for word in range(len(row["tokens"]))] == starts
    assert labels[0] == labels[1]
    assert labels[2] == [[-101 if label == -100 else label for label in one] for one in labels[0]]
    assert labels[2][1] == [-101] * len(rows[1]["tokens"])


def test_numbers_and_sets_of_labels() -> None:
    rows = datasets.Dataset.from_list(
        [{"text": "a", "stars": 1.5, "topics": ["b"]}, {"text": "b", "stars": None, "topics": ["a", "b"]},
         {"text": "c", "stars": 0.0, "topics": None}, {"text": "d", "stars": 2.0, "topics": []}]
    )  # fmt: skip
    source, tasks = reviews(rows)
    encoded = encode_rows(source, "train", tasks, wordpiece_tokenizer(), 64)
    assert "word_starts" not in encoded.column_names
    assert encoded["label:topics"][:] == [[0, 1], [1, 1], [-100, -100], [0, 0]]
    stars = encoded["label:stars"][:]
    assert stars[0] == 1.5
    assert stars[1] != stars[1]
    assert stars[2:] == [0.0, 2.0]


def test_pairs_of_a_similarity_task_are_encoded_apart_and_scores_are_shares_of_their_range() -> None:
    tokenizer = wordpiece_tokenizer()
    rows = datasets.Dataset.from_list(
        [{"a": SENTENCES[0], "b": SENTENCES[1], "y": 5.0}, {"a": "play", "b": SENTENCES[2], "y": None},
         {"a": SENTENCES[3], "b": "rome", "y": 2.0}]
    )  # fmt: skip
    task = {"type": "sentence_similarity", "score_range": [1, 5]}
    source, tasks = build({"dataset": {"train": rows, "validation": rows}, "text": ["a", "b"]}, {"y": task})
    encoded = encode_rows(source, "train", tasks, tokenizer, 64)
    for row, found in zip(rows, encoded, strict=True):
        first, second = tokenizer(row["a"])["input_ids"], tokenizer(row["b"])["input_ids"]
        assert found["input_ids"] == first + second
        assert found["segments"] == [len(first), len(second)]
    labels = encoded["label:y"][:]
    assert labels[0] == 1.0
    assert labels[1] != labels[1]
    assert labels[2] == 0.25
    assert len(trainable_rows(source.name, encoded, tasks)) == 2
    other, other_tasks = build({"dataset": {"train": rows, "validation": rows}, "text": ["a", "b"]},
                               {"y": task | {"score_range": [0, 5]}})  # fmt: skip
    assert encode_rows(other, "train", other_tasks, tokenizer, 64)["label:y"][2] == 0.4  # not what the cache holds
    together, of_regression = build({"dataset": {"train": rows, "validation": rows}, "text": ["a", "b"]},
                                    {"y": {"type": "regression"}})  # fmt: skip
    assert "segments" not in encode_rows(together, "train", of_regression, tokenizer, 64).column_names


def test_pairs_are_encoded_together() -> None:
    tokenizer = wordpiece_tokenizer()
    rows = datasets.Dataset.from_list([{"a": SENTENCES[0], "b": SENTENCES[1], "y": label} for label in ("x", "z")])
    source, tasks = build({"dataset": {"train": rows, "validation": rows}, "text": ["a", "b"]},
                          {"y": {"type": "sequence_classification"}})  # fmt: skip
    encoded = encode_rows(source, "train", tasks, tokenizer, 64)
    one = tokenizer(SENTENCES[0], SENTENCES[1])
    assert encoded[0]["input_ids"] == one["input_ids"]
    assert encoded[0]["token_type_ids"] == one["token_type_ids"]
    assert set(one["token_type_ids"]) == {0, 1}


def test_labels_that_a_trained_model_does_not_know_are_absent() -> None:
    source, tasks = assistant()
    tasks["intent"].labels.remove("music")
    tasks["slots"].labels.remove("B-city")
    encoded = encode_rows(source, "train", tasks, wordpiece_tokenizer(), 64)
    for row, found in zip(source.splits["train"], encoded, strict=True):
        assert (found["label:intent"] == -100) is (row["intent"] == "music")
        assert [index == -100 for index in found["label:slots"]] == [tag == "B-city" for tag in row["slots"]]


def test_only_training_rows_carry_labels() -> None:
    source, tasks = assistant()
    encoded = encode_rows(source, "validation", tasks, wordpiece_tokenizer(), 64)
    assert not [name for name in encoded.column_names if name.startswith("label:")]


# The cache


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of texts of each call of `encode`."""
    found: list[int] = []
    encode = rows_module.encode

    def counted(tokenizer: Any, texts: Any, **options: Any) -> Any:
        found.append(len(texts))
        return encode(tokenizer, texts, **options)

    monkeypatch.setattr(rows_module, "encode", counted)
    return found


def from_file(folder: Path, rows: list[dict[str, Any]], **task: Any) -> Built:
    """A source of strings read from a file, and one task on it."""
    file = folder / "train.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if not file.exists() or file.read_text() != lines:  # `datasets` goes by the time of a file
        file.write_text(lines)
    return build({"path": "json", "data_files": {"train": str(file), "validation": str(file)}, "text": "text"},
                 {"y": {"type": "sequence_classification"} | task})  # fmt: skip


ROWS = [{"text": sentence, "y": "ab"[number % 2]} for number, sentence in enumerate(SENTENCES)]


def test_same_rows_are_encoded_once(tmp_path: Path, encoder_folder: str, calls: list[int]) -> None:
    first = encode_rows(*_train(from_file(tmp_path, ROWS)), load_tokenizer(encoder_folder), 64)
    assert calls == [len(ROWS)]
    # Loaded anew, with a tokenizer that is another object and was used in another way.
    tokenizer = load_tokenizer(encoder_folder)
    tokenizer(SENTENCES, truncation=True, max_length=4, padding=True)
    second = encode_rows(*_train(from_file(tmp_path, ROWS)), tokenizer, 64)
    assert calls == [len(ROWS)]
    assert second.to_list() == first.to_list()


def test_damaged_encoded_rows_are_encoded_anew_and_the_folder_is_named(
    tmp_path: Path, encoder_folder: str, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(encoder_folder)
    first = encode_rows(*_train(from_file(tmp_path, ROWS)), tokenizer, 64)
    cache = Path(first.cache_files[0]["filename"])
    whole, rows = cache.read_bytes(), first.to_list()
    del first
    for number, damaged in enumerate((b"", whole[:2], whole[: len(whole) // 2], whole[:-40], whole[:8] + bytes(200))):
        other = cache.with_suffix(".other")
        other.write_bytes(damaged)
        other.replace(cache)
        caplog.clear()
        assert encode_rows(*_train(from_file(tmp_path, ROWS)), tokenizer, 64).to_list() == rows
        assert len(calls) == number + 2
        (message,) = (line for line in caplog.messages if "damaged" in line)
        assert f"Source only, train: the encoded rows cached in {cache.parent} are damaged (" in message
        encode_rows(*_train(from_file(tmp_path, ROWS)), tokenizer, 64)
        assert len(calls) == number + 2, "and kept again"


def test_encoded_rows_that_were_cut_off_between_two_batches_are_encoded_anew(
    tmp_path: Path, encoder_folder: str, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(encoder_folder)
    first = encode_rows(*_train(from_file(tmp_path, ROWS)), tokenizer, 64)
    table, rows, cache = first.data.table.slice(0, 5), first.to_list(), Path(first.cache_files[0]["filename"])
    del first
    with pa.ipc.new_stream(str(cache.with_suffix(".other")), table.schema) as writer:
        writer.write_table(table)
    cache.with_suffix(".other").replace(cache)
    assert encode_rows(*_train(from_file(tmp_path, ROWS)), tokenizer, 64).to_list() == rows
    assert calls == [8, 8]
    assert any("are damaged (5 of 8 rows)" in line for line in caplog.messages)


def _train(built: Built) -> tuple[SourceData, str, dict[str, TaskData]]:
    return built[0], "train", built[1]


@pytest.mark.parametrize("change", ["max_length", "order of labels", "renamed", "text", "label", "tokenizer"])
def test_other_content_is_encoded_anew(tmp_path: Path, encoder_folder: str, calls: list[int], change: str) -> None:
    encode_rows(*_train(from_file(tmp_path, ROWS)), load_tokenizer(encoder_folder), 64)
    rows = [dict(row) for row in ROWS]
    task: dict[str, Any] = {}
    if change == "text":
        rows[3]["text"] += " today"
    elif change == "label":
        rows[0]["y"] = "b"
    elif change == "order of labels":
        task = {"labels": ["b", "a"]}
    elif change == "renamed":
        task = {"labels": {"a": "b", "b": "a"}}
    built = from_file(tmp_path, rows, **task)
    tokenizer = load_tokenizer(encoder_folder)
    if change == "tokenizer":
        tokenizer.add_tokens(["jazz"])
    encoded = encode_rows(*_train(built), tokenizer, 5 if change == "max_length" else 64)
    assert len(calls) == 2
    assert [built[1]["y"].labels[index] for index in encoded["label:y"]] == built[0].gold["train"]["y"]
    assert [len(ids) for ids in encoded["input_ids"]] == row_lengths(encoded).tolist()


def test_other_renaming_of_the_same_names_is_encoded_anew(
    tmp_path: Path, encoder_folder: str, calls: list[int]
) -> None:
    for labels in ({"a": "x", "b": "y"}, {"b": "x", "a": "y"}):
        built = from_file(tmp_path, ROWS, labels=labels)
        encoded = encode_rows(*_train(built), load_tokenizer(encoder_folder), 64)
        assert [built[1]["y"].labels[index] for index in encoded["label:y"]] == built[0].gold["train"]["y"]


PAIR_ROWS = [
    {"a": sentence, "b": SENTENCES[number - 1], "joined": sentence.replace(" ", "", 2), "y": number / 2,
     "z": number % 3, "u": "pq"[number % 2], "v": "qp"[number // 2 % 2]}
    for number, sentence in enumerate(SENTENCES)
]  # fmt: skip
SCORED = {"type": "sentence_similarity", "score_range": [0, 5], "label": "y"}
NAMED = {"type": "sequence_classification", "label": "u"}


@pytest.mark.parametrize(
    ("text", "task", "other_text", "other_task"),
    [
        (["a", "b"], SCORED, ["a", "b"], SCORED | {"score_range": [0, 4]}),
        (["a", "b"], SCORED, ["a", "b"], SCORED | {"label": "z"}),
        (["a", "b"], SCORED, ["a", "b"], {"type": "regression", "label": "y"}),
        (["a", "b"], SCORED, ["b", "a"], SCORED),
        ("a", NAMED, "joined", NAMED),
        ("a", NAMED, ["a", "b"], NAMED),
        ("a", NAMED, "a", NAMED | {"label": "v"}),
        ("a", NAMED, "a", NAMED | {"labels": ["q", "p"]}),
        ("joined", {"type": "masked_lm"}, "joined", {"type": "masked_lm", "whole_word_mask": True}),
    ],
    ids=["score range", "scores", "read together", "order of a pair", "text", "pair", "labels", "order of labels",
         "whole words"],
)  # fmt: skip
def test_what_another_config_has_cached_is_not_taken_for_its_own(
    text: Any,
    task: Any,
    other_text: Any,
    other_task: Any,
    tmp_path: Path,
    encoder_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PAIR_ROWS), encoding="utf-8")
    files = {"path": "json", "data_files": {"train": str(file), "validation": str(file)}}
    tokenizer = load_tokenizer(encoder_folder)

    def encoded(text: Any, task: dict[str, Any], cache: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / cache))
        built = build(files | {"text": text}, {"y": {"label": None} | task})
        return encode_rows(*_train(built), tokenizer, 7).to_list()

    first = encoded(text, task, "one")
    again = encoded(other_text, other_task, "one")
    assert again == encoded(other_text, other_task, "two")
    assert again != first


def test_the_side_that_is_cut_is_part_of_what_is_cached(tmp_path: Path, encoder_folder: str) -> None:
    built, tokenizer = from_file(tmp_path, ROWS), load_tokenizer(encoder_folder)
    right = encode_rows(*_train(built), tokenizer, 5).to_list()
    tokenizer.truncation_side = "left"
    left = encode_rows(*_train(built), tokenizer, 5).to_list()
    for one, other, row in zip(right, left, ROWS, strict=True):
        _, *whole, _ = tokenizer(row["text"])["input_ids"]
        assert (one["input_ids"][1:-1], other["input_ids"][1:-1]) == (whole[:3], whole[-3:])


# What is left out, what is cut


def test_rows_without_any_label_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = assistant_rows(8).to_list()
    rows[1] |= {"intent": None, "slots": None}
    rows[2] |= {"intent": None}
    rows[3] |= {"slots": None}
    rows[4] |= {"intent": None, "slots": [None] * len(rows[4]["tokens"])}
    rows[5] |= {"intent": None, "slots": [None] * (len(rows[5]["tokens"]) - 1) + ["O"]}  # on the last word alone
    source, tasks = assistant(datasets.Dataset.from_list(rows))
    tokenizer = wordpiece_tokenizer()
    encoded = encode_rows(source, "train", tasks, tokenizer, 64)
    caplog.clear()  # that both splits have the same rows has been said
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        kept = trainable_rows(source.name, encoded, tasks)
    assert kept["input_ids"][:] == [encoded["input_ids"][row] for row in (0, 2, 3, 5, 6, 7)]
    assert warnings_of(caplog) == ["Source only: 2 of 8 training rows have no label of any task and are left out."]
    # Row 5 is cut before its only labelled word, so nothing of it reaches a loss.
    short = encode_rows(source, "train", tasks, tokenizer, 4)
    assert len(trainable_rows(source.name, short, tasks)) == 5


def test_rows_that_all_have_a_label_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    source, tasks = reviews()
    encoded = encode_rows(source, "train", tasks, wordpiece_tokenizer(), 64)
    caplog.clear()
    assert trainable_rows(source.name, encoded, tasks) is encoded
    assert not warnings_of(caplog)


def test_null_numbers_and_null_sets_count_as_no_label() -> None:
    rows = [{"text": "a", "stars": 1.0, "topics": None}, {"text": "b", "stars": None, "topics": None},
            {"text": "c", "stars": None, "topics": []}, {"text": "d", "stars": 2.0, "topics": ["x"]}]  # fmt: skip
    source, tasks = reviews(datasets.Dataset.from_list(rows))
    encoded = encode_rows(source, "train", tasks, wordpiece_tokenizer(), 64)
    kept = trainable_rows(source.name, encoded, tasks)
    assert kept["input_ids"][:] == [encoded["input_ids"][row] for row in (0, 2, 3)]


def test_source_of_which_no_row_has_a_label_is_refused() -> None:
    source, tasks = reviews()
    encoded = encode_rows(source, "train", tasks, wordpiece_tokenizer(), 64)
    nothing = encoded.map(lambda row: {"label:stars": float("nan"), "label:topics": [-100, -100]})
    with pytest.raises(ValueError, match=r"`sources\.only`: no training row has a label of any of its tasks"):
        trainable_rows(source.name, nothing, tasks)


def test_what_is_cut_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {
            "tokens": ["play", "jazz", "in", "rome", "today"],
            "slots": ["O", "O", "O", "B-city", "B-when"],
            "intent": "a",
        },
        {"tokens": ["play", "jazz"], "slots": ["O", "O"], "intent": "b"},
        {"tokens": ["rome", "rome", "rome", "rome"], "slots": ["B-city", "I-city", "I-city", "I-city"], "intent": "a"},
        {"tokens": ["\u200b", "rome"], "slots": ["B-city", "O"], "intent": "a"},  # BERT's normalizer removes it
    ]
    source, tasks = assistant(datasets.Dataset.from_list(rows))
    tokenizer = wordpiece_tokenizer()
    tokenizer.add_tokens(["play", "jazz", "in", "rome", "today"])  # a token each
    whole = encode_rows(source, "train", tasks, tokenizer, 64)
    assert report_cut(source, "train", whole, tasks) == {"rows_cut": 0, "words_lost": 1, "entities_lost": 1}
    caplog.clear()
    cut = encode_rows(source, "train", tasks, tokenizer, 5)
    assert report_cut(source, "train", cut, tasks) == {"rows_cut": 2, "words_lost": 4, "entities_lost": 4}
    (message,) = caplog.messages
    assert message.startswith("Source only, train: 2 of 4 rows are truncated to max_length")
    assert re.findall(r"\d+", message) == ["2", "4", "4", "4"]


def test_nothing_cut_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    source, tasks = reviews()
    encoded = encode_rows(source, "validation", tasks, wordpiece_tokenizer(), 64)
    caplog.clear()
    assert report_cut(source, "validation", encoded, tasks) == {"rows_cut": 0, "words_lost": 0, "entities_lost": 0}
    assert not warnings_of(caplog)
