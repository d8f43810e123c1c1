"""Answers to files and streams: what is written when, which columns are read, what is said of texts that are cut."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset

from mtl_hf.config import RunConfig
from mtl_hf.data.sources import load_sources
from mtl_hf.inference import predict as module
from mtl_hf.inference.embed import embed
from mtl_hf.inference.predict import predict
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.saved.data_file import config_of_file
from tests.conftest import SENTENCES


@pytest.fixture(scope="module")
def folder(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a head for single texts."""
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["booking", "music", "weather"])
    path = tmp_path_factory.mktemp("predict") / "model"
    model.save_pretrained(path)
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- the file with the answers ----


def test_a_file_is_replaced_on_request_only(folder: str, tmp_path: Path) -> None:
    to = tmp_path / "answers.jsonl"
    to.write_text("work of a day")
    with pytest.raises(ValueError, match=r"`--to` is .*answers\.jsonl, which exists: .*--overwrite"):
        predict(folder, SENTENCES, to=str(to))
    assert to.read_text() == "work of a day"
    predict(folder, SENTENCES, to=str(to), overwrite=True)
    assert [row["text"] for row in read(to)] == SENTENCES


def test_a_text_that_fails_leaves_the_file_as_it_was(folder: str, tmp_path: Path) -> None:
    to = tmp_path / "answers.jsonl"
    to.write_text("work of a day")
    (tmp_path / "rows.jsonl").write_text('{"text": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="the column 'text' holds"):
        predict(folder, file=str(tmp_path / "rows.jsonl"), to=str(to), overwrite=True)
    (tmp_path / "texts.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        predict(folder, file=str(tmp_path / "texts.txt"), to=str(to), overwrite=True)
    assert to.read_text() == "work of a day"


def test_an_interrupted_file_does_not_get_its_name(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module.load_model(folder)
    names: list[list[str]] = []

    def interrupted(texts, **options):
        yield {"intent": None}
        names.append([path.name for path in tmp_path.iterdir()])
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "predict_stream", interrupted)
    monkeypatch.setattr(module, "load_model", lambda _: model)
    with pytest.raises(KeyboardInterrupt):
        predict(folder, SENTENCES, to=str(tmp_path / "new" / "answers.jsonl"))
    with pytest.raises(KeyboardInterrupt):
        predict(folder, SENTENCES, to=str(tmp_path / "answers.jsonl"))
    assert sorted(names[1]) == [".answers.jsonl.draft", "new"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ---- the columns of a file ----


@pytest.fixture(scope="module")
def of_pairs(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads for single texts and for pairs, and the `run.yaml` of a run that read these columns."""
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["booking", "music", "weather"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city"])
    model.add_head("same", type="sentence_similarity")
    path = tmp_path_factory.mktemp("pairs") / "model"
    model.save_pretrained(path)
    config = {
        "model": {"encoder": encoder_folder},
        "sources": {
            "calls": {"path": "json", "data_files": "calls.jsonl", "text": "utterance"},
            "pairs": {"path": "json", "data_files": "pairs.jsonl", "text": ["asked", "known"]},
        },
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "calls", "label": "intent"},
            "slots": {"type": "token_classification", "source": "calls", "label": "slots"},
            "same": {"type": "sentence_similarity", "source": "pairs"},
        },
    }
    (path / "run.yaml").write_text(RunConfig.load(config).to_yaml(), encoding="utf-8")
    return path


def rows_file(folder: Path, **columns: str) -> str:
    """A file of two rows."""
    path = folder / "rows.jsonl"
    path.write_text((json.dumps(columns) + "\n") * 2, encoding="utf-8")
    return str(path)


def test_heads_whose_column_is_there_answer(of_pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = rows_file(tmp_path, utterance="play jazz in rome", text="other")
    predict(str(of_pairs), file=file, to=str(tmp_path / "to.jsonl"))
    lines = read(tmp_path / "to.jsonl")
    assert [set(line) for line in lines] == [{"text", "intent", "slots"}] * 2
    assert lines[0]["text"] == "play jazz in rome"
    assert f"No predictions of same: {file} has no columns with its texts (two texts)" in caplog.text
    file = rows_file(tmp_path, asked="jazz in rome?", known="rome has jazz")
    predict(str(of_pairs), file=file, to=str(tmp_path / "to.jsonl"), overwrite=True)
    assert set(read(tmp_path / "to.jsonl")[0]) == {"text", "same"}
    assert f"No predictions of intent, slots: {file} has no columns with its texts (one text)" in caplog.text


def test_heads_that_read_different_columns_answer_the_same_row(of_pairs: Path, tmp_path: Path) -> None:
    texts = {"utterance": "play jazz", "asked": "jazz in rome?", "known": "rome has jazz"}
    predict(str(of_pairs), file=rows_file(tmp_path, id="a", **texts), to=str(tmp_path / "to.jsonl"))
    first, second = read(tmp_path / "to.jsonl")
    assert first == second
    assert first["id"] == "a"
    assert first["text"] == texts
    model = MultiTaskModel.from_pretrained(of_pairs)
    ((single,), (pair,)) = model.predict([texts["utterance"]]), model.predict([(texts["asked"], texts["known"])])
    assert first["same"] == pytest.approx(pair["same"], abs=1e-6)
    assert first["intent"]["label"] == single["intent"]["label"]
    assert {key for key in first if key not in ("id", "text")} == set(single) | set(pair)


def test_conll_files_are_read_by_the_columns_of_the_run(of_pairs: Path, tmp_path: Path) -> None:
    path, to = tmp_path / "new.conll", tmp_path / "answers.jsonl"
    path.write_text("play NN O\njazz NN O\n\nin IN O\nparis NN B-city\n", encoding="utf-8")
    model = Path(shutil.copytree(of_pairs, tmp_path / "model"))
    columns = "path: conll\n    column_names: [words, pos, slots]"
    text = (model / "run.yaml").read_text(encoding="utf-8").replace("path: json", columns, 1)
    (model / "run.yaml").write_text(text.replace("text: utterance", "text: words"), encoding="utf-8")
    run = RunConfig.load(model / "run.yaml")
    predict(str(model), file=str(path), to=str(to))
    assert [line["text"] for line in read(to)] == [["play", "jazz"], ["in", "paris"]]
    scored = config_of_file(path, {"slots": MultiTaskModel.from_pretrained(model).config.heads["slots"]}, run)
    assert scored.tasks["slots"].label == "slots"
    assert load_sources(scored, ["test"])["data"].splits["test"]["slots"][:] == [["O", "O"], ["O", "B-city"]]


def test_conll_files_are_read_by_models_of_other_files(
    of_pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, to = tmp_path / "new.conll", tmp_path / "answers.jsonl"
    path.write_text("play NN O\njazz NN O\n\nin IN O\nparis NN B-city\n", encoding="utf-8")
    predict(str(of_pairs), file=str(path), to=str(to))
    assert [line["text"] for line in read(to)] == [["play", "jazz"], ["in", "paris"]]
    assert "new.conll: CoNLL with the columns tokens, column_2, tags." in caplog.text
    heads = {"slots": MultiTaskModel.from_pretrained(of_pairs).config.heads["slots"]}
    scored = config_of_file(path, heads, RunConfig.load(of_pairs / "run.yaml"), labels={"slots": "tags"})
    assert load_sources(scored, ["test"])["data"].splits["test"]["tags"][:] == [["O", "O"], ["O", "B-city"]]
    path.write_text("play\njazz\n\nin\nparis\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"new\.conll is a CoNLL file, but its columns were not recognised"):
        predict(str(of_pairs), file=str(path), to=str(to), overwrite=True)


def test_words_of_a_csv_file_are_read_as_in_training(
    of_pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to = tmp_path / "answers.jsonl"
    path = tmp_path / "lists.csv"
    path.write_text("id,utterance\n7,\"['play', 'jazz']\"\n8,\"['in', 'paris']\"\n", encoding="utf-8")
    predict(str(of_pairs), file=str(path), to=str(to))
    assert [(line["id"], line["text"]) for line in read(to)] == [(7, ["play", "jazz"]), (8, ["in", "paris"])]
    assert "the column 'utterance' holds lists written as text" in caplog.text
    model = Path(shutil.copytree(of_pairs, tmp_path / "model"))
    text = (model / "run.yaml").read_text(encoding="utf-8")
    (model / "run.yaml").write_text(
        text.replace("text: utterance", "text: utterance\n    group_by: sentence"), encoding="utf-8"
    )
    path.write_text("sentence,utterance\n1,play\n1,jazz\n2,in\n2,paris\n", encoding="utf-8")
    predict(str(model), file=str(path), to=str(to), overwrite=True)
    assert [line["text"] for line in read(to)] == [["play", "jazz"], ["in", "paris"]]
    path.write_text("utterance\nplay jazz\n[in] paris\n", encoding="utf-8")  # strings stay raw text
    predict(str(model), file=str(path), to=str(to), overwrite=True)
    assert [line["text"] for line in read(to)] == ["play jazz", "[in] paris"]


def test_a_head_that_is_asked_for_needs_its_columns(of_pairs: Path, tmp_path: Path) -> None:
    file = rows_file(tmp_path, utterance="play jazz in rome")
    with pytest.raises(ValueError, match=r"the text of the head same\. Name it with `--text FIRST,SECOND`"):
        predict(str(of_pairs), file=file, heads=["intent", "same"])
    with pytest.raises(ValueError, match="`heads` has"):
        predict(str(of_pairs), file=file, heads=["intent", "samee"])
    with pytest.raises(ValueError, match="none has a usual name"):
        predict(str(of_pairs), file=rows_file(tmp_path, other="play jazz in rome"))


# ---- texts that are cut ----


def test_texts_that_are_cut_are_marked_and_counted(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [SENTENCES[0], " ".join(SENTENCES), SENTENCES[1], " ".join(SENTENCES[::-1])]
    predict(folder, texts, to=str(tmp_path / "to.jsonl"))
    assert [line.get("cut") for line in read(tmp_path / "to.jsonl")] == [None, True, None, True]
    assert caplog.text.count("2 of 4 texts were truncated to 16 tokens; 66 of their 98 tokens were not read.") == 1


def test_embeddings_of_texts_that_are_cut_are_counted_once(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_dict({"text": [SENTENCES[0], " ".join(SENTENCES)] * 300})
    embed(folder, rows, to=tmp_path / "x.npy")
    assert caplog.text.count("300 of 600 texts were truncated to 16 tokens") == 1
