"""A model of each encoder family with a head of each type, whose answers differ."""

import copy
from pathlib import Path

import pytest
from torch import Tensor, nn

from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import FAMILIES, SENTENCES

TAGS = ["O", "B-city", "I-city", "B-when"]


def add_heads(model: MultiTaskModel) -> MultiTaskModel:
    """One head of each type, with weights large enough for answers that differ."""
    model.add_head("slots", type="token_classification", labels=TAGS)
    model.add_head("intent", type="sequence_classification", labels=["music", "booking", "weather"])
    model.add_head("topics", type="multi_label_classification", labels=["food", "place"], pooling="max")
    model.add_head("stars", type="regression", pooling="cls")
    for parameter in model.heads.parameters():
        nn.init.normal_(parameter)
    return model


def add_pooling_heads(model: MultiTaskModel) -> MultiTaskModel:
    model.add_head("layers", type="regression", pooling="mean_last_2")
    model.add_head("look", type="sequence_classification", labels=["a", "b"], pooling="attention")
    model.add_head("alike", type="sentence_similarity", pooling="attention")
    for name in ("layers", "look", "alike"):
        for parameter in model.heads[name].parameters():
            nn.init.normal_(parameter)
    return trained(model)


def trained(model: MultiTaskModel) -> MultiTaskModel:
    for spec in model.config.heads.values():
        spec["num_steps"] = 1
    return model


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def models(encoder_folders: dict[str, Path]) -> dict[str, MultiTaskModel]:
    """Family → a model with a head of each type, to be copied, not changed."""
    return {family: trained(add_heads(MultiTaskModel.from_encoder(encoder_folders[family]))) for family in FAMILIES}


@pytest.fixture
def model(family: str, models: dict[str, MultiTaskModel]) -> MultiTaskModel:
    """Of each family in turn."""
    return copy.deepcopy(models[family])


@pytest.fixture
def bert(models: dict[str, MultiTaskModel]) -> MultiTaskModel:
    return copy.deepcopy(models["bert"])


def make_batch(model: MultiTaskModel, texts: list[str] = SENTENCES[:4]) -> dict[str, Tensor]:
    return dict(model.tokenizer(texts, padding=True, return_tensors="pt"))
