"""Tests of `mtl_hf.data.conll`: each line is a word, or known as something else, or refused."""

from pathlib import Path
from typing import Any

import pytest

from mtl_hf.data.conll import read_conll

SENTENCES = "Anna B-PER\nsleeps O\n\nRome B-LOC\n"
COLUMNS = {"words": [["Anna", "sleeps"], ["Rome"]], "tags": [["B-PER", "O"], ["B-LOC"]]}


def read(tmp_path: Path, text: str, column_names: Any = ("words", "tags"), **options: Any) -> Any:
    path = tmp_path / "rows.conll"
    path.write_bytes(text.encode())
    return read_conll(str(path), {"column_names": column_names} | options)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (SENTENCES, None),
        (SENTENCES.replace(" ", "\t"), None),
        (SENTENCES.replace(" ", "  ").replace("O\n", "O \t\n"), None),
        ("\ufeff" + SENTENCES.replace("\n", "\r\n"), None),
        (SENTENCES.replace("\n\n", "\n \t \n\n"), None),
        (SENTENCES.replace("Rome B", "Rome\tB"), None),
        (SENTENCES.replace(" ", "\t").replace("Rome\t", " Rome \t"), None),
        (f"-DOCSTART- -X- -X- O\n\n{SENTENCES.replace('Rome', '-DOCSTART- O' + chr(10) + 'Rome')}\n\n",
         "2 -DOCSTART- lines are left out (the first: line 1)."),
        (f"# sent_id = 0\n{SENTENCES}", "1 comment lines are left out (the first: line 1, '# sent_id = 0')."),
        (f"# sent_id 0\n# x\n{SENTENCES}", "2 comment lines are left out (the first: line 1, '# sent_id 0')."),
        (SENTENCES.replace("Rome", "# text = Rome\n# newdoc O\nRome"),
         "2 comment lines are left out (the first: line 4, '# text = Rome')."),
        (f"TOKEN TAG\n{SENTENCES}", "names of columns (TOKEN TAG), left out."),
        ("Word\tner_tags\n\n" + SENTENCES.replace(" ", "\t"), "names of columns (Word ner_tags), left out."),
    ],
)  # fmt: skip
def test_sentences(tmp_path: Path, text: str, note: str | None) -> None:
    rows = read(tmp_path, text)
    assert rows.columns == COLUMNS
    assert [message.split(": ", 1)[1] if "names" in message else message.split("rows.conll: ")[1]
            for _, message in rows.notes] == ([note] if note else [])  # fmt: skip


def test_hashes_that_are_words_stay(tmp_path: Path) -> None:
    rows = read(tmp_path, "# O\nfun O\n\nAnna B-PER\n# O\n#tag B-PER\n")
    assert rows.columns["words"] == [["#", "fun"], ["Anna", "#", "#tag"]]
    assert rows.notes == []
    rows = read(tmp_path, "#fun HT\nis V\n\n# #\n5 CD\n")  # a tag that only hashtags have; the pound sign
    assert rows.columns == {"words": [["#fun", "is"], ["#", "5"]], "tags": [["HT", "V"], ["#", "CD"]]}


def test_lines_of_conllu_that_are_no_words_are_left_out(tmp_path: Path) -> None:
    text = "# sent_id = 1\n1\tA\tN\n2-3\tdu\t_\n2\tde\tP\n3\tle\tD\n3.1\tx\t_\n\n1\t2-3\tX\n"
    rows = read(tmp_path, text, ["id", "words", "pos"])
    assert rows.columns["words"] == [["A", "de", "le"], ["2-3"]]
    assert rows.columns["pos"] == [["N", "P", "D"], ["X"]]
    assert [message.split(": ", 1)[1] for _, message in rows.notes][1:] == [
        "2 lines of several words or of none (as CoNLL-U has them: 2-3, 8.1) are left out (the first: line 3,"
        " '2-3\\tdu\\t_')."
    ]
    scores = read(tmp_path, "2-3 O\n10 O\n\n4.5 O\n")  # words that are numbers
    assert scores.columns["words"] == [["2-3", "10"], ["4.5"]]


def test_words_may_hold_blanks(tmp_path: Path) -> None:
    assert read(tmp_path, "New York\tB-LOC\n10\u00a0000\tO\n").columns["words"] == [["New York", "10\u00a0000"]]
    assert read(tmp_path, "10\u00a0000 O\n").columns["words"] == [["10\u00a0000"]]


def test_four_columns_and_the_lines_of_sentences(tmp_path: Path) -> None:
    rows = read(tmp_path, "A N X B-PER\n\n\nb V X O\nc V X O\n", ["words", "pos", "chunk", "tags"])
    assert rows.columns["tags"] == [["B-PER"], ["O", "O"]]
    assert rows.columns["pos"] == [["N"], ["V", "V"]]
    assert rows.lines == [1, 4]


