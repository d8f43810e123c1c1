"""Tests of `mtl_hf.data.describe_file`: what it sees in columns, against counting by hand."""

import collections
import json
from pathlib import Path

import datasets
import pytest

from mtl_hf.data.describe_file import Column, describe_file

ROWS = [
    {"text": "a b c", "tag": "x", "n": 1, "f": 0.5, "yes": True, "list": ["p", "q"], "ids": [1, 2], "more": {"a": 1}},
    {"text": " ", "tag": "y", "n": None, "f": 2.0, "yes": False, "list": [], "ids": [3], "more": {"a": 2}},
    {"text": "d e", "tag": "x", "n": 7, "f": None, "yes": True, "list": ["q"], "ids": None, "more": {"a": 3}},
]


def describe(tmp_path: Path, rows: list[dict] = ROWS) -> dict[str, Column]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = describe_file(path)
    assert (found.path, found.num_rows) == (str(path), len(rows))
    return found.columns


def test_every_kind_of_column(tmp_path: Path) -> None:
    columns = describe(tmp_path)
    assert {name: column.kind for name, column in columns.items()} == {
        "text": "string", "tag": "string", "n": "number", "f": "number", "yes": "truth", "list": "words",
        "ids": "numbers", "more": "other",
    }  # fmt: skip
    assert {name: column.num_missing for name, column in columns.items()} == {
        "text": 1, "tag": 0, "n": 1, "f": 1, "yes": 0, "list": 0, "ids": 1, "more": 0,
    }  # fmt: skip
    assert columns["text"].lengths.tolist() == [3, -1, 2]
    assert columns["list"].lengths.tolist() == [2, 0, 1]
    assert columns["ids"].lengths.tolist() == [2, 1, -1]
    assert (columns["text"].num_blank, columns["list"].num_blank) == (1, 1)
    assert (columns["n"].bounds, columns["n"].whole) == ((1, 7), True)
    assert (columns["f"].bounds, columns["f"].whole) == ((0.5, 2), False)
    assert columns["n"].common == [("1", 1), ("7", 1)]
    assert columns["yes"].common == [("true", 2), ("false", 1)]
    assert columns["list"].common == [("q", 2), ("p", 1)]
    assert (columns["list"].num_values, columns["list"].num_distinct) == (3, 2)


def test_the_five_most_frequent_of_many(tmp_path: Path) -> None:
    labels = [f"l{number * number % 11}" for number in range(60)]
    column = describe(tmp_path, [{"text": "t", "label": label} for label in labels])["label"]
    counts = collections.Counter(labels)
    assert column.num_distinct == len(counts) > 5
    assert column.common == sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]


def test_named_classes_of_parquet(tmp_path: Path) -> None:
    features = datasets.Features(
        {"a": datasets.ClassLabel(names=["no", "yes"]), "b": datasets.List(datasets.ClassLabel(names=["O", "B-x"]))}
    )
    rows = datasets.Dataset.from_dict({"a": [1, 0, -1], "b": [[0, 1], [0], [1]]}, features=features)
    rows.to_parquet(tmp_path / "rows.parquet")
    columns = describe_file(tmp_path / "rows.parquet").columns
    assert (columns["a"].kind, columns["a"].common, columns["a"].num_missing) == ("string", [("no", 1), ("yes", 1)], 1)
    assert (columns["b"].kind, columns["b"].common) == ("words", [("B-x", 2), ("O", 2)])


def test_whole_numbers_beside_empty_cells_of_csv(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,stars,none\na,1,\nb,,\nc,3,\n", encoding="utf-8")
    columns = describe_file(tmp_path / "rows.csv").columns
    assert (columns["stars"].whole, columns["stars"].common) == (True, [("1", 1), ("3", 1)])
    assert columns["none"].num_values == 0


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\nfein,a\nschön,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"rows\.csv, line 3: not UTF-8"):
        describe_file(tmp_path / "rows.csv")
