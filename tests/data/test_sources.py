"""Tests of `mtl_hf.data.sources`: what can be loaded, how splits are carved off, and what is refused."""

import collections
import gzip
import json
import logging
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import yaml

from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import carve, load_file, load_sources
from mtl_hf.tasks import SourceData

ROWS = [{"text": f"text number {number}", "label": "odd" if number % 2 else "even"} for number in range(40)]


def write_json(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(kind: str = "sequence_classification", label: str = "label", **source: Any) -> SourceData:
    """The only source of a config with one task on it."""
    config = {
        "model": {"encoder": "unused"},
        "sources": {"only": {"text": "text"} | source},
        "tasks": {"task": {"type": kind, "source": "only", "label": label}},
    }
    return load_sources(RunConfig.load(config))["only"]


def rows_of(data: SourceData) -> dict[str, list[dict[str, Any]]]:
    """Split → rows as plain data."""
    return {split: rows.to_list() for split, rows in data.splits.items()}


# Loading


def test_json_lines_of_three_splits(tmp_path: Path) -> None:
    files = {split: write_json(tmp_path / f"{split}.jsonl", ROWS[:number])
             for split, number in (("test", 3), ("train", 5), ("validation", 4))}  # fmt: skip
    data = load(path="json", data_files=files)
    assert (data.name, data.form, data.columns) == ("only", "string", ["text"])
    assert rows_of(data) == {"train": ROWS[:5], "validation": ROWS[:4], "test": ROWS[:3]}
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.texts("test") == [row["text"] for row in ROWS[:3]]


def test_a_quote_that_opens_a_cell_of_a_tsv_is_part_of_its_text(tmp_path: Path) -> None:
    texts = ["plain", '"hello she said', "three", 'four" ends', 'a "whole" one', '"quoted"']
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\ta\n" for text in texts), encoding="utf-8")
    assert list(load_file(path)["text"]) == texts


def test_globs_and_lists_of_files(tmp_path: Path) -> None:
    write_json(tmp_path / "train-0.jsonl", ROWS[:3])
    write_json(tmp_path / "train-1.jsonl", ROWS[3:5])
    other = write_json(tmp_path / "other.jsonl", ROWS[5:6])
    data = load(path="json", data_files={"train": str(tmp_path / "train-*.jsonl"), "validation": [other]})
    assert sorted(data.texts("train")) == [row["text"] for row in ROWS[:5]]
    assert data.texts("validation") == [ROWS[5]["text"]]


def test_compressed_json_lines(tmp_path: Path) -> None:
    plain = Path(write_json(tmp_path / "plain.jsonl", ROWS[:3]))
    packed = tmp_path / "train.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    data = load(path="json", data_files={"train": str(packed), "validation": str(plain)})
    assert rows_of(data)["train"] == ROWS[:3]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_csv_with_a_separator_and_an_encoding(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes("text;label\nschön;1\nça va;2\n".encode(encoding))
    data = load(path="csv", data_files={"train": str(file), "validation": str(file)}, sep=";", encoding=encoding)
    assert rows_of(data)["train"] == [{"text": "schön", "label": "1"}, {"text": "ça va", "label": "2"}]


def test_labels_of_csv_are_what_is_written(tmp_path: Path) -> None:
    labels = ["01", "1", "001", "1E10", "1.10", "True", "1234567890123456789", "1234567890123456788", ""]
    path = tmp_path / "br[1].csv"
    path.write_text("text;label;stars\n" + "".join(f"{n};{label};{n % 5}\n" for n, label in enumerate(labels)))
    data = load(path="csv", data_files={"train": str(path), "validation": str(path)})
    assert data.splits["train"]["label"][:] == [label or None for label in labels]
    assert data.texts("train") == [str(n) for n in range(9)]
    assert data.untyped
    assert data.splits["train"].features["stars"].dtype == "int64"
    stars = load("regression", "stars", path="csv", data_files={"train": str(path), "validation": str(path)})
    assert stars.splits["train"]["stars"][:] == [n % 5 for n in range(9)]


def test_column_of_a_folder_of_csv_is_numbers_of_one_task_and_names_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "validation"):
        rows = "".join(f"{split} {number},{number}\n" for number in ("1", "+2", "03"))
        (folder / f"{split}.csv").write_text("text,stars\n" + rows)
    for source in ({"path": str(folder)}, {"path": "csv", "data_dir": str(folder)}):
        config = RunConfig.load({
            "model": {"encoder": "unused"}, "sources": {"s": {"text": "text"} | source},
            "tasks": {"number": {"type": "regression", "source": "s", "label": "stars"},
                      "name": {"type": "sequence_classification", "source": "s", "label": "stars"}},
        })  # fmt: skip
        sources = load_sources(config)
        build_tasks(config, sources)
        assert sources["s"].gold["validation"] == {"number": [1.0, 2.0, 3.0], "name": ["1", "+2", "03"]}


def test_the_page_on_data_files_shows_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "data_files.md"
    sources = yaml.safe_load(page.read_text(encoding="utf-8").split("```")[1].removeprefix("yaml"))["sources"]
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/reviews-1.csv.gz").write_bytes(gzip.compress(b"text;label\na;01\nb;1\n"))
    Path("data/dev.csv").write_text("text,label\nc,1\n")
    Path("data/train.conll").write_text("# id = 1\nAnna N B-PER\n\nshe N O\n")
    Path("data/dev.conll").write_text("WORD POS TAG\n\nAnna N B-PER\n")
    reviews, names = load(**sources["reviews"]), load("token_classification", "tags", **sources["names"])
    assert [data.splits["train"][label][:] for data, label in ((reviews, "label"), (names, "tags"))] == [
        ["01", "1"], [["B-PER"], ["O"]]
    ]  # fmt: skip
    assert names.texts("validation") == [["Anna"]]


def test_a_folder_of_csv_files_is_read_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("text,label\n" + "".join(f"text {n},0{n % 2}\n" for n in range(9)))
    for source in ({"path": str(folder)}, {"path": "csv", "data_dir": str(folder)}):
        assert set(load(**source).splits["train"]["label"]) == {"00", "01"}


def test_addresses_of_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "train-1.csv.gz").write_bytes(gzip.compress(b"text;label\na;01\n"))
    (tmp_path / "train-2.csv").write_text("text,label\nb,1\n")
    data = load(path="csv", data_files=dict.fromkeys(("train", "validation"), f"file://{tmp_path}/train-*"))
    assert data.splits["train"]["label"][:] == ["01", "1"]
    with pytest.raises(ValueError, match=r"`sources\.only` cannot be loaded: .*nothing\.csv"):
        load(path="csv", data_files=f"file://{tmp_path}/nothing.csv")


