"""Tests of `mtl_hf.data.files`: separators, and files that cannot be read."""

import gzip
from pathlib import Path

import pytest

from mtl_hf.data.files import find_separator, open_file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text,label\na;b,1\n", ","),
        ("text;label\na, b, c;1\nd, e;2\n", ";"),
        ("text\tlabel\na, b; c\t1\n", "\t"),
        ("text|label\na|1\n", "|"),
        ('text;label\n"a; b";1\n"two\nlines";2\n', ";"),
        ("text;score, scaled;label\none;3,5;a\ntwo;2,5;b\n", ";"),  # a comma splits every line into two as well
        ("text|raw,label\na,1\nb,2\n", ","),
        ("text,label\na,b,0\nc,d,1\n", ","),  # every row is too long: still a comma
        ("text\nno, columns; here\n", ","),
        ("\ufefftext;label\na;1\n", ";"),
        ("", ","),
    ],
)
def test_separator_of_a_file_is_found(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    assert find_separator(path) == expected
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(text.encode("utf-16")))
    assert find_separator(packed, "utf-16") == expected


def test_compressed_file_that_is_broken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    for held, expected in ((gzip.compress(b"text,label\n" * 99)[:-9], "rows.csv.gz: the compressed data end too early"),
                           (b"text,label\n", "rows.csv.gz: no valid .gz file")):  # fmt: skip
        path.write_bytes(held)
        with pytest.raises(ValueError, match=expected), open_file(path) as stream:
            stream.read()
    with pytest.raises(ValueError, match=r"is a folder; name its files, as in .*/\*\.jsonl"), open_file(tmp_path):
        pass
