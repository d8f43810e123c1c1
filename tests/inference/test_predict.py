"""Answers to files and streams: what is written when, which columns are read, what is said of texts that are cut."""

import json
from pathlib import Path

import pytest

from mtl_hf.inference import predict as module
from mtl_hf.inference.predict import predict
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
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
