"""Whole and cut-short checkpoints, rotation, what a resumed run may change, the best of each task, where a run ends."""

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import EarlyStoppingCallback, NomicBertConfig, NomicBertModel, TrainerCallback

import mtl_hf
from mtl_hf.config.sections import OurTraining
from mtl_hf.data.collator import fingerprint
from mtl_hf.training.checkpoints import (
    COMPLETE,
    begin,
    check_checkpoint,
    deciding_arguments,
    differences,
    fault,
    list_checkpoints,
    log_start,
    mark_complete,
    newest_checkpoint,
    remove_checkpoint,
    rotate_checkpoints,
    write_atomic,
)
from mtl_hf.training.peaks import find_peaks
from tests.conftest import SIZES, assistant_rows, review_rows, two_source_config, wordpiece_tokenizer
from tests.training.conftest import Built, build, make_trainer, weights


def make_checkpoint(folder: Path, step: int, **files: str) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name, text in ({"weights": "12345", "optimizer.pt": "123"} | files).items():
        (checkpoint / name).write_text(text, encoding="utf-8")
    mark_complete(checkpoint, {"step": step, "world_size": 1, "threads": 1, "machine": "", "versions": {},
                               "settings": {}})  # fmt: skip
    return checkpoint


# ---- whole or not ----


def test_a_checkpoint_is_whole_with_all_files_in_their_size(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 3)
    assert fault(checkpoint) is None
    complete = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    assert complete["step"] == 3
    assert complete["files"] == {"optimizer.pt": 3, "weights": 5}
    (checkpoint / "weights").write_text("1234", encoding="utf-8")
    assert fault(checkpoint) == "weights has 4 bytes and should have 5"
    (checkpoint / "weights").unlink()
    assert fault(checkpoint) == "weights is missing"
    (checkpoint / COMPLETE).write_text("{", encoding="utf-8")
    assert fault(checkpoint) == "its complete.json cannot be read"
    (checkpoint / COMPLETE).unlink()
    assert fault(checkpoint) == "it has no complete.json, which is written last"


def test_the_newest_whole_checkpoint_counts_and_newer_ones_are_named(tmp_path, caplog):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None
    for step in (9, 10, 100):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-200").write_text("a file", encoding="utf-8")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert not caplog.messages
    (tmp_path / "checkpoint-100" / "optimizer.pt").unlink()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert caplog.messages == [
        f"{tmp_path / 'checkpoint-100'} is not complete and is skipped: optimizer.pt is missing."
    ]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomic(path, "first")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "second")
    assert path.read_text(encoding="utf-8") == "first"


def test_rotation_removes_the_oldest_and_never_what_is_kept(tmp_path, caplog):
    steps = lambda: [int(path.name.split("-")[1]) for path in list_checkpoints(tmp_path)]  # noqa: E731
    for step in (10, 20, 30, 40, 50):
        make_checkpoint(tmp_path, step)
    rotate_checkpoints(tmp_path, None, [])
    rotate_checkpoints(tmp_path, 0, [])
    rotate_checkpoints(tmp_path, 5, [])
    assert steps() == [10, 20, 30, 40, 50]
    rotate_checkpoints(tmp_path, 3, [tmp_path / "checkpoint-10", tmp_path / "checkpoint-50"])
    assert steps() == [10, 40, 50]
    rotate_checkpoints(tmp_path, 1, [tmp_path / "checkpoint-10", tmp_path / "checkpoint-50"])
    assert steps() == [10, 50]
    begin(tmp_path / "checkpoint-10")  # over what was there; then the run is killed
    (tmp_path / "checkpoint-10" / "weights").write_text("12", encoding="utf-8")
    assert not caplog.messages
    rotate_checkpoints(tmp_path, None, [])
    assert steps() == [50]
    assert "checkpoint-10 was interrupted and is removed" in caplog.text
    edited = make_checkpoint(tmp_path, 5)
    (edited / "weights").write_text("edited", encoding="utf-8")
    rotate_checkpoints(tmp_path, 1, [])
    foreign = tmp_path / "checkpoint-7"
    foreign.mkdir()
    (foreign / "weights").write_text("of another program", encoding="utf-8")
    (tmp_path / ".removed-checkpoint-3").mkdir()  # by a run that was killed meanwhile
    rotate_checkpoints(tmp_path, 1, [])
    assert steps() == [5, 7, 50]
    assert not (tmp_path / ".removed-checkpoint-3").exists()


