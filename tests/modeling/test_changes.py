"""Tests of `mtl_hf.modeling.changes`: heads added, removed and renamed (what becomes of adapters: `test_adapters`)."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from mtl_hf.modeling.heads import HEADS
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.spec import LabelledSpec
from tests.modeling.conftest import make_batch


@pytest.mark.parametrize("name", ["type", "to", "a.b", "", "pop", "intent"])
def test_name_that_cannot_be_a_heads_changes_nothing(bert: MultiTaskModel, name: str) -> None:
    before = list(bert.heads), copy.deepcopy(bert.config.heads)
    with pytest.raises(
        ValueError, match="cannot be called" if name != "intent" else "the model already has a head 'intent'"
    ):
        bert.add_head(name, type="regression")
    assert (list(bert.heads), bert.config.heads) == before


def test_head_that_reads_more_layers_than_there_are_changes_nothing(bert: MultiTaskModel) -> None:
    before = list(bert.heads), copy.deepcopy(bert.config.heads)
    with pytest.raises(ValueError, match="'mean_last_4'; the number of layers should be at least 2 and at most 3"):
        bert.add_head("new", type="regression", pooling="mean_last_4")
    assert (list(bert.heads), bert.config.heads) == before


def test_head_is_described_in_the_configuration(bert: MultiTaskModel) -> None:
    bert.add_head("pairs", type="sequence_classification", labels=("b", "a"), text="pair", dropout=0.3, pooling=None)
    spec = {"type": "sequence_classification", "text": "pair", "labels": ["b", "a"], "dropout": 0.3, "num_steps": 0}
    assert bert.config.heads["pairs"] == spec
    assert bert.config.heads["slots"]["text"] == "words"
    assert bert.heads["pairs"].dropout.p == 0.3


def test_new_head_is_initialised_as_the_encoder_is(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    head = model.add_head("many", type="sequence_classification", labels=[str(index) for index in range(400)])
    assert head.classifier.weight.std().item() == pytest.approx(model.config.text_config.initializer_range, rel=0.1)
    assert head.classifier.bias.abs().sum() == 0


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_type_can_be_added(bert: MultiTaskModel, kind: str) -> None:
    named = issubclass(HEADS[kind].spec_class, LabelledSpec)
    labels = {"labels": ["O", "B-x"]} if named else {}
    bert.add_head("new", type=kind, **labels)
    assert "new" in bert(**make_batch(bert), heads="new").logits


def test_a_head_that_reads_words_makes_the_tokenizer_ready_for_words(encoder_folders: dict[str, Path]) -> None:
    model = MultiTaskModel.from_encoder(encoder_folders["roberta"])
    whole = model.tokenizer("play some jazz")["input_ids"]
    assert whole == AutoTokenizer.from_pretrained(encoder_folders["roberta"])("play some jazz")["input_ids"]
    model.add_head("tags", type="token_classification", labels=["O", "B-a"])
    words = model.tokenizer(["play", "some", "jazz"], is_split_into_words=True)["input_ids"]
    assert words == model.tokenizer("play some jazz")["input_ids"] != whole


def test_so_does_one_that_is_added_to_a_loaded_model(encoder_folders: dict[str, Path], tmp_path: Path) -> None:
    model = MultiTaskModel.from_encoder(encoder_folders["roberta"])
    model.add_head("stars", type="regression")
    model.save_pretrained(tmp_path)
    model = MultiTaskModel.from_pretrained(tmp_path)
    whole = model.tokenizer("play some jazz")["input_ids"]
    model.add_head("tags", type="token_classification", labels=["O", "B-a"])
    words = model.tokenizer(["play", "some", "jazz"], is_split_into_words=True)["input_ids"]
    assert words == model.tokenizer("play some jazz")["input_ids"] != whole


def test_heads_are_renamed_and_removed_and_saved_so(bert: MultiTaskModel, tmp_path: Path) -> None:
    names, state = list(bert.heads), bert.state_dict()
    bert.rename_head("intent", "wish")
    removed = bert.remove_head("stars")
    expected = ["wish" if name == "intent" else name for name in names if name != "stars"]
    assert list(bert.heads) == list(bert.config.heads) == expected
    assert removed.regressor.weight.shape == (1, bert.config.hidden_size)
    bert.save_pretrained(tmp_path)
    loaded = MultiTaskModel.from_pretrained(tmp_path)
    assert {name.split(".")[1] for name in loaded.state_dict() if name.startswith("heads.")} == set(expected)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name.replace("heads.wish.", "heads.intent.")])
    assert set(loaded.predict(["play jazz"])[0]) == set(expected)
    assert loaded.config.heads["wish"]["labels"] == ["music", "booking", "weather"]
    loaded.add_head("stars", type="regression")  # the name is free again
    with pytest.raises(ValueError, match="there is no head 'intent'; the heads are"):
        loaded.rename_head("intent", "x")
    with pytest.raises(ValueError, match="there is no head 'intent'"):
        loaded.remove_head("intent")
    with pytest.raises(ValueError, match="the model already has a head 'stars'"):
        loaded.rename_head("wish", "stars")
    with pytest.raises(ValueError, match="cannot be called 'a b'"):
        loaded.rename_head("wish", "a b")
