"""Property: a file is read as Python's own modules read it, or refused by a message with the file, the row or the key.

Nothing is silent: each of its rows is in a split, with its text and its label, or was counted when it was dropped.
"""

import collections
import gzip
import json
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks, check_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.tasks import SourceData
from tests.conftest import TRAINING

from . import oracle
from .conftest import attempt, inputs, lines_of_log, names_its_place, try_all
from .oracle import MalformedError
from .strategies import (
    File,
    compressed_files,
    conll_files,
    csv_files,
    json_files,
    parquet_files,
    tagged_files,
)

Row = tuple[Any, Any, Any]  # its id (None where it has none), its text, what its label may be


def expected_rows(file: File) -> list[Row]:
    """The rows of a file, read by the oracle.

    Raises:
        MalformedError: The file has to be refused.
    """
    content = file.content
    if "gzip" in file.reading:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise MalformedError(str(error)) from None
    if file.source["path"] == "conll":
        names = file.source["column_names"]
        sentences = oracle.conll_sentences(content, len(names), file.source.get("delimiter"))
        return [(None, words, tags) for words, tags in sentences]
    if file.source["path"] == "csv":
        reading = {key: file.reading[key] for key in ("separator", "encoding")}
        rows = oracle.csv_rows(content, used=("id", "text", "label"), **reading)
    elif file.source["path"] == "parquet":
        if file.rows is None:
            raise MalformedError("it was cut off")
        rows = file.rows
    else:
        rows = oracle.json_rows(content, used=(file.source["text"], file.task["label"]))
    labels = [row.get(file.task["label"]) for row in rows]
    found: list[Any] = labels
    if file.task["type"] == "sequence_classification":
        found = [oracle.class_names(label) for label in labels]
        if set() in found:
            raise MalformedError("a label that is no name")
    elif file.task["type"] == "multi_label_classification":
        found = oracle.names_of_lists(labels, file.task.get("labels"))
    elif file.task["type"] == "regression":
        found = [oracle.number(label) for label in labels]
    texts = [row.get(file.source["text"]) for row in rows]
    if not rows or all(label is None for label in found):
        raise MalformedError("no label")
    return [(row.get("id"), text, label) for row, text, label in zip(rows, texts, found, strict=True)]


def has_text(text: Any) -> bool:
    if isinstance(text, list):
        return all(isinstance(word, str) for word in text) and any(word.strip() for word in text)
    return isinstance(text, str) and bool(text.strip())


def read(file: File, folder: Path) -> tuple[SourceData, Any]:
    """A file on the way that every run takes: its rows with their labels, and the task."""
    (folder / file.name).write_bytes(file.content)
    run = RunConfig.load(config_of(file, folder))
    check_tasks(run)
    sources = load_sources(run)
    tasks = build_tasks(run, sources)
    return sources["notes"], tasks["mood"]


def config_of(file: File, folder: Path, **training: Any) -> dict[str, Any]:
    return {
        "model": {"encoder": "none"},
        "sources": {"notes": file.source | {"data_files": {"train": str(folder / file.name)}}},
        "tasks": {"mood": file.task | {"source": "notes"}},
        "training": training,
    }


def check_file(file: File) -> None:
    """The property."""
    try:
        expected = expected_rows(file)
        must_refuse = None
    except MalformedError as error:
        expected, must_refuse = [], str(error)
    with tempfile.TemporaryDirectory() as folder, lines_of_log() as log:
        both, refusal = attempt(lambda: read(file, Path(folder)))
        if refusal:
            assert not file.clean, f"refused, though nothing is wrong with it: {refusal}"
            assert names_its_place(refusal), refusal
            return
        data, task = both
        assert must_refuse is None, f"read, though it has {must_refuse}"
        found: list[Row] = []
        for split, rows in data.splits.items():
            ids = rows["id"] if "id" in rows.column_names else [None] * len(rows)
            found += zip(ids, data.texts(split), data.gold[split]["mood"], strict=True)
    check_rows(file, expected, found, log)
    if task.labels:
        names = {name for _, _, label in found for name in ([label] if isinstance(label, str) else label or [])}
        assert set(task.labels) <= names | set(file.task.get("labels", ())) | {None}, task.labels