def test_options_of_the_loader(tmp_path: Path) -> None:
    assert read(tmp_path, "% no word\nAnna,B-PER\n", delimiter=",", comment_prefix="%").columns["words"] == [["Anna"]]
    assert read(tmp_path, "-DOCSTART- O\nAnna O\n", skip_docstart=False).columns["words"] == [["-DOCSTART-", "Anna"]]


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("Anna N X B-PER\n", ["words", "tags"],
         r", line 1: 4 columns \(Anna | N | X | B-PER\), but `column_names` has 2 \(words, tags\); name every column"),
        (SENTENCES, ["words", "pos", "tags"], r", line 1: 2 columns \(Anna | B-PER\), but `column_names` has 3"),
        ("Anna\nsleeps\n", ["words", "tags"], r", line 1: 1 column \(Anna\), but `column_names` has 2"),
        (SENTENCES + "sleeps\n", ["words", "tags"], r", line 5: 1 column \(sleeps\), but 2 are named \(words, tags\)"),
        (SENTENCES + "New York B-LOC\n", ["words", "tags"], r", line 5: 3 columns \(New | York | B-LOC\), but 2 are"),
        (SENTENCES + "# some longer comment\n", ["words", "tags"], r", line 5: 4 columns \(# | some"),
        ("Anna\tB-PER\nNew York\nsleeps\tO\n", ["words", "tags"], r", line 2: 1 column \(New York\), but 2 are named"),
        ("Anna\tB-PER\nsleeps\t\n", ["words", "tags"], r", line 2: the column 'tags' is empty in 'sleeps \| '"),
    ],
)  # fmt: skip
def test_line_that_does_not_fit_is_refused(tmp_path: Path, text: str, names: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"rows\.conll{expected.replace(' | ', ' [|] ')}"):
        read(tmp_path, text, names)


def test_names_that_are_no_list_are_refused(tmp_path: Path) -> None:
    for names in ("words", ["words", 5], ["words", ""], 5):
        with pytest.raises(ValueError, match=r"`column_names` is .*; it should be a list of names"):
            read(tmp_path, SENTENCES, names)
    with pytest.raises(ValueError, match="`column_names` has a name twice: tags, tags"):
        read(tmp_path, SENTENCES, ["tags", "tags"])
    with pytest.raises(ValueError, match=r"line 1: 2 columns .* but `column_names` has 0"):
        read(tmp_path, SENTENCES, [])


FOUR = "Anna N X B-PER\nsleeps V X O\n\nRome N X B-LOC\n"


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        (FOUR, ["0", "3"], {"0": ["Anna", "sleeps"], "1": ["N", "V"], "3": ["B-PER", "O"]}),
        (FOUR, ["-4", "-1"], {"-4": ["Anna", "sleeps"], "-1": ["B-PER", "O"], "3": ["B-PER", "O"]}),
        (SENTENCES.replace(" ", "\t"), ["0", "-1"], {"0": ["Anna", "sleeps"], "-1": ["B-PER", "O"]}),
        ("Token POS Chunk NER\n" + FOUR, ["0", "-1"], {"0": ["Anna", "sleeps"], "-1": ["B-PER", "O"]}),
        ("Token POS Chunk NER\n" + FOUR, ["Token", "NER"], {"Token": ["Anna", "sleeps"], "NER": ["B-PER", "O"]}),
    ],
)
def test_columns_without_names_have_numbers_or_the_names_of_a_header(
    tmp_path: Path, text: str, wanted: list[str], expected: dict[str, list[str]]
) -> None:
    columns = read(tmp_path, text, None, wanted=wanted).columns
    assert {name: columns[name][0] for name in expected} == expected
    assert len(columns["0" if "0" in columns else "Token"]) == 2


def test_a_line_with_other_columns_than_most_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"rows\.conll, line 3: 3 columns \(Bo \| N \| X\), but most lines have 4: a word"
    ):
        read(tmp_path, FOUR.replace("\n\n", "\nBo N X\n\n"), None, wanted=["0", "-1"])
    with pytest.raises(ValueError, match=r"rows\.conll, line 1: 1 column \(Anna\), but most lines have 2"):
        read(tmp_path, "Anna\nBo O\nDev O\n", None, wanted=["0", "-1"])
    with pytest.raises(ValueError, match=r"rows\.conll, line 2: the column 1 is empty in 'sleeps \| '"):
        read(tmp_path, "Anna\tB-PER\nsleeps\t\n", None, wanted=["0", "-1"])
    with pytest.raises(
        ValueError, match=r"has 4 columns, as in 'Anna N X B-PER'; write numbers \(`text: 0`, `label: -1`"
    ):
        read(tmp_path, FOUR, None, wanted=["words", "tags"])
