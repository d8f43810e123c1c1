"""Planted tokens are in no file, table, message and log of any verb, and configs go on working without them."""

import contextlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtl_hf import cli
from mtl_hf.config import RunConfig, masked, masked_message, masked_overrides, secret_overrides
from mtl_hf.experiments import compare as compare_module
from mtl_hf.experiments import trials
from mtl_hf.experiments.trials import Goal
from tests.conftest import TRAINING, assistant_rows
from tests.experiments.conftest import write_search

PLANTED = ("PLANTEDinA1", "PLANTEDinB2", "PLANTEDinC3", "PLANTEDinD4")
OVERRIDES = [f"own={PLANTED[0]}", "training.hub_token=${own}", f"sources.assistant.token={PLANTED[1]}",
             f"sources.assistant.storage_options.key={PLANTED[2]}"]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, encoder_folder: str) -> Path:
    """A run's YAML with one of the planted tokens; the others come by overrides."""
    assistant_rows(16).to_json(tmp_path / "rows.jsonl")
    files = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "rows.jsonl"))
    source = {"path": "json", "data_files": files, "text": "tokens", "storage_options": {"secret": PLANTED[3]}}
    task = {"type": "sequence_classification", "source": "assistant", "label": "intent"}
    other = {"type": "token_classification", "source": "assistant", "label": "slots"}
    training = TRAINING | {"max_steps": 1, "output_dir": str(tmp_path / "out")}
    tree = {"model": {"encoder": encoder_folder}, "sources": {"assistant": source},
            "tasks": {"intent": task, "slots": other}, "training": training}  # fmt: skip
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture
def leaks(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[], list[str]]:
    """Where planted tokens are: files but for those that a person has written, and what was shown."""
    shown: list[str] = []

    def find() -> list[str]:
        shown.extend(capsys.readouterr())
        texts = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*")
                 if path.is_file() and not path.name.startswith("given")}  # fmt: skip
        texts |= {"shown": "\n".join(shown).encode()}
        return [f"{name}: {token}" for name, text in texts.items() for token in PLANTED if token.encode() in text]

    return find


