"""Learning rates and optimiser groups: each parameter in one part, rates by the formula, for every encoder family."""

import re
from typing import Any

import datasets
import pytest
import torch
from torch import nn
from transformers import Trainer

from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.training.optimizer import (
    check_frozen_rates,
    decayed_parameters,
    find_layers,
    find_parts,
    parts_table,
    set_learning_rates,
)
from tests.conftest import FAMILIES, assistant_rows
from tests.training.conftest import FixedBatches, build, make_trainer

# What the parts of each family are made of: names that begin so, without `encoder.`.
LAYERS = {
    "bert": r"encoder\.layer\.(\d+)\.",
    "distilbert": r"transformer\.layer\.(\d+)\.",
    "roberta": r"encoder\.layer\.(\d+)\.",
    "deberta-v2": r"encoder\.layer\.(\d+)\.",
    "modernbert": r"layers\.(\d+)\.",
}
EMBEDDINGS = {"deberta-v2": r"embeddings\.|encoder\.rel_embeddings\."}
TOP = {"modernbert": r"final_norm\."}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str, encoder_folders: dict[str, Any]) -> MultiTaskModel:
    return two_heads(encoder_folders[family])


def expected_part(family: str, name: str) -> str:
    """Where a parameter belongs, by its name."""
    if name.startswith("heads."):
        return ".".join(name.split(".")[:2])
    inside = name.removeprefix("encoder.")
    if layer := re.match(LAYERS[family], inside):
        return f"encoder.layers.{layer[1]}"
    if re.match(EMBEDDINGS.get(family, r"embeddings\."), inside):
        return "embeddings"
    assert re.match(TOP.get(family, r"$^"), inside), f"unexpected parameter {name}"
    return "encoder.top"


def assistant_config(encoder: str, **tasks: dict[str, Any]) -> dict[str, Any]:
    """Intent and slots on the same rows; `tasks` adds keys to either."""
    rows = assistant_rows(24)
    return {
        "model": {"encoder": encoder},
        "sources": {"assistant": {"dataset": datasets.DatasetDict(train=rows, validation=rows), "text": "tokens"}},
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"}
            | tasks.get("intent", {}),
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"} | tasks.get("slots", {}),
        },
    }


def test_each_parameter_is_in_the_part_that_its_name_says_and_in_no_other(model, family):
    found = {}
    for part in find_parts(model):
        for name, parameter in part.parameters.items():
            assert name not in found
            found[name] = part.name
            assert parameter is model.get_parameter(name)
    assert found == {name: expected_part(family, name) for name, _ in model.named_parameters()}


def test_parts_come_from_the_input_to_the_heads(model, family):
    top = ["encoder.top"] if family in TOP else []
    layers = [f"encoder.layers.{k}" for k in range(3)]
    assert [part.name for part in find_parts(model)] == ["embeddings", *layers, *top, "heads.intent", "heads.slots"]


def test_rates_follow_the_formula(model, family):
    parts = find_parts(model)
    set_learning_rates(parts, learning_rate=0.8, layerwise_lr_decay=0.5)
    rates = {part.name: part.learning_rate for part in parts}
    expected = {"embeddings": 0.1, "encoder.layers.0": 0.2, "encoder.layers.1": 0.4, "encoder.layers.2": 0.8}
    if family in TOP:
        expected["encoder.top"] = 0.8
    assert rates == pytest.approx(expected | {"heads.intent": 0.8, "heads.slots": 0.8}, rel=1e-12)


def test_biases_and_norms_have_no_weight_decay_and_all_else_has(model, family, tmp_path, encoder_folders):
    built = build(assistant_config(str(encoder_folders[family])))
    trainer = make_trainer(built, tmp_path, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    norms = {
        id(parameter)
        for module in built.model.modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    }
    assert norms
    assert set(decay) == {id(parameter) for parameter in built.model.parameters()}
    for name, parameter in built.model.named_parameters():
        bare = id(parameter) in norms or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if bare else 0.1), name


