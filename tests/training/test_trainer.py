"""The trainer: idle heads, losses and what is logged of them, the schedule in the loader, resuming, evaluation."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import TrainerCallback

from mtl_hf.data.collator import LABEL_PREFIX
from mtl_hf.data.rows import EncodedSplit
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.training import trainer as trainer_module
from mtl_hf.training.checkpoints import remove_checkpoint
from mtl_hf.training.trainer import MultiTaskTrainer
from tests.conftest import SENTENCES
from tests.training.conftest import FixedBatches, build, make_trainer, task_losses, weights


def in_splits(rows: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None) -> datasets.DatasetDict:
    return datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows), validation=datasets.Dataset.from_list(validation or rows[:6])
    )


def numbered_config(encoder: str, long: int = 37, short: int = 14) -> dict[str, Any]:
    """Two sources whose rows carry their own number as a label, so that what is trained on can be told."""
    sources = {}
    for first, name, number in [(0, "long", long), (long, "short", short)]:
        rows = [{"text": " ".join((SENTENCES[k % 8] + " today").split()[: 2 + k % 5]), "row": float(first + k)}
                for k in range(number)]  # fmt: skip
        sources[name] = {"dataset": in_splits(rows), "text": "text"}
    return {
        "model": {"encoder": encoder},
        "sources": sources,
        "tasks": {f"{name}_row": {"type": "regression", "source": name, "label": "row"} for name in sources},
    }


def labelled_config(encoder: str, **tasks: dict[str, Any]) -> dict[str, Any]:
    """One source with an intent, slots and a number; the last 8 of 40 rows alone have a `rare` label. Another source
    with a `grade`."""
    rows = []
    for index in range(40):
        words = SENTENCES[index % 8].split()[: 2 + index % 4]
        rows.append(
            {
                "tokens": words,
                "intent": None if index % 5 == 0 else ["music", "booking", "weather"][index % 3],
                "slots": ["B-x" if len(word) > 4 else "O" for word in words] if index % 3 else None,
                "stars": float(index % 5) if index % 5 == 0 or index % 2 else None,
                "rare": ["yes", "no"][index % 2] if index >= 32 else None,
            }
        )
    texts = [{"text": SENTENCES[index % 8], "grade": float(index)} for index in range(8)]
    names = {"intent": "sequence_classification", "slots": "token_classification", "stars": "regression",
             "rare": "sequence_classification"}  # fmt: skip
    config: dict[str, Any] = {
        "model": {"encoder": encoder, "dropout": 0.0},
        "sources": {
            "assistant": {"dataset": in_splits(rows, rows[30:]), "text": "tokens"},
            "texts": {"dataset": in_splits(texts), "text": "text"},
        },
        "tasks": {
            **{name: {"type": kind, "source": "assistant", "label": name} for name, kind in names.items()},
            "grade": {"type": "regression", "source": "texts", "label": "grade"},
        },
    }
    for name, keys in tasks.items():
        config["tasks"][name] |= keys
    return config


# ---- heads without labels ----


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_heads_without_labels_stay_bit_for_bit_as_they_are(
    num_processes, pieces, encoder_folder, tmp_path, two_processes
):
    built = build(labelled_config(encoder_folder))
    before = weights(built.model)
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randperm(32, generator=generator)[:8].tolist() for _ in range(20)]  # none with `rare` or `grade`

    def train() -> tuple[dict[str, Tensor], set[str], int, dict[str, int]]:
        trainer = make_trainer(
            built, tmp_path, gradient_accumulation_steps=pieces, num_train_epochs=1, weight_decay=0.5
        )
        rank, world_size = trainer.args.process_index, trainer.args.world_size
        trainer.batch_sampler = FixedBatches(batches, pieces=pieces, rank=rank, world_size=world_size)
        trainer.train()
        known = {id(parameter) for parameter, state in trainer.optimizer.state.items() if state}
        with_state = {name for name, parameter in built.model.named_parameters() if id(parameter) in known}
        steps = {name: spec["num_steps"] for name, spec in built.model.config.heads.items()}
        return weights(built.model), with_state, trainer.state.global_step, steps

    for after, with_state, num_steps, steps in [train()] if num_processes == 1 else two_processes(train):
        assert num_steps == 20
        for name, tensor in after.items():
            idle = name.startswith(("heads.rare.", "heads.grade."))
            assert torch.equal(before[name], tensor) == idle, name
            assert (name in with_state) == (not idle), name
        assert steps["rare"] == steps["grade"] == 0
        assert steps["slots"] == 20


class Snapshots(TrainerCallback):
    """Keeps, after every step, what is asked of weights and of the optimiser's state of each."""

    def __init__(self, heads: tuple[str, ...]) -> None:
        self.heads = heads
        self.steps: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kw: Any):
        kept = {}
        for name, parameter in model.named_parameters():
            if name.startswith(self.heads):
                kept[name] = parameter.detach().clone()
                for key, value in optimizer.state[parameter].items():
                    kept[f"{name} {key}"] = torch.as_tensor(value).clone()
        self.steps.append(kept)