def test_no_verb_writes_or_shows_a_token(
    config: Path, tmp_path: Path, leaks: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("datasets").propagate = False

    def train(run: Any, *_: Any) -> None:
        shutil.copytree(tmp_path / "out", run.folder)
        run.beside(".json").write_text('{"peak_memory": 1e9}', encoding="utf-8")

    monkeypatch.setattr(compare_module, "_train", train)
    monkeypatch.setattr(compare_module, "_check_runs", lambda *_: {})
    monkeypatch.setattr(compare_module, "measure_answering", lambda *_: {})

    def fail(trial: Any, config: str, overrides: list[str], *_: Any) -> float:
        if trial.number:
            return 1.0
        raise ValueError(f"a library quotes {overrides} and {PLANTED[0]}")

    monkeypatch.setattr(trials, "find_goal", lambda *_: Goal("score", maximize=True, best=True))
    monkeypatch.setattr(trials, "try_choices", lambda *_: None)
    monkeypatch.setattr(trials, "train_trial", fail)
    variants = tmp_path / "given_variants.yaml"
    variants.write_text(f"one: []\ntwo: [training.hub_token={PLANTED[1]}]\n", encoding="utf-8")
    search = write_search(tmp_path, space={"training.learning_rate": "loguniform(1e-4, 1e-3)"}, config="given.yaml",
                          overrides=[f"training.hub_token={PLANTED[0]}"], trials=2)  # fmt: skip
    search = search.rename(tmp_path / "given_search.yaml")
    out = str(tmp_path / "out")
    for argv in (
        ["train", str(config), *OVERRIDES],
        ["inspect", str(config), *OVERRIDES],
        ["evaluate", out, *OVERRIDES[1:], OVERRIDES[0]],
        ["plot", out],
        ["predict", out, "play jazz", "--to", str(tmp_path / "answers.jsonl")],
        ["push", out, "me/model", "--dry-run"],
        ["compare", str(config), *OVERRIDES, "--seeds", "1", "--variants", str(variants), "--to",
         str(tmp_path / "compared"), "--no-plot"],
        ["tune", str(search), *OVERRIDES, "--to", str(tmp_path / "tuned"), "--no-plot"],
    ):  # fmt: skip
        cli.main(argv)
        assert leaks() == [], argv[0]
    assert "training.hub_token=***" in (tmp_path / "compared" / "comparison.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "compared" / "comparison.json").read_text(encoding="utf-8"))["overrides"] == [
        "own=***", "training.hub_token=***", "sources.assistant.token=***", "sources.assistant.storage_options.key=***",
    ]  # fmt: skip
    for path in (tmp_path / "out" / "run.yaml", tmp_path / "tuned" / "best.yaml"):
        again = RunConfig.load(path)
        assert "hub_token" not in again.training, "left out, so that no mask is sent as if it were one"
        assert again.sources["assistant"].loader == {}
    with sqlite3.connect(tmp_path / "tuned" / "study.db") as study:
        (reason,) = study.execute("select value_json from trial_user_attributes where key = 'reason'").fetchone()
    assert "training.hub_token=***" in reason
    assert reason.endswith('and ***"')


@pytest.mark.parametrize(
    "override",
    [
        "training.hub_token={PLANTEDinA1", "training.hub_token.x.y=PLANTEDinA1", "sources.assistant.token=[PLANTEDinA1",
        "training.seed=PLANTEDinA1 training.hub_token=PLANTEDinA1", "sources.assistant.storage_options=PLANTEDinA1",
        "trainingg.hub_token=PLANTEDinA1", "training.hub_token=[PLANTEDinA1]",
    ],
)  # fmt: skip
def test_no_message_quotes_a_token(override: str, config: Path, leaks: Callable[[], list[str]]) -> None:
    for argv in (["train", "--dry-run"], ["inspect"], ["evaluate"], ["plot"]):
        with contextlib.suppress(SystemExit):
            cli.main([*argv, str(config), *override.split(" ")])
            assert argv == ["inspect"], "it does not look at `training`"
        with pytest.raises(SystemExit) as ended:
            cli.main([*argv, str(config), *override.split(" "), "tasks.intent.type=none"])
        assert "PLANTED" not in str(ended.value.code)
    assert leaks() == []


def test_a_line_of_a_broken_file_is_quoted_without_its_token(config: Path) -> None:
    config.write_text("training:\n  hub_token: PLANTEDinA1: x\n  seed: 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2, column 25:\n +hub_token: \*\*\* x") as refused:
        RunConfig.load(config)
    assert "PLANTED" not in str(refused.value)


def test_what_is_left_out_of_a_yaml_comes_back_by_overrides(config: Path, tmp_path: Path) -> None:
    given = RunConfig.load(config, OVERRIDES)
    path = tmp_path / "again.yaml"
    path.write_text(given.to_yaml(), encoding="utf-8")
    again = RunConfig.load(path, secret_overrides(given))
    assert again.training["hub_token"] == PLANTED[0]
    assert again.sources["assistant"].loader == given.sources["assistant"].loader
    assert given.sources["assistant"].loader["storage_options"] == {"secret": PLANTED[3], "key": PLANTED[2]}


def test_names_of_tasks_and_sources_and_plain_words_are_no_secrets(config: Path) -> None:
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    tree["tasks"]["my_token"] = tree["tasks"].pop("intent")
    tree["sources"]["token"] = tree["sources"].pop("assistant")
    tree["sources"]["token"]["storage_options"] = {"anon": True, "region": "eu-1"}
    for task in tree["tasks"].values():
        task["source"] = "token"
    tree["training"]["learning_rates"] = {"heads.my_token": 1e-3}
    loaded = RunConfig.load(tree)
    again = RunConfig.load(yaml.safe_load(loaded.to_yaml()))
    assert again.tasks == loaded.tasks
    assert again.training == loaded.training
    assert list(again.sources) == ["token"]
    assert masked_overrides(["tasks.my_token.loss_weight=2"]) == ["tasks.my_token.loss_weight=2"]
    for text in ("a token: the next word", "token_classification: true in eu-1", "max_tokens: 5",
                 "no column token (`--label token=COLUMN` names another)"):  # fmt: skip
        assert masked_message(text) == text
    assert masked_message("--label my_token=tags --token=abc") == "--label my_token=tags --token=***"
    assert masked("hf_" + "a" * 34) == "***"
