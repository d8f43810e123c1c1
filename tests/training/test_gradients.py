"""Tests of `mtl_hf.training.gradients`: steps against torchjd called by hand, on two processes, after a resume."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchjd.aggregation
from torch import nn
from torchjd.autojac import jac_to_grad, mtl_backward

from mtl_hf.training.arguments import MultiTaskTrainingArguments, read_arguments
from mtl_hf.training.balancing import drawing
from mtl_hf.training.gradients import GradientAggregation, inner_products
from mtl_hf.training.trainer import MultiTaskTrainer
from tests.conftest import two_source_config
from tests.training.conftest import Built, FixedBatches, TwoProcesses, build, make_trainer, weights
from tests.training.test_equivalence import config, fixed_batches

PLAIN = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "learning_rate": 0.05}


def own(built: Built) -> Built:
    return Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)


@pytest.fixture(scope="module")
def built(still_encoder_folder: str) -> Built:
    """Two sources, six tasks, many labels missing, no dropout, float64."""
    found = build(config(still_encoder_folder))
    found.model.double()
    return found


def train(built: Built, folder: Path, num_batches: int = 6, **options: Any) -> tuple[MultiTaskTrainer, dict[str, Any]]:
    """Rounds of two batches that are given; the trainer, and the weights after them."""
    copied = own(built)
    trainer = make_trainer(copied, folder, num_train_epochs=1, **PLAIN | options)
    trainer.batch_sampler = FixedBatches(
        fixed_batches()[:num_batches], rank=trainer.args.process_index, world_size=trainer.args.world_size
    )
    trainer.train()
    return trainer, weights(copied.model)


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "PCGrad", "GradDrop"])
def test_a_step_is_that_of_torchjd_called_by_hand(name: str, built: Built, tmp_path: Path) -> None:
    trainer, found = train(built, tmp_path / "a", gradient_aggregation=name)
    assert trainer.state.global_step == 3
    copied = own(built)
    model = copied.model.train()
    loader = make_trainer(copied, tmp_path / "b")
    loader.batch_sampler = FixedBatches(fixed_batches()[:6])
    batches = list(loader.get_train_dataloader())
    shared = [parameter for key, parameter in model.named_parameters() if not key.startswith("heads.")]
    for step, start in enumerate((0, 2, 4), start=1):
        losses, features = [], []
        for batch in batches[start : start + 2]:
            inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask") if key in batch}
            features.append(model.encoder(**inputs).last_hidden_state)
            for task, labels in batch["labels"].items():
                head = model.heads[task]
                total, items = head.loss(head(features[-1], batch["attention_mask"]), labels)
                losses.append(copied.tasks[task].config.loss_weight * total / items)
        # Rows in the order of the tasks in the config, which is that of the sources.
        mtl_backward(losses, features=features, shared_params=shared, parallel_chunk_size=1)
        with drawing(42, step, torch.device("cpu")):
            jac_to_grad(shared, getattr(torchjd.aggregation, name)())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
                    parameter.grad = None
    torch.testing.assert_close(found, weights(model), rtol=0, atol=1e-9)
    if name != "GradDrop":
        last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
        assert {key for key in last if key.endswith("_weight")} == {f"{task}_weight" for task in trainer.step.tasks}


@pytest.mark.parametrize("name", ["UPGrad", pytest.param("GradDrop", marks=pytest.mark.slow)])
def test_two_processes_take_the_step_of_one(
    name: str, built: Built, tmp_path: Path, two_processes: TwoProcesses
) -> None:
    one = train(built, tmp_path, gradient_aggregation=name)[1]
    first, second = two_processes(lambda: train(built, tmp_path, gradient_aggregation=name)[1])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, one, rtol=0, atol=1e-9)


def test_two_processes_train_a_frozen_encoder_that_opens_later(
    built: Built, tmp_path: Path, two_processes: TwoProcesses
) -> None:
    options = {"freeze": ["encoder"], "unfreeze": {"schedule": "explicit", "at": {"encoder": 2}}}
    alone = train(built, tmp_path, gradient_aggregation="UPGrad", **options)[1]
    first, second = two_processes(lambda: train(built, tmp_path, gradient_aggregation="UPGrad", **options)[1])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-9)
    moved = [name for name, tensor in built.model.state_dict().items() if not torch.equal(first[name], tensor)]
    assert any(name.startswith("encoder.") for name in moved)


def test_sum_is_the_plain_run_over_rounds(encoder_folder: str, tmp_path: Path) -> None:
    built = build(config(encoder_folder))
    found = []
    for options in ({"gradient_accumulation_steps": 2}, {"gradient_aggregation": "Sum"}):
        torch.manual_seed(1)
        found.append(train(built, tmp_path, **options)[1])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_heads_keep_the_gradient_of_their_own_loss_and_what_is_frozen_stays(built: Built, tmp_path: Path) -> None:
    before = weights(built.model)
    freeze = {"freeze": ["embeddings", "encoder.layers.1", "heads.grade"]}
    plain = train(built, tmp_path, 2, gradient_accumulation_steps=2, **freeze)[1]
    found = train(built, tmp_path, 2, gradient_aggregation="UPGrad", **freeze)[1]
    for name, tensor in found.items():
        frozen = name.startswith(("encoder.embeddings.", "encoder.encoder.layer.1.", "heads.grade."))
        if frozen:
            assert torch.equal(tensor, before[name]), name
        elif name.startswith("heads."):
            assert torch.equal(tensor, plain[name]), name
        else:
            assert not torch.equal(tensor, plain[name]), name
    assert not torch.equal(found["heads.slots.classifier.weight"], before["heads.slots.classifier.weight"])


def test_a_row_under_bf16_is_the_gradient_that_a_plain_step_takes(still_encoder_folder: str, tmp_path: Path) -> None:
    built = build(config(still_encoder_folder))
    before, options = weights(built.model), {"precision": "bf16", "learning_rate": 10.0}
    plain = train(built, tmp_path, 2, gradient_accumulation_steps=2, **options)[1]
    trainer, found = train(built, tmp_path, 2, gradient_aggregation="Mean", **options)
    num_tasks = len(trainer.step.tasks)
    assert num_tasks > 3
    names = [name for name in found if name.startswith("encoder.")]
    moved, expected = (
        torch.cat([(after[name] - before[name]).flatten() for name in names]) for after in (found, plain)
    )
    # Tasks on one source go back through the encoder one by one, each rounded to 8 bits on its way.
    assert (num_tasks * moved - expected).norm() < 0.01 * expected.norm()


def test_a_resumed_run_goes_on_exactly(encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))

    def trainer(model: Built) -> MultiTaskTrainer:
        return make_trainer(
            model,
            tmp_path / "run",
            max_steps=5,
            gradient_aggregation="PCGrad",
            save_strategy="steps",
            save_steps=2,
            save_total_limit=None,
        )

    whole, again = own(built), own(built)
    trainer(whole).train()
    for step in (4, 5):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    resumed = trainer(again)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.resumed_at == 2
    torch.testing.assert_close(weights(again.model), weights(whole.model), rtol=0, atol=0)


class Toy(nn.Module):
    """Something shared, something shared that nobody uses, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2, bias=False)
        self.unused = nn.Linear(2, 2)
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 1, bias=False), "b": nn.Linear(2, 1, bias=False)})


