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


def lines_of(*negative: list[str], repeated: int = 1) -> list[dict[str, Any]]:
    return [line(step, *parts) for step, parts in enumerate(list(negative) * repeated)]


HIGH = ["all", "encoder.layers.4", "encoder.layers.5"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            lines_of(HIGH, HIGH, ["encoder.layers.1"], repeated=10),
            "conflict in 67 % of steps, most in layers 4-5 (mean cosine -0.10 over 30 compared).",
        ),
        (
            lines_of(["all", "embeddings", "encoder.layers.0", "encoder.layers.2", "encoder.top"], repeated=20),
            "conflict in 100 % of steps, most in embeddings and top and layers 0, 2 (mean cosine -0.20 over 20"
            " compared).",
        ),
        (
            lines_of(["all", "encoder.layers.3"], repeated=20),
            "conflict in 100 % of steps, most in layer 3 (mean cosine -0.20 over 20 compared).",
        ),
        (lines_of([], repeated=25), "conflict in 0 % of steps (mean cosine 0.10 over 25 compared)."),
        (
            lines_of([*PARTS, "all"], repeated=20),
            "conflict in 100 % of steps (mean cosine -0.20 over 20 compared).",  # everywhere alike
        ),
        (lines_of(HIGH, [], [], [], repeated=5), "conflict in 25 % of steps (mean cosine 0.03 over 20 compared)."),
        (lines_of(HIGH, HIGH, []), "conflict in 2 of 3 compared steps, too few to judge (mean cosine -0.10)."),
        (lines_of(HIGH, repeated=19), "conflict in 19 of 19 compared steps, too few to judge (mean cosine -0.20)."),
        (lines_of([]), "conflict in 0 of 1 compared steps, too few to judge (mean cosine 0.10)."),
    ],
)
def test_a_sentence_a_pair(lines: list[dict[str, Any]], expected: str) -> None:
    assert list(conflict_sentences(lines)) == [f"ner and sentiment {expected}"]


def test_parts_are_chosen_by_how_much_they_conflict_and_not_by_how_often() -> None:
    lines = lines_of(["all"], repeated=20)
    for number, one in enumerate(lines):
        cosines = one["pairs"][0]["cosines"]
        cosines |= {"embeddings": -0.008, "all": -0.004, "encoder.layers.5": -0.6 if number % 2 else 0.1}
    (sentence,) = conflict_sentences(lines)
    assert sentence.endswith("in 100 % of steps, most in layer 5 (mean cosine 0.00 over 20 compared).")


def test_a_pair_is_one_in_whichever_order_it_is_found() -> None:
    lines = [line(1, "all", "encoder.top"), line(2, tasks=("sentiment", "ner")), line(2, tasks=("ner", "slots"))]
    assert [sentence.split(" compared")[0] for sentence in conflict_sentences(lines)] == [
        "ner and sentiment conflict in 1 of 2", "ner and slots conflict in 0 of 1"
    ]  # fmt: skip


def test_gradients_of_0_do_not_count() -> None:
    lines = lines_of(["all", "encoder.layers.2"], repeated=21)
    for one in lines:
        one["pairs"][0]["cosines"]["embeddings"] = None
    lines[0]["pairs"][0]["cosines"] = dict.fromkeys([*PARTS, "all"])
    assert next(conflict_sentences(lines)).endswith("most in layer 2 (mean cosine -0.20 over 20 compared).")
    assert list(conflict_sentences(lines[:1])) == [
        "ner and sentiment could not be compared: one of the gradients was always 0."
    ]


def test_a_run_without_a_log_is_told_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train with `training\.log_gradient_conflicts: 50`"):
        read_conflicts(tmp_path)
    write(tmp_path, line(1), line(2))
    with (tmp_path / "gradient_conflicts.jsonl").open("a") as file:
        file.write('{"step": 3, "st')  # killed
    assert [one["step"] for one in read_conflicts(tmp_path)] == [1, 2]