def test_file_that_is_read_without_a_config(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"text|label|stars\n5|01|3\n"))
    assert load_file(path)[0] == {"text": 5, "label": "01", "stars": 3}
    assert load_file(path, as_text=["text", "stars"])[0] == {"text": "5", "label": "01", "stars": "3"}
    with pytest.raises(ValueError, match="is a folder, not a file"):
        load_file(tmp_path)


@pytest.mark.parametrize(
    ("path", "held", "expected"),
    [
        ("text", b"caf\xe9\n", r"rows\.gz: not a valid \.gz file"),
        ("text", gzip.compress(b"a\ncaf\xe9\n", mtime=0), r"rows\.gz, line 2: not UTF-8"),
        ("text", gzip.compress(b"a\n" * 99, mtime=0)[:-9], r"rows\.gz: the compressed data end too early"),
        ("json", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], r"rows\.gz: the compressed data end too early"),
        ("csv", gzip.compress(b"text,label\na,b,c\n", mtime=0), r"rows\.gz, line 2: 3 fields"),
        ("conll", gzip.compress(b"a b\n", mtime=0), r"`column_names` is missing: .*rows\.gz has 2 columns"),
        ("parquet", b"text\n", r"rows\.gz: not a Parquet file"),
    ],
)
def test_broken_file_is_refused_with_its_name(tmp_path: Path, path: str, held: bytes, expected: str) -> None:
    (tmp_path / "rows.gz").write_bytes(held)
    with pytest.raises(ValueError, match=expected):
        load(path=path, data_files=str(tmp_path / "rows.gz"))