@pytest.mark.parametrize("options", [{}, {"optim": "sgd", "optim_args": "momentum=0.9"}], ids=["adamw", "momentum"])
@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_head_that_was_trained_and_goes_idle_does_not_move_by_weight_decay_or_momentum(
    num_processes, pieces, options, encoder_folder, tmp_path, two_processes
):
    built = build(labelled_config(encoder_folder))
    generator = torch.Generator().manual_seed(3)
    idle = [torch.randperm(32, generator=generator)[:8].tolist() for _ in range(20)]  # none with `rare` or `grade`
    one = [32, 1, 2, 3, 4, 5, 6, 7]  # `rare` in one micro-batch of one process only
    batches = [list(range(32, 40)), list(range(40, 48)), one, *idle, one, list(range(40, 48))]

    def train() -> list[dict[str, Tensor]]:
        kept = Snapshots(("heads.rare.", "heads.grade."))
        trainer = make_trainer(
            built,
            tmp_path,
            callbacks=[kept],
            gradient_accumulation_steps=pieces,
            num_train_epochs=1,
            weight_decay=0.5,
            learning_rate=0.01,
            lr_scheduler_type="constant",
            **options,
        )
        rank, world_size = trainer.args.process_index, trainer.args.world_size
        trainer.batch_sampler = FixedBatches(batches, pieces=pieces, rank=rank, world_size=world_size)
        trainer.train()
        return kept.steps

    for steps in [train()] if num_processes == 1 else two_processes(train):
        assert len(steps) == 25
        assert len(steps[2]) == (8 if options else 16)  # weight and bias of two heads, with the state of each
        for name, tensor in steps[2].items():
            before = steps[0 if "rare" in name else 1][name]  # a step of Adam or momentum before; `grade` rested since
            assert torch.equal(tensor, before) == ("grade" in name), name
            assert all(torch.equal(tensor, step[name]) for step in steps[2:23]), name
            assert not torch.equal(tensor, steps[24][name]), name


# ---- the loss ----


