"""Tests of `mtl_hf.training.conflicts`: cosines against gradients taken one by one, and training as if nothing was."""

import copy
import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_hf.training.arguments import read_arguments
from tests.conftest import two_source_config
from tests.training.conftest import Built, FixedBatches, TwoProcesses, build, make_trainer, weights
from tests.training.test_equivalence import config, fixed_batches

FILE = "gradient_conflicts.jsonl"
PARTS = {
    "embeddings": "encoder.embeddings.",
    **{f"encoder.layers.{k}": f"encoder.encoder.layer.{k}." for k in range(3)},
    "all": "encoder.",
}


def own(built: Built) -> Built:
    return Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)


def train(built: Built, folder: Path, every: int, num_batches: int = 4, **options: Any) -> list[dict[str, Any]]:
    """Train on batches that are given; the lines of the log."""
    batches = fixed_batches()[:num_batches]
    options |= {"num_train_epochs": 1, "log_gradient_conflicts": every, "batch_sampler": FixedBatches(batches)}
    trainer = make_trainer(own(built), folder, **options)
    trainer.batch_sampler = FixedBatches(batches, rank=trainer.args.process_index, world_size=trainer.args.world_size)
    trainer.train()
    return [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]


def only(found: dict[str, Any], *tasks: str) -> dict[str, Any]:
    return found | {"tasks": {name: found["tasks"][name] for name in tasks}}


@pytest.fixture(scope="module")
def built(still_encoder_folder: str) -> Built:
    """Two sources, six tasks, many labels missing, no dropout, float64."""
    found = build(config(still_encoder_folder))
    found.model.double()
    return found


@pytest.fixture(scope="module")
def one_task_a_source(still_encoder_folder: str) -> Built:
    found = build(only(config(still_encoder_folder), "slots", "grade"))
    found.model.double()
    return found


def expected_cosines(built: Built, folder: Path, batches: tuple[int, int]) -> dict[tuple[str, str], dict[str, float]]:
    """Of all pairs of tasks of two batches, from gradients taken one by one."""
    loader = make_trainer(own(built), folder, batch_sampler=FixedBatches(fixed_batches()[: max(batches) + 1]))
    found = list(loader.get_train_dataloader())
    model, gradients = loader.model.train(), {}
    for batch in (found[number] for number in batches):
        del batch["num_items"], batch["num_labelled_rows"]
        for task in batch["labels"]:
            model.zero_grad()
            model(**batch, heads=task).losses[task].backward()
            gradients[task] = {
                name: p.grad.clone()
                for name, p in model.named_parameters()
                if p.grad is not None and "heads" not in name
            }

    def cosine(first: str, second: str, start: str) -> float:
        names = [name for name in gradients[first] if name.startswith(start)]
        a, b = (torch.cat([gradients[task][name].flatten() for name in names]) for task in (first, second))
        return torch.cosine_similarity(a, b, dim=0).item()

    return {
        (first, second): {part: cosine(first, second, start) for part, start in PARTS.items()}
        for first, second in combinations(gradients, 2)
    }


@pytest.mark.parametrize(
    ("tasks", "options", "every", "steps"),
    [
        ("one", {}, 2, [2, 4]),
        ("many", {}, 2, [2, 4]),
        ("one", {"gradient_accumulation_steps": 2}, 1, [1, 2]),
        ("many", {"gradient_aggregation": "UPGrad"}, 2, [2]),
    ],
    ids=str,
)
def test_cosines_are_those_of_gradients_taken_one_by_one(
    tasks: str, options: Any, every: int, steps: list[int], built: Built, one_task_a_source: Built, tmp_path: Path
) -> None:
    chosen = built if tasks == "many" else one_task_a_source
    lines = train(chosen, tmp_path / "a", every, learning_rate=0.0, optim="sgd", **options)
    assert [line["step"] for line in lines] == steps
    for line, batches in zip(reversed(lines), [(2, 3), (0, 1)], strict=False):
        expected = expected_cosines(chosen, tmp_path / "b", batches)
        found = {tuple(pair["tasks"]): pair["cosines"] for pair in line["pairs"]}
        assert found.keys() == expected.keys()
        for pair, cosines in found.items():
            assert cosines == pytest.approx(expected[pair], abs=1e-9)
    if options == {}:
        assert set(lines[0]["steps"].values()) == {1, 2}


def test_two_processes_write_what_one_writes(built: Built, tmp_path: Path, two_processes: TwoProcesses) -> None:
    one = train(built, tmp_path / "one", 2)
    both = two_processes(lambda: train(built, tmp_path / "two", 2))[0]
    assert len(one) == len(both) == 2
    for line, other in zip(one, both, strict=True):
        assert line["steps"] == other["steps"]
        for pair, same in zip(line["pairs"], other["pairs"], strict=True):
            assert pair["tasks"] == same["tasks"]
            assert pair["cosines"] == pytest.approx(same["cosines"], abs=1e-9)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_is_not_changed(accumulation: int, encoder_folder: str, tmp_path: Path) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))
    found = []
    for every in (None, 1):
        copied = own(built)
        torch.manual_seed(1)
        trainer = make_trainer(
            copied, tmp_path, max_steps=4, log_gradient_conflicts=every, gradient_accumulation_steps=accumulation
        )
        trainer.train()
        found.append((weights(copied.model), torch.get_rng_state()))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert len((tmp_path / FILE).read_text().splitlines()) == 4


def test_a_resumed_run_cuts_the_log_back_and_writes_the_same(
    encoder_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(two_source_config(encoder_folder, tmp_path))

    def trainer() -> Any:
        return make_trainer(
            own(built), tmp_path, max_steps=6, log_gradient_conflicts=2, save_strategy="steps", save_steps=2,
            save_total_limit=None,
        )  # fmt: skip

    trainer().train()
    whole = (tmp_path / FILE).read_text(encoding="utf-8")
    assert [json.loads(line)["step"] for line in whole.splitlines()] == [2, 4, 6]
    for step in (4, 6):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    (tmp_path / FILE).write_text(whole + '{"step": 8, "st', encoding="utf-8")  # as a killed run leaves it
    trainer().train(resume_from_checkpoint=True)
    assert (tmp_path / FILE).read_text(encoding="utf-8") == whole
    assert any(message.startswith("intent and slots ") for message in caplog.messages)
    trainer().train()  # a new run begins a new log
    assert len((tmp_path / FILE).read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"every": 3}, "is 3, and the run has 2 steps: set a smaller number"),
        ({"every": 1, "freeze": ["encoder"]}, "is 1, and the run has 2 steps: at its multiples no two tasks had gra"),
    ],
)
def test_a_run_that_compared_nothing_says_so(
    options: Any, reason: str, built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(own(built), tmp_path, max_steps=2, log_gradient_conflicts=options.pop("every"), **options)
    trainer.train()
    assert caplog.messages[-1].startswith(f"No gradients were compared: `log_gradient_conflicts` {reason}")


def test_what_is_frozen_is_not_compared(built: Built, tmp_path: Path) -> None:
    (line,) = train(built, tmp_path, 2, 2, freeze=["embeddings", "encoder.layers.0"])
    assert {part for pair in line["pairs"] for part in pair["cosines"]} == {
        "encoder.layers.1",
        "encoder.layers.2",
        "all",
    }


def test_a_wrong_value_is_refused() -> None:
    with pytest.raises(ValueError, match="log_gradient_conflicts` is -1; it is at least 0"):
        read_arguments({"output_dir": "unused", "use_cpu": True, "log_gradient_conflicts": -1})
