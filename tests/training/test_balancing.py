"""Tests of `mtl_hf.training.balancing`: against references in float64, on any split of a step, after a resume."""

import copy
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mtl_hf.training.arguments import MultiTaskTrainingArguments, read_arguments
from mtl_hf.training.balancing import LossBalancing
from mtl_hf.training.trainer import MultiTaskTrainer
from tests.conftest import two_source_config
from tests.training.conftest import Built, FixedBatches, TwoProcesses, build, feature_of, make_trainer, weights
from tests.training.test_equivalence import config, fixed_batches

# Plain descent at a constant rate, so that a reference can be written in a few lines.
PLAIN = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "learning_rate": 0.05}
LAST_LAYER = "encoder.encoder.layer.2."


def logged(trainer: MultiTaskTrainer, ending: str = "weight") -> list[list[float]]:
    """What each task's loss was multiplied by, a step after the other."""
    names = [f"{name}_{ending}" for name in trainer.tasks]
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]


def slow(method: str) -> Any:
    """A case for the slow suite only."""
    return pytest.param(method, marks=pytest.mark.slow)


def own(built: Built) -> Built:
    return Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)


@pytest.fixture(scope="module")
def two(still_encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A task on each of two sources, in float64 and without dropout; one prefers the first."""
    folder = tmp_path_factory.mktemp("two")
    found = two_source_config(still_encoder_folder, folder)
    found["model"]["dropout"] = 0.0
    found["sources"]["assistant"]["dataset"] = {"train": found["sources"]["assistant"]["dataset"]}
    found["sources"]["reviews"]["dataset"] = {"train": found["sources"]["reviews"]["dataset"]}
    for source in found["sources"].values():
        source["dataset"] |= {"validation": source["dataset"]["train"].select(range(8))}
    found["tasks"] = {"intent": found["tasks"]["intent"] | {"loss_weight": 2.0}, "stars": found["tasks"]["stars"]}
    built = build(found)
    built.model.double()
    return built


def reference(built: Built, folder: Path, num_steps: int, weigh: Any, learn: Any) -> tuple[list[Any], dict[str, Any]]:
    """Plain descent on two sources in turn, written without any balancer; the weights of each step, and the model's.

    Args:
        built: What is trained, a copy of it.
        folder: For a trainer, of which only the batches are used.
        num_steps: How many.
        weigh: The weights of a step.
        learn: Called with (position of the step's task, its loss, its gradients at the last layer).
    """
    built = own(built)
    model = built.model.train()
    batches = make_trainer(built, folder, per_device_train_batch_size=8).get_train_dataloader()
    found = []
    for number, batch in zip(range(num_steps), batches, strict=False):
        task = number % 2
        name = list(built.tasks)[task]
        factors = weigh()
        found.append([factors[0] * 2.0, factors[1]])
        del batch["num_items"], batch["num_labelled_rows"]
        loss = model(**batch, heads=name).losses[name]
        last = [parameter for key, parameter in model.named_parameters() if key.startswith(LAST_LAYER)]
        learn(task, loss.item(), torch.autograd.grad(loss, last, retain_graph=True))
        model.zero_grad()
        (found[-1][task] * loss).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
    return found, weights(model)


def test_uncertainty_weights_are_those_of_the_formula(two: Built, tmp_path: Path) -> None:
    """Kendall et al., arXiv 1705.07115, equation 7 with s = log σ²: Σ exp(−s) L / 2 + s / 2."""
    s, latest = [0.0, 0.0], [1.0, 1.0]

    def learn(task: int, loss: float, _: Any) -> None:
        latest[task] = loss
        for one in (0, 1):
            s[one] -= 0.1 * 0.5 * (1 - math.exp(-s[one]) * latest[one])

    expected, model = reference(two, tmp_path / "a", 10, lambda: [math.exp(-one) / 2 for one in s], learn)
    built = own(two)
    trainer = make_trainer(
        built, tmp_path / "b", per_device_train_batch_size=8, max_steps=10,
        loss_balancing={"type": "UW", "learning_rate": 0.1}, **PLAIN,
    )  # fmt: skip
    trainer.train()
    torch.testing.assert_close(logged(trainer), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(built.model), model, rtol=0, atol=1e-6)
    assert abs(expected[-1][0] - expected[0][0]) > 0.01
    assert expected[0] == [1.0, 0.5]


@pytest.mark.parametrize(("alpha", "rate"), [(0.12, 0.01), (1.5, 0.01), (1.5, 1.0)])
def test_gradnorm_is_that_of_the_paper(alpha: float, rate: float, two: Built, tmp_path: Path) -> None:
    """Chen et al., arXiv 1711.02257, equations 1 and 2 and algorithm 1, written out for two tasks."""
    w, first, latest, norms = [1.0, 1.0], {}, [0.0, 0.0], [0.0, 0.0]

    def learn(task: int, loss: float, gradients: Any) -> None:
        first.setdefault(task, loss)
        latest[task], norms[task] = loss, math.sqrt(sum(float((part**2).sum()) for part in gradients))
        if len(first) < 2:
            return
        inverse_rates = [latest[one] / first[one] for one in (0, 1)]
        mean_rate, mean_norm = sum(inverse_rates) / 2, (w[0] * norms[0] + w[1] * norms[1]) / 2
        for one in (0, 1):
            above = w[one] * norms[one] > mean_norm * (inverse_rates[one] / mean_rate) ** alpha
            w[one] = max(0.0, w[one] - rate * (norms[one] if above else -norms[one]))
        w[:] = [2 * one / sum(w) for one in w]

    expected, model = reference(two, tmp_path / "a", 10, lambda: list(w), learn)
    built = own(two)
    trainer = make_trainer(
        built, tmp_path / "b", per_device_train_batch_size=8, max_steps=10,
        loss_balancing={"type": "gradnorm", "alpha": alpha, "learning_rate": rate}, **PLAIN,
    )  # fmt: skip
    trainer.train()
    torch.testing.assert_close(logged(trainer), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(built.model), model, rtol=0, atol=1e-6)
    assert abs(expected[-1][0] - 2) > 0.01
    assert all(one[0] / 2 + one[1] == pytest.approx(2) for one in expected)
    assert (min(map(min, expected)) == 0) is (rate == 1), "with large steps a weight comes to 0, and no further"


@pytest.mark.parametrize("method", [slow("GeometricMean"), "Random", "gradnorm"])
def test_weights_are_the_same_however_a_step_is_cut(
    method: str, still_encoder_folder: str, tmp_path: Path, two_processes: TwoProcesses
) -> None:
    built = build(config(still_encoder_folder))  # six tasks, two sources, many labels missing
    built.model.double()

    def train(pieces: int) -> tuple[Any, Any]:
        copied = own(built)
        trainer = make_trainer(
            copied, tmp_path / "run", gradient_accumulation_steps=pieces, num_train_epochs=1, loss_balancing=method,
            **PLAIN | {"learning_rate": 0.01},
        )  # fmt: skip
        trainer.batch_sampler = FixedBatches(
            fixed_batches()[:6], pieces=pieces, rank=trainer.args.process_index, world_size=trainer.args.world_size
        )
        trainer.train()
        return logged(trainer), weights(copied.model)

    one = train(1)
    assert len({tuple(step) for step in one[0]}) > 1, "weights should change"
    first, second = two_processes(lambda: train(1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    for other in (train(4), first):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["Sum", {"type": "gradnorm", "learning_rate": 0.0}], ids=str)
def test_weights_of_1_are_the_plain_run(method: Any, encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))
    found = []
    for value in ("static", method):
        copied = own(built)
        torch.manual_seed(1)
        make_trainer(copied, tmp_path / str(len(found)), max_steps=4, loss_balancing=value).train()
        found.append(weights(copied.model))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("method", [slow("UW"), "DWA", "Random", slow("gradnorm")])  # of these there are configs
def test_a_resumed_run_goes_on_with_the_same_weights(method: str, encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))

    def trainer(model: Built) -> MultiTaskTrainer:
        return make_trainer(
            model, tmp_path / "run", per_device_train_batch_size=24, num_train_epochs=4, loss_balancing=method,
            save_strategy="steps", save_steps=5, save_total_limit=None,
        )  # fmt: skip

    whole, again = own(built), own(built)
    expected = trainer(whole)
    expected.train()  # 16 steps in epochs of 4
    rows = logged(expected)
    changed = [number for number in range(1, 16) if rows[number] != rows[number - 1]]
    assert changed == ([8, 12] if method == "DWA" else [*range(1 if method != "gradnorm" else 2, 16)])
    for step in (10, 15, 16):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    resumed = trainer(again)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.resumed_at == 5
    assert logged(resumed) == rows
    torch.testing.assert_close(weights(again.model), weights(whole.model), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["UW", "DWA", "Random", "gradnorm"])
def test_all_that_a_balancer_has_learned_is_in_its_checkpoint(method: str, encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))
    options = {"per_device_train_batch_size": 24, "loss_balancing": method, "num_train_epochs": 2}
    trainer = make_trainer(own(built), tmp_path, **options)
    trainer.train()  # 8 steps in epochs of 4
    feature_of(trainer, LossBalancing).save(tmp_path)
    again = make_trainer(own(built), tmp_path, **options)
    feature_of(again, LossBalancing).load(tmp_path)
    whole, loaded = (feature_of(one, LossBalancing).balancer for one in (trainer, again))
    torch.testing.assert_close(loaded.state(), whole.state(), rtol=0, atol=0)
    fresh = feature_of(make_trainer(own(built), tmp_path, **options), LossBalancing).balancer.state()
    assert not any(torch.equal(fresh[name], tensor) for name, tensor in whole.state().items() if name in fresh)
    for epoch in (2, 2, 3):
        assert loaded.begin_step(epoch) == whole.begin_step(epoch)


def test_what_is_learned_has_a_group_of_its_own_and_stays_out_of_the_model(encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))
    names = set(weights(built.model))
    trainer = make_trainer(
        built, tmp_path / "run", max_steps=2, loss_balancing="UW", save_strategy="steps", save_steps=2, weight_decay=0.1
    )
    trainer.train()
    *others, group = trainer.optimizer.param_groups
    assert (group["name"], group["weight_decay"], group["initial_lr"]) == ("balancing", 0.0, 0.025)
    assert {"weight_decay": 0.1}.items() <= others[0].items()
    assert group["params"][0].tolist() != [0.0] * 4
    assert max(trainer.learning_rates().values()) <= 1e-3, "not the rate of the model"
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert set(load_file(checkpoint / "model.safetensors")) == names
    assert load_file(checkpoint / "balancing.safetensors")["scalarizer.log_var"].tolist() == group["params"][0].tolist()
    (checkpoint / "balancing.safetensors").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2 has no balancing\.safetensors"):
        trainer._load_from_checkpoint(str(checkpoint))


def test_a_weight_that_is_no_number_stops_the_run_with_the_task_named(two: Built, tmp_path: Path) -> None:
    options = PLAIN | {"loss_balancing": {"type": "IMTLL", "learning_rate": 1e6}}
    trainer = make_trainer(own(two), tmp_path, max_steps=4, per_device_train_batch_size=8, **options)
    with pytest.raises(FloatingPointError, match=r"the weight of task '(intent|stars)' is inf in step [23]: training"):
        trainer.train()


def test_the_last_trained_layer_is_the_shared_one(encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))
    trainer = make_trainer(own(built), tmp_path, loss_balancing="gradnorm", freeze=["encoder.layers.2"])
    layer = {id(p) for name, p in trainer.model.named_parameters() if name.startswith("encoder.encoder.layer.1.")}
    balancer = feature_of(trainer, LossBalancing).balancer
    balancer.begin_step(0)
    assert {id(parameter) for parameter in balancer.shared} == layer
    with pytest.raises(ValueError, match="no shared layer is trained: unfreeze a layer, or choose"):
        make_trainer(own(built), tmp_path, loss_balancing="gradnorm", freeze=["encoder"])
    with pytest.raises(ValueError, match=r"STCH of 4 tasks \(intent, slots, stars, topics\): .*same shape"):
        make_trainer(own(built), tmp_path, loss_balancing={"type": "STCH", "mu": 1.0, "weights": [0.5, 0.5]})


def read(value: Any) -> MultiTaskTrainingArguments:
    section = {"output_dir": "unused", "use_cpu": True, "precision": "fp32", "loss_balancing": value}
    return read_arguments(section)[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "UWW",
            r"`training\.loss_balancing` is 'UWW'\. Did you mean `UW`\? Valid are: static, gradnorm, COSMOS, DWA, ",
        ),
        ("GradNorm", "Did you mean `gradnorm`"),
        ("Scalarizer", "is 'Scalarizer'"),
        ("FAMO", "'FAMO', which cannot be used here: it needs the losses of each batch a second time"),
        ("Constant", r"cannot be used here: set `tasks\.<name>\.loss_weight` instead"),
        (
            "STCH",
            r"STCH: missing a required argument: 'mu'\. .*\{type: STCH, option: value\}; they are mu, weig",
        ),
        ({"type": "STCH", "mu": 0.0}, "`mu` should be strictly positive"),
        ({"type": "UW", "alpha": 1}, "UW: got an unexpected keyword argument 'alpha'.*; they are learning_rate"),
        ({"type": "DWA", "alpha": 1}, r"; they are temperature, learning_rate\.$"),
        ({"type": "DWA", "temperature": math.inf}, r"loss_balancing\.temperature` is inf; it is a finite number"),
        ({"alpha": 1}, "is a mapping without `type`"),
        ({"type": "gradnorm", "alfa": 1}, "'gradnorm' has no option `alfa`. Did you mean `alpha`"),
        ({"type": "gradnorm", "alpha": -1}, r"loss_balancing\.alpha` is -1; it is a finite number of at least 0"),
        ({"type": "gradnorm", "alpha": math.nan}, r"loss_balancing\.alpha` is nan; it is a finite number of at"),
        ({"type": "UW", "learning_rate": math.nan}, r"learning_rate` is nan; it is a finite number of at least 0"),
        ({"type": "static", "learning_rate": math.inf}, r"learning_rate` is inf; it is a finite number of at"),
        ({"type": "UW", "learning_rate": "fast"}, r"learning_rate` is 'fast'; it is a finite number of at least 0"),
        ({"type": "static", "alpha": 1}, "'static' has no option `alpha`"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_what_would_be_valid(value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read(value)


@pytest.mark.parametrize("name", ["DWA", "GeometricMean", "IMTLL", "Mean", "Random", "Sum", "UW", "gradnorm", "static"])
def test_a_name_alone_is_enough_for_most(name: str) -> None:
    assert read(name).loss_balancing == name
    assert read({"type": name}).loss_balancing == {"type": name}


def test_without_torchjd_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.scalarization", None)
    assert read("gradnorm").loss_balancing == "gradnorm"
    with pytest.raises(ValueError, match=r"'UW' needs torchjd: pip install 'mtl_hf\[balancing\]'"):
        read("UW")
