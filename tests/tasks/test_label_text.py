"""Tests of `mtl_hf.tasks.label_text`: what is changed of labels as people write them, and what is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.tasks import TaskData
from mtl_hf.tasks.label_text import as_number, find_name, report_similar_labels, tidy_labels
from mtl_hf.tasks.name_column import NameColumn


def test_spaces_around_labels_are_removed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    values = NameColumn.of([["sport "], [" news"], ["a b"], None, [" "], [""], [5], ["x ", "y"]])
    tidied = tidy_labels("topic", values, lambda row: f"row {row + 1}")
    assert tidied == [["sport"], ["news"], ["a b"], None, [None], [None], [5], ["x", "y"]]
    assert caplog.messages == [
        "Task topic: the spaces around 4 labels are removed (the first: 'sport ' in row 1).",
        "Task topic: 1 labels are empty text and count as missing (the first: row 6).",
    ]
    caplog.clear()
    assert tidy_labels("topic", NameColumn.of([["a"], None]), str) == [["a"], None]
    assert caplog.messages == []


def test_labels_that_differ_in_case_only_are_said(caplog: pytest.LogCaptureFixture) -> None:
    report_similar_labels("answer", ["yes", "No", "YES", "no", "maybe"])
    assert caplog.messages == [
        "Task answer: labels that differ only in case are different labels: No / no; YES / yes. To merge them, map"
        " them to one name in `tasks.answer.labels`."
    ]
    caplog.clear()
    report_similar_labels("answer", ["1", "01", "+1", "a"])
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.5", 1.5), ("+2", 2.0), ("1e-3", 0.001), ("1_0", "1_0"), ("high", "high"), ("", ""), (None, None), (3, 3)],
)
def test_numbers_as_text(value: Any, expected: Any) -> None:
    assert as_number(value) == expected


@pytest.mark.parametrize(
    ("value", "names", "expected"),
    [
        ("True", ["true", "false"], "true"),
        ("FALSE", ["true", "false"], "false"),
        ("True", ["True", "true"], "True"),
        ("True", ["yes"], "True"),
        ("1.0", ["0", "1"], "1"),
        ("-1.00", ["-1"], "-1"),
        ("1.0", ["1", "1.0"], "1.0"),
        ("1.10", ["1", "1.1"], "1.10"),
        ("01", ["1"], "01"),
        ("true", ["True", "False"], "True"),
        ("True", ["TRUE", "FALSE"], "TRUE"),
        ("true", ["True", "TRUE"], "true"),
        ("1", ["0.0", "1.0"], "1.0"),
        ("1.00", ["1.0", "1"], "1"),
        ("1", ["1.5", "01"], "1"),
        ("a", ["A"], "a"),
        (None, ["1"], None),
        (1, ["1"], 1),
    ],
)
def test_names_of_configs_and_models(value: Any, names: list[str], expected: Any) -> None:
    assert find_name(value, names) == expected


# Labels of CSV files


def read(folder: Path, cells: list[str], *, known: list[str] | None = None, **task: Any) -> tuple[TaskData, list[Any]]:
    """A task on a column of a CSV file, and the labels of its training rows."""
    path = folder / "rows.csv"
    path.write_text("text,label\n" + "".join(f"text {n},{cell}\n" for n, cell in enumerate(cells)))
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"notes": {"path": "csv", "data_files": dict.fromkeys(("train", "validation"), str(path)),
                              "text": "text"}},
        "tasks": {"task": {"type": "sequence_classification", "source": "notes", "label": "label"} | task},
    })  # fmt: skip
    sources = load_sources(config)
    tasks = build_tasks(config, sources, {"task": known} if known else None)
    return tasks["task"], sources["notes"].gold["train"]["task"]


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["01", "1", "001", "2"], ["001", "01", "1", "2"]),
        (["0450", "450", ""], ["0450", "450"]),
        (["2.0", "1.0", "1.10", "1.1"], ["1.0", "1.1", "1.10", "2.0"]),
        (["+1", "-1", "0"], ["+1", "-1", "0"]),
        (["TRUE", "FALSE", "TRUE"], ["FALSE", "TRUE"]),
        (["1234567890123456789", "1234567890123456788", ""], ["1234567890123456788", "1234567890123456789"]),
        (["sport ", " news", "news"], ["news", "sport"]),
        (["YES", "yes", "No", "no"], ["No", "YES", "no", "yes"]),
    ],
)
def test_labels_are_what_the_file_has(tmp_path: Path, cells: list[str], labels: list[str]) -> None:
    task, gold = read(tmp_path, cells)
    assert task.labels == labels  # in one order in every process, also where two are the same number
    assert gold == [cell.strip() or None for cell in cells]


def test_tables_of_names_take_numbers_and_truth_values_as_they_always_did(tmp_path: Path) -> None:
    assert read(tmp_path, ["0", "1", "0"], labels={0: "neg", 1: "pos"})[1] == ["neg", "pos", "neg"]
    assert read(tmp_path, ["0.0", "1.0", ""], labels={0: "neg", 1: "pos"})[1] == ["neg", "pos", None]
    assert read(tmp_path, ["True", "FALSE"], labels={True: "pos", False: "neg"})[1] == ["pos", "neg"]
    assert read(tmp_path, ["01", "1"], labels={"01": "a", "1": "b"})[1] == ["a", "b"]
    with pytest.raises(ValueError, match=r"`tasks\.task\.labels` has no name for '01'.*it has names for 0, 1"):
        read(tmp_path, ["01", "1"], labels={0: "neg", 1: "pos"})


def test_models_keep_the_names_that_they_learned(tmp_path: Path) -> None:
    assert read(tmp_path, ["True", "False"], known=["false", "true"])[1] == ["true", "false"]
    assert read(tmp_path, ["1.0", "0.0"], known=["0", "1"])[1] == ["1", "0"]


def files(folder: Path, **cells: list[str]) -> dict[str, str]:
    """CSV files, by the names of splits, with these labels."""
    for name, held in cells.items():
        rows = "".join(f"{name} {number},{cell}\n" for number, cell in enumerate(held))
        (folder / f"{name}.csv").write_text("text,label\n" + rows)
    return {name: str(folder / f"{name}.csv") for name in cells}


@pytest.mark.parametrize(
    ("train", "validation", "read_as"),
    [
        (["0", "1", "0"], ["1.0", "", "0.0"], ["1", None, "0"]),  # as pandas writes them beside an empty cell
        (["0.0", "", "1.0"], ["1", "0"], ["1.0", "0.0"]),
        (["True", "False"], ["TRUE", "false"], ["True", "False"]),
        (["01", "02"], ["1", "2.0"], ["1", "2.0"]),
        (["1.0", "1", "1.1"], ["1", "1.0", "1.1"], ["1", "1.0", "1.1"]),
    ],
)
def test_labels_of_another_split_are_those_of_training(
    tmp_path: Path, train: list[str], validation: list[str], read_as: list[str | None]
) -> None:
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"notes": {"path": "csv", "text": "text",
                              "data_files": files(tmp_path, train=train, validation=validation)}},
        "tasks": {"task": {"type": "sequence_classification", "source": "notes", "label": "label"}},
    })  # fmt: skip
    sources = load_sources(config)
    task = build_tasks(config, sources)["task"]
    assert sources["notes"].gold["validation"]["task"] == read_as
    assert task.labels == sorted({label for label in train if label})


def test_sources_that_write_numbers_differently_share_their_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = files(tmp_path, one=["0", "1"], two=["1.0", "", "0.0"], three=["1.0", "2.0"], scored=["1", "2.0"])
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {name: {"path": "csv", "text": "text",
                           "data_files": {"train": held[name], "validation": held["scored"]}}
                    for name in ("one", "two", "three")},
        "tasks": {"task": {"type": "sequence_classification", "source": ["one", "two", "three"], "label": "label"}},
    })  # fmt: skip
    sources = load_sources(config)
    with caplog.at_level("INFO", "mtl_hf"):
        task = build_tasks(config, sources)["task"]
    assert task.labels == ["0", "1", "2.0"]
    assert sources["two"].gold["train"]["task"] == ["1", None, "0"]
    assert "Task task: labels of two train are read under another name: 0.0 as 0, 1.0 as 1." in caplog.text


def test_lists_of_labels_take_numbers_as_tables_of_names_do(tmp_path: Path) -> None:
    task, gold = read(tmp_path, ["1.0", "0.0", ""], labels=["1", "0"])
    assert (task.labels, gold) == (["1", "0"], ["1", "0", None])


def test_numbers_of_a_regression(tmp_path: Path) -> None:
    assert read(tmp_path, ["1", "+2.5", "", "1E1"], type="regression")[1] == [1.0, 2.5, None, 10.0]
    with pytest.raises(ValueError, match="row 2 of the split 'train' of source 'notes' has 'high'"):
        read(tmp_path, ["1", "high", "3"], type="regression")
    with pytest.raises(ValueError, match=r"row 1 .* has '1;5'") as caught:
        read(tmp_path, ["1;5", "2"], type="regression")
    assert "decimal" not in str(caught.value)
    with pytest.raises(ValueError, match=r"row 1 .* has '1,5' .* `decimal: \",\"` of the source reads numbers with"):
        read(tmp_path, ['"1,5"', "2"], type="regression")


# ---- numbers without names ----


@pytest.mark.parametrize(
    ("cells", "labels", "warning"),
    [
        (["0", "1", "0", "1"], None, "(0, 1). `tasks.task.labels: {0: NAME, 1: NAME}` names them."),
        (["3", "-1", "10", "2"], None, "(-1, 2, 3, 10). `tasks.task.labels: {-1: NAME, 2: NAME, 3: NAME, ...}` names"),
        (["0", "1", "0", "1"], {"0": "no", "1": "yes"}, None),
        (["001", "1", "010", "2"], None, None),  # codes
        (["+1", "-1", "0", "0"], None, None),
        (["a", "1", "2", "a"], None, None),
    ],
)
def test_numbers_without_names_are_said(
    cells: list[str], labels: Any, warning: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read(tmp_path, cells, **({"labels": labels} if labels else {}))
    found = [line for line in caplog.messages if "without names" in line]
    assert len(found) == (warning is not None)
    assert all(line.startswith("Task task: its labels are numbers without names ") for line in found)
    assert all(str(warning) in line for line in found)


def test_a_number_among_labels_of_text_is_text_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.jsonl"
    labels = ["01", "1", "2", "01", "1", 5]
    path.write_text("".join(json.dumps({"text": f"text {n}", "label": label}) + "\n" for n, label in enumerate(labels)))
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"notes": {"path": "json", "data_files": dict.fromkeys(("train", "validation"), str(path)),
                              "text": "text"}},
        "tasks": {"task": {"type": "sequence_classification", "source": "notes", "label": "label"}},
    })  # fmt: skip
    sources = load_sources(config)
    assert build_tasks(config, sources)["task"].labels == ["01", "1", "2", "5"]
    assert sources["notes"].gold["train"]["task"] == ["01", "1", "2", "01", "1", "5"]
    assert "line 6: the column 'label' holds 5, but text in most rows. The column is read as text" in caplog.text
