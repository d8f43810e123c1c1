"""Tests of `mtl_hf.modeling.building`: a model made around an encoder, or out of another multi-task model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tokenizing import load_tokenizer
from tests.conftest import FAMILIES
from tests.modeling.conftest import add_heads

# ---- around an encoder ----


def test_bf16_checkpoint_is_loaded_in_float32(family: str, encoder_folders: dict[str, Path], tmp_path: Path) -> None:
    half = AutoModel.from_pretrained(encoder_folders[family], dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    load_tokenizer(str(encoder_folders[family])).save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    model = add_heads(MultiTaskModel.from_encoder(tmp_path / "half"))
    model.save_pretrained(tmp_path / "saved")
    for one in (model, MultiTaskModel.from_pretrained(tmp_path / "saved")):
        assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
    state = model.encoder.state_dict()
    assert all(torch.equal(value.float(), state[name]) for name, value in half.state_dict().items() if name in state)


def test_fields_of_the_encoders_configuration_can_be_changed(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, encoder_config={"hidden_dropout_prob": 0.37})
    assert model.config.text_config.hidden_dropout_prob == 0.37
    assert model.encoder.embeddings.dropout.p == 0.37


@pytest.mark.parametrize(("max_length", "valid"), [(2, False), (3, True), (62, True), (63, False)])
def test_max_length_is_at_most_what_the_encoder_takes(
    max_length: int, valid: bool, encoder_folders: dict[str, Path]
) -> None:
    folder = encoder_folders["roberta"]
    if valid:
        assert MultiTaskModel.from_encoder(folder, max_length=max_length).config.max_length == max_length
        return
    with pytest.raises(ValueError, match=f"`max_length` is {max_length}; .* supports 3 to 62 tokens"):
        MultiTaskModel.from_encoder(folder, max_length=max_length)


def test_unknown_pooling_is_refused(encoder_folder: str) -> None:
    with pytest.raises(ValueError, match="`pooling` is 'sum'; valid are mean, cls, max"):
        MultiTaskModel.from_encoder(encoder_folder, pooling="sum")
    with pytest.raises(ValueError, match="'mean_last_4'; the number of layers should be at least 2 and at most 3"):
        MultiTaskModel.from_encoder(encoder_folder, pooling="mean_last_4")


def test_an_encoder_with_code_of_its_own_is_refused(encoder_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "custom_encoder"
    shutil.copytree(encoder_folder, folder)
    (folder / "own.py").write_text("from transformers import BertModel\n\n\nclass OwnModel(BertModel):\n    pass\n")
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="runs remote code \\(OwnModel\\)"):
        MultiTaskModel.from_encoder(folder, trust_remote_code=True)


# ---- out of a multi-task model ----


@pytest.mark.parametrize("family", FAMILIES)
def test_from_encoder_takes_the_encoder_of_a_multi_task_model(model: MultiTaskModel, tmp_path: Path) -> None:
    model.config.pooling = "max"
    model.save_pretrained(tmp_path)
    taken = MultiTaskModel.from_encoder(tmp_path)
    assert list(taken.heads) == list(taken.config.heads) == []
    assert not taken.training
    assert (taken.config.pooling, taken.config.max_length) == ("max", model.config.max_length)
    state = model.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in taken.encoder.state_dict().items())
    assert taken.tokenizer(["to", "be"], is_split_into_words=True) == model.tokenizer(
        ["to", "be"], is_split_into_words=True
    )
    changed = MultiTaskModel.from_encoder(tmp_path, pooling="cls", max_length=20, attn_implementation="eager")
    assert (changed.config.pooling, changed.config.max_length) == ("cls", 20)
    assert changed.encoder.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match=r"`max_length` is 1000; .* supports 3 to"):
        MultiTaskModel.from_encoder(tmp_path, max_length=1000)
    with pytest.raises(ValueError, match="`encoder_config`: 'hiden' is not a field of"):
        MultiTaskModel.from_encoder(tmp_path, encoder_config={"hiden": 1})
    with pytest.raises(ValueError, match=r"`encoder_config\.num_hidden_layers` is 1,000,000; it should be at most"):
        MultiTaskModel.from_encoder(tmp_path, encoder_config={"num_hidden_layers": 10**6})


def test_from_encoder_keeps_heads_where_asked(bert: MultiTaskModel, encoder_folder: str, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    kept = MultiTaskModel.from_encoder(tmp_path, keep_heads=True)
    assert kept.config.heads == bert.config.heads
    state = bert.state_dict()
    assert kept.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in kept.state_dict().items())
    assert not kept.training
    with pytest.raises(ValueError, match="is not a multi-task model: it has no heads to keep"):
        MultiTaskModel.from_encoder(encoder_folder, keep_heads=True)


def test_heads_that_are_kept_keep_their_pooling(encoder_folder: str, tmp_path: Path) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("intent", type="sequence_classification", labels=["play", "book"])
    model.save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"`pooling` is 'cls', but the heads .* were trained with 'mean'"):
        MultiTaskModel.from_encoder(tmp_path / "mine", keep_heads=True, pooling="cls")
    assert MultiTaskModel.from_encoder(tmp_path / "mine", pooling="cls").config.pooling == "cls"


def with_more_tokens(folder: str, target: Path) -> Path:
    """A copy of an encoder whose tokenizer has two more tokens than before."""
    shutil.copytree(folder, target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    tokenizer.add_tokens(["<entity>", "</entity>"])
    tokenizer.save_pretrained(target)
    return target


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(encoder_folder: str, tmp_path: Path) -> None:
    num_tokens = AutoModel.from_pretrained(encoder_folder).get_input_embeddings().num_embeddings
    grown = with_more_tokens(encoder_folder, tmp_path / "grown")
    message = f"has {num_tokens + 2} tokens, but the encoder has embeddings for {num_tokens}"
    for options in ({}, {"pretrained": False}):
        with pytest.raises(ValueError, match=message):
            MultiTaskModel.from_encoder(grown, **options)
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(grown).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_encoder(tmp_path / "model", keep_heads=True)


def test_an_encoder_that_was_resized_for_its_tokenizer_is_accepted(encoder_folder: str, tmp_path: Path) -> None:
    grown = with_more_tokens(encoder_folder, tmp_path / "grown")
    encoder = AutoModel.from_pretrained(grown)
    encoder.resize_token_embeddings(len(AutoTokenizer.from_pretrained(grown)))
    encoder.save_pretrained(grown)
    model = MultiTaskModel.from_encoder(grown)
    assert len(model.get_input_embeddings().weight) == len(model.tokenizer)
