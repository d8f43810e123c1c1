"""Scoring saved models: one or several, from folders or the Hub, on the data of their run or on a single file."""

import copy
import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import scipy.stats
import torch
import yaml

import mtl_hf
from mtl_hf import cli
from mtl_hf.config import RunConfig, Task
from mtl_hf.evaluation import evaluate as evaluate_module
from mtl_hf.evaluation.evaluate import _compare, write_results
from mtl_hf.evaluation.report import comparison_table, folder_names, short_names
from mtl_hf.experiments.compare import read_predictions
from mtl_hf.metrics import round_numbers
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.saved import models
from mtl_hf.saved.data_file import config_of_file, text_columns
from mtl_hf.saved.models import find_checkpoint
from mtl_hf.tasks import Answers, SourceData, TaskData
from tests.conftest import TRAINING, assistant_rows, review_rows

ROOT = Path(__file__).parents[2]
NAN = float("nan")


def write_rows(path: Path, rows: datasets.Dataset) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `first` and its data."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    for name, rows in (("assistant", assistant_rows(53)), ("reviews", review_rows(43))):
        write_rows(folder / f"{name}.jsonl", rows.select(range(32)))
        write_rows(folder / f"{name}-test.jsonl", rows.select(range(32, len(rows))))
    files = {"path": "json", "data_files": {"train": "${data}/NAME.jsonl", "test": "${data}/NAME-test.jsonl"}}
    named = {name: json.loads(json.dumps(files).replace("NAME", name)) for name in ("assistant", "reviews")}
    config = {
        "data": str(folder),
        "model": {"encoder": encoder_folder},
        "sources": {
            "assistant": named["assistant"] | {"text": "tokens"},
            "reviews": named["reviews"] | {"text": "text"},
        },
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
            "feeling": {"type": "sequence_classification", "source": "reviews", "label": "sentiment"},
        },
        "training": TRAINING | {"output_dir": str(folder / "first"), "learning_rate": 3e-3},
    }
    mtl_hf.train(config)
    return folder


def variant(runs: Path, name: str, change: Any) -> Path:
    """The run `first` with something changed, as a folder of its own without a `run.yaml`."""
    model = MultiTaskModel.from_pretrained(runs / "first")
    model.tokenizer  # noqa: B018  is read from where the model came from
    with torch.no_grad():
        change(model)
    model.save_pretrained(runs / name)
    return runs / name


@pytest.fixture(scope="module")
def turned(runs: Path) -> Path:
    """`first` with the labels of every head, and the rows of its weights, the other way round."""

    def turn(model: MultiTaskModel) -> None:
        for name, spec in model.config.heads.items():
            spec["labels"] = spec["labels"][::-1]
            for parameter in model.heads[name].classifier.parameters():
                parameter.copy_(parameter.flip(0))

    return variant(runs, "turned", turn)


@pytest.fixture(scope="module")
def worse(runs: Path) -> Path:
    """`first` with the least likely intent, a city at every word, and without the head `feeling`."""

    def spoil(model: MultiTaskModel) -> None:
        del model.heads["feeling"], model.config.heads["feeling"]
        for parameter in model.heads["intent"].parameters():
            parameter.neg_()
        model.heads["slots"].classifier.bias[model.config.heads["slots"]["labels"].index("B-city")] += 100

    return variant(runs, "worse", spoil)


# ---- several models ----


def test_labels_are_compared_by_name_whatever_their_order(runs, turned, tmp_path):
    compared = mtl_hf.evaluate([runs / "first", turned], to=tmp_path)
    first, second = compared["models"].values()
    assert second["tasks"].keys() == {"intent", "slots", "feeling"}
    (differences,) = compared["differences"].values()
    for name in first["tasks"]:
        for metric, value in first["tasks"][name].items():  # sums of floats in another order
            counted = metric in ("per_type", "per_label", "confusion")
            assert second["tasks"][name][metric] == (value if counted else pytest.approx(value)), metric
        assert differences["tasks"][name]["difference"] == 0
        assert differences["tasks"][name]["interval"] == [0, 0]
    assert differences["joint"] == {"assistant": 0}


