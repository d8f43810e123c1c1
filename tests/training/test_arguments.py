"""Tests of `mtl_hf.training.arguments`: what the `training:` section takes, refuses and sets by itself."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from mtl_hf.config import OurTraining, RunConfig
from mtl_hf.training.arguments import MultiTaskTrainingArguments, best_precision, read_arguments


def read(**section: Any) -> MultiTaskTrainingArguments:
    """The arguments of a section that needs no accelerator."""
    return read_arguments({"output_dir": "unused", "use_cpu": True} | section)[0]


def read_text(folder: Path, training: str) -> tuple[MultiTaskTrainingArguments, dict[str, Any]]:
    """The arguments of a `training:` section written as YAML."""
    file = folder / "config.yaml"
    file.write_text(
        "model: {encoder: a}\nsources: {s: {path: json, text: t}}\n"
        f"tasks: {{t: {{type: regression, source: s, label: l}}}}\ntraining:\n  output_dir: unused\n{training}"
    )
    return read_arguments(RunConfig.load(file).training)


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(TrainingArguments) if item.init])
def test_every_field_of_transformers_is_accepted(name: str) -> None:
    field = next(item for item in dataclasses.fields(MultiTaskTrainingArguments) if item.name == name)
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default
    if name in ("load_best_model_at_end", "eval_strategy", "save_strategy"):
        default = {"load_best_model_at_end": False, "eval_strategy": "epoch", "save_strategy": "epoch"}[name]
    _, values = read_arguments({"output_dir": "unused", "precision": "fp32", name: default})
    assert name in values


def test_defaults_suit_several_tasks() -> None:
    arguments = read()
    assert arguments.eval_strategy == "epoch"
    assert arguments.save_strategy == "epoch"
    assert arguments.save_total_limit == 2
    assert arguments.load_best_model_at_end is True
    assert arguments.metric_for_best_model == "score"
    assert arguments.greater_is_better is True
    assert arguments.early_stopping_patience is None
    assert arguments.policy == "round_robin"
    assert arguments.layerwise_lr_decay == 1.0
    assert arguments.remove_unused_columns is False
    assert arguments.label_names == ["labels"]


def test_unquoted_text_of_a_yaml_is_typed_by_the_fields(tmp_path: Path) -> None:
    text = """
  learning_rate: 5e-5
  bf16: no
  use_cpu: on
  precision: fp32
  num_train_epochs: 3
  warmup_steps: 0.1
  save_strategy: no
  load_best_model_at_end: off
  lr_scheduler_type: cosine
  lr_scheduler_kwargs: {num_cycles: 5e-1}
  report_to: none
  run_name: 012
  max_steps: 012
  optim: adamw_torch
  """
    arguments, values = read_text(tmp_path, text)
    assert arguments.learning_rate == 5e-5
    assert arguments.bf16 is False
    assert arguments.use_cpu is True
    assert arguments.num_train_epochs == 3.0
    assert arguments.warmup_steps == 0.1
    assert arguments.save_strategy == "no"
    assert arguments.load_best_model_at_end is False
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.lr_scheduler_kwargs == {"num_cycles": 0.5}
    assert arguments.report_to == []
    assert arguments.run_name == "012"
    assert arguments.max_steps == 12
    assert values["bf16"] is False
    assert values["learning_rate"] == 5e-5


def test_typed_values_survive_the_way_to_yaml_and_back(tmp_path: Path) -> None:
    text = "  learning_rate: 5e-5\n  save_strategy: no\n  load_best_model_at_end: no\n  run_name: 1e5\n  freeze: [on]\n"
    _, values = read_text(tmp_path, text + "  use_cpu: yes\n  lr_scheduler_type: cosine\n")
    run = RunConfig.load(tmp_path / "config.yaml")
    run.training = values
    (tmp_path / "again.yaml").write_text(run.to_yaml())
    assert read_arguments(RunConfig.load(tmp_path / "again.yaml").training)[1] == values


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"learning_rat": 1e-4}, r"unknown key `learning_rat` in `training`\. Did you mean `learning_rate`\?"),
        ({"layerwise_decay": 0.9}, r"Did you mean `layerwise_lr_decay`\?"),
        ({"learning_rate": "fast"}, r"`training\.learning_rate` is 'fast'; it should be a number"),
        ({"num_train_epochs": "3"}, r"`training\.num_train_epochs` is '3'"),
        ({"bf16": "no"}, r"`training\.bf16` is 'no'; it should be true or false"),
        ({"policy": "random"}, r"`training\.policy` is 'random'; valid are round_robin, proportional"),
        ({"stopping_rule": "never"}, r"valid are all_exhausted, first_exhausted"),
        ({"lr_scheduler_type": "cosin"}, "cosin is not a valid SchedulerType, please select one of"),
        ({"torch_compile_backend": ""}, r"`training\.torch_compile_backend` is ''; valid are no, eager, "),
        ({"freeze": "encoder"}, r"`training\.freeze` is 'encoder'; it should be a list"),
        ({"layerwise_lr_decay": 0.0}, "`layerwise_lr_decay` is 0.0; it is above 0 and at most 1"),
        ({"layerwise_lr_decay": 1.5}, "`layerwise_lr_decay` is 1.5"),
        (
            {"policy": "proportional", "stopping_rule": "first_exhausted"},
            "`stopping_rule` only works with `policy: round_rob",
        ),
        (
            {"examples_cap": 2000},
            "`examples_cap` only works with `policy: proportional or temperature`, but `policy` is rou",
        ),
        ({"policy": "fixed", "examples_cap": 2000}, "`examples_cap` only works with"),
        ({"policy": "proportional", "examples_cap": 0}, "`examples_cap` is 0; it is at least 1 row"),
        ({"sampling_temperature": 2.0}, "`sampling_temperature` only works with `policy: temperature`"),
        ({"policy": "temperature"}, "`policy: temperature` needs `sampling_temperature`"),
        ({"policy": "temperature", "sampling_temperature": 0.0}, "`sampling_temperature` is 0; it is above 0"),
        (
            {"policy": "temperature", "sampling_temperature": float("nan")},
            "`sampling_temperature` is nan; it is above 0",
        ),
        ({"policy": "temperature", "sampling_temperature": {"from": 5.0, "to": -1.0}}, "`sampling_temperature` is -1"),
        ({"policy": "temperature", "sampling_temperature": {"from": 5.0}}, "`sampling_temperature` has no `to`"),
        (
            {"policy": "temperature", "sampling_temperature": {"form": 5.0, "to": 1.0}},
            r"unknown key `form` in `sampling_temperature`\. Did you mean `from`\?",
        ),
        (
            {"policy": "temperature", "sampling_temperature": "hot"},
            "sampling_temperature` is 'hot'; it should be a numb",
        ),
        (
            {"policy": "temperature", "sampling_temperature": 2.0, "stopping_rule": "first_exhausted"},
            "`stopping_rule` only works with `policy: round_robin`, but `policy` is temperature",
        ),
        ({"sampling_probabilities": {"a": 1.0}}, "`sampling_probabilities` only works with `policy: fixed`"),
        ({"policy": "fixed"}, "`policy: fixed` needs `sampling_probabilities`"),
        ({"policy": "fixed", "sampling_probabilities": {"a": 0.7, "b": 0.2}}, "sum to 0.9; they must sum to 1"),
        ({"policy": "fixed", "sampling_probabilities": {"a": 1.0, "b": 0.0}}, r"probabilities\.b` is 0; it is above 0"),
        (
            {"policy": "fixed", "sampling_probabilities": {"a": 1.5, "b": -0.5}},
            r"probabilities\.a` is 1.5; it is above",
        ),
        ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor` is not .*: set `tasks\.<name>\.label_smoothing`"),
        ({"dataloader_drop_last": True}, r"dataloader_drop_last` is not .*no rows are dropped"),
        ({"enable_jit_checkpoint": True}, r"enable_jit_checkpoint` is not .*set `save_steps`"),
        ({"auto_find_batch_size": True}, r"auto_find_batch_size` is not .*set `sources\.<name>\.batch_size`"),
        ({"train_sampling_strategy": "group_by_length"}, r"train_sampling_strategy` is not .*set `policy`"),
        ({"train_sampling_strategy": "sequential"}, r"train_sampling_strategy` is not"),
    ],
)
def test_wrong_section_is_refused(section: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read(**section)


def test_keys_of_both_kinds_are_known() -> None:
    names = {item.name for item in dataclasses.fields(MultiTaskTrainingArguments)}
    assert {item.name for item in dataclasses.fields(OurTraining)} < names
    assert {item.name for item in dataclasses.fields(TrainingArguments)} < names


# Precision


def test_explicit_precision_sets_both_flags() -> None:
    for precision, flags in (("fp32", (False, False)), ("bf16", (True, False))):
        arguments = read(precision=precision)
        assert (arguments.bf16, arguments.fp16) == flags
        assert arguments.precision == precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32"), ({}, "fp32")],
)
def test_auto_precision_is_bf16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    arguments = read()
    assert arguments.precision == best_precision(on_cpu=True) == expected
    assert arguments.bf16 is (expected == "bf16")
    assert arguments.fp16 is False


def test_flags_of_transformers_decide_where_precision_is_auto() -> None:
    assert read(bf16=True).precision == "bf16"
    with pytest.raises(ValueError, match="fp16, which needs a GPU"):
        read(fp16=True)


@pytest.mark.parametrize("section", [{"bf16": True, "precision": "fp32"}, {"fp16": True, "precision": "bf16"}])
def test_flag_and_precision_that_contradict_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="contradict each other"):
        read(**section)


def test_both_flags_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="bf16"):
        read(bf16=True, fp16=True)


def test_half_precision_of_16_bits_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="fp16, which needs a GPU; valid here are bf16 and fp32"):
        read(precision="fp16")


def test_machine_without_an_accelerator_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    arguments, _ = read_arguments({"output_dir": "unused", "precision": "bf16"})
    assert arguments.use_cpu is True
    assert arguments.dataloader_pin_memory is False


# Processes


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One process on one device, whatever the environment says: transformers does not look, so no state is left."""
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    monkeypatch.setattr(MultiTaskTrainingArguments, "world_size", property(lambda self: 1))
    monkeypatch.setattr(MultiTaskTrainingArguments, "n_gpu", property(lambda self: 0))
    for name in ("WORLD_SIZE", "ACCELERATE_USE_CPU", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_one_process_alone_is_fine(alone: pytest.MonkeyPatch) -> None:
    assert read().world_size == 1
    alone.setenv("ACCELERATE_USE_CPU", "true")  # `accelerate launch` with one process
    assert read().world_size == 1


def test_world_size_that_did_not_come_up_is_refused(alone: pytest.MonkeyPatch) -> None:
    alone.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="the launcher should start 2 processes but started 1"):
        read()


