"""Tests of `mtl_hf.modeling.configuration_multitask`: config.json and back, defaults, what is refused."""

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, BertConfig, ModernBertConfig

import mtl_hf
from mtl_hf.modeling.configuration_multitask import MultiTaskConfig, own_config

HEADS = {
    "intent": {"type": "sequence_classification", "labels": ["z", "a", "m"], "text": "string", "num_steps": 7},
    "stars": {"type": "regression", "text": "pair", "num_steps": 0, "pooling": "cls", "dropout": 0.25},
}


@pytest.mark.parametrize("text_config", [BertConfig(hidden_size=24), ModernBertConfig(hidden_size=24)])
def test_config_json_round_trip_keeps_every_field(text_config: BertConfig | ModernBertConfig, tmp_path: Path) -> None:
    config = MultiTaskConfig(
        text_config=text_config.to_dict(),
        heads=HEADS,
        pooling="max",
        max_length=77,
        encoder_attn_implementation="eager",
    )
    config.save_pretrained(tmp_path)
    again = MultiTaskConfig.from_pretrained(tmp_path)
    assert type(again.text_config) is type(text_config)
    assert again.text_config.to_dict() == text_config.to_dict()
    assert again.heads == HEADS
    assert again.heads["intent"]["labels"] == ["z", "a", "m"]
    assert (again.pooling, again.max_length, again.encoder_attn_implementation) == ("max", 77, "eager")
    assert again.hidden_size == 24


def test_config_json_is_found_by_auto_config(tmp_path: Path) -> None:
    assert mtl_hf.MultiTaskConfig is MultiTaskConfig
    MultiTaskConfig(heads=HEADS).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mtl-hf"
    assert type(AutoConfig.from_pretrained(tmp_path)) is MultiTaskConfig


def test_defaults_are_a_bert_without_heads() -> None:
    config = MultiTaskConfig()
    assert isinstance(config.text_config, BertConfig)
    assert (config.heads, config.pooling, config.max_length) == ({}, "mean", 512)
    assert MultiTaskConfig().heads is not config.heads


def test_the_encoder_is_what_transformers_takes_for_the_text_config() -> None:
    config = MultiTaskConfig(text_config=BertConfig(vocab_size=123))
    assert config.get_text_config() is config.text_config


@pytest.mark.parametrize("wrong", [{"max_length": "long"}, {"pooling": 3}, {"heads": ["intent"]}])
def test_value_of_the_wrong_type_is_refused(wrong: dict) -> None:
    with pytest.raises(StrictDataclassFieldValidationError):
        MultiTaskConfig(**wrong)


def test_a_model_type_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": []}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.json: `model_type` is \[\]; it should be text"):
        own_config(str(tmp_path))