def test_several_models_are_scored_as_each_alone_and_their_differences_written(runs, turned, worse, tmp_path, caplog):
    names = [str(runs / "first"), str(turned), str(worse)]
    compared = mtl_hf.evaluate(names, to=tmp_path / "to")
    assert "Task feeling is not compared" in caplog.text
    assert f"{worse} has no head for it" in caplog.text
    assert list(compared) == ["split", "models", "differences"]
    assert list(compared["models"]) == names
    assert list(compared["differences"]) == names[1:]
    alone = mtl_hf.evaluate(names[0], to=tmp_path / "alone")
    for task in ("intent", "slots"):
        assert compared["models"][names[0]]["tasks"][task] == alone["tasks"][task]
        primary = alone["tasks"][task]["primary"]
        found = compared["differences"][str(worse)]["tasks"][task]
        value = compared["models"][str(worse)]["tasks"][task][primary]
        assert found["difference"] == value - alone["tasks"][task][primary] != 0
        low, high = found["interval"]
        assert low < found["difference"] < high
    assert json.loads((tmp_path / "to" / "comparison.json").read_text(encoding="utf-8")) == compared

    with (tmp_path / "to" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = {(line["model"], line["task"], line["metric"]): line for line in csv.DictReader(file)}
    assert {model for model, _, _ in lines} == set(names)
    found = compared["differences"][str(worse)]["tasks"]["slots"]
    line = lines[str(worse), "slots", "f1"]
    assert [float(line[key]) for key in ("difference", "low", "high")] == [found["difference"], *found["interval"]]
    assert lines[str(worse), "slots", "recall"]["low"] == lines[names[0], "slots", "f1"]["difference"] == ""
    assert float(lines[names[0], "score", ""]["value"]) == compared["models"][names[0]]["score"]

    short = ("first", "turned", "worse")
    for name in short:
        assert len((tmp_path / "to" / name / "predictions.jsonl").read_text().splitlines()) == 21
        own = json.loads((tmp_path / "to" / name / "metrics.json").read_text(encoding="utf-8"))
        assert own == compared["models"][str(runs / name)]

    table = comparison_table(compared).splitlines()
    assert table[0].split() == ["task", "metric", *short, "turned", "-", "first", "worse", "-", "first"]
    assert [line.split()[0] for line in table[2:]] == ["intent", "slots", "all", "score", "(test"]
    (slots,) = (line for line in table if line.startswith("slots"))
    low, high = (f"{100 * end:+.2f}" for end in found["interval"])
    assert slots.endswith(f" {100 * found['difference']:+.2f} ({low} to {high})")
    assert " +0.00 (+0.00 to +0.00) " in slots


def test_columns_of_a_comparison_are_as_wide_as_what_they_hold():
    tasks = {"intent": {"primary": "accuracy", "accuracy": 1.0}}
    result = {"tasks": tasks, "joint": {}, "rows": {"data": 5}, "score": 1.0, "data": "rows.csv"}
    found = {"metric": "accuracy", "difference": 0.6, "interval": (0.2, 1.0)}
    differences = {"two": {"tasks": {"intent": found}, "joint": {}, "score": 0.6}}
    table = comparison_table({"split": "test", "models": {"one": result, "two": result}, "differences": differences})
    assert "  100.00  +60.00 (+20.00 to +100.00)\n" in table
    assert table.splitlines()[-1].startswith("(rows of rows.csv: data 5;")


def test_validation_is_scored_where_there_is_no_test_split_and_none_was_asked_for(runs, tmp_path, caplog):
    config = RunConfig.load(runs / "first" / "run.yaml")
    for source in config.sources.values():
        source.data_files = {"train": source.data_files["train"], "validation": source.data_files["test"]}
    caplog.set_level("INFO", "mtl_hf")
    found = mtl_hf.evaluate(runs / "first", config=config, to=tmp_path)
    assert (found["split"], found["rows"]) == ("validation", {"assistant": 21, "reviews": 11})
    assert "No source has a test split: the validation split is scored." in caplog.messages
    with pytest.raises(ValueError, match="no source of this config has a test split"):
        mtl_hf.evaluate(runs / "first", config=config, split="test")


def test_scores_that_are_means_of_other_metrics_are_not_subtracted(runs, worse, tmp_path):
    def rename(model: MultiTaskModel) -> None:  # tags that are no spans: their primary metric is the accuracy
        labels = model.config.heads["slots"]["labels"]
        model.config.heads["slots"]["labels"] = [label.replace("-", "_") for label in labels]

    names = [str(runs / "first"), str(variant(runs, "no-spans", rename)), str(worse)]
    compared = mtl_hf.evaluate(names, data=runs / "assistant-test.jsonl", to=tmp_path)
    assert [result["tasks"]["slots"]["primary"] for result in compared["models"].values()] == ["f1", "accuracy", "f1"]
    first, other, alike = (result["score"] for result in compared["models"].values())
    assert [found["score"] for found in compared["differences"].values()] == [None, alike - first]
    (line,) = [line for line in comparison_table(compared).splitlines() if line.startswith("score")]
    assert line.split()[-2:] == ["-", f"{100 * (alike - first):+.2f}"]
    written = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert written["differences"][names[1]]["score"] is None
    with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["model"]: line for line in csv.DictReader(file) if line["task"] == "score"}
    assert [lines[name]["difference"] for name in names] == ["", "", str(alike - first)]
    assert lines[names[1]]["value"] == str(other)