def test_separator_that_is_wrong_is_named(tmp_path: Path) -> None:
    for separator, shown in ((";", ";"), ("\t", r"\\t")):
        path = tmp_path / "rows.csv"
        path.write_text(f"text{separator}label\na{separator}b\n")
        with pytest.raises(ValueError, match=f'That looks like several columns: set `sep: "{shown}"`'):
            load(path="csv", data_files=str(path), sep=",")


def test_encoding_errors_are_replaced_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes("text,label\nschön,1\nja,2\n".encode("latin-1"))
    data = load(path="csv", data_files={"train": str(file), "validation": str(file)}, encoding_errors="replace")
    assert data.texts("train") == ["sch\ufffdn", "ja"]


def test_parquet(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    data = load(path="parquet", data_files={"train": str(tmp_path / "rows.parquet"), "validation": str(tmp_path / "*")})
    assert rows_of(data)["train"] == ROWS
    (tmp_path / "rows.parquet").rename(tmp_path / "br[1]*.parquet")
    assert len(load_file(tmp_path / "br[1]*.parquet")) == 40


def test_conll_columns(tmp_path: Path) -> None:
    file = tmp_path / "train.conll"
    file.write_text("-DOCSTART- O\n\nAnna B-PER\nsleeps O\n\nRome B-LOC\n\n", encoding="utf-8")
    data = load(
        "token_classification", "tags", path="conll", text="words", column_names=["words", "tags"],
        data_files={"train": str(file), "validation": str(file)},
    )  # fmt: skip
    assert data.form == "words"
    assert data.texts("train") == [["Anna", "sleeps"], ["Rome"]]
    assert data.splits["train"]["tags"][:] == [["B-PER", "O"], ["B-LOC"]]


def test_damaged_rows_of_the_cache_are_read_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.parquet"  # which `datasets` reads; of other files see test_row_files.py
    datasets.load_dataset("json", data_files=str(write_json(tmp_path / "rows.jsonl")), split="train").to_parquet(path)
    loaded = load_file(path)
    rows, (cache,) = loaded.to_list(), [Path(file["filename"]) for file in loaded.cache_files]
    whole = cache.read_bytes()
    with pa.OSFile(str(tmp_path / "short"), "wb") as file, pa.ipc.new_stream(file, loaded.data.schema) as stream:
        stream.write_table(loaded.data.table.slice(0, 3))  # whole, but without the other rows
    for damaged in (b"", whole[: len(whole) // 2], (tmp_path / "short").read_bytes()):
        other = cache.with_suffix(".other")
        other.write_bytes(damaged)
        other.replace(cache)
        caplog.clear()
        assert load_file(path).to_list() == rows
        assert f"cached in {datasets.config.HF_DATASETS_CACHE} are damaged (" in caplog.text
        caplog.clear()
        assert load_file(path).to_list() == rows
        assert caplog.text == ""


def test_rows_handed_over_in_python() -> None:
    rows = datasets.Dataset.from_list(ROWS)
    assert rows_of(load(dataset=datasets.DatasetDict(train=rows, validation=rows.select(range(2))))) == {
        "train": ROWS,
        "validation": ROWS[:2],
    }
    assert rows_of(load(dataset={"train": rows, "test": rows, "validation": rows}))["test"] == ROWS
    assert set(load(dataset=rows).splits) == {"train", "validation"}


def test_pairs_of_columns() -> None:
    rows = datasets.Dataset.from_list(
        [{"a": "one", "b": "two", "label": "x"}, {"a": "three", "b": "four", "label": "y"}]
    )
    data = load(dataset={"train": rows, "validation": rows}, text=["a", "b"])
    assert data.form == "pair"
    assert data.texts("train") == [("one", "two"), ("three", "four")]


def test_only_wanted_splits_are_kept() -> None:
    rows = datasets.Dataset.from_list(ROWS)
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"text": "text", "dataset": rows}},
        "tasks": {"task": {"type": "sequence_classification", "source": "only", "label": "label"}},
    })  # fmt: skip
    assert list(load_sources(config, ["validation"])["only"].splits) == ["validation"]