def test_groups_are_named_and_in_the_same_order_each_time(encoder_folder, tmp_path):
    def groups() -> list[tuple[str, float, float, list[str]]]:
        built = build(assistant_config(encoder_folder))
        trainer = make_trainer(built, tmp_path, learning_rate=0.8, layerwise_lr_decay=0.5, weight_decay=0.1)
        names = {id(parameter): name for name, parameter in built.model.named_parameters()}
        return [
            (group["name"], group["lr"], group["weight_decay"], [names[id(p)] for p in group["params"]])
            for group in trainer.create_optimizer().param_groups
        ]

    found = groups()
    assert found == groups()
    assert [(name, rate, decay) for name, rate, decay, _ in found] == [
        (name, pytest.approx(rate), decay)
        for name, rate in [
            ("embeddings", 0.1),
            ("encoder.layers.0", 0.2),
            ("encoder.layers.1", 0.4),
            ("encoder.layers.2", 0.8),
            ("heads.intent", 0.8),
            ("heads.slots", 0.8),
        ]
        for decay in (0.1, 0.0)
    ]


@pytest.mark.parametrize(
    ("head_rate", "task_rate", "expected"),
    [
        (None, None, {"heads.intent": 0.8, "heads.slots": 0.8}),
        (0.3, None, {"heads.intent": 0.3, "heads.slots": 0.3}),
        (0.3, 0.7, {"heads.intent": 0.7, "heads.slots": 0.3}),
        (None, 0.7, {"heads.intent": 0.7, "heads.slots": 0.8}),
        (0.3, 0.0, {"heads.intent": 0.0, "heads.slots": 0.3}),
    ],
)
def test_a_heads_rate_is_its_tasks_else_that_of_heads_else_the_common_one(
    head_rate, task_rate, expected, encoder_folder, tmp_path
):
    built = build(assistant_config(encoder_folder, intent={"learning_rate": task_rate}))
    trainer = make_trainer(built, tmp_path, learning_rate=0.8, head_learning_rate=head_rate, layerwise_lr_decay=0.5)
    rates = {part.name: part.learning_rate for part in trainer.parts}
    assert {name: rates[name] for name in expected} == expected
    assert rates["encoder.layers.2"] == 0.8


# Three layers, in the parts that every test below has.
PARTS = ["embeddings", "encoder.layers.0", "encoder.layers.1", "encoder.layers.2", "heads.intent", "heads.slots"]


@pytest.mark.parametrize(
    ("learning_rates", "others", "expected"),
    [
        ({}, {}, [0.1, 0.2, 0.4, 0.8, 0.8, 0.8]),
        ({"heads": 9, "encoder.layers.1-2": 5, "encoder.layers.0": 3, "embeddings": 1}, {}, [1, 3, 5, 5, 9, 9]),
        ({"encoder.layers.1": 5}, {}, [0.1, 0.2, 5, 0.8, 0.8, 0.8]),  # decay for all else
        ({"encoder": 3}, {}, [3, 3, 3, 3, 0.8, 0.8]),
        ({"encoder": 3, "encoder.layers.0-2": 4, "encoder.layers.1-2": 5, "encoder.layers.2": 6}, {},
         [3, 4, 5, 6, 0.8, 0.8]),
        ({"encoder.layers.2": 6, "encoder.layers.1-2": 5, "encoder.layers.0-2": 4, "encoder": 3}, {},
         [3, 4, 5, 6, 0.8, 0.8]),  # whatever their order
        ({"encoder.layers.2-2": 6, "encoder.layers.2": 7}, {}, [0.1, 0.2, 0.4, 7, 0.8, 0.8]),
        ({"heads": 9, "heads.slots": 7}, {}, [0.1, 0.2, 0.4, 0.8, 9, 7]),
        ({"heads.slots": 7}, {"head_learning_rate": 2.0}, [0.1, 0.2, 0.4, 0.8, 2, 7]),
        ({"heads": 9}, {"task_learning_rates": {"intent": 4.0, "slots": None}}, [0.1, 0.2, 0.4, 0.8, 4, 9]),
        ({"heads.slots": 9}, {"task_learning_rates": {"intent": 4.0}}, [0.1, 0.2, 0.4, 0.8, 4, 9]),
    ],
)  # fmt: skip
def test_an_explicit_rate_is_that_of_the_closest_name(learning_rates, others, expected, encoder_folders):
    parts = find_parts(two_heads(encoder_folders["bert"]))
    options = {"learning_rate": 0.8, "layerwise_lr_decay": 0.5} | others
    set_learning_rates(parts, learning_rates=learning_rates, **options)
    assert [part.name for part in parts] == PARTS
    assert [part.learning_rate for part in parts] == pytest.approx(expected, rel=1e-12)


def two_heads(encoder: Any) -> MultiTaskModel:
    """An encoder with the heads `intent` and `slots`."""
    model = MultiTaskModel.from_encoder(encoder)
    model.add_head("intent", type="sequence_classification", labels=["a", "b"])
    model.add_head("slots", type="token_classification", labels=["O", "B-x"])
    return model


