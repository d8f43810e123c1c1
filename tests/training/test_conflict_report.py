"""Tests of `mtl_hf.training.conflict_report`: what is said and drawn of a run's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.training.conflict_report import conflict_sentences, plot_conflicts, plot_weights, read_conflicts

PARTS = ["embeddings", *(f"encoder.layers.{k}" for k in range(6)), "encoder.top"]


def line(step: int, *negative: str, tasks: tuple[str, str] = ("ner", "sentiment")) -> dict[str, Any]:
    """A line in which the cosine is negative in some parts."""
    cosines = {part: -0.2 if part in negative else 0.1 for part in [*PARTS, "all"]}
    return {"step": step, "steps": {}, "pairs": [{"tasks": list(tasks), "cosines": cosines}]}


def write(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "gradient_conflicts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


@pytest.mark.parametrize(
    ("negative", "expected"),
    [
        (
            [["all", "encoder.layers.4", "encoder.layers.5"], ["all", "encoder.layers.4", "encoder.layers.5"],
             ["encoder.layers.1"]],
            "ner and sentiment conflict in 67 % of steps (3 compared), most in layers 4-5.",
        ),
        ([["embeddings", "encoder.layers.0", "encoder.layers.2", "encoder.top"]],
         "ner and sentiment conflict in 0 % of steps (1 compared), most in embeddings and top and layers 0, 2."),
        ([["all", "encoder.layers.3"]], "ner and sentiment conflict in 100 % of steps (1 compared), most in layer 3."),
        ([[], []], "ner and sentiment conflict in 0 % of steps (2 compared), in no part."),
        ([[*PARTS, "all"]], "ner and sentiment conflict in 100 % of steps (1 compared), everywhere alike."),
    ],
)  # fmt: skip
def test_a_sentence_a_pair(negative: list[list[str]], expected: str) -> None:
    assert list(conflict_sentences([line(step, *parts) for step, parts in enumerate(negative)])) == [expected]


def test_a_pair_is_one_in_whichever_order_it_is_found() -> None:
    lines = [line(1, "all", "encoder.top"), line(2, tasks=("sentiment", "ner")), line(2, tasks=("ner", "slots"))]
    assert [sentence.split(" (")[0] for sentence in conflict_sentences(lines)] == [
        "ner and sentiment conflict in 50 % of steps", "ner and slots conflict in 0 % of steps"
    ]  # fmt: skip


def test_parts_without_gradients_do_not_count() -> None:
    lines = [line(1, "all", "encoder.layers.2")]
    lines[0]["pairs"][0]["cosines"]["embeddings"] = None
    assert next(conflict_sentences(lines)).endswith("most in layer 2.")


def test_pictures_are_drawn_into_the_folder(tmp_path: Path) -> None:
    lines = [line(step, "encoder.layers.4") for step in range(50, 1000, 50)]
    lines[3]["pairs"][0]["cosines"]["embeddings"] = None
    write(tmp_path, *lines, line(50, tasks=("ner", "slots")))
    log = [{"step": step, "loss": 1.0, "ner_weight": 1 + step / 100, "slots_weight": 0.5} for step in range(1, 9)]
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-8" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    written = plot_conflicts(tmp_path) + plot_weights(tmp_path)
    assert [path.name for path in written] == [
        "gradient_conflicts.png", "gradient_conflicts.svg", "weights.png", "weights.svg"
    ]  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in written)
    assert "<svg" in (tmp_path / "weights.svg").read_text()


def test_without_what_would_be_drawn_the_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train with `training\.log_gradient_conflicts: 50`"):
        read_conflicts(tmp_path)
    with pytest.raises(ValueError, match="neither `loss_balancing` nor `gradient_aggregation`"):
        plot_weights(tmp_path)
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": 2.0}]}')
    with pytest.raises(ValueError, match="has no weights"):
        plot_weights(tmp_path)
    write(tmp_path)
    with pytest.raises(ValueError, match="has no line yet"):
        plot_conflicts(tmp_path)
