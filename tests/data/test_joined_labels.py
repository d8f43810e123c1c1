"""Tests of `mtl_hf.data.joined_labels`: `init` finds several labels in text and in columns, and its YAML runs."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtl_hf.config import RunConfig
from mtl_hf.data.describe_file import describe_file
from mtl_hf.data.draft import draft_config
from mtl_hf.data.joined_labels import find_joined, with_lists
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.shapes import column_shapes, one_hot_columns
from mtl_hf.data.sources import load_sources

TOPICS = [["harbour"], [], ["orchard", "library"], ["library"], ["harbour", "orchard"], ["orchard"]] * 5
TEXTS = [f"the {number} boats crowd the quay on day {number}" for number in range(len(TOPICS))]
NAMES = ["harbour", "orchard", "library"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    return str(path)


def hot(topics: list[str], make: Any = int) -> list[Any]:
    return [make(name in topics) for name in NAMES]


def labelled(make: Any) -> list[dict[str, Any]]:
    return [{"text": text, "labels": make(topics)} for text, topics in zip(TEXTS, TOPICS, strict=True)]


def in_columns(make: Any) -> list[dict[str, Any]]:
    return [{"text": text} | dict(zip(NAMES, hot(topics, make), strict=True))
            for text, topics in zip(TEXTS, TOPICS, strict=True)]  # fmt: skip


def gold(written: str) -> list[tuple[int, list[str]]]:
    """The labels of every row that a run reads by a YAML, with the number of the row."""
    config = RunConfig.load(yaml.safe_load(written))
    sources = load_sources(config)
    build_tasks(config, sources)
    (source,) = sources.values()
    (task,) = config.tasks
    return sorted(
        (row, labels)
        for split in source.splits
        for row, labels in zip(source.origin(split)[1], source.gold[split][task], strict=True)
    )


EXPECTED = [(row, sorted(topics)) for row, topics in enumerate(TOPICS)]
# What each file has → its ending and rows, and what `init` writes of the task and about it.
FILES: dict[str, tuple[str, list[dict[str, Any]], str, str]] = {
    "lists of names": ("jsonl", labelled(list), "label: labels}", "3 labels, 35 uses in train"),
    "semicolons": ("csv", labelled(";".join), "label: labels, label_separator: ;}", "35 uses .*; names joined by ';'"),
    "bars": ("csv", labelled(" | ".join), "label_separator: '|'}", "names joined by '|'"),
    "commas": ("csv", labelled(", ".join), "label_separator: ','}", "names joined by ','"),
    "semicolons in JSON": ("jsonl", labelled(";".join), "label_separator: ;}", "names joined by ';'"),
    "Python lists as text": ("csv", labelled(repr), "label: labels}", "35 uses .*; lists written as text"),
    "JSON lists as text": ("csv", labelled(json.dumps), "label: labels}", "lists written as text"),
    "one-hot": ("jsonl", labelled(hot), "labels: [label_0, label_1, label_2]}", "one-hot lists of 3"),
    "one-hot floats": ("jsonl", labelled(lambda topics: hot(topics, float)), "labels: [label_0,", "one-hot lists of 3"),
    "one-hot truths": ("jsonl", labelled(lambda topics: hot(topics, bool)), "labels: [label_0,", "one-hot lists of 3"),
    "one-hot as text": (
        "csv", labelled(lambda topics: str(hot(topics))), "labels: [label_0,", "one-hot lists of 3.*as text"
    ),
    "one-hot truths as text": (
        "csv", labelled(lambda topics: str(hot(topics, bool))), "labels: [label_0,", "one-hot lists of 3.*as text"
    ),
    "a column a label": (
        "csv", in_columns(int), "label: [harbour, orchard, library]}", "'harbour' 10, 'orchard' 15, 'library' 10"
    ),
    "a column of truths a label": (
        "csv", in_columns(bool), "label: [harbour, orchard, library]}", "'harbour' 10, 'orchard' 15, 'library' 10"
    ),
    "a column of floats a label": ("jsonl", in_columns(float), "label: [harbour, orchard, library]}", "a column per"),
    "a column of JSON truths a label": (
        "jsonl", in_columns(bool), "label: [harbour, orchard, library]}", "'harbour' 10, 'orchard' 15, 'library' 10"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_init_writes_a_config_that_reads_the_same_labels(case: str, tmp_path: Path) -> None:
    ending, rows, task, comment = FILES[case]
    written = draft_config([write(tmp_path / f"topics.{ending}", rows)])
    line = next(line for line in written.splitlines() if line.startswith("  topics: {"))
    assert "{type: multi_label_classification, source: topics, label" in line
    assert task in line
    assert re.search(comment, written)
    assert gold(written.replace("[label_0, label_1, label_2]", "[harbour, orchard, library]")) == EXPECTED


def test_the_file_that_is_named_decides_for_files_of_all_splits(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", labelled(";".join))
    dev = write(tmp_path / "dev.csv", [{"text": f"other {row}", "labels": "harbour"} for row in range(9)])
    written = draft_config([train, dev])
    assert "label_separator: ;}" in written
    assert [labels for _, labels in gold(written)][:2] == [["harbour"], ["harbour"]]


def test_columns_with_other_labels_are_tasks_of_their_own(tmp_path: Path) -> None:
    rows = [row | {"mood": "ab"[number % 2]} for number, row in enumerate(in_columns(int))]
    path = write(tmp_path / "topics.csv", rows)
    written = draft_config([path])
    assert "  mood: {type: sequence_classification, source: topics, label: mood}" in written
    assert "  topics_labels: {type: multi_label_classification, source: topics, label: [harbour, orchard," in written
    instead = "instead: {type: sequence_classification, source: topics, label: harbour}, ..."
    assert f"# for a task of two classes for each of them {instead}" in written
    chosen = draft_config([path], labels=["harbour", "library"])
    assert "harbour: {type: sequence_classification" in chosen
    assert "label: [" not in chosen


def test_two_such_columns_are_two_tasks_and_a_note(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("text", "harbour", "orchard")} for row in in_columns(int)]
    path = write(tmp_path / "topics.csv", rows)
    assert one_hot_columns(describe_file(path)) == ["harbour", "orchard"]
    written = draft_config([path])
    assert "several labels per row, write `type: multi_label_classification, label: [harbour, orchard]`" in written
    assert written.count("{type: sequence_classification") == 2


def test_a_joined_column_can_be_taken_as_one_label(tmp_path: Path) -> None:
    path = write(tmp_path / "topics.csv", labelled(";".join))
    written = draft_config([path], labels=["labels=sequence_classification"])
    assert "label: labels, metrics" in written or "label: labels}" in written
    assert "label_separator" not in written
    assert "label_separator: ;" in draft_config([path], labels=["labels=multi_label_classification"])


@pytest.mark.parametrize(
    ("rows", "joined"),
    [
        (labelled(lambda topics: "Riga, harbour"), {}),
        ([{"text": text, "labels": place} for text, place in
          zip(TEXTS, ["Riga, harbour", "Oslo, quay", "Elm, market"] * 10, strict=True)], {}),  # a comma inside a name
        (labelled(lambda topics: f"{len(topics)},5"), {}),
        (labelled(lambda topics: "yes;" if topics else "no;"), {}),
        (labelled(lambda topics: str([{"name": name} for name in topics])), {}),
        # Lists as long as those of words are tags of words.
        ([{"tokens": str(text.split()), "tags": str(["O"] * 9)} for text in TEXTS], {}),
        ([{"text": text, "tags": str(["O"] * 9)} for text in TEXTS], {}),
        (labelled(";".join), {"labels": ";"}),
        (labelled(repr), {"labels": None}),
    ],
)  # fmt: skip
def test_what_stands_for_a_list_of_labels(rows: Any, joined: dict[str, str | None], tmp_path: Path) -> None:
    file = describe_file(write(tmp_path / "rows.csv", rows))
    assert find_joined(file, exclude=()) == joined
    assert find_joined(file, exclude=["labels"]) == {}
    assert not {*column_shapes(with_lists(file, joined))} & {*joined}


def test_lists_of_several_types_are_described(tmp_path: Path) -> None:
    cells = ["[1, 0.5]", "['a', 1]", "[]"]
    rows = [{"text": text, "labels": cells[number % 3]} for number, text in enumerate(TEXTS)]
    file = describe_file(write(tmp_path / "rows.csv", rows))
    assert with_lists(file, {"labels": None}).columns["labels"].common == [("1", 20), ("0.5", 10), ("a", 10)]


def table_rows() -> list[tuple[str, list[str], str]]:
    """The rows of the table of the docs: what the file has, the lines of its example, and the task."""
    page = (Path(__file__).parents[2] / "docs" / "data_files.md").read_text(encoding="utf-8")
    section = page.partition("\n## Several labels\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|") and "`" in line]
    return [(what.strip(), re.findall("`(.*?)`", example), task.strip(" `")) for what, example, task in lines]


@pytest.mark.parametrize(("what", "lines", "task"), table_rows())
def test_the_examples_of_the_docs_are_read_as_they_say(what: str, lines: list[str], task: str, tmp_path: Path) -> None:
    path = tmp_path / ("rows.jsonl" if lines[0].startswith("{") else "rows.csv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"rows": {"path": "json" if path.suffix == ".jsonl" else "csv", "text": "text",
                             "data_files": {"train": str(path), "validation": str(path)}}},
        "tasks": {"topics": {"type": "multi_label_classification", "source": "rows"} | yaml.safe_load(f"{{{task}}}")},
    })  # fmt: skip
    sources = load_sources(config)
    build_tasks(config, sources)
    assert list(sources["rows"].gold["train"]["topics"]) == [["harbour", "quay"]], what


def test_the_docs_have_every_way_to_write_several_labels() -> None:
    assert len(table_rows()) == 6