@pytest.mark.parametrize(
    ("learning_rates", "options", "expected"),
    [
        ({"encoder.layer.0": 1e-4}, {}, r"'encoder\.layer\.0' matches no part\. Did you mean `encoder\.layers"),
        ({"encoder.layers.3-5": 1e-4}, {}, r"`learning_rates`: 'encoder\.layers\.3-5' matches no part\."),
        ({"encoder.layers.1-0": 1e-4}, {}, r"1-0' is reversed: write encoder\.layers\.0-1"),
        ({"head": 1e-3}, {}, r"'head' matches no part\. Did you mean `heads"),
        ({"encoder.layers.0-1": 1e-4, "encoder.layers.1-2": 1e-5}, {},
         r"'encoder\.layers\.0-1' and 'encoder\.layers\.1-2' both match encoder\.layers\.1 and are equally specific"),
        ({"embeddings": 1e-4}, {"freeze": ["embeddings"]}, "has 'embeddings', but embeddings is frozen"),
        ({"encoder.layers.0-1": 1e-4}, {"freeze": ["encoder.layers.0"]}, r"0-1', but encoder\.layers\.0 is frozen"),
        ({"encoder": 1e-4}, {"freeze": ["encoder"]}, "has 'encoder', but embeddings is frozen"),
        ({"heads": 1e-4}, {"freeze": ["heads"]}, r"has 'heads', but heads\.intent is frozen"),
        ({"heads": 1e-4}, {"head_learning_rate": 1e-3},
         r"`learning_rates\.heads` and `head_learning_rate` both set .* heads.* `learning_rates\.experts`"),
        ({"embeddings": 0.0}, {}, r"`learning_rates\.embeddings` is 0; it is above 0 .*`freeze`"),
        ({"embeddings": float("inf")}, {}, r"`learning_rates\.embeddings` is inf"),
        ({"encoder": 1e-4}, {"layerwise_lr_decay": 0.9}, r"`layerwise_lr_decay: 0\.9` has no effect: set it to 1"),
        ({}, {"learning_rate": float("nan")}, r"`training\.learning_rate` is nan; it is at least 0 and at most"),
        ({}, {"head_learning_rate": -0.01}, r"`training\.head_learning_rate` is -0\.01; it is at least 0"),
    ],
)  # fmt: skip
def test_explicit_rates_that_cannot_be_are_refused(learning_rates, options, expected, encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder))
    with pytest.raises(ValueError, match=expected):
        make_trainer(built, tmp_path, learning_rates=learning_rates, **options)


def test_two_rates_of_one_head_are_refused(encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder, slots={"learning_rate": 0.02}))
    with pytest.raises(
        ValueError, match=r"`learning_rates\.heads\.slots` and `tasks\.slots\.learning_rate` set the same"
    ):
        make_trainer(built, tmp_path, learning_rates={"heads.slots": 0.1})


def test_a_rate_of_a_frozen_head_is_refused(encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder, slots={"learning_rate": 0.02}))
    with pytest.raises(ValueError, match=r"`tasks\.slots\.learning_rate` has no effect because the head is frozen"):
        make_trainer(built, tmp_path, freeze=["heads.slots"])
    later = {"schedule": "explicit", "at": {"heads.slots": 2}}
    make_trainer(built, tmp_path, freeze=["heads.slots"], unfreeze=later)


def test_a_task_may_have_a_rate_and_the_name_of_a_part_that_is_frozen(encoder_folder):
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("embeddings", type="regression")
    parts = find_parts(model)
    parts[0].train(False)
    assert parts[0].name == "embeddings"
    check_frozen_rates(parts, {}, {"embeddings": 0.1})


