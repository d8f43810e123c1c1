"""Tests of `extractive_qa`: passages against brute force, scores against SQuAD's script, a run from rows to answers."""

import collections
import itertools
import random
import re
import string
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.rows import encode_rows
from mtl_hf.data.sources import load_sources
from mtl_hf.modeling.head import EncoderShape
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tokenizing import load_tokenizer
from mtl_hf.tasks import Answers
from mtl_hf.tasks.extractive_qa import f1_of, normal

CITIES = ["paris", "rome", "oslo"]


def row(index: int, split: str = "train", **changed: Any) -> dict[str, Any]:
    """Every fourth question has no answer."""
    city = CITIES[index % 3]
    context = f"play some jazz in {city} today {split} {index}"
    answers = {"text": [city], "answer_start": [context.index(city)]} if index % 4 else {"text": [], "answer_start": []}
    question = "is it warm" if index % 4 else "play some"
    return {"question": question, "context": context, "answers": answers} | changed


def config(encoder_folder: str, found: Any, tmp_path: Path | None = None, **options: Any) -> dict[str, Any]:
    return {
        "model": {"encoder": encoder_folder, **options},
        "sources": {"squad": {"dataset": found, "text": ["question", "context"], "batch_size": 8}},
        "tasks": {"answer": {"type": "extractive_qa", "source": "squad", "label": "answers"}},
        "training": {"output_dir": str(tmp_path), "max_steps": 60, "learning_rate": 3e-3, "use_cpu": True,
                     "precision": "fp32", "disable_tqdm": True},
    }  # fmt: skip


def encoded(encoder_folder: str, found: list[dict[str, Any]], max_length: int = 48) -> tuple[Any, datasets.Dataset]:
    run = RunConfig.load(config(encoder_folder, {"train": datasets.Dataset.from_list(found)}))
    sources = load_sources(run, ["train"])
    tasks = build_tasks(run, sources)
    return sources["squad"], encode_rows(sources["squad"], "train", tasks, load_tokenizer(encoder_folder), max_length)


# Labels


def test_the_labelled_tokens_are_those_of_the_answer(encoder_folder: str) -> None:
    found = [row(index) for index in range(20)]
    source, rows = encoded(encoder_folder, found)
    tokenizer = load_tokenizer(encoder_folder)
    for example, one in zip(source.splits["train"], rows, strict=True):
        first, last = one["label:answer"]
        if not example["answers"]["text"]:
            assert (first, last) == (0, 0)
            continue
        words = tokenizer(example["answers"]["text"][0], add_special_tokens=False)["input_ids"]
        assert one["input_ids"][first : last + 1] == words
        text, begin, _ = one["offsets"][first]
        assert (text, begin) == (1, example["answers"]["answer_start"][0])


def test_an_answer_that_is_cut_off_trains_nothing(encoder_folder: str) -> None:
    _, rows = encoded(encoder_folder, [row(1), *(row(index) for index in range(20))], max_length=9)
    labels = {tuple(label) for label, cut in zip(rows["label:answer"], rows["cut"], strict=True) if cut}
    assert labels <= {(-100, -100), (0, 0)}
    assert (-100, -100) in labels


def test_spaces_around_an_answer_are_no_part_of_it(encoder_folder: str) -> None:
    spaced = row(1, context="play some jazz in rome today", answers={"text": [" rome "], "answer_start": [17]})
    _, rows = encoded(encoder_folder, [spaced, *(row(index) for index in range(2, 20))])
    first, last = rows[0]["label:answer"]
    assert (rows[0]["offsets"][first][1], rows[0]["offsets"][last][2]) == (18, 22)