def check_rows(file: File, expected: list[Row], found: list[Row], log: list[str]) -> None:
    """Every row of the file is found once, with its text and its label, or was said to be dropped."""
    left = collections.defaultdict(list)
    for row in expected:
        left[_key(row)].append(row)
    for row in found:
        assert left[_key(row)], f"no such row in the file, or twice: {row}"
        other = left[_key(row)].pop()
        assert same_label(file, other[2], row[2]), f"label {row[2]!r} of {row[:2]}, which is {other[2]!r} in the file"
    gone = [row for rows in left.values() for row in rows]
    counted = sum(
        int(number) for line in log for number in re.findall(r"(\d+) of \d+ (?:training )?rows.*dropped", line)
    )
    assert len(gone) == counted, f"{len(gone)} rows are gone ({gone[:3]}), {counted} were said to be dropped: {log}"
    for _, text, label in gone:
        fine = file.task["type"] != "token_classification" or not isinstance(label, list) or clean_tags(label)
        assert not (has_text(text) and fine), f"dropped, though nothing is wrong with it: {text!r}, {label!r}"
    if file.about.endswith("repeated header") and re.search(rb"label[^.].*(text|label)\"?\r?\n", file.content[:60]):
        assert any("more than once" in line for line in log), log


def _key(row: Row) -> str:
    text = [_written(word) for word in row[1]] if isinstance(row[1], list | tuple) else _written(row[1])
    return json.dumps([row[0], text])


def _written(word: Any) -> Any:
    """A number among texts is read as it is written, and the log says so."""
    return word if word is None or isinstance(word, str) else json.dumps(word)


def same_label(file: File, expected: Any, found: Any) -> bool:
    """Whether a label that was read is one that the row may have."""
    kind = file.task["type"]
    if kind == "sequence_classification":
        return found in expected if expected else found is None
    if kind == "regression":
        return found == (None if expected is None else pytest.approx(expected, rel=1e-9))
    if kind == "multi_label_classification":
        return found == expected or (found is None and expected is None)
    if expected is None or found is None:
        return expected is found
    if file.spans is None:
        return [None if tag is None else str(tag).strip() or None for tag in expected] == found
    return clean_tags(found) and _spans_of(found) == _entities(expected, file.reading["scheme"])


def clean_tags(tags: list[Any]) -> bool:
    return all(tag is None or re.fullmatch(r"O|[BI]-.+", str(tag)) for tag in tags)


def _spans_of(tags: list[Any]) -> set[oracle.Span]:
    return {(kind.lower(), begin, end) for kind, begin, end in oracle.bio_spans([tag or "O" for tag in tags])}


def _entities(tags: list[Any], scheme: str) -> set[oracle.Span]:
    """The entities that tags of a scheme stand for, their types in lower case."""
    stripped = ["O" if tag is None else str(tag).strip() for tag in tags]
    plain = []
    for tag in stripped:
        if scheme == "suffix" and tag != "O":
            kind, _, prefix = tag.rpartition("-")
            tag = f"{prefix}-{kind}"
        elif scheme == "underscore":
            tag = tag.replace("_", "-", 1)
        elif scheme == "lower" and tag not in ("o", "O"):
            tag = tag[:1].upper() + tag[1:]
        plain.append({"E": "I", "L": "I", "S": "B", "U": "B"}.get(tag[:1], tag[:1]) + tag[1:])
    return _spans_of(plain)


@pytest.mark.parametrize(
    "kind",
    [csv_files, json_files, tagged_files, conll_files, parquet_files, compressed_files],
    ids=lambda kind: kind.__name__,
)
@inputs(12, 200)
def test_a_file_is_read_as_it_is_or_refused(kind: Any, number: int) -> None:
    try_all(number, kind(), check_file)


@inputs(2, 40)
def test_a_model_is_trained_on_the_labels_of_its_file(number: int, encoder_folder: str) -> None:
    def check(file: File) -> None:
        try:
            expected = expected_rows(file)
        except MalformedError:
            return
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / file.name).write_bytes(file.content)
            output = folder / "output"
            config = config_of(file, folder, **TRAINING | {"output_dir": str(output), "max_steps": 1})
            config["model"] = {"encoder": encoder_folder}
            _, refusal = attempt(lambda: mtl_hf.train(config))
            if refusal:
                assert not file.clean, refusal
                assert names_its_place(refusal), refusal
                assert not output.exists(), f"training began: {refusal}"
                return
            check_saved(file, expected, output)

    try_all(number, csv_files() | json_files(), check)


def check_saved(file: File, expected: list[Row], output: Path) -> None:
    """The saved head has the labels of the file, and rows are scored against their own."""
    saved = json.loads((output / "config.json").read_text())["heads"]["mood"].get("labels") or []
    by_text = {text: label for _, text, label in expected}
    names = {one for _, _, label in expected for one in label or ()} if saved else set()
    assert set(saved) <= names | set(file.task.get("labels", ()))
    if file.task["type"] == "sequence_classification":
        for _, text, label in expected:
            assert label is None or not has_text(text) or label & set(saved), (
                f"{label} of {text!r} has no output in {saved}"
            )
    with (output / "predictions.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            gold = row["tasks"]["mood"].get("gold", row["tasks"]["mood"].get("label"))
            assert same_label(file, by_text[row["text"]], gold), row
