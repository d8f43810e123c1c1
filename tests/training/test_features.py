"""Tests of `mtl_hf.training.features`: hooks of a feature of somebody else, and what ours do together."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtl_hf.training.checkpoints import list_checkpoints
from mtl_hf.training.conflict_report import conflict_sentences, read_conflicts
from mtl_hf.training.features import Feature, Step
from tests.conftest import two_source_config
from tests.training.conftest import Built, TwoProcesses, build, make_trainer, weights


@pytest.fixture(scope="module")
def built(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(two_source_config(encoder_folder, tmp_path_factory.mktemp("runs")))


def own(built: Built) -> Built:
    return Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)


# A feature of somebody else, given as a callback


class Recorder(Feature):
    """Notes the hooks that are called, with what tells their calls apart."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        for name in (
            "on_train_begin", "on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log", "on_evaluate",
            "on_save", "on_train_end", "parameter_groups", "logs", "steps_to_keep", "save", "load",
        ):  # fmt: skip
            setattr(self, name, self._noting(name, getattr(self, name)))

    def _noting(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return hook(*args, **kwargs)

        return note

    def before_training(self, rows: Any) -> None:
        self.calls.append(f"before_training {len(rows)}")

    def before_evaluation(self, source: str, rows: Any, order: Any) -> None:
        assert sorted(order) == list(range(len(rows)))
        self.calls.append(f"before_evaluation {source}")

    def begin_step(self, step: Step) -> None:
        self.calls.append(f"begin_step {step.number} {step.epoch} {' '.join(step.tasks)}")

    @contextmanager
    def around_forward(self, inputs: dict[str, Any]) -> Iterator[None]:
        assert "input_ids" in inputs
        self.calls.append("forward begins")
        yield
        self.calls.append("forward ends")

    def add_loss(self, task: str, loss: torch.Tensor) -> None:
        assert loss.requires_grad
        self.calls.append(f"add_loss {task}")

    def end_step(self, step: Step) -> None:
        self.calls.append(f"end_step {step.number}")


def test_hooks_are_called_in_the_order_that_is_documented(built: Built, tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = make_trainer(
        own(built), tmp_path, callbacks=[recorder], max_steps=1, gradient_accumulation_steps=2, eval_strategy="steps",
        eval_steps=1, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    assert trainer.features[0] is recorder, "before ours"
    trainer.train()
    forward = ["forward begins", "forward ends"]
    expected = [
        f"before_training {sum(map(len, built.train.values()))}", "parameter_groups", "on_train_begin",
        "on_step_begin", "begin_step 1 0 intent slots stars topics",
        *forward, "add_loss intent", "add_loss slots", *forward, "add_loss stars", "add_loss topics",
        "end_step 1", "on_pre_optimizer_step", "on_step_end", "logs", "on_log",
        "before_evaluation assistant", *forward, "before_evaluation reviews", *forward, "on_log", "on_evaluate",
        "steps_to_keep", "save", "steps_to_keep", "on_save", "on_log", "on_train_end",
    ]  # fmt: skip
    assert recorder.calls == expected
    recorder.calls.clear()
    trainer.score()
    assert recorder.calls == 2 * forward, "nothing else of an evaluation that is not in training"


def trained(built: Built, folder: Path, *features: Feature, **options: Any) -> dict[str, torch.Tensor]:
    copied = own(built)
    torch.manual_seed(1)
    make_trainer(copied, folder, callbacks=list(features), max_steps=4, **options).train()
    return weights(copied.model)


class Doubled(Feature):
    """Counts a task twice."""

    def begin_step(self, step: Step) -> None:
        step.loss_weights["intent"] *= 2


def test_a_feature_multiplies_losses_as_loss_weight_does(built: Built, tmp_path: Path) -> None:
    tasks = copy.deepcopy(built.tasks)
    tasks["intent"].config.loss_weight = 2
    expected = trained(Built(built.model, tasks, built.train, built.validation), tmp_path)
    torch.testing.assert_close(trained(built, tmp_path, Doubled()), expected, rtol=0, atol=0)
    assert not torch.equal(trained(built, tmp_path)["heads.slots.classifier.weight"],
                           expected["heads.slots.classifier.weight"])  # fmt: skip


class OwnBackward(Feature):
    """Does what the Trainer does."""

    own_backward = True

    def backward(self, losses: Mapping[str, torch.Tensor], backward: Callable[..., None]) -> None:
        backward(torch.stack(list(losses.values())).sum())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_feature_takes_the_place_of_the_backward_pass(accumulation: int, built: Built, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": accumulation}
    found = trained(built, tmp_path, OwnBackward(), **options)
    torch.testing.assert_close(found, trained(built, tmp_path, **options), rtol=0, atol=0)


def test_two_backward_passes_are_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="OwnBackward and AggregatedGradients both replace the backward"):
        trained(built, tmp_path, OwnBackward(), gradient_aggregation="UPGrad")


class Learned(Feature):
    """Learns a number that all losses are multiplied by, and one that no optimiser knows."""

    def __init__(self) -> None:
        self.factor = torch.nn.Parameter(torch.ones(1))
        self.seen = torch.zeros(1)

    def begin_step(self, step: Step) -> None:
        for name in step.tasks:
            step.loss_weights[name] *= self.factor.item() + self.seen.item() / 10

    def add_loss(self, task: str, loss: torch.Tensor) -> None:
        self.seen += loss.detach()

    def end_step(self, step: Step) -> None:
        self.factor.grad = torch.full_like(self.factor, -1.0)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.factor], "lr": 0.1, "weight_decay": 0.0, "name": "learned"}]

    def logs(self) -> dict[str, float]:
        return {"factor": self.factor.item()}

    def save(self, checkpoint: Path) -> None:
        save_file({"factor": self.factor.detach(), "seen": self.seen}, checkpoint / "learned.safetensors")

    def load(self, checkpoint: Path) -> None:
        state = load_file(checkpoint / "learned.safetensors")
        self.factor.data.copy_(state["factor"])
        self.seen = state["seen"]


def test_a_feature_learns_is_logged_and_resumes_exactly(built: Built, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "save_total_limit": None}
    whole = make_trainer(own(built), tmp_path, callbacks=[Learned()], **saving)
    whole.train()
    factors = [entry["factor"] for entry in whole.state.log_history if "factor" in entry]
    assert factors[0] < factors[1] < factors[2]
    assert len(factors) == 4
    for checkpoint in list_checkpoints(tmp_path)[1:]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    resumed = make_trainer(own(built), tmp_path, callbacks=[Learned()], **saving)
    resumed.train(True)
    assert resumed.resumed_at == 2
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=0)
    assert [entry["factor"] for entry in resumed.state.log_history if "factor" in entry] == factors


class FirstKept(Feature):
    """Keeps the first checkpoint."""

    def steps_to_keep(self, state: Any) -> set[int]:
        return {1}


def test_a_feature_keeps_checkpoints(built: Built, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    trained(built, tmp_path, FirstKept(), **options)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-4"]


# What ours do together


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
    for feature in trainer.features:
        assert feature.logs() == {}
        assert feature.parameter_groups() == []
        assert feature.steps_to_keep(trainer.state) == set()
        feature.save(tmp_path)
        feature.load(tmp_path)
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
    if "log_gradient_conflicts" in settings:
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
