"""Tests of `benchmarks/imbalanced_rows.py`, and of every variant of the comparison that uses its rows."""

import collections
import json
import math
import runpy
import sys
from pathlib import Path

import pytest

import mtl_hf
from mtl_hf.experiments.variants import plan_runs, read_comparison
from tests.conftest import SENTENCES

ROOT = Path(__file__).parent.parent
SIZES = {"anger": 40, "sadness": 25, "joy": 20, "optimism": 8}


def test_every_variant_of_the_comparison_trains_on_imbalanced_rows(
    encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "tweeteval_emotion"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        labels = [label for label, number in SIZES.items() for _ in range(number if split == "train" else 6)]
        rows = [{"text": f"{SENTENCES[row % 8]} {split} {row}", "label": label} for row, label in enumerate(labels)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    script = str(ROOT / "benchmarks" / "imbalanced_rows.py")
    monkeypatch.setattr(sys, "argv", [script, "--data", str(tmp_path / "data"), "--to", str(tmp_path / "cut")])
    runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out == "71 of 93 rows: anger 40, sadness 25, joy 4, optimism 2\n"
    lines = (tmp_path / "cut" / "tweeteval_emotion" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert collections.Counter(json.loads(line)["label"] for line in lines) == SIZES | {"joy": 4, "optimism": 2}
    comparison = read_comparison(ROOT / "configs" / "compare" / "imbalance.yaml", seeds=1)
    overrides = [f"data={tmp_path / 'cut'}", f"model.encoder={encoder_folder}", "model.max_length=48",
                 "training.max_steps=2", "training.use_cpu=true", "training.disable_tqdm=true"]  # fmt: skip
    _, runs = plan_runs(comparison, tmp_path / "out", overrides)
    heads = {}
    for run in runs:
        results = mtl_hf.train(run.config)
        assert math.isfinite(results["score"])
        heads[run.variant] = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))["heads"]["emotion"]
    options = ("class_weights", "focal_loss", "logit_adjustment", "thresholds")
    assert {name: [key for key in options if key in head] for name, head in heads.items()} == {
        "plain": [],
        "class_weights": ["class_weights"],
        "focal_loss": ["focal_loss"],
        "logit_adjustment": ["logit_adjustment"],
        "balance": [],
        "binary": [],
        "binary_thresholds": ["thresholds"],
    }
    assert heads["binary"]["labels"] == ["other", "optimism"]
