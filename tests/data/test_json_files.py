"""Tests of `mtl_hf.data.json_files`: JSON is read as it is written, and what is none is refused with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.data.json_files import read_json

ROWS = [{"text": "a\u2028b", "label": "01"}, {"text": "2020-01-01", "label": 1}, {"label": None, "extra": [1.5]}]
COLUMNS = {"text": ["a\u2028b", "2020-01-01", None], "label": ["01", 1, None], "extra": [None, None, [1.5]]}


def read(tmp_path: Path, text: str, **options: Any) -> Any:
    path = tmp_path / "rows.json"
    path.write_bytes(text.encode())
    return read_json(str(path), options)


@pytest.mark.parametrize(
    ("text", "lines", "options"),
    [
        ("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), [1, 2, 3], {}),
        ("\ufeff" + "\r\n\r\n".join(json.dumps(row) for row in ROWS), [1, 3, 5], {}),
        ("\n".join(json.dumps(row, indent=1) for row in ROWS), [1, 5, 9], {}),
        (json.dumps(ROWS), None, {}),
        ("\n " + json.dumps(ROWS, indent=2), None, {}),
        (json.dumps({"version": 1, "data": ROWS}), None, {"field": "data"}),
    ],
)
def test_rows_as_they_are_written(tmp_path: Path, text: str, lines: Any, options: dict[str, Any]) -> None:
    rows = read(tmp_path, text, **options)
    assert rows.columns == COLUMNS
    assert rows.lines == lines


def test_list_of_strings(tmp_path: Path) -> None:
    assert read(tmp_path, '["a", "b"]').columns == {"text": ["a", "b"]}


GOOD = '{"text": "a", "label": "b"}\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD * 2 + '{"text": "a', r", line 3: not JSON \(Unterminated string starting at column 10\)"),
        ('{"text": "a",\n' + GOOD, r", line 1: not JSON \("),
        ('{\n"text": "a",\n}\n', r", line 3: not JSON \("),
        (GOOD + GOOD.strip() + GOOD, ", line 2: not JSON .there is more after the end"),
        (GOOD + "5\n", ", line 2: a number; each line should be an object"),
        (GOOD + "null\n", ", line 2: a null; each line"),
        (GOOD + "[1]\n", ", line 2: a list; each line"),
        ("[{}, 5]", ", row 2: a number; each row should be an object"),
        ('[{"text": "a"},\n{"text"', r", line 2: not JSON \("),
        (GOOD + '{"text": "a", "text": "b"}\n', ", line 2: an object has the key 'text' twice"),
        (GOOD + '{"text": ' + "[" * 100_000 + "\n", ", line 2: lists or objects within each other, too deep"),
        (GOOD + '{"label": ' + "1" * 5000 + "}\n", ", line 2: Exceeds the limit .4300 digits. for integer"),
        ('{"data": [{"text": "a"}]}', " is one object, not rows: set `field: data`"),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"rows\.json{expected}"):
        read(tmp_path, text)


def test_field_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not an object with the key 'rows' .`field`.; it has data"):
        read(tmp_path, '{"data": []}', field="rows")
    with pytest.raises(ValueError, match="`field: data` holds a str; it should hold a list of rows"):
        read(tmp_path, '{"data": "a"}', field="data")
