"""Tests of `mtl_hf.data.formats`: spans, lists as text, items between spaces, rows of one word: words with tags."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

import mtl_hf.data.formats
import mtl_hf.data.token_columns
from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks, check_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.data.spans import Span, tag_characters, tag_words
from mtl_hf.modeling.words import split_words
from mtl_hf.tasks import SourceData
from mtl_hf.tasks.written_lists import parse_list, split_at_blanks

SENTENCES = [
    (["Bo", "Lind", "came", "."], ["B-PER", "I-PER", "O", "O"]),
    (["nobody", "else", "came", "."], ["O", "O", "O", "O"]),
    (["Ana", "flew", "to", "Port", "of", "Elm"], ["B-PER", "O", "O", "B-LOC", "I-LOC", "I-LOC"]),
]
CHARACTERS = [[(0, 7, "PER")], [], [(0, 3, "PER"), (12, 23, "LOC")]]
WORDS = [[(0, 1, "PER")], [], [(0, 0, "PER"), (3, 5, "LOC")]]
TEXTS = [" ".join(words) for words, _ in SENTENCES]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    return str(path)


def load(rows: Any, text: Any = "text", source: dict[str, Any] | None = None, **task: Any) -> SourceData:
    """The only source of a config with a token task, with labels; `rows` are a path, or rows of a `Dataset`."""
    if isinstance(rows, str):
        kind = "csv" if rows.endswith(".csv") else "json"
        data: dict[str, Any] = {"path": kind, "data_files": {"train": rows, "validation": rows}}
    else:
        held = datasets.Dataset.from_list(rows) if isinstance(rows, list) else rows
        data = {"dataset": {"train": held, "validation": held}}
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"text": text} | data | (source or {})},
        "tasks": {"ner": {"type": "token_classification", "source": "only"} | task},
    })  # fmt: skip
    check_tasks(config)
    sources = load_sources(config)
    build_tasks(config, sources)
    return sources["only"]


def pairs(data: SourceData, split: str = "train") -> list[tuple[list[str], list[str]]]:
    """Words and tags of each row."""
    return list(zip(data.texts(split), data.gold[split]["ner"], strict=True))


# What annotators' tools write

SPAN_ROWS: dict[str, list[Any]] = {
    "doccano": [[list(span) for span in spans] for spans in CHARACTERS],
    "doccano's own": [
        [{"id": 7, "start_offset": start, "end_offset": end, "label": label} for start, end, label in spans]
        for spans in CHARACTERS
    ],
    "a list of each": [
        dict(zip(("start", "end", "label"), map(list, zip(*spans, strict=True)), strict=True))
        if spans
        else {"start": [], "end": [], "label": []}
        for spans in CHARACTERS
    ],
    "spacy": [[{"start": start, "end": end, "label": label} for start, end, label in s] for s in CHARACTERS],
    "prodigy": [
        [{"start": a, "end": b, "label": c, "token_start": 0, "token_end": 0} for a, b, c in s] for s in CHARACTERS
    ],
    "label studio": [[{"start": a, "end": b, "text": "x", "labels": [c]} for a, b, c in s] for s in CHARACTERS],
    "pipelines": [[{"entity_group": c, "start": a, "end": b, "score": 0.5} for a, b, c in s] for s in CHARACTERS],
}


@pytest.mark.parametrize("tool", SPAN_ROWS)
def test_spans_of_characters(tool: str, tmp_path: Path) -> None:
    rows = [{"text": text, "entities": spans} for text, spans in zip(TEXTS, SPAN_ROWS[tool], strict=True)]
    data = load(write(tmp_path / "rows.jsonl", rows), spans="entities")
    assert pairs(data) == pairs(data, "validation") == SENTENCES
    assert (data.form, data.columns, data.offsets) == ("words", ["text (words)"], "text (offsets)")
    train = data.splits["train"]
    assert train["text"][:] == TEXTS
    for text, words, offsets in zip(TEXTS, train["text (words)"], train[data.offsets], strict=True):
        assert [text[start:end] for start, end in offsets] == words
    cells = [row | {"entities": json.dumps(row["entities"])} for row in rows]  # as Label Studio's CSV
    assert pairs(load(write(tmp_path / "rows.csv", cells), spans="entities")) == SENTENCES
    if tool != "doccano":  # lists of numbers and text have no type in Arrow
        assert pairs(load(rows, spans="entities")) == SENTENCES


def test_spans_of_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = [{"tokenized_text": words, "ner": spans} for (words, _), spans in zip(SENTENCES, WORDS, strict=True)]
    data = load(write(tmp_path / "rows.jsonl", rows), "tokenized_text", spans="ner")
    assert pairs(data) == SENTENCES
    assert data.offsets is None
    assert "3 spans of words of 'tokenized_text', both ends included, in 'ner' are read as tags" in caplog.text
    assert "(the first: [0, 1, \"PER\"] 'Bo Lind' in row 1)" in caplog.text
    rows[0]["ner"] = [(3, 4, "PER")]
    with pytest.raises(ValueError, match=r"\[3, 4, \"PER\"\] in row 1 .*, whose text has 4 words, 0 to 3 \(the end of"):
        load(write(tmp_path / "bad.jsonl", rows), "tokenized_text", spans="ner")


@pytest.mark.parametrize("form", [str, json.dumps, lambda items: f"[{' '.join(map(repr, items))}]"])
def test_lists_as_text(form: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = [{"text": form(words), "tags": form(tags)} for words, tags in SENTENCES]
    path = write(tmp_path / "rows.csv", rows)
    assert pairs(load(path, label="tags")) == pairs(load(rows, label="tags")) == SENTENCES
    assert "Source only, train: the column 'tags' holds lists written as text" in caplog.text
    rows[1]["tags"] = "O O O O"
    with pytest.raises(
        ValueError, match=r"row 2 of the split 'train' of .*: the column 'tags' has 'O O O O', which is not"
    ):
        load(write(tmp_path / "bad.csv", rows), label="tags")


def test_tags_that_are_numbers_in_lists_as_text(tmp_path: Path) -> None:
    ids = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    rows = [{"text": str(words), "tags": str([ids.index(tag) for tag in tags])} for words, tags in SENTENCES]
    labels = {str(number): name for number, name in enumerate(ids)}
    assert pairs(load(write(tmp_path / "rows.csv", rows), label="tags", labels=labels)) == SENTENCES


def test_words_and_tags_between_spaces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = [{"text": text, "tags": " ".join(tags)} for text, (_, tags) in zip(TEXTS, SENTENCES, strict=True)]
    data = load(write(tmp_path / "rows.csv", rows), label="tags")
    assert pairs(data) == pairs(load(rows, label="tags")) == SENTENCES
    assert data.splits["train"]["text"][:] == TEXTS
    assert "the column 'tags' is split at its spaces ('B-PER I-PER O O')" in caplog.text
    rows[2]["tags"] = "O O"
    with pytest.raises(
        ValueError, match=r"row 3 of the split 'train' .* has 6 words but 2 labels in 'tags'; it should"
    ):
        load(write(tmp_path / "bad.csv", rows), label="tags")


def word_rows(number: Any = lambda sentence, place: sentence) -> list[dict[str, Any]]:
    return [
        {"id": number(sentence, place), "word": word, "tag": tag, "source": f"file {sentence}"}
        for sentence, (words, tags) in enumerate(SENTENCES)
        for place, (word, tag) in enumerate(zip(words, tags, strict=True))
    ]


NUMBERS = {
    "in each row": lambda sentence, place: sentence,
    "in the first row": lambda sentence, place: None if place else f"Sentence: {sentence}",
}


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_word_a_row(numbers: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = word_rows(NUMBERS[numbers])
    data = load(write(tmp_path / "rows.csv", rows), "word", {"group_by": "id"}, label="tag")
    assert pairs(data) == pairs(load(rows, "word", {"group_by": "id"}, label="tag")) == SENTENCES
    assert data.splits["train"]["source"][:] == ["file 0", "file 1", "file 2"]  # equal in a sentence: no list
    assert data.where("train", 2) == "row 9 of the split 'train' of source 'only'"  # its first row
    assert "14 rows of one word are 3 sentences by id (lists: word, tag)" in caplog.text


def test_sentences_of_documents(tmp_path: Path) -> None:
    rows = [{"doc": document} | row for document in "ab" for row in word_rows()]
    data = load(write(tmp_path / "rows.csv", rows), "word", {"group_by": ["doc", "id"]}, label="tag")
    assert pairs(data) == SENTENCES * 2
    with pytest.raises(
        ValueError, match=r"row 15 begins a second group with id 0, after that of row 1\. .*document, sent"
    ):
        load(write(tmp_path / "rows.csv", rows), "word", {"group_by": "id"}, label="tag")


def test_rows_without_a_sentence_are_refused(tmp_path: Path) -> None:
    rows = word_rows()
    rows[5]["id"] = None
    with pytest.raises(ValueError, match=r"the column 'id' has no value in 1 rows \(the first: row 6\), but other"):
        load(write(tmp_path / "rows.csv", rows), "word", {"group_by": "id"}, label="tag")
    rows[0]["id"] = None
    with pytest.raises(ValueError, match=r"split 'train': the column 'id' has no value in row 1"):
        load(write(tmp_path / "rows.csv", rows), "word", {"group_by": "id"}, label="tag")
    with pytest.raises(ValueError, match=r"`sources\.only\.group_by` is 'number', but the split"):
        load(write(tmp_path / "rows.csv", rows), "word", {"group_by": "number"}, label="tag")
    with pytest.raises(
        ValueError, match=r"single word in each row \('Bo', 'Lind', \.\.\.\): name the column with the number"
    ):
        load(write(tmp_path / "rows.csv", rows), "word", label="tag")


def test_a_missing_word_names_the_row_of_its_sentence(tmp_path: Path) -> None:
    rows = word_rows()
    rows[6]["word"] = None
    with pytest.raises(ValueError, match=r"1 of 3 rows of the split 'train' have no text \(rows 5\)"):
        load(write(tmp_path / "rows.csv", rows), "word", {"group_by": "id"}, label="tag")


# Faults


@pytest.mark.parametrize(
    ("spans", "tags", "kind"),
    [
        ([(0, 8, "PER")], "B-PER I-PER O O", "trimmed"),
        ([(1, 6, "PER")], "B-PER I-PER O O", "widened"),
        ([(0, 2, "A"), (0, 7, "B"), (3, 7, "C")], "B-B I-B O O", "dropped"),
        ([(0, 2, "A"), (0, 2, "B")], "B-A O O O", "dropped"),
        ([(-1, 2, "A")], "O O O O", "bad"),
        ([(8, 15, "A")], "O O O O", "bad"),
        ([(2, 2, "A")], "O O O O", "bad"),
        ([(3, 2, "A")], "O O O O", "bad"),
        ([(2, 3, "A")], "O O O O", "bad"),  # a blank
        ([(0, 2, "A"), (3, 7, "A"), (8, 14, "A")], "B-A B-A B-A I-A", ""),
    ],
)
def test_spans_of_a_row(spans: list[Any], tags: str, kind: str) -> None:
    text = "Bo Lind came ."
    read = tag_characters(text, split_words(text), [Span(*span) for span in spans])
    assert read.tags == tags.split()
    assert [name for name in ("trimmed", "widened", "dropped", "bad") if getattr(read, name)] == (
        [kind] if kind else []
    )
    if kind == "dropped":
        assert read.dropped == [Span(*span) for span in spans if f"B-{span[2]}" not in tags]


def test_tags_of_spans_of_words() -> None:
    read = tag_words(3, [Span(0, 1, "A"), Span(2, 3, "B"), Span(2, 2, "C"), Span(-1, 0, "D"), Span(1, 0, "E")])
    assert read.tags == ["B-A", "I-A", "B-C"]
    assert read.bad == [(2, 3, "B"), (-1, 0, "D"), (1, 0, "E")]


def test_faults_are_counted_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spans = [[(0, 8, "PER")], [(8, 13, "LOC")], [(1, 3, "PER"), (12, 16, "LOC"), (12, 23, "LOC")]]
    rows = [{"text": text, "spans": [list(s) for s in own]} for text, own in zip(TEXTS, spans, strict=True)]
    load(write(tmp_path / "rows.jsonl", rows), spans="spans")
    found = [record.message for record in caplog.records if "Source only, train" in record.message]
    assert found[1:4] == [
        "Source only, train: 1 spans in 'spans' have blanks at a border, which are left out (the first:"
        " [0, 8, \"PER\"] 'Bo Lind ' in row 1).",
        "Source only, train: 2 spans in 'spans' begin or end inside a word and take the whole word (the first:"
        " [8, 13, \"LOC\"] 'lse c' in row 2).",
        "Source only, train: 1 spans in 'spans' share words with a longer span, or an equally long one before them,"
        " and are left out (the first: [12, 16, \"LOC\"] 'Port' in row 3).",
    ]


@pytest.mark.parametrize("span", [[-1, 3, "PER"], [0, 99, "PER"], [3, 3, "PER"], [6, 7, "PER"]])
def test_bad_spans_are_refused_or_their_rows_dropped(
    span: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spans = [[list(s) for s in own] for own in CHARACTERS]
    spans[1] = [span]
    rows = [{"text": text, "spans": own} for text, own in zip(TEXTS, spans, strict=True)]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(
        ValueError, match=r"1 spans in 1 rows of the column 'spans' are outside .* in row 2 of the split"
    ):
        load(path, spans="spans")
    data = load(path, source={"drop_bad_rows": True}, spans="spans")
    assert pairs(data) == [SENTENCES[0], SENTENCES[2]]
    assert data.where("train", 1) == "row 3 of the split 'train' of source 'only'"
    assert "Source only, train: 1 rows are dropped, with 1 spans in 'spans' outside of their text" in caplog.text
    with pytest.raises(ValueError, match="no row of the split 'train' would be left"):
        load(write(tmp_path / "bad.jsonl", rows[1:2]), source={"drop_bad_rows": True}, spans="spans")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([{"start": 0, "end": 3}], "is not a span"),
        ([{"start": 0, "end": 3, "labels": ["A", "B"]}], "has 2 labels; a span has one"),
        ([{"start": 0, "end": 3.5, "label": "A"}], "is not a span"),
        ("PER", '"PER" is not a list of spans'),
        (
            [{"result": [{"value": {"start": 0, "end": 3, "labels": ["A"]}}]}],
            "Label Studio's nested export; .* JSON-MIN",
        ),
    ],
)
def test_what_is_no_span_is_refused(cell: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": TEXTS[0], "spans": cell}] * 2)
    with pytest.raises(ValueError, match=rf"row 1 of the split 'train' .* 'spans' should hold spans, .*{message}"):
        load(path, spans="spans")


def test_keys_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = [{"text": text, "entities": spans} for text, spans in zip(TEXTS, SPAN_ROWS["doccano"], strict=True)]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(
        ValueError, match=r"`tasks\.ner\.label`: the column 'entities' .* write `spans: entities` instead"
    ):
        load(path, label="entities")
    with pytest.raises(ValueError, match=r"`tasks\.ner` has both `label` and `spans`"):
        load(path, label="entities", spans="entities")
    with pytest.raises(ValueError, match=r"`tasks\.ner\.label` is missing: .*or with `spans` the column with spans"):
        load(path)
    with pytest.raises(ValueError, match=r"`tasks\.ner\.spans` is 'entitis', but .* Did you mean `entities`"):
        load(path, spans="entitis")
    with pytest.raises(ValueError, match="sequence_classification reads no spans"):
        load(path, spans="entities", type="sequence_classification")
    with pytest.raises(ValueError, match="cannot be used with `spans`"):
        load(path, source={"group_by": "text"}, spans="entities")
    with pytest.raises(ValueError, match="need one text column"):
        load(path, ["text", "text"], spans="entities")


def test_rows_without_spans_have_no_labels(tmp_path: Path) -> None:
    rows = [
        {"text": TEXTS[0], "spans": [[0, 7, "PER"]]},
        {"text": TEXTS[1], "spans": None},
        {"text": TEXTS[2], "spans": []},
    ]
    data = load(write(tmp_path / "rows.jsonl", rows), spans="spans")
    assert list(data.gold["train"]["ner"]) == [SENTENCES[0][1], None, ["O"] * 6]


def test_labels_of_spans_may_be_their_types(tmp_path: Path) -> None:
    rows = [{"text": text, "spans": spans} for text, spans in zip(TEXTS, SPAN_ROWS["doccano"], strict=True)]
    path = write(tmp_path / "rows.jsonl", rows)
    assert pairs(load(path, spans="spans", labels=["PER", "LOC"])) == SENTENCES
    with pytest.raises(ValueError, match=r"`tasks\.ner\.labels` does not have 'B-LOC', 'I-LOC'"):
        load(path, spans="spans", labels=["PER"])


# Cells


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a", "\\u00e9"]', ["a", "é"]),
        ("""['it\\'s', "it's", 'a, b']""", ["it's", "it's", "a, b"]),
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),
        ("('a', None, 3, 1.5)", ["a", None, 3, 1.5]),
        ("[]", []),
        ("[1 0]", [1, 0]),
        ("a b", None),
        ("[laughs]", None),
        ("['a', ['b']]", None),
        ('[["b"]]', None),
        ("[__import__('os')]", None),
        ("['a', 'b'", None),
        ("['a', 'b", None),
        ("", None),
    ],
)
def test_cells_with_lists(cell: str, items: list[Any] | None) -> None:
    assert parse_list(cell) == items


