"""Tests of `mtl_hf.training.sharing`: what its features do together, and where they cannot be used."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_hf.training.sharing import TaskSharing
from tests.conftest import two_source_config
from tests.training.conftest import Built, build, make_trainer, weights


@pytest.fixture(scope="module")
def built(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(two_source_config(encoder_folder, tmp_path_factory.mktemp("runs")))


def own(built: Built) -> Built:
    return Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)


@pytest.mark.parametrize(
    "settings",
    [{"loss_balancing": "gradnorm"}, {"gradient_aggregation": "UPGrad"}, {"log_gradient_conflicts": 5}],
    ids=str,
)
def test_parts_of_gradients_and_scaled_ones_are_refused(settings: dict[str, Any], built: Built, tmp_path: Path) -> None:
    trainer = make_trainer(own(built), tmp_path, **settings)

    def make(sharded: bool) -> TaskSharing:
        return TaskSharing(
            trainer.model,
            trainer.args,
            trainer.tasks,
            trainer.parts,
            num_sources=2,
            sharded=sharded,
            stop=trainer._stop,
        )

    make(sharded=False)
    expected = rf"`training\.{next(iter(settings))}` goes neither with FSDP.* nor with fp16.*multi_gpu\.yaml"
    with pytest.raises(ValueError, match=expected):
        make(sharded=True)
    trainer.args.fp16 = True
    with pytest.raises(ValueError, match=expected):
        make(sharded=False)


def test_the_log_of_conflicts_changes_no_balanced_and_no_aggregated_run(built: Built, tmp_path: Path) -> None:
    for settings in ({"loss_balancing": "gradnorm"}, {"gradient_aggregation": "PCGrad"}):
        found = []
        for every in (None, 1):
            copied = own(built)
            torch.manual_seed(1)
            make_trainer(copied, tmp_path, max_steps=3, log_gradient_conflicts=every, **settings).train()
            found.append(weights(copied.model))
        torch.testing.assert_close(*found, rtol=0, atol=0)


def test_without_anything_nothing_is_logged_saved_or_learned(built: Built, tmp_path: Path) -> None:
    trainer = make_trainer(own(built), tmp_path, max_steps=1)
    trainer.train()
    assert trainer.sharing.logs() == {}
    assert trainer.sharing.parameter_groups() == []
    trainer.sharing.save(tmp_path)
    trainer.sharing.load(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    assert not (tmp_path / "gradient_conflicts.jsonl").exists()
