"""Tests of `mtl_hf.data.collator` against a slow twin that goes over rows, words and labels one by one."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch

from mtl_hf.data.collator import Collator, EncodedRows, row_lengths

IGNORE = -100
PAD = 9
TASKS = {
    "one": {
        "class": "sequence_classification",
        "set": "multi_label_classification",
        "number": "regression",
        "tags": "token_classification",
    },
    "two": {"other": "sequence_classification"},
}


def random_rows(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Encoded rows with absent labels of every kind, and words cut or lost."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        num_tokens = int(rng.integers(2, 12))
        num_words = int(rng.integers(1, num_tokens + 3))
        places = sorted(rng.permutation(np.arange(1, num_tokens))[:num_words].tolist())
        starts = places + [-1] * (num_words - len(places))
        if rng.random() < 0.3:
            starts[0] = -1  # lost by the tokenizer
        rows.append(
            {
                "input_ids": rng.integers(10, 99, num_tokens).tolist(),
                "token_type_ids": rng.integers(0, 2, num_tokens).tolist(),
                "cut": False,
                "word_starts": starts,
                "label:class": int(rng.choice([IGNORE, 0, 1, 2])),
                "label:set": rng.integers(0, 2, 3).tolist() if rng.random() < 0.7 else [IGNORE] * 3,
                "label:number": float(rng.choice([float("nan"), 0.5, 2.0])),
                "label:tags": [int(tag) for tag in rng.choice([IGNORE, 0, 1, 2], num_words)],
            }
        )
    return rows


def dataset(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """Rows with the features of `encode_rows`."""
    ints, value = datasets.List(datasets.Value("int32")), datasets.Value
    features = {"input_ids": ints, "token_type_ids": ints, "cut": value("bool"), "word_starts": ints,
                "label:class": value("int32"), "label:set": datasets.List(value("int8")),
                "label:number": value("float64"), "label:tags": ints}  # fmt: skip
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def slow_batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a batch of these rows of source `one` should be."""
    longest = max(len(row["input_ids"]) for row in rows)

    def pad(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (longest - len(values))

    batch: dict[str, Any] = {
        "input_ids": [pad(row["input_ids"], PAD) for row in rows],
        "attention_mask": [pad([1] * len(row["input_ids"]), 0) for row in rows],
        "token_type_ids": [pad(row["token_type_ids"], 0) for row in rows],
        "labels": {},
        "num_items": {},
        "num_labelled_rows": 0,
    }
    by_token = []
    for row in rows:
        tags = [IGNORE] * longest
        for start, tag in zip(row["word_starts"], row["label:tags"], strict=True):
            if start >= 0:
                tags[start] = tag
        by_token.append(tags)
    for task, labels, items in (
        ("class", [row["label:class"] for row in rows], [int(row["label:class"] != IGNORE) for row in rows]),
        ("set", [row["label:set"] for row in rows], [int(row["label:set"][0] != IGNORE) for row in rows]),
        ("number", [row["label:number"] for row in rows],
         [int(row["label:number"] == row["label:number"]) for row in rows]),
        ("tags", by_token, [sum(tag != IGNORE for tag in tags) for tags in by_token]),
    ):  # fmt: skip
        if sum(items):
            batch["labels"][task] = labels
            batch["num_items"][task] = sum(items)
            batch["num_labelled_rows"] += sum(item > 0 for item in items)
    return batch


def assert_same(batch: dict[str, Any], twin: dict[str, Any]) -> None:
    assert list(batch) == list(twin)
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[key].tolist() == twin[key]
        assert batch[key].dtype == torch.int64
    assert batch["num_items"] == twin["num_items"]
    assert batch["num_labelled_rows"] == twin["num_labelled_rows"]
    assert list(batch["labels"]) == list(twin["labels"])
    for task, labels in twin["labels"].items():
        np.testing.assert_array_equal(batch["labels"][task].numpy(), labels)
        expected = torch.int64 if task in ("class", "tags") else torch.float32
        assert batch["labels"][task].dtype == expected


@pytest.mark.parametrize("seed", range(20))
def test_batch_is_that_of_the_slow_twin(seed: int) -> None:
    rows = random_rows(12, seed)
    encoded = EncodedRows({"one": dataset(rows)})
    chosen = np.random.default_rng(seed).permutation(12)[: 1 + seed % 6].tolist()
    batch = Collator(TASKS, PAD)(encoded.__getitems__(chosen))
    assert_same(batch, slow_batch([rows[index] for index in chosen]))


def test_rows_fetched_one_by_one_give_the_same_batch() -> None:
    rows = random_rows(6, 3)
    encoded = EncodedRows({"one": dataset(rows)})
    batch = Collator(TASKS, PAD)([encoded[index] for index in (4, 0, 2)])
    assert_same(batch, slow_batch([rows[index] for index in (4, 0, 2)]))


def test_rows_of_all_sources_have_one_numbering() -> None:
    first, second = random_rows(5, 1), random_rows(4, 2)
    other = dataset(second).rename_column("label:class", "label:other")
    encoded = EncodedRows({"one": dataset(first), "two": other})
    assert len(encoded) == 9
    collator = Collator(TASKS, PAD)
    for index in range(9):
        rows = encoded.__getitems__([index])
        row = [*first, *second][index]
        assert rows.source == ("one" if index < 5 else "two")
        assert collator(rows)["input_ids"].tolist() == [row["input_ids"]]
    assert set(collator(encoded.__getitems__([5, 6, 7, 8]))["labels"]) == {"other"}
    assert {name: lengths.tolist() for name, lengths in encoded.lengths().items()} == {
        "one": [len(row["input_ids"]) for row in first],
        "two": [len(row["input_ids"]) for row in second],
    }


def test_tasks_without_an_item_are_absent() -> None:
    row = random_rows(1, 0)[0] | {"label:class": IGNORE, "label:set": [IGNORE] * 3, "label:number": float("nan")}
    row["label:tags"] = [IGNORE] * len(row["word_starts"])
    batch = Collator(TASKS, PAD)(EncodedRows({"one": dataset([row, row])}).__getitems__([0, 1]))
    assert batch["labels"] == {}
    assert batch["num_items"] == {}
    assert batch["num_labelled_rows"] == 0
    row["label:tags"] = [1] * len(row["word_starts"])
    row["word_starts"] = [-1] * len(row["word_starts"])  # every labelled word is cut
    batch = Collator(TASKS, PAD)(EncodedRows({"one": dataset([row])}).__getitems__([0]))
    assert batch["labels"] == {}


def test_prediction_asks_for_every_head_of_the_source_and_carries_no_labels() -> None:
    rows = random_rows(3, 5)
    encoded = EncodedRows({"one": dataset(rows)}, with_labels=False)
    batch = Collator(TASKS, PAD)(encoded.__getitems__([2, 0]))
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "heads", "rows"}
    assert batch["rows"].tolist() == [2, 0]
    assert batch["heads"] == ("class", "set", "number", "tags")
    assert batch["input_ids"].tolist() == slow_batch([rows[2], rows[0]])["input_ids"]