def test_launcher_that_started_one_process_for_several_is_refused(alone: pytest.MonkeyPatch) -> None:
    alone.setenv("ACCELERATE_USE_CPU", "true")
    alone.setenv("MASTER_PORT", "29500")
    with pytest.raises(ValueError, match="should start several processes but started 1: use `accelerate launch"):
        read()


def test_several_gpus_without_a_launcher_are_refused(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(MultiTaskTrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match="this process sees 2 GPUs; each process must use one GPU"):
        read()


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("score", True), ("sentiment_accuracy", True), ("sentiment_cross_entropy", False), ("stars_mse", False)],
)
def test_the_best_checkpoint_has_the_smallest_loss_or_the_greatest_score(metric: str, greater: bool) -> None:
    assert read_arguments({"metric_for_best_model": metric, "use_cpu": True})[0].greater_is_better is greater


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size` is 0; it is at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps` is 0; it is at least 1"),
        ({"early_stopping_patience": 0}, "early_stopping_patience` is 0; it is at least 1"),
        (
            {"early_stopping_patience": 2, "eval_strategy": "no", "load_best_model_at_end": False},
            "early_stopping_patience` needs evaluations",
        ),
        ({"batch_eval_metrics": True}, "batch_eval_metrics` is not supported"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint` is not supported"),
    ],
)
def test_numbers_that_cannot_train_are_refused(section: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_arguments(section | {"use_cpu": True})


@pytest.mark.parametrize(
    ("section", "expected", "said"),
    [
        ({}, ("epoch", "epoch", 500, True), ""),
        ({"eval_strategy": "steps", "eval_steps": 30}, ("steps", "steps", 30, True), "`save_strategy` is set to steps"),
        ({"eval_strategy": "steps"}, ("steps", "steps", 50, True), "`save_strategy` is set to steps"),
        ({"save_strategy": "steps", "save_steps": 70}, ("steps", "steps", 70, True), "`eval_strategy` is set to steps"),
        ({"save_strategy": "steps"}, ("steps", "steps", 500, True), "`eval_strategy` is set to steps"),
        ({"eval_strategy": "steps", "eval_steps": 30, "save_strategy": "steps"}, ("steps", "steps", 30, True), ""),
        ({"eval_strategy": "steps", "eval_steps": 30, "save_strategy": "best"}, ("steps", "best", 500, True), ""),
        (
            {"eval_steps": 30},
            ("epoch", "epoch", 500, True),
            "`eval_steps` has no effect because `eval_strategy` is epoch",
        ),
        (
            {"save_steps": 30},
            ("epoch", "epoch", 30, True),
            "`save_steps` has no effect because `save_strategy` is epoch",
        ),
        ({"eval_strategy": "no"}, ("no", "epoch", 500, False), "`load_best_model_at_end` is set to false"),
        ({"save_strategy": "no"}, ("epoch", "no", 500, False), "`load_best_model_at_end` is set to false"),
        (
            {"eval_strategy": "steps", "save_strategy": "epoch"},
            ("steps", "epoch", 500, False),
            "`load_best_model_at_end` is set to false because `eval_strategy` is steps and `save_strategy` is epoch",
        ),
        ({"eval_strategy": "steps", "load_best_model_at_end": False}, ("steps", "steps", 50, False), "`save_strategy`"),
    ],
)
def test_of_evaluating_and_saving_what_is_missing_follows_from_what_is_given(
    section: dict[str, Any], expected: tuple[Any, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mtl_hf")
    arguments = read(use_cpu=True, **section)
    found = (arguments.eval_strategy, arguments.save_strategy, arguments.save_steps, arguments.load_best_model_at_end)
    assert found == expected
    if expected[0] == "steps" and "save_steps" in section:
        assert arguments.eval_steps == section["save_steps"]
    assert len(caplog.messages) == bool(said)
    assert all(message.startswith(said) for message in caplog.messages)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"eval_strategy": "no"}, "`eval_strategy` is no and `save_strategy` is epoch"),
        ({"eval_strategy": "steps", "save_strategy": "epoch"}, "`eval_strategy` is steps and `save_strategy` is epoch"),
        ({"save_strategy": "sometimes"}, "`training.save_strategy` is 'sometimes'; valid are no, steps, epoch, best"),
        ({"eval_strategy": "best"}, "`training.eval_strategy` is 'best'; valid are no, steps, epoch"),
    ],
)
def test_a_best_checkpoint_that_cannot_be_chosen_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(load_best_model_at_end=True, **section)


@pytest.mark.parametrize("used", [{"loss_balancing": "UW"}, {"gradient_aggregation": "UPGrad"},
                                  {"log_gradient_conflicts": 5}])  # fmt: skip
@pytest.mark.parametrize("wrapper", ["DeepSpeed", "FSDP"])
def test_what_reads_gradients_of_single_tasks_is_refused_with_a_wrapper_that_does_not_give_them(
    wrapper: str, used: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{wrapper.upper()}", "true")
    with pytest.raises(ValueError, match=rf"`training\.{next(iter(used))}` reads .* cannot be used with {wrapper}"):
        read(**used)


def test_a_plain_run_of_deepspeed_tells_that_sums_differ_in_rounding(
    alone: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mtl_hf")
    alone.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    read(gradient_aggregation="Sum")
    assert [message for message in caplog.messages if "DeepSpeed" in message] == [
        "DeepSpeed sums gradients in another order: steps equal those of other runs only up to rounding."
    ]


def test_fsdp_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was requested, but this run is on a CPU"):
        read(use_cpu=True)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    with pytest.raises(ValueError, match="FSDP was requested, but this run is on a CPU"):
        read(use_cpu=True, fsdp="full_shard")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"loss_balancing": {"type": "gradnorm", "alpha": 1.5}}, "loss_balancing: gradnorm"),
        ({"log_gradient_conflicts": 5}, "log_gradient_conflicts"),
    ],
)
def test_reentrant_checkpoints_are_refused_where_gradients_are_asked_for(asked: dict[str, Any], named: str) -> None:
    plain = {"use_cpu": True, "activation_checkpointing": True}
    reentrant = plain | {"activation_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match=rf"`{named}` needs .* remove `use_reentrant`; the default is exact"):
        read_arguments(reentrant | asked)
    read_arguments(plain | asked)
    read_arguments(reentrant)
