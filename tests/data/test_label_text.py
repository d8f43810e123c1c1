"""Tests of `mtl_hf.data.label_text`: what is changed of labels as people write them, and what is not."""

from typing import Any

import pytest

from mtl_hf.data.label_text import as_number, find_name, report_similar_labels, tidy_labels


def test_spaces_around_labels_are_removed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    values = ["sport ", " news", "a b", None, " ", "", 5, ["x ", "y"]]
    tidied = tidy_labels("topic", values, lambda row: f"row {row + 1}")
    assert tidied == ["sport", "news", "a b", None, None, None, 5, ["x", "y"]]
    assert caplog.messages == ["Task topic: the spaces around 4 labels are removed (the first: 'sport ' in row 1)."]
    caplog.clear()
    assert tidy_labels("topic", ["a", None], str) == ["a", None]
    assert caplog.messages == []


def test_labels_that_differ_in_case_only_are_said(caplog: pytest.LogCaptureFixture) -> None:
    report_similar_labels("answer", ["yes", "No", "YES", "no", "maybe"])
    assert caplog.messages == [
        "Task answer: labels that differ in case only are different labels: No / no; YES / yes. `tasks.answer.labels`"
        " can map them to one name."
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
        (None, ["1"], None),
        (1, ["1"], 1),
    ],
)
def test_names_of_configs_and_models(value: Any, names: list[str], expected: Any) -> None:
    assert find_name(value, names) == expected
