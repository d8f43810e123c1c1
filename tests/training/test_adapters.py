"""Adapters in training: what moves and what does not, alone as beside others, resumed, on two processes, in bf16."""

import copy
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import nn

import mtl_hf
from mtl_hf.modeling.adapters import adapter_parameters
from mtl_hf.training.adapters import check_adapters
from mtl_hf.training.optimizer import find_parts, trained_share
from tests.conftest import assistant_rows, review_rows
from tests.training.conftest import Built, FixedBatches, TwoProcesses, build, make_trainer, weights

LORA = {"type": "LoraConfig", "r": 4, "target_modules": "all-linear"}
HOULSBY = {"type": "BottleneckConfig", "reduction": 8}


def config(encoder: str, peft: dict[str, Any] | None, *, only: str | None = None, **model: Any) -> dict[str, Any]:
    """Two sources with a task each; `only` leaves one of the tasks, with its source."""
    rows = {"assistant": assistant_rows(48), "reviews": review_rows(40)}
    tasks = {
        "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
        "stars": {"type": "regression", "source": "reviews", "label": "stars", "loss_weight": 0.5},
    }
    tasks = {name: task for name, task in tasks.items() if only in (None, name)}
    texts = {"assistant": "tokens", "reviews": "text"}
    return {
        "model": {"encoder": encoder, "peft": peft} | model,
        "sources": {
            source: {"dataset": datasets.DatasetDict(train=rows[source], validation=rows[source]), "text": text}
            for source, text in texts.items()
            if source in {task["source"] for task in tasks.values()}
        },
        "tasks": tasks,
    }


def batches_of(*firsts: tuple[int, int], num_steps: int = 6, seed: int = 7) -> list[list[int]]:
    """Batches of 8 rows, of each (first row, number of rows) in turn."""
    random = torch.Generator().manual_seed(seed)
    drawn = [[(first + torch.randperm(number, generator=random)[:8]).tolist() for _ in range(num_steps)]
             for first, number in firsts]  # fmt: skip
    return [batch for step in zip(*drawn, strict=True) for batch in step]


BOTH = ((0, 48), (48, 40))