def test_split_of_another_name_is_renamed_and_the_rest_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    with caplog.at_level(logging.INFO, "mtl_hf"):
        data = load(dataset={"train": rows, "dev": rows.select([1]), "unsupervised": rows}, split={"validation": "dev"})
    assert rows_of(data) == {"train": ROWS, "validation": [ROWS[1]]}
    assert "Source only: the split 'unsupervised' is not used." in caplog.messages


# Carving


def test_validation_is_carved_off_and_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mtl_hf"):
        data = load(dataset=datasets.Dataset.from_list(ROWS))
    assert (
        "Source only: 4 of 40 training rows split off as validation, stratified by label, seed 13." in caplog.messages
    )
    parts = rows_of(data)
    assert len(parts["validation"]) == 4
    assert sorted(parts["train"] + parts["validation"], key=ROWS.index) == ROWS


def test_test_is_carved_off_too_where_asked() -> None:
    parts = rows_of(load(dataset=datasets.Dataset.from_list(ROWS), split={"validation": 0.2, "test": 0.1}))
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 28, "validation": 8, "test": 4}
    assert sorted([row for part in parts.values() for row in part], key=ROWS.index) == ROWS


def test_split_that_is_there_is_left_alone() -> None:
    rows = datasets.Dataset.from_list(ROWS)
    parts = rows_of(load(dataset={"train": rows, "validation": rows.select([0])}))
    assert parts == {"train": ROWS, "validation": ROWS[:1]}


def random_rows(num_rows: int, num_texts: int, labels: str, seed: int) -> list[dict[str, Any]]:
    """Rows of which some have the same text, also with other labels."""
    rng = random.Random(seed)
    return [{"text": f"t{rng.randrange(num_texts)}", "label": rng.choice(labels)} for _ in range(num_rows)]


def carved(rows: list[dict[str, Any]], shares: dict[str, float], stratify: str | None = "label", seed: int = 13) -> Any:
    """Split → set of texts, and split → rows, after carving."""
    data = SourceData("only", "string", ["text"], {"train": datasets.Dataset.from_list(rows)})
    carve(data, shares, stratify, seed)
    parts = rows_of(data)
    return {split: {row["text"] for row in part} for split, part in parts.items()}, parts


@pytest.mark.parametrize("seed", range(5))
def test_carving_does_not_depend_on_the_order_of_rows(seed: int) -> None:
    rows = random_rows(120, 70, "aaaabbc", seed)
    shares = {"validation": 0.2, "test": 0.1}
    texts, _ = carved(rows, shares)
    assert carved(rows, shares)[0] == texts
    random.Random(seed).shuffle(rows)
    assert carved(rows, shares)[0] == texts
    assert carved(rows, shares, seed=14)[0] != texts


@pytest.mark.parametrize("seed", range(5))
def test_no_text_is_on_two_sides(seed: int) -> None:
    rows = random_rows(120, 60, "ab", seed)
    for row in random.Random(seed).sample(rows, 40):  # the same words, written otherwise
        row["text"] = row["text"].upper() + " !"
    _, parts = carved(rows, {"validation": 0.2, "test": 0.2})
    keys = {split: {row["text"].lower().removesuffix(" !") for row in part} for split, part in parts.items()}
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]
    assert sum(map(len, parts.values())) == 120