def test_a_checkpoint_that_is_being_removed_does_not_count(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, 1)
    monkeypatch.setattr(shutil, "rmtree", lambda _: None)
    remove_checkpoint(checkpoint)
    assert not list_checkpoints(tmp_path)
    linked = tmp_path / "checkpoint-2"
    linked.symlink_to(make_checkpoint(tmp_path / "elsewhere", 2))
    remove_checkpoint(linked)
    assert not linked.exists()
    assert fault(tmp_path / "elsewhere" / "checkpoint-2") is None


# ---- what a resumed run must have in common with its checkpoint ----


def test_differences_are_named_with_both_values():
    then = {"tasks": {"ner": {"labels": ["O", "B-x"], "loss_weight": 1.0}}, "training": {"seed": 1, "old": 1}}
    now = {"tasks": {"ner": {"labels": ["O", "B-y"], "loss_weight": 1.0}, "pos": {"type": "token_classification"}},
           "training": {"seed": 2, "new": 1}, "encoder": {"new": 2}}  # fmt: skip
    assert differences(then, copy.deepcopy(then)) == []
    assert differences(then, now) == [
        'tasks.ner.labels: ["O", "B-x"] in the checkpoint, ["O", "B-y"] now',
        "training.seed: 1 in the checkpoint, 2 now",
        'tasks.pos.type: absent in the checkpoint, "token_classification" now',
    ]


def test_of_long_lists_only_what_differs_is_shown():
    labels = [f"l{number}" for number in range(30)]
    assert differences({"labels": labels}, {"labels": [*labels[1:], "new"]}) == [
        "labels: 30 of them, also l0 in the checkpoint, 30 of them, also new now"
    ]


def test_options_that_an_earlier_version_did_not_note_do_not_count():
    then = {"tasks": {"slots": {"type": "token_classification", "mlm_probability": None}}}
    now = copy.deepcopy(then)
    now["tasks"]["slots"]["options"] = {"bio": "repair"}
    assert differences(then, now) == []
    other = copy.deepcopy(now)
    other["tasks"]["slots"]["options"]["bio"] = "refuse"
    assert differences(now, other) == ['tasks.slots.options.bio: "repair" in the checkpoint, "refuse" now']


