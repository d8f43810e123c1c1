"""Tests of `experiments.tune`: trials that are trained, and the study that keeps them, with stand-ins for training."""

import csv
import gc
import json
import math
import multiprocessing
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml

import mtl_hf
import mtl_hf.experiments.study
import mtl_hf.experiments.trials
import mtl_hf.experiments.tune
from mtl_hf import cli
from mtl_hf.config import RunConfig
from mtl_hf.experiments import inputs
from mtl_hf.experiments.search_report import search_table, summary
from mtl_hf.experiments.space import Search
from mtl_hf.experiments.study import study_options
from mtl_hf.experiments.trials import Goal
from mtl_hf.experiments.tune import tune
from tests.conftest import TRAINING, assistant_rows, save_encoder
from tests.experiments.conftest import write_search

GOAL = Goal("score", maximize=True, best=True)


@pytest.fixture
def folder(tmp_path: Path, still_encoder_folder: str) -> Path:
    """With a run's YAML, `run.yaml`: two tasks on one source of files."""
    rows = assistant_rows()
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    for path in files.values():
        rows.to_json(path)
    tree = {
        "model": {"encoder": still_encoder_folder},
        "sources": {"assistant": {"path": "json", "data_files": files, "text": "tokens", "batch_size": 16}},
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
        },
        "training": TRAINING | {"learning_rate": 5e-3, "num_train_epochs": 2},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., float]], None]:
    """Let a function of a trial and its overrides stand for training it."""

    def use(function: Callable[..., float]) -> None:
        monkeypatch.setattr(mtl_hf.experiments.trials, "find_goal", lambda *_: GOAL)
        monkeypatch.setattr(gc, "collect", lambda: 0)  # which is slow, and there are no models to be freed
        monkeypatch.setattr(
            mtl_hf.experiments.trials, "train_trial", lambda trial, config, overrides, *_: function(trial, overrides)
        )

    return use


def settings(result: dict[str, Any], state: str = "complete") -> list[dict[str, Any]]:
    return [trial["settings"] for trial in result["trials"] if trial["state"] == state]


# ---- trials that are trained ----