class Gradients(TrainerCallback):
    """Keeps the gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def one_step(encoder: str, folder: Path, **tasks: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
    built = build(labelled_config(encoder, **tasks))
    kept = Gradients()
    batches = FixedBatches([[36, 1, 2, 3, 4, 5, 6, 7]])
    trainer = make_trainer(
        built, folder, batch_sampler=batches, callbacks=[kept], max_grad_norm=0, num_train_epochs=1, learning_rate=0.0
    )
    trainer.train()
    return kept.steps[0], next(entry for entry in trainer.state.log_history if "loss" in entry)


def test_loss_weight_multiplies_gradients_exactly_and_logged_task_losses_not_at_all(still_encoder_folder, tmp_path):
    plain, log = one_step(still_encoder_folder, tmp_path)
    weighted, weighted_log = one_step(still_encoder_folder, tmp_path, slots={"loss_weight": 4.0})
    others = ("intent", "stars", "rare")
    without, _ = one_step(still_encoder_folder, tmp_path, **{name: {"loss_weight": 1e-9} for name in others})
    assert plain.keys() == weighted.keys() == without.keys()
    for name, gradient in plain.items():
        if name.startswith("heads.slots."):
            assert torch.equal(weighted[name], 4 * gradient), name
        elif name.startswith("heads."):
            assert torch.equal(weighted[name], gradient), name
        else:  # the encoder hears every head: what slots add is there four times
            torch.testing.assert_close(weighted[name] - gradient, 3 * without[name], rtol=1e-3, atol=1e-5)
    names = [f"{name}_loss" for name in ("intent", "slots", "stars", "rare")]
    assert [log[name] for name in names] == [weighted_log[name] for name in names]
    assert log["loss"] == pytest.approx(sum(log[name] for name in names), rel=1e-5)
    assert weighted_log["loss"] == pytest.approx(log["loss"] + 3 * log["slots_loss"], rel=1e-5)


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_logged_loss_of_a_task_is_the_mean_over_the_labelled_items_of_the_step(
    num_processes, pieces, still_encoder_folder, tmp_path, two_processes
):
    built = build(labelled_config(still_encoder_folder, intent={"loss_weight": 3.0}))
    rows = [36, 1, 12, 3, 24, 5, 26, 17]

    def train() -> list[dict[str, float]]:
        trainer = make_trainer(built, tmp_path, gradient_accumulation_steps=pieces, num_train_epochs=1)
        rank, world_size = trainer.args.process_index, trainer.args.world_size
        trainer.batch_sampler = FixedBatches([rows], pieces=pieces, rank=rank, world_size=world_size)
        trainer.train()
        return task_losses(trainer)

    encoded = built.train["assistant"].select(rows)
    length = max(map(len, encoded["input_ids"]))
    ids = torch.zeros(8, length, dtype=torch.long)  # 0 is the pad
    mask, tags = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (tokens, starts, labels) in enumerate(
        zip(encoded["input_ids"], encoded["word_starts"], encoded[f"{LABEL_PREFIX}slots"], strict=True)
    ):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        tags[row, starts] = torch.tensor(labels)
    with torch.no_grad():
        logits = copy.deepcopy(built.model).train()(input_ids=ids, attention_mask=mask).logits
    stars = torch.tensor(encoded[f"{LABEL_PREFIX}stars"])
    known = ~stars.isnan()
    intents, rare = (torch.tensor(encoded[LABEL_PREFIX + name]) for name in ("intent", "rare"))
    expected = {
        "intent": F.cross_entropy(logits["intent"], intents, ignore_index=-100).item(),
        "slots": F.cross_entropy(logits["slots"].flatten(0, 1), tags.flatten(), ignore_index=-100).item(),
        "stars": F.mse_loss(logits["stars"][known], stars[known].float()).item(),
        "rare": F.cross_entropy(logits["rare"], rare, ignore_index=-100).item(),
    }
    assert (rare != -100).sum() == 1
    assert (intents == -100).any()
    assert (tags == -100).all(1).any()
    assert not known.all()
    for losses in [train()] if num_processes == 1 else two_processes(train):
        assert losses == [pytest.approx(expected, rel=1e-5)]


def test_a_logged_loss_is_the_mean_over_the_steps_in_which_the_task_had_labels(still_encoder_folder, tmp_path):
    batches = [[1, 2, 3, 4], [32, 33, 34, 35], [6, 7, 8, 9], [36, 37, 38, 39]]  # `rare` in the 2nd and 4th
    logs = []
    for every in (1, 4):
        built = build(labelled_config(still_encoder_folder))
        sampler = FixedBatches(batches)
        trainer = make_trainer(built, tmp_path, batch_sampler=sampler, num_train_epochs=1, logging_steps=every)
        trainer.train()
        logs.append(task_losses(trainer))
    for name, steps in {"rare": (1, 3), "intent": (0, 1, 2, 3)}.items():
        assert [step for step in range(4) if name in logs[0][step]] == list(steps)
        assert logs[1][0][name] == pytest.approx(np.mean([logs[0][step][name] for step in steps]), rel=1e-6)
    assert "grade" not in logs[1][0]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_labelled_rows_a_second_count_row_and_task_pairs_over_all_processes(
    num_processes, encoder_folder, tmp_path, two_processes, monkeypatch
):
    built = build(labelled_config(encoder_folder))
    batches = [[0, 1, 2, 3], [32, 33, 34, 35], [4, 5, 6, 7], [40, 41, 42, 43]]
    clock: Iterator[int] = iter(range(1000))  # a step begins at one tick and ends at the next: one second
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))

    def train() -> list[float]:
        trainer = make_trainer(built, tmp_path, num_train_epochs=1, logging_steps=2)
        rank, world_size = trainer.args.process_index, trainer.args.world_size
        trainer.batch_sampler = FixedBatches(batches, rank=rank, world_size=world_size)
        trainer.train()
        return [entry["labelled_rows_per_second"] for entry in trainer.state.log_history if "loss" in entry]

    rows = built.train["assistant"].select(range(40)).to_list()

    def pairs(row: int) -> int:
        if row >= 40:
            return 1
        labels = {name: rows[row][LABEL_PREFIX + name] for name in ("intent", "slots", "stars", "rare")}
        return ((labels["intent"] != -100) + (max(labels["slots"]) != -100) + (not math.isnan(labels["stars"]))
                + (labels["rare"] != -100))  # fmt: skip

    expected = [sum(pairs(row) for batch in batches[first : first + 2] for row in batch) / 2 for first in (0, 2)]
    assert expected[0] != expected[1]
    for found in [train()] if num_processes == 1 else two_processes(train):
        assert found == expected


# ---- a loss that is not a number ----


class Poison(TrainerCallback):
    """Puts NaN into a head before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            torch.nn.init.constant_(model.heads["slots"].classifier.weight, float("nan"))