def test_answers_that_begin_elsewhere_are_found_and_counted(encoder_folder: str, caplog: Any) -> None:
    moved = row(1, answers={"text": ["rome"], "answer_start": [3]})
    source, _ = encoded(encoder_folder, [moved, *(row(index) for index in range(2, 20))])
    assert "answers of 1 rows of squad train do not begin at their `answer_start`" in caplog.text
    assert source.gold["train"]["answer"][0] == {"text": ["rome"], "answer_start": [18]}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"text": ["berlin"], "answer_start": [0]}, "row 4 .* has the answer 'berlin', which is not in its context"),
        ({"text": ["rome"], "answer_start": []}, "row 4 .* extractive_qa takes answers per row"),
        ({"text": [""], "answer_start": [0]}, "row 4 .* extractive_qa takes answers per row"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_row(encoder_folder: str, answers: dict, expected: str) -> None:
    found = [row(index) for index in range(20)]
    found[3]["answers"] = answers
    with pytest.raises(ValueError, match=expected):
        encoded(encoder_folder, found)


def test_answers_in_csv_are_refused_with_the_way_out(encoder_folder: str, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    rows = [f"is it warm,in rome {index},\"{{'text': ['rome'], 'answer_start': [3]}}\"" for index in range(20)]
    file.write_text("\n".join(["question,context,answers", *rows, ""]))
    tree = config(encoder_folder, None)
    tree["sources"]["squad"] = {"path": "csv", "data_files": {"train": str(file)}, "text": ["question", "context"]}
    run = RunConfig.load(tree)
    with pytest.raises(ValueError, match=r"row 1 .* write the rows as JSON lines or Parquet"):
        build_tasks(run, load_sources(run, ["train"]))


# Passages and scores


def test_the_passage_is_the_best_of_all_that_are_allowed() -> None:
    head = build_head({"type": "extractive_qa", "text": "pair", "max_answer_length": 3}, EncoderShape(4))
    generator = np.random.default_rng(0)
    num_none = 0
    for _ in range(50):
        logits = generator.normal(size=(1, 9, 2)).astype(np.float32)
        offsets = [
            (-1, 0, 0),
            (0, 0, 4),
            (-1, 0, 0),
            *((1, 5 * place, 5 * place + 4) for place in range(4)),
            (-1, 0, 0),
        ]
        (found,) = head.decode(logits, {"offsets": [offsets]})
        begin, end = logits[0].astype(float).T
        spans = [(a, b) for a, b in itertools.product(range(3, 7), repeat=2) if a <= b < a + 3]
        first, last = max(spans, key=lambda span: begin[span[0]] + end[span[1]])
        if begin[0] + end[0] > begin[first] + end[last]:
            assert found.value is None
            num_none += 1
        else:
            assert found.value == (offsets[first][1], offsets[last][2])
    assert 0 < num_none < 50


def squad_f1(predicted: str, gold: str) -> tuple[int, float]:
    """Exact match and F1 of one answer, after the official evaluation script of SQuAD 2.0."""

    def tokens(text: str) -> list[str]:
        lowered = "".join(sign for sign in text.lower() if sign not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", lowered).split()

    own, right = tokens(predicted), tokens(gold)
    exact = int(own == right)
    if not own or not right:
        return exact, float(own == right)
    shared = sum((collections.Counter(own) & collections.Counter(right)).values())
    if not shared:
        return exact, 0.0
    precision, recall = shared / len(own), shared / len(right)
    return exact, 2 * precision * recall / (precision + recall)


def test_scores_are_those_of_squads_script() -> None:
    generator = random.Random(0)
    words = ["the", "a", "Rome,", "rome", "in", "An", "oslo!", "-", "old", "town"]
    for _ in range(300):
        predicted, gold = (" ".join(generator.choices(words, k=generator.randrange(5))) for _ in range(2))
        exact, f1 = squad_f1(predicted, gold)
        assert f1_of(predicted, gold) == pytest.approx(f1)
        assert (normal(predicted) == normal(gold)) == exact


def test_the_best_of_several_answers_counts_and_only_none_is_right_where_there_is_none() -> None:
    kind = mtl_hf.TASK_TYPES["extractive_qa"]
    answers = Answers(np.arange(4), ["The old town", "", "rome", ""], [["town", "old town"], [], [], ["oslo"]])
    measured, details = kind.measure(None, answers)  # type: ignore[arg-type]
    assert measured["exact_match"].number() == 0.5
    assert measured["f1"].number() == 0.5
    assert details["has_answer"] == {"f1": 0.5, "exact_match": 0.5, "support": 2}
    assert details["no_answer"] == {"f1": 0.5, "exact_match": 0.5, "support": 2}


def test_an_answer_of_articles_alone_does_not_count_beside_others() -> None:
    kind = mtl_hf.TASK_TYPES["extractive_qa"]
    measured, _ = kind.measure(None, Answers(np.arange(2), ["", "rome"], [["the", "rome"]] * 2))  # type: ignore[arg-type]
    assert measured["exact_match"].number() == measured["f1"].number() == 0.5


# A run


def test_a_run_learns_is_scored_saved_and_answers(encoder_folder: str, tmp_path: Path) -> None:
    data = {
        split: datasets.Dataset.from_list([row(index, split) for index in range(number)])
        for split, number in (("train", 48), ("validation", 12))
    }
    results = mtl_hf.train(config(encoder_folder, data, tmp_path))["tasks"]["answer"]
    assert results["primary"] == "f1"
    assert results["exact_match"] == results["f1"] > 0.9
    assert results["baseline"] == pytest.approx(3 / 12)
    assert results["no_answer"]["support"] == 3
    model = MultiTaskModel.from_pretrained(tmp_path)
    context = "play some jazz in rome today"
    found, none = (one["answer"] for one in model.predict([("is it warm", context), ("play some", context)]))
    assert (found["text"], found["start"], found["end"]) == ("rome", 18, 22)
    assert 0 < found["score"] <= 1
    assert (none["text"], none["start"], none["end"]) == ("", None, None)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "the answer to the first text (a question) as a span of the second (a context), or no answer" in card
