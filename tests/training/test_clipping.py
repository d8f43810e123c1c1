"""Clipping: heads that share nothing that is trained are clipped apart: one beside others is trained as it is alone."""

import copy

import pytest
import torch

from mtl_hf.training import trainer as module
from mtl_hf.training.clipping import clip, norm_groups
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
