"""Tests of `mtl_hf.training.sharing`: what its features do together, and where they cannot be used."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_hf.training.conflict_report import conflict_sentences, read_conflicts
from mtl_hf.training.sharing import is_clipped_away
from tests.conftest import two_source_config
from tests.training.conftest import Built, TwoProcesses, build, make_trainer, weights


@pytest.fixture(scope="module")
def built(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(two_source_config(encoder_folder, tmp_path_factory.mktemp("runs")))


def own(built: Built) -> Built:
    return Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)


def weighed(built: Built, weight: float) -> Built:
    """The tasks of one source count so many times."""
    found = own(built)
    tasks = copy.deepcopy(found.tasks)
    for name in ("stars", "topics"):
        tasks[name].config.loss_weight = weight
    return Built(found.model, tasks, found.train, found.validation)


@pytest.mark.parametrize(
    ("weight", "settings", "warns"),
    [
        (10, {}, True),
        (10, {"max_grad_norm": 0}, False),
        (10, {"gradient_accumulation_steps": 2}, False),
        (1, {}, False),
        (1, {"loss_balancing": "gradnorm"}, True),
        (1, {"loss_balancing": "gradnorm", "gradient_accumulation_steps": 2}, False),
        (10, {"gradient_aggregation": "Sum"}, False),
        (10, {"freeze": ["encoder"]}, False),  # nothing is shared
        (10, {"freeze": ["encoder"], "unfreeze": {"schedule": "gradual", "every": 3}}, True),
    ],
    ids=str,
)
def test_weights_that_clipping_undoes_draw_a_warning(
    weight: float,
    settings: dict[str, Any],
    warns: bool,
    built: Built,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        make_trainer(weighed(built, weight), tmp_path, **settings)
    assert ("is cut to that length, whatever its loss is multiplied by" in caplog.text) == warns
    assert ("`gradient_accumulation_steps: 2`" in caplog.text) == warns


def test_a_source_with_more_tasks_is_not_weighed(built: Built, tmp_path: Path) -> None:
    args = make_trainer(own(built), tmp_path).args
    for weight, expected in ((1.0, False), (2.0, True)):
        tasks = {name: task for name, task in weighed(built, weight).tasks.items() if name != "topics"}
        assert is_clipped_away(args, tasks, balanced=False) == expected


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"loss_balancing": {"type": "gradnorm", "alpha": 1}},
         "Losses of intent, slots, stars, topics are balanced by gradnorm"),
        ({"gradient_aggregation": "UPGrad"}, "Gradients of intent, slots, stars, topics are combined by UPGrad:"
         " `gradient_accumulation_steps` is set to 2, so that a step is a round"),
        ({}, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_line_before_training_says_how_tasks_share_the_encoder(
    settings: dict[str, Any], line: str | None, built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mtl_hf"):
        make_trainer(own(built), tmp_path, **settings)
    said = [message for message in caplog.messages if message.startswith(("Losses of", "Gradients of"))]
    assert len(said) == (line is not None)
    assert all(message.startswith(str(line)) for message in said)


def test_clipping_undoes_weights_as_the_warning_says(still_encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(still_encoder_folder, tmp_path))

    def trained(weight: float, **settings: Any) -> dict[str, torch.Tensor]:
        found = weighed(built, weight)
        make_trainer(found, tmp_path, max_steps=4, optim="sgd", learning_rate=0.1, **settings).train()
        return weights(found.model)

    def distance(**settings: Any) -> float:
        plain, heavy = (trained(weight, **settings) for weight in (1, 10))
        return max(float((plain[name] - heavy[name]).abs().max()) for name in plain)

    clipped = distance(max_grad_norm=1e-2)
    assert clipped < 1e-6
    assert distance(max_grad_norm=1e-2, gradient_accumulation_steps=2) > 100 * clipped
    assert distance(max_grad_norm=0) > 100 * clipped


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


GRADUAL = {"freeze": ["encoder"], "unfreeze": {"schedule": "gradual", "every": 2}}


@pytest.mark.parametrize(
    "settings",
    [{"loss_balancing": "gradnorm"}, {"gradient_aggregation": "UPGrad"}, {"log_gradient_conflicts": 1}],
    ids=str,
)
def test_parts_that_open_on_the_way_take_part_from_their_step_on(
    settings: dict[str, Any], built: Built, tmp_path: Path
) -> None:
    copied = own(built)
    before = weights(copied.model)
    trainer = make_trainer(copied, tmp_path, max_steps=6, **GRADUAL, **settings)
    trainer.train()
    moved = {name for name, tensor in weights(copied.model).items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("encoder.encoder.layer.2.") for name in moved)
    assert not any("embeddings" in name for name in moved), "their turn would have come later"
    if trainer.sharing.conflicts:
        lines = read_conflicts(tmp_path)
        assert all(line["step"] > 2 for line in lines), "nothing was shared before"
        assert any(found.startswith("intent and slots ") for found in conflict_sentences(lines))


def test_what_opens_on_the_way_is_aggregated_over_processes(
    still_encoder_folder: str, tmp_path: Path, two_processes: TwoProcesses
) -> None:
    settings = {"freeze": ["embeddings", "encoder.layers.0-1"], "gradient_aggregation": "UPGrad", "max_steps": 4,
                "unfreeze": {"schedule": "explicit", "at": {"encoder.layers.1": 2}}}  # fmt: skip

    def run() -> dict[str, torch.Tensor]:
        found = build(two_source_config(still_encoder_folder, tmp_path))
        make_trainer(found, tmp_path / "run", **settings).train()
        return weights(found.model)

    first, second = two_processes(run)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