def test_other_spaces_are_parts_of_words() -> None:
    assert split_at_blanks(" a\u00a0b  c\td ") == ["a\u00a0b", "c", "d"]


# The cache


def test_a_second_run_converts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spans = write(tmp_path / "a.jsonl", [{"text": t, "s": s} for t, s in zip(TEXTS, SPAN_ROWS["doccano"], strict=True)])
    words = write(tmp_path / "b.csv", word_rows())
    runs = [(spans, "text", {}, {"spans": "s"}), (words, "word", {"group_by": "id"}, {"label": "tag"})]
    caplog.set_level(logging.INFO)
    before = [load(path, text, source, **task) for path, text, source, task in runs]
    said = sorted({record.message for record in caplog.records if "Source only" in record.message})
    caplog.clear()
    for name in ("split_words", "read_items", "group_rows", "find_starts", "parse_list"):
        monkeypatch.setattr(mtl_hf.data.token_columns, name, None)
    for name in ("_layout", "_layout_of_groups", "are_lists", "varying"):
        monkeypatch.setattr(mtl_hf.data.formats, name, None)
    after = [load(path, text, source, **task) for path, text, source, task in runs]
    assert [pairs(data) for data in after] == [pairs(data) for data in before] == [SENTENCES, SENTENCES]
    assert [data.content("train") for data in after] == [data.content("train") for data in before]
    assert [data.origins for data in after] == [data.origins for data in before]
    assert sorted({record.message for record in caplog.records if "Source only" in record.message}) == said