@pytest.mark.parametrize(("one", "other", "expected"), [(0.5, NAN, None), (NAN, 0.5, None), (0.5, 0.75, 0.25)])
def test_scores_of_which_one_lacks_a_task_are_not_subtracted(one, other, expected):
    def scores(value: float) -> dict[str, Any]:
        return {"score": 0.5 if value != value else value, "joint": {}, "tasks": {"a": {"primary": "f1", "f1": value}}}

    assert _compare(scores(one), scores(other), {}, {}, {}, {})["score"] == expected


def test_what_models_lack_is_an_error_where_nothing_is_left_to_compare(runs, worse):
    with pytest.raises(ValueError, match="worse has no head for feeling; it has intent, slots"):
        mtl_hf.evaluate(worse, config=runs / "first" / "run.yaml")
    with pytest.raises(ValueError, match=r"none has the name of a head \(the heads are intent, slots"):
        mtl_hf.evaluate([runs / "first", worse], data=runs / "reviews-test.jsonl")
    only = mtl_hf.RunConfig.load(runs / "first" / "run.yaml")
    only.tasks = {"feeling": only.tasks["feeling"]}
    with pytest.raises(ValueError, match="worse has no head for feeling; it has intent, slots"):
        mtl_hf.evaluate([runs / "first", worse], config=only)


def test_a_head_of_another_type_is_named_with_its_model(runs, turned, tmp_path):
    with pytest.raises(ValueError, match=r"`tasks.intent` is multi_label_classification; the head of .*first is"):
        mtl_hf.evaluate([runs / "first", turned], overrides=["tasks.intent.type=multi_label_classification"])


def test_models_are_named_once_and_at_all(runs):
    with pytest.raises(ValueError, match=r"names .*first twice"):
        mtl_hf.evaluate([runs / "first", f"{runs}/first/"])
    with pytest.raises(ValueError, match="`models` is empty"):
        mtl_hf.evaluate([])


def test_results_of_several_models_are_in_the_current_folder_by_default(runs, turned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mtl_hf.evaluate([runs / "first", turned])
    assert {path.name for path in Path("evaluation/test").iterdir()} == {
        "comparison.json", "comparison.csv", "first", "turned",
    }  # fmt: skip


def test_names_are_short_but_distinct(monkeypatch, tmp_path):
    assert short_names(["out/a", "out/b"]) == {"out/a": "a", "out/b": "b"}
    assert short_names(["out/a", "out/a/checkpoint-2"]) == {"out/a": "a", "out/a/checkpoint-2": "a/checkpoint-2"}
    assert short_names(["out/a", "me/a@v1"]) == {"out/a": "out/a", "me/a@v1": "me/a@v1"}
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert short_names(["."]) == {".": "run"}


def test_models_whose_names_are_one_folder_get_two(runs, turned, worse, tmp_path):
    assert folder_names(["x/y", "x-y", "x-y-2"]) == {"x/y": "x-y", "x-y": "x-y-2", "x-y-2": "x-y-2-2"}
    shutil.copytree(turned, tmp_path / "x" / "y")
    shutil.copytree(worse, tmp_path / "x-y")
    names = [str(tmp_path / "x" / "y"), str(tmp_path / "x-y")]
    compared = mtl_hf.evaluate(names, data=runs / "assistant-test.jsonl", to=tmp_path / "to")
    for name, folder in zip(names, ("x-y", "x-y-2"), strict=True):
        own = json.loads((tmp_path / "to" / folder / "metrics.json").read_text(encoding="utf-8"))
        assert own == compared["models"][name]


# ---- a checkpoint and a file alone ----


@pytest.fixture(scope="module")
def pulled(runs: Path) -> Path:
    """The model alone, as from the Hub: no config of a run."""
    folder = runs.parent / "elsewhere" / "pulled"
    shutil.copytree(runs / "first", folder, ignore=shutil.ignore_patterns("checkpoint-*", "run.yaml"))
    return folder


def test_a_model_and_a_file_are_enough(runs, pulled, tmp_path, caplog):
    expected = mtl_hf.evaluate(runs / "first")
    found = mtl_hf.evaluate(pulled, data=runs / "assistant-test.jsonl", precision="fp32", to=tmp_path)
    assert found["rows"] == {"data": 21}
    for task in ("intent", "slots"):
        assert found["tasks"][task] == expected["tasks"][task]
    assert "Head feeling is not scored" in caplog.text
    assert "`--label feeling=COLUMN`" in caplog.text
    assert "text tokens, labels intent of intent, slots of slots." in caplog.text


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "parquet"])
def test_the_ending_says_how_a_file_is_read(ending, runs, pulled, tmp_path):
    rows = datasets.load_dataset("json", data_files=str(runs / "reviews-test.jsonl"), split="train")
    rows = rows.remove_columns("topics").rename_columns({"text": "what they said", "sentiment": "feeling"})
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        rows.to_parquet(path)
    elif ending == "json":
        path.write_text(json.dumps(rows.to_list()), encoding="utf-8")
    else:
        rows.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    found = mtl_hf.evaluate(pulled, data=path, text="what they said", precision="fp32", to=tmp_path)
    assert found["tasks"] == {"feeling": mtl_hf.evaluate(runs / "first")["tasks"]["feeling"]}


