"""Masked language modelling in training: masks however a step is split up, exact resumes, the best perplexity."""

import copy
import functools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import mtl_hf
from mtl_hf.data.schedule import Batch
from mtl_hf.inference.export import export_head
from mtl_hf.inference.inspect import inspect_rows
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.tasks.masking import FIXED_DRAW, masking_of
from tests.conftest import SENTENCES, TRAINING, assistant_rows
from tests.training.conftest import (
    Built,
    FixedBatches,
    TwoProcesses,
    build,
    make_trainer,
    task_losses,
    weights,
)
from tests.training.test_equivalence import Steps, compare

IGNORE = -100


def text_rows(num_rows: int = 40) -> datasets.DatasetDict:
    """Strings of different lengths."""
    texts = [
        " ".join((SENTENCES[index % 8] + " " + SENTENCES[(3 * index + 1) % 8]).split()[: 2 + index % 8])
        for index in range(num_rows)
    ]
    every = datasets.Dataset.from_dict({"text": texts})
    return datasets.DatasetDict(train=every, validation=every.select(range(12)), test=every.select(range(12, 24)))


def config(encoder: str, **tasks: Any) -> dict[str, Any]:
    """A masked source, and one of words with an intent unless `tasks` says otherwise."""
    mlm = {"type": "masked_lm", "source": "plain", "whole_word_mask": True, "mlm_probability": 0.3}
    rows = assistant_rows(24)
    sources = {
        "plain": {"dataset": text_rows(), "text": "text"},
        "assistant": {"dataset": {"train": rows, "validation": rows, "test": rows}, "text": "tokens"},
    }
    tasks = tasks or {
        "mlm": mlm | {"loss_weight": 0.5},
        "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
    }
    read = {name for task in tasks.values() for name in np.atleast_1d(task["source"])}
    return {
        "model": {"encoder": encoder, "dropout": 0.0, "max_length": 32},
        "sources": {name: source for name, source in sources.items() if name in read},
        "tasks": {name: mlm | task if name == "mlm" else task for name, task in tasks.items()},
    }