def test_a_damaged_cache_is_converted_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": t, "s": s} for t, s in zip(TEXTS, SPAN_ROWS["doccano"], strict=True)])
    data = load(path, spans="s")
    cached = Path(data.splits["train"].cache_files[0]["filename"])
    content = cached.read_bytes()
    cached.write_bytes(content[: len(content) // 2])
    assert pairs(load(path, spans="s")) == SENTENCES
    assert "Source only, train: the words and tags cached in" in caplog.text


# The page


def test_each_example_of_the_page_is_read_as_the_same_words_and_tags(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data_files.md").read_text(encoding="utf-8")
    section = page.partition("## Tags of words")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 14
    for number, (_, example, keys) in enumerate(rows):
        source, task = (yaml.safe_load(f"{{{code.strip('`')}}}") for code in keys.split("<br>"))
        path = tmp_path / f"{number}.txt"
        path.write_text("\n".join(line.strip("`") for line in example.split("<br>")) + "\n", encoding="utf-8")
        files = {"data_files": {"train": str(path), "validation": str(path)}}
        config = RunConfig.load({
            "model": {"encoder": "unused"}, "sources": {"only": source | files},
            "tasks": {"ner": {"type": "token_classification", "source": "only"} | task},
        })  # fmt: skip
        check_tasks(config)
        sources = load_sources(config)
        build_tasks(config, sources)
        assert pairs(sources["only"]) == [(["Ana", "flew", "to", "Riga"], ["B-PER", "O", "O", "B-LOC"])], example