def test_each_stratum_keeps_its_share() -> None:
    rows = [{"text": f"text {number}", "label": "abbcccc"[number % 7]} for number in range(700)]
    _, parts = carved(rows, {"validation": 0.1, "test": 0.2})
    for split, share in (("validation", 0.1), ("test", 0.2)):
        counts = collections.Counter(row["label"] for row in parts[split])
        assert all(abs(counts[label] - share * number) <= 1 for label, number in (("a", 100), ("b", 200), ("c", 400)))
        assert len(parts[split]) == share * 700


def test_many_small_strata_together_give_the_share_and_none_is_emptied() -> None:
    rows = [{"text": f"text {number}", "label": str(number % 100)} for number in range(300)]
    _, parts = carved(rows, {"validation": 0.1})
    assert len(parts["validation"]) == 30
    assert {row["label"] for row in parts["train"]} == {str(label) for label in range(100)}


def test_label_of_a_single_row_stays_in_training() -> None:
    rows = [{"text": f"text {number}", "label": "many" if number < 100 else f"rare {number}"} for number in range(140)]
    _, parts = carved(rows, {"validation": 0.3})
    assert {row["label"] for row in parts["validation"]} == {"many"}


def test_shares_without_strata() -> None:
    _, parts = carved([{"text": str(number), "label": "a"} for number in range(57)], {"validation": 0.1}, stratify=None)
    assert len(parts["validation"]) == 6