def test_what_does_not_decide_the_weights_may_change():
    free = {"output_dir", "logging_steps", "save_total_limit", "eval_steps", "dataloader_num_workers", "hub_token"}
    deciding = {"learning_rate", "seed", "policy", "gradient_accumulation_steps", "num_train_epochs", "precision",
                "data_seed", "max_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
                "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "optim", "optim_args"}  # fmt: skip
    deciding |= set(OurTraining.__dataclass_fields__) - {"keep_best_per_task", "log_gradient_conflicts"}
    assert set(deciding_arguments(dict.fromkeys(free | deciding))) == deciding
    caches = [deciding_arguments({"frozen_cache": size}) for size in (None, "1MB", "2MB")]
    assert caches[0] != caches[1] == caches[2], "whether there is one, not how large it may become"
    arguments = dict.fromkeys(mtl_hf.MultiTaskTrainingArguments.__dataclass_fields__, 0)
    assert deciding <= deciding_arguments(arguments).keys()
    assert not free & deciding_arguments(arguments).keys()


def test_the_fingerprint_is_of_what_rows_hold_and_not_of_how_they_are_kept(tmp_path):
    rows = [
        {"input_ids": [1, 2, 3], "label:a": 1},
        {"input_ids": [4], "label:a": -100},
        {"input_ids": [5], "label:a": 0},
    ]
    one = datasets.Dataset.from_list(rows)
    same = [
        datasets.concatenate_datasets([one.select([0]), one.select([1, 2])]),
        datasets.Dataset.from_list([rows[2], *rows[:2]]).select([1, 2, 0]),
        datasets.Dataset.from_list(rows).select_columns(["label:a", "input_ids"]),
    ]
    assert {fingerprint(other) for other in same} == {fingerprint(one)}
    others = [one.select([1, 0, 2]), one.select([0, 1]), one.rename_column("label:a", "label:b")]
    moved = copy.deepcopy(rows)
    moved[0]["input_ids"], moved[1]["input_ids"] = [1, 2], [3, 4]
    relabelled = copy.deepcopy(rows)
    relabelled[2]["label:a"] = 1
    others += [datasets.Dataset.from_list(moved), datasets.Dataset.from_list(relabelled)]
    assert len({fingerprint(other) for other in [one, *others]}) == 6


def test_checkpoints_that_cannot_be_gone_on_from_exactly_are_refused(tmp_path):
    facts = {"world_size": 1, "threads": 1, "machine": "", "versions": {}, "settings": {}}
    with pytest.raises(ValueError, match=r"is not a complete checkpoint: it has no complete\.json"):
        check_checkpoint(tmp_path / "checkpoint-7", facts)
    first, _ = make_checkpoint(tmp_path, 1), make_checkpoint(tmp_path, 2)
    with pytest.raises(ValueError, match="checkpoint-1 is not the newest checkpoint, which is checkpoint-2; to"):
        check_checkpoint(first, facts)
    remove_checkpoint(tmp_path / "checkpoint-2")
    check_checkpoint(first, facts)
    with pytest.raises(ValueError, match=r"other settings(.|\n)*seed: absent in the checkpoint, 1 now"):
        check_checkpoint(first, facts | {"settings": {"seed": 1}})
    only_model = make_checkpoint(tmp_path, 3)
    (only_model / "optimizer.pt").unlink()
    mark_complete(only_model, facts | {"step": 3})
    with pytest.raises(ValueError, match="was saved with `save_only_model`"):
        check_checkpoint(only_model, facts)


def test_what_will_be_only_nearly_the_same_is_said_when_a_run_goes_on(tmp_path, caplog):
    caplog.set_level("INFO", "mtl_hf")
    checkpoint = make_checkpoint(tmp_path, 3)
    facts = {"world_size": 1, "threads": 1, "machine": "", "versions": {}, "settings": {}}
    log_start(checkpoint, facts)
    assert caplog.messages == [f"Resuming from {checkpoint}."]
    for other, said in (
        ({"threads": 2}, "Threads: 1 in the checkpoint, 2 now: results may differ in their last bits."),
        ({"versions": {"torch": "3"}}, "Versions: {} in the checkpoint, {'torch': '3'} now: results may differ"),
        (
            {"world_size": 2, "threads": 2},
            "The checkpoint was saved with 1 processes, this run has 2: each step has the same",
        ),
    ):
        caplog.clear()
        log_start(checkpoint, facts | other)
        assert caplog.messages[1:] == [caplog.messages[1]]
        assert caplog.messages[1].startswith(said)


def test_other_batches_on_other_processes_name_the_way_to_the_same_ones(tmp_path):
    facts = {"world_size": 1, "threads": 1, "machine": "", "versions": {}, "settings": {"batch_sizes": {"one": 8}}}
    checkpoint = make_checkpoint(tmp_path, 3)
    mark_complete(checkpoint, facts | {"step": 3})
    other = facts | {"world_size": 2, "settings": {"batch_sizes": {"one": 16}}}
    with pytest.raises(
        ValueError, match=r"was saved with 1 processes, this run has 2: choose `per_device_train_batch_size` so"
    ):
        check_checkpoint(checkpoint, other)
    with pytest.raises(ValueError, match=r"batch_sizes\.one: 8 in the checkpoint, 16 now") as refused:
        check_checkpoint(checkpoint, other | {"world_size": 1})
    assert "processes" not in str(refused.value)


# ---- in a trainer ----

SAVING = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 10, "num_train_epochs": 2,
          "per_device_train_batch_size": 16}  # fmt: skip


