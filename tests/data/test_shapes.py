"""Tests of `mtl_hf.data.shapes`: shapes that cannot be read yet are recognised, and what is readable is left alone."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from mtl_hf.data.describe_file import describe_file
from mtl_hf.data.draft import draft_config
from mtl_hf.data.shapes import column_shapes, file_shape
from mtl_hf.tasks.column import one_hot_length

SENTENCES = [
    (["Ana", "flew", "to", "Riga", "."], ["B-PER", "O", "O", "B-LOC", "O"]),
    (["Bo", "Lind", "came", "."], ["B-PER", "I-PER", "O", "O"]),
    (["nobody", "else", "came", "yesterday", "."], ["O"] * 5),
    (["In", "Port", "of", "Elm", "Ana", "met", "Dev"], ["O", "B-LOC", "I-LOC", "I-LOC", "B-PER", "O", "B-PER"]),
] * 5  # fmt: skip
TOPICS = [["harbour"], [], ["orchard", "library"], ["library"], ["harbour", "orchard"], ["orchard"]] * 5
TEXTS = [f"the {number} boats crowd the quay on day {number}" for number in range(len(TOPICS))]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    return str(path)


def labelled(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"text": text, "labels": label} for text, label in zip(TEXTS, labels, strict=True)]


def words_in_rows() -> list[dict[str, Any]]:
    return [{"Word": word, "Tag": tag} for words, tags in SENTENCES for word, tag in zip(words, tags, strict=True)]


REFUSED: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "a word a row alone": ("csv", words_in_rows(), r'per row: .*{"Word": \["Ana", "flew"\], "Tag"'),
    "a word a row with tags without types": (
        "csv", [row | {"Tag": row["Tag"][0]} for row in words_in_rows()], "words in `Word`, .* in `Tag`"
    ),
    "label studio's own": (
        "jsonl", [{"data": {"text": text}, "annotations": [{"result": [{"value": {"start": 0, "end": 3}}]}]}
                  for text in TEXTS],
        "looks like Label Studio's nested export.*JSON-MIN or CSV",
    ),
    "decimal commas": (
        "csv", labelled([f"{number},5" for number in range(30)]), r'numbers with a comma \(0,5\).*`decimal: ","`'
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_shape_that_cannot_be_read_yet_is_refused_with_what_to_convert(case: str, tmp_path: Path) -> None:
    ending, rows, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        draft_config([write(tmp_path / f"rows.{ending}", rows)])
    assert "This cannot be read yet; convert it to" in str(caught.value)


def test_beside_other_labels_such_a_column_is_left_out_with_the_reason(tmp_path: Path) -> None:
    price = labelled([f"{number},5" for number in range(len(TEXTS))])
    path = write(tmp_path / "rows.csv", [row | {"mood": "ab"[number % 2]} for number, row in enumerate(price)])
    yaml = draft_config([path])
    assert "mood: {type: sequence_classification, source: rows, label: mood}" in yaml
    assert "# left out: labels, looks like numbers with a comma (0,5)" in yaml
    assert "label: labels" not in yaml
    with pytest.raises(ValueError, match=r"`--label labels`: this column of .* looks like numbers with a comma"):
        draft_config([path], labels=["labels"])
    assert "label: labels" in draft_config([path], labels=["labels=sequence_classification"])  # as one asks


@pytest.mark.parametrize(
    ("ending", "rows"),
    [
        ("jsonl", [{"tokens": words, "tags": tags} for words, tags in SENTENCES]),
        ("jsonl", labelled(TOPICS)),
        ("csv", [{"name": name, "kind": kind} for name, kind in [("Ana", "a"), ("Bo", "b"), ("Dev", "b")] * 7]),
        ("csv", labelled(["Riga, harbour", "Oslo, quay", "Elm, market"] * 10)),  # a comma inside a name
        ("csv", labelled(["yes;", "no;"] * 15)),
        ("csv", [{"utterance": ["stop", "go"][number % 2], "intent": "ab"[number % 2], "mood": "xy"[number % 2]}
                 for number in range(20)]),
        ("csv", [{"text": text, "lower": text.upper(), "kind": "ab"[len(text) % 2]} for text in TEXTS]),
    ],
)  # fmt: skip
def test_what_can_be_read_has_no_such_shape(ending: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    file = describe_file(write(tmp_path / f"rows.{ending}", rows))
    assert (file_shape(file), column_shapes(file)) == (None, {})


def test_named_classes_of_parquet_are_no_numbers(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["a;b", "a", "b", "[c]"]),
         "kinds": datasets.List(datasets.ClassLabel(names=["a", "b"]))}
    )  # fmt: skip
    rows = {"text": TEXTS, "kind": [number % 4 for number in range(30)], "kinds": [[0, 1]] * 30}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    file = describe_file(tmp_path / "rows.parquet")
    assert (file_shape(file), column_shapes(file)) == (None, {})
    assert one_hot_length(file.columns["kinds"], file.rows["kinds"]) == 0


@pytest.mark.parametrize("make", [int, float, bool])
def test_one_hot_lists_get_names_to_be_replaced(make: type, tmp_path: Path) -> None:
    names = ["harbour", "orchard", "library"]
    rows = labelled([[make(name in topics) for name in names] for topics in TOPICS])
    path = write(tmp_path / "rows.jsonl", rows)
    column = describe_file(path).columns["labels"]
    assert one_hot_length(column, [row["labels"] for row in rows]) == 3
    assert one_hot_length(column, [[0, 2, 1]]) == 0
    yaml = draft_config([path])
    assert "labels: one-hot lists of 3. Their names are not in the file: replace those in `labels`" in yaml
    assert "label: labels, labels: [label_0, label_1, label_2]}" in yaml