def finite_checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints, after loading each and looking at every weight."""
    for checkpoint in folder.glob("checkpoint-*"):
        model = MultiTaskModel.from_pretrained(checkpoint)
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values()), checkpoint.name
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_a_loss_that_is_not_a_number_names_task_and_step_and_leaves_good_checkpoints(encoder_folder, tmp_path):
    built = build(labelled_config(encoder_folder))
    batches = FixedBatches([[1, 2, 3, 4]] * 6)
    trainer = make_trainer(
        built, tmp_path, batch_sampler=batches, callbacks=[Poison(4)], save_strategy="steps", save_steps=1
    )
    with pytest.raises(FloatingPointError, match=r"the loss of task 'slots' is nan in step 4: .*checkpoints are in"):
        trainer.train()
    assert finite_checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_a_step_that_ruins_the_weights_is_not_saved(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mtl_hf.training.arguments.check_numbers", lambda arguments: None)
    built = build(labelled_config(encoder_folder))
    trainer = make_trainer(
        built,
        tmp_path,
        batch_sampler=FixedBatches([[1, 2, 3, 4]] * 6),
        save_strategy="steps",
        save_steps=1,
        learning_rate=1e39,  # beyond float32, which is refused otherwise
        warmup_steps=2,  # the first step has rate 0
    )
    with pytest.raises(FloatingPointError, match=r"the weights encoder\S+ are not finite after step 2: training stops"):
        trainer.train()
    assert finite_checkpoints(tmp_path) == ["checkpoint-1"]


# ---- the schedule in the loader ----


def record_rows(trainer: MultiTaskTrainer) -> list[list[int]]:
    """Rows of each batch as they reach the model, filled in during training: each row's label is its number."""
    seen: list[list[int]] = []
    compute_loss = trainer.compute_loss

    def recording(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        (labels,) = inputs["labels"].values()
        seen.append(labels.int().tolist())
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = recording
    return seen


def planned(trainer: MultiTaskTrainer, epoch: int) -> list[tuple[str, list[int]]]:
    return [(source, rows.tolist()) for source, rows in trainer.batch_sampler.batches(epoch)]


@pytest.mark.parametrize(
    ("policy", "steps_an_epoch"),
    [({"policy": "proportional"}, 7), ({}, 10), ({"stopping_rule": "first_exhausted"}, 4)],
    ids=["proportional", "all_exhausted", "first_exhausted"],
)
@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_step_trains_the_rows_of_the_schedule(
    num_processes, policy, steps_an_epoch, encoder_folder, tmp_path, two_processes
):
    built = build(numbered_config(encoder_folder))
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 8 // num_processes} | policy

    def train() -> tuple[list[list[int]], list[list[tuple[str, list[int]]]], int]:
        trainer = make_trainer(built, tmp_path, **options)
        seen = record_rows(trainer)
        trainer.train()
        return seen, [planned(trainer, epoch) for epoch in (0, 1)], trainer.state.global_step

    ranks = [train()] if num_processes == 1 else two_processes(train)
    plans = ranks[0][1]
    assert [len(plan) for plan in plans] == [steps_an_epoch] * 2
    assert plans[0] != plans[1], "another epoch, another shuffle"
    for seen, own_plans, num_steps in ranks:
        assert own_plans == plans
        assert len(seen) == num_steps == 2 * steps_an_epoch
    for step, (source, rows) in enumerate(plans[0] + plans[1]):
        slices = [ranks[rank][0][step] for rank in range(num_processes)]
        assert [rows[rank::num_processes] for rank in range(num_processes)] == slices
        assert all((row < 37) == (source == "long") for rows in slices for row in rows), "all ranks on the same source"
    for epoch in (0, 1):
        steps = slice(epoch * steps_an_epoch, (epoch + 1) * steps_an_epoch)
        trained = sorted(row for rank in range(num_processes) for batch in ranks[rank][0][steps] for row in batch)
        if policy.get("policy") == "proportional":
            assert trained == list(range(51)), "every row once"
        elif policy:
            assert [row for row in trained if row >= 37] == list(range(37, 51)), "the shortest source once"
            assert len(set(trained)) == len(trained), "no row twice"
        else:
            assert [row for row in trained if row < 37] == list(range(37)), "the longest source once"
            assert set(trained) == set(range(51)), "no row of the shorter one left out"


@pytest.mark.parametrize("stop_at", [12, 14])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_run_resumed_in_its_second_epoch_takes_the_steps_that_were_left(
    num_processes, stop_at, encoder_folder, tmp_path, two_processes
):
    """Epochs of 7 steps: a checkpoint within the second one, and one at its end; rows, weights and rates."""

    def train(resume: bool) -> tuple[list[list[int]], list[list[int]], dict[str, Tensor], int]:
        built = build(numbered_config(encoder_folder))  # with dropout, so that the random state counts
        trainer = make_trainer(
            built,
            tmp_path,
            num_train_epochs=3,
            per_device_train_batch_size=8 // num_processes,
            policy="proportional",
            save_strategy="steps",
            save_steps=stop_at,
            save_total_limit=5,
        )
        seen = record_rows(trainer)
        trainer.train(resume_from_checkpoint=resume)
        rank = trainer.args.process_index
        plan = [rows[rank::num_processes] for epoch in range(3) for _, rows in planned(trainer, epoch)]
        return seen, plan, weights(built.model), trainer.state.global_step

    whole = [train(False)] if num_processes == 1 else two_processes(lambda: train(False))
    remove_checkpoint(tmp_path / "checkpoint-21")  # of the end
    resumed = [train(True)] if num_processes == 1 else two_processes(lambda: train(True))
    for (seen, plan, after, _), (rest, _, resumed_after, num_steps) in zip(whole, resumed, strict=True):
        assert num_steps == len(seen) == 21
        assert seen == plan
        assert rest == plan[stop_at:]
        assert all(torch.equal(after[name], resumed_after[name]) for name in after)


# ---- evaluation ----


def by_hand(model: MultiTaskModel, rows: datasets.Dataset) -> dict[str, list[Any]]:
    """Each row alone through the model, without padding: its number, and its words' tags."""
    model.eval()
    found: dict[str, list[Any]] = {"stars": [], "slots": []}
    with torch.no_grad():
        for row in rows:
            inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "token_type_ids")}
            logits = model(**inputs).logits
            found["stars"].append(logits["stars"].item())
            tags = logits["slots"][0, row["word_starts"]].argmax(-1).tolist()
            found["slots"].append([model.config.heads["slots"]["labels"][tag] for tag in tags])
    return found


