"""Tests of `mtl_hf.experiments.variants`: a comparison's file, and the runs that come of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtl_hf.config import RunConfig
from mtl_hf.experiments.variants import Comparison, plan_runs, read_comparison

ROOT = Path(__file__).parent.parent.parent
COMPARISONS = sorted((ROOT / "configs" / "compare").glob("*.yaml"))
RUN: dict[str, Any] = {
    "folder": "data",
    "model": {"encoder": "some/encoder"},
    "sources": {
        "one": {"path": "json", "data_files": "${folder}/one.jsonl", "text": "text"},
        "two": {"path": "json", "data_files": "two.jsonl", "text": "text"},
    },
    "tasks": {
        "a": {"type": "sequence_classification", "source": "one", "label": "a"},
        "b": {"type": "regression", "source": ["one", "two"], "label": "b"},
    },
    "training": {"learning_rate": 1e-4, "metric_for_best_model": "b_pearson"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a run's YAML, `run.yaml`."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False), encoding="utf-8")
    return tmp_path


def write(folder: Path, **keys: Any) -> Path:
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump({"config": "run.yaml"} | keys, sort_keys=False), encoding="utf-8")
    return path


def test_a_runs_yaml_compares_each_task_alone_with_all_together(folder: Path) -> None:
    comparison = read_comparison(folder / "run.yaml", seeds=2)
    assert comparison == Comparison(config=str(folder / "run.yaml"), seeds=[13, 14])
    first, runs = plan_runs(comparison, folder / "out", ["training.learning_rate=2e-4"])
    assert first == []
    names = ["alone-a/seed-13", "alone-b/seed-13", "together/seed-13",
             "alone-a/seed-14", "alone-b/seed-14", "together/seed-14"]  # fmt: skip
    assert [run.name for run in runs] == names
    assert [list(run.config.tasks) for run in runs[:3]] == [["a"], ["b"], ["a", "b"]]
    assert [list(run.config.sources) for run in runs[:3]] == [["one"], ["one", "two"], ["one", "two"]]
    assert runs[0].config.sources["one"].data_files == "data/one.jsonl", "variables are filled in"
    assert [run.config.training.get("metric_for_best_model") for run in runs[:3]] == [None, "b_pearson", "b_pearson"]
    for run in runs:
        assert run.folder == folder / "out" / "runs" / run.name
        assert float(run.config.training["learning_rate"]) == 2e-4
        assert int(run.config.training["seed"]) == run.seed
        (folder / "written.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
        assert RunConfig.load(folder / "written.yaml").to_dict() == run.config.to_dict(), (
            "its YAML says what is trained"
        )
    assert runs[0].beside(".log") == folder / "out" / "runs" / "alone-a" / "seed-13.log"


def test_named_variants_and_what_they_need_first(folder: Path) -> None:
    (folder / "other.yaml").write_text(yaml.safe_dump(RUN | {"training": {}}, sort_keys=False), encoding="utf-8")
    path = write(
        folder,
        seeds=[7, 3],
        overrides=["training.num_train_epochs=2"],
        first={"base": {"config": "other.yaml", "overrides": ["training.max_steps=5"]}},
        variants={
            "plain": [],
            "warm": ["model.encoder=${first.base}"],
            "other": {"config": "other.yaml", "against": "warm"},
        },
    )
    comparison = read_comparison(path)
    assert [comparison.against(name) for name in comparison.names] == ["plain", "plain", "warm"]
    assert comparison.names == ["plain", "warm", "other"], "alone and together only where they are asked for"
    (base,), runs = plan_runs(comparison, folder / "out", ["folder=elsewhere"])
    assert base.folder == folder / "out" / "first" / "base"
    assert int(base.config.training["max_steps"]) == 5
    assert "num_train_epochs" not in base.config.training, "overrides of the comparison are not for `first`"
    assert int(base.config.training["seed"]) == 7
    assert base.config.sources["one"].data_files == "elsewhere/one.jsonl", "those of the command line are"
    assert [(run.variant, run.seed) for run in runs] == [
        ("plain", 7), ("warm", 7), ("other", 7), ("plain", 3), ("warm", 3), ("other", 3),
    ]  # fmt: skip
    assert runs[1].config.model.encoder == str(folder / "out" / "first" / "base")
    assert [run.needs for run in runs[:3]] == [(), ("base",), ()]
    assert "learning_rate" not in runs[2].config.training


def test_a_variant_can_give_each_task_a_model_of_its_own(folder: Path) -> None:
    variants = {"fast": ["training.learning_rate=1e-2"],
                "fast_alone": {"alone": True, "overrides": ["training.learning_rate=1e-2"]}}  # fmt: skip
    _, runs = plan_runs(read_comparison(write(folder, seeds=1, variants=variants)), folder / "out")
    names = ["fast/seed-13", "fast_alone-a/seed-13", "fast_alone-b/seed-13"]
    assert [run.name for run in runs] == names
    assert [(run.variant, run.model) for run in runs] == [("fast", ""), ("fast_alone", "a"), ("fast_alone", "b")]
    assert [list(run.config.tasks) for run in runs] == [["a", "b"], ["a"], ["b"]]
    assert {float(run.config.training["learning_rate"]) for run in runs} == {1e-2}


def test_variants_of_a_file_beside_those_of_the_config(folder: Path) -> None:
    (folder / "more").mkdir()
    more = folder / "more" / "variants.yaml"
    more.write_text(json.dumps({"fast": ["training.learning_rate=1e-2"], "own": {"config": "../run.yaml"}}))
    comparison = read_comparison(folder / "run.yaml", more)
    assert comparison.names == ["fast", "own"]
    assert comparison.variants["own"].config == str(folder / "run.yaml")
    comparison = read_comparison(write(folder, alone=True, variants={"slow": []}), more)
    assert comparison.names == ["alone", "slow", "fast", "own"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"variant": {}}, r"unknown key `variant`\. Did you mean `variants`\?"),
        ({"variants": {"x": {"overide": []}, "y": []}}, r"unknown key `overide` in `variants\.x`\. Did you mean"),
        ({"variants": {"x": "a=b", "y": []}}, r"`variants\.x` should be a list of overrides"),
        ({"variants": {"x": []}}, "a comparison needs at least two variants; .* has x"),
        ({"variants": {"x": [], "alone": []}}, "a variant cannot be called 'alone'"),
        ({"variants": {"x": [], "a/b": []}}, "a variant cannot be called 'a/b'"),
        ({"seeds": [1, 1]}, r"`seeds` is \[1, 1\]; it needs at least one seed, and no seed twice"),
        ({"seeds": 0}, r"`seeds` is \[\]"),
        ({"seeds": "many"}, "`seeds` is .*whole number"),
        ({"reference": "allone"}, "`reference` is 'allone'. Did you mean `alone`"),
        ({"variants": {"x": [], "y": {"against": "z"}}}, r"`variants\.y\.against` is 'z'.* The variants are x, y"),
        ({"config": "nowhere.yaml"}, "there is no config file"),
        ({"variants": {"x": [], "y": ["model.encoder=${first.no}"]}}, r"variant y: .*first\.no.* not a run of `first`"),
        ({"variants": {"x": {"alone": True}, "x-a": []}}, "two variants would both write to .*x-a.*: rename one"),
        ({"variants": {"x": [], "y": []}, "first": {"z": {"alone": True}}}, r"first\.z: `alone` is not supported"),
        ({"variants": {"x": [], "y": ["training.seed"]}}, "variant y .*is not an override"),
        ({"variants": {"x": [], "y": ["tasks.a.label_smoothing=2"]}}, r"variant y .*label_smoothing` is 2"),
    ],
)
def test_what_is_wrong_with_a_comparison_is_said_with_its_place(folder: Path, keys: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        plan_runs(read_comparison(write(folder, **keys)), folder / "out")


def test_comparisons_are_there() -> None:
    assert {path.stem for path in COMPARISONS} >= {"snips", "hate_sentiment", "conll_sst2", "arxiv_sciie"}


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_shipped_comparison_makes_runs(path: Path, tmp_path: Path) -> None:
    comparison = read_comparison(path)
    _, runs = plan_runs(comparison, tmp_path, ["data=elsewhere"])
    assert len(comparison.seeds) == 3
    assert {run.variant for run in runs} == set(comparison.names)
    assert len({run.folder for run in runs}) == len(runs)


def test_alone_keeps_no_setting_that_is_about_other_tasks(folder: Path) -> None:
    tree = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    spec = {"type": "sequence_classification", "source": next(iter(tree["sources"])), "label": "label"}
    tree["tasks"] = {"a": spec, "a_b": spec}
    tree["sources"] = {spec["source"]: tree["sources"][spec["source"]]}
    tree["model"] = {"from": "saved", "rename": {"old": "a", "older": "a_b"}}
    tree["training"] = {"metric_for_best_model": "a_b_cross_entropy", "greater_is_better": False,
                        "freeze": ["embeddings", "heads.a_b"]}  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    _, runs = plan_runs(read_comparison(write(folder, alone=True, seeds=1)), folder / "out")
    configs = {run.model: run.config for run in runs if run.variant == "alone"}
    assert "greater_is_better" not in configs["a"].training
    assert "metric_for_best_model" not in configs["a"].training
    assert configs["a"].training["freeze"] == ["embeddings"]
    assert configs["a"].model.rename == {"old": "a"}
    assert configs["a_b"].training["metric_for_best_model"] == "a_b_cross_entropy"
    assert configs["a_b"].training["greater_is_better"] == "false"  # typed by `training/arguments.py`
    assert configs["a_b"].training["freeze"] == ["embeddings", "heads.a_b"]
    assert configs["a_b"].model.rename == {"older": "a_b"}


def test_alone_keeps_of_each_strategy_what_is_about_its_task(folder: Path) -> None:
    tree = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    one, two = list(tree["sources"])[:2]
    spec = {"type": "sequence_classification", "label": "label"}
    tree["tasks"] = {"a": spec | {"source": one}, "b": spec | {"source": two}}
    tree["training"] = {
        "freeze": ["encoder", "heads.b"],
        "unfreeze": {"schedule": "gradual", "when": "plateau", "until": {"a": 0.9, "b": 0.8}},
        "learning_rates": {"heads.a": 1e-3, "adapters.b": 1e-4, "heads.b": 1e-2},
        "policy": "fixed",
        "sampling_probabilities": {one: 0.2, two: 0.8},
        "loss_balancing": "gradnorm",
        "gradient_aggregation": "UPGrad",
        "gradient_accumulation_steps": 2,
        "log_gradient_conflicts": 50,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    _, runs = plan_runs(read_comparison(write(folder, alone=True, seeds=1)), folder / "out")
    training = {run.model: run.config.training for run in runs if run.variant == "alone"}
    assert training["a"]["freeze"] == ["encoder"]
    assert list(training["a"]["unfreeze"]["until"]) == ["a"]
    assert list(training["a"]["learning_rates"]) == ["heads.a"]
    assert training["a"]["sampling_probabilities"] == {one: 1.0}
    for setting in ("loss_balancing", "gradient_aggregation", "gradient_accumulation_steps", "log_gradient_conflicts"):
        assert setting not in training["b"]
    assert list(training["b"]["learning_rates"]) == ["adapters.b", "heads.b"]

    tree["training"] = {"freeze": ["encoder.layers.0", "heads.b"],
                        "unfreeze": {"schedule": "explicit", "at": {"heads.b": 5}}}  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    _, runs = plan_runs(read_comparison(write(folder, alone=True, seeds=1)), folder / "out")
    training = {run.model: run.config.training for run in runs if run.variant == "alone"}
    assert "unfreeze" not in training["a"]
    assert "unfreeze" in training["b"]