def test_columns_of_the_run_come_first_and_arguments_before_them(runs, tmp_path):
    # `feeling` was trained on the column `sentiment`; the file has a wrong column of the head's own name too.
    rows = review_rows(43).select(range(32, 43))
    path = write_rows(tmp_path / "rows.jsonl", rows.add_column("feeling", ["pos"] * 11))
    from_run = mtl_hf.evaluate(runs / "first", data=path, to=tmp_path / "a")
    assert from_run["tasks"]["feeling"] == mtl_hf.evaluate(runs / "first")["tasks"]["feeling"]
    named = mtl_hf.evaluate(runs / "first", data=path, labels={"feeling": "feeling"}, to=tmp_path / "b")
    gold = [json.loads(line) for line in (tmp_path / "b" / "predictions.jsonl").read_text().splitlines()]
    assert {line["tasks"]["feeling"]["gold"] for line in gold} == {"pos"}
    assert named["rows"] == {"data": 11}


def test_a_head_may_read_the_text_of_another_source_of_the_run():
    heads = {name: {"type": "sequence_classification", "text": "string"} for name in ("hate", "mood")}
    config = RunConfig.load(
        {
            "model": {"encoder": "unused"},
            "sources": {name: {"path": "json", "text": f"{name}_said"} for name in heads},
            "tasks": {name: {"type": spec["type"], "source": name, "label": name} for name, spec in heads.items()},
        }
    )
    rows = datasets.Dataset.from_dict({"hate_said": ["a"], "user": ["b"]})
    for name, spec in heads.items():
        assert text_columns("rows.csv", rows, name, spec, None, config) == "hate_said"
    with pytest.raises(ValueError, match="text and hate_said could all be the text of the head mood"):
        text_columns("rows.csv", rows.add_column("text", ["c"]), "mood", heads["mood"], None, config)


def test_heads_that_read_different_columns_are_scored_from_one_file(pulled, tmp_path):
    rows = [
        row | {"text": f"lovely {' '.join(row['tokens'])}", "feeling": "pos"} for row in assistant_rows(7).to_list()
    ]
    path = write_rows(tmp_path / "rows.jsonl", datasets.Dataset.from_list(rows))
    found = mtl_hf.evaluate(pulled, data=path, to=tmp_path)
    assert found["rows"] == {"data": 7, "data-2": 7}
    assert list(found["tasks"]) == ["feeling", "intent", "slots"]  # transformers sorts what it saves


