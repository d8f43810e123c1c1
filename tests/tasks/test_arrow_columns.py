"""Tests of `mtl_hf.tasks.arrow_columns` against the same found row by row."""

import random
import sys
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mtl_hf.data.sources import has_text
from mtl_hf.tasks.arrow_columns import blank_rows, column_of, join_words, values_of

PARTS = ["", " ", "\u00a0", "\u3000\t", "\x1f", "\u200b", "a", " b ", None]


def draw(generator: random.Random, form: str) -> Any:
    if form == "string":
        return generator.choice(PARTS)
    return generator.choice([None, [generator.choice(PARTS) for _ in range(generator.randint(0, 3))]])


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("string", pa.string()),
        ("string", pa.large_string()),
        ("words", pa.list_(pa.string())),
        ("words", pa.large_list(pa.large_string())),
    ],
)
def test_blank_rows_are_those_without_text(form: str, kind: pa.DataType) -> None:
    generator = random.Random(0)
    parts = [[draw(generator, form) for _ in range(200)] for _ in range(3)]
    column = pa.chunked_array(parts, kind)
    rows = [value for part in parts for value in part]
    expected = [value is None or not has_text(value) for value in rows]
    assert True in expected
    assert False in expected
    assert blank_rows(column).tolist() == expected
    assert blank_rows(column.slice(150, 100)).tolist() == expected[150:250]


def test_blank_rows_of_a_column_without_any_value() -> None:
    assert blank_rows(pa.chunked_array([[None, None]], pa.null())).tolist() == [True, True]
    assert blank_rows(pa.chunked_array([[[None], [], None]], pa.list_(pa.null()))).tolist() == [True, True, True]


def test_lists_of_one_length() -> None:
    column = pa.chunked_array([[["a", " "], [" ", ""], ["a", None], None]], pa.list_(pa.string(), 2))
    assert blank_rows(column).tolist() == [False, True, True, True]
    assert join_words(column.slice(0, 2)).to_pylist() == ["a\n ", " \n"]


def test_spaces_are_those_of_python() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert pc.utf8_is_space(pa.array(characters)).to_pylist() == [character.isspace() for character in characters]


def test_columns_are_read_in_the_order_of_the_rows() -> None:
    features = datasets.Features(
        {
            "words": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "any": datasets.Json(),
        }
    )
    rows = datasets.Dataset.from_dict(
        {"words": [["a"], None, [], ["b", None]], "label": [0, 1, -1, None], "any": [{"a": 1}, [1], "x", None]},
        features,
    )
    chosen = rows.select([3, 0, 1])
    for name in features:
        assert values_of(rows, name) == list(rows[name])
        assert values_of(chosen, name) == list(chosen[name])
    assert column_of(chosen, "label").to_pylist() == [None, 0, 1]
    assert join_words(column_of(rows.select([0, 2]), "words")).to_pylist() == ["a", ""]
