"""Tests of runs with a balanced source: resumed exactly, and not with another balance."""

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from safetensors.numpy import load_file

import mtl_hf
from tests.conftest import SENTENCES, TRAINING


def config_of(encoder: str, folder: Path, **source: Any) -> dict[str, Any]:
    rows = [{"text": f"{SENTENCES[row % 8]} {row}", "kind": "rare" if row % 8 == 0 else "often"} for row in range(48)]
    splits = {"train": rows, "validation": [row | {"text": f"other {row['text']}"} for row in rows[:16]]}
    held = datasets.DatasetDict({name: datasets.Dataset.from_list(own) for name, own in splits.items()})
    return {
        "model": {"encoder": encoder},
        "sources": {"rows": {"dataset": held, "text": "text", **source}},
        "tasks": {"kind": {"type": "sequence_classification", "source": "rows", "label": "kind", "focal_loss": 2}},
        "training": TRAINING
        | {"output_dir": str(folder), "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4,
           "save_steps": 4, "learning_rate": 1e-3, "load_best_model_at_end": False},
    }  # fmt: skip


def test_a_balanced_run_is_resumed_exactly_and_not_without_its_balance(encoder_folder: str, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    mtl_hf.train(config_of(encoder_folder, whole, balance="kind"))
    half.mkdir()
    shutil.copy(whole / "run.yaml", half)
    shutil.copytree(whole / "checkpoint-4", half / "checkpoint-4")
    with pytest.raises(ValueError, match=r"saved with other settings.*\n  balance\.rows: \"kind\" in the checkpoint"):
        mtl_hf.train(config_of(encoder_folder, half), resume=True)
    mtl_hf.train(config_of(encoder_folder, half, balance="kind"), resume=True)
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, half))
    assert all((first[name] == second[name]).all() for name in first)
    mtl_hf.train(config_of(encoder_folder, tmp_path / "plain"))
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    assert any((first[name] != plain[name]).any() for name in first), "the balance changes what is trained"
