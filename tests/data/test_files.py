"""Tests of `mtl_hf.data.files`: separators, and files that cannot be read."""

import gzip
from pathlib import Path

import pytest

from mtl_hf.data.files import (
    check_encoding,
    check_parquet,
    find_encoding,
    find_files,
    find_separator,
    has_rows,
    loader_of,
    open_file,
    open_text,
    read_lines,
)


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
                           (b"text,label\n", "rows.csv.gz: not a valid .gz file")):  # fmt: skip
        path.write_bytes(held)
        with pytest.raises(ValueError, match=expected), open_file(path) as stream:
            stream.read()
    with pytest.raises(ValueError, match="is a folder; name a file in it"), open_file(tmp_path):
        pass


def test_a_file_that_exists_is_no_pattern(tmp_path: Path) -> None:
    for name in ("br[1].csv", "br1.csv", "train.csv"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "br2.csv").mkdir()
    odd, plain = str(tmp_path / "br[1].csv"), str(tmp_path / "br1.csv")
    assert find_files(odd, "files") == {"train": [odd]}
    assert find_files({"dev": [str(tmp_path / "br[1-3].csv"), odd]}, "files") == {"dev": [plain, odd]}
    assert find_files("hf://datasets/x/*.csv", "files") == {"train": ["hf://datasets/x/*.csv"]}
    with pytest.raises(ValueError, match=r"`files`: .*br2\.csv is a folder; name its files"):
        find_files(str(tmp_path / "br2.csv"), "files")
    with pytest.raises(ValueError, match=r"`files`: there is no file .*trian\.csv\. Did you mean `train\.csv`"):
        find_files([odd, str(tmp_path / "trian.csv")], "files")


def _read(path: Path, encoding: str) -> str:
    check_encoding(path, encoding)
    with open_text(path, encoding) as text:
        return text.read()


@pytest.mark.parametrize(
    ("held", "encoding", "expected"),
    [
        (
            b"text\ncaf\xe9\n",
            "utf-8",
            r", line 2: .*0xe9 .* 3\); give the source's `encoding` \(`encoding: cp1252` would read 'café",
        ),
        ("text\ná\n".encode("utf-16"), "utf-8", r", line 1: .*`encoding: utf-16`"),
        ("text\na\n".encode("utf-16-le"), "utf-8", ", line 1: a NUL byte, which text does not have.*utf-16-le"),
        (b"text\na\0b\n", "utf-8", ", line 2: a NUL byte"),
        (b"text\na\0b\n", "latin-1", ", line 2: a NUL byte"),
        ("text\na\n".encode("utf-16")[:-1], "utf-16", r": not UTF-16 \(.*truncated data"),
        ("text\na\n".encode("utf-16-be"), "utf-16", ": not UTF-16 .*does not start with BOM"),
    ],
)
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, held: bytes, encoding: str, expected: str) -> None:
    for name, written in (("rows.csv", held), ("rows.csv.gz", gzip.compress(held))):
        (tmp_path / name).write_bytes(written)
        with pytest.raises(ValueError, match=rf"{name.replace('.', '[.]')}{expected}"):
            _read(tmp_path / name, encoding)


def test_loader_of_a_compressed_file() -> None:
    assert loader_of("a/rows.JSONL.gz") == ("json", {})
    assert loader_of("rows.tsv.bz2")[1]["sep"] == "\t"
    assert not has_rows("rows.gz")
    with pytest.raises(ValueError, match=r"rows\.txt ends in '\.txt'; files of rows end in \.jsonl, \.json, \.csv"):
        loader_of("rows.txt")


def test_parquet_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for held in (b"", b"PAR1", b"text,label\n", b"PAR1" + b"\0" * 50):
        path.write_bytes(held)
        with pytest.raises(ValueError, match=r"rows\.parquet: not a Parquet file, or an incomplete one"):
            check_parquet(path)


def test_a_file_of_excel_is_refused_with_what_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "texte.csv"
    path.write_bytes("texte;catégorie\nété;a\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"line 1: not UTF-8 .*`iconv -f cp1252 -t utf-8`"):
        check_encoding(path, "utf-8")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf\n", [""]),
        (b"\xef\xbb\xbfa\r\nb", ["a", "b"]),
    ],
)
def test_lines_without_the_byte_order_mark(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    assert list(read_lines(str(path))) == expected


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        ("un café\nüber “uns” – 5 €\n", "cp1252", "cp1252"),
        ("un café\n", "utf-8", None),
        ("un café\n", "utf-16", "utf-16"),
        ("plain\n", "ascii", None),
        ("привет, мир\n", "cp1251", None),  # letters that would be read as Western ones, but too many
        ("un café\0\n", "cp1252", None),
    ],
)
def test_encodings_that_can_be_told(text: str, encoding: str, found: str | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(text.encode(encoding))
    assert find_encoding(path) == found