@pytest.mark.parametrize(
    ("columns", "arguments", "expected"),
    [
        (["text", "mood"], {}, r"has the columns text, mood, and none .*\(the heads are feeling, intent, slots\)"),
        (["text", "sentence", "feeling"], {}, r"text and sentence could all be the text of the head feeling.*`--text"),
        (["body", "feeling"], {}, "none has a usual name .* the text of the head feeling"),
        (["text", "feeling"], {"text": "txt"}, r"`--text txt`: .* has no column 'txt'\. Did you mean `text`\?"),
        (["text", "mood"], {"labels": {"feeling": "moo"}}, "`--label feeling=moo`: .* has no column 'moo'"),
        (["text", "mood"], {"labels": {"feelin": "mood"}}, r"`--label feelin=mood`: .* Did you mean `feeling`\?"),
        (["text", "feeling"], {"split": "train"}, "all rows of a file"),
        (["text", "feeling"], {"overrides": ["data=x"]}, "data=x: there is no config that these overrides"),
    ],
)
def test_what_cannot_be_told_is_asked_for(columns, arguments, expected, pulled, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", datasets.Dataset.from_list([dict.fromkeys(columns, "pos")] * 3))
    with pytest.raises(ValueError, match=expected):
        mtl_hf.evaluate(pulled, data=path, **arguments)


def test_a_column_that_two_heads_may_mean_is_asked_for(runs, turned, tmp_path):
    config = mtl_hf.RunConfig.load(runs / "first" / "run.yaml")
    both = copy.deepcopy(config)
    for name in ("intent", "feeling"):
        both.tasks[name].label = "label"
    rows = datasets.Dataset.from_list([{"tokens": ["play", "jazz"], "text": "play jazz", "label": "music"}] * 3)
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match="'label' could contain the labels of feeling or of intent"):
        mtl_hf.evaluate(turned, data=path, config=both)
    found = mtl_hf.evaluate(turned, data=path, config=both, labels={"intent": "label"}, to=tmp_path)
    assert list(found["tasks"]) == ["intent"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rows.jsnl", r"there is no file .*\. Did you mean `rows.jsonl`\?"), ("rows.xlsx", "ends in")],
)
def test_files_that_cannot_be_read_are_named(name, expected, pulled, tmp_path):
    for present in ("rows.jsonl", "rows.xlsx"):
        (tmp_path / present).write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=expected):
        mtl_hf.evaluate(pulled, data=tmp_path / name)


def test_columns_without_a_file_and_a_model_without_data_are_refused(pulled):
    with pytest.raises(ValueError, match="name columns of a file"):
        mtl_hf.evaluate(pulled, text="review")
    with pytest.raises(ValueError, match=r"there is no run.yaml that names the data. Give a config .* file of rows"):
        mtl_hf.evaluate(pulled)


@pytest.mark.parametrize(
    ("trained_on", "columns", "expected"),
    [
        ("pair", "text", r"head same of .*pair was trained on pairs; the texts of data \(text\) are single"),
        ("string", "text,other", r"head same of .*string was trained on single texts; .* \(text and other\) are pairs"),
    ],
)
def test_a_head_for_pairs_is_not_scored_on_single_texts_nor_the_reverse(
    trained_on, columns, expected, encoder_folder, tmp_path
):
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text=trained_on)
    model.save_pretrained(tmp_path / trained_on)
    rows = datasets.Dataset.from_list([{"text": "play jazz", "other": "play rock", "same": "no"}] * 3)
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=expected):
        mtl_hf.evaluate(tmp_path / trained_on, data=path, text=columns, to=tmp_path / "to")
    right = "text,other" if trained_on == "pair" else "text"
    found = mtl_hf.evaluate(tmp_path / trained_on, data=path, text=right, to=tmp_path / "to")
    assert found["rows"] == {"data": 3}


@pytest.mark.parametrize("loss", [None, "ranking"])
def test_pairs_of_a_file_are_scored_by_their_scores_or_else_by_ranks(loss, encoder_folder, tmp_path, caplog):
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("alike", type="sentence_similarity", loss=loss)
    model.save_pretrained(tmp_path / "model")
    texts = [
        (f"play {word} {row}", f"book {row} {word}") for row, word in enumerate(("jazz", "rome", "table", "river") * 3)
    ]
    rows = [
        {"text": first, "text_pair": second, "score": 10 * row % 7 - 2} for row, (first, second) in enumerate(texts)
    ]
    path = write_rows(tmp_path / "rows.jsonl", datasets.Dataset.from_list(rows))
    first, second = (model.encode([pair[side] for pair in texts], normalize=True) for side in (0, 1))
    cosines = (first @ second.T).numpy()
    found = mtl_hf.evaluate(tmp_path / "model", data=path, labels={"alike": "score"}, to=tmp_path / "scored",
                            precision="fp32")  # fmt: skip
    expected = scipy.stats.spearmanr(cosines.diagonal(), [row["score"] for row in rows]).statistic
    assert found["tasks"]["alike"]["spearman"] == pytest.approx(expected, abs=1e-6)
    if loss is None:
        with pytest.raises(ValueError, match="none has the name of a head"):
            mtl_hf.evaluate(tmp_path / "model", data=path, to=tmp_path / "ranked")
        return
    found = mtl_hf.evaluate(tmp_path / "model", data=path, to=tmp_path / "ranked", precision="fp32")
    ranks = [sum(cosine > row[own] - 1e-6 for cosine in row) for own, row in enumerate(cosines)]
    assert found["tasks"]["alike"]["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)), abs=1e-6)
    assert "text text and text_pair, labels none of alike." in caplog.text


@pytest.mark.parametrize(("task", "nothing"), [("intent", None), ("slots", None), ("slots", [None, None])])
def test_a_file_without_a_label_of_a_head_is_refused(task, nothing, pulled, tmp_path):
    rows = [{"tokens": ["play", "jazz"], "intent": "music", "slots": ["O", "O"]} | {task: nothing}] * 3
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=f"rows.jsonl: no row has a label for {task} in the column '{task}'"):
        mtl_hf.evaluate(pulled, data=path, to=tmp_path / "to")
    assert not (tmp_path / "to").exists()