def same_weights(one: Any, other: Any) -> bool:
    return all(torch.equal(tensor, other.model.state_dict()[name]) for name, tensor in weights(one.model).items())


def trainer_of(encoder: str, folder: Path, config: dict[str, Any] | None = None, **options: Any) -> Any:
    config = config or two_source_config(encoder, folder)
    return make_trainer(build(config), folder, **(SAVING | options))


@pytest.fixture(scope="module")
def stopped(encoder_folder, tmp_path_factory) -> Path:
    """A run of 12 steps with checkpoints 4, 8 and 12, of which the last is gone."""
    folder = tmp_path_factory.mktemp("run")
    trainer_of(encoder_folder, folder).train()
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    remove_checkpoint(folder / "checkpoint-12")
    return folder


def renamed_label() -> datasets.Dataset:
    return assistant_rows().map(lambda row: {"intent": "tunes" if row["intent"] == "music" else row["intent"]})


def one_row_changed() -> datasets.Dataset:
    rows = list(review_rows())
    rows[5] = rows[5] | {"stars": 4.5}
    return datasets.Dataset.from_list(rows)


def other_sources(config: dict[str, Any]) -> None:
    config["sources"]["more"] = dict(config["sources"]["reviews"])
    config["tasks"]["stars"]["source"] = ["reviews", "more"]


