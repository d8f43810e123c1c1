"""Tests of `mtl_hf.data.row_files`: one type for a column in all files, and the cache."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from mtl_hf.data.row_files import open_rows, read_row_files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read_json(folder: Path, **splits: list[Any]) -> dict[str, datasets.Dataset]:
    """Splits whose column `x` holds the given values."""
    for split, values in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"x": value}) + "\n" for value in values))
    return read_row_files("json", {split: [str(folder / f"{split}.jsonl")] for split in splits}, {})


def read_csv(folder: Path, text: str, *, as_text: list[str] | None = None, **options: Any) -> datasets.Dataset:
    (folder / "rows.csv").write_text(text)
    return read_row_files("csv", {"train": [str(folder / "rows.csv")]}, options, as_text or [])["train"]


# Types of JSON


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["01", None, "2020-01-01"], "string"),
        ([1, None, 2**62], "int64"),
        ([1, 1.5, None], "float64"),
        ([True, None], "bool"),
        ([None], "null"),
    ],
)
def test_values_of_one_kind_are_what_they_are(
    tmp_path: Path, values: list[Any], dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = read_json(tmp_path, train=values)["train"]
    assert rows.features["x"].dtype == dtype
    assert rows["x"][:] == values
    listed = read_json(tmp_path, train=[values, None, []])["train"]
    assert listed.features["x"].feature.dtype == dtype
    assert listed["x"][:] == [values, None, []]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        (["01", "1", 5, None, "2"], ["01", "1", "5", None, "2"], "line 3: the column 'x' holds 5, but text in most"),
        ([5, 4, "01"], ["5", "4", "01"], "line 3: the column 'x' holds \"01\", but numbers in most rows"),
        ([True, "yes", "no"], ["true", "yes", "no"], "line 1: the column 'x' holds true, but text in most rows"),
        (["a", 1.5, "b", float("nan")], ["a", "1.5", "b", None], "line 2: the column 'x' holds 1.5, but text"),
        ([["a", "b"], ["c", 1]], [["a", "b"], ["c", "1"]], "line 2: the column 'x' holds 1, but text in most rows"),
        ([2**63, 1], [str(2**63), "1"], None),  # no number of 64 bits holds it
        ([2**53 + 1, 1.5], [str(2**53 + 1), "1.5"], None),
    ],
)  # fmt: skip
def test_values_of_several_kinds_are_text_as_written(
    tmp_path: Path, values: list[Any], expected: list[Any], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # the second time from the cache, and said again
        caplog.clear()
        assert read_json(tmp_path, train=values)["train"]["x"][:] == expected
        assert [said in message for message in caplog.messages if said] == ([True] if said else [])
        assert len(caplog.messages) == bool(said)


def test_column_that_is_text_in_one_split_is_text_in_all(tmp_path: Path) -> None:
    splits = read_json(tmp_path, train=[1, 2], validation=["01", "a"], test=[None])
    assert {split: rows["x"][:] for split, rows in splits.items()} == {
        "train": ["1", "2"], "validation": ["01", "a"], "test": [None]
    }  # fmt: skip
    assert {rows.features["x"].dtype for rows in splits.values()} == {"string"}
    assert read_json(tmp_path, train=[1, 2], validation=[1.5])["train"]["x"][:] == [1.0, 2.0]


@pytest.mark.parametrize(
    "values", [["a", ["a"]], [{"a": 1}, {"a": "x"}], [{"a": 1}, [2]], [{"a": [1]}, {"b": "x"}], [{}]]
)
def test_nested_values_come_back_as_they_are(tmp_path: Path, values: list[Any]) -> None:
    found = read_json(tmp_path, train=values)["train"]["x"][:]
    assert [{key: item for key, item in one.items() if item is not None} if isinstance(one, dict) else one
            for one in found] == values  # fmt: skip


def test_half_of_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path) -> None:
    for values in (["a", "b\ud800"], [["a"], ["b\ud800"]]):
        with pytest.raises(ValueError, match=r"train\.jsonl, line 2: the column 'x' holds half of a surrogate pair"):
            read_json(tmp_path, train=values)


def test_columns_that_a_file_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,01\n")
    (tmp_path / "b.csv").write_text("text\nb\n")
    files = {"train": [str(tmp_path / "a.csv")], "test": [str(tmp_path / "b.csv")]}
    splits = read_row_files("csv", files, {}, ["label"])
    assert splits["test"][:] == {"text": ["b"], "label": [None]}
    assert splits["test"].features == splits["train"].features
    assert caplog.messages == [f"{files['test'][0]} has no column 'label', which other files have; its rows have no"
                               " value."]  # fmt: skip


# Types of CSV


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "", "-20"], [1, None, -20]),
        (["1", "1.50", "-.5", "2.", "1e-05", "nan"], [1.0, 1.5, -0.5, 2.0, 1e-05, float("nan")]),
        (["3", "inf"], [3.0, float("inf")]),
        (["001", "1"], None),
        (["1", "+1"], None),
        (["1E10", "1"], None),
        (["1234567890123456789", "1"], None),
        (["True", "False"], None),
        (["nan", "inf"], None),
        (["1", "\u0661"], None),  # a digit, but of another script
        (["1", " 2"], None),
        (["", ""], [None, None]),
    ],
)
def test_numbers_of_csv_and_codes(tmp_path: Path, cells: list[str], expected: list[Any] | None) -> None:
    text = "text,x\n" + "".join(f"t,{cell}\n" for cell in cells)
    written = [cell or None for cell in cells]
    found = read_csv(tmp_path, text)["x"][:]
    assert repr(found) == repr(written if expected is None else expected)
    assert read_csv(tmp_path, text, as_text=["x"])["x"][:] == written


def test_decimal_commas(tmp_path: Path) -> None:
    text = "text;x\na;1.000,5\nb;-2,25\n"
    assert read_csv(tmp_path, text)["x"][:] == ["1.000,5", "-2,25"]
    assert read_csv(tmp_path, text, decimal=",", thousands=".")["x"][:] == [1000.5, -2.25]


# The cache


def test_rows_are_cached_by_content_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_csv(tmp_path, "x\na\n")
    monkeypatch.setattr("mtl_hf.data.row_files._write", lambda *_: pytest.fail("read again"))
    again = read_csv(tmp_path, "x\na\n")
    assert (again[:], again._fingerprint, again.cache_files) == (first[:], first._fingerprint, first.cache_files)
    assert again.cache_files
    monkeypatch.undo()
    assert read_csv(tmp_path, "x\nb\n")["x"][:] == ["b"]
    assert read_csv(tmp_path, "x;y\nb;c\n", sep=",").column_names == ["x;y"]


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9])
def test_damaged_cache_is_built_anew(tmp_path: Path, kept: float, caplog: pytest.LogCaptureFixture) -> None:
    file = Path(read_csv(tmp_path, "x\na\n").cache_files[0]["filename"])
    content = file.read_bytes()
    file.write_bytes(content[: round(kept * len(content)) if 0 < kept < 1 else int(kept)])
    assert read_csv(tmp_path, "x\na\n")["x"][:] == ["a"]
    assert caplog.messages == [f"The cache {file} is damaged and is rebuilt."]
    assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


def test_cache_without_our_notes_is_built_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = Path(read_csv(tmp_path, "x\na\n").cache_files[0]["filename"])
    table = pa.table({"x": ["other"]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert read_csv(tmp_path, "x\na\n")["x"][:] == ["a"]
    assert "is damaged and is rebuilt" in caplog.text


def test_cache_that_was_cut_between_two_batches_is_built_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "x\n" + "".join(f"{n} a\n" for n in range(2500))
    file = Path(read_csv(tmp_path, text).cache_files[0]["filename"])
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
        schema, batches = reader.schema, list(reader)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batches[0])
    assert len(read_csv(tmp_path, text)) == 2500
    assert "is damaged and is rebuilt" in caplog.text


def test_nothing_is_left_of_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read_csv(tmp_path, "x\na,b\n")
    assert not any((tmp_path / "cache").rglob("*.arrow"))


@pytest.mark.parametrize(
    ("loader", "text"), [("csv", ""), ("csv", "x\n"), ("json", "\n"), ("json", "[]"), ("conll", " ")]
)
def test_file_without_rows(tmp_path: Path, loader: str, text: str) -> None:
    path = tmp_path / "rows"
    path.write_text(text)
    options = {"column_names": ["a"]} if loader == "conll" else {}
    assert len(read_row_files(loader, {"dev": [str(path)]}, options)["dev"]) == 0


def test_what_is_not_there_is_noted_at_its_level(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mtl_hf"):
        read_csv(tmp_path, "x;x\na;b\n")
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_rows_are_opened_with_the_fingerprint_of_their_content(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, rows.data.schema) as writer:
        writer.write_table(rows.data.table)
    opened = open_rows(tmp_path / "rows.arrow", "known")
    assert (opened[:], opened._fingerprint) == (rows[:], "known")
    assert opened.features == rows.features
    assert [file["filename"] for file in opened.cache_files] == [str(tmp_path / "rows.arrow")]


def test_splits_of_one_file_are_told_apart(tmp_path: Path) -> None:
    for _ in range(2):  # written, and read from the cache
        splits = read_json(tmp_path, train=list(range(2500)), validation=[], test=[7, 8])
        assert {split: rows["x"][:] for split, rows in splits.items()} == {
            "train": list(range(2500)), "validation": [], "test": [7, 8],
        }  # fmt: skip
        assert [str(rows.split) for rows in splits.values()] == list(splits)
        assert len({rows._fingerprint for rows in splits.values()}) == 3
