"""Tests of `mtl_hf.training.conflict_report`: what is said of a run's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.training.conflict_report import conflict_sentences, read_conflicts

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
         "ner and sentiment did not conflict in any step (1 compared)."),
        ([["all", "embeddings", "encoder.layers.0", "encoder.layers.2", "encoder.top"]],
         "ner and sentiment conflict in 100 % of steps (1 compared), most in embeddings and top and layers 0, 2."),
        ([["all", "encoder.layers.3"]], "ner and sentiment conflict in 100 % of steps (1 compared), most in layer 3."),
        ([[], []], "ner and sentiment did not conflict in any step (2 compared)."),
        ([[*PARTS, "all"]], "ner and sentiment conflict in 100 % of steps (1 compared), everywhere alike."),
    ],
)  # fmt: skip
def test_a_sentence_a_pair(negative: list[list[str]], expected: str) -> None:
    assert list(conflict_sentences([line(step, *parts) for step, parts in enumerate(negative)])) == [expected]


def test_a_pair_is_one_in_whichever_order_it_is_found() -> None:
    lines = [line(1, "all", "encoder.top"), line(2, tasks=("sentiment", "ner")), line(2, tasks=("ner", "slots"))]
    assert [sentence.split(" (")[0] for sentence in conflict_sentences(lines)] == [
        "ner and sentiment conflict in 50 % of steps", "ner and slots did not conflict in any step"
    ]  # fmt: skip


def test_parts_without_gradients_do_not_count() -> None:
    lines = [line(1, "all", "encoder.layers.2")]
    lines[0]["pairs"][0]["cosines"]["embeddings"] = None
    assert next(conflict_sentences(lines)).endswith("most in layer 2.")


def test_a_run_without_a_log_is_told_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train with `training\.log_gradient_conflicts: 50`"):
        read_conflicts(tmp_path)
    write(tmp_path, line(1), line(2))
    with (tmp_path / "gradient_conflicts.jsonl").open("a") as file:
        file.write('{"step": 3, "st')  # killed
    assert [one["step"] for one in read_conflicts(tmp_path)] == [1, 2]
