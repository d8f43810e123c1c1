"""Tests of `mtl_hf.data.csv_files`: cells are read as they are written, and rows that do not fit are refused."""

import csv
import logging
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.data.csv_files import read_csv


def read(tmp_path: Path, text: str, **options: Any) -> Any:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode())
    return read_csv(str(path), options)


def test_cells_are_text_as_written(tmp_path: Path) -> None:
    codes = ["001", "1E10", "1234567890123456789", "", "1.10", "+1", "True", "yes", "NA", "null", " a "]
    rows = read(tmp_path, "text,label\n" + "".join(f"t,{code}\n" for code in codes))
    assert rows.columns == {"text": ["t"] * len(codes), "label": [code or None for code in codes]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quotes_line_ends_and_lines_of_the_file(tmp_path: Path, end: str) -> None:
    rows = read(tmp_path, end.join(["\ufefftext,label", '"two', 'lines",a', "", "  ", 'x ""y,b', '"x ""y""",c', ""]))
    assert rows.columns == {"text": [f"two{end}lines", 'x ""y', 'x "y"'], "label": ["a", "b", "c"]}
    assert rows.lines == [2, 6, 7]
    assert rows.where(1) == f"{tmp_path / 'rows.csv'}, line 6"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("text,label\na,b\na,b,0\n", {}, r"line 3: 3 fields, but the header has 2 \(text, label\); a cell that holds"),
        ("text,label\na,b,0\na,b,1\n", {}, "line 2: 3 fields, but the header has 2"),  # pandas: an index, all shifted
        ("text,label\na,b\ntwo\nlines,b\n", {}, "line 3: 1 field, but the header has 2 .* a line break needs quotes"),
        ("text;label\na;b;c\n", {}, r"line 2: 3 fields, .* The columns are separated by ';' \(`sep`\)"),
        ("a,b,c\n", {"names": ["text", "label"]}, "line 1: 3 fields, but the header has 2"),
        ('text,label\na,b\n"open,b\na,b\n', {}, "line 3: a quote opens a cell here and is not closed.*`quoting: 3`"),
        ('text,label\na,b\n"open" more,b\n', {}, "line 3: ',' expected after '\"'"),
        ("junk\ntext,label\na,b\na,b,c\n", {"skiprows": 1}, "cannot be read as CSV .*2 fields in line 4, saw 3"),
        ("text,label\na,b,c\nd,e,f\n", {"comment": "#"}, "cannot be read as CSV .*does not match length"),
    ],
)  # fmt: skip
def test_row_that_does_not_fit_is_refused_with_its_line(
    tmp_path: Path, text: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=rf"rows\.csv[:,] {expected}"):
        read(tmp_path, text, **options)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("text;label\na, b;1\n", {}),
        ("text\tlabel\na, b\t1\n", {}),
        ("text|label\na, b|1\n", {}),
        ("sep=;\r\ntext;label\r\na, b;1\r\n", {}),
        ("text;label\na, b;1\n", {"sep": ";"}),
        ("a, b;1\n", {"delimiter": ";", "column_names": ["text", "label"]}),
        ("junk\ntext;label\na, b;1\n", {"sep": ";", "skiprows": 1}),
        ("text::label\na, b::1\n", {"sep": "::"}),
        ("text,label,\n'a, b',1,\n", {"quotechar": "'"}),
    ],
)
def test_separators_and_options(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    rows = read(tmp_path, text, **options)
    assert rows.columns == {"text": ["a, b"], "label": ["1"]}
    said = [message for _, message in rows.notes]
    assert said == ([] if options else [f"{rows.path}: its columns are separated by {text[4]!r}"
                                        " (`sep` sets another)."])  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quotechar": "ab"}, "cannot be read with these options"),
        ({"names": "text"}, "`column_names` is 'text'; it should be a list of names"),
        ({"names": ["a", "a"]}, "`column_names` has a name twice: a, a"),
        ({"skiprows": "x"}, "cannot be read as CSV"),
        ({"sep": "(("}, "cannot be read as CSV .missing"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read(tmp_path, "text,label\na,b\n", **options)


def test_options_that_only_pandas_has(tmp_path: Path) -> None:
    rows = read(tmp_path, "text,label\n# no row\na,NA\n001,-\nb,\n", comment="#")
    assert rows.columns == {"text": ["a", "001", "b"], "label": ["NA", "-", None]}
    assert read(tmp_path, "text,label\na,NA\n001,-\n", na_values=["-"]).columns["label"] == [None, None]


def test_a_quote_may_be_part_of_the_text(tmp_path: Path) -> None:
    assert read(tmp_path, 'text,label\n"open,b\n', quoting=csv.QUOTE_NONE).columns["text"] == ['"open']


def test_a_cell_may_be_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    assert read(tmp_path, f"text,label\n{'a ' * 100_000},b\n").columns["text"] == ["a " * 100_000]
    assert csv.field_size_limit() == before


def test_columns_of_one_name(tmp_path: Path) -> None:
    rows = read(tmp_path, "text,label,label,,\na,b,c,,d\n")
    assert rows.columns == {"text": ["a"], "label": ["b"], "label.1": ["c"], "Unnamed: 4": ["d"]}
    assert [(level, message.split(": ")[1]) for level, message in rows.notes] == [
        (logging.WARNING, "the header has 'label' more than once; the first is read as 'label', this one as 'label.1'.")
    ]


@pytest.mark.parametrize("text", ["", "\n \n", "text,label\n"])
def test_file_without_rows(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).num_rows == 0
