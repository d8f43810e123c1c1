"""Tests of `mtl_hf.findings`: errors are raised together, everything else is logged."""

import logging

import pytest

from mtl_hf.findings import Finding, for_each, report

BAD = Finding(logging.ERROR, "`sources.a`", "2 of 3 rows have no text", "correct them", (0, 2))
WORSE = Finding(logging.ERROR, "`tasks.b.label`", "`tasks.b.label` is 'x'. It has: a.")
ODD = Finding(logging.WARNING, "Source a, train", "the header is odd")


def test_warnings_are_logged_and_all_errors_raised_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError) as caught:
        report(iter([BAD, ODD, WORSE]))
    assert (
        str(caught.value) == "`sources.a`: 2 of 3 rows have no text: correct them.\n`tasks.b.label` is 'x'. It has: a."
    )
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "Source a, train: the header is odd.")
    ]
    report([ODD])


def test_every_item_is_tried_and_a_single_error_stays_as_it_is() -> None:
    assert for_each("ab", str.upper) == {"a": "A", "b": "B"}
    error = ValueError("not b")

    def refuse(item: str) -> str:
        if item == "b":
            raise error
        if item == "c":
            raise ValueError("not c")
        return item

    with pytest.raises(ValueError, match=r"^not b$") as caught:
        for_each("ab", refuse)
    assert caught.value is error
    with pytest.raises(ValueError, match=r"^not b\nnot c$") as caught:
        for_each("abcb", refuse)
    assert caught.value.__cause__ is error
