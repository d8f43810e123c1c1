"""Clipping: heads that share nothing that is trained are clipped apart: one beside others is trained as it is alone."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_hf.training import trainer as module
from mtl_hf.training.clipping import clip, is_clipped_away, norm_groups
from tests.conftest import two_source_config
from tests.training.conftest import Built, FixedBatches, build, make_trainer, weights

MAX_NORM = 0.05  # below all norms here: every step is clipped


def batches(first: int, number: int) -> list[list[int]]:
    """Six batches of 8 of the rows from `first` on."""
    generator = torch.Generator().manual_seed(first)
    return [(first + torch.randperm(number, generator=generator)[:8]).tolist() for _ in range(6)]


def train(built: Built, order: list[list[int]], folder: object) -> dict[str, torch.Tensor]:
    trainer = make_trainer(
        built, str(folder), freeze=["encoder"], max_grad_norm=MAX_NORM, lr_scheduler_type="constant",
        weight_decay=0.1, num_train_epochs=2,
    )  # fmt: skip
    trainer.batch_sampler = FixedBatches(order)
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(norms) == 2 * len(order)
    assert min(norms) > MAX_NORM
    return weights(built.model)


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "one norm for all"])
def test_with_the_encoder_frozen_each_head_is_trained_beside_others_as_alone(
    apart, still_encoder_folder, tmp_path, monkeypatch
):
    config = two_source_config(still_encoder_folder, tmp_path)
    config["model"]["dropout"] = 0.0
    built = build(config)
    if not apart:  # as the stock Trainer would: the test can fail
        monkeypatch.setattr(module, "norm_groups", lambda model: [list(model.parameters())])
    sizes = {name: len(rows) for name, rows in built.train.items()}
    firsts = {"assistant": 0, "reviews": sizes["assistant"]}
    own = {name: batches(first, sizes[name]) for name, first in firsts.items()}
    beside = copy.deepcopy(built)
    together = train(beside, [batch for pair in zip(*own.values(), strict=True) for batch in pair], tmp_path / "all")
    equal = {}
    for name, task in built.tasks.items():
        (source,) = task.config.sources
        model = copy.deepcopy(built.model)
        for other in set(built.tasks) - {name}:
            model.remove_head(other)
        alone = Built(model, {name: task}, {source: built.train[source]}, {source: built.validation[source]})
        order = [[row - firsts[source] for row in batch] for batch in own[source]]
        found = train(alone, order, tmp_path / name)
        heads = {key for key in found if key.startswith("heads.")}
        assert all(torch.equal(together[key], found[key]) for key in set(found) - heads), "the encoder has not moved"
        assert not any(torch.equal(built.model.state_dict()[key], found[key]) for key in heads)
        equal[name] = all(torch.equal(together[key], found[key]) for key in heads)
    assert equal == dict.fromkeys(built.tasks, True) if apart else not all(equal.values())


def test_all_parameters_share_a_norm_while_any_part_of_the_encoder_is_trained(still_encoder_folder, tmp_path):
    model = build(two_source_config(still_encoder_folder, tmp_path)).model
    assert norm_groups(model) == [list(model.parameters())]
    model.encoder.requires_grad_(False)
    groups = norm_groups(model)
    for group, head in zip(groups, model.heads.values(), strict=True):
        assert [id(parameter) for parameter in group] == [id(parameter) for parameter in head.parameters()]
    next(model.encoder.parameters()).requires_grad_(True)
    assert len(norm_groups(model)) == 1


def test_groups_are_scaled_to_the_norm_and_those_within_it_left_alone():
    values = [[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]]
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    idle = torch.nn.Parameter(torch.zeros(2))
    norm = clip([[parameters[0]], [parameters[1]], [idle], [parameters[2], idle]], 1.0)
    assert norm.item() == pytest.approx((25 + 0.25 + 100) ** 0.5)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.8]))
    assert parameters[1].grad.tolist() == torch.tensor(values[1]).tolist()
    torch.testing.assert_close(parameters[2].grad, torch.tensor([0.6, 0.8]))
    assert idle.grad is None


# Weights that clipping undoes


@pytest.fixture(scope="module")
def built(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(two_source_config(encoder_folder, tmp_path_factory.mktemp("runs")))


def weighed(built: Built, weight: float) -> Built:
    """The tasks of one source count so many times."""
    tasks = copy.deepcopy(built.tasks)
    for name in ("stars", "topics"):
        tasks[name].config.loss_weight = weight
    return Built(copy.deepcopy(built.model), tasks, built.train, built.validation)


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
    assert ("whatever the weight" in caplog.text) == warns
    assert ("`gradient_accumulation_steps: 2`" in caplog.text) == warns


def test_a_source_with_more_tasks_is_not_weighed(built: Built, tmp_path: Path) -> None:
    args = make_trainer(weighed(built, 1), tmp_path).args
    for weight, expected in ((1.0, False), (2.0, True)):
        tasks = {name: task for name, task in weighed(built, weight).tasks.items() if name != "topics"}
        assert is_clipped_away(args, tasks, balanced=False) == expected


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