def owner(model: Any) -> dict[str, str]:
    """Full name of each parameter of the encoder → its adapter, `encoder` for its own."""
    owners = adapter_parameters(model.encoder)
    return {f"encoder.{name}": owners.get(name, "encoder") for name, _ in model.encoder.named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("spec", [LORA | {"per_task": True}, HOULSBY], ids=str)
def test_adapters_and_heads_are_trained_and_nothing_else(spec, encoder_folder, tmp_path):
    built = build(config(encoder_folder, spec))
    before = weights(built.model)
    trainer = make_trainer(built, tmp_path, batch_sampler=FixedBatches(batches_of(*BOTH)), weight_decay=0.1,
                           head_learning_rate=0.01, num_train_epochs=1)  # fmt: skip
    own = ["adapters.intent", "adapters.stars"] if "per_task" in spec else ["adapters"]
    layers = ["embeddings", *(f"encoder.layers.{number}" for number in range(3))]
    assert [part.name for part in trainer.parts] == [*layers, *own, "heads.intent", "heads.stars"]
    assert [part.name for part in trainer.parts if part.frozen] == layers
    trainer.train()
    owners = owner(built.model)
    assert moved(before, weights(built.model)) == {name for name in before if owners.get(name) != "encoder"}
    rates = {group["name"]: group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert rates == dict.fromkeys(own, 1e-3) | {"heads.intent": 0.01, "heads.stars": 0.01}
    trained = sum(
        parameter.numel() for name, parameter in built.model.named_parameters() if owners.get(name) != "encoder"
    )
    assert f"to train {trained:,} of {built.model.num_parameters():,} parameters" in trained_share(trainer.parts)


@pytest.mark.parametrize("spec", [LORA, HOULSBY], ids=str)
def test_an_idle_tasks_adapter_stays_bit_for_bit(spec, encoder_folder, tmp_path):
    built = build(config(encoder_folder, spec | {"per_task": True}))
    before = weights(built.model)
    batches = FixedBatches(batches_of(BOTH[0]))
    make_trainer(built, tmp_path, batch_sampler=batches, weight_decay=0.1, num_train_epochs=1).train()
    changed = moved(before, weights(built.model))
    assert {owner(built.model).get(name, name.split(".")[1]) for name in changed} == {"intent"}
    assert len(changed) == sum(name == "intent" for name in owner(built.model).values()) + 2


def test_a_task_with_its_own_adapter_learns_beside_another_what_it_learns_alone(still_encoder_folder, tmp_path):
    spec = LORA | {"per_task": True}
    together = build(config(still_encoder_folder, spec, dropout=0.0))
    initial = weights(together.model)
    options = {"num_train_epochs": 1, "lr_scheduler_type": "constant", "weight_decay": 0.1, "max_grad_norm": 0}
    make_trainer(together, tmp_path, batch_sampler=FixedBatches(batches_of(*BOTH)), **options).train()
    first, second = batches_of(*BOTH)[::2], batches_of(*BOTH)[1::2]
    rows = {"intent": first, "stars": [[row - 48 for row in batch] for batch in second]}
    for task, batches in rows.items():
        alone = build(config(still_encoder_folder, spec, only=task, dropout=0.0))
        alone.model.load_state_dict({name: initial[name] for name in weights(alone.model)})
        make_trainer(alone, tmp_path, batch_sampler=FixedBatches(batches), **options).train()
        found, wanted = weights(together.model), weights(alone.model)
        assert moved({name: initial[name] for name in wanted}, wanted)
        assert not moved(wanted, {name: found[name] for name in wanted})


def test_two_tasks_of_one_row_train_their_own_adapters(still_encoder_folder, tmp_path):
    """Both read the same batch, the encoder runs once for each, and each learns as if the other were not there."""

    def one_source(*names: str) -> Built:
        found = config(still_encoder_folder, LORA | {"per_task": True}, only="intent", dropout=0.0)
        slots = {"type": "token_classification", "source": "assistant", "label": "slots"}
        found["tasks"] = {name: task for name, task in (found["tasks"] | {"slots": slots}).items() if name in names}
        return build(found)

    together = one_source("intent", "slots")
    initial = weights(together.model)
    options: dict[str, Any] = {
        "num_train_epochs": 1,
        "max_grad_norm": 0,
        "batch_sampler": FixedBatches(batches_of(BOTH[0])),
    }
    make_trainer(together, tmp_path, **options).train()
    for task in ("intent", "slots"):
        alone = one_source(task)
        alone.model.load_state_dict({name: initial[name] for name in weights(alone.model)})
        make_trainer(alone, tmp_path, **options).train()
        wanted = weights(alone.model)
        assert not moved(wanted, {name: weights(together.model)[name] for name in wanted})


def take_steps(built: Built, folder: Path, pieces: int) -> dict[str, torch.Tensor]:
    built = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
    trainer = make_trainer(built, folder, gradient_accumulation_steps=pieces, num_train_epochs=1)
    trainer.batch_sampler = FixedBatches(
        batches_of(*BOTH), pieces=pieces, rank=trainer.args.process_index, world_size=trainer.args.world_size
    )
    trainer.train()
    return weights(built.model)


def test_accumulated_batches_and_two_processes_take_the_same_steps(
    still_encoder_folder, tmp_path, two_processes: TwoProcesses
):
    built = build(config(still_encoder_folder, LORA | {"per_task": True}, dropout=0.0))
    built.model.double()
    wanted = take_steps(built, tmp_path, 1)
    for found in (take_steps(built, tmp_path, 4), *two_processes(lambda: take_steps(built, tmp_path, 2))):
        assert all(torch.allclose(found[name], wanted[name], rtol=0, atol=1e-9) for name in wanted)
    assert moved(weights(built.model), wanted)


def test_in_bf16_adapters_stay_in_float32_and_learn(encoder_folder, tmp_path):
    built = build(config(encoder_folder, LORA | {"per_task": True}))
    before = weights(built.model)
    trainer = make_trainer(built, tmp_path, batch_sampler=FixedBatches(batches_of(*BOTH)), num_train_epochs=1,
                           precision="bf16", bf16=True)  # fmt: skip
    trainer.train()
    after = weights(built.model)
    owners = owner(built.model)
    assert moved(before, after) == {name for name in before if owners.get(name) != "encoder"}
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in after.values())


def run_config(encoder: str, output: Path, peft: dict[str, Any] | None, **training: Any) -> dict[str, Any]:
    defaults = {"output_dir": str(output), "num_train_epochs": 2, "per_device_train_batch_size": 8, "precision": "fp32",
                "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-3}  # fmt: skip
    return config(encoder, peft) | {"training": defaults | training}


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(encoder_folder, tmp_path):
    spec = LORA | {"per_task": True, "lora_dropout": 0.1}
    settings = {
        "num_train_epochs": 1,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": None,
        "load_best_model_at_end": False,
    }
    whole = run_config(encoder_folder, tmp_path / "whole", spec, **settings)
    mtl_hf.train(whole)
    cut = run_config(encoder_folder, tmp_path / "whole", spec, **settings)
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-4").rename(tmp_path / "cut" / "checkpoint-4")
    cut["training"]["output_dir"] = str(tmp_path / "cut")
    (tmp_path / "cut" / "run.yaml").write_bytes((tmp_path / "whole" / "run.yaml").read_bytes())
    mtl_hf.train(cut, resume=True)
    found, wanted = (mtl_hf.MultiTaskModel.from_pretrained(tmp_path / name) for name in ("cut", "whole"))
    assert not moved(weights(wanted), weights(found))
    assert found.config.heads == wanted.config.heads
    cut["model"]["peft"] = cut["model"]["peft"] | {"r": 8}
    with pytest.raises(ValueError, match=r"(?s)other settings.*model\.adapters\.intent\.r: 4 in the checkpoint, 8 now"):
        mtl_hf.train(cut, resume=True)


# ---- what is checked before ----


def test_the_check_finds_weights_that_the_encoder_never_uses(encoder_folder, tmp_path):
    built = build(config(encoder_folder, None))
    built.model.encoder.spare = nn.Linear(32, 32)
    built.model.adapt(**LORA)
    with pytest.raises(ValueError, match=r"BertModel does not use 2 of the 38 weights of LoraConfig, such as"
                                         r" encoder\.spare\.lora_A"):  # fmt: skip
        make_trainer(built, tmp_path)
    built = build(config(encoder_folder, None))
    built.model.encoder.spare = nn.Linear(32, 32)
    built.model.adapt(**LORA, exclude_modules=["spare"])
    make_trainer(built, tmp_path)


@pytest.mark.parametrize("spec", [LORA, HOULSBY | {"per_task": True}], ids=str)
def test_the_check_leaves_everything_as_it_was(spec, encoder_folder, tmp_path):
    built = build(config(encoder_folder, spec))
    trainer = make_trainer(built, tmp_path)
    model = built.model.train()
    parameter = next(parameter for parameter in model.encoder.parameters() if parameter.requires_grad)
    parameter.grad = torch.ones_like(parameter)
    before, random = weights(model), torch.get_rng_state()
    check_adapters(model, trainer.parts, trainer.args)
    assert not moved(before, weights(model))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert [found.grad is not None for found in model.parameters()].count(True) == 1
    assert bool((parameter.grad == 1).all())


def test_what_adapters_exclude_is_refused(encoder_folder, tmp_path):
    built = build(config(encoder_folder, LORA | {"per_task": True}))
    for setting, value in {
        "layerwise_lr_decay": 0.9,
        "log_gradient_conflicts": 5,
        "gradient_aggregation": "UPGrad",
    }.items():
        with pytest.raises(ValueError, match=rf"`training\.{setting}` .*: remove it, or train without `model\.peft`"):
            make_trainer(built, tmp_path, **{setting: value})
    experts = build(config(encoder_folder, LORA | {"per_task": True}, experts={"num": 2, "hidden": 8}))
    for model, said in (
        (built, "in the encoder: remove it"),
        (experts, r"\(experts are shared, but"),
    ):
        with pytest.raises(ValueError, match=f"they share none {said}" if model is built else said):
            make_trainer(model, tmp_path, log_gradient_conflicts=5)
    frozen = {"freeze": ["encoder"], "frozen_cache": "1GB"}
    with pytest.raises(ValueError, match=r"`training\.frozen_cache` stores the outputs of frozen layers"):
        make_trainer(built, tmp_path, **frozen)
    thawed = {"freeze": ["encoder"], "unfreeze": {"schedule": "gradual", "every": 2}}
    with pytest.raises(ValueError, match=r"`training\.unfreeze` unfreezes encoder layers"):
        make_trainer(built, tmp_path, **thawed)
    with pytest.raises(ValueError, match=r"`activation_checkpointing` runs the encoder again .* \(intent, stars\)"):
        make_trainer(built, tmp_path, activation_checkpointing=True)


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"type": "LoraConfg"}, r"Did you mean `LoraConfig`"),
        ({"r": 8}, r"`model\.peft\.type` is missing"),
        (LORA | {"per_task": "maybe"}, r"`model\.peft\.per_task` is 'maybe'; it should be true or false"),
        ({"type": "PrefixTuningConfig", "num_virtual_tokens": 4}, r"which many encoders ignore"),
    ],
)
def test_a_mistake_in_the_config_is_answered_before_data_are_loaded(
    peft, message, encoder_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("mtl_hf.run.load_sources", lambda run: pytest.fail("data were loaded"))
    with pytest.raises(ValueError, match=message):
        mtl_hf.train(run_config(encoder_folder, tmp_path / "run", peft))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("freeze", "frozen"), [(["adapters"], {"adapters.intent", "adapters.stars"}),
                                                (["adapters.stars"], {"adapters.stars"}),
                                                (["encoder"], set())])  # fmt: skip