# ---- where models come from ----


def test_a_mistyped_folder_is_answered_without_the_hub(runs, tmp_path, monkeypatch):
    def no_hub(*args: object, **kwargs: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(models, "read_config", no_hub)
    monkeypatch.setattr(models, "cached_file", no_hub)
    monkeypatch.chdir(runs.parent)
    for name, hint in [
        (f"{runs.name}/frist", r"Did you mean `first`\? \(On the Hub it would be .*/frist@main\.\)"),
        (str(runs / "frist"), r"Did you mean `first`\?$"),
        ("nowhere", ""), ("./a/b", ""), ("a/b/c", ""), ("~/x", ""),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"is not a saved model: there is no such folder.*{hint}"):
            find_checkpoint(name)
    with pytest.raises(ValueError, match=r"is not a saved model: it has no config\.json"):
        find_checkpoint(runs)


@pytest.mark.parametrize("revision", ["", "@v1"])
@pytest.mark.usefixtures("processes")
def test_a_model_of_the_hub_brings_its_config_and_one_that_is_not_there_is_one_line(runs, revision, tmp_path):
    # The Hub as it is left on disk by an earlier download: `main` is a broken model unless `main` is asked for.
    home = tmp_path / "home" / "hub" / "models--me--model"
    for branch, wanted in (("main", not revision), ("v1", bool(revision))):
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / branch).write_text(branch, encoding="utf-8")
        snapshot = home / "snapshots" / branch
        shutil.copytree(runs / "first", snapshot, ignore=shutil.ignore_patterns("checkpoint-*", "evaluation"))
        if not wanted:
            for name in ("tokenizer.json", "model.safetensors", "run.yaml"):
                (snapshot / name).write_text("broken", encoding="utf-8")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mtl_hf", "evaluate"]
    done = subprocess.run(
        [*command, f"me/model{revision}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = tmp_path / "evaluation" / "test" / f"me-model{revision}" / "metrics.json"
    assert json.loads(written.read_text()) == json.loads((runs / "first" / "metrics.json").read_text())
    assert "(test rows: assistant 21, reviews 11)" in done.stdout
    if revision:
        return
    done = subprocess.run([*command, "me/other"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mtl-hf: ")]
    assert line.startswith(
        "mtl-hf: me/other cannot be loaded (there is no such folder, so it was looked for on the Hub)"
    )
    assert "Traceback" not in done.stderr


def test_scores_of_a_file_are_kept_apart_and_those_of_a_model_are_never_replaced(runs):
    found = mtl_hf.evaluate(runs / "first", data=runs / "assistant-test.jsonl")
    written = json.loads((runs / "first" / "evaluation" / "assistant-test" / "metrics.json").read_text("utf-8"))
    assert written["data"] == found["data"] == str(runs / "assistant-test.jsonl")
    (runs / "other").mkdir()
    shutil.copy(runs / "assistant-test.jsonl", runs / "other" / "test.jsonl")
    mtl_hf.evaluate(runs / "first", data=runs / "other" / "test.jsonl")  # called as a split: its folder's name, too
    assert (runs / "first" / "evaluation" / "other-test" / "metrics.json").exists()
    own = (runs / "first" / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="contains a model, whose own scores would be replaced"):
        mtl_hf.evaluate(runs / "first", to=runs / "first")
    assert (runs / "first" / "metrics.json").read_bytes() == own


def test_models_that_mask_other_tokens_have_no_interval_of_their_difference():
    task = TaskData("mlm", Task(type="masked_lm", source="plain"), [], "string")
    scores = {"score": NAN, "joint": {}, "tasks": {
        "mlm": {"primary": "perplexity", "perplexity": 9.0, "interval": [8.0, 10.0]}
    }}  # fmt: skip
    first, second = (
        {"plain": {"mlm": Answers(np.array(rows), [[1.0, 1.0]] * len(rows), [2] * len(rows))}}
        for rows in ([0, 1, 2], [0, 2])
    )
    found = _compare(scores, scores, {"mlm": task}, first, {"mlm": task}, second)
    assert found["tasks"]["mlm"] == {"metric": "perplexity", "difference": 0.0}
    assert "interval" in _compare(scores, scores, {"mlm": task}, first, {"mlm": task}, first)["tasks"]["mlm"]


def test_a_head_that_needs_no_labels_is_not_scored_where_its_text_is_not_clear(runs, tmp_path, caplog):
    model = mtl_hf.MultiTaskModel.from_pretrained(runs / "first")
    model.add_head("mlm", type="masked_lm")
    model.save_pretrained(tmp_path / "more")
    rows = [{"what they said": "play some jazz", "text": "book a room", "intent": "music"}] * 4  # which is mlm's?
    datasets.Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    heads = {name: model.config.heads[name] for name in ("intent", "mlm")}
    run = RunConfig.load(runs / "first" / "run.yaml")
    run.sources[run.tasks["intent"].source].text = "what they said"
    config = config_of_file(tmp_path / "rows.jsonl", heads, run)
    assert list(config.tasks) == ["intent"]
    assert "Head mlm is not scored: " in caplog.text


# ---- a config that came with the model ----

CODE = """
from pathlib import Path
import datasets
import evaluate

Path({marker!r}).touch()

class Own(evaluate.Metric):
    def _info(self):
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64")))
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {{"own": 1.0}}
"""


@pytest.fixture
def hostile(runs: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A model whose `run.yaml` names a metric that is code, and the file that this code would make."""
    folder, marker = tmp_path / "pulled", tmp_path / "code has run"
    shutil.copytree(runs / "first", folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    config = (folder / "run.yaml").read_text(encoding="utf-8")
    metric = f"    metrics: [{folder / 'own.py'}, macro_f1]\n"
    (folder / "run.yaml").write_text(config.replace("    label: intent\n", f"    label: intent\n{metric}"))
    return folder, marker


@pytest.mark.parametrize("with_file", [False, True])
def test_no_code_that_a_models_own_config_names_is_run(with_file, hostile, runs, tmp_path, caplog):
    folder, marker = hostile
    rows = {"data": runs / "assistant-test.jsonl"} if with_file else {}
    results = mtl_hf.evaluate(folder, intervals=False, **rows)
    assert not marker.exists()
    assert results["tasks"]["intent"]["primary"] == "macro_f1"
    (warning,) = [record.getMessage() for record in caplog.records if "metrics that run code" in record.getMessage()]
    assert f"intent: {folder / 'own.py'}" in warning
    assert f"--config {folder / 'run.yaml'}, or --trust-remote-code" in warning


@pytest.mark.parametrize(
    "options", [{"trust_remote_code": True}, {"config": "{folder}/run.yaml"}, {"overrides": ["{metric}"]}]
)
def test_metrics_that_the_user_chose_are_loaded(options, hostile, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = hostile
    metric = f"tasks.intent.metrics=[{folder / 'own.py'}]"
    if "config" in options:
        options = {"config": folder / "run.yaml"}
    elif "overrides" in options:
        options = {"overrides": [metric]}
    results = mtl_hf.evaluate(folder, intervals=False, **options)
    assert marker.exists()
    assert results["tasks"]["intent"]["own"] == 1


def test_data_outside_of_a_models_folder_are_named_before_they_are_read(runs, tmp_path, caplog, monkeypatch):
    shutil.copytree(runs / "first", tmp_path / "pulled")
    caplog.clear()
    named: list[str] = []
    monkeypatch.setattr(evaluate_module, "load_sources", lambda *_: named.append(caplog.text) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mtl_hf.evaluate(tmp_path / "pulled")
    assert (
        f"names data outside its folder, which will be read: {runs}/assistant.jsonl, {runs}/assistant-test.jsonl"
        in (named[0])
    )


@pytest.mark.parametrize("kind", ["sql", "{folder}/loader.py", "spark"])
def test_a_models_own_config_names_no_loader_that_runs_code(kind, runs, tmp_path):
    folder = tmp_path / "pulled"
    shutil.copytree(runs / "first", folder)
    config = (folder / "run.yaml").read_text(encoding="utf-8").replace("path: json", f"path: {kind}")
    (folder / "run.yaml").write_text(config.replace("{folder}", str(folder)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"`sources\.assistant\.path` is .* pass .*run\.yaml as the config"):
        mtl_hf.evaluate(folder)


def test_results_in_a_folder_are_replaced_on_request_only(runs, tmp_path):
    mtl_hf.evaluate(runs / "first", to=tmp_path / "to", intervals=False)
    before = (tmp_path / "to" / "metrics.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"which contains results \(metrics.json\).* --overwrite"):
        mtl_hf.evaluate(runs / "first", to=tmp_path / "to")
    mtl_hf.evaluate(runs / "first", to=tmp_path / "to", intervals=False, overwrite=True)
    assert (tmp_path / "to" / "metrics.json").read_text(encoding="utf-8") == before


# Files of results


def test_lines_of_predictions_have_null_for_lost_words_and_six_digits(tmp_path):
    rows = datasets.Dataset.from_dict({"text": [["play", "jazz"], ["go"]]})
    source = SourceData("only", "words", ["text"], {"test": rows})
    source.gold["test"]["tags"] = [["O", "O"], ["B-x"]]
    answers = {"only": {
        "tags": Answers(np.arange(2), [["O", None], ["B-x"]], [["O", "O"], ["B-x"]]),
        "stars": Answers(np.arange(1), [2 / 3], [1 / 3]),
    }}  # fmt: skip
    kinds = {"tags": "token_classification", "stars": "regression"}
    tasks = {name: TaskData(name, Task(type=kind, source="only"), [], "words") for name, kind in kinds.items()}
    write_results(tmp_path, {"score": 2 / 3}, {"only": source}, "test", answers, tasks)
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["tasks"] for line in lines] == [
        {"tags": {"predicted": ["O", None], "gold": ["O", "O"]}, "stars": {"predicted": 0.666667, "gold": 1 / 3}},
        {"tags": {"predicted": ["B-x"], "gold": ["B-x"]}},
    ]
    assert read_predictions(tmp_path, tasks)["only"]["tags"].correct.tolist() == [False, True]


def test_floats_are_rounded_wherever_they_are():
    found = round_numbers({"a": [1234567.8, {"b": 1.23456789e-7}], "n": 12345678, "t": True, "none": None, "s": "x"})
    assert found == {"a": [1234570.0, {"b": 1.23457e-7}], "n": 12345678, "t": True, "none": None, "s": "x"}


def test_a_split_without_labels_is_refused_and_a_task_without_any_is_named(runs, tmp_path, caplog):
    def without(*columns: str) -> str:
        for path in runs.glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if path.stem.endswith("-test"):
                rows = [row | dict.fromkeys(columns & row.keys()) for row in rows]
            write_rows(tmp_path / path.name, datasets.Dataset.from_list(rows))
        return f"data={tmp_path}"

    with pytest.raises(ValueError, match="no row of the test split has a label for intent, slots, feeling, so"):
        mtl_hf.evaluate(runs / "first", overrides=[without("intent", "slots", "sentiment")], to=tmp_path / "to")
    found = mtl_hf.evaluate(runs / "first", overrides=[without("slots")], to=tmp_path / "to", intervals=False)
    assert (
        "Task slots: no row of the test split has a label in the column 'slots'; it is not scored." in caplog.messages
    )
    assert found["tasks"]["intent"]["accuracy"] >= 0


class Touch:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_verb_runs_code_or_reads_a_pickle_of_a_models_folder(hostile, runs, tmp_path, monkeypatch):
    folder, marker = hostile
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "pytorch_model.bin", "rng_state.pth"):
        (folder / name).write_bytes(pickle.dumps(Touch(marker)))
    for path in folder.glob("*.py"):
        path.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n", encoding="utf-8")
    path = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | own), encoding="utf-8")
    monkeypatch.chdir(folder)  # where relative names could mean its files
    for verb in (
        ["predict", folder, "play jazz"],
        ["embed", folder, "play jazz", "book a table"],
        ["inspect", folder],
        ["evaluate", folder],
        ["evaluate", folder, "--data", runs / "assistant-test.jsonl", "--to", tmp_path / "file"],
        ["export-head", folder, "slots", "--to", tmp_path / "head"],
        ["export-encoder", folder, "--to", tmp_path / "encoder"],
        ["plot", folder],
        ["push", folder, "me/model", "--dry-run"],
        ["train", folder.parent / "next.yaml", "--dry-run"],
    ):
        if verb[0] == "train":
            tree = yaml.safe_load((runs / "first" / "run.yaml").read_text(encoding="utf-8"))
            tree["model"] = {"from": str(folder)}
            tree["training"]["output_dir"] = str(tmp_path / "next")
            (folder.parent / "next.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        cli.main([str(part) for part in verb])
        assert not marker.exists(), verb
