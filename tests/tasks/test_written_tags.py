"""Tests of `mtl_hf.tasks.written_tags`: `predictions.jsonl` is in the form of its source, and scored alone is right."""

import json
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.evaluation.evaluate import write_results
from mtl_hf.experiments.compare import read_predictions
from mtl_hf.metrics import task_metrics
from mtl_hf.tasks import Answers, SourceData, TaskData
from mtl_hf.tasks.written_tags import tag_lines
from tests.conftest import TRAINING

SPANS = [[("PER", 0, 2), ("PER", 2, 3)], [("LOC", 1, 4)], [], [("PER", 0, 1), ("LOC", 1, 2), ("LOC", 3, 5)]]
LENGTHS = (4, 5, 2, 5)
LETTERS = {"bio": "BIIB", "iob1": "IIII", "io": "IIII", "bioes": "BIES", "bilou": "BILU"}  # first, inner, last, only
CASES = {  # case → scheme, form, what `scheme` of the line is
    "bio": ("bio", "{0}-{1}", None),
    "iob1": ("iob1", "{0}-{1}", "IOB1"),
    "io": ("io", "{0}-{1}", "IO"),
    "bioes": ("bioes", "{0}-{1}", "BIOES"),
    "bilou": ("bilou", "{0}-{1}", "BILOU"),
    "suffix": ("bio", "{1}-{0}", "BIO (as PER-B)"),
    "underscore": ("bioes", "{0}_{1}", "BIOES (as B_PER)"),
    "lower": ("bio", "{0}-{1}", "BIO (as b-per)"),
    "bare": ("bio", "{0}", "BIO (without types)"),
    "plain": ("io", "{1}", "IO (as PER)"),
}


def rows_of(case: str) -> list[list[str]]:
    """The same entities in every scheme, but that IO joins neighbours."""
    scheme, form, _ = CASES[case]
    rows = []
    for spans, length in zip(SPANS, LENGTHS, strict=True):
        row = ["O"] * length
        for kind, begin, end in spans:
            for word in range(begin, end):
                first, inner, last, only = LETTERS[scheme]
                letter = only if end - begin == 1 else first if word == begin else last if word == end - 1 else inner
                if scheme == "iob1" and word == begin and (kind, begin) in [(other, end) for other, _, end in spans]:
                    letter = "B"
                row[word] = form.format(letter, kind)
        rows.append([tag.lower() for tag in row] if case == "lower" else row)
    return rows


def build(tags: list[Any], given: list[str] | None = None, **options: Any) -> tuple[TaskData, SourceData]:
    """The task and the source of a split of tags."""
    splits = ("train", "validation") if given is None else ("test",)
    rows = datasets.Dataset.from_dict({"text": [[f"w{row}"] * len(own) for row, own in enumerate(tags)], "y": tags})
    config = RunConfig.load({
        "model": {"encoder": "unused"}, "sources": {"only": {"dataset": dict.fromkeys(splits, rows), "text": "text"}},
        "tasks": {"ner": {"type": "token_classification", "source": "only", "label": "y"} | options},
    })  # fmt: skip
    sources = load_sources(config)
    return build_tasks(config, sources, None if given is None else {"ner": given})["ner"], sources["only"]


def random_answers(task: TaskData, gold: list[list[str]]) -> Answers:
    """The labels of rows, and predictions of which some are right and some words have none."""
    draw = random.Random(1)
    predicted = [
        [tag if draw.random() < 0.6 else draw.choice([*task.labels, None]) for tag in own]  # type: ignore[list-item]
        for own in gold
    ]
    predicted[1] = [task.labels[1]] * len(gold[1])  # neighbours of one type
    return Answers(np.arange(len(gold)), predicted, gold)


