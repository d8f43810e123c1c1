"""Freezing by name: what is frozen stays bit for bit as it is and is in no optimiser group."""

from typing import Any

import datasets
import pytest
import torch
from transformers import TrainerCallback

from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.training.freezing import freeze
from mtl_hf.training.optimizer import find_parts
from tests.conftest import FAMILIES, two_source_config
from tests.training.conftest import build, make_trainer, weights
from tests.training.test_optimizer import assistant_config

ALL = ["embeddings", "encoder.layers.0", "encoder.layers.1", "encoder.layers.2", "heads.intent", "heads.slots"]


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["embeddings"], ALL[:1]),
        (["encoder"], ALL[:4]),
        (["encoder.layers.1"], ALL[2:3]),
        (["encoder.layers.0-1"], ALL[1:3]),
        (["encoder.layers.1-2", "embeddings"], [ALL[0], *ALL[2:4]]),
        (["heads.intent"], ALL[4:5]),
        (["embeddings", "encoder.layers.0-1", "heads.slots"], [*ALL[:3], ALL[5]]),
        (["encoder.layers.0-1", "encoder.layers.1-1"], ALL[1:3]),
    ],
)
def test_frozen_parts_stay_bit_for_bit_and_all_others_move(patterns, frozen, encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder))
    before = weights(built.model)
    trainer = make_trainer(built, tmp_path, freeze=patterns, weight_decay=0.1, max_steps=3)
    trainer.train()
    after = weights(built.model)
    for part in trainer.parts:
        assert part.frozen == (part.name in frozen), part.name
        for name in part.parameters:
            assert torch.equal(before[name], after[name]) == part.frozen, name
    groups = trainer.optimizer.param_groups
    assert {group["name"] for group in groups} == set(ALL) - set(frozen)
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert trained == {id(p) for part in trainer.parts if not part.frozen for p in part.parameters.values()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_of_every_family_can_be_frozen(family, encoder_folders):
    model = MultiTaskModel.from_encoder(encoder_folders[family])
    model.add_head("intent", type="sequence_classification", labels=["a", "b"])
    frozen = freeze(find_parts(model), ["encoder"])
    assert "embeddings" in frozen
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"heads"}
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("heads.intnt", "heads.intent"),
        ("embedings", "embeddings"),
        ("encoder.layer.0", "encoder.layers.0"),
        ("encoder.layers.3-5", "encoder.layers."),
        ("encoder.top", None),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest_part(
    pattern, nearest, encoder_folder, tmp_path
):
    built = build(assistant_config(encoder_folder))
    with pytest.raises(ValueError) as error:
        make_trainer(built, tmp_path, freeze=["embeddings", pattern])
    assert f"`freeze`: {pattern!r} matches no part." in str(error.value)
    assert f"The parts are: encoder, heads, {', '.join(ALL)}." in str(error.value)
    if nearest:
        assert f"Did you mean `{nearest}" in str(error.value)


def test_freezing_everything_is_refused_and_names_what_to_use_instead(encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder))
    with pytest.raises(ValueError, match=r"nothing to train.*mtl-hf embed.*mtl-hf evaluate"):
        make_trainer(built, tmp_path, freeze=["encoder", "heads.intent", "heads.slots"])


def test_heads_of_tasks_that_are_only_scored_are_frozen_too(encoder_folder):
    model = build(assistant_config(encoder_folder)).model
    parts = find_parts(model)
    assert freeze(parts, ["embeddings"], ["slots"]) == ["embeddings", "heads.slots"]
    assert [part.name for part in parts if part.frozen] == ["embeddings", "heads.slots"]
    with pytest.raises(ValueError, match="nothing to train"):
        freeze(parts, ["encoder"], ["intent"])


def test_freeze_as_text_is_refused(encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder))
    with pytest.raises(ValueError, match=r"`freeze` is 'encoder'; it should be a list"):
        make_trainer(built, tmp_path, freeze="encoder")


class Modes(TrainerCallback):
    """Notes after each micro-batch which modules were in training mode."""

    def __init__(self) -> None:
        self.seen: list[dict[str, bool]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append({name: module.training for name, module in model.named_modules()})

    on_substep_end = on_step_end


@pytest.mark.parametrize("patterns", [["encoder"], ["embeddings", "encoder.layers.0-1"], ["heads.intent"], []], ids=str)
def test_frozen_modules_are_in_evaluation_mode_at_every_micro_batch(patterns, encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    modes = Modes()
    options = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    make_trainer(built, tmp_path, freeze=patterns, callbacks=[modes], **options).train()
    model = built.model

    def still(name: str) -> bool:
        above = [name.rsplit(".", cut)[0] for cut in range(name.count(".") + 1)]
        found = [list(model.get_submodule(one).parameters()) for one in above]
        return any(own and not any(p.requires_grad for p in own) for own in found)

    expected = {name: not still(name) for name, _ in model.named_modules() if name}
    assert len(modes.seen) == 4
    for seen in modes.seen:
        assert {name: seen[name] for name in expected} == expected
    dropouts = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert any(not expected[name] for name in dropouts) == bool(patterns)


@pytest.mark.parametrize("patterns", [["encoder", "heads.slots"], ["encoder", "heads.stars"]])
def test_a_task_that_would_train_nothing_is_refused(patterns, encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    name = patterns[1].removeprefix("heads.")
    with pytest.raises(ValueError, match=rf"task '{name}' has nothing to train.*`tasks\.{name}\.train: false`"):
        make_trainer(built, tmp_path, freeze=patterns)


def test_a_head_without_weights_needs_an_encoder_that_moves(encoder_folder, tmp_path):
    config = two_source_config(encoder_folder, tmp_path)
    rows = config["sources"]["reviews"]["dataset"].map(lambda row: {"other": "play jazz", "alike": 0.5})
    split = datasets.DatasetDict(train=rows, validation=rows.select(range(8)))
    config["sources"]["pairs"] = {"dataset": split, "text": ["text", "other"]}
    config["tasks"]["alike"] = {"type": "sentence_similarity", "source": "pairs", "label": "alike"}
    built = build(config)
    with pytest.raises(ValueError, match=r"task 'alike' has nothing to train because its head is frozen, too, or has"):
        make_trainer(built, tmp_path, freeze=["encoder"])
    make_trainer(build(config), tmp_path, freeze=["embeddings"])
