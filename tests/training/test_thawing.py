"""Thawing: what opens when, as a pure function and in training; resumed, accumulated, on two processes."""

import copy
import math
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import mtl_hf
from mtl_hf.config import Plain, Thawing
from mtl_hf.training.arguments import read_arguments
from mtl_hf.training.thawing import Plateau, warn_of_unreached
from mtl_hf.training.trainer import MultiTaskTrainer
from tests.conftest import two_source_config
from tests.training.conftest import Built, FixedBatches, TwoProcesses, build, make_trainer, task_losses, weights
from tests.training.test_equivalence import compare
from tests.training.test_equivalence import config as still_config

GRADUAL = {"schedule": "gradual", "every": 2}
TOP_DOWN = ["encoder.layers.2", "encoder.layers.1", "encoder.layers.0", "embeddings"]


# ---- when: pure functions ----


@pytest.mark.parametrize(
    ("freeze", "unfreeze", "expected"),
    [
        (["encoder"], GRADUAL, {2: TOP_DOWN[:1], 4: TOP_DOWN[:2], 6: TOP_DOWN[:3], 8: TOP_DOWN}),
        (["encoder"], {"every": "1 epoch"}, {10: TOP_DOWN[:1], 20: TOP_DOWN[:2], 30: TOP_DOWN[:3], 40: TOP_DOWN}),
        (["encoder"], {"every": "0.5 epochs", "from": "top"}, {5: TOP_DOWN[:1], 10: TOP_DOWN[:2], 15: TOP_DOWN[:3],
                                                               20: TOP_DOWN}),
        (["embeddings", "encoder.layers.1"], GRADUAL, {2: [TOP_DOWN[1]], 4: [TOP_DOWN[1], "embeddings"]}),
        (["embeddings", "encoder.layers.0-1", "heads.slots"],
         {"schedule": "explicit", "at": {"embeddings": "2 epochs", "encoder.layers.0-1": 7}},
         {7: ["encoder.layers.0", "encoder.layers.1"], 20: ["encoder.layers.0", "encoder.layers.1", "embeddings"]}),
    ],
)  # fmt: skip
def test_what_is_open_after_each_step(freeze, unfreeze, expected, encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    ten = FixedBatches([[row] for row in range(20)])  # of which two make a step
    options = {"freeze": freeze, "unfreeze": unfreeze, "gradient_accumulation_steps": 2, "batch_sampler": ten}
    trainer = make_trainer(built, tmp_path, **options)
    found: list[str] = []
    for step in range(-1, 45):
        found = expected.get(step, found)
        assert trainer.thawing.open_parts(step, []) == found, step


def by_hand(scores: list[float], patience: int, reached: list[bool]) -> list[int]:
    """How many have opened after each evaluation, told step by step."""
    opened, counts = 0, []
    since = 0
    best = None
    stopped = False
    for score, good in zip(scores, reached, strict=True):
        stopped = stopped or good
        if not stopped:
            if not math.isnan(score) and (best is None or score > best):
                best, since = score, 0
            else:
                since += 1
            if since == patience:
                opened, since = opened + 1, 0
        counts.append(opened)
    return counts


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_plateau_opens_after_so_many_evaluations_without_a_better_score_until_all_goals_are_reached(patience):
    generator = torch.Generator().manual_seed(patience)
    opened = []
    for _ in range(50):
        scores = [round(number, 1) for number in torch.rand(12, generator=generator).tolist()]
        scores[3] = math.nan
        ner, loss = (torch.rand(12, generator=generator).tolist() for _ in range(2))
        history: list[dict[str, Any]] = [{"loss": 1.0, "step": 0}]
        for number, score in enumerate(scores):
            logged = {"eval_score": score, "eval_ner_f1": ner[number], "eval_mlm_perplexity": loss[number]}
            history += [{"loss": 0.5, "step": 10 * number + 5}, logged | {"step": 10 * (number + 1)}]
        plateau = Plateau("eval_score", 1, patience, {"eval_ner_f1": (1, 0.7), "eval_mlm_perplexity": (-1, 0.4)})
        expected = by_hand(scores, patience, [a >= 0.7 and b <= 0.4 for a, b in zip(ner, loss, strict=True)])
        found = [plateau.openings(10 * (number + 1), history) for number in range(12)]
        assert found == expected
        assert [plateau.openings(10 * (number + 1) - 1, history) for number in range(1, 12)] == expected[:-1]
        falling = [
            entry | {"eval_score": -entry.get("eval_score", math.nan)} for entry in history if "loss" not in entry
        ]
        assert Plateau("eval_score", -1, patience, plateau.until).openings(120, falling) == expected[-1]
        assert Plateau("eval_score", 1, patience).openings(120, history) == by_hand(scores, patience, [False] * 12)[-1]
        opened.append(expected[-1])
    assert len(set(opened)) > 2


# ---- in training ----


class Watch(TrainerCallback):
    """Notes after each step which parts have moved in it, and which modules are in training mode."""

    def __init__(self) -> None:
        self.trainer: MultiTaskTrainer
        self.moved: list[set[str]] = []
        self.training: list[set[str]] = []
        self._before: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = weights(self.trainer.model)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = weights(self.trainer.model)
        moved = {name for name in now if not torch.equal(now[name], self._before[name])}
        self.moved.append({part.name for part in self.trainer.parts if moved & set(part.parameters)})
        modules = {part.name: next(iter(part.parameters)).rpartition(".")[0] for part in self.trainer.parts}
        self.training.append({name for name, module in modules.items()
                              if self.trainer.model.get_submodule(module).training})  # fmt: skip
        self._before = now


def watched(built: Built, folder: Any, **options: Any) -> tuple[MultiTaskTrainer, Watch]:
    watch = Watch()
    trainer = make_trainer(built, folder, callbacks=[watch], **options)
    watch.trainer = trainer
    return trainer, watch


@pytest.mark.parametrize("accumulation", [1, 2])
def test_parts_move_from_the_step_on_at_which_they_open(accumulation, encoder_folder, tmp_path, caplog):
    built = build(two_source_config(encoder_folder, tmp_path))
    trainer, watch = watched(
        built, tmp_path, freeze=["encoder"], unfreeze=GRADUAL, weight_decay=0.1, layerwise_lr_decay=0.5, max_steps=10,
        gradient_accumulation_steps=accumulation, lr_scheduler_type="constant", policy="proportional",
    )  # fmt: skip
    trainer.train()
    for step, (moved, training) in enumerate(zip(watch.moved, watch.training, strict=True)):
        opened = set(TOP_DOWN[: step // 2])
        assert {name for name in moved if not name.startswith("heads.")} == opened, step
        assert {name for name in training if not name.startswith("heads.")} == opened, step
    assert len(watch.moved) == 10
    history = trainer.state.log_history
    opened = {entry["step"]: key for entry in history for key in entry if key.startswith("opened_")}
    assert opened == {2 * (number + 1): f"opened_{name}" for number, name in enumerate(TOP_DOWN)}
    for entry in history:
        if "loss" in entry:  # of the step before
            rates = {key[3:]: rate for key, rate in entry.items() if key[3:] in TOP_DOWN}
            trained = TOP_DOWN[: (entry["step"] - 1) // 2]
            assert rates == {name: pytest.approx(1e-3 * 0.5**depth) for depth, name in enumerate(trained)}
    assert "now also trained: encoder.layers.2" in caplog.text


@pytest.mark.parametrize("freeze", [["encoder"], ["embeddings", "encoder.layers.0-1"]], ids=str)
def test_with_nothing_opened_before_the_end_it_is_the_frozen_run_bit_for_bit(freeze, encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    found = {}
    for never in (None, {"every": 10**6}, {"schedule": "explicit", "at": {"embeddings": 6}}):
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        options = {"freeze": freeze, "weight_decay": 0.1, "max_steps": 6, "layerwise_lr_decay": 0.9}
        trainer = make_trainer(own, tmp_path, unfreeze=never, **options)
        torch.manual_seed(1)
        trainer.train()
        log = [{key: value for key, value in entry.items() if not key.endswith(("runtime", "per_second"))}
               for entry in trainer.state.log_history]  # fmt: skip
        found[str(never)] = weights(own.model), log
    plain, *others = found.values()
    for state, log in others:
        assert all(torch.equal(plain[0][name], tensor) for name, tensor in state.items())
        assert log == plain[1]


SCORES = {2: 0.5, 4: 0.4, 6: 0.6, 8: 0.5, 10: 0.5}


@pytest.mark.parametrize(
    ("unfreeze", "opened"),
    [
        ({"schedule": "explicit", "at": {"encoder.layers.1": 3, "embeddings": 7}},
         {3: ["encoder.layers.1"], 7: ["embeddings"]}),
        ({"when": "plateau", "patience": 1}, {4: ["encoder.layers.2"], 8: ["encoder.layers.1"],
                                              10: ["encoder.layers.0"]}),
        ({"when": "plateau", "patience": 1, "until": {"stars": -1.0}}, {}),
    ],
    ids=["explicit", "plateau", "plateau, goals reached"],
)  # fmt: skip
def test_a_resumed_run_opens_what_the_whole_one_does(unfreeze, opened, encoder_folder, tmp_path, monkeypatch):
    def scripted(self: MultiTaskTrainer, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = score(self, *args, **kwargs)
        return found | {"score": SCORES.get(self.state.global_step, 0.1)}

    score = MultiTaskTrainer.score
    monkeypatch.setattr(MultiTaskTrainer, "score", scripted)
    built = build(two_source_config(encoder_folder, tmp_path))
    options = {
        "freeze": ["encoder"], "unfreeze": unfreeze, "max_steps": 11, "eval_strategy": "steps", "eval_steps": 2,
        "save_strategy": "steps", "save_steps": 4, "save_total_limit": None, "layerwise_lr_decay": 0.8,
    }  # fmt: skip

    def run(folder: Any, **more: Any) -> tuple[dict[str, torch.Tensor], dict[int, list[str]]]:
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        trainer = make_trainer(own, folder, **options)
        trainer.train(**more)
        log = [(entry["step"], key[7:]) for entry in trainer.state.log_history for key in entry if key[:7] == "opened_"]
        return weights(own.model), {step: [name for at, name in log if at == step] for step, _ in log}

    whole, found = run(tmp_path / "whole")
    assert found == opened
    for step in (8, 4):  # that of 8 is where a part is due with the very next step
        for later in (tmp_path / "whole").glob("checkpoint-*"):
            if int(later.name.removeprefix("checkpoint-")) > step:
                mtl_hf.training.checkpoints.remove_checkpoint(later)
        state, again = run(tmp_path / "whole", resume_from_checkpoint=tmp_path / "whole" / f"checkpoint-{step}")
        assert again == opened, step
        assert all(torch.equal(whole[name], tensor) for name, tensor in state.items()), step


def test_a_run_is_not_stopped_early_before_all_is_open(encoder_folder, tmp_path, monkeypatch, caplog):
    score = MultiTaskTrainer.score
    monkeypatch.setattr(
        MultiTaskTrainer, "score", lambda self, *args, **kwargs: score(self, *args, **kwargs) | {"score": 0.5}
    )
    built = build(two_source_config(encoder_folder, tmp_path))
    for resume in (None, tmp_path / "checkpoint-4"):
        trainer = make_trainer(
            Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation), tmp_path, max_steps=10,
            freeze=["encoder"], unfreeze={"when": "plateau", "patience": 1}, early_stopping_patience=2,
            eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=None,
        )  # fmt: skip
        with caplog.at_level("INFO", "mtl_hf"):
            trainer.train(resume_from_checkpoint=resume)
        # Nothing is better than after step 1: the parts open after steps 2 to 5, and 6 and 7 are those of patience.
        assert trainer.state.global_step == 7
        assert f"Unfroze 4 of 4 parts that were frozen at first: {', '.join(TOP_DOWN)}." in caplog.messages
        for step in (5, 6, 7):
            mtl_hf.training.checkpoints.remove_checkpoint(tmp_path / f"checkpoint-{step}")


def test_what_never_opens_draws_a_warning(encoder_folder, tmp_path, caplog):
    built = build(two_source_config(encoder_folder, tmp_path))
    plan = make_trainer(built, tmp_path, freeze=["encoder"], unfreeze=GRADUAL, max_steps=5).thawing
    caplog.clear()
    warn_of_unreached(plan, 9)
    assert not caplog.messages, "the embeddings open after step 8"
    warn_of_unreached(plan, 6)
    assert "encoder.layers.0, embeddings will stay frozen: the run ends after 6 steps" in caplog.text


def test_two_processes_open_the_same_and_take_the_same_steps(
    still_encoder_folder, tmp_path, two_processes: TwoProcesses
):
    built = build(still_config(still_encoder_folder))
    built.model.double()

    def train(batch_size: int) -> tuple[Any, Any]:
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        options = {"freeze": ["encoder"], "unfreeze": {"every": 5}, "max_steps": 12, "layerwise_lr_decay": 0.8}
        trainer = make_trainer(own, tmp_path / "run", per_device_train_batch_size=batch_size, **options)
        trainer.train()
        return task_losses(trainer), weights(own.model)

    whole = train(8)
    halves = two_processes(lambda: train(4))
    assert compare(*halves) == (0, 0, 0)
    losses, elements, _ = compare(whole, halves[0])
    assert losses < 1e-9
    assert elements < 1e-9
    still = ("encoder.embeddings.", "encoder.encoder.layer.0.")  # the others open after 5 and 10 steps
    for name, tensor in weights(built.model).items():
        assert torch.equal(tensor, whole[1][name]) == name.startswith(still), name


# ---- mistakes ----


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"freeze": [], "unfreeze": {"every": 1}}, r"`unfreeze` needs parts in `freeze`, which is empty: set"),
        ({"unfreeze": {"schedule": "gradual"}}, r"`unfreeze` needs `every` \(`1 epoch`, or a number of steps\)"),
        ({"unfreeze": {"every": 0}}, r"`unfreeze\.every` is 0; valid is a number of steps from 1 on, or of epo"),
        ({"unfreeze": {"every": "1 lap"}}, r"`unfreeze\.every` is '1 lap'"),
        ({"unfreeze": {"every": 1, "when": "plateau"}}, r"`unfreeze\.every` only works with `schedule: gradual` with"),
        ({"unfreeze": {"every": 1, "patience": 2}}, r"`unfreeze\.patience` only works with `schedule: gradual` wi"),
        ({"unfreeze": {"every": 1, "until": {"intent": 0.5}}}, r"`unfreeze\.until` only works"),
        ({"unfreeze": {"every": 1, "at": {"embeddings": 1}}}, r"`unfreeze\.at` only works with `schedule: explicit`"),
        ({"unfreeze": {"schedule": "explicit"}}, r"`unfreeze\.at` is missing"),
        ({"unfreeze": {"schedule": "explicit", "at": {"embeddings": -1}}}, r"`unfreeze\.at\.embeddings` is -1"),
        ({"unfreeze": {"when": "plateau", "patience": 0}}, r"`unfreeze\.patience` is 0; it is at least 1"),
        ({"unfreeze": {"when": "plateau"}, "eval_strategy": "no"}, r"`unfreeze\.when: plateau` needs evaluations"),
        ({"unfreeze": {"when": "plateau", "until": {"intent": math.nan}}}, r"`unfreeze\.until\.intent` is nan; it is"),
        ({"unfreeze": {"when": "plateau", "patience": 3}, "early_stopping_patience": 3},
         r"`early_stopping_patience` is 3 and `unfreeze\.patience` is 3: training would stop before"),
        ({"unfreeze": {"evry": 1}}, r"unknown key `evry` in `training\.unfreeze`\. Did you mean `every`\?"),
        ({"unfreeze": {"every": 1, "from": "bottom"}}, r"`training\.unfreeze\.from` is 'bottom'; valid are top"),
    ],
)  # fmt: skip
def test_mistakes_that_need_no_model(training, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_arguments({"output_dir": str(tmp_path), "use_cpu": True, "freeze": ["encoder"]} | training)


@pytest.mark.parametrize(
    ("freeze", "unfreeze", "message"),
    [
        (["heads.slots"], {"every": 1}, r"`unfreeze` needs frozen parts of the encoder, but `freeze` names none"),
        (["encoder"], {"at": {"encoder.layers.9": 1}}, r"`unfreeze\.at`: 'encoder\.layers\.9' matches no part"),
        (["embeddings"], {"at": {"encoder.layers.0": 1}}, r"encoder\.layers\.0 is not frozen: add it to `freeze`"),
        (["encoder"], {"at": {"encoder.layers.0": 1, "encoder.layers.0-1": 2}}, r"names encoder\.layers\.0 twice"),
        (["encoder"], {"until": {"intnt": 0.5}}, r"`unfreeze\.until` names 'intnt', which is not a task\. Did you"),
        (["encoder"], {"until": {"intent": 88}}, r"`unfreeze\.until\.intent` is 88; accuracy is a fraction, at most 1"),
    ],
)  # fmt: skip
def test_mistakes_that_the_model_or_the_tasks_show(freeze, unfreeze, message, encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    if "at" in unfreeze:
        unfreeze = unfreeze | {"schedule": "explicit"}
    elif "until" in unfreeze:
        unfreeze = unfreeze | {"when": "plateau"}
    with pytest.raises(ValueError, match=message):
        make_trainer(built, tmp_path, freeze=freeze, unfreeze=unfreeze, eval_strategy="epoch")


def test_a_goal_of_a_task_that_is_not_scored_is_refused(encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    del built.validation["reviews"]
    unfreeze = {"when": "plateau", "until": {"stars": 0.5}}
    with pytest.raises(ValueError, match=r"`unfreeze\.until\.stars`: no source of this task has a validation split"):
        make_trainer(built, tmp_path, freeze=["encoder"], unfreeze=unfreeze, eval_strategy="epoch")


def test_the_settings_are_kept_as_plain_data_and_evaluations_decide_under_a_plateau(encoder_folder, tmp_path):
    section = {"unfreeze": {"when": "plateau", "until": {"stars": Plain("0.5")}}, "freeze": ["encoder"]}
    arguments, typed = read_arguments({"output_dir": str(tmp_path), "use_cpu": True} | section)
    assert arguments.unfreeze == Thawing(when="plateau", until={"stars": 0.5})
    assert typed["unfreeze"] == arguments.to_dict()["unfreeze"] == {"when": "plateau", "until": {"stars": 0.5}}
    deciding = mtl_hf.training.checkpoints.deciding_arguments(arguments.to_dict())
    assert {"unfreeze", "eval_steps", "eval_strategy"} <= set(deciding)
    assert "eval_steps" not in mtl_hf.training.checkpoints.deciding_arguments(arguments.to_dict() | {"unfreeze": None})
