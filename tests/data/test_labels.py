"""Tests of `mtl_hf.data.labels`: label columns of every kind, vocabularies, BIO, and what is refused."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Features, List, Value

from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks, check_scored, warn_of_labels
from mtl_hf.data.sources import load_sources
from mtl_hf.findings import report
from mtl_hf.metrics import METRICS
from mtl_hf.modeling.heads import HEADS
from mtl_hf.tasks import TASK_TYPES, SourceData, TaskData
from tests.conftest import warnings_of

CLASSES = "sequence_classification"
SETS = "multi_label_classification"
NUMBERS = "regression"
TAGS = "token_classification"


def build(
    kind: str, values: list[Any] | dict[str, list[Any]], feature: Any = None, **task: Any
) -> tuple[TaskData, SourceData]:
    """The task of one label column (of the training split, or of each split), and its source."""
    splits = values if isinstance(values, dict) else {"train": values, "validation": values}
    words = kind == TAGS
    rows = {}
    for split, column in splits.items():
        texts: list[Any] = [[split] * len(value or [0]) if words else f"{split} text" for value in column]
        features = (
            Features({"text": List(Value("string")) if words else Value("string"), "y": feature}) if feature else None
        )
        rows[split] = datasets.Dataset.from_dict({"text": texts, "y": column}, features=features)
    config = RunConfig.load(
        {
            "model": {"encoder": "unused"},
            "sources": {"only": {"dataset": rows, "text": "text"}},
            "tasks": {"task": {"type": kind, "source": "only", "label": "y"} | task},
        }
    )
    sources = load_sources(config)
    return build_tasks(config, sources)["task"], sources["only"]


def gold(kind: str, values: Any, feature: Any = None, **task: Any) -> tuple[list[str], list[Any]]:
    """The vocabulary and the labels of the training rows."""
    built, source = build(kind, values, feature, **task)
    return built.labels, source.gold["train"]["task"]


def test_every_task_type_has_a_head_a_description_and_metrics() -> None:
    assert list(HEADS) == list(TASK_TYPES) == list(METRICS)


# Kinds of columns


@pytest.mark.parametrize(
    ("values", "feature", "vocabulary", "names"),
    [
        (["b", "a", None, "b"], None, ["a", "b"], ["b", "a", None, "b"]),
        ([10, 9, -1, None], None, ["-1", "9", "10"], ["10", "9", "-1", None]),
        ([True, False, None], None, ["false", "true"], ["true", "false", None]),
        ([2.0, 1.0, None], None, ["1", "2"], ["2", "1", None]),
        ([float("nan"), 1.0, 0.0], None, ["0", "1"], [None, "1", "0"]),
        ([1, 0, -1, None], ClassLabel(names=["z", "a"]), ["z", "a"], ["a", "z", None, None]),
        (["1", "x"], None, ["1", "x"], ["1", "x"]),
    ],
)
def test_classes_of_every_kind_become_names(values: list[Any], feature: Any, vocabulary: list[str], names: Any) -> None:
    assert gold(CLASSES, values, feature) == (vocabulary, names)


@pytest.mark.parametrize(
    ("values", "feature", "vocabulary", "names"),
    [
        ([["b", "a"], [], None], None, ["a", "b"], [["a", "b"], [], None]),
        ([[2, 10], [10, 10]], None, ["2", "10"], [["10", "2"], ["10"]]),
        ([[0], [1, 0], []], List(ClassLabel(names=["z", "a"])), ["z", "a"], [["z"], ["a", "z"], []]),
    ],
)
def test_sets_of_every_kind_become_names(values: list[Any], feature: Any, vocabulary: list[str], names: Any) -> None:
    assert gold(SETS, values, feature) == (vocabulary, names)


@pytest.mark.parametrize(
    ("values", "feature", "vocabulary", "names", "spans"),
    [
        ([["B-b", "I-b", "O"], ["B-a"], None], None, ["O", "B-a", "B-b", "I-b"],
         [["B-b", "I-b", "O"], ["B-a"], None], True),
        ([["O", None, "B-a"]], None, ["O", "B-a"], [["O", None, "B-a"]], True),
        ([["NOUN", "VERB"], ["ADJ"]], None, ["ADJ", "NOUN", "VERB"], [["NOUN", "VERB"], ["ADJ"]], False),
        ([[1, 0], [0]], None, ["0", "1"], [["1", "0"], ["0"]], False),
        ([[2, 0], [1, -1]], List(ClassLabel(names=["O", "I-x", "B-x"])), ["O", "I-x", "B-x"],
         [["B-x", "O"], ["B-x", None]], True),
    ],
)  # fmt: skip
def test_tags_of_every_kind_become_names(
    values: list[Any], feature: Any, vocabulary: list[str], names: Any, spans: bool
) -> None:
    task, source = build(TAGS, values, feature)
    assert task.labels == vocabulary
    assert source.gold["train"]["task"] == names
    assert task.spans is spans
    assert task.ids == {name: index for index, name in enumerate(vocabulary)}


def test_numbers_are_read_as_floats_and_absent_ones_as_none() -> None:
    assert gold(NUMBERS, [1, 2, None]) == ([], [1.0, 2.0, None])
    assert gold(NUMBERS, [0.5, float("nan"), None]) == ([], [0.5, None, None])


@pytest.mark.parametrize(
    ("values", "options", "remedy"),
    [
        ([30, 392, None], {}, "as (label - 211) / 181, or set `tasks.task.loss_weight: 3.1e-05` (1 / variance)"),
        ([200, 202], {}, "as (label - 201) / 1."),
        ([-20, -20], {}, "as label - (-20)."),
        ([30, 392], {"loss_weight": 3.1e-5}, None),
        ([1, 5, 9], {}, None),
    ],
)
def test_numbers_far_from_unit_size_draw_a_warning_with_what_mends_it(
    values: Any, options: Any, remedy: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    task, source = build(NUMBERS, values, **options)
    warn_of_labels({"task": task}, {source.name: source})
    far = [message for message in caplog.messages if "mean" in message]
    assert len(far) == (remedy is not None)
    assert all(str(remedy) in message for message in far)


# One-hot lists

HOT = [[0, 1, 0], [1, 0, 1], [0, 0, 0], None]
NAMES = ["harbour", "orchard", "library"]


@pytest.mark.parametrize("kind", [int, float, bool, lambda value: str(int(value))], ids=["int", "float", "bool", "str"])
def test_one_hot_lists_are_read_by_the_names_of_their_places(kind: Any) -> None:
    rows = [None if row is None else [kind(value) for value in row] for row in HOT]
    assert gold(SETS, rows, labels=NAMES) == (NAMES, [["orchard"], ["harbour", "library"], [], None])


def test_one_hot_lists_without_names_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError) as caught:
        build(SETS, HOT)
    assert str(caught.value) == (
        "`tasks.task`: the column 'y' holds one-hot lists of 3 values, such as [0, 1, 0] in row 1 of the split 'train'"
        " of source 'only'. Name the label of each position, in this order: `labels: [name1, name2, name3]`."
    )
    with pytest.raises(ValueError, match=r"`labels: \[name1, name2\]`"):
        build(SETS, [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match=r"`labels: \[name1, name2, name3, \.\.\.\]`"):
        build(SETS, [[0.0, 1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("rows", "labels", "expected"),
    [
        (
            HOT,
            ["a", "b"],
            "labels` has 2 names, but the column 'y' holds one-hot lists of 3 values, such as .0, 1, 0. in",
        ),
        (
            [*HOT * 10, [0, 1]],
            NAMES,
            r"row 41 .* has \[0, 1\] .* should be a one-hot list of 3 values, 0 or 1",
        ),
        ([*HOT * 10, [0, 2, 1]], NAMES, r"row 41 .* has \[0, 2, 1\] .* should be a one-hot list"),
    ],
)
def test_one_hot_lists_of_another_length_are_refused(rows: Any, labels: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build(SETS, {"train": HOT, "validation": rows}, labels=labels)


def test_table_of_names_does_not_name_the_places_of_one_hot_lists() -> None:
    table = dict(zip("012", NAMES, strict=True))
    for rows in (HOT, [[0, 0, 0]], [[True, False, False]] * 3, [[0, 0, 1, 0]]):
        with pytest.raises(
            ValueError, match=r"names the values 0, 1, 2, but the column 'y' holds one-hot lists"
        ) as caught:
            build(SETS, rows, labels=table)
        assert str(caught.value).endswith("`labels: [harbour, orchard, library]`.")
    for ids in ([[0], [1, 2], []], [[0, 1], [1, 0]], [[0, 1, 2]]):
        assert gold(SETS, ids, labels={**table, "3": "none"})[1] == [
            sorted(NAMES[place] for place in row) for row in ids
        ]


@pytest.mark.parametrize("rows", [[[0], [1, 0], [], [1]], [[0], [1], [1]], [[1, 2], [0, 2], [2, 3]]])
def test_lists_of_ids_are_no_one_hot_lists(rows: list[list[int]]) -> None:
    assert gold(SETS, rows)[1] == [sorted(map(str, row)) for row in rows]


def test_one_hot_lists_of_a_file_are_read_by_the_labels_of_a_trained_model() -> None:
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "y": HOT[:2]})
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"dataset": {"test": rows}, "text": "text"}},
        "tasks": {"task": {"type": SETS, "source": "only", "label": "y"}},
    })  # fmt: skip
    sources = load_sources(config)
    build_tasks(config, sources, {"task": NAMES})
    assert sources["only"].gold["test"]["task"] == [["orchard"], ["harbour", "library"]]


# Numbers that cannot be trained on, and splits without labels


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("number", [float("inf"), -float("inf"), 1e308, -1.1e18])
def test_numbers_beyond_float32_are_refused_with_their_row(split: str, number: float) -> None:
    splits: dict[str, list[Any]] = {name: [1.0, 2.0, 3.0] for name in ("train", "validation", "test")}
    splits[split][1] = number
    with pytest.raises(
        ValueError, match=rf"row 2 of the split '{split}' .* has {re.escape(f'{number:g}')} .* from -1e\+18 to 1e\+18"
    ):
        build(NUMBERS, splits)


def test_numbers_that_are_nan_count_as_missing_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    build(NUMBERS, {"train": [1.0, float("nan"), 2.0, float("nan")], "validation": [1.0, None]})
    assert warnings_of(caplog) == [
        "Task task: 2 labels of only train are NaN and count as missing (the first: row 2 of the split 'train' of"
        " source 'only')."
    ]


@pytest.mark.parametrize(
    ("kind", "labelled", "missing", "found"),
    [
        (NUMBERS, [1.0, 2.0], [None, None], "none of the 2 validation rows of only has a label in the column 'y'"),
        (NUMBERS, [1.0, 2.0], [float("nan")] * 2, "none of the 2"),
        (NUMBERS, [1.0, 2.0], [3.0, None], "only one of the 2 validation rows of only has a label"),
        (CLASSES, ["a", "b"], [None, None], "none of the 2"),
        (SETS, [["a"], ["b"]], [None, None], "none of the 2"),
        (TAGS, [["O"], ["B-x"]], [[None], None], "none of the 2"),
    ],
)
def test_split_without_labels_is_refused_where_it_is_scored(
    kind: str, labelled: Any, missing: Any, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    feature = {CLASSES: Value("string"), NUMBERS: Value("float64")}.get(kind, List(Value("string")))
    task, source = build(kind, {"train": labelled, "validation": missing, "test": labelled}, feature)
    report(check_scored({"task": task}, {"only": source}, ["test"]))
    with pytest.raises(ValueError, match=rf"`tasks\.task`: {found}") as caught:
        report(check_scored({"task": task}, {"only": source}, ["test", "validation"]))
    assert "Add labels, remove these rows, or set `tasks.task.score_weight: 0`." in str(caught.value)
    task.config.score_weight = 0.0
    report(check_scored({"task": task}, {"only": source}, ["validation"]))
    assert f"Task task: {found}" in caplog.text
    with pytest.raises(ValueError, match=found):
        report(check_scored({"task": task}, {"only": source}, ["validation"], "eval_task_accuracy"))


def test_sets_that_are_empty_and_a_label_in_one_of_two_sources_suffice() -> None:
    task, source = build(SETS, {"train": [["a"], ["b"]], "validation": [[], None]}, List(Value("string")))
    report(check_scored({"task": task}, {"only": source}, ["validation"]))


def test_empty_name_of_the_label_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`tasks\.task\.label` is empty; it should name the label column"):
        build(CLASSES, ["a", "b"], label="")


# Labels of the YAML


def test_order_of_the_yaml_is_kept_with_labels_that_no_row_has() -> None:
    assert gold(CLASSES, ["b", "a"], labels=["c", "b", "a"])[0] == ["c", "b", "a"]
    assert gold(CLASSES, [1, 0], ClassLabel(names=["z", "a"]), labels=["a", "z"]) == (["a", "z"], ["a", "z"])


def test_renaming_may_join_labels() -> None:
    labels = {"0": "bad", "1": "good", "2": "good"}
    assert gold(CLASSES, [0, 2, 1, None], labels=labels) == (["bad", "good"], ["bad", "good", "good", None])
    assert gold(CLASSES, [True, False], labels={"true": "yes", "false": "no"}) == (["yes", "no"], ["yes", "no"])
    assert gold(SETS, [["1", "2"], []], labels=labels) == (["bad", "good"], [["good"], []])
    assert gold(TAGS, [[0, 1]], labels={"0": "O", "1": "B-x"}) == (["O", "B-x"], [["O", "B-x"]])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a"], r"`tasks\.task\.labels` does not have 'b', 'c', which occurs in the training rows"),
        (
            {"a": "x", "b": "y"},
            r"`tasks\.task\.labels` has no name for 'c' \(row 3 of the split 'train' of source 'only'\)",
        ),
    ],
)
def test_labels_that_do_not_cover_the_rows_are_refused(labels: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build(CLASSES, ["a", "b", "c"], labels=labels)
    with pytest.raises(ValueError, match=r"'0', '1', .* write a mapping: `labels: \{0: no, 1: yes, \.\.\.\}`"):
        build(CLASSES, [0, 1, 1], labels=["no", "yes"])


# Several sources, other splits


def two_sources(first: list[Any], second: list[Any], feature: Any = None, **task: Any) -> TaskData:
    """One classification task on two sources."""

    def rows(values: list[Any], feature: Any = None) -> dict[str, datasets.Dataset]:
        features = Features({"text": Value("string"), "y": feature}) if feature else None
        one = datasets.Dataset.from_dict({"text": ["some text"] * len(values), "y": values}, features=features)
        return {"train": one, "validation": one}

    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"one": {"dataset": rows(first, feature), "text": "text"},
                    "two": {"dataset": rows(second), "text": "text"}},
        "tasks": {"task": {"type": CLASSES, "source": ["one", "two"], "label": "y"} | task},
    })  # fmt: skip
    return build_tasks(config, load_sources(config))["task"]


def test_one_task_on_two_sources_has_the_labels_of_both() -> None:
    assert two_sources(["a", "c"], ["b", "a"]).labels == ["a", "b", "c"]


def test_labels_beyond_the_class_names_of_the_other_source_are_added() -> None:
    assert two_sources([0, 1], ["new", "z"], ClassLabel(names=["z", "a"])).labels == ["z", "a", "new"]


def test_source_without_a_label_of_the_task_may_stand_beside_one_with() -> None:
    assert two_sources(["a", "b"], [None, None]).labels == ["a", "b"]


def test_labels_that_training_does_not_have_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        task, source = build(CLASSES, {"train": ["a", "b"], "validation": ["c", "c", "a"], "test": ["d"]})
    assert task.labels == ["a", "b"]
    assert source.gold["validation"]["task"] == ["c", "c", "a"]
    assert warnings_of(caplog) == [
        "Task task: only validation has labels that do not occur in training; they count as errors: c (2).",
        "Task task: only test has labels that do not occur in training; they count as errors: d (1).",
    ]


def test_vocabulary_of_a_trained_model_is_kept() -> None:
    rows = datasets.Dataset.from_dict({"text": ["x"], "y": ["b"]})
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"dataset": {"test": rows}, "text": "text"}},
        "tasks": {"task": {"type": CLASSES, "source": "only", "label": "y"}},
    })  # fmt: skip
    assert build_tasks(config, load_sources(config), {"task": ["b", "a"]})["task"].labels == ["b", "a"]


# BIO


def test_inner_tags_that_continue_nothing_are_counted_and_repaired(caplog: pytest.LogCaptureFixture) -> None:
    train = [["O", "I-a", "I-a"], ["B-a", "I-b", "O"], ["I-b"], ["B-b", "I-b", None, "I-b"], ["B-a"]]
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        task, source = build(TAGS, train)
    assert source.gold["train"]["task"] == [
        ["O", "B-a", "I-a"], ["B-a", "B-b", "O"], ["B-b"], ["B-b", "I-b", None, "B-b"], ["B-a"]
    ]  # fmt: skip
    assert source.gold["validation"]["task"] == source.gold["train"]["task"]
    assert task.labels == ["O", "B-a", "I-a", "B-b", "I-b"]
    assert [message.split(" continue")[0] for message in warnings_of(caplog)] == [
        "Task task: 4 I- tags of only train",
        "Task task: 4 I- tags of only validation",
    ]
    assert "row 1 of the split 'train' of source 'only', word 2: I-a" in warnings_of(caplog)[0]


def test_repair_adds_the_tag_that_it_needs() -> None:
    task, source = build(TAGS, [["O", "I-a"], ["B-b", "I-c", "I-a"]])
    assert source.gold["train"]["task"] == [["O", "B-a"], ["B-b", "B-c", "B-a"]]
    assert task.labels == ["O", "I-a", "B-b", "I-c", "B-a", "B-c"]


def test_correct_tags_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        build(TAGS, [["B-a", "I-a", "I-a", "B-a", "O", "B-b", "I-b"]], bio="refuse")
    assert not warnings_of(caplog)


def test_inner_tags_that_continue_nothing_are_refused_where_asked() -> None:
    with pytest.raises(ValueError, match=r"2 I- tags continue no span") as caught:
        build(TAGS, [["B-a", "O"], ["B-a", "O", "I-a"], ["I-a"]], bio="refuse")
    assert "the first: row 2 of the split 'train' of source 'only', word 3: I-a" in str(caught.value)
    assert "`bio: repair`" in str(caught.value)


# Tags of other schemes, and tags that fit none

BIO_ROWS = [["B-PER", "I-PER", "O", "B-PER"], ["O", "B-LOC", "O"], ["B-LOC", "B-PER", "I-PER", "I-PER"]]
TWINS = {
    "BIOES": [["B-PER", "E-PER", "O", "S-PER"], ["O", "S-LOC", "O"], ["S-LOC", "B-PER", "I-PER", "E-PER"]],
    "BILOU": [["B-PER", "L-PER", "O", "U-PER"], ["O", "U-LOC", "O"], ["U-LOC", "B-PER", "I-PER", "L-PER"]],
    "IOB1": [["I-PER", "I-PER", "B-PER"], ["O", "I-LOC", "O"], ["I-LOC", "I-PER", "I-PER", "I-PER"]],
    "BIO (as PER-B)": [["PER-B", "PER-I", "O", "PER-B"], ["O", "LOC-B", "O"], ["LOC-B", "PER-B", "PER-I", "PER-I"]],
    "BIO (as B_PER)": [["B_PER", "I_PER", "O", "B_PER"], ["O", "B_LOC", "O"], ["B_LOC", "B_PER", "I_PER", "I_PER"]],
    "BIO (as b-per)": [["b-PER", "i-PER", "o", "b-PER"], ["o", "b-LOC", "o"], ["b-LOC", "b-PER", "i-PER", "i-PER"]],
}


@pytest.mark.parametrize("scheme", TWINS)
def test_tags_of_other_schemes_are_those_of_their_twin_in_bio(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    twin = [["B-PER", "I-PER", "B-PER"], *BIO_ROWS[1:]] if scheme == "IOB1" else BIO_ROWS
    task, source = build(TAGS, TWINS[scheme])
    assert source.gold["train"]["task"] == source.gold["validation"]["task"] == twin
    assert task.labels == ["O", "B-LOC", "B-PER", "I-PER"] == build(TAGS, twin)[0].labels
    assert task.spans
    assert [message for message in caplog.messages if "read as BIO" in message] == [
        f"Task task: {scheme} tags in source only, read as BIO."
    ]
    assert not warnings_of(caplog)[1:]


def test_bare_tags_have_one_type() -> None:
    task, source = build(TAGS, [["B", "I", "O"], ["O", "B"]])
    assert source.gold["train"]["task"] == [["B-entity", "I-entity", "O"], ["O", "B-entity"]]
    assert (task.labels, task.spans) == (["O", "B-entity", "I-entity"], True)


def test_labels_of_the_config_and_of_features_are_read_in_the_scheme_of_the_rows() -> None:
    names = ["O", "B-a", "I-a", "E-a", "S-a"]
    rows = [[1, 3, 0, 4], [0, 0]]
    assert build(TAGS, rows, List(ClassLabel(names=names)))[0].labels == ["O", "B-a", "I-a"]
    task, _ = build(TAGS, [["B-a", "E-a", "O"], ["S-a"]], labels=["S-a", "E-a", "O", "B-a", "I-a"])
    assert task.labels == task.declared == ["B-a", "I-a", "O"]
    task, source = build(TAGS, [["PER", "PER", "O"]], labels={"PER": "I-PER", "O": "O"})
    assert (task.labels, source.gold["train"]["task"]) == (["B-PER", "I-PER", "O"], [["B-PER", "I-PER", "O"]])


@pytest.mark.parametrize("bad", ["-", "", "o", "0", "B-", "PER", "b-PER"])
def test_one_tag_that_does_not_fit_is_named_with_its_row(bad: str) -> None:
    rows: list[Any] = [*BIO_ROWS * 5, ["O", None, bad]]
    with pytest.raises(ValueError) as caught:
        build(TAGS, {"train": rows, "validation": BIO_ROWS})
    assert str(caught.value) == (
        "`tasks.task`: 1 of 57 tags of the split 'train' of source 'only' do not fit the scheme of the others, BIO:"
        f" {bad!r} (row 16, word 3). Correct them, or set `sources.only.drop_bad_rows: true` to drop these rows (1)."
    )


def test_words_without_a_tag_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    build(TAGS, {"train": [*BIO_ROWS, None, ["O", None, None]], "validation": BIO_ROWS})
    row = len(BIO_ROWS) + 2
    assert [message for message in caplog.messages if "no tag" in message] == [
        "Task task: 2 words of only train have no tag and do not count in loss and scores (the first: row"
        f" {row} of the split 'train' of source 'only', word 2)."
    ]


def test_tags_that_do_not_fit_are_counted_in_every_split_ten_at_most() -> None:
    wrong = [["-", "-"]] * 6 + [[f"#{number}"] for number in range(11)]
    shown = "'-' (12 times, first in row 1, word 1), '#0' (row 7, word 1), "
    with pytest.raises(ValueError, match=rf"23 of 78 .*: {re.escape(shown)}.*'#8' \(row 15, .* 2 other tags\."):
        build(TAGS, {"train": BIO_ROWS, "validation": BIO_ROWS, "test": wrong + BIO_ROWS * 5})


def test_rows_with_tags_that_do_not_fit_are_dropped_where_asked(caplog: pytest.LogCaptureFixture) -> None:
    rows = datasets.Dataset.from_dict({
        "text": [["a", "b"], ["c"], ["d", "e"], ["f"]], "y": [["B-x", "O"], ["-"], ["B-x", "I-x"], ["O"]],
        "z": ["p", "q", "r", "p"],
    })  # fmt: skip
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"only": {"dataset": {"train": rows, "validation": rows}, "text": "text", "drop_bad_rows": True}},
        "tasks": {"first": {"type": CLASSES, "source": "only", "label": "z"},
                  "tags": {"type": TAGS, "source": "only", "label": "y"},
                  "last": {"type": CLASSES, "source": "only", "label": "z"}},
    })  # fmt: skip
    sources = load_sources(config)
    tasks = build_tasks(config, sources)
    for split in ("train", "validation"):
        assert sources["only"].splits[split]["text"] == [["a", "b"], ["d", "e"], ["f"]]
        assert sources["only"].gold[split] == {
            "first": ["p", "r", "p"], "tags": [["B-x", "O"], ["B-x", "I-x"], ["O"]], "last": ["p", "r", "p"]
        }  # fmt: skip
    assert tasks["tags"].spans
    assert sources["only"].where("train", 1) == "row 3 of the split 'train' of source 'only'"
    assert (
        "Source only, train: 1 of 4 rows have tags that do not fit BIO (task tags) and are dropped: '-' (row 2,"
        " word 1)." in (caplog.messages)
    )


def test_spaces_around_tags_are_removed(caplog: pytest.LogCaptureFixture) -> None:
    task, source = build(TAGS, {"train": [["B-a ", "O"], ["\tB-a", "I-a"]], "validation": [["O"]]})
    assert (task.labels, source.gold["train"]["task"]) == (["O", "B-a", "I-a"], [["B-a", "O"], ["B-a", "I-a"]])
    assert warnings_of(caplog) == [
        "Task task: spaces around 2 tags of only train are removed (the first: 'B-a ' in row 1 of the split 'train' of"
        " source 'only', word 1)."
    ]


def test_types_alone_stay_labels_of_words_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    task, source = build(TAGS, [["PER", "PER", "O"], ["O", "LOC", "O"]])
    assert source.gold["train"]["task"] == [["PER", "PER", "O"], ["O", "LOC", "O"]]
    assert not task.spans
    assert warnings_of(caplog) == [
        "Task task: its tags (O, PER, LOC) are scored as labels of words, not as spans. If O marks words outside of"
        " spans and the others are types, set `tasks.task.scheme: io`."
    ]


def test_parts_of_speech_go_on_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    rows = [["NNP", "VBZ", "-X-", "."], ["NN|SYM", ",", '"']]
    task, source = build(TAGS, rows)
    assert (source.gold["train"]["task"], task.spans) == (rows, False)
    assert not warnings_of(caplog)


def test_numbers_for_tags_draw_a_warning_with_what_names_them(caplog: pytest.LogCaptureFixture) -> None:
    build(TAGS, [[0, 1, 0], [2, 10]])
    assert warnings_of(caplog) == [
        "Task task: its tags are numbers without names (0, 1, 2, 10) and are scored as labels of words, with macro"
        " F1 as the primary metric. Name them with `tasks.task.labels: {0: NAME, 1: NAME, 2: NAME, ...}`; names such as"
        " O, B-PER and I-PER are scored as spans."
    ]


def test_bio_without_any_o_is_bio() -> None:
    task, _ = build(TAGS, [["B-a", "I-a"], ["B-b", "I-b"]])
    assert (task.labels, task.spans) == (["O", "B-a", "I-a", "B-b", "I-b"], True)


def test_names_that_are_no_tags_of_spans_do_not_switch_spans_off(caplog: pytest.LogCaptureFixture) -> None:
    task, _ = build(TAGS, [[1, 0]], List(ClassLabel(names=["O", "B-a", "pad"])))
    assert (task.labels, task.spans) == (["O", "B-a"], True)
    assert "unused label names of its feature that are not tags of spans are left out: 'pad'." in caplog.text
    with pytest.raises(ValueError, match=r"`tasks\.task\.labels`: the tags are tags of spans, but 'pad' is not"):
        build(TAGS, [["B-a", "O"]], labels=["O", "B-a", "pad"])


def test_two_sources_have_a_scheme_each_but_not_one_of_them_none() -> None:
    def build_two(first: list[list[str]], second: list[list[str]]) -> tuple[TaskData, dict[str, SourceData]]:
        datasets_ = [
            datasets.Dataset.from_dict({"text": [["x"] * len(row) for row in rows], "y": rows})
            for rows in (first, second)
        ]
        config = RunConfig.load({
            "model": {"encoder": "unused"},
            "sources": {name: {"dataset": {"train": rows, "validation": rows}, "text": "text"}
                        for name, rows in zip(("one", "two"), datasets_, strict=True)},
            "tasks": {"task": {"type": TAGS, "source": ["one", "two"], "label": "y"}},
        })  # fmt: skip
        sources = load_sources(config)
        return build_tasks(config, sources)["task"], sources

    task, sources = build_two(BIO_ROWS, TWINS["BIOES"])
    assert sources["one"].gold["train"]["task"] == sources["two"].gold["train"]["task"] == BIO_ROWS
    assert task.spans
    with pytest.raises(
        ValueError, match=r"the tags of source 'two' \('LOC', 'PER'\) are not tags of spans, but those of"
    ):
        build_two(BIO_ROWS, [["PER", "O"], ["LOC", "O"]])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["S-PER", "O"], ["B-PER", "O"]),
        (["PER-B", "O", "PER-I"], ["B-PER", "O", "B-PER"]),
        (["b-per", "o"], ["B-PER", "O"]),
        (["B", "I", "O"], ["B-PER", "I-PER", "O"]),
        (["O", "O"], ["O", "O"]),
    ],
)
def test_tags_of_a_file_become_those_of_a_trained_model(tags: list[str], expected: list[str]) -> None:
    rows = datasets.Dataset.from_dict({"text": [["x"] * len(tags)], "y": [tags]})
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"dataset": {"test": rows}, "text": "text"}},
        "tasks": {"task": {"type": TAGS, "source": "only", "label": "y"}},
    })  # fmt: skip
    sources = load_sources(config)
    task = build_tasks(config, sources, {"task": ["O", "B-PER", "I-PER"]})["task"]
    assert task.labels == ["O", "B-PER", "I-PER"]
    assert sources["only"].gold["test"]["task"] == [expected]


def test_a_model_of_word_labels_keeps_the_tags_of_a_file() -> None:
    rows = datasets.Dataset.from_dict({"text": [["x", "y"]], "y": [["S-PER", "O"]]})
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"dataset": {"test": rows}, "text": "text"}},
        "tasks": {"task": {"type": TAGS, "source": "only", "label": "y"}},
    })  # fmt: skip
    sources = load_sources(config)
    task = build_tasks(config, sources, {"task": ["O", "S-PER"]})["task"]
    assert (task.spans, sources["only"].gold["test"]["task"]) == (False, [["S-PER", "O"]])


# What is refused


@pytest.mark.parametrize(
    ("kind", "values", "row", "found"),
    [
        (CLASSES, [["a"], ["b"]], 1, r"\['a'\]"),
        (CLASSES, [1.0, 1.5], 2, "1.5"),
        (CLASSES, [{"a": 1}], 1, r"\{'a': 1\}"),
        (SETS, ["a", "b"], 1, "'a'"),
        (SETS, [["a"], ["b", None]], 2, r"\['b', None\]"),
        (SETS, [[["a"]]], 1, r"\['a'\]"),
        (SETS, [[0.5]], 1, "0.5"),
        (NUMBERS, ["1.5"], 1, "'1.5'"),
        (NUMBERS, [True, False], 1, "True"),
        (NUMBERS, [[1.0]], 1, r"\[1.0\]"),
        (TAGS, ["a"], 1, "'a'"),
        (TAGS, [[["O"]]], 1, r"\['O'\]"),
    ],
)
def test_labels_of_the_wrong_kind_are_refused(kind: str, values: list[Any], row: int, found: str) -> None:
    expected = (
        rf"`tasks\.task`: row {row} of the split 'train' of source 'only' has {found} in the column 'y'; {kind} takes"
    )
    with pytest.raises(ValueError, match=expected):
        build(kind, values)


def test_words_and_tags_of_other_length_are_refused() -> None:
    rows = datasets.Dataset.from_dict({"text": [["a"], ["a", "b"]], "y": [["O"], ["O"]]})
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"dataset": {"train": rows}, "text": "text",
                                                            "split": {"validation": 0.5}}},
        "tasks": {"task": {"type": TAGS, "source": "only", "label": "y"}},
    })  # fmt: skip
    with pytest.raises(ValueError, match=r"has 2 words but 1 labels in 'y'"):
        build_tasks(config, load_sources(config))


@pytest.mark.parametrize("kind", [CLASSES, SETS, NUMBERS, TAGS])
def test_task_without_a_training_label_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"`tasks\.task`: no training row has a label in the column 'y'"):
        build(kind, [None, None])


def test_tags_without_a_tag_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`tasks\.task`: no training row has a label in the column 'y'"):
        build(TAGS, [[None, None], None], List(Value("string")))


def test_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`tasks\.task`: there is only one label, 'a'; at least two are needed"):
        build(CLASSES, ["a", "a", None])


def test_sets_that_are_all_empty_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`tasks\.task`"):
        build(SETS, [[], []], List(Value("string")))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"type": "sequence_clasification"}, "Did you mean `sequence_classification`"),
        (
            {"type": TAGS},
            r"`sources\.only\.text`: the column 'text' has a single word in each row \('a', 'b', ",
        ),
        (
            {"type": NUMBERS, "labels": ["a"]},
            r"`tasks\.task\.labels` is \['a'\], but regression does not support it",
        ),
        (
            {"type": NUMBERS, "label_smoothing": 0.1},
            r"`tasks\.task\.label_smoothing` is 0\.1, but regression does not support it",
        ),
    ],
)
def test_task_that_cannot_be_is_refused(task: dict[str, Any], expected: str) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "y": [1, 0]})
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"only": {"dataset": {"train": rows, "validation": rows}, "text": "text"}},
        "tasks": {"task": {"source": "only", "label": "y"} | task},
    })  # fmt: skip
    with pytest.raises(ValueError, match=expected):
        build_tasks(config, load_sources(config))


@pytest.mark.parametrize("name", ["type", "to", "keys", "forward", "training"])
def test_name_of_an_attribute_of_modules_is_refused_for_a_task(name: str) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "y": [1, 0]})
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"only": {"dataset": {"train": rows, "validation": rows}, "text": "text"}},
        "tasks": {name: {"type": CLASSES, "source": "only", "label": "y"}},
    })  # fmt: skip
    with pytest.raises(ValueError, match=f"a task cannot be called '{name}'"):
        build_tasks(config, load_sources(config))


def test_sources_of_other_form_are_refused() -> None:
    strings = datasets.Dataset.from_dict({"text": ["a", "b"], "y": [1, 0]})
    words = datasets.Dataset.from_dict({"text": [["a"], ["b"]], "y": [1, 0]})
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"one": {"dataset": {"train": strings, "validation": strings}, "text": "text"},
                    "two": {"dataset": {"train": words, "validation": words}, "text": "text"}},
        "tasks": {"task": {"type": CLASSES, "source": ["one", "two"], "label": "y"}},
    })  # fmt: skip
    with pytest.raises(ValueError, match=r"the texts of its sources differ in form \(string, words\)"):
        build_tasks(config, load_sources(config))


# Sentence similarity

PAIRS = "sentence_similarity"


def similarity(scores: list[Any] | None, *, text: Any = ("a", "b"), model: Any = None, **task: Any) -> list[Any]:
    """The labels of the training rows of a task on pairs."""
    columns = {"a": [f"text {row}" for row in range(4)], "b": [f"other {row}" for row in range(4)]}
    rows = datasets.Dataset.from_dict(columns | ({} if scores is None else {"y": scores}))
    config = RunConfig.load({
        "model": {"encoder": "unused"} | (model or {}),
        "sources": {"only": {"dataset": {"train": rows, "validation": rows}, "text": text}},
        "tasks": {"task": {"type": PAIRS, "source": "only"} | ({} if scores is None else {"label": "y"}) | task},
    })  # fmt: skip
    sources = load_sources(config)
    built = build_tasks(config, sources)["task"]
    assert (built.form, built.labels, sources["only"].form) == ("apart", [], "pair")
    return sources["only"].gold["train"]["task"]


def test_scores_are_shares_of_their_range() -> None:
    assert similarity([0.0, 0.25, None, 1.0]) == [0.0, 0.25, None, 1.0]
    assert similarity([0, 1, float("nan"), 5], score_range=[0, 5]) == [0.0, 0.2, None, 1.0]
    assert similarity([-1.0, 0.0, None, 0.5], score_range=[-1, 1]) == [0.0, 0.5, None, 0.75]


def test_ranking_reads_no_scores() -> None:
    assert similarity(None, loss="ranking", temperature=0.1) == [1.0] * 4


@pytest.mark.parametrize(
    ("scores", "task", "expected"),
    [
        ([0, 0.5, 1.2, 1], {}, r"row 3 of the split 'train' of source 'only' has the score 1.2 in the column 'y',"
                               r" which is not within 0 and 1: correct it, or set `score_range`"),
        ([0, 3, 5, -0.1], {"score_range": [0, 5]}, "row 4 .* has the score -0.1 .* not within 0 and 5"),
        ([0, float("inf"), 1, 1], {}, "row 2 .* has the score inf"),
        (["0", "1", "x", "1"], {}, "row 1 .* has '0' in the column 'y'; sentence_similarity takes one score per row"),
        ([0, 1, 1, 1], {"score_range": [5, 0]}, r"`tasks\.task\.score_range` is \[5.0, 0.0\]; it should be the"),
        ([0, 1, 1, 1], {"score_range": [1]}, r"score_range` is \[1.0\]"),
        ([0, 1, 1, 1], {"temperature": 0.1}, "`tasks.task.temperature` only works with `loss: ranking`"),
        ([0, 1, 1, 1], {"loss": "ranking"}, "`tasks.task.label` is 'y', but `loss: ranking` uses no scores"),
        (None, {"loss": "ranking", "score_range": [0, 5]}, r"score_range` is \[0.0, 5.0\], but `loss: ranking`"),
        (None, {"loss": "ranking", "temperature": 0}, "temperature` is 0.0; it should be above 0"),
        (None, {}, "`tasks.task.label` is missing: name the column with one score per row"),
        (None, {"loss": "cosin"}, "`tasks.task.loss` is .*cosin.*; valid are cosine, ranking"),
        ([0, 1, 1, 1], {"labels": ["a"]}, r"labels` is \['a'\], but sentence_similarity does not support it"),
        ([0, 1, 1, 1], {"learning_rate": 1e-3}, "this head has no weights: only `pooling: attention`"),
        ([0, 1, 1, 1], {"text": "a"}, r"sentence_similarity needs texts that are pairs \(\[first, second\]\), but the"
                                      " text of source 'only' is a string"),
    ],
)  # fmt: skip
def test_similarity_that_cannot_be_is_refused(scores: Any, task: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        similarity(scores, **task)


def test_a_head_that_pools_by_attention_has_a_learning_rate() -> None:
    similarity([0, 1, 1, 1], learning_rate=1e-3, pooling="attention")
    similarity([0, 1, 1, 1], learning_rate=1e-3, model={"pooling": "attention"})


@pytest.mark.parametrize("option", [{"loss": "ranking"}, {"score_range": [0, 5]}, {"temperature": 0.1}])
def test_options_of_similarity_are_refused_by_name_elsewhere(option: dict[str, Any]) -> None:
    (key,) = option
    with pytest.raises(ValueError, match=f"`tasks.task.{key}` is an option of sentence_similarity, not of regression"):
        build(NUMBERS, [1.0, 2.0], **option)


def test_no_other_task_shares_a_source_with_similarity() -> None:
    rows = datasets.Dataset.from_dict({"a": ["one", "two"], "b": ["three", "four"], "y": [0.0, 1.0]})
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"only": {"dataset": {"train": rows, "validation": rows}, "text": ["a", "b"]}},
        "tasks": {"one": {"type": PAIRS, "source": "only", "label": "y"},
                  "other": {"type": NUMBERS, "source": "only", "label": "y"}},
    })  # fmt: skip
    with pytest.raises(
        ValueError, match=r"`tasks\.one` changes the inputs of the encoder, so it cannot share its source with other"
    ):
        build_tasks(config, load_sources(config))


# Labels of empty text


def test_empty_text_is_no_label_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    _, source = build(CLASSES, {"train": ["a", "b", "", "a", " "], "validation": ["a", "b"]})
    assert source.gold["train"]["task"] == ["a", "b", None, "a", None]
    assert any("1 labels are empty text and count as missing (the first: row 3" in line for line in caplog.messages)


def test_empty_text_that_the_config_names_is_a_label() -> None:
    task, source = build(CLASSES, {"train": ["a", "", "a"], "validation": ["a"]}, labels={"a": "yes", "": "no"})
    assert (task.labels, source.gold["train"]["task"]) == (["yes", "no"], ["yes", "no", "yes"])


@pytest.mark.parametrize("other", [True, 1, "10", "x", {"a": 1}])
def test_what_is_no_one_hot_list_among_others_is_refused_with_its_row(other: Any, tmp_path: Path) -> None:
    values = [[1, 0], [0, 1]] * 10 + [other]
    lines = [json.dumps({"text": f"row {row}", "label": value}) for row, value in enumerate(values)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = RunConfig.load({
        "model": {"encoder": "none"},
        "sources": {"only": {"path": "json", "data_files": str(tmp_path / "rows.jsonl"), "text": "text",
                             "split": {"validation": 0.5}}},
        "tasks": {"task": {"type": SETS, "source": "only", "label": "label", "labels": ["first", "second"]}},
    })  # fmt: skip
    with pytest.raises(ValueError, match=r"`tasks\.task`: row 21 of the split 'train' .*should be a one-hot"):
        build_tasks(config, load_sources(config))
