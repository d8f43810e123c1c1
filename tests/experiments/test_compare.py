"""Tests of `mtl_hf.experiments.compare`: runs in processes of their own, gone on with, and its numbers by hand."""

import json
import re
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import mtl_hf
from mtl_hf import cli
from mtl_hf.config import Task
from mtl_hf.data.labels import TaskData
from mtl_hf.evaluation import figures
from mtl_hf.experiments import compare as module
from mtl_hf.experiments import inputs
from mtl_hf.experiments.compare import compare
from mtl_hf.experiments.compare_report import _costs
from mtl_hf.experiments.run_processes import RunProcesses
from mtl_hf.experiments.variants import PlannedRun, plan_runs, read_comparison
from mtl_hf.metrics import Answers
from tests.conftest import TRAINING, assistant_rows, save_encoder


@pytest.fixture
def config(tmp_path: Path, still_encoder_folder: str) -> Path:
    """A run's YAML: two tasks on one source of files."""
    rows = assistant_rows()
    for split in ("train", "validation", "test"):
        rows.to_json(tmp_path / f"{split}.jsonl")
    tree = {
        "model": {"encoder": still_encoder_folder},
        "sources": {
            "assistant": {
                "path": "json",
                "data_files": {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")},
                "text": "tokens",
            }
        },
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
        },
        "training": TRAINING | {"learning_rate": 1e-3, "num_train_epochs": 1},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are trained in this process, unchecked; the list fills with their names."""
    trained: list[str] = []

    def train(run: Any, jobs: int, processes: Any) -> str | None:
        trained.append(run.name)
        mtl_hf.train(run.beside(".yaml"), overwrite=True)
        run.beside(".json").write_text(json.dumps({"peak_memory": 1e9}), encoding="utf-8")
        return None

    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(module, "_check_runs", lambda first, runs, jobs: {})
    return trained


@pytest.mark.usefixtures("processes")
def test_runs_are_processes_and_one_that_fails_keeps_no_other_from_being_finished(config: Path, tmp_path: Path) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text(
        "fine: []\nbroken: [training.learning_rate=1000, training.weight_decay=1000]\n", encoding="utf-8"
    )  # found only in training
    out = tmp_path / "out"
    with pytest.raises(ChildProcessError, match=r"1 of 2 runs failed(.|\n)*broken/seed-13: .*full log: .*seed-13.log"):
        compare(config, seeds=1, variants=variants, to=out, plot=False, jobs=2)
    assert not (out / "comparison.md").exists(), "no half table"
    fine = out / "runs" / "fine"
    assert json.loads((fine / "seed-13.json").read_text(encoding="utf-8"))["peak_memory"] > 1e8
    assert (fine / "seed-13" / "model.safetensors").is_file()
    assert list(fine.glob("seed-13/checkpoint-*")) == []
    log = (fine / "seed-13.log").read_text(encoding="utf-8")
    for noise in ("\r", "it/s", "Loading weights", "Writing model shards", "examples/s"):
        assert noise not in log
    kept = (fine / "seed-13" / "train.log").read_text(encoding="utf-8").splitlines()
    assert [line[21:] if line[:2] == "20" else line for line in kept] == log.splitlines()


@pytest.mark.usefixtures("processes")
def test_a_comparison_is_written_and_gone_on_with(
    config: Path,
    tmp_path: Path,
    in_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    predict, predicted = mtl_hf.MultiTaskModel.predict, []
    monkeypatch.setattr(
        mtl_hf.MultiTaskModel, "predict", lambda *texts, **options: predicted.append(1) or predict(*texts, **options)
    )
    clock = SimpleNamespace(perf_counter=lambda: float(len(predicted)))  # every model takes a second to answer
    monkeypatch.setattr(sys.modules[module.measure_answering.__module__], "time", clock)
    folder = tmp_path / "out"
    cli.main(["compare", str(config), "--seeds", "1", "--to", str(folder)])
    assert in_process == ["alone-intent/seed-13", "alone-slots/seed-13", "together/seed-13"]
    shown = capsys.readouterr().out
    result = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert shown.strip() == (folder / "comparison.md").read_text(encoding="utf-8").strip()
    assert {path.name for path in folder.glob("*.*")} == {
        "comparison.json", "comparison.md", "scores.png", "scores.svg", "curves.png", "curves.svg",
    }  # fmt: skip
    assert result["answering"]["seconds"] == {"one": 1, "several": 2}
    assert result["answering"]["ratio"] == 2

    in_process.clear()
    (folder / "runs" / "together" / "seed-13.json").unlink()  # as if stopped while its results were written
    (folder / "runs" / "together" / "seed-13" / "metrics.json").unlink()
    caplog.clear()
    with caplog.at_level("INFO", "mtl_hf"):
        again = compare(config, seeds=1, to=folder, plot=False)
    said = [re.sub(r", \d+ s\.", ", N s.", one) for one in caplog.messages if one.startswith(("Run ", "Measuring "))]
    assert said == [
        "Run 3 of 3: together/seed-13 starts.",
        "Run 3 of 3: together/seed-13, N s.",
        "Measuring inference time and memory: one model with all heads, and one model per task.",
    ]
    assert in_process == ["together/seed-13"], "what is finished is not trained again"
    for variant in ("alone", "together"):
        assert again["variants"][variant]["tasks"] == result["variants"][variant]["tasks"]
    with pytest.raises(ValueError, match=r"a comparison with other settings .*learning_rate: 0\.5"):
        compare(config, ["training.learning_rate=0.5"], seeds=1, to=folder, plot=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("comparison.json", '{"split": "test", "models": {}}', r"which contains results \(comparison\.json\)"),
        ("comparison.json", '{"name": "other"}', r"which contains the comparison 'other' \(comparison\.json\)"),
        ("run.yaml", "", "which contains a model"),
        ("config.json", "{}", "which contains a model"),
    ],
)
def test_other_results_are_not_replaced(name: str, content: str, message: str, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        compare(config, seeds=1, to=folder, plot=False)
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == {name: content}


class Comparing:
    """Runs of a comparison that are only said to be trained."""

    def __init__(self, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.comparison, self.folder = read_comparison(config, seeds=1), folder
        self.trained: list[str] = []

        def train(run: PlannedRun, jobs: int, processes: Any) -> None:
            self.trained.append(run.name)
            run.beside(".json").write_text("{}", encoding="utf-8")

        monkeypatch.setattr(module, "_train", train)

    def go(self) -> list[str]:
        """Train what is due; the names of these."""
        self.trained.clear()
        _, runs = plan_runs(self.comparison, self.folder)
        for run in runs:
            run.folder.mkdir(parents=True, exist_ok=True)
        module._train_all(runs, 1)
        return sorted(self.trained)


ALL = ["alone-intent/seed-13", "alone-slots/seed-13", "together/seed-13"]


def test_a_finished_run_is_kept_only_while_data_start_and_versions_are_those_it_was_trained_with(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    tree["model"]["encoder"] = str(encoder)
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    comparing = Comparing(config, tmp_path / "out", monkeypatch)
    assert comparing.go() == ALL
    assert comparing.go() == []

    (tmp_path / "test.jsonl").write_text((tmp_path / "test.jsonl").read_text(encoding="utf-8") + "\n")
    assert comparing.go() == ALL
    assert f"3 of 3 runs are trained again because {tmp_path / 'test.jsonl'} has changed: alone-intent" in caplog.text
    assert comparing.go() == []

    weights = encoder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert comparing.go() == ALL
    assert f"{weights} has changed" in caplog.text

    monkeypatch.setattr(inputs, "__version__", "99.0")
    assert comparing.go() == ALL
    assert re.search(r"because mtl_hf was \S+ and is 99\.0", caplog.text)
    assert comparing.go() == []


def test_a_run_of_before_inputs_were_noted_is_trained_again(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    comparing = Comparing(config, tmp_path / "out", monkeypatch)
    comparing.go()
    (tmp_path / "out" / "runs" / "together" / "seed-13.inputs.json").unlink()
    checkpoint = tmp_path / "out" / "runs" / "together" / "seed-13" / "checkpoint-5"  # nothing goes on from it either
    checkpoint.mkdir()
    assert comparing.go() == ["together/seed-13"]
    assert "1 of 3 runs are trained again because its training data were not recorded" in caplog.text
    assert not checkpoint.exists()


def test_an_unfinished_run_goes_on_only_with_what_it_was_begun_with(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparing = Comparing(config, tmp_path / "out", monkeypatch)
    comparing.go()
    run = tmp_path / "out" / "runs" / "together"
    (run / "seed-13.json").unlink()
    (run / "seed-13" / "checkpoint-5").mkdir()
    noted = (run / "seed-13.inputs.json").read_text(encoding="utf-8")
    assert comparing.go() == ["together/seed-13"]
    assert (run / "seed-13" / "checkpoint-5").exists()

    (run / "seed-13.json").unlink()
    (tmp_path / "train.jsonl").write_text((tmp_path / "train.jsonl").read_text(encoding="utf-8") + "\n")
    assert comparing.go() == ALL
    assert not (run / "seed-13" / "checkpoint-5").exists()
    assert (run / "seed-13.inputs.json").read_text(encoding="utf-8") != noted


def test_data_that_change_while_runs_are_trained_make_no_table(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Comparing(config, tmp_path / "out", monkeypatch)
    monkeypatch.setattr(module, "_check_runs", lambda *_: {})
    train = module._train

    def change_and_train(run: PlannedRun, *options: Any) -> None:
        run.folder.mkdir(parents=True)
        train(run, *options)
        if run.variant == "together":
            (tmp_path / "train.jsonl").write_text("{}\n", encoding="utf-8")

    monkeypatch.setattr(module, "_train", change_and_train)
    with pytest.raises(ValueError, match=r"while runs were trained, .*train\.jsonl has changed"):
        compare(config, seeds=1, to=tmp_path / "out", plot=False)
    assert not (tmp_path / "out" / "comparison.json").exists()


@pytest.mark.usefixtures("processes")
def test_a_mistake_in_a_variant_is_found_before_anything_is_trained(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("training began"))
    variants = tmp_path / "variants.yaml"
    variants.write_text("fine: []\nbroken: [tasks.intent.label=intnt]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken: `tasks\.intent\.label` is 'intnt'"):
        compare(config, seeds=1, variants=variants, to=tmp_path / "out", plot=False, jobs=2)
    assert not (tmp_path / "out").exists(), "checks leave nothing behind"


@pytest.mark.usefixtures("processes")
def test_checks_share_no_folder_and_reach_what_waits_for_a_first_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("training began"))
    comparison = tmp_path / "comparison.yaml"
    tree = {
        "config": "run.yaml",
        "first": {"base": {"config": "run.yaml", "overrides": ["training.max_steps=2"]}},
        "variants": {"plain": [], "warm": ["model.encoder=null", "model.from=${first.base}", "training.max_steps=3"]},
    }
    comparison.write_text(yaml.safe_dump(tree), encoding="utf-8")
    checked: list[str] = []

    start = RunProcesses.run

    def run(self: RunProcesses, code: str, arguments: list[str], **options: Any) -> Any:
        checked.append(arguments[-1])
        return start(self, code, arguments, **options)

    monkeypatch.setattr(RunProcesses, "run", run)
    steps = compare(comparison, seeds=1, to=tmp_path / "out", plot=False, jobs=2, dry_run=True)["steps"]
    assert steps["first/base"] == 2
    assert steps["warm"] == 3
    assert set(steps) == {"first/base", "plain", "warm"}
    assert all(re.fullmatch(r'training\.output_dir=".*"', given) for given in checked)
    assert len(set(checked)) == 3
    assert not (tmp_path / "out").exists()

    tree["variants"]["warm"].append("tasks.intent.label=intnt")
    comparison.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ValueError, match=r"warm: `tasks\.intent\.label` is 'intnt'"):
        compare(comparison, seeds=1, to=tmp_path / "out", plot=False, jobs=2)


@pytest.mark.usefixtures("processes")
def test_numbers_of_a_comparison_are_those_of_its_runs(config: Path, tmp_path: Path, in_process: list[str]) -> None:
    overrides = ["training.learning_rate=2e-2", "training.num_train_epochs=2"]
    result = compare(config, overrides, seeds=[3, 5, 8], to=tmp_path / "out", plot=False)
    assert len(in_process) == 9
    assert result["overrides"] == overrides
    alone, together = result["variants"]["alone"], result["variants"]["together"]
    assert (alone["models"], together["models"]) == (2, 1)
    assert "against" not in alone
    assert together["against"] == "alone"

    def metrics(run: str, seed: int) -> dict[str, Any]:
        return json.loads((tmp_path / "out" / "runs" / run / f"seed-{seed}" / "metrics.json").read_text())

    def rows(run: str, seed: int) -> list[dict[str, Any]]:
        lines = (tmp_path / "out" / "runs" / run / f"seed-{seed}" / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line)["tasks"] for line in lines]

    gains = []
    for seed in (3, 5, 8):
        one = {task: numbers[numbers["primary"]] for task, numbers in metrics("together", seed)["tasks"].items()}
        two = {task: metrics(f"alone-{task}", seed)["tasks"][task][numbers["primary"]]
               for task, numbers in metrics("together", seed)["tasks"].items()}  # fmt: skip
        gains.append(statistics.mean(100 * (one[task] - two[task]) / two[task] for task in one if two[task]))
    assert together["gain"] == pytest.approx(gains)
    for task in ("intent", "slots"):
        values = [metrics("together", seed)["tasks"][task] for seed in (3, 5, 8)]
        values = [numbers[numbers["primary"]] for numbers in values]
        found = together["tasks"][task]
        assert found["values"] == values
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
        assert found["difference"] == pytest.approx(np.mean(values) - np.mean(alone["tasks"][task]["values"]))
        assert found["interval"][0] <= found["difference"] <= found["interval"][1]
        assert len(together["curves"][task]) == 3
        assert "difference" not in alone["tasks"][task]

    def chosen(run: str, seed: int) -> dict[str, Any]:
        """What was logged at the checkpoint that was chosen."""
        state = json.loads((tmp_path / "out" / "runs" / run / f"seed-{seed}" / "trainer_state.json").read_text())
        step = state["best_global_step"]
        return {"best": step} | next(
            line for line in state["log_history"] if line["step"] == step and "eval_score" in line
        )

    assert together["best_steps"] == [chosen("together", seed)["best"] for seed in (3, 5, 8)]
    assert alone["best_steps"] == [
        chosen("alone-intent", seed)["best"] + chosen("alone-slots", seed)["best"] for seed in (3, 5, 8)
    ]
    losses = [chosen("alone-slots", seed)["eval_slots_cross_entropy"] for seed in (3, 5, 8)]
    assert alone["validation"]["slots"]["values"] == losses
    assert alone["validation"]["slots"]["metric"] == "cross_entropy"
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "| validation loss | intent, cross_entropy | slots, cross_entropy |" in page
    assert f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}" in page

    def right(one: dict[str, Any]) -> bool:
        return one["predicted"] == one["gold"]

    joint = [np.mean([right(row["intent"]) and right(row["slots"]) for row in rows("together", seed)])
             for seed in (3, 5, 8)]  # fmt: skip
    apart = [
        np.mean([right(one["intent"]) and right(two["slots"])
                 for one, two in zip(rows("alone-intent", seed), rows("alone-slots", seed), strict=True)])
        for seed in (3, 5, 8)
    ]  # fmt: skip
    assert together["joint"]["assistant"]["values"] == pytest.approx(joint)
    assert alone["joint"]["assistant"]["values"] == pytest.approx(apart)

    # the interval, by resampling rows one by one
    correct = np.array([[right(row["intent"]) for row in rows("together", seed)] for seed in (3, 5, 8)], dtype=float)
    other = np.array([[right(row["intent"]) for row in rows("alone-intent", seed)] for seed in (3, 5, 8)], dtype=float)
    rng = np.random.default_rng(0)
    draws = [rng.integers(correct.shape[1], size=correct.shape[1]) for _ in range(2000)]
    expected = np.quantile([(correct[:, draw] - other[:, draw]).mean() for draw in draws], [0.025, 0.975])
    np.testing.assert_allclose(together["tasks"]["intent"]["interval"], expected, atol=0.03)


def test_the_table_of_costs_says_how_many_parameters_were_trained(
    config: Path, tmp_path: Path, in_process: list[str]
) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("all: []\nheads: ['training.freeze=[encoder]']\n", encoding="utf-8")
    result = compare(config, seeds=1, variants=variants, to=tmp_path / "out", plot=False)
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "out" / "runs" / "all" / "seed-13")
    number = {"all": model.num_parameters(), "heads": sum(p.numel() for p in model.heads.parameters())}
    assert {name: found["trained"] for name, found in result["variants"].items()} == number
    assert {found["parameters"] for found in result["variants"].values()} == {number["all"]}
    rows = [line.split("|") for line in (tmp_path / "out" / "comparison.md").read_text().splitlines()]
    header = next(row for row in rows if " trained " in row)
    place = header.index(" trained ")
    trained = {row[1].strip(): row[place].strip() for row in rows[rows.index(header) + 2 :] if len(row) == len(header)}
    assert trained == {name: f"{count / 1e6:.2f} M" for name, count in number.items()}


def test_a_difference_has_an_interval_only_where_both_have_answered_the_same_rows() -> None:
    task = TaskData("t", Task(type="sequence_classification", source="s", label="t"), ["x", "y"], "string")
    gold = ["x", "y"] * 10

    def answers(rows: Any, gold: list[str]) -> list[tuple[TaskData, Answers]]:
        return [(task, Answers(np.array(rows), ["x"] * len(gold), gold)) for _ in range(2)]

    numbers = {"metric": "accuracy", "mean": 0.5, "bounded": True}
    own = answers(range(20), gold)
    assert "interval" in module._difference(numbers, numbers, own, answers(range(20), gold))
    others = [answers(range(1, 21), gold), answers(range(20), gold[::-1]), answers(range(18), gold[:18]), None]
    others.append([own[0], answers(range(20), gold[::-1])[1]])  # with one of two seeds
    for other in others:
        assert module._difference(numbers, numbers, own, other) == {"difference": 0}
        assert module._difference(numbers, numbers, other, own) == {"difference": 0}


def test_a_loss_that_falls_is_a_gain_and_another_metric_is_not_compared() -> None:
    def tasks(metric: str, *values: float) -> dict[str, Any]:
        return {"t": {"metric": metric, "values": list(values)}}

    assert module._gains(tasks("perplexity", 8.0, 12.0), tasks("perplexity", 10.0, 10.0)) == pytest.approx([20, -20])
    assert module._gains(tasks("accuracy", 0.6), tasks("accuracy", 0.5)) == pytest.approx([20])
    assert module._gains(tasks("accuracy", 0.6), tasks("f1", 0.5)) == []
    two, base = ({"t": tasks("f1", one)["t"], "u": tasks("f1", other)["t"]} for one, other in ((0.6, 0.1), (0.5, 0.0)))
    assert module._gains(two, base) == [], "Δm of one task of two would be shown as that of both"


@pytest.mark.usefixtures("processes")
def test_tasks_that_cannot_be_answered_or_are_never_labelled_together_are_left_out(
    config: Path, tmp_path: Path, in_process: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    source = tree["sources"].pop("assistant")
    for split, path in source["data_files"].items():
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        for row, line in enumerate(rows):
            line["intent" if row % 2 else "slots"] = None  # no row is labelled for both
        Path(path).write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
        (tmp_path / f"more-{split}.jsonl").write_text(Path(path).read_text(encoding="utf-8"), encoding="utf-8")
    tree["sources"] = {
        "intent": source,  # called as a task is
        "plain": source | {"data_files": {key: str(tmp_path / f"more-{key}.jsonl") for key in ("train", "test")}},
        "untested": source | {"data_files": {key: source["data_files"][key] for key in ("train", "validation")}},
    }
    for task in tree["tasks"].values():
        task["source"] = "intent"
    tree["tasks"]["mlm"] = {"type": "masked_lm", "source": "plain"}
    tree["tasks"]["kind"] = {"type": "sequence_classification", "source": "untested", "label": "intent"}
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    result = compare(config, seeds=1, to=tmp_path / "out", plot=False)
    together = result["variants"]["together"]
    assert together["joint"] == {}
    assert set(together["tasks"]) == {"intent", "slots", "mlm"}
    assert len(together["tasks"]["intent"]["interval"]) == 2
    assert together["budget"] == "1 epochs, rows: all"
    assert result["answering"]["tasks"] == ["intent", "slots"]
    assert result["answering"]["memory"]["several"] > 1e8
    assert "without kind, mlm: there are no test texts for it" in caplog.text


def test_a_run_that_went_on_has_a_mark_at_its_time() -> None:
    numbers = {"budget": "3 epochs, rows: all", "models": 1, "parameters": 5, "steps": [2], "seconds": [7.0],
               "trained": 5, "best_steps": [2], "peak_memory": [1], "resumed": True}  # fmt: skip
    lines = list(_costs({"first": {}, "variants": {"plain": numbers, "other": numbers | {"resumed": False}}}))
    assert [line.split("|")[9].strip() for line in lines[2:4]] == ["7 *", "7"]
    assert lines[-1].startswith("\\* A run was resumed")


def test_plots_without_matplotlib_are_refused_before_anything_runs(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mtl_hf\[plots\]', or use --no-plot"):
        compare(config, to=tmp_path / "out")
    with pytest.raises(ValueError, match="`jobs` is 0"):
        compare(config, to=tmp_path / "out", plot=False, jobs=0)