def test_from_the_command_line_to_the_best_config(
    folder: Path, still_encoder_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_encoder(folder / "other", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, hidden_size=16)
    space = {
        "training.learning_rate": "loguniform(1e-3, 1e-2)",
        "model.encoder": f"choice({other}, {still_encoder_folder})",
        "sharing": {"plain": [], "uncertainty": ["training.loss_balancing=UW"]},
    }
    path = write_search(folder, space=space, sampler="random", overrides=["tasks.slots.loss_weight=2"])
    out = folder / "out"
    command = ["tune", str(path), "sources.assistant.max_train_rows=40", "--to", str(out), "--no-plot"]
    cli.main([*command, "--dry-run"])
    assert capsys.readouterr().out.splitlines() == [
        "20 trials, compared by score on the validation split",
        f"sampler: random; pruning: on; into {out}",
        "  training.learning_rate: loguniform(1e-3, 1e-2)",
        f"  model.encoder: choice({other}, {still_encoder_folder})",
        "  sharing: plain: the config as it is; uncertainty: training.loss_balancing=UW",
    ]
    assert not out.exists()

    cli.main([*command, "--trials", "2"])
    shown = capsys.readouterr().out
    assert shown.startswith("2 complete\n")
    assert "Parameter importance is not available: 2 trials are complete, at least 6 are needed." in shown
    assert shown.splitlines()[-1] == f"mtl-hf train {out / 'best.yaml'}"
    before = {path: path.read_bytes() for path in out.glob("trials/*/*")}
    assert sorted(path.relative_to(out / "trials").as_posix() for path in before) == [
        f"{number}/{name}" for number in (0, 1) for name in ("log.txt", "run.yaml", "trainer_state.json")
    ]
    cli.main([*command, "--trials", "3"])
    assert capsys.readouterr().out.startswith("3 complete\n")
    assert all(path.read_bytes() == content for path, content in before.items()), "what is done is not done again"

    with (out / "trials.csv").open(encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    best = max(trials, key=lambda trial: float(trial["score"]))
    for trial in trials:
        state = json.loads((out / "trials" / trial["trial"] / "trainer_state.json").read_text(encoding="utf-8"))
        scores = [entry["eval_score"] for entry in state["log_history"] if "eval_score" in entry]
        assert len(scores) == 2
        assert float(trial["score"]) == max(scores)
        assert not any("test" in key for entry in state["log_history"] for key in entry)

    found = RunConfig.load(out / "best.yaml")
    expected = RunConfig.load(
        folder / "run.yaml",
        [
            "tasks.slots.loss_weight=2",
            "sources.assistant.max_train_rows=40",
            f"training.learning_rate={best['training.learning_rate']}",
            f"model.encoder={best['model.encoder']}",
            *(["training.loss_balancing=UW"] if best["sharing"] == "uncertainty" else []),
            f"training.output_dir={out / 'best'}",
        ],
    )
    assert found.to_dict() == expected.to_dict()
    results = mtl_hf.train(out / "best.yaml")
    assert results["split"] == "test"
    state = json.loads((out / "best" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_metric"] == float(best["score"]), "the run of the best config scores what its trial did, exactly"


def test_a_trial_that_is_behind_is_stopped_on_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtl_hf.experiments.study, "STARTUP", 1)
    # Their steps an epoch differ, so that they meet by the number of an evaluation only.
    sets = {"good": ["training.learning_rate=1e-3"],
            "bad": ["sources.assistant.batch_size=24", "training.learning_rate=3"]}  # fmt: skip
    overrides = ["training.num_train_epochs=3", "training.metric_for_best_model=intent_cross_entropy"]
    seed = next(seed for seed in range(9) if grid_order(sets, seed)[0] == "good")
    path = write_search(folder, space={"rates": sets}, sampler="grid", seed=seed, overrides=overrides)
    result = tune(path, to=folder / "out", plot=False)
    good, bad = result["trials"]
    assert (good["state"], good["evaluations"]) == ("complete", 3)
    assert (bad["state"], bad["evaluations"]) == ("pruned", 2), "not at the first, which may come before rates are up"
    assert bad["value"] > 2 * good["value"]
    state = json.loads((folder / "out" / "trials" / "1" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 4
    assert "1 complete, 1 pruned" in search_table(result)

    nothing: Any = SimpleNamespace(trials=list, storage=None)
    pruner = study_options(Search(config="run.yaml", space={}, prune=False), [], nothing)["pruner"]
    assert isinstance(pruner, optuna.pruners.NopPruner)


def grid_order(sets: dict[str, list[str]], seed: int) -> list[str]:
    study = optuna.create_study(sampler=optuna.samplers.GridSampler({"rates": list(sets)}, seed=seed))
    return [study.ask().suggest_categorical("rates", list(sets)) for _ in sets]


def test_trials_that_fail_say_why_and_the_search_goes_on(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets = {
        "fine": [],
        "refused": ["training.policy=fixed"],
        "broken": ["training.learning_rate=1000", "training.weight_decay=1000"],
    }
    # Without the best checkpoint at its end a run is what it is at its end.
    path = write_search(folder, space={"s": sets}, sampler="grid", overrides=["training.load_best_model_at_end=false"])
    result = tune(path, to=folder / "out", plot=False)
    by_set = {trial["settings"]["s"]: trial for trial in result["trials"]}
    assert {name: trial["state"] for name, trial in by_set.items()} == {
        "fine": "complete", "refused": "failed", "broken": "failed"
    }  # fmt: skip
    assert "`sampling_probabilities`" in by_set["refused"]["reason"]
    assert "not finite" in by_set["broken"]["reason"] or "the loss of task" in by_set["broken"]["reason"]
    for name in ("refused", "broken"):
        lines = search_table(result).splitlines()
        place = next(number for number, line in enumerate(lines) if line.endswith(f"s={name}"))
        assert lines[place].split()[:2] == [str(by_set[name]["number"]), "failed"]
        assert lines[place].index("s=") == lines[1].index("settings"), "under its heading"
        assert lines[place + 1].strip() == by_set[name]["reason"]
        assert any(f"failed: {by_set[name]['reason']}" in message for message in caplog.messages)
        assert by_set[name]["reason"] in (folder / "out" / "trials.csv").read_text(encoding="utf-8").replace('""', '"')
    fine = by_set["fine"]
    state = json.loads((folder / f"out/trials/{fine['number']}/trainer_state.json").read_text(encoding="utf-8"))
    assert fine["value"] == [entry["eval_score"] for entry in state["log_history"] if "eval_score" in entry][-1]
    assert result["best"] == fine["number"]
    assert not [message for message in caplog.messages if "epoch" in message], "what a trial logs is in its own file"
    assert "epoch  1.00" in (folder / f"out/trials/{fine['number']}/log.txt").read_text(encoding="utf-8")


def test_without_evaluations_on_the_way_a_trial_is_scored_at_its_end(folder: Path) -> None:
    overrides = [
        "training.eval_strategy=no", "training.load_best_model_at_end=false", "training.max_steps=2",
        "training.metric_for_best_model=intent_cross_entropy",
    ]  # fmt: skip
    path = write_search(
        folder, space={"training.learning_rate": "uniform(0.001, 0.002)"}, trials=1, overrides=overrides
    )
    result = tune(path, to=folder / "out", plot=False)
    assert (result["metric"], result["maximize"]) == ("intent_cross_entropy", False)
    (trial,) = result["trials"]
    state = json.loads((folder / "out/trials/0/trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2
    assert trial["state"] == "complete"
    run = mtl_hf.run.build(folder / "out/trials/0/run.yaml")
    run.trainer.train()
    assert run.trainer.evaluate()["eval_intent_cross_entropy"] == trial["value"]
    assert "intent_cross_entropy" in search_table(result)


def test_a_config_that_does_not_train_is_refused_first(folder: Path) -> None:
    path = write_search(folder, space={"training.learning_rate": "uniform(0.001, 0.002)"})
    with pytest.raises(ValueError, match="Did you mean `assistant`"):
        tune(path, ["tasks.intent.source=asistant"], to=folder / "out", plot=False)
    with pytest.raises(ValueError, match="sampling_probabilities"):
        tune(path, ["training.policy=fixed"], to=folder / "out", plot=False)
    assert not (folder / "out").exists()


def test_a_choice_that_the_config_refuses_is_told_before_the_search(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = {
        "training.learning_rate": "uniform(1e-3, 2e-3)",
        "model.peft": "choice(null, {type: LoraConfig, r: 2})",
        "encoder": {"whole": [], "lora": ["training.policy=fixed"]},
    }
    path = write_search(folder, space=space, overrides=["training.layerwise_lr_decay=0.9"])
    tune(path, to=folder / "out", dry_run=True, plot=False)
    warnings = [message for message in caplog.messages if "trials with this value will fail, unless another" in message]
    assert len(warnings) == 2
    assert warnings[0].startswith("`space.model.peft`, {type: LoraConfig, r: 2}: trials with this value will fail")
    assert "`training.layerwise_lr_decay` applies to encoder layers, which are frozen when adapters" in warnings[0]
    assert warnings[1].startswith("`space.encoder`, lora: trials with this value will fail")
    assert any("Checking 2 choices" in message for message in caplog.messages)


def test_choices_are_built_once_and_only_where_they_change_the_config(
    folder: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[list[str]] = []
    stand_in(near_a_thousandth)
    monkeypatch.setattr(
        mtl_hf.experiments.trials, "find_goal", lambda config, overrides, folder: built.append(list(overrides)) or GOAL
    )
    path = write_search(folder, space=SPACE | {"model.pooling": "choice(null, cls)"}, trials=1)  # 16 is the config's
    sizes = ["sources.assistant.batch_size=8", "sources.assistant.batch_size=32"]
    tune(path, to=folder / "out", plot=False)
    assert built == [[], *([size] for size in sizes), ["model.pooling=cls"]]
    tune(path, to=folder / "out", trials=2, plot=False)
    assert built[4:] == [[]], "a search that goes on has been told"


# ---- the study ----

SPACE = {
    "training.learning_rate": "loguniform(1e-5, 1e-1)",
    "tasks.slots.loss_weight": "uniform(0.5, 2)",
    "sources.assistant.batch_size": "choice(8, 16, 32)",
}


def near_a_thousandth(trial: Any, overrides: list[str]) -> float:
    """Best at a rate of 1e-3."""
    values = dict(text.split("=", 1) for text in overrides)
    rate = float(values["training.learning_rate"])
    return 1 / (1 + abs(math.log10(rate) + 3)) + int(values["sources.assistant.batch_size"]) * 1e-4


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_stopped_goes_on_as_it_would_have(folder: Path, stand_in: Any, sampler: str) -> None:
    stand_in(near_a_thousandth)
    path = write_search(folder, space=SPACE, sampler=sampler, trials=12)
    whole = tune(path, to=folder / "whole", plot=False)
    assert tune(path, to=folder / "cut", trials=3, plot=False)["best"] in (0, 1, 2)
    cut = tune(path, to=folder / "cut", plot=False)
    assert settings(cut) == settings(whole)
    assert len({trial["training.learning_rate"] for trial in settings(whole)}) == 12
    other = tune(write_search(folder, space=SPACE, sampler=sampler, trials=3, seed=14), to=folder / "other", plot=False)
    assert settings(other) != settings(whole)[:3]


def test_what_mattered_is_told_and_drawn(folder: Path, stand_in: Any) -> None:
    stand_in(near_a_thousandth)
    result = tune(write_search(folder, space=SPACE, sampler="random", trials=16), to=folder / "out")
    shares = result["importance"]
    assert next(iter(shares)) == "training.learning_rate"
    assert sum(shares.values()) == pytest.approx(1)
    assert f"training.learning_rate{shares['training.learning_rate']:>34.0%}" in search_table(result)
    assert (folder / "out" / "importance.png").is_file()
    assert (folder / "out" / "importance.svg").is_file()


def test_a_grid_has_each_point_once(folder: Path, stand_in: Any) -> None:
    stand_in(lambda trial, overrides: len(overrides[-1]))
    sets = {"plain": [], "upgrad": ["training.gradient_aggregation=UPGrad", "training.policy=round_robin"]}
    space = {"sources.assistant.batch_size": "int(3, 5)", "model.pooling": "choice(mean, cls)", "sharing": sets}
    path = write_search(folder, space=space, sampler="grid")
    assert len(tune(path, to=folder / "out", trials=5, plot=False)["trials"]) == 5
    points = settings(tune(path, to=folder / "out", plot=False))
    expected = [(size, pooling, name) for size in (3, 4, 5) for pooling in ("mean", "cls") for name in sets]
    assert sorted(tuple(point[name] for name in space) for point in points) == sorted(expected)


def test_a_trial_that_is_interrupted_is_done_again(folder: Path, stand_in: Any) -> None:
    begun: list[list[str]] = []

    def train(trial: Any, overrides: list[str]) -> float:
        begun.append(overrides)
        if len(begun) == 2:
            raise KeyboardInterrupt
        if len(begun) == 4:
            raise OSError("no space left")
        return near_a_thousandth(trial, overrides)

    stand_in(train)
    path = write_search(folder, space=SPACE, trials=4)
    with pytest.raises(KeyboardInterrupt):
        tune(path, to=folder / "out", plot=False)
    with pytest.raises(OSError, match="no space left"):
        tune(path, to=folder / "out", plot=False)
    result = tune(path, to=folder / "out", plot=False)
    assert len(settings(result)) == 4
    assert begun[2] == begun[1]
    assert begun[4] == begun[3]
    assert [trial["reason"] for trial in result["trials"] if trial["state"] == "failed"] == [
        "its process was stopped"
    ] * 2


def test_a_search_in_which_nothing_works_is_given_up(folder: Path, stand_in: Any) -> None:
    def train(trial: Any, overrides: list[str]) -> float:
        raise ValueError(f"no such thing {trial.number}")

    stand_in(train)
    path = write_search(folder, space=SPACE)
    with pytest.raises(ValueError, match="the first 3 trials all failed; the last one: failed: no such thing 2"):
        tune(path, to=folder / "out", plot=False)


def test_a_folder_keeps_to_its_search(folder: Path, stand_in: Any) -> None:
    stand_in(near_a_thousandth)
    path = write_search(folder, space=SPACE, trials=1)
    tune(path, to=folder / "out", plot=False)
    message = r"out has a search with other settings \(.*loss_weight: uniform\(0.5, 3\).*--to"
    other = write_search(folder, space=SPACE | {"tasks.slots.loss_weight": "uniform(0.5, 3)"}, trials=1)
    with pytest.raises(ValueError, match=message):
        tune(other, to=folder / "out", plot=False)
    with pytest.raises(ValueError, match=r"out has a search with other settings.*seed: .?4"):
        tune(write_search(folder, space=SPACE, trials=1), ["training.seed=4"], to=folder / "out", plot=False)


def test_trials_of_other_data_models_or_packages_are_not_mixed(
    folder: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(near_a_thousandth)
    encoder = save_encoder(folder / "other", hidden_size=16)
    path = write_search(folder, space=SPACE | {"model.encoder": f"choice({encoder}, {folder})"}, trials=1)
    tune(path, to=folder / "out", plot=False)
    assert len(tune(path, to=folder / "out", trials=2, plot=False)["trials"]) == 2

    def refused(change: str) -> None:
        message = rf"out has trials with which new trials cannot be compared \({change}.*--to"
        with pytest.raises(ValueError, match=message):
            tune(path, to=folder / "out", trials=3, plot=False)

    rows, config = folder / "train.jsonl", encoder / "config.json"
    for file in (rows, config):
        before = file.read_text(encoding="utf-8")
        file.write_text(before + "\n", encoding="utf-8")
        refused(f"{file} has changed")
        file.write_text(before, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "__version__", "99")
        refused("mtl_hf was .* and is 99")
    (folder / "out" / "inputs.json").unlink()
    refused("their training data were not recorded")


def test_data_that_change_during_a_search_end_it(folder: Path, stand_in: Any) -> None:
    def train(trial: Any, overrides: list[str]) -> float:
        (folder / "test.jsonl").write_text("{}", encoding="utf-8")
        return 1.0

    stand_in(train)
    with pytest.raises(ValueError, match=r"compared \(.*test\.jsonl has changed"):
        tune(write_search(folder, space=SPACE, trials=3), to=folder / "out", plot=False)


def shared(trial: Any, overrides: list[str]) -> float:
    """One process dies in its first trial; the others take their time."""
    if multiprocessing.current_process().name == "doomed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return near_a_thousandth(trial, overrides)


def test_processes_share_a_search_and_one_that_dies_costs_no_trial(
    folder: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(shared)
    monkeypatch.setattr(mtl_hf.experiments.tune, "POLL", 0.2)
    path = write_search(folder, space=SPACE, trials=9)
    context = multiprocessing.get_context("fork")
    processes = {
        name: context.Process(target=tune, args=(path,), kwargs={"to": folder / "out", "plot": False}, name=name)
        for name in ("doomed", "one", "two")
    }
    for process in processes.values():
        process.start()
        if process.name == "doomed":
            process.join(120)
            with closing(sqlite3.connect(folder / "out" / "study.db")) as study, study:
                changed = study.execute("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")  # long ago
            assert changed.rowcount == 1
    for process in processes.values():
        process.join(120)
    codes = {name: process.exitcode for name, process in processes.items()}
    assert codes == {"doomed": -signal.SIGKILL, "one": 0, "two": 0}
    result = tune(path, to=folder / "out", plot=False)
    assert len(settings(result)) == 9, "as many as were asked for, not one more"
    (dead,) = settings(result, "failed")
    assert len(result["trials"]) == 10
    assert dead in settings(result), "its values were tried by another process"
    assert len({trial["training.learning_rate"] for trial in settings(result)}) == 9, "no two drew the same"


def test_a_process_that_slept_too_long_goes_on_and_its_trial_is_done_once(
    folder: Path, stand_in: Any, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[int] = []

    def repeats(trial: Any) -> bool:
        return "retry_history" in trial.study.get_trials()[trial.number].system_attrs

    def train(trial: Any, overrides: list[str]) -> float:
        if len(slept) < len(ends) and not repeats(trial):
            slept.append(trial.number)
            # As another process does once this one has given no sign of life for too long.
            storage, study = trial.study._storage, trial.study
            storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
            storage.get_heartbeat_stale_trial_callback()(study, study.get_trials()[trial.number])
            ends[len(slept) - 1](trial)
        return near_a_thousandth(trial, overrides)

    def fail(trial: Any) -> None:
        raise ValueError("no good")

    def stop(trial: Any) -> None:
        raise KeyboardInterrupt

    ends: list[Callable[[Any], None]] = [lambda trial: trial.report(0.5, 1), lambda _: None, fail]
    stand_in(train)
    path = write_search(folder, space=SPACE, trials=5)
    result = tune(path, to=folder / "out", plot=False)
    assert len(settings(result)) == 5
    assert len(result["trials"]) == 8, "each of the three is there once more"
    assert sum("no heartbeat for 120 seconds" in message for message in caplog.messages) == 3
    assert all(lost in settings(result) for lost in settings(result, "failed"))

    ends, slept[:] = [stop], []
    with pytest.raises(KeyboardInterrupt):
        tune(path, to=folder / "other", plot=False)
    result = tune(path, to=folder / "other", plot=False)
    assert (len(settings(result)), len(result["trials"])) == (5, 6)


def test_a_trial_that_was_stopped_is_given_back_by_whoever_draws_first(
    folder: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(trial: Any, overrides: list[str]) -> float:
        if trial.number == 1:
            raise KeyboardInterrupt
        return near_a_thousandth(trial, overrides)

    stand_in(train)
    path = write_search(folder, space=SPACE, trials=3)
    give_back = mtl_hf.experiments.study.StudyFolder.give_back

    def slow(opened: Any, number: int) -> None:  # another process draws first
        monkeypatch.setattr(mtl_hf.experiments.study.StudyFolder, "give_back", give_back)
        assert opened.num_taken() == 1
        assert [trial.state.name for trial in opened.trials()] == ["COMPLETE", "FAIL", "WAITING"]
        give_back(opened, number)

    monkeypatch.setattr(mtl_hf.experiments.study.StudyFolder, "give_back", slow)
    with pytest.raises(KeyboardInterrupt):
        tune(path, to=folder / "out", plot=False)
    result = tune(path, to=folder / "out", plot=False)
    assert [trial["state"] for trial in result["trials"]] == ["complete", "failed", "complete", "complete"]
    assert result["trials"][1]["settings"] == result["trials"][2]["settings"]


def test_the_first_trial_may_be_complete_elsewhere_at_any_instant(
    folder: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_first(trial: Any, overrides: list[str]) -> float:
        if trial.number == 0:
            raise ValueError("no good")
        return near_a_thousandth(trial, overrides)

    stand_in(fail_first)
    stock = mtl_hf.experiments.trials.SearchTrainer.hyperparameter_search

    def then_another(self: Any, **options: Any) -> None:
        try:
            stock(self, **options)
        except ValueError:  # that none is complete; now one is
            study = optuna.load_study(study_name="search", storage=options["storage"])
            study.add_trial(optuna.create_trial(value=0.1))
            raise

    monkeypatch.setattr(mtl_hf.experiments.trials.SearchTrainer, "hyperparameter_search", then_another)
    result = tune(write_search(folder, space=SPACE, trials=3), to=folder / "out", plot=False)
    assert [trial["state"] for trial in result["trials"]] == ["failed", "complete", "complete"]


def test_a_score_that_is_no_number_fails_the_trial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    scores = iter([0.5, math.nan])
    trainer = SimpleNamespace(args=SimpleNamespace(device=None), objective=None, save_state=lambda: None)

    def train(trial: Any) -> None:
        told.extend(trainer.compute_objective({"eval_score": score}) for score in scores)

    trainer.train = train
    run = SimpleNamespace(trainer=trainer, config=SimpleNamespace(to_yaml=lambda: ""))
    monkeypatch.setattr(mtl_hf.experiments.trials, "build", lambda *_: run)
    monkeypatch.setattr(mtl_hf.experiments.trials, "flush_denormals", lambda _: None)
    with pytest.raises(FloatingPointError, match="score is nan in an evaluation"):
        mtl_hf.experiments.trials.train_trial(None, "run.yaml", [], folder / "trial", GOAL)
    assert told == [0.5]


def test_a_pruned_trial_without_a_number_is_shown(
    folder: Path, stand_in: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def train(trial: Any, overrides: list[str]) -> float:
        if trial.number == 7:
            trial.report(math.nan, 1)
            raise optuna.TrialPruned
        return near_a_thousandth(trial, overrides)

    stand_in(train)
    result = tune(write_search(folder, space=SPACE, sampler="random", trials=8), to=folder / "out")
    assert result["trials"][7]["value"] is None
    assert any("score not finite, pruned after evaluation 1" in message for message in caplog.messages)
    assert "7 complete, 1 pruned" in search_table(result)
    assert (folder / "out" / "importance.png").is_file()


# ---- what is told ----


def test_importance_that_cannot_be_told(folder: Path) -> None:
    def study(values: list[float], names: str = "ab") -> optuna.Study:
        made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        made.optimize(lambda trial: [trial.suggest_float(name, 0, 1) for name in names] and values[trial.number],
                      n_trials=len(values))  # fmt: skip
        return made

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        for made, said in [
            (study([0.1, 0.2]), "2 trials are complete, at least 6 are needed"),
            (study([0.5] * 8), "all complete trials have the same score"),
            (study([0.1 * number for number in range(8)], "a"), "only a was searched"),
        ]:
            result = summary(made, GOAL)
            assert result["importance"] == {}
            assert f"Parameter importance is not available: {said}." in search_table(result)
        assert summary(study([0.1 * number for number in range(8)]), GOAL)["importance"]
        result = summary(study([]), GOAL)
        assert result["best"] is None
        assert search_table(result)
    finally:
        optuna.logging.set_verbosity(level)


def test_what_this_machine_cannot_do_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_search(folder, space=SPACE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"Start `mtl-hf tune` without a launcher; to share .* start it several"):
        tune(path, plot=False)
    monkeypatch.delenv("WORLD_SIZE")
    find = mtl_hf.experiments.tune.importlib.util.find_spec
    for package, hint in (("optuna", "mtl_hf[search]"), ("matplotlib", "--no-plot")):
        monkeypatch.setattr(
            mtl_hf.experiments.tune.importlib.util,
            "find_spec",
            lambda name, missing=package: None if name == missing else find(name),
        )
        with pytest.raises(ValueError, match=re.escape(hint)):
            tune(path, to=folder / "out")
        monkeypatch.setattr(mtl_hf.experiments.tune.importlib.util, "find_spec", find)