def test_words_of_tokens_are_padded_and_words_without_a_label_are_no_items() -> None:
    rows = random_rows(5, 6)
    for row in rows:
        row["label:tags"] = [-101 if tag == IGNORE else tag for tag in row["label:tags"]]
    words = [[-1, *range(len(row["input_ids"]) - 1)] for row in rows]
    encoded = dataset(rows).add_column("word_ids", words)
    batch = Collator(TASKS, PAD)(EncodedRows({"one": encoded}).__getitems__([3, 1]))
    longest = batch["input_ids"].shape[1]
    assert batch["word_ids"].tolist() == [words[row] + [-1] * (longest - len(words[row])) for row in (3, 1)]
    tags = batch["labels"]["tags"]
    assert batch["num_items"]["tags"] == (tags >= 0).sum()
    pairs = [pair for row in (3, 1) for pair in zip(rows[row]["word_starts"], rows[row]["label:tags"], strict=True)]
    placed = [tag for start, tag in pairs if start >= 0]
    assert sorted(tags[tags != IGNORE].tolist()) == sorted(placed)
    assert -101 in placed


def test_token_types_are_absent_where_the_tokenizer_has_none() -> None:
    encoded = EncodedRows({"one": dataset(random_rows(2, 0)).remove_columns("token_type_ids")})
    assert "token_type_ids" not in Collator(TASKS, PAD)(encoded.__getitems__([0, 1]))


def test_texts_apart_are_rows_of_the_batch_one_after_the_other() -> None:
    ints, value = datasets.List(datasets.Value("int32")), datasets.Value
    features = {"input_ids": ints, "token_type_ids": ints, "cut": value("bool"), "segments": ints,
                "label:alike": value("float64")}  # fmt: skip
    rng = np.random.default_rng(1)
    texts = [[rng.integers(10, 99, rng.integers(2, 9)).tolist() for _ in range(2)] for _ in range(9)]
    scores = [float("nan") if row % 3 == 1 else row / 8 for row in range(9)]
    rows = datasets.Dataset.from_list(
        [{"input_ids": first + second, "token_type_ids": [1] * len(first + second), "cut": False,
          "segments": [len(first), len(second)], "label:alike": score}
         for (first, second), score in zip(texts, scores, strict=True)],
        features=datasets.Features(features),
    )  # fmt: skip
    collator = Collator({"pairs": {"alike": "sentence_similarity"}}, PAD)
    for chosen in ([4, 0, 7, 8], [1], [5, 3]):
        batch = collator(EncodedRows({"pairs": rows}).__getitems__(chosen))
        single = [text for row in chosen for text in texts[row]]
        longest = max(map(len, single))
        assert batch["input_ids"].tolist() == [text + [PAD] * (longest - len(text)) for text in single]
        assert batch["attention_mask"].sum(1).tolist() == list(map(len, single))
        assert batch["token_type_ids"].tolist() == batch["attention_mask"].tolist()
        known = [row for row in chosen if scores[row] == scores[row]]
        assert batch["num_items"] == ({"alike": len(known)} if known else {})
        assert batch["num_labelled_rows"] == len(known)
        if known:
            np.testing.assert_allclose(batch["labels"]["alike"], [scores[row] for row in chosen])
    asked = collator(EncodedRows({"pairs": rows}, with_labels=False).__getitems__([2, 6]))
    assert asked["input_ids"].shape[0] == 4
    assert asked["heads"] == ("alike",)
    assert row_lengths(rows).tolist() == [len(first) + len(second) for first, second in texts]


def test_lengths_follow_a_selection_of_rows() -> None:
    rows = random_rows(9, 4)
    chosen = dataset(rows).select([7, 1, 4])
    assert row_lengths(chosen).tolist() == [len(rows[index]["input_ids"]) for index in (7, 1, 4)]
    batch = Collator(TASKS, PAD)(EncodedRows({"one": chosen}).__getitems__([2, 0]))
    assert_same(batch, slow_batch([rows[4], rows[7]]))
