"""Tests of `mtl_hf.training.wrappers`: what was requested against what accelerate made of the model."""

from types import SimpleNamespace

import pytest
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from mtl_hf.training import trainer as trainer_module
from mtl_hf.training.wrappers import check_single_gradients, check_wrapper, requested_wrapper, wrapper_of
from tests.conftest import two_source_config
from tests.training.conftest import build, make_trainer


@pytest.mark.parametrize(
    ("fields", "environment", "expected"),
    [
        ({}, {}, "none"),
        ({}, {"WORLD_SIZE": "1"}, "none"),
        ({}, {"WORLD_SIZE": "2"}, "DDP"),
        ({}, {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({}, {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "false"}, "DDP"),
        ({"fsdp": "full_shard"}, {"WORLD_SIZE": "2"}, "FSDP"),
        ({}, {"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"deepspeed": "zero.json"}, {}, "DeepSpeed"),
    ],
)
def test_the_request_is_that_of_the_launcher_or_of_the_arguments(fields, environment, expected, monkeypatch):
    for name in ("WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert requested_wrapper(SimpleNamespace(**{"fsdp": None, "deepspeed": None} | fields)) == expected


def test_wrappers_are_known_by_their_class():
    class DeepSpeedEngine(nn.Module):
        """As DeepSpeed's."""

    class Sharded(FSDPModule, nn.Module):
        """As FSDP2 makes them."""

    ddp = DistributedDataParallel.__new__(DistributedDataParallel)
    compiled = SimpleNamespace(_orig_mod=ddp)
    found = [wrapper_of(one) for one in (nn.Linear(1, 1), ddp, object.__new__(Sharded), DeepSpeedEngine(), compiled)]
    assert found == ["none", "DDP", "FSDP", "DeepSpeed", "DDP"]


@pytest.mark.parametrize(
    ("requested", "found"), [("FSDP", "DDP"), ("FSDP", "nothing"), ("DeepSpeed", "DDP"), ("DDP", "nothing")]
)
def test_another_wrapper_than_the_requested_one_is_refused(requested, found):
    with pytest.raises(ValueError, match=rf"{requested} was requested .* wrapped in {found}"):
        check_wrapper(requested, found.replace("nothing", "none"))


@pytest.mark.parametrize(("requested", "found"), [("FSDP", "FSDP"), ("DDP", "DDP"), ("none", "none"), ("none", "DDP")])
def test_the_requested_wrapper_is_accepted(requested, found):
    check_wrapper(requested, found)


def test_a_run_that_is_not_wrapped_as_requested_stops_before_its_first_step(encoder_folder, tmp_path, monkeypatch):
    trainer = make_trainer(build(two_source_config(encoder_folder, tmp_path)), tmp_path, max_steps=1)
    monkeypatch.setattr(trainer_module, "requested_wrapper", lambda args: "FSDP")
    with pytest.raises(ValueError, match=r"FSDP was requested .* but the model is wrapped in nothing"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("setting", ["loss_balancing", "gradient_aggregation", "log_gradient_conflicts"])
@pytest.mark.parametrize(
    ("requested", "fp16", "reason"),
    [("DeepSpeed", False, "DeepSpeed, which sums"), ("FSDP", False, "FSDP, which shard"), ("DDP", True, "fp16, which")],
)
def test_what_reads_gradients_of_single_tasks_is_refused_where_nothing_gives_them(requested, fp16, reason, setting):
    used = dict.fromkeys(("loss_balancing", "gradient_aggregation", "log_gradient_conflicts"), False)
    check_single_gradients(requested, fp16, used)
    check_single_gradients("DDP", False, used | {setting: True})
    with pytest.raises(ValueError, match=rf"`training\.{setting}` reads .* cannot be used with {reason}"):
        check_single_gradients(requested, fp16, used | {setting: True})