def test_source_stratifies_by_the_column_that_is_named() -> None:
    rows = [row | {"group": "big" if number < 30 else "small"} for number, row in enumerate(ROWS)]
    for seed in range(5):
        split = {"validation": 0.2, "stratify": "group", "seed": seed}
        part = rows_of(load(dataset=datasets.Dataset.from_list(rows), split=split))["validation"]
        assert collections.Counter(row["group"] for row in part) == {"big": 6, "small": 2}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"validation": "dev"}, r"`sources\.only\.split\.validation` is 'dev'; the dataset has train"),
        ({"valid": 0.1}, r"unknown key `valid` in `sources\.only\.split`; known are train, validation, test, stratify"),
        (
            {"validation": 1.5},
            r"`sources\.only\.split\.validation` is 1\.5; it should be a share such as 0\.1, or the name",
        ),
        ({"train": 0.5}, r"`sources\.only\.split\.train` is 0\.5"),
        ({"validation": 0.5, "test": 0.5}, r"`sources\.only\.split` splits off 1 of the training rows"),
        ({"validation": 0.01}, r"40 training rows are too few to split off 0\.01 of them as validation"),
        (
            {"stratify": "lable"},
            r"`sources\.only\.split\.stratify` is 'lable', but .* Did you mean `label`",
        ),
        ({"seed": "x"}, r"`sources\.only\.split\.seed` is 'x'; it should be a whole number"),
    ],
)
def test_split_that_cannot_be_is_refused(split: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load(dataset=datasets.Dataset.from_list(ROWS), split=split)


def test_share_of_a_split_that_is_there_is_refused() -> None:
    rows = datasets.Dataset.from_list(ROWS)
    with pytest.raises(ValueError, match="splits off training rows, but the dataset already has a split 'validation'"):
        load(dataset={"train": rows, "validation": rows}, split={"validation": 0.1})
    with pytest.raises(ValueError, match="there are no training rows to split off from; it has test"):
        load(dataset={"test": rows}, split={"validation": 0.1})


# Texts


def test_rows_without_text_are_refused_with_their_numbers() -> None:
    rows = [{"text": text, "label": "a"} for text in ("fine", "", "  ", None, "too")]
    with pytest.raises(ValueError, match=r"3 of 5 rows of the split 'train' have no text \(rows 2, 3, 4\)") as caught:
        load(dataset=datasets.Dataset.from_list(rows))
    assert "drop_bad_rows: true" in str(caught.value)


def test_rows_without_text_are_dropped_counted_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": "" if number % 2 else f"text {number}", "label": "a"} for number in range(30)]
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        data = load(dataset={"train": datasets.Dataset.from_list(rows), "validation": datasets.Dataset.from_list(ROWS)},
                    drop_bad_rows=True)  # fmt: skip
    assert rows_of(data) == {"train": rows[::2], "validation": ROWS}
    assert caplog.messages == [
        "Source only, train: 15 of 30 rows have no text and are dropped (rows 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, ...)."
    ]


def test_split_of_which_nothing_stays_is_refused() -> None:
    with pytest.raises(ValueError, match="no row of the split 'train' has text"):
        load(dataset=datasets.Dataset.from_list([{"text": " ", "label": "a"}]), drop_bad_rows=True)


@pytest.mark.parametrize(
    ("texts", "bad"),
    [([["a"], [], ["b"]], "rows 2"), ([["a"], [" ", ""], None], "rows 2, 3"), ([["a", None], ["b"], ["c"]], "rows 1")],
)
def test_lists_of_words_without_a_word_are_refused(texts: list[Any], bad: str) -> None:
    rows = datasets.Dataset.from_dict({"text": texts, "label": ["a"] * 3})
    with pytest.raises(ValueError, match=rf"have no text \({bad}\)"):
        load(dataset=rows)


def test_pair_with_an_empty_side_is_refused() -> None:
    rows = datasets.Dataset.from_list([{"a": "one", "b": "two", "label": "x"}, {"a": "three", "b": "", "label": "y"}])
    with pytest.raises(
        ValueError, match=r"1 of 2 rows of the split 'train' lack one of their texts \(a and b\) \(rows 2\)"
    ):
        load(dataset=rows, text=["a", "b"])
    lacking = datasets.Dataset.from_list([{"a": "one", "b": "two", "label": "x"}, {"a": "three", "label": "y"}])
    with pytest.raises(ValueError, match=r"lack one of their texts \(a and b\) \(rows 2\)"):
        load(dataset=lacking, text=["a", "b"])
    splits = {"train": lacking, "validation": lacking}
    assert len(load(dataset=splits, text=["a", "b"], drop_bad_rows=True).splits["train"]) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({}, r"`sources\.only` needs either `path` or, in Python, `dataset`"),
        ({"path": "json", "dataset": datasets.Dataset.from_list(ROWS)}, "needs either"),
        ({"dataset": [1]}, r"`sources\.only\.dataset` is a list; it should be a datasets\.Dataset or DatasetDict"),
        ({"dataset": datasets.Dataset.from_list(ROWS), "text": []}, r"`sources\.only\.text` is empty"),
        ({"dataset": datasets.Dataset.from_list(ROWS), "text": "txt"},
         r"`sources\.only\.text` is 'txt', but .* of source 'only' has no such column\. Did you mean `text`\? It has"),
        ({"dataset": datasets.Dataset.from_dict({"text": [1, 2], "label": ["a", "b"]})},
         r"the column 'text' of the split 'train' holds Value\('int64'\); it should hold strings or lists of words"),
        ({"dataset": {"train": datasets.Dataset.from_list(ROWS),
                      "test": datasets.Dataset.from_dict({"text": [["a"]], "label": ["a"]})}},
         "its column should hold strings in all splits, or lists of words in all"),
        ({"dataset": datasets.Dataset.from_dict({"a": [["x"]], "b": [["y"]], "label": ["a"]}), "text": ["a", "b"]},
         "pairs are strings"),
        ({"path": "json", "data_files": "/nowhere/a.jsonl"}, r"there is no file /nowhere/a\.jsonl.* no folder"),
        ({"path": "csv"}, r"`sources\.only\.data_files` is missing: name the files for `path: csv`"),
        ({"path": "csv", "encoding": "utf-99"}, r"`sources\.only\.encoding` is 'utf-99', which Python does not know"),
        ({"path": "csv", "encoding": "base64"}, r"`sources\.only\.encoding` is 'base64', which Python does not know"),
        ({"path": "csv", "encoding_errors": "x"}, r"`sources\.only\.encoding_errors` is 'x'; valid are strict, rep"),
        ({"path": "csv", "sepp": ";"}, r"unknown key `sepp` in `sources\.only`: .*Did you mean `sep`\?"),
        ({"path": "conll", "column_name": ["a"]}, r"unknown key `column_name` .*Did you mean `column_names`\?"),
    ],
)  # fmt: skip
def test_source_that_cannot_be_is_refused(source: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load(**source)


def test_missing_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    write_json(tmp_path / "train.jsonl")
    with pytest.raises(ValueError, match=r"`sources\.only\.data_files`: .*trian\.jsonl\. Did you mean `train"):
        load(path="json", data_files={"train": str(tmp_path / "trian.jsonl")})


def test_streamed_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"streamed datasets are not supported\. Remove `streaming`"):
        load(path="json", data_files={"train": write_json(tmp_path / "train.jsonl")}, streaming=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "a", "label": \n', r"train\.jsonl, line 3: not JSON \(Expecting value at column \d+\)"),
        (b'["a", "b"]\n', r"train\.jsonl, line 3: a list; each line should be an object"),
        (b'{"text": "caf\xe9", "label": "a"}\n', r"train\.jsonl, line 3: not UTF-8 \(byte 0xe9 at position 13\); give"),
    ],
)
def test_line_that_cannot_be_read_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    file = tmp_path / "train.jsonl"
    good = b'{"text": "a", "label": "b"}\n'
    file.write_bytes(good * 2 + line + good)
    with pytest.raises(ValueError, match=expected):
        load(path="json", data_files={"train": str(file)})