def lines_and_scores(
    folder: Path, task: TaskData, source: SourceData, split: str, answers: Answers
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of `predictions.jsonl`, and the scores of these lines, which are those of the answers."""
    write_results(folder, {}, {"only": source}, split, {"only": {"ner": answers}}, {"ner": task})
    read = read_predictions(folder, {"ner": task})["only"]["ner"]
    found, expected = (
        {key: value for key, value in task_metrics(task, own).items() if key not in ("cross_entropy", "per_type")}
        for own in (read, answers)
    )
    assert found == expected
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["tasks"]["ner"] for line in lines], expected


@pytest.mark.parametrize("case", CASES)
def test_predictions_are_in_the_scheme_of_their_source_and_give_its_scores(case: str, tmp_path: Path) -> None:
    scheme, form, _ = CASES[case]
    tags = rows_of(case)
    task, source = build(tags * 10, **({"scheme": "io"} if case == "plain" else {}))
    assert task.spans
    gold = list(source.gold["train"]["ner"])
    lines, scores = lines_and_scores(tmp_path, task, source, "train", random_answers(task, gold))
    assert 0 < scores["f1"] < 1
    assert [line["gold"] for line in lines] == tags * 10
    assert {line.get("scheme") for line in lines} == {CASES[case][2]}
    letters = LETTERS[scheme] + "B" * (scheme == "iob1")
    possible = {form.format(letter, kind) for letter in letters for kind in ("PER", "LOC")} | {"O"}
    predicted = {tag for line in lines for tag in line["predicted"] if tag is not None}
    assert predicted <= ({tag.lower() for tag in possible} if case == "lower" else possible)


@pytest.mark.parametrize("case", ["bio", "io", "bioes", "bare", "words"])
def test_words_without_a_label_keep_their_place(case: str, tmp_path: Path) -> None:
    tags: list[list[str | None]] = [
        list(row) for row in (rows_of(case) if case in CASES else [["DET", "NOUN"] * 2] * 4)
    ]
    tags = [list(row) for row in tags * 10]
    for number, row in enumerate(tags):  # not inside of spans, which would be repaired
        if row[-1] in ("O", "NOUN"):
            row.insert(number % 2 * len(row), None)
    task, source = build(tags)
    gold = [[tag for tag in row if tag is not None] for row in source.gold["train"]["ner"]]
    lines, scores = lines_and_scores(tmp_path, task, source, "train", random_answers(task, gold))
    assert 0 < next(iter(scores.values())) < 1
    assert [line["gold"] for line in lines] == tags
    for line, row in zip(lines, tags, strict=True):
        assert len(line["predicted"]) == len(row)
        assert all(own is None for own, tag in zip(line["predicted"], row, strict=True) if tag is None)


def test_rows_of_a_file_are_written_in_its_own_scheme_and_case(tmp_path: Path) -> None:
    task, source = build([["s-per", "o", "b-loc", "e-loc"]], ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG"])
    gold = list(source.gold["test"]["ner"])
    assert gold == [["B-PER", "O", "B-LOC", "I-LOC"]]
    answers = Answers(np.arange(1), [["B-LOC", "I-LOC", "I-LOC", None]], gold)
    assert lines_and_scores(tmp_path, task, source, "test", answers)[0] == [
        {"predicted": ["b-loc", "i-loc", "e-loc", None], "gold": ["s-per", "o", "b-loc", "e-loc"],
         "scheme": "BIOES (as b-per)"}
    ]  # fmt: skip


def test_types_in_another_case_are_written_as_in_the_file(tmp_path: Path) -> None:
    task, source = build([["B-per", "O"]], ["O", "B-PER", "I-PER"])
    answers = Answers(np.arange(1), [["B-PER", "B-PER"]], list(source.gold["test"]["ner"]))
    assert lines_and_scores(tmp_path, task, source, "test", answers)[0] == [
        {"predicted": ["B-per", "B-per"], "gold": ["B-per", "O"]}
    ]


def test_types_of_a_model_are_kept_where_tags_have_none(tmp_path: Path) -> None:
    task, source = build([["B", "I", "O"], ["O", "B"]], ["O", "B-PER", "I-PER", "B-LOC"])
    answers = Answers(np.arange(2), [["B-PER", "I-PER", "O"], ["O", "B-LOC"]], list(source.gold["test"]["ner"]))
    lines, scores = lines_and_scores(tmp_path, task, source, "test", answers)
    assert [line["predicted"] for line in lines] == [["B", "I", "O"], ["O", "B"]]
    assert [line["bio"] for line in lines] == [{"predicted": own} for own in answers.predicted]
    assert scores["f1"] == 0


def test_types_alone_of_a_file_are_spans_of_a_model_that_has_these_types() -> None:
    _, source = build([["per", "per", "o"], ["loc"]], ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    assert source.gold["test"]["ner"] == [["B-PER", "I-PER", "O"], ["B-LOC"]]
    assert tag_lines(source.written_tags["ner"], [["B-PER", "B-PER", "O"]], [["B-PER", "I-PER", "O"]]) == [
        {"predicted": ["per", "per", "o"], "gold": ["per", "per", "o"], "scheme": "IO (as per)",
         "bio": {"predicted": ["B-per", "B-per", "O"]}}
    ]  # fmt: skip


def test_sources_of_character_spans_get_character_spans(tmp_path: Path) -> None:
    tags = [["B-PER", "I-PER", "O", None], ["O", "B-LOC"]]
    task, source = build(tags)
    offsets = [[[0, 3], [4, 9], [10, 11], [11, 12]], [[1, 2], [5, 9]]]
    source.splits["train"] = source.splits["train"].add_column("offsets", offsets)
    source.offsets = "offsets"
    gold = [["B-PER", "I-PER", "O"], ["O", "B-LOC"]]  # as `read_answers`: of words with a label
    answers = Answers(np.arange(2), [["B-PER", "O", None], ["B-LOC", "I-LOC"]], gold)
    lines, _ = lines_and_scores(tmp_path, task, source, "train", answers)
    assert lines == [
        {"predicted": [{"start": 0, "end": 3, "label": "PER"}], "gold": [{"start": 0, "end": 9, "label": "PER"}],
         "words": [[0, 3], [4, 9], [10, 11]], "bio": {"predicted": ["B-PER", "O", None]}},
        {"predicted": [{"start": 1, "end": 9, "label": "LOC"}], "gold": [{"start": 5, "end": 9, "label": "LOC"}],
         "words": [[1, 2], [5, 9]]},
    ]  # fmt: skip


def test_a_run_and_evaluate_write_the_schemes_of_their_files(encoder_folder: str, tmp_path: Path) -> None:
    def write(name: str, tags: list[list[str]]) -> Path:
        path = tmp_path / f"{name}.jsonl"
        rows = [{"text": ["play"] * len(own), "tags": own} for own in tags * 4]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def scores_of_lines(folder: Path) -> tuple[set[str], float]:
        task = TaskData("ner", RunConfig.load(tmp_path / "out" / "run.yaml").tasks["ner"], [], "words", spans=True)
        answers = read_predictions(folder, {"ner": task}).popitem()[1]["ner"]
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        return {line["tasks"]["ner"].get("scheme") for line in lines}, task_metrics(task, answers)["accuracy"]

    train, other = write("train", rows_of("plain")), write("other", rows_of("bilou"))
    results = mtl_hf.train({
        "model": {"encoder": encoder_folder},
        "sources": {"only": {"path": "json", "text": "text",
                             "data_files": {split: str(train) for split in ("train", "validation", "test")}}},
        "tasks": {"ner": {"type": "token_classification", "source": "only", "label": "tags", "scheme": "io"}},
        "training": TRAINING | {"output_dir": str(tmp_path / "out"), "max_steps": 1, "eval_strategy": "no",
                                "save_strategy": "no", "load_best_model_at_end": False},
    })  # fmt: skip
    found = scores_of_lines(tmp_path / "out")
    assert found == ({"IO (as PER)"}, results["tasks"]["ner"]["accuracy"])
    results = mtl_hf.evaluate(tmp_path / "out", data=other, labels={"ner": "tags"}, to=tmp_path / "to", intervals=False)
    assert scores_of_lines(tmp_path / "to") == ({"BILOU"}, results["tasks"]["ner"]["accuracy"])
