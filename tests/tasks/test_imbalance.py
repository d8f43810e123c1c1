"""Tests of `mtl_hf.tasks.imbalance`: weights and priors from training rows, and settings that are refused."""

import collections
import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.run import build
from mtl_hf.tasks.imbalance import LARGEST_WEIGHT, balanced_tasks, balanced_weights, positive_weights, priors
from mtl_hf.tasks.registry import check_settings
from tests.conftest import TRAINING, review_rows

SEQUENCE, SEVERAL, TOKENS = "sequence_classification", "multi_label_classification", "token_classification"


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    counts = np.array([50, 5, 20])
    labels = np.repeat([0, 1, 2], counts)
    assert balanced_weights(counts) == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels))
    with_absent = balanced_weights(np.array([50, 0, 5, 20]))
    assert with_absent.tolist() == [pytest.approx(0.5), 1.0, pytest.approx(5.0), pytest.approx(1.25)]


def test_weights_of_positives_and_priors_by_hand() -> None:
    weights = positive_weights(np.array([1, 20, 100, 0, 1000]), 1000)
    assert weights.tolist() == [LARGEST_WEIGHT, 49.0, 9.0, 1.0, 1.0]
    assert priors(np.array([6, 0, 2])).tolist() == [0.75, 0.125, 0.25]


def rows_of(counts: dict[str, int]) -> list[dict[str, Any]]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [{"text": f"a text {row}", "kind": label, "tags": [label] * (row % 2)} for row, label in enumerate(labels)]


def config_of(encoder: str, folder: Path, source: dict[str, Any] | None = None, **task: Any) -> dict[str, Any]:
    """One task on a source with 12, 6 and 2 rows of the labels a, b and c, and 3 rows without."""
    train = datasets.Dataset.from_list(
        [*rows_of({"a": 12, "b": 6, "c": 2}), *({"text": f"none {n}"} for n in range(3))]
    )
    validation = datasets.Dataset.from_list(rows_of({"a": 3, "b": 3, "c": 3}))
    return {
        "model": {"encoder": encoder},
        "sources": {
            "rows": {"dataset": datasets.DatasetDict(train=train, validation=validation), "text": "text"}
            | (source or {})
        },
        "tasks": {"kind": {"type": SEQUENCE, "source": "rows", "label": "kind"} | task},
        "training": TRAINING | {"output_dir": str(folder), "num_train_epochs": 1},
    }