def test_labels_that_pandas_takes_for_missing_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"text {n},{label}\n" for n in range(20) for label in ("None", "NA", "")))
    data = load(path="csv", data_files=str(path))
    assert set(data.splits["train"]["label"]) == {"None", "NA", None}


def test_rows_keep_the_number_they_were_loaded_with(tmp_path: Path) -> None:
    rows = [{"text": "" if n == 3 else f"text {n}", "label": "ab"[n % 2]} for n in range(40)]
    data = load(path="json", data_files=write_json(tmp_path / "rows.jsonl", rows), drop_bad_rows=True)
    for split in ("train", "validation"):
        for row, text in enumerate(data.splits[split]["text"]):
            number = int(text.split()[1]) + 1
            assert data.where(split, row) == f"row {number} of the split 'train' of source {data.name!r}"


def test_a_smaller_number_of_training_rows_is_drawn_from_a_larger_one() -> None:
    rows = datasets.Dataset.from_dict({"text": [f"text {number}" for number in range(50)], "label": ["a", "b"] * 25})

    def texts(number: int | None) -> list[str]:
        return load(dataset={"train": rows, "validation": rows}, max_train_rows=number).texts("train")

    assert texts(None) == texts(50) == texts(99) == rows["text"][:]
    assert len(texts(10)) == 10
    assert set(texts(10)) < set(texts(30)) < set(rows["text"])
    assert texts(10) == sorted(texts(10), key=rows["text"][:].index), "in the order of the data"
    assert texts(10) == texts(10)


def test_errors_of_all_sources_and_splits_are_raised_at_once() -> None:
    blank = datasets.Dataset.from_list([{"text": "a"}, {"text": " "}])
    config = RunConfig.load(
        {
            "model": {"encoder": "none"},
            "sources": {
                "first": {"dataset": {"train": blank, "validation": blank}, "text": "text"},
                "second": {"dataset": {"train": blank, "validation": blank}, "text": "txt"},
                "third": {"dataset": {"train": blank.select([0]), "validation": blank.select([0])}, "text": "text"},
            },
            "tasks": {"any": {"type": "masked_lm", "source": ["first", "second", "third"]}},
            "training": {},
        }
    )
    with pytest.raises(ValueError) as caught:
        load_sources(config)
    lines = str(caught.value).splitlines()
    assert [line.split(" rows")[0].split(", but")[0] for line in lines] == [
        "`sources.first`: 1 of 2",
        "`sources.first`: 1 of 2",
        "`sources.second.text` is 'txt'",
        "`sources.second.text` is 'txt'",
    ]
    assert "'train'" in lines[0]
    assert "'validation'" in lines[1]