@pytest.mark.parametrize(("num_processes", "batch_size"), [(1, 1), (1, 3), (1, 64), (2, 2), (2, 64)])
def test_predictions_come_in_row_order_each_row_once(
    num_processes, batch_size, encoder_folder, tmp_path, two_processes
):
    config = labelled_config(encoder_folder)
    rows = []
    for row in range(11):  # of all lengths in no order, all different, every one labelled
        words = [*f"{SENTENCES[row % 8]} {SENTENCES[row // 8]}".split()[: 1 + (5 * row) % 8], "abc"[row // 8]]
        rows.append(
            {"tokens": words, "intent": "music", "slots": ["O"] * len(words), "stars": float(row), "rare": "yes"}
        )
    config["sources"]["assistant"]["dataset"]["validation"] = datasets.Dataset.from_list(rows)
    built = build(config)
    expected = by_hand(built.model, built.validation["assistant"].rows)
    assert len(set(expected["stars"])) == 11

    def predict() -> tuple[dict[str, Any], dict[str, Any]]:
        trainer = make_trainer(built, tmp_path, per_device_eval_batch_size=batch_size)
        answers: dict[str, Any] = {}
        return trainer.score(keep_answers=answers), answers["assistant"]

    for results, answers in [predict()] if num_processes == 1 else two_processes(predict):
        assert results["rows"] == {"assistant": 11, "texts": 6}
        for task in ("intent", "slots", "stars"):
            assert answers[task].rows.tolist() == list(range(11))
        assert answers["stars"].gold == [float(row) for row in range(11)]
        assert answers["stars"].predicted == pytest.approx(expected["stars"], abs=1e-5)
        assert answers["slots"].predicted == expected["slots"]


def test_metrics_of_two_processes_are_over_every_row_once_however_few_there_are(
    encoder_folder, tmp_path, two_processes
):
    config = labelled_config(encoder_folder)
    intents = ["music", "music", "booking", "weather", "music", "booking", "weather", "weather", "booking", "music"]
    rows = [
        {
            "tokens": SENTENCES[row % 8].split()[: 2 + row % 4],
            "intent": intent,
            "slots": None,
            "stars": 1.0,
            "rare": "no",
        }
        for row, intent in enumerate(intents)
    ]
    config["sources"]["assistant"]["dataset"]["validation"] = datasets.Dataset.from_list(rows)
    built = build(config)
    split = built.validation["assistant"]
    counts = [(1, 1), (1, 8), (3, 1), (3, 2), (5, 4), (9, 2), (10, 64)]

    def score() -> list[tuple[list[str], float]]:
        found = []
        for num_rows, batch_size in counts:
            first = EncodedSplit(split.rows.select(range(num_rows)), {"intent": split.gold["intent"][:num_rows]})
            trainer = make_trainer(built, tmp_path, per_device_eval_batch_size=batch_size)
            answers: dict[str, Any] = {}
            results = trainer.score({"assistant": first}, keep_answers=answers)
            assert results["rows"] == {"assistant": num_rows}
            found.append((answers["assistant"]["intent"].predicted, results["tasks"]["intent"]["accuracy"]))
        return found

    one = score()
    assert [len(predicted) for predicted, _ in one] == [num_rows for num_rows, _ in counts]
    for predicted, accuracy in one:
        right = sum(answer == intent for answer, intent in zip(predicted, intents, strict=False))
        assert accuracy == pytest.approx(right / len(predicted))
    assert len({accuracy for _, accuracy in one}) > 3, "a row counted twice should change it"
    assert two_processes(score) == [one, one]


class Evaluations(TrainerCallback):
    """Keeps what `on_evaluate` is told."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.metrics.append(dict(metrics))


def test_scores_are_logged_once_an_evaluation_with_every_task_and_source(encoder_folder, tmp_path):
    built = build(labelled_config(encoder_folder))
    kept = Evaluations()
    trainer = make_trainer(built, tmp_path, num_train_epochs=2, eval_strategy="epoch", callbacks=[kept])
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if any(key.startswith("eval_") for key in entry)]
    assert len(logged) == len(kept.metrics) == 2
    for entry, metrics in zip(logged, kept.metrics, strict=True):
        assert metrics == {key: value for key, value in entry.items() if key != "step"}
        assert {"eval_score", "eval_intent_accuracy", "eval_slots_f1", "eval_stars_pearson", "eval_grade_pearson",
                "eval_rare_accuracy", "eval_joint_assistant"} <= entry.keys()  # fmt: skip
        primary = ["intent_accuracy", "slots_f1", "stars_pearson", "rare_accuracy", "grade_pearson"]
        assert entry["eval_score"] == pytest.approx(np.mean([entry[f"eval_{name}"] for name in primary]))


def script_scores(trainer: MultiTaskTrainer, scores: list[float]) -> None:
    """Let the evaluations give these scores one after the other."""
    left = iter(scores)
    trainer.score = lambda *args, **kwargs: {"score": next(left), "tasks": {}, "joint": {}}  # type: ignore[method-assign]


def test_the_checkpoint_with_the_best_score_is_loaded_at_the_end(encoder_folder, tmp_path):
    built = build(labelled_config(encoder_folder))
    trainer = make_trainer(
        built,
        tmp_path,
        num_train_epochs=4,
        batch_sampler=FixedBatches([[1, 2, 3, 4]] * 2),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
    )
    script_scores(trainer, [0.1, 0.9, 0.5, 0.7])
    trainer.train()
    assert trainer.state.global_step == 8
    assert Path(str(trainer.state.best_model_checkpoint)).name == "checkpoint-4"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    best, last = (load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (4, 8))
    now = weights(built.model)
    assert all(torch.equal(now[name], tensor) for name, tensor in best.items())
    assert not any(torch.equal(now[name], last[name]) for name in last if name.startswith("heads.intent"))


def test_early_stopping_stops_after_its_patience(encoder_folder, tmp_path):
    built = build(labelled_config(encoder_folder))
    trainer = make_trainer(
        built,
        tmp_path,
        num_train_epochs=9,
        batch_sampler=FixedBatches([[1, 2, 3, 4]] * 2),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        early_stopping_patience=2,
    )
    script_scores(trainer, [0.5, 0.6, 0.4, 0.6, 0.9])
    trainer.train()
    assert trainer.state.global_step == 8
    assert Path(str(trainer.state.best_model_checkpoint)).name == "checkpoint-4"


def test_a_regression_head_trained_in_bf16_predicts_a_number_of_its_own_for_each_row(encoder_folder, tmp_path):
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    pairs = [(one, other) for one in words for other in words if one < other][:200]
    rows = [{"text": f"{one} {other}", "stars": index / 200} for index, (one, other) in enumerate(pairs)]
    built = build(
        {
            "model": {"encoder": encoder_folder},
            "sources": {"rows": {"dataset": in_splits(rows, rows), "text": "text"}},
            "tasks": {"stars": {"type": "regression", "source": "rows", "label": "stars"}},
        }
    )
    trainer = make_trainer(built, tmp_path, precision="bf16", max_steps=3)
    trainer.train()
    answers: dict[str, Any] = {}
    trainer.score(keep_answers=answers)
    assert len({tuple(ids) for ids in built.validation["rows"].rows["input_ids"]}) == 200
    assert len(set(answers["rows"]["stars"].predicted)) > 195


def unlabelled_config(encoder: str) -> dict[str, Any]:
    """One source with two tasks; every third row has no label of either, and the first eight neither."""
    rows = [{"text": f"{SENTENCES[k % 8]} {k}", "stars": None if k < 8 or k % 3 == 0 else float(k),
             "tone": None if k < 8 or k % 3 else "good"} for k in range(30)]  # fmt: skip
    for row in rows[8::3]:
        row["stars"] = row["tone"] = None
    return {
        "model": {"encoder": encoder},
        "sources": {"rows": {"dataset": in_splits(rows, rows[9:20]), "text": "text"}},
        "tasks": {
            "stars": {"type": "regression", "source": "rows", "label": "stars"},
            "tone": {"type": "sequence_classification", "source": "rows", "label": "tone", "labels": ["good", "bad"]},
        },
    }


def test_rows_without_a_label_are_left_out_by_the_trainer(encoder_folder, tmp_path, caplog):
    built = build(unlabelled_config(encoder_folder))
    trainer = make_trainer(built, tmp_path, num_train_epochs=1, per_device_train_batch_size=1)
    labelled = [row["label:stars"] == row["label:stars"] or row["label:tone"] >= 0 for row in built.train["rows"]]
    assert 0 < sum(labelled) < 30
    assert [len(rows) for rows in trainer.train_rows.values()] == [sum(labelled)]
    assert f"{30 - sum(labelled)} of 30 training rows have no label of any task and are left out" in caplog.text
    trainer.train()
    assert trainer.state.global_step == sum(labelled)


def test_a_source_without_any_label_is_refused_by_the_trainer(encoder_folder, tmp_path):
    built = build(unlabelled_config(encoder_folder))
    built.train["rows"] = built.train["rows"].select(range(8))
    with pytest.raises(ValueError, match=r"`sources\.rows`: no training row has a label of any of its tasks"):
        make_trainer(built, tmp_path)


def test_a_batch_sampler_of_rows_without_labels_is_refused_with_the_step(encoder_folder, tmp_path):
    built = build(unlabelled_config(encoder_folder))
    trainer = make_trainer(built, tmp_path, batch_sampler=FixedBatches([[9, 10], [0, 1]]), num_train_epochs=1)
    assert len(trainer.train_rows["rows"]) == 30
    with pytest.raises(ValueError, match="a batch of step 2 has no label of any task on rank 0: `batch_sampler` must"):
        trainer.train()
