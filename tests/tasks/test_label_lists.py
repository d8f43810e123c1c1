"""Tests of `mtl_hf.tasks.label_lists`: several labels in one string, in lists written as text, and in columns."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Features, Value

from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks, check_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.saved.data_file import config_of_file
from mtl_hf.tasks import SourceData, TaskData
from mtl_hf.tasks.label_lists import find_separator
from mtl_hf.tasks.written_lists import parse_list

SETS = "multi_label_classification"
NAMES = ["harbour", "orchard", "library"]


def build(
    columns: dict[str, list[Any]], features: Any = None, given: list[str] | None = None, **task: Any
) -> tuple[TaskData, SourceData]:
    """The task `t` on the rows of a `Dataset` of texts and these columns, which are training and validation rows."""
    number = len(next(iter(columns.values())))
    schema = Features({"text": Value("string")} | features) if features else None
    rows = datasets.Dataset.from_dict({"text": [f"text {row}" for row in range(number)]} | columns, features=schema)
    return from_source({"dataset": {"train": rows, "validation": rows}}, given, **task)


def from_source(source: dict[str, Any], given: list[str] | None = None, **task: Any) -> tuple[TaskData, SourceData]:
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": source | {"text": "text"}},
        "tasks": {"t": {"type": SETS, "source": "only", "label": "y"} | task},
    })  # fmt: skip
    check_tasks(config)
    sources = load_sources(config)
    return build_tasks(config, sources, {"t": given} if given else None)["t"], sources["only"]


def table(path: Path, columns: dict[str, list[Any]]) -> dict[str, Any]:
    """A source of a CSV file with these columns beside the text, which are training and validation rows."""
    number = len(next(iter(columns.values())))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *columns])
        writer.writerows([f"text {row}", *(held[row] for held in columns.values())] for row in range(number))
    return {"path": "csv", "data_files": {"train": str(path), "validation": str(path)}}


def gold(found: tuple[TaskData, SourceData]) -> tuple[list[str], list[Any]]:
    task, source = found
    return task.labels, list(source.gold["train"]["t"])


# ---- names in one string ----


def test_names_are_separated_and_their_spaces_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = ["b;a", "", "a; c", "c", "a;;b;", " "]
    found = gold(from_source(table(tmp_path / "rows.csv", {"y": cells}), label_separator=";"))
    assert found == (["a", "b", "c"], [["a", "b"], [], ["a", "c"], ["c"], ["a", "b"], []])
    where = "of the split 'train' of source 'only'"
    assert f"Task t: the spaces around 1 labels are removed (the first: ' c' in row 3 {where})." in caplog.messages
    assert f"Task t: 2 empty cells of the column 'y' are rows without labels (the first: row 2 {where})." in caplog.text
    assert f"1 cells have a separator ';' without a name beside it, which is ignored (the first: 'a;;b;' in row 5 {where})" in caplog.text  # fmt: skip # noqa: E501


def test_null_in_a_dataset_is_a_row_without_a_list() -> None:
    assert gold(build({"y": ["a|b", None, "", "b"]}, label_separator="|"))[1] == [["a", "b"], None, [], ["b"]]


def test_separators_of_several_characters_and_names_of_numbers() -> None:
    assert gold(build({"y": ["1, 2", "2", "10"]}, label_separator=", "))[0] == ["1", "2", "10"]
    renamed = build({"y": ["1;2", "2"]}, label_separator=";", labels={"1": "one", "2": "two"})
    assert gold(renamed) == (["one", "two"], [["one", "two"], ["two"]])


def test_a_separator_that_occurs_in_no_cell_is_refused_with_the_first_cells() -> None:
    with pytest.raises(ValueError) as caught:
        build({"y": [None, "a,b", "", "c", "a,b", "d", "e"]}, label_separator=";")
    assert str(caught.value) == (
        "`tasks.t.label_separator` is ';', which occurs in no cell of the column 'y' of source 'only'. The first cells"
        " are 'a,b', 'c', 'd'."
    )


def test_a_file_for_a_trained_model_may_have_one_label_in_every_row() -> None:
    assert gold(build({"y": ["a", "b"]}, given=["a", "b", "c"], label_separator=";"))[1] == [["a"], ["b"]]


@pytest.mark.parametrize(("values", "held"), [([["a"], ["b"]], "lists"), ([1, 2], "int64 values")])
def test_a_separator_for_a_column_without_text_is_refused(values: list[Any], held: str) -> None:
    with pytest.raises(ValueError, match=f"`tasks.t.label_separator` is ';', but the column 'y' .* holds {held}, not"):
        build({"y": values}, label_separator=";")


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`tasks\.t\.label_separator` is empty"):
        build({"y": ["a;b"]}, label_separator="")


def test_joined_names_without_a_separator_are_refused_with_the_key() -> None:
    with pytest.raises(ValueError, match=r"row 1 .* has 'a;b' in the column 'y'; .*`label_separator: \";\"` reads"):
        build({"y": ["a;b", "c"]})


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["a;b", "b", "a;b", "a", "b", "a; b;a"], ";"),
        (["a|b", "b|a", "a", "b"], "|"),
        (["a, b", "b, a", "a", "b"], ","),
        (["a", "b", None, ""], None),
        (["3,5", "4,5", "3", "5"], None),
        (["Riga, harbour", "Oslo, quay", "Elm, market"] * 2, None),
    ],
)
def test_separators_are_found(cells: list[str | None], separator: str | None) -> None:
    assert find_separator(cells) == separator


# ---- lists written as text ----


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        (" [0, 1] ", [0, 1]),
        ("[true, false]", [True, False]),
        ("[True, False]", [True, False]),
        ("('a',)", ["a"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("[]", []),
        ("a", None),
        ("['a'", None),
        ("[open('x')]", None),
        ("{'a': 1}", None),
        ("{[1]}", None),
        ("[" * 100_000, None),
    ],
)
def test_lists_are_parsed_and_never_evaluated(cell: str, found: list[Any] | None) -> None:
    assert parse_list(cell) == found


def test_lists_of_names_written_as_text_are_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = ["['b', 'a ']", "[]", '["a"]', "", "['b', 'b']"]
    assert gold(from_source(table(tmp_path / "rows.csv", {"y": cells}))) == (
        ["a", "b"], [["a", "b"], [], ["a"], None, ["b"]]
    )  # fmt: skip
    assert "the column 'y' of source only holds lists written as text, such as ['b', 'a ']; they" in caplog.text
    assert "the spaces around 1 labels are removed (the first: 'a ' in row 1" in caplog.text


@pytest.mark.parametrize("make", [int, float, bool])
def test_one_hot_lists_written_as_text_are_one_hot_lists(make: type, tmp_path: Path) -> None:
    rows = [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    cells = [str([make(item) for item in row]) for row in rows]
    source = table(tmp_path / "rows.csv", {"y": cells})
    assert gold(from_source(source, labels=NAMES)) == (NAMES, [["orchard"], ["harbour", "library"], []])
    with pytest.raises(
        ValueError, match=r"holds one-hot lists of 3 values, such as .* Name the label of each position"
    ):
        from_source(source)


@pytest.mark.parametrize(
    ("cells", "task", "expected"),
    [
        (["['a']", "['b']", "b"], {}, r"row 3 .* has 'b' in the column 'y'; it should be a list .* such as \['a'\],"),
        (["['a']", "['b', "], {}, r"row 2 .* has \"\['b', \" in the column 'y'; it should be a list"),
        (["['a']", "[['b']]"], {}, r"row 2 .* has \"\[\['b'\]\]\" in the column 'y'; it should be a list"),
        (["['a']", "[{'b': 1}]"], {}, r"row 2 .* has \"\[\{'b': 1\}\]\" in the column 'y'; it should be a list"),
        (["['a']", "[0.5]"], {}, r"row 2 .* has 0.5 in the column 'y'; .* takes a list of labels"),
        (["['a']", "[null]"], {}, r"row 2 .* takes a list of labels"),
        (["[0, 1, 0]"] * 20 + ["[0, 1]"], {"labels": NAMES}, r"row 21 .* has \[0, 1\] .* one-hot list of 3 values"),
    ],
)
def test_cells_that_are_no_such_lists_are_refused_with_their_row(
    cells: list[str], task: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected):
        from_source(table(tmp_path / "rows.csv", {"y": cells}), **task)


@pytest.mark.parametrize(
    ("values", "shown"),
    [([["a"], [None]], "None"), ([[0.5], [1.0]], "0.5"), ([[{"a": 1}], []], r"\{'a': 1\}")],
)
def test_lists_of_what_is_no_name_are_refused_with_their_row(values: list[Any], shown: str) -> None:
    with pytest.raises(ValueError, match=rf"`tasks\.t`: row \d of .* has .*{shown}.* in the column 'y'; "):
        build({"y": values})


# ---- a column per label ----


@pytest.mark.parametrize("make", [int, float, bool, str, lambda value: f"{value}.0", lambda value: str(value == 1)])
@pytest.mark.parametrize("csv_file", [False, True])
def test_columns_are_labels_by_their_names(make: Any, csv_file: bool, tmp_path: Path) -> None:
    columns = {"toxic": [1, 0, 1, 0], "threat": [0, 0, 1, 0], "absent": [0, 0, 0, 0]}
    made = {name: [make(value) for value in held] for name, held in columns.items()}
    names = list(columns)
    found = from_source(table(tmp_path / "r.csv", made), label=names) if csv_file else build(made, label=names)
    assert gold(found) == (names, [["toxic"], [], ["threat", "toxic"], []])  # in the order of the config, with all


@pytest.mark.parametrize("empty", [None, float("nan")])
def test_a_row_without_any_value_has_no_label_and_one_with_some_is_refused(empty: Any, tmp_path: Path) -> None:
    columns = {"toxic": [1, empty, 0], "threat": [0, empty, 1]}
    assert gold(build(columns, label=["toxic", "threat"]))[1] == [["toxic"], None, ["threat"]]
    cells = {name: ["" if value != value or value is None else value for value in held] for name, held in columns.items()}  # fmt: skip # noqa: E501
    assert gold(from_source(table(tmp_path / "r.csv", cells), label=["toxic", "threat"]))[1][1] is None
    with pytest.raises(ValueError) as caught:
        build({"toxic": [1, 0, 0, 1], "threat": [0, empty, 1, empty]}, label=["toxic", "threat"])
    assert str(caught.value) == (
        "`tasks.t`: row 2 of the split 'train' of source 'only' has no value in 'threat', but in other columns of"
        " `label` (and 1 more rows lack some). Fill in 0 or 1, or leave all of them empty for a row without label."
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"toxic": [1, 0], "kind": ["rude", "fine"]},
            r"'kind' holds text \('rude' in row 1 of .*\), but 'toxic' holds 0 and 1\. With several",
        ),
        ({"kind": ["rude", "fine"], "toxic": [1, 0]}, r"'kind' holds text \('rude' .*, but 'toxic' holds 0 and 1"),
        ({"toxic": [1, 0], "threat": ["0", "1"]}, r"'threat' holds 0 and 1 as text \('0' .*'toxic' holds 0 and 1\."),
        ({"toxic": [1, 0], "threat": [True, False]}, r"'threat' holds true and false \(True .*'toxic' holds 0 and 1\."),
        ({"toxic": [1, 0], "stars": [1, 4]}, r"'stars' holds numbers \(4 in row 2 .*, but 'toxic' holds 0 and 1"),
        ({"toxic": [0.5, 0.0]}, r"'toxic' holds numbers \(0.5 in row 1 .*\)\. With several"),
        ({"toxic": [1, 0], "threat": [[1], [0]]}, r"'threat' holds lists \(\[1\] in row 1 .*'toxic' holds 0 and 1"),
        ({"toxic": ["yes", "no"]}, r"'toxic' holds text \('yes' in row 1"),
    ],
)
def test_columns_of_other_values_or_types_are_refused_by_name(columns: dict[str, list[Any]], expected: str) -> None:
    with pytest.raises(ValueError, match=rf"`tasks\.t\.label`: the column {expected}"):
        build(columns, label=list(columns))


def test_columns_of_a_table_that_differ_in_type_are_refused(tmp_path: Path) -> None:
    source = table(tmp_path / "r.csv", {"toxic": [1, 0], "kind": ["rude", "fine"]})
    with pytest.raises(ValueError, match=r"'kind' holds text \('rude' in row 1 .*, but 'toxic' holds 0 and 1"):
        from_source(source, label=["toxic", "kind"])


def test_classes_of_a_column_are_read_by_name_and_not_by_number() -> None:
    columns = {"toxic": [1, 0, -1], "threat": [0, 0, -1]}
    kinds = {"toxic": ClassLabel(names=["false", "true"]), "threat": ClassLabel(names=["False", "True"])}
    assert gold(build(columns, kinds, label=["toxic", "threat"]))[1] == [["toxic"], [], None]
    turned = kinds | {"toxic": ClassLabel(names=["toxic", "fine"])}
    with pytest.raises(ValueError, match=r"'toxic' holds text \('fine' in row 1"):
        build(columns, turned, label=["toxic", "threat"])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"label": []}, r"`tasks\.t\.label` is empty"),
        ({"label": ["a", ""]}, r"`tasks\.t\.label` is empty"),
        ({"label": ["a", "a"]}, r"`tasks\.t\.label` names the column 'a' twice"),
        ({"label": ["a", "b"], "labels": ["x", "y"]}, r"`tasks\.t\.labels` only works with a single label column"),
        ({"label": ["a", "b"], "label_separator": ";"}, r"`tasks\.t\.label_separator` only works with a single"),
        ({"label": ["a", "c"]}, r"`tasks\.t\.label` is 'c', but the split 'train' of source 'only' has no such column"),
        ({"label": ["a", "b"], "type": "sequence_classification"}, r"sequence_classification has one label column. Only"
                                                                   " multi_label_classification takes several"),
        ({"label": "a", "type": "sequence_classification", "label_separator": ";"},
         r"`tasks\.t\.label_separator` is an option of multi_label_classification"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_several_columns_are_refused(task: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build({"a": [0, 1], "b": [1, 1]}, **task)


def test_a_task_without_any_label_is_refused_with_its_columns() -> None:
    with pytest.raises(ValueError, match="no training row has a label in the columns 'a', 'b'"):
        build({"a": [0, 0], "b": [0, 0]}, label=["a", "b"])


# ---- a file for a saved model ----

HEADS = {"t": {"type": SETS, "labels": ["a", "b"], "text": "string"}}


def scored(path: Path, task: dict[str, Any]) -> Any:
    run = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"path": "json", "data_files": "x", "text": "text"}},
        "tasks": {"t": {"type": SETS, "source": "only"} | task},
    })  # fmt: skip
    return config_of_file(path, HEADS, run).tasks["t"]


def test_a_file_is_read_by_the_columns_of_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "x", "a": 1, "b": 0}) + "\n", encoding="utf-8")
    assert scored(path, {"label": ["a", "b"]}).label == ["a", "b"]
    assert "labels a and b of t" in caplog.text
    with pytest.raises(ValueError, match="none has the name of a head"):
        scored(path, {"label": ["a", "c"]})
    assert "has no column a or c or t" in caplog.text
    path.write_text(json.dumps({"text": "x", "t": ["a"]}) + "\n", encoding="utf-8")
    assert scored(path, {"label": ["a", "b"]}).label == "t"


def test_a_file_of_lists_needs_no_separator(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    task = {"label": "y", "label_separator": ";"}
    path.write_text(json.dumps({"text": "x", "y": "a;b"}) + "\n", encoding="utf-8")
    assert scored(path, task).options == {"label_separator": ";"}
    path.write_text(json.dumps({"text": "x", "y": ["a", "b"]}) + "\n", encoding="utf-8")
    assert scored(path, task).options == {}
