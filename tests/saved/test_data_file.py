"""Tests of `mtl_hf.saved.data_file`: a file is read as a source of training is."""

from pathlib import Path

import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.saved.data_file import config_of_file


def test_labels_of_a_csv_file_are_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text;code;stars\n" + "".join(f"{n};0{n % 3};{n}.5\n" for n in range(6)))
    heads = {
        "code": {"type": "sequence_classification", "text": "string"},
        "stars": {"type": "regression", "text": "string"},
    }
    config = config_of_file(path, heads)
    sources = load_sources(config, ["test"])
    build_tasks(config, sources, {"code": ["00", "01", "02"]})
    assert sources["data"].texts("test") == ["0", "1", "2", "3", "4", "5"]
    assert sources["data"].gold["test"] == {
        "code": ["00", "01", "02", "00", "01", "02"],
        "stars": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
    }


def test_numbers_of_a_csv_file_are_read_as_in_training(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "text,stars,first,second\n" + "".join(f"text {n},{n},a {n},b {n}\n" for n in ("+1", "02", "3", "1E1"))
    )
    heads = {
        "stars": {"type": "regression", "text": "string"},
        "kind": {"type": "sequence_classification", "text": "string"},
        "alike": {"type": "sentence_similarity", "text": "apart"},
    }
    config = config_of_file(path, heads, labels={"stars": "stars", "kind": "stars", "alike": "stars"})
    sources = load_sources(config, ["test"])
    build_tasks(config, sources, {"kind": ["1", "02"]})
    (own, apart) = ({"kind", "stars"}, {"alike"})
    gold = {frozenset(source.gold["test"]): source.gold["test"] for source in sources.values()}
    assert gold[frozenset(own)] == {"stars": [1.0, 2.0, 3.0, 10.0], "kind": ["+1", "02", "3", "1E1"]}
    assert gold[frozenset(apart)]["alike"] == [0.0, 1 / 9, 2 / 9, 1.0]


def test_head_that_needs_no_labels_and_finds_no_texts_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "kind": "x"}\n')
    kind = {"type": "sequence_classification", "text": "string"}
    ranking = {"type": "sentence_similarity", "text": "apart", "loss": "ranking"}
    assert list(config_of_file(path, {"kind": kind, "ranking": ranking}).tasks) == ["kind"]
    assert "Head ranking is not scored: " in caplog.text
    with pytest.raises(ValueError, match="for the text of the head ranking"):
        config_of_file(path, {"ranking": ranking})
    with pytest.raises(ValueError, match=r"there is no text column for any head \(ranking, other\)"):
        config_of_file(path, {"ranking": ranking, "other": ranking})
    with pytest.raises(ValueError, match="for the text of the head kind"):
        config_of_file(path, {"kind": kind | {"text": "pair"}, "ranking": ranking})


def test_words_of_a_file_are_read_in_their_own_format_or_that_of_the_run(tmp_path: Path) -> None:
    rows, spans, conll = tmp_path / "rows.csv", tmp_path / "rows.jsonl", tmp_path / "rows.conll"
    rows.write_text("id,word,tag\n1,Bo,B-PER\n1,came,O\n2,Bo,B-PER\n")
    spans.write_text('{"word": "Bo came", "tag": [[0, 2, "PER"]]}\n{"word": "Bo", "tag": [[0, 2, "PER"]]}\n')
    conll.write_text("Bo N B-PER\ncame V O\n\nBo N B-PER\n")
    head = {"tag": {"type": "token_classification", "text": "words", "labels": ["O", "B-PER", "I-PER"]}}
    files = {"path": "csv", "data_files": str(rows), "text": "word", "group_by": "id"}
    task = {"type": "token_classification", "source": "s"}
    run = RunConfig.load(
        {"model": {"encoder": "x"}, "sources": {"s": files}, "tasks": {"tag": task | {"label": "tag"}}}
    )
    lines = RunConfig.load({
        "model": {"encoder": "x"}, "sources": {"s": {"path": "conll", "data_files": str(conll), "text": 0}},
        "tasks": {"tag": task | {"label": -1}},
    })  # fmt: skip
    for path, own in ((rows, run), (spans, run), (conll, lines)):
        config = config_of_file(path, head, own)
        sources = load_sources(config, ["test"])
        build_tasks(config, sources, {"tag": ["O", "B-PER", "I-PER"]})
        assert sources["data"].texts("test") == [["Bo", "came"], ["Bo"]], path
        assert list(sources["data"].gold["test"]["tag"]) == [["B-PER", "O"], ["B-PER"]]


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "Bo Ek came", "tag": [[0, 5, "PER"]]}',
        '{"text": ["Bo", "Ek", "came"], "tag": [[0, 1, "PER"]]}',
        '{"text": "Bo Ek came", "tag": "B-PER I-PER O"}',
        '{"text": "Bo Ek came", "tag": "[\'B-PER\', \'I-PER\', \'O\']"}',
        '{"text": ["Bo", "Ek", "came"], "tag": ["B-PER", "I-PER", "O"]}',
        '{"text": "Bo Ek came", "tag": "PER PER O"}',
    ],
)
@pytest.mark.parametrize("scheme", ["io", "bilou"])
def test_the_scheme_of_training_is_not_that_of_a_file_whose_tags_do_not_fit_it(
    tmp_path: Path, row: str, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{row}\n{row}\n")
    labels = ["O", "B-PER", "I-PER"]
    task = {"type": "token_classification", "source": "s", "label": "tag", "scheme": scheme}
    run = RunConfig.load(
        {"model": {"encoder": "x"}, "sources": {"s": {"path": "x", "text": "text"}}, "tasks": {"tag": task}}
    )
    head = {"tag": {"type": "token_classification", "text": "words", "labels": labels}}
    config = config_of_file(path, head, run)
    sources = load_sources(config, ["test"])
    build_tasks(config, sources, {"tag": labels})
    assert list(sources["data"].gold["test"]["tag"]) == [["B-PER", "I-PER", "O"]] * 2
    if "[[" in row:  # spans have no end tags that could lack
        assert "end tag" not in caplog.text


@pytest.mark.parametrize(
    ("lines", "gold", "warned"),
    [
        (['"a;b"', '"b"'], [["a", "b"], ["b"]], False),
        (["\"['a', 'b']\"", "\"['b']\""], [["a", "b"], ["b"]], False),
        (['["a", "b"]', '["b"]'], [["a", "b"], ["b"]], False),
        (["[1, 1]", "[0, 1]"], [["a", "b"], ["a"]], True),  # in the order of the head
    ],
)
def test_several_labels_of_a_file_are_read_in_its_own_form(
    tmp_path: Path, lines: list[str], gold: list[list[str]], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "Bo {row}", "tags": {line}}}\n' for row, line in enumerate(lines)))
    task = {"type": "multi_label_classification", "source": "s", "label": "tags", "label_separator": ";"}
    run = RunConfig.load(
        {"model": {"encoder": "x"}, "sources": {"s": {"path": "x", "text": "text"}}, "tasks": {"tags": task}}
    )
    labels = ["b", "a"]
    head = {"tags": {"type": "multi_label_classification", "text": "string", "labels": labels}}
    config = config_of_file(path, head, run)
    sources = load_sources(config, ["test"])
    build_tasks(config, sources, {"tags": labels})
    assert list(sources["data"].gold["test"]["tags"]) == gold
    assert warned == ("they are read in the order of the trained head: b, a" in caplog.text)