def test_adapters_can_be_frozen_by_name(freeze, frozen, encoder_folder, tmp_path):
    built = build(config(encoder_folder, LORA | {"per_task": True}))
    trainer = make_trainer(built, tmp_path, freeze=freeze)
    assert {part.name for part in trainer.parts if part.frozen and part.name.startswith("adapters")} == frozen


def test_a_cache_of_what_adapters_change_is_refused_at_once(encoder_folder, tmp_path):
    section = run_config(encoder_folder, tmp_path / "run", LORA, frozen_cache="1GB")  # no `freeze`, which helps nothing
    with pytest.raises(ValueError, match=r"`training\.frozen_cache` stores .* `model\.peft` change\. Remove one"):
        mtl_hf.train(section)


# ---- starting from a model that has adapters ----


@pytest.fixture(scope="module")
def first(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with an adapter a task."""
    folder = tmp_path_factory.mktemp("first") / "run"
    mtl_hf.train(run_config(encoder_folder, folder, LORA | {"per_task": True}, num_train_epochs=1))
    return str(folder)


def again(first: str, output: Path, **training: Any) -> dict[str, Any]:
    found = run_config("", output, None, num_train_epochs=1, **training)
    return found | {"model": {"from": first}}


def test_a_run_goes_on_with_the_adapters_of_the_model_it_starts_from(first, tmp_path):
    before = weights(mtl_hf.MultiTaskModel.from_pretrained(first))
    mtl_hf.train(again(first, tmp_path / "again"))
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "again")
    owners = owner(model)
    assert moved(before, weights(model)) == {name for name in before if owners.get(name) != "encoder"}
    with pytest.raises(ValueError, match=r"the model already has adapters \(intent, stars\): .*mtl-hf merge"):
        mtl_hf.train(again(first, tmp_path / "third") | {"model": {"from": first, "peft": LORA}})


def test_a_renamed_task_renames_the_adapter_that_it_trains(first, tmp_path):
    found = again(first, tmp_path / "again", max_steps=2)
    found["model"]["rename"] = {"stars": "grade"}
    found["tasks"]["grade"] = found["tasks"].pop("stars")
    mtl_hf.train(found)
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "again")
    assert {name: spec["adapter"] for name, spec in model.config.heads.items()} == {
        "intent": "intent",
        "grade": "grade",
    }
    adapters = {part.name for part in find_parts(model) if part.name.startswith("adapters")}
    assert adapters == {"adapters.intent", "adapters.grade"}
    old = mtl_hf.MultiTaskModel.from_pretrained(first)
    before = {name.replace(".stars.", ".grade."): value for name, value in weights(old).items()}
    owners = owner(model)
    assert moved(before, weights(model)) == {name for name in before if owners.get(name) != "encoder"}


def test_a_task_that_is_only_scored_keeps_its_adapter_and_its_answers(first, tmp_path, caplog):
    found = again(first, tmp_path / "again")
    found["tasks"]["stars"]["train"] = False
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        results = mtl_hf.train(found)
    assert results["tasks"]["stars"]["unchanged"]
    assert results["tasks"]["stars"]["drift"]["logits"] == 0
    assert not any("drift" in message for message in caplog.messages)


def test_adapters_of_the_encoder_alone_go_with_their_heads_and_new_ones_can_be_asked_for(first, tmp_path):
    found = again(first, tmp_path / "again")
    found["model"] |= {"keep": "encoder", "peft": HOULSBY}
    mtl_hf.train(found)
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "again")
    assert model.config.adapters == {"shared": {"type": "BottleneckConfig", "reduction": 8, "kind": "houlsby"}}


def test_a_new_task_beside_others_with_adapters_is_told_that_it_has_none(first, tmp_path, caplog):
    found = again(first, tmp_path / "again")
    found["tasks"]["mood"] = {"type": "sequence_classification", "source": "reviews", "label": "sentiment"}
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        mtl_hf.train(found)
    assert "Head mood has no adapter: it is trained on the unadapted encoder." in caplog.messages


def test_the_share_counts_the_encoder_apart(encoder_folder):
    built = build(config(encoder_folder, LORA))
    parts = find_parts(built.model)
    adapters = sum(part.num_parameters for part in parts if part.name == "adapters")
    whole = built.model.encoder.num_parameters()
    assert trained_share(parts).endswith(
        f"of the encoder {adapters:,} of {whole:,} parameters ({100 * adapters / whole:.2f} %)."
    )
