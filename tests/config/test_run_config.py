"""Tests of `mtl_hf.config.run_config`: refusals, variables, overrides and the way back to YAML."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from mtl_hf.config import RunConfig, plain, typed
from mtl_hf.tasks import check_settings
from tests.config.conftest import MINIMAL, load_text, minimal


def test_quotes_keep_text_text_where_the_field_takes_anything(tmp_path: Path) -> None:
    text = MINIMAL.replace("text: text", "text: text, sep: '1', name: '012', header: 1, quoting: no")
    run = load_text(tmp_path, text)
    assert run.sources["reviews"].loader == {"sep": "1", "name": "012", "header": 1, "quoting": "no"}


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("encoder: some/encoder", "encodr: a", r"unknown key `encodr` in `model`\. Did you mean `encoder`\?"),
        ("label: sentiment", "lable: sentiment",
         r"unknown key `lable` in `tasks\.sentiment`\. Did you mean `label`"),
        ("tasks:", "task:", r"unknown key `task` .*Did you mean `tasks`\?"),
        ("model: {encoder: some/encoder}", "", "`model` is missing"),
        ("encoder: some/encoder", "pooling: cls", r"`model\.encoder` is missing: name a pretrained encoder"),
        ("encoder: some/encoder", "encoder: a, pooling: men",
         r"`model\.pooling` is 'men'\. Did you mean `mean`\? Valid are mean, cls, max, attention, and mean_last_<n>"),
        ("label: sentiment", "label: sentiment, pooling: mean_last_1", r"`tasks\.sentiment\.pooling` is 'mean_last_1'"),
        ("encoder: some/encoder", "encoder: a, max_length: long", r"`model\.max_length` is long; .* whole number"),
        ("encoder: some/encoder", "encoder: a, from: b", r"`model` has both `encoder` and `from`: remove one"),
        ("encoder: some/encoder", "from_: b", r"unknown key `from_` in `model`\. Did you mean `from`\?"),
        ("encoder: some/encoder", "from: [b]", r"`model\.from` is a list of 1; it should be text"),
        ("encoder: some/encoder", "encoder: a, keep: encoder", r"`model\.keep` only works with `model\.from`"),
        ("encoder: some/encoder", "encoder: a, rename: {b: c}", r"`model\.rename` only works with `model\.from`"),
        ("encoder: some/encoder", "from: b, keep: all", r"`model\.keep` is all; valid are encoder, matching"),
        ("encoder: some/encoder", "from: b, keep: encoder, rename: {b: c}", r"`model\.rename` .* loads none"),
        ("encoder: some/encoder", "from: b, pooling: cls", r"`model\.pooling` .* keep the pooling .*`model\.keep"),
        ("encoder: some/encoder", "from: b, revision: v1", r"`model\.revision` .* me/model@revision"),
        ("encoder: some/encoder", "from: b, trust_remote_code: true", r"`model\.trust_remote_code` .* no remote code"),
        ("label: sentiment", "label: sentiment, train: false", r"`tasks\.sentiment\.train` .* no trained head"),
        ("encoder: some/encoder", "encoder: a, dropout: 1.0", r"`model\.dropout` is 1\.0; it should be at least 0"),
        ("label: sentiment", "label: sentiment, label_smoothing: 2", r"`tasks\.sentiment\.label_smoothing` is 2\.0"),
        ("text: text", "text: text, batch_size: 0", r"`sources\.reviews\.batch_size` is 0; .* at least 1"),
        ("text: text", "text: text, batch_size: -8", r"`sources\.reviews\.batch_size` is -8"),
        ("source: reviews", "source: review",
         r"`tasks\.sentiment\.source` is 'review', which is not a source\. Did you mean `reviews`"),
        ("  reviews: {", "  other: {path: json, text: text}\n  reviews: {", r"`sources\.other` is not used by any"),
        ("  reviews: {", "  a b: {path: json, text: text}\n  reviews: {", "a source cannot be called 'a b'"),
    ],
)  # fmt: skip
def test_wrong_config_is_refused_by_the_name_of_its_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    with pytest.raises(ValueError, match=expected):
        check_settings(load_text(tmp_path, MINIMAL.replace(old, new, 1)))


@pytest.mark.parametrize("section", ["sources", "tasks", "training", "model"])
def test_section_that_is_no_mapping_is_refused(section: str) -> None:
    with pytest.raises(ValueError, match=rf"`{section}` is a list of 1; it should be a mapping"):
        RunConfig.load(minimal(**{section: ["x"]}))


def test_config_without_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="`tasks` is empty"):
        RunConfig.load(minimal(tasks={}))


@pytest.mark.parametrize("name", ["Categoría", "Категория", "श्रेणी", "Categori\u0301a", "日本", "a-1_b", "1a"])
def test_task_may_have_a_name_in_any_script(name: str) -> None:
    task = minimal()["tasks"]["sentiment"]
    config = RunConfig.load(minimal(tasks={name: task}), [f"tasks.{name}.loss_weight=2"])
    assert config.tasks[name].loss_weight == 2.0


@pytest.mark.parametrize("name", ["a.b", "a b", "", "-a", "_a", "é/", "\u0301e", "loss", "score", "joint", "runtime"])
def test_task_name_that_cannot_be_one_is_refused(name: str) -> None:
    task = minimal()["tasks"]["sentiment"]
    with pytest.raises(ValueError, match=rf"a task cannot be called '{re.escape(name)}'"):
        RunConfig.load(minimal(tasks={name: task}))


@pytest.mark.parametrize("name", ["a", "NER-2", "wikiann_de", "2nd", "é", "Categoría", "类别", "тема_2"])
def test_names_of_letters_digits_and_dashes_are_fine(name: str) -> None:
    config = minimal()
    config["sources"] = {name: config["sources"]["reviews"]}
    config["tasks"] = {name: config["tasks"]["sentiment"] | {"source": name}}
    assert list(RunConfig.load(config).tasks) == [name]


def test_reserved_task_names_are_fine_for_sources() -> None:
    config = minimal()
    config["sources"] = {"loss": config["sources"]["reviews"]}
    config["tasks"]["sentiment"]["source"] = "loss"
    assert list(RunConfig.load(config).sources) == ["loss"]


# Variables


def test_variables_are_filled_in_everywhere_and_may_use_each_other(tmp_path: Path) -> None:
    text = "root: /data\ndata: ${root}/sets\nrate: 1e-3\nsize: 7\n" + MINIMAL.replace(
        "train: a.jsonl", "train: ${data}/a.jsonl, test: ['${data}/b', ${root}]"
    ).replace("text: text", "text: text, batch_size: ${size}")
    run = load_text(tmp_path, text + "training: {learning_rate: ${rate}, output_dir: out-${size}-${rate}}\n")
    assert run.sources["reviews"].data_files == {"train": "/data/sets/a.jsonl", "test": ["/data/sets/b", "/data"]}
    assert run.sources["reviews"].batch_size == 7
    assert typed(float, run.training["learning_rate"], "") == 1e-3
    assert run.training["output_dir"] == "out-7-1e-3"
    assert run.variables == {"root": "/data", "data": "/data/sets", "rate": 1e-3, "size": 7}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: x\n", r"unknown key `data` .* neither a section nor a variable used as \$\{data\}"),
        ("a: ${b}\nb: ${a}\n", r"a -> b -> a refer to each other in a circle|b -> a -> b refer"),
        ("a: ${a}\n", "a -> a refer to each other in a circle"),
        ("data: {x: 1}\n", "unknown key `data` .*variables are plain values"),
        ("my-data: x\n", "unknown key `my-data`"),
    ],
)
def test_variable_that_leads_nowhere_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load_text(tmp_path, text + MINIMAL)


def test_undefined_variable_is_refused_with_the_nearest(tmp_path: Path) -> None:
    text = "data: x\n" + MINIMAL.replace("a.jsonl", "'${dta}/${data}'")
    with pytest.raises(ValueError, match=r"`\$\{dta\}` is not defined\. Did you mean `data`\?"):
        load_text(tmp_path, text)


# Overrides


def test_overrides_change_add_and_make_mappings(tmp_path: Path) -> None:
    run = load_text(
        tmp_path,
        "data: here\n" + MINIMAL.replace("a.jsonl", "${data}/a.jsonl"),
        (
            "data=/there",
            "model.pooling=cls",
            "training.learning_rate=5e-5",
            "training.lr_scheduler_kwargs.min_lr=1e-6",
            "sources.reviews.split.validation=0.2",
            "sources.reviews.text='no'",
            "tasks.sentiment.labels=[no, on]",
            "tasks.sentiment.metrics=[macro_f1, {path: f1, average: macro}]",
            "model.revision=",
            "training.output_dir=a=b",
        ),
    )
    assert run.sources["reviews"].data_files == {"train": "/there/a.jsonl"}
    assert run.model.pooling == "cls"
    assert run.model.revision is None
    assert run.sources["reviews"].split == {"validation": 0.2}
    assert run.sources["reviews"].text == "no"
    assert run.tasks["sentiment"].labels == ["no", "on"]
    assert run.tasks["sentiment"].metrics == ["macro_f1", {"path": "f1", "average": "macro"}]
    assert run.training == {
        "learning_rate": "5e-5",
        "lr_scheduler_kwargs": {"min_lr": "1e-6"},
        "output_dir": "a=b",
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.learning_rate", r"is not an override: write key=value, as in training\.learning_rate=1e-4"),
        ("=5", "is not an override"),
        ("a..b=1", "is not an override"),
        (".a=1", "is not an override"),
        ("model.encoder.x=1", "`encoder` holds 'some/encoder', which has no keys"),
        ("training.x=[1", r"override 'training\.x=\[1' is not valid YAML"),
        ("model.poolin=cls", "unknown key `poolin` in `model`. Did you mean `pooling`"),
        ("modl.pooling=cls", "unknown key `modl`"),
    ],
)
def test_override_that_cannot_be_one_is_refused(override: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        RunConfig.load(minimal(), [override])


def test_overrides_leave_the_dict_that_was_given_alone() -> None:
    config = minimal()
    RunConfig.load(config, ["model.pooling=max", "training.seed=1"])
    assert config == minimal()


def test_run_config_passes_through_but_takes_no_overrides() -> None:
    run = RunConfig.load(minimal())
    assert RunConfig.load(run) is run
    with pytest.raises(ValueError, match="overrides apply to a YAML file or a dict"):
        RunConfig.load(run, ["model.pooling=max"])


def test_from_is_read_and_written_by_that_name() -> None:
    tree = minimal(model={"from": "me/model@v1", "rename": {"a": "b"}})
    for given, overrides in ((tree, []), (minimal(), ["model.encoder=", "model.from=me/model@v1", "model.rename.a=b"])):
        run = RunConfig.load(given, overrides)
        assert (run.model.from_, run.model.encoder, run.model.keeps_heads) == ("me/model@v1", None, True)
        assert run.to_dict()["model"] == {"from": "me/model@v1", "rename": {"a": "b"}}
        assert RunConfig.load(yaml.safe_load(run.to_yaml())) == run
    back = RunConfig.load(tree, ["model.from=null", "model.rename=null", "model.encoder=some/encoder"])
    assert (back.model.from_, back.model.encoder, back.model.keeps_heads) == (None, "some/encoder", False)
    assert not RunConfig.load(tree, ["model.keep=encoder", "model.rename=null"]).model.keeps_heads


def test_a_run_trains_at_least_one_task() -> None:
    config = minimal(model={"from": "a"})
    for task in config["tasks"].values():
        task["train"] = False
    with pytest.raises(ValueError, match="`train` is false for every task"):
        RunConfig.load(config)


# Python and back

CONFIGS: list[dict[str, Any]] = [
    minimal(),
    minimal(
        model={
            "encoder": "package:a/b", "revision": "no", "pooling": "max", "max_length": 12, "dropout": 0.0,
            "trust_remote_code": True, "attn_implementation": "none",
            "encoder_config": {"a": "1e5", "b": 1e5, "c": None},
        },
        training={"learning_rate": 5e-5, "bf16": False, "output_dir": "012", "run_name": "1e5", "freeze": ["no"]},
    ),
    minimal(
        sources={
            "reviews": {
                "path": "csv", "data_files": ["a", "no"], "text": ["012", "on"], "batch_size": 3, "drop_bad_rows": True,
                "split": {"validation": 0.1, "test": "off", "stratify": "1e5", "seed": 7},
                "sep": "\t", "encoding": "latin-1", "name": "012", "x": "1e5", "y": "inf", "z": "~", "w": "-.5",
                "v": "",                "u": "null", "t": "True", "s": "1_000", "r": " a", "q": "a: b", "p": "é\n#x",
                "o": [True, None, 1.5, "2"],
            }
        },
        tasks={
            "a": {"type": "sequence_classification", "source": ["reviews"], "label": "no",
                  "labels": ["no", "on", "012", "1e5", "none", "null"],
                  "metrics": ["macro_f1", {"path": "x", "k": "1e5"}]},
            "b": {"type": "regression", "source": "reviews", "label": "1", "loss_weight": 2.0, "score_weight": 0.0,
                  "learning_rate": 1e-3, "pooling": "cls", "dropout": 0.2, "bio": "refuse"},
            "c": {"type": "sequence_classification", "source": "reviews", "label": "no", "label_smoothing": 0.1,
                  "labels": {"0": "no", "1": "012"}},
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_config_survives_the_way_to_yaml_and_back(tmp_path: Path, config: dict[str, Any]) -> None:
    run = RunConfig.load(config)
    again = load_text(tmp_path, run.to_yaml())
    # `training` is typed by the fields of the arguments; until then its scalars are text or what Python gave.
    assert dataclasses.replace(again, training=plain(again.training)) == run
    assert RunConfig.load(run.to_dict()) == run
    assert again.to_yaml() == run.to_yaml()


def test_yaml_with_variables_and_overrides_survives_the_way_back(tmp_path: Path) -> None:
    run = load_text(tmp_path, "data: no\n" + MINIMAL.replace("a.jsonl", "${data}/a"), ("training.run_name=on",))
    again = load_text(tmp_path, run.to_yaml())
    assert dataclasses.replace(again, variables=run.variables) == run


def test_dict_and_yaml_give_the_same_config(tmp_path: Path) -> None:
    text = """