def test_the_rate_of_a_whole_side_is_that_of_what_is_not_frozen(encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder))
    trainer = make_trainer(
        built, tmp_path, learning_rates={"encoder": 0.5, "heads": 0.7}, freeze=["embeddings", "heads.intent"]
    )
    rates = {group["name"]: group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates == dict.fromkeys(PARTS[1:4], 0.5) | {"heads.slots": 0.7}


def test_the_scheduler_scales_every_group_and_the_log_says_so(encoder_folder, tmp_path):
    built = build(assistant_config(encoder_folder, slots={"learning_rate": 0.02}))
    options = {"learning_rate": 0.01, "layerwise_lr_decay": 0.5, "warmup_steps": 2, "num_train_epochs": 1}
    batches = FixedBatches([[0, 1, 2, 3]] * 6)
    trainer = make_trainer(built, tmp_path, batch_sampler=batches, lr_scheduler_type="linear", **options)
    trainer.train()
    peaks = {"embeddings": 0.00125, "encoder.layers.0": 0.0025, "encoder.layers.1": 0.005, "encoder.layers.2": 0.01,
             "heads.intent": 0.01, "heads.slots": 0.02}  # fmt: skip
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 6
    for entry, factor in zip(logs, [0.5, 1, 0.75, 0.5, 0.25, 0], strict=True):  # what the next step trains with
        logged = {key.removeprefix("lr_"): value for key, value in entry.items() if key.startswith("lr_")}
        assert logged == pytest.approx({name: peak * factor for name, peak in peaks.items()}, abs=1e-12)
        assert entry["learning_rate"] == pytest.approx(0.02 * factor, abs=1e-12)


def test_an_encoder_without_a_stack_of_layers_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no stack of layers .* was found in Sequential"):
        find_layers(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("adapter", [None, "LoraConfig", "IA3Config", "BottleneckConfig"])
def test_names_given_by_the_user_do_not_decide_weight_decay(adapter, encoder_folder):
    plain, odd = ("one", "two", "three", "four"), ("political_bias", "norm", "LayerNorm", "my_norm")

    def model_of(names):
        model = MultiTaskModel.from_encoder(encoder_folder, experts={"num": 2, "hidden": 4})
        for name in names:
            model.add_head(name, type="sequence_classification", labels=["a", "b"], pooling="attention")
        if adapter:
            model.adapt(adapter, per_task=True)
        return model

    expected = decayed_parameters(model_of(plain))
    for ours, theirs in zip(plain, odd, strict=True):
        expected = {re.sub(rf"\b{ours}\b", theirs, name) for name in expected}
    found = decayed_parameters(model_of(odd))
    assert found == expected
    assert "heads.political_bias.classifier.weight" in found
    assert "heads.political_bias.classifier.bias" not in found


def test_weight_decay_is_that_of_transformers_where_no_name_misleads_it(model):
    assert decayed_parameters(model) == set(Trainer.get_decay_parameter_names(None, model))


def test_a_head_called_like_a_norm_decays_in_training(encoder_folder, tmp_path):
    config = assistant_config(encoder_folder)
    config["tasks"] = {"political_bias": config["tasks"]["intent"], "norm": config["tasks"]["slots"]}
    trainer = make_trainer(build(config), tmp_path, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    decays = [(group["name"], group["weight_decay"]) for group in groups if group["name"].startswith("heads.")]
    assert decays == [
        ("heads.political_bias", 0.1), ("heads.political_bias", 0.0), ("heads.norm", 0.1), ("heads.norm", 0.0),
    ]  # fmt: skip


def test_the_table_shows_each_part_with_its_parameters_rate_and_decay(model):
    parts = find_parts(model)
    set_learning_rates(parts, learning_rate=0.8, layerwise_lr_decay=0.5)
    for parameter in model.heads["slots"].parameters():
        parameter.requires_grad_(False)
    lines = {line.split()[0]: line.split()[1:] for line in parts_table(parts, 0.01).splitlines()[1:]}
    assert list(lines) == [part.name for part in parts]
    assert sum(int(cells[0].replace(",", "")) for cells in lines.values()) == model.num_parameters()
    assert lines["embeddings"][1:] == ["0.1", "0.01"]
    assert lines["heads.slots"] == [str(33 * 2), "frozen"]


def test_one_step_of_adamw_moves_each_part_by_its_own_rate(still_encoder_folder, tmp_path):
    """Adam's first step is the rate itself wherever the gradient is not next to nothing."""
    built = build(assistant_config(still_encoder_folder, intent={"learning_rate": 0.003}))
    before = {name: parameter.detach().clone() for name, parameter in built.model.named_parameters()}
    options = {"learning_rate": 0.001, "layerwise_lr_decay": 0.5, "lr_scheduler_type": "constant", "max_steps": 1,
               "learning_rates": {"encoder.layers.0": 0.002}}  # fmt: skip
    trainer = make_trainer(built, tmp_path, batch_sampler=FixedBatches([list(range(8))]), max_grad_norm=0, **options)
    trainer.train()
    assert trainer.parts[1].learning_rate == 0.002
    for part in trainer.parts:
        moved = [(parameter - before[name]).abs().max() for name, parameter in part.parameters.items()]
        assert torch.stack(moved).max().item() == pytest.approx(part.learning_rate, rel=1e-2), part.name