def backward(loss: torch.Tensor, **options: Any) -> None:
    loss.backward(**options)


def test_what_no_task_reaches_has_no_gradient() -> None:
    model = Toy()
    aggregation = GradientAggregation(torchjd.aggregation.Mean(), model, seed=0)
    expected: Any = 0
    for factor in (1.0, 3.0):  # nothing is left of an earlier step
        aggregation.begin_step(["a", "b"])
        states = model.encoder(torch.tensor([[1.0, factor]]))
        losses = {name: head(states).sum() for name, head in model.heads.items()}
        (expected,) = torch.autograd.grad(sum(losses.values()) / 2, model.encoder.weight, retain_graph=True)
        aggregation.add(losses, backward)
        assert model.encoder.weight.grad is None
        assert aggregation.end_step(1) is None
        torch.testing.assert_close(model.encoder.weight.grad, expected)
        assert model.unused.weight.grad is None
        assert aggregation.weights == {"a": 0.5, "b": 0.5}
        model.zero_grad()


def test_a_task_in_two_micro_batches_has_the_sum_of_their_gradients() -> None:
    model = Toy()
    aggregation = GradientAggregation(torchjd.aggregation.UPGrad(), model, seed=0)
    aggregation.begin_step(["a", "b"])
    rows: dict[str, Any] = {"a": 0, "b": 0}
    for number, tasks in ((1.0, "a"), (2.0, "ba"), (3.0, "b")):
        states = model.encoder(torch.tensor([[1.0, number]]))
        losses = {name: model.heads[name](states).square().sum() for name in tasks}
        for name, loss in losses.items():
            rows[name] = rows[name] + torch.autograd.grad(loss, model.encoder.weight, retain_graph=True)[0].flatten()
        aggregation.add(losses, backward)
    assert aggregation.end_step(1) is None
    expected = torchjd.aggregation.UPGrad()(torch.stack([rows["a"], rows["b"]]))
    torch.testing.assert_close(model.encoder.weight.grad.flatten(), expected)