@pytest.mark.parametrize(
    ("change", "options", "difference"),
    [
        (lambda config: config["tasks"].pop("topics"), {}, "tasks.topics.type"),
        (lambda config: config["sources"]["assistant"].update(dataset=renamed_label()), {}, "tasks.intent.labels"),
        (lambda config: config["sources"]["reviews"].update(dataset=one_row_changed()), {}, "data.reviews.fingerprint"),
        (lambda config: config["tasks"]["stars"].update(loss_weight=2), {}, "tasks.stars.loss_weight"),
        (lambda config: config["model"].update(pooling="cls"), {}, "model.pooling"),
        (lambda config: config["model"].update(dropout=0.3), {}, "tasks.intent.dropout"),
        (lambda config: config["model"].update(encoder_config={"hidden_dropout_prob": 0.3}), {},
         "encoder.hidden_dropout_prob"),
        (lambda config: config.update(sources=dict(reversed(config["sources"].items()))), {}, "order.sources"),
        (lambda config: config.update(tasks=dict(reversed(config["tasks"].items()))), {}, "order.tasks"),
        (lambda config: config["tasks"]["intent"].update(metrics=["matthews"]), {}, "tasks.intent.metrics"),
        (lambda config: config["tasks"]["stars"].update(score_weight=2), {}, "tasks.stars.score_weight"),
        (lambda config: config["tasks"]["stars"].update(learning_rate=1e-4), {}, "tasks.stars.learning_rate"),
        (lambda config: other_sources(config), {}, "tasks.stars.sources"),
        (lambda config: config["model"].update(attn_implementation="eager"), {}, "model.attn_implementation"),
        (lambda config: config["model"].update(max_length=63), {}, "model.max_length"),
        (lambda config: config["model"].update(experts={"num": 2, "hidden": 8}), {}, "model.experts"),
        (None, {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}},
         "training.lr_scheduler_kwargs"),
        (None, {"policy": "proportional"}, "schedule"),
        (None, {"stopping_rule": "first_exhausted"}, "training.stopping_rule"),
        (None, {"per_device_train_batch_size": 4}, "batch_sizes.assistant: 16 in the checkpoint, 4 now"),
        (None, {"batch_sizes": {"reviews": 6}}, "batch_sizes.reviews: 16 in the checkpoint, 6 now"),
        (None, {"gradient_accumulation_steps": 2}, "training.gradient_accumulation_steps: 1 in the checkpoint, 2 now"),
        (None, {"seed": 7}, "training.seed: 42 in the checkpoint, 7 now"),
        (None, {"data_seed": 7}, "training.data_seed: null in the checkpoint, 7 now"),
        (None, {"learning_rate": 2e-3}, "training.learning_rate"),
        (None, {"num_train_epochs": 3}, "training.num_train_epochs"),
        (None, {"freeze": ["embeddings"]}, "training.freeze"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_a_changed_setting_is_refused_with_the_difference(
    change, options, difference, stopped, encoder_folder, tmp_path
):
    config = two_source_config(encoder_folder, tmp_path)
    if change:
        change(config)
    built = build(config)
    trainer = make_trainer(built, tmp_path, **(SAVING | options))
    before = weights(trainer.model)
    with pytest.raises(ValueError, match="was saved with other settings") as refused:
        trainer.train(resume_from_checkpoint=str(stopped / "checkpoint-8"))
    assert difference in str(refused.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(trainer.model).items())


@pytest.mark.parametrize("change", ["labels", "fingerprint", "rows"])
def test_other_validation_rows_are_refused_since_checkpoints_are_chosen_by_them(
    change, stopped, encoder_folder, tmp_path
):
    built = build(two_source_config(encoder_folder, tmp_path))
    split = built.validation["reviews"]
    if change == "labels":
        split.gold["stars"][0] += 0.5
    else:
        last = len(split.rows) - 1
        kept = [last, *range(1, last), 0] if change == "fingerprint" else range(last)
        split.rows = split.rows.select(kept)
        split.gold = {name: [gold[row] for row in kept] for name, gold in split.gold.items()}
    trainer = make_trainer(built, tmp_path, **SAVING)
    with pytest.raises(ValueError, match=rf"other settings(.|\n)*validation\.reviews\.{change}: "):
        trainer.train(resume_from_checkpoint=str(stopped / "checkpoint-8"))


@pytest.mark.parametrize("longer", [{"num_train_epochs": 3}, {"max_steps": 20}], ids=str)
def test_asking_for_more_epochs_names_the_way(longer, stopped, encoder_folder, tmp_path):
    trainer = make_trainer(build(two_source_config(encoder_folder, tmp_path)), tmp_path, **(SAVING | longer))
    with pytest.raises(ValueError, match=rf"for longer, start a new run with `model: {{from: {stopped}}}`"):
        trainer.train(resume_from_checkpoint=str(stopped / "checkpoint-8"))


def test_what_does_not_decide_the_weights_can_be_changed(stopped, encoder_folder, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(stopped, folder)
    whole = trainer_of(encoder_folder, tmp_path / "whole")
    whole.train()
    changed = {"logging_steps": 2, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_total_limit": 3,
               "per_device_eval_batch_size": 3, "dataloader_num_workers": 1}  # fmt: skip
    resumed = trainer_of(encoder_folder, folder, **changed)
    resumed.train(resume_from_checkpoint=True)
    assert same_weights(whole, resumed)
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-8", "checkpoint-9", "checkpoint-12"]
    assert [entry["step"] for entry in resumed.state.log_history if "eval_score" in entry] == [9, 10, 11, 12]


def test_no_checkpoint_has_a_pickle_of_the_arguments(stopped):
    names = {path.name for path in (stopped / "checkpoint-8").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "optimizer.pt", COMPLETE} <= names
    assert "training_args.bin" not in names


def test_evaluating_draws_nothing_that_training_would_have_drawn(encoder_folder, tmp_path):
    plain = trainer_of(encoder_folder, tmp_path / "plain", save_strategy="no")
    plain.train()
    evaluating = trainer_of(
        encoder_folder, tmp_path / "evaluating", save_strategy="no", eval_strategy="steps", eval_steps=1
    )
    evaluating.train()
    assert same_weights(plain, evaluating)


@pytest.mark.parametrize("max_steps", [-1, 10])
def test_a_run_that_was_over_takes_no_further_step(max_steps, encoder_folder, tmp_path):
    """Epochs of 6 steps: over at the end of one, and within one, where the stock loop would take a step too many."""
    options = {"max_steps": max_steps, "save_steps": 5}
    whole = trainer_of(encoder_folder, tmp_path, **options)
    whole.train()
    again = trainer_of(encoder_folder, tmp_path, **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == whole.state.global_step == (12 if max_steps == -1 else 10)
    assert same_weights(whole, again)


class Worse(TrainerCallback):
    """Makes every evaluation from step 4 on worse than the one before."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        metrics["eval_score"] = -float(state.global_step)


@pytest.mark.parametrize("cut", ["checkpoint-6", "checkpoint-8"])
def test_early_stopping_stops_a_resumed_run_where_it_would_have_stopped(cut, encoder_folder, tmp_path):
    options = {"early_stopping_patience": 2, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2,
               "metric_for_best_model": "score", "load_best_model_at_end": True}  # fmt: skip

    def train(resume: bool) -> Any:
        trainer = trainer_of(encoder_folder, tmp_path, **options)
        stopping = next(item for item in trainer.callback_handler.callbacks if isinstance(item, EarlyStoppingCallback))
        trainer.callback_handler.callbacks.remove(stopping)
        trainer.callback_handler.callbacks += [Worse(), stopping]  # so that it is asked after the numbers are known
        trainer._determine_best_metric = lambda metrics, trial: best(trainer, metrics)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def best(trainer: Any, metrics: dict[str, float]) -> bool:
        return type(trainer)._determine_best_metric(trainer, metrics | {"eval_score": -trainer.state.global_step}, None)

    whole = train(False)
    assert (whole.state.global_step, whole.state.best_global_step) == (6, 2)
    if cut == "checkpoint-6":
        remove_checkpoint(tmp_path / cut)
    again = train(True)
    assert (again.state.global_step, again.state.best_global_step) == (6, 2)
    assert same_weights(whole, again)


def test_a_checkpoint_at_the_end_of_an_epoch_waits_for_its_evaluation(encoder_folder, tmp_path):
    options = {"eval_strategy": "epoch", "save_steps": 3, "num_train_epochs": 2}
    whole = trainer_of(encoder_folder, tmp_path, **options)
    whole.train()
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in state["log_history"] if "eval_score" in entry] == [6]
    for step in (9, 12):
        remove_checkpoint(tmp_path / f"checkpoint-{step}")
    again = trainer_of(encoder_folder, tmp_path, **options)
    again.train(resume_from_checkpoint=True)
    scores = [[entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry]
              for trainer in (whole, again)]  # fmt: skip
    assert len(scores[0]) == 2
    assert scores[0] == scores[1]


def test_best_model_bookkeeping_survives_a_moved_folder(encoder_folder, tmp_path, caplog):
    options = {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True, "save_total_limit": 1,
               "metric_for_best_model": "score", "greater_is_better": False}  # fmt: skip
    whole = trainer_of(encoder_folder, tmp_path / "here", **options)
    whole.train()
    remove_checkpoint(tmp_path / "here" / "checkpoint-12") if whole.state.best_global_step != 12 else None
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = trainer_of(encoder_folder, tmp_path / "there", **options)
    again.train(resume_from_checkpoint=True)
    best = again.state.best_global_step
    assert best == whole.state.best_global_step
    assert Path(again.state.best_model_checkpoint) == tmp_path / "there" / f"checkpoint-{best}"
    assert [path.name for path in list_checkpoints(tmp_path / "there")] == sorted(
        {f"checkpoint-{best}", "checkpoint-12"}, key=lambda name: int(name[11:])
    )
    assert same_weights(whole, again)


def test_weights_of_another_model_are_not_loaded_in_part(stopped, encoder_folder, tmp_path):
    built: Built = build(two_source_config(encoder_folder, tmp_path))
    built.model.add_head("more", type="regression")
    trainer = make_trainer(built, tmp_path)
    with pytest.raises(ValueError, match=r"another model: \['heads\.more"):
        trainer._load_from_checkpoint(str(stopped / "checkpoint-8"))


def test_an_encoder_that_transformers_would_save_by_other_names_is_resumed_whole(tmp_path):
    folder = tmp_path / "nomic"
    tokenizer = wordpiece_tokenizer()
    tokenizer.save_pretrained(folder)
    NomicBertModel(NomicBertConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folder)
    whole = trainer_of(str(folder), tmp_path / "run")
    whole.train()
    remove_checkpoint(tmp_path / "run" / "checkpoint-12")
    again = trainer_of(str(folder), tmp_path / "run")
    again.train(resume_from_checkpoint=True)
    assert same_weights(whole, again)


# ---- the best of each task ----


class Scores(TrainerCallback):
    """Gives every task a course of its own, for a trainer whose `evaluate` it replaces."""

    def __init__(self, trainer: Any, courses: dict[str, list[float]]) -> None:
        self.trainer, self.courses = trainer, courses
        trainer.evaluate = self.evaluate

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        index = self.trainer.state.global_step // 2 - 1
        metrics = {f"eval_{name}": course[index] for name, course in self.courses.items()}
        self.trainer.log(metrics)
        return metrics


@pytest.mark.parametrize("saving", [{"save_strategy": "steps", "save_steps": 4}, {"save_strategy": "best"}])
def test_the_best_checkpoint_of_each_task_is_kept_and_named(saving, encoder_folder, tmp_path, caplog):
    options = {"eval_strategy": "steps", "eval_steps": 2, "keep_best_per_task": True, "save_total_limit": 1,
               "load_best_model_at_end": True, "metric_for_best_model": "score", **saving}  # fmt: skip
    trainer = trainer_of(encoder_folder, tmp_path, **options)
    courses = {  # at steps 2, 4, ..., 12
        "score": [0.1, 0.2, 0.5, 0.4, 0.3, 0.2],
        "intent_accuracy": [0.9, 0.2, 0.3, 0.3, 0.2, 0.1],
        "slots_f1": [0.0, math.nan, 0.0, 0.8, 0.8, 0.7],
        "stars_pearson": [-0.5, -0.4, -0.6, -0.6, -0.4, -0.9],
        "topics_micro_f1": [0.1, 0.2, 0.3, 0.2, 0.3, 0.1],
    }
    trainer.add_callback(Scores(trainer, courses))
    trainer.train()
    peaks = {"intent": (2, 0.9), "slots": (8, 0.8), "stars": (4, -0.4), "topics": (6, 0.3)}
    assert find_peaks(trainer.tasks, trainer.state.log_history) == peaks
    kept = {int(path.name.split("-")[1]) for path in list_checkpoints(tmp_path)}
    assert {2, 4, 6, 8} <= kept <= {2, 4, 6, 8, 12}
    lines = ["Best: intent accuracy 90.00 at step 2.", "Best: slots f1 80.00 at step 8.",
             "Best: stars pearson -40.00 at step 4.", "Best: topics micro_f1 30.00 at step 6.",
             "Chosen checkpoint: step 6, score 50.00."]  # fmt: skip
    assert [message for message in caplog.messages if message.startswith(("Best", "Chosen"))] == lines


def test_the_log_names_the_checkpoint_that_was_chosen_and_not_a_better_step_without_one(
    encoder_folder, tmp_path, caplog
):
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 4, "metric_for_best_model": "score"}
    trainer = trainer_of(encoder_folder, tmp_path, **options)
    trainer.add_callback(Scores(trainer, {"score": [0.1, 0.2, 0.5, 0.4, 0.3, 0.2]}))
    trainer.train()
    assert trainer.state.best_global_step == 6
    assert "Chosen checkpoint: step 4, score 20.00." in caplog.messages


def test_keeping_the_best_per_task_needs_evaluations_and_checkpoints(tmp_path):
    for name in ("eval_strategy", "save_strategy"):
        with pytest.raises(ValueError, match="`keep_best_per_task` needs evaluations and checkpoints"):
            mtl_hf.MultiTaskTrainingArguments(
                str(tmp_path), keep_best_per_task=True, load_best_model_at_end=False, **{name: "no"}
            )