class DrawnBatches(FixedBatches):
    """Fixed batches of which each has a draw of its own, which all its pieces share."""

    pieces = 1

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.batches):
            yield Batch(batch, (3, 0, number // self.pieces))


def take_steps(built: Built, folder: Path, pieces: int = 1) -> Steps:
    """Train a copy of the model through 12 fixed global batches of 8, of the two sources in turn."""
    built = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
    rng = np.random.default_rng(7)
    batches = [(40 * (step % 2) + rng.permutation([40, 24][step % 2])[:8]).tolist() for step in range(12)]
    trainer = make_trainer(built, folder, gradient_accumulation_steps=pieces, num_train_epochs=1, weight_decay=0.01)
    trainer.batch_sampler = DrawnBatches(
        batches, pieces=pieces, rank=trainer.args.process_index, world_size=trainer.args.world_size
    )
    trainer.batch_sampler.pieces = pieces
    trainer.train()
    return task_losses(trainer), weights(built.model)


def test_steps_are_the_same_however_they_are_split_up(still_encoder_folder, tmp_path, two_processes: TwoProcesses):
    built = build(config(still_encoder_folder))
    built.model.double()
    one = take_steps(built, tmp_path / "run")
    assert [list(step) for step in one[0]] == [["mlm"], ["intent"]] * 6
    still = {name for name, tensor in weights(built.model).items() if tensor.equal(one[1][name])}
    assert not still, "every tensor should have been trained"
    accumulated = take_steps(built, tmp_path / "run", 4)
    first, second = two_processes(functools.partial(take_steps, built, tmp_path / "run", 2))
    assert compare(first, second) == (0, 0, 0), "the two processes do not hold the same weights"
    for steps in (accumulated, first):
        losses, elements, _ = compare(one, steps)
        assert losses < 1e-9
        assert elements < 1e-9


def test_two_processes_of_half_the_batch_mask_and_score_alike(still_encoder_folder, tmp_path, two_processes):
    built = build(config(still_encoder_folder))
    built.model.double()

    def train(batch_size: int) -> tuple[Steps, dict[str, Any]]:
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        trainer = make_trainer(own, tmp_path / "run", per_device_train_batch_size=batch_size, num_train_epochs=2)
        trainer.train()  # of 5 and 3 batches of 8: the shorter source is seen nearly twice
        return (task_losses(trainer), weights(own.model)), trainer.score()["tasks"]["mlm"]

    (whole, scores), ((half, half_scores), (other, _)) = train(8), two_processes(lambda: train(4))
    assert len(whole[0]) == 20
    assert compare(half, other) == (0, 0, 0)
    losses, elements, _ = compare(whole, half)
    assert losses < 1e-9
    assert elements < 1e-9
    assert half_scores["perplexity"] == pytest.approx(scores["perplexity"], rel=1e-6)
    assert half_scores["accuracy"] == scores["accuracy"]


@pytest.mark.parametrize("policy", ["round_robin", "proportional"])
def test_a_run_that_goes_on_in_mid_epoch_masks_as_if_it_had_not_stopped(policy, encoder_folder, tmp_path):
    built = build(config(encoder_folder))
    options = {"max_steps": 13, "policy": policy, "save_strategy": "steps", "save_steps": 11,
               "per_device_train_batch_size": 8, "dataloader_num_workers": 1}  # fmt: skip

    def trainer() -> Any:
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        torch.manual_seed(3)
        return make_trainer(own, tmp_path / "run", **options)

    whole = trainer()
    assert len(whole.batch_sampler) in (8, 10)  # so the 11th step is in the middle of the second epoch
    whole.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-13")
    resumed = trainer()
    resumed.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-11")
    assert task_losses(resumed) == task_losses(whole)
    assert all(tensor.equal(weights(whole.model)[name]) for name, tensor in weights(resumed.model).items())


def test_another_share_of_masks_is_another_run(encoder_folder, tmp_path):
    built = build(config(encoder_folder))
    make_trainer(built, tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    built.tasks["mlm"].config.options["mlm_probability"] = 0.4
    with pytest.raises(ValueError, match=r"tasks\.mlm\.mlm_probability: 0\.3 in the checkpoint, 0\.4 now"):
        make_trainer(built, tmp_path, max_steps=4).train(resume_from_checkpoint=tmp_path / "checkpoint-2")


# A whole run


def test_masked_lm_alone_is_chosen_by_its_lowest_perplexity(encoder_folder: str, tmp_path: Path) -> None:
    alone = config(encoder_folder, mlm={"source": ["plain", "assistant"]})
    alone["model"] |= {"pretrained": False, "encoder_config": {"num_hidden_layers": 2, "hidden_size": 16}}
    training = TRAINING | {"output_dir": str(tmp_path / "run"), "learning_rate": 0.03, "num_train_epochs": 6}
    results = mtl_hf.train(alone | {"training": training})
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    curve = {entry["step"]: entry["eval_mlm_perplexity"] for entry in state["log_history"] if "eval_score" in entry}
    assert len(curve) == 6
    assert state["best_global_step"] == min(curve, key=lambda step: curve[step]) != min(curve)
    numbers = results["tasks"]["mlm"]
    assert math.isnan(results["score"])
    assert numbers["perplexity"] == pytest.approx(math.exp(numbers["cross_entropy"]))
    low, high = numbers["interval"]
    assert low < numbers["perplexity"] < high
    assert set(numbers["per_source"]) == {"plain", "assistant"}
    assert "baseline" not in numbers
    again = mtl_hf.evaluate(str(tmp_path / "run"), config=alone, batch_size=5, precision="fp32")["tasks"]["mlm"]
    assert again["perplexity"] == pytest.approx(numbers["perplexity"], rel=1e-4)
    assert again["accuracy"] == numbers["accuracy"]
    lines = [json.dumps({"text": text}) for text in text_rows()["test"]["text"]]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    of_file = mtl_hf.evaluate(str(tmp_path / "run"), data=tmp_path / "texts.jsonl", text="text", precision="fp32")
    assert of_file["tasks"]["mlm"]["perplexity"] == pytest.approx(
        numbers["per_source"]["plain"]["perplexity"], rel=1e-4
    )
    shown = inspect_rows(alone, num_rows=1)
    assert "task mlm: masked_lm" in shown
    assert "mlm: 1.0" not in shown
    with pytest.raises(
        ValueError, match="no stock class of transformers computes a masked_lm head; export the encoder alone"
    ):
        export_head(tmp_path / "run", "mlm", tmp_path / "stock")
    assert "fill-mask" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def test_perplexity_is_that_of_a_loop_over_rows(encoder_folder: str, tmp_path: Path) -> None:
    alone = config(encoder_folder, mlm={"source": "plain", "mlm_probability": 0.2})
    mtl_hf.train(alone | {"training": TRAINING | {"output_dir": str(tmp_path), "max_steps": 3}})
    results = mtl_hf.evaluate(str(tmp_path), config=alone, precision="fp32")["tasks"]["mlm"]
    model = MultiTaskModel.from_pretrained(tmp_path)
    total, number, right, losses = 0.0, 0, 0, []
    masking = masking_of(build(alone).tasks["mlm"], model.tokenizer)
    for row, text in enumerate(text_rows()["test"]["text"]):
        encoding = model.tokenizer(text, return_tensors="np")
        ids, words = encoding["input_ids"], encoding.word_ids(0)
        units = [
            IGNORE if word is None or token in model.tokenizer.all_special_ids else int(word == words[place - 1])
            for place, (word, token) in enumerate(zip(words, ids[0].tolist(), strict=True))
        ]
        seen, labels = masking(ids, np.array([units]), FIXED_DRAW, [row])
        with torch.no_grad():
            scores = model(input_ids=torch.from_numpy(seen), heads="mlm").logits["mlm"][0].double()
        for place in np.flatnonzero(labels[0] != IGNORE):
            losses.append(-scores[place].log_softmax(-1)[labels[0, place]].item())
            total, number = total + losses[-1], number + 1
            right += int(scores[place].argmax() == labels[0, place])
    assert results["perplexity"] == pytest.approx(math.exp(total / number), rel=1e-5)
    assert results["accuracy"] == pytest.approx(right / number)


def test_several_tasks_with_losses_alone_need_a_choice(encoder_folder: str, tmp_path: Path) -> None:
    two = build(config(encoder_folder, mlm={"source": "plain"}, stars={
        "type": "sequence_classification", "source": "assistant", "label": "intent", "metrics": ["cross_entropy"]}
    ))  # fmt: skip
    with pytest.raises(ValueError, match="the primary metric of every trained task is a loss"):
        make_trainer(two, tmp_path)
    trainer = make_trainer(build(config(encoder_folder, mlm={"source": "plain"})), tmp_path)
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("mlm_perplexity", False)