def test_inner_products_of_millions_of_numbers_are_right_to_six_digits() -> None:
    torch.manual_seed(0)
    rows = [[torch.randn(7), 1 + torch.randn(3, 1_000_000).T] for _ in range(3)]
    long = torch.stack([torch.cat([tensor.flatten() for tensor in row]) for row in rows]).double()
    torch.testing.assert_close(inner_products(rows).double(), long @ long.T, rtol=2e-6, atol=0)


def test_a_gradient_that_is_no_number_stops_the_run_with_the_task_named(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = GradientAggregation.add

    def overflow(self: GradientAggregation, losses: Any, backward: Any) -> None:
        big = {"grade": lambda loss: loss + (loss - loss.detach()) * 1e200 * 1e200}
        add(self, {name: big.get(name, lambda loss: loss)(loss) for name, loss in losses.items()}, backward)

    monkeypatch.setattr(GradientAggregation, "add", overflow)
    with pytest.raises(
        FloatingPointError, match=r"the norm of the gradient of task 'grade' is (nan|inf) in step 1: tr"
    ):
        train(built, tmp_path, gradient_aggregation="UPGrad")


def read(**section: Any) -> MultiTaskTrainingArguments:
    return read_arguments({"output_dir": "unused", "use_cpu": True, "precision": "fp32"} | section)[0]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (
            {"gradient_aggregation": "UPGradd"},
            r"aggregation` is 'UPGradd'\. Did you mean `UPGrad`\? Valid are: Aligned",
        ),
        ({"gradient_aggregation": "UPGradWeighting"}, "is 'UPGradWeighting'"),
        ({"gradient_aggregation": "WeightedAggregator"}, "is 'WeightedAggregator'"),
        ({"gradient_aggregation": "GradVac"}, "'GradVac', which cannot be used here: it depends on earlier steps"),
        ({"gradient_aggregation": "Krum"}, "'Krum', which cannot be used here: it protects against faulty workers"),
        ({"gradient_aggregation": "CAGrad"}, "CAGrad: missing a required argument: 'c'.*; they are c, norm_eps"),
        ({"gradient_aggregation": {"type": "IMTLG", "c": 1}}, r"IMTLG: got an unexpected .* It has no options\.$"),
        ({"gradient_aggregation": {"type": "UPGrad", "pref_vector": [1.0, 2.0]}}, "is a list.*set its `loss_weight`"),
        ({"gradient_aggregation": "UPGrad", "policy": "proportional"}, "set `policy: round_robin`"),
        ({"gradient_aggregation": "Sum", "policy": "proportional"}, "set `policy: round_robin`"),
        (
            {"gradient_aggregation": "UPGrad", "loss_balancing": "gradnorm"},
            "cannot be combined: set `loss_balancing: s",
        ),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_what_would_be_valid(section: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read(**section)


def test_of_a_missing_package_only_its_installation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(c: float) -> None:
        raise ImportError('CAGrad requires cvxpy. Install it with: pip install "torchjd[cagrad]"')

    monkeypatch.setattr(torchjd.aggregation.CAGrad, "__init__", lambda self, c: missing(c))
    with pytest.raises(ValueError, match=r'aggregation`: CAGrad requires .* pip install "torchjd\[cagrad\]"$'):
        read(gradient_aggregation={"type": "CAGrad", "c": 0.5})


def test_what_does_not_fit_the_model_is_refused_before_training(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accumulation_steps` is 3; .* number of sources, 2: remove"):
        make_trainer(own(built), tmp_path, gradient_aggregation="UPGrad", gradient_accumulation_steps=3)
    with pytest.raises(ValueError, match="none of them is trained: unfreeze a part of the encoder"):
        make_trainer(own(built), tmp_path, gradient_aggregation="UPGrad", freeze=["encoder"])
    assert make_trainer(own(built), tmp_path, gradient_aggregation="UPGrad").num_steps() == 3 * 8