data: here
model: {encoder: a, dropout: 0, max_length: 12}
sources:
  s: {path: csv, data_files: {train: "${data}/t.csv"}, text: [a, b], sep: ";", split: {validation: 0.5, seed: 3}}
tasks:
  t: {type: sequence_classification, source: s, label: l, labels: {0: no, 2: yes, true: on}, loss_weight: 2}
"""
    from_python = RunConfig.load(
        {
            "data": "here",
            "model": {"encoder": "a", "dropout": 0, "max_length": 12},
            "sources": {
                "s": {
                    "path": "csv",
                    "data_files": {"train": "${data}/t.csv"},
                    "text": ("a", "b"),
                    "sep": ";",
                    "split": {"validation": 0.5, "seed": 3},
                }
            },
            "tasks": {
                "t": {
                    "type": "sequence_classification",
                    "source": "s",
                    "label": "l",
                    "labels": {0: "no", 2: "yes", True: "on"},
                    "loss_weight": 2,
                }
            },
        }
    )
    assert load_text(tmp_path, text) == from_python


def test_paths_and_datasets_of_python_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a"]})
    both = datasets.DatasetDict(train=rows)
    config = minimal(training={"output_dir": tmp_path})
    config["model"]["encoder"] = tmp_path
    config["sources"] = {"reviews": {"dataset": both, "text": "text"}, "files": {
        "path": "json", "data_files": {"train": tmp_path / "a"}, "text": "text"}}  # fmt: skip
    config["tasks"]["sentiment"]["source"] = ["reviews", "files"]
    run = RunConfig.load(config)
    assert run.sources["reviews"].dataset["train"] is rows
    assert run.model.encoder == str(tmp_path)
    saved = yaml.safe_load(run.to_yaml())
    assert saved["training"] == {"output_dir": str(tmp_path)}
    assert saved["sources"] == {
        "reviews": {"text": "text"},
        "files": {"path": "json", "data_files": {"train": str(tmp_path / "a")}, "text": "text"},
    }


# The rest


def test_config_is_read_without_torch() -> None:
    code = (
        "import sys, mtl_hf, mtl_hf.config as c; c.describe({})\n"
        f"c.RunConfig.load({minimal()!r})\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_saved_config_keeps_its_variables_so_that_others_can_be_given(tmp_path: Path) -> None:
    first = tmp_path / "first.yaml"
    first.write_text(
        "data: here\nmodel: {encoder: x}\ntraining: {do_eval: on, seed: 012}\n"
        "sources: {s: {path: json, data_files: '${data}/s.jsonl', text: t}}\n"
        "tasks: {a: {type: regression, source: s, label: y}}\n",
        encoding="utf-8",
    )
    loaded = RunConfig.load(first, ["tasks.a.loss_weight=2"])
    saved = tmp_path / "run.yaml"
    saved.write_text(loaded.to_yaml(), encoding="utf-8")
    assert RunConfig.load(saved) == loaded
    assert RunConfig.load(saved, ["data=there"]).sources["s"].data_files == "there/s.jsonl"
    assert loaded.to_yaml().count("${data}") == 1


def test_access_tokens_are_not_written(tmp_path: Path) -> None:
    config = RunConfig.load(
        {
            "model": {"encoder": "x"},
            "sources": {"s": {"path": "me/private", "text": "t", "token": "SECRET"}},
            "tasks": {"a": {"type": "regression", "source": "s", "label": "y"}},
            "training": {"hub_token": "SECRET", "seed": 1},
        }
    )
    assert config.sources["s"].loader["token"] == "SECRET"
    assert "SECRET" not in config.to_yaml()
    assert "seed" in config.to_yaml()


def test_variables_that_only_access_tokens_are_made_of_are_not_written(tmp_path: Path) -> None:
    config = RunConfig.load(
        {
            "secret": "SECRET",
            "mine": "hf_${secret}",
            "seed": 3,
            "model": {"encoder": "x"},
            "sources": {"s": {"path": "me/private", "text": "t"}},
            "tasks": {"a": {"type": "regression", "source": "s", "label": "y"}},
            "training": {"hub_token": "${mine}", "seed": "${seed}"},
        }
    )
    assert config.training["hub_token"] == "hf_SECRET"
    assert "SECRET" not in config.to_yaml()
    saved = tmp_path / "run.yaml"
    saved.write_text(config.to_yaml(), encoding="utf-8")
    assert RunConfig.load(saved).variables == {"seed": 3}


def test_secrets_at_any_depth_stay_out_of_files_and_what_is_only_called_alike_stays() -> None:
    config = {
        "model": {"encoder": "e"},
        "aws": "KEY",
        "sources": {"token": {"path": "json", "text": "t", "storage_options": {"key": "${aws}", "token": "S"},
                              "download_config": {"token": "S", "retries": 3}}},
        "tasks": {"token": {"type": "regression", "source": "token", "label": "l"}},
        "training": {"hub_token": "S", "include_num_input_tokens_seen": "no", "output_dir": "o"},
    }  # fmt: skip
    text = RunConfig.load(config).to_yaml()
    saved = yaml.safe_load(text)
    assert saved["sources"] == {"token": {"path": "json", "text": "t", "download_config": {"retries": "3"}}} or saved[
        "sources"
    ] == {"token": {"path": "json", "text": "t", "download_config": {"retries": 3}}}
    assert list(saved["tasks"]) == ["token"]
    assert set(saved["training"]) == {"include_num_input_tokens_seen", "output_dir"}
    assert "KEY" not in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.max_length=0", "`model.max_length` is 0; it should be at least 1"),
        ("model.stride=-1", "`model.stride` is -1; it should be at least 0"),
        ("model.stride=8", "`model.stride` is 8, but long texts are truncated: add `overflow: window`"),
        ("model={encoder: a, overflow: truncate, stride: 8}", "`model.stride` is 8, but long texts are truncated"),
        (
            "model={encoder: a, overflow: window, truncation_side: left}",
            "`model.truncation_side` is left, but with `overflow: window` texts are not truncated",
        ),
        ("model.experts={num: 999999999999, hidden: 5}", "it should be a whole number of at least 2 and at most 1,024"),
        ("model.pooling=mean_last_" + "9" * 30, "`model.pooling` is 'mean_last_9"),
        ("model.encoder=''", "`model.encoder` is empty text"),
        ("tasks.sentiment.labels=[]", "`tasks.sentiment.labels` is empty; leave it out"),
        ("tasks.sentiment.labels=[a, b, a]", "`tasks.sentiment.labels` names 'a' twice"),
        ("tasks.sentiment.source=[reviews, reviews]", "`tasks.sentiment.source` names a source twice"),
        (
            "tasks.sentiment.loss_weight=1e308",
            "`tasks.sentiment.loss_weight` is 1e.308; it should be above 0 and at most",
        ),
    ],
)
def test_values_that_nothing_could_be_made_of_are_refused(override: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected.replace("`model.", r"`model\.").replace("`tasks.", r"`tasks\.")):
        RunConfig.load(minimal(), [override])


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "a\rb", "a\u2029", "\u00a0", "a\nb", "\ufeff", "'", '"', "\t"])
def test_text_with_any_sort_of_line_break_survives_the_way_to_yaml_and_back(tmp_path: Path, text: str) -> None:
    run = RunConfig.load(minimal(model={"encoder": text}))
    assert load_text(tmp_path, run.to_yaml()).model.encoder == text
