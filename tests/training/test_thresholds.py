"""Tests of `mtl_hf.training.thresholds`: chosen after training, saved, and used by every answer."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

import mtl_hf
from mtl_hf.run import build
from tests.conftest import SENTENCES, TRAINING

SEQUENCE, SEVERAL = "sequence_classification", "multi_label_classification"


def rows_of(num_rows: int, first: int = 0) -> list[dict[str, Any]]:
    """Texts with several topics, of which one is rare, and a rare kind."""
    rows = []
    for index in range(first, first + num_rows):
        topics = [name for name, every in (("often", 2), ("seldom", 6)) if index % every == 0]
        text = f"{' '.join(topics)} {SENTENCES[index % len(SENTENCES)]} {index}"
        rows.append({"text": text, "topics": topics, "kind": "yes" if index % 6 == 0 else "no"})
    return rows


def config_of(encoder: str, folder: Path, **options: Any) -> dict[str, Any]:
    splits = {"train": rows_of(48), "validation": rows_of(24, 100), "test": rows_of(24, 200)}
    return {
        "model": {"encoder": encoder},
        "sources": {
            "rows": {
                "dataset": datasets.DatasetDict(
                    {name: datasets.Dataset.from_list(own) for name, own in splits.items()}
                ),
                "text": "text",
            }
        },
        "tasks": {
            "topics": {"type": SEVERAL, "source": "rows", "label": "topics", "threshold": "tuned"} | options,
            "kind": {"type": SEQUENCE, "source": "rows", "label": "kind", "threshold": "tuned"} | options,
        },
        "training": TRAINING | {"output_dir": str(folder), "learning_rate": 1e-3},
    }


@pytest.fixture(scope="module")
def trained(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run whose thresholds were chosen, and its results."""
    folder = tmp_path_factory.mktemp("thresholds") / "run"
    return folder, mtl_hf.train(config_of(encoder_folder, folder))


def test_thresholds_are_saved_and_used_by_every_answer(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, results = trained
    heads = json.loads((folder / "config.json").read_text(encoding="utf-8"))["heads"]
    model = mtl_hf.MultiTaskModel.from_pretrained(folder)
    test = rows_of(24, 200)
    answers = model.predict([row["text"] for row in test], heads=["topics", "kind"], top_k=None)
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("topics", "kind"):
        labels, thresholds = heads[name]["labels"], heads[name]["thresholds"]
        assert len(thresholds) == 2
        assert results["tasks"][name]["thresholds"] == dict(zip(labels, thresholds, strict=True))
        assert results["tasks"][name]["thresholds_from"] == "validation"
        assert model.heads[name].decoder.thresholds == thresholds
        for answer, line in zip(answers, lines, strict=True):
            chances = {one["label"]: one["score"] for one in answer[name]}
            above = [label for label, bound in zip(labels, thresholds, strict=True) if chances[label] >= bound]
            predicted = line["tasks"][name]["predicted"]
            assert predicted == (sorted(above) if name == "topics" else labels[chances[labels[1]] >= thresholds[1]])
    for row, best in zip(test, model.predict([row["text"] for row in test]), strict=True):
        assert {one["label"] for one in best["topics"]} <= {"often", "seldom"}, row
    scored = mtl_hf.evaluate(
        folder, config=config_of("", folder) | {"model": {"encoder": "unused"}}, to=folder / "again"
    )
    for name in ("topics", "kind"):
        assert scored["tasks"][name]["macro_f1"] == pytest.approx(results["tasks"][name]["macro_f1"])
        assert scored["tasks"][name]["thresholds"] == results["tasks"][name]["thresholds"]


def test_the_card_names_thresholds_and_what_validation_scores_are(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, results = trained
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"`seldom` {results['tasks']['topics']['thresholds']['seldom']:.4g}" in card
    assert f"`yes` if its probability is at least {results['tasks']['kind']['thresholds']['yes']:.4g}" in card
    assert "The validation scores of topics, kind are those before the thresholds were chosen." in card


def test_thresholds_are_the_best_of_the_validation_rows(
    encoder_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mtl_hf")
    config = config_of(encoder_folder, tmp_path / "run")
    del config["sources"]["rows"]["dataset"]["test"]
    results = mtl_hf.train(config)
    assert results["split"] == "validation"
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "run")
    rows = rows_of(24, 100)
    answers = model.predict([row["text"] for row in rows], heads="topics", top_k=None)
    for label in ("often", "seldom"):
        scores = np.array([next(one["score"] for one in own["topics"] if one["label"] == label) for own in answers])
        gold = np.array([label in row["topics"] for row in rows])
        found = [2 * (gold & (scores >= t)).sum() / (gold.sum() + (scores >= t).sum()) for t in [*scores, 0.5]]
        assert results["tasks"]["topics"]["per_label"][label]["f1"] == pytest.approx(max(found))
    assert any("Task topics: thresholds chosen on validation rows: often " in message for message in caplog.messages)
    table = next(message for message in caplog.messages if "95 % interval" in message)
    assert "  thresholds (chosen on validation rows, so these scores are optimistic): often " in table
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "were chosen on the validation rows, so these scores are optimistic" in card


def test_numbers_are_used_as_they_are(encoder_folder: str, tmp_path: Path) -> None:
    config = config_of(encoder_folder, tmp_path, threshold={"seldom": 0.2})
    config["tasks"]["kind"]["threshold"] = {"no": 0.9}
    heads = build(config).trainer.model.heads
    assert heads["topics"].decoder.thresholds == [0.5, 0.2]
    assert heads["kind"].decoder.thresholds == [0.9, pytest.approx(0.1)]
    config["tasks"] = {"topics": config["tasks"]["topics"] | {"threshold": 0.3}}
    assert build(config).trainer.model.heads["topics"].decoder.thresholds == [0.3, 0.3]


def test_without_validation_rows_thresholds_cannot_be_chosen(encoder_folder: str, tmp_path: Path) -> None:
    config = config_of(encoder_folder, tmp_path)
    unlabelled = [row | {"topics": None} for row in rows_of(24, 100)]
    splits = config["sources"]["rows"]["dataset"]
    splits["validation"] = datasets.Dataset.from_list(unlabelled, features=splits["train"].features)
    config["training"] |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with pytest.raises(ValueError, match=r"`tasks\.topics\.threshold` is tuned, but no validation row of rows has"):
        build(config)


def test_a_continued_run_keeps_or_chooses_thresholds(
    trained: tuple[Path, dict[str, Any]], encoder_folder: str, tmp_path: Path
) -> None:
    folder, results = trained
    config = config_of(encoder_folder, tmp_path) | {"model": {"from": str(folder)}}
    assert build(config).trainer.model.heads["topics"].decoder.thresholds is None, "until they are chosen"
    del config["tasks"]["topics"]["threshold"]
    heads = build(config).trainer.model.heads
    assert heads["topics"].decoder.thresholds == [*results["tasks"]["topics"]["thresholds"].values()]
    config["tasks"]["kind"]["train"] = False
    with pytest.raises(ValueError, match=r"`tasks\.kind\.threshold` cannot be used with `train: false`"):
        build(config)