def test_numbers_of_a_run_are_in_its_head_and_its_log(
    encoder_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mtl_hf")
    run = build(config_of(encoder_folder, tmp_path, class_weights="balanced", focal_loss=2))
    spec = run.trainer.model.config.heads["kind"]
    assert spec["class_weights"] == pytest.approx([20 / 36, 20 / 18, 20 / 6])
    assert spec["focal_loss"] == 2
    assert "Task kind, class_weights: c 3.333, b 1.111, a 0.5556." in caplog.messages
    run = build(config_of(encoder_folder, tmp_path, class_weights={"c": 4}, label_smoothing=0.1))
    assert run.trainer.model.config.heads["kind"]["class_weights"] == [1.0, 1.0, 4.0]
    run = build(config_of(encoder_folder, tmp_path, logit_adjustment=1))
    assert run.trainer.model.config.heads["kind"]["label_priors"] == pytest.approx([0.6, 0.3, 0.1])
    several = config_of(encoder_folder, tmp_path, type=SEVERAL, label="tags", class_weights="balanced")
    weights = build(several).trainer.model.config.heads["kind"]["class_weights"]
    assert weights == pytest.approx([14 / 6, 17 / 3, 19 / 1]), "20 rows with a list, of which 6, 3 and 1 have the label"


def test_numbers_come_from_all_sources_of_a_task(encoder_folder: str, tmp_path: Path) -> None:
    config = config_of(encoder_folder, tmp_path, class_weights="balanced")
    config["tasks"]["kind"]["source"] = ["rows", "more"]
    config["sources"]["more"] = {"dataset": datasets.Dataset.from_list(rows_of({"c": 10, "d": 10})), "text": "text"}
    config["sources"]["more"]["split"] = {"validation": 0.5}
    run = build(config)
    spec = run.trainer.model.config.heads["kind"]
    assert spec["labels"] == ["a", "b", "c", "d"]
    counts = collections.Counter({"a": 12, "b": 6, "c": 2})
    counts.update(run.sources["more"].gold["train"]["kind"])
    total = sum(counts.values())
    assert total == 30
    assert spec["class_weights"] == pytest.approx([total / 4 / counts[label] for label in "abcd"])


def test_a_continued_run_keeps_or_replaces_the_loss(encoder_folder: str, tmp_path: Path) -> None:
    mtl_hf.train(config_of(encoder_folder, tmp_path / "first", class_weights="balanced"))
    saved = [20 / 36, 20 / 18, 20 / 6]

    def continued(**task: Any) -> dict[str, Any]:
        config = config_of(encoder_folder, tmp_path / "second", **task)
        config["model"] = {"from": str(tmp_path / "first")}
        config["sources"]["rows"]["dataset"]["train"] = datasets.Dataset.from_list(rows_of({"a": 5, "b": 5, "c": 5}))
        return build(config).trainer.model.config.heads["kind"]

    assert continued()["class_weights"] == pytest.approx(saved)
    assert continued(class_weights="balanced")["class_weights"] == pytest.approx([1.0, 1.0, 1.0])
    adjusted = continued(logit_adjustment=1)
    assert "class_weights" not in adjusted
    assert adjusted["label_priors"] == pytest.approx([1 / 3] * 3)
    assert "class_weights" not in continued(focal_loss=0)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"class_weights": {"a": -1}}, r"`tasks\.kind\.class_weights\.a` is -1; it should be a finite number"),
        ({"class_weights": {"a": float("inf")}}, r"`tasks\.kind\.class_weights\.a` is inf"),
        ({"class_weights": "equal"}, r"`tasks\.kind\.class_weights` is 'equal'; it should be 'balanced' or a mapping"),
        ({"focal_loss": -2}, r"`tasks\.kind\.focal_loss` is -2; it should be a finite number of at least 0"),
        ({"logit_adjustment": float("nan")}, r"`tasks\.kind\.logit_adjustment` is nan"),
        ({"focal_loss": 2, "label_smoothing": 0.1}, r"both `focal_loss` and `label_smoothing`"),
        (
            {"class_weights": "balanced", "logit_adjustment": 1},
            r"both `class_weights: balanced` and `logit_adjustment`",
        ),
        ({"type": SEVERAL, "label": "tags", "logit_adjustment": 1}, r"not with multi_label_classification"),
        ({"type": "regression", "class_weights": "balanced"}, r"`tasks\.kind\.class_weights` is an option of"),
        ({"threshold": 1.5}, r"`tasks\.kind\.threshold` is 1\.5; it should be a probability above 0"),
        ({"threshold": {"a": 0}}, r"`tasks\.kind\.threshold\.a` is 0"),
        ({"threshold": "best"}, r"`tasks\.kind\.threshold` is 'best'"),
        ({"type": TOKENS, "threshold": 0.5}, r"`tasks\.kind\.threshold` is an option of"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_data(task: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(RunConfig.load(config_of("some/encoder", tmp_path, **task)))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"class_weights": {"d": 2}}, r"`tasks\.kind\.class_weights` has 'd', which is not a label.* are: a, b, c\."),
        ({"threshold": "tuned"}, r"`tasks\.kind\.threshold` only works with two labels; the task has 3"),
        (
            {"labels": {"a": "x", "b": "x", "c": "y"}, "threshold": 0.5},
            r"should name the label.*`threshold: \{y: 0\.3\}`",
        ),
        ({"type": SEVERAL, "label": "tags", "threshold": {"d": 0.5}}, r"`tasks\.kind\.threshold` has 'd'"),
    ],
)
def test_settings_that_do_not_fit_the_labels_are_refused(
    task: dict[str, Any], message: str, encoder_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build(config_of(encoder_folder, tmp_path, **task))


# ---- `balance` of a source ----


@pytest.mark.parametrize(
    ("source", "task", "message"),
    [
        ({"balance": "text"}, {}, r"`sources\.rows\.balance` is 'text', which is not the label column.*task.*: kind\."),
        ({"balance": "kinds"}, {}, r"Did you mean `kind`\?"),
        ({"balance": "tags"}, {"type": SEVERAL, "label": "tags"}, r"which is multi_label_classification"),
        ({"balance": "kind"}, {"class_weights": "balanced"}, r"both correct for the same frequencies"),
        ({"balance": "kind"}, {"logit_adjustment": 1}, r"`logit_adjustment`, and `sources\.rows\.balance`"),
    ],
)
def test_a_balance_that_cannot_be_is_refused(
    source: dict[str, Any], task: dict[str, Any], message: str, encoder_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build(config_of(encoder_folder, tmp_path, source, **task))


def test_a_balanced_run_draws_labels_equally_often(
    encoder_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mtl_hf")
    config = config_of(encoder_folder, tmp_path, {"balance": "kind"})
    assert balanced_tasks(RunConfig.load(config)) == {"rows": "kind"}
    trainer = build(config).trainer
    labels = np.array(trainer.train_rows["rows"]["label:kind"])
    drawn = [row for batch in trainer.batch_sampler for row in batch]
    assert len(drawn) == 20
    assert sorted(np.bincount(labels[drawn]).tolist()) == [6, 7, 7]
    assert trainer.settings["balance"] == {"rows": "kind"}
    assert (
        "Source rows: rows are balanced by the labels of kind; per epoch those of 'c' (2, the rarest) are seen 3.33"
        " times, those of 'a' (12, the most frequent) are seen 0.56 times." in caplog.messages
    )


def test_other_runs_note_no_balance(encoder_folder: str, tmp_path: Path) -> None:
    trainer = build(config_of(encoder_folder, tmp_path)).trainer
    assert "balance" not in trainer.settings
    assert trainer.settings["tasks"]["kind"]["options"] == {}
    assert not {"class_weights", "focal_loss", "thresholds"} & {*trainer.settings["tasks"]["kind"]}


def test_a_source_of_reviews_is_balanced_by_its_sentiment(encoder_folder: str, tmp_path: Path) -> None:
    config = config_of(encoder_folder, tmp_path)
    rows = review_rows(20)
    config["sources"] = {
        "rows": {"dataset": rows, "text": "text", "balance": "sentiment", "split": {"validation": 0.2}}
    }
    config["tasks"] = {
        "topics": {"type": SEVERAL, "source": "rows", "label": "topics"},
        "sentiment": {"type": SEQUENCE, "source": "rows", "label": "sentiment"},
    }
    assert np.isfinite(mtl_hf.train(config)["score"])
