"""Tests of `mtl_hf.metrics` and the report, against computations of their own."""

import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics

from mtl_hf.config import Task
from mtl_hf.evaluation.report import json_text, scores_table
from mtl_hf.metrics import (
    METRICS,
    baseline,
    flatten,
    interval,
    load_metrics,
    logged_names,
    metric_names,
    primary_metric,
    score,
    score_weight,
    task_metrics,
)
from mtl_hf.modeling.tags import NO_TOKEN
from mtl_hf.tasks import Answers, TaskData
from mtl_hf.tasks.sentence_similarity import own_ranks
from tests.answers import read_answers

CLASSES = "sequence_classification"
SETS = "multi_label_classification"
NUMBERS = "regression"
TAGS = "token_classification"


def task(kind: str, labels: Sequence[str] = (), **options: Any) -> TaskData:
    """A task without data."""
    spans = kind == TAGS and "O" in labels
    config = Task(type=kind, source="only", label="y", **options)
    return TaskData("task", config, list(labels), "words" if kind == TAGS else "string", spans)


def logits_for(rows: Sequence[Sequence[int]], num_labels: int) -> np.ndarray:
    """(rows, T, num_labels) logits whose largest is at the given ids, the rest seeded noise."""
    longest = max(map(len, rows))
    logits = np.random.default_rng(0).normal(size=(len(rows), longest, num_labels)).astype(np.float32)
    for row, ids in enumerate(rows):
        for position, best in enumerate(ids):
            logits[row, position, best] = 9.0 + position
    return logits


def slow_cross_entropy(logits: Sequence[float], index: int) -> float:
    """−log softmax, in Python floats."""
    total = sum(math.exp(value - max(logits)) for value in logits)
    return -(logits[index] - max(logits) - math.log(total))


# Classification


def test_classes_are_decoded_and_scored_by_name() -> None:
    labels = ["a", "b", "c"]
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    gold = [None if value == 3 else labels[value] for value in rng.integers(0, 4, 60)]
    answers = read_answers(task(CLASSES, labels), gold, logits)
    rows = [row for row in range(60) if gold[row] is not None]
    known = [gold[row] for row in rows]
    predicted = [labels[max(range(3), key=lambda index: logits[row, index])] for row in rows]
    assert answers.rows.tolist() == rows
    assert answers.gold == known
    assert answers.predicted == predicted
    numbers = task_metrics(task(CLASSES, labels), answers)
    right = sum(one == other for one, other in zip(known, predicted, strict=True))
    assert numbers["accuracy"] == pytest.approx(right / len(rows))
    f1 = []
    for label in labels:
        true = sum(one == other == label for one, other in zip(known, predicted, strict=True))
        f1.append(2 * true / (known.count(label) + predicted.count(label)))
    assert numbers["macro_f1"] == pytest.approx(sum(f1) / 3)
    assert numbers["micro_f1"] == pytest.approx(right / len(rows))
    assert numbers["matthews"] == pytest.approx(sklearn.metrics.matthews_corrcoef(known, predicted))
    losses = [slow_cross_entropy(logits[row].tolist(), labels.index(gold[row])) for row in rows]
    assert numbers["cross_entropy"] == pytest.approx(sum(losses) / len(rows), rel=1e-12)
    assert set(numbers) == {*metric_names(task(CLASSES, labels)), "per_label", "confusion"}


def test_classes_are_scored_label_by_label() -> None:
    gold, predicted = ["a", "b", "a", "new", "c"], ["a", "a", "b", "a", "c"]
    numbers = task_metrics(task(CLASSES, "abcd"), Answers(np.arange(5), predicted, gold))
    assert numbers["per_label"] == {
        "a": {"f1": pytest.approx(2 / 5), "precision": pytest.approx(1 / 3), "recall": 0.5, "support": 2},
        "b": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 1},
        "c": {"f1": 1.0, "precision": 1.0, "recall": 1.0, "support": 1},
        "new": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 1},
    }
    assert numbers["macro_f1"] == pytest.approx(np.mean([found["f1"] for found in numbers["per_label"].values()]))
    assert numbers["confusion"] == {
        "labels": ["a", "b", "c", "new"],
        "matrix": [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]],
    }


def test_sets_and_words_are_scored_label_by_label() -> None:
    expected = {
        "a": {"f1": pytest.approx(2 / 3), "precision": 1.0, "recall": 0.5, "support": 2},
        "b": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 0},
    }
    sets = task_metrics(task(SETS, "abc"), Answers(np.arange(2), [["a", "b"], []], [["a"], ["a"]]))
    words = task_metrics(task(TAGS, "abc"), Answers(np.arange(2), [["a", "b"], [None]], [["a", "a"], ["a"]]))
    assert sets["per_label"] == expected
    assert words["per_label"]["a"] == expected["a"] | {"recall": pytest.approx(1 / 3), "f1": 0.5, "support": 3}
    assert "confusion" not in sets | words


def test_a_confusion_matrix_that_nobody_could_read_is_left_out() -> None:
    for number in (100, 101):
        labels = [f"label {label}" for label in range(number)]
        numbers = task_metrics(task(CLASSES, labels), Answers(np.arange(number), labels, labels))
        assert ("confusion" in numbers) == (number == 100)
        assert len(numbers["per_label"]) == number


def test_cross_entropy_is_exact_for_large_logits() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]], dtype=np.float32)
    numbers = task_metrics(task(CLASSES, "ab"), read_answers(task(CLASSES, "ab"), ["a", "a"], logits))
    assert numbers["cross_entropy"] == 500.0


def test_label_that_training_never_saw_counts_as_an_error() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    answers = read_answers(task(CLASSES, "ab"), ["a", "new"], logits)
    numbers = task_metrics(task(CLASSES, "ab"), answers)
    assert answers.correct.tolist() == [True, False]
    assert numbers["accuracy"] == 0.5
    assert numbers["macro_f1"] == pytest.approx(1 / 3)  # a, b and the label that no answer can be
    assert numbers["cross_entropy"] == pytest.approx(slow_cross_entropy([2.0, 0.0], 0))


@pytest.mark.parametrize("kind", [CLASSES, SETS, NUMBERS, TAGS])
def test_rows_without_a_label_give_no_numbers(kind: str) -> None:
    one = task(kind, () if kind == NUMBERS else ("O", "B-x") if kind == TAGS else "ab")
    shape = {CLASSES: (2, 2), SETS: (2, 2), NUMBERS: (2,), TAGS: (2, 3, 2)}[kind]
    answers = read_answers(one, [None, None], np.zeros(shape), [[0], [0]])
    assert len(answers.rows) == 0
    assert all(math.isnan(value) for value in task_metrics(one, answers).values())
    results = score({"task": one}, {"only": {"task": answers}}, {"only": 2}, intervals=True)
    assert math.isnan(results["score"])
    assert "nan" in scores_table(results)


# Sets of labels


def test_sets_are_decoded_and_scored() -> None:
    labels = ["a", "b", "c"]
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(50, 3)).astype(np.float32)
    gold = [sorted({label for label in labels if rng.random() < 0.4}) for _ in range(50)]
    gold[3] = None
    gold[4] = ["a", "new"]
    answers = read_answers(task(SETS, labels), gold, logits)
    rows = [row for row in range(50) if row != 3]
    sets = [{label for label, value in zip(labels, logits[row], strict=True) if value >= 0} for row in rows]
    assert [set(found) for found in answers.predicted] == sets
    numbers = task_metrics(task(SETS, labels), answers)
    known = [set(gold[row]) for row in rows]
    f1 = {}
    for label in [*labels, "new"]:
        both = sum(label in one and label in other for one, other in zip(known, sets, strict=True))
        f1[label] = (2 * both, sum(label in one for one in known) + sum(label in one for one in sets))
    assert numbers["micro_f1"] == pytest.approx(sum(a for a, _ in f1.values()) / sum(b for _, b in f1.values()))
    assert numbers["macro_f1"] == pytest.approx(sum(a / b for a, b in f1.values()) / 4)
    assert numbers["accuracy"] == pytest.approx(sum(a == b for a, b in zip(known, sets, strict=True)) / 49)
    losses = []
    for row in rows:
        shares = [1 / (1 + math.exp(-float(value))) for value in logits[row]]
        parts = [-math.log(share if label in gold[row] else 1 - share)
                 for share, label in zip(shares, labels, strict=True)]  # fmt: skip
        losses.append(sum(parts) / 3)
    assert numbers["cross_entropy"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_sets_that_are_all_empty_are_right_where_nothing_is_said() -> None:
    answers = read_answers(task(SETS, "ab"), [[], []], np.full((2, 2), -1.0))
    numbers = task_metrics(task(SETS, "ab"), answers)
    assert (numbers["accuracy"], numbers["micro_f1"]) == (1.0, 0.0)


# Numbers


def test_numbers_are_correlated_and_compared() -> None:
    rng = np.random.default_rng(3)
    gold: list[Any] = rng.normal(size=30).tolist()
    logits = np.array(gold, dtype=np.float64) + rng.normal(size=30)
    gold[5] = None
    numbers = task_metrics(task(NUMBERS), read_answers(task(NUMBERS), gold, logits))
    rows = [row for row in range(30) if row != 5]
    x, y = logits[rows], np.array([gold[row] for row in rows])
    assert numbers["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1]
    assert numbers["spearman"] == pytest.approx(ranks)
    assert numbers["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 29)
    assert "cross_entropy" not in numbers


def test_constant_answer_has_learned_nothing() -> None:
    numbers = task_metrics(task(NUMBERS), read_answers(task(NUMBERS), [1.0, 2.0, 3.0], np.full(3, 2.0)))
    assert numbers == {"pearson": 0.0, "spearman": 0.0, "mse": pytest.approx(2 / 3)}


# Tags

BIO = ["O", "B-city", "I-city", "B-time", "I-time"]


def random_tags(rng: np.random.Generator, number: int) -> list[int]:
    return [int(tag) for tag in rng.choice(len(BIO), number, p=[0.4, 0.2, 0.15, 0.15, 0.1])]


def test_tags_are_scored_by_seqeval_overall_and_by_type() -> None:
    rng = np.random.default_rng(4)
    gold = [random_tags(rng, int(number)) for number in rng.integers(1, 9, 40)]
    predicted = [[tag if rng.random() < 0.7 else int(rng.integers(5)) for tag in row] for row in gold]
    starts = [[1 + 2 * word for word in range(len(row))] for row in gold]  # two tokens a word, after the first special
    by_token = [[0] + [tag for word in row for tag in (word, (word + 1) % 5)] for row in predicted]
    names = [[BIO[tag] for tag in row] for row in gold]
    logits = logits_for(by_token, 5)
    answers = read_answers(task(TAGS, BIO), names, logits, starts)
    assert answers.predicted == [[BIO[tag] for tag in row] for row in predicted]
    numbers = task_metrics(task(TAGS, BIO), answers)
    assert numbers["f1"] == pytest.approx(seqeval.metrics.f1_score(names, answers.predicted))
    assert numbers["precision"] == pytest.approx(seqeval.metrics.precision_score(names, answers.predicted))
    assert numbers["recall"] == pytest.approx(seqeval.metrics.recall_score(names, answers.predicted))
    words = sum(map(len, gold))
    assert numbers["accuracy"] == pytest.approx(
        sum(a == b for one, two in zip(gold, predicted, strict=True) for a, b in zip(one, two, strict=True)) / words
    )
    losses = [
        slow_cross_entropy(logits[row, start].tolist(), tag)
        for row, tags in enumerate(gold) for start, tag in zip(starts[row], tags, strict=True)
    ]  # fmt: skip
    assert numbers["cross_entropy"] == pytest.approx(sum(losses) / words, rel=1e-9)
    for kind in ("city", "time"):
        only = [
            [[tag if tag.endswith(kind) else "O" for tag in row] for row in rows] for rows in (names, answers.predicted)
        ]
        own = numbers["per_type"][kind]
        assert own["f1"] == pytest.approx(seqeval.metrics.f1_score(*only))
        assert own["support"] == sum(len(slow_spans(row)) for row in only[0])


def slow_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Spans of BIO tags: each position is tried as a begin, each later one as an end."""
    spans = set()
    for begin, tag in enumerate(tags):
        kind = tag[2:]
        joined = begin > 0 and tag[0] == "I" and tags[begin - 1][2:] == kind and tags[begin - 1] != "O"
        if tag == "O" or joined:
            continue
        end = begin + 1
        while end < len(tags) and tags[end] == f"I-{kind}":
            end += 1
        spans.add((kind, begin, end))
    return spans


def test_entity_f1_is_that_of_sets_of_spans() -> None:
    rng = np.random.default_rng(5)
    rows = [[[BIO[tag] for tag in random_tags(rng, 7)] for _ in range(30)] for _ in range(2)]
    both = sum(len(slow_spans(one) & slow_spans(two)) for one, two in zip(*rows, strict=True))
    total = sum(len(slow_spans(row)) for side in rows for row in side)
    answers = Answers(np.arange(30), rows[0], rows[1])
    assert task_metrics(task(TAGS, BIO), answers)["f1"] == pytest.approx(2 * both / total)


@pytest.mark.parametrize("kinds", [("x",), ("x", "y"), ("a-b", "b")])
def test_random_rows_of_tags_are_scored_as_by_seqeval(kinds: tuple[str, ...]) -> None:
    draw = random.Random(len(kinds))
    tags = ["O", *(f"{letter}-{kind}" for kind in kinds for letter in "BI")]
    for num_rows in range(1, 60):
        lengths = [draw.randint(1, 8) for _ in range(num_rows)]
        predicted, gold = ([draw.choices(tags, k=length) for length in lengths] for _ in range(2))
        if all(tag == "O" for row in predicted + gold for tag in row):  # which seqeval does not take
            continue
        expected = seqeval.metrics.classification_report(gold, predicted, output_dict=True, zero_division=0)
        numbers = task_metrics(task(TAGS, tags), Answers(np.arange(num_rows), predicted, gold))
        own = numbers["per_type"] | {"micro avg": numbers}
        assert numbers["per_type"].keys() == expected.keys() - {"micro avg", "macro avg", "weighted avg"}
        for name, found in own.items():
            theirs = [expected[name][key] for key in ("f1-score", "precision", "recall")]
            assert [found[key] for key in ("f1", "precision", "recall")] == pytest.approx(theirs, abs=1e-12)
        assert {name: found["support"] for name, found in numbers["per_type"].items()} == {
            name: int(expected[name]["support"]) for name in numbers["per_type"]
        }


def test_words_cut_or_lost_are_errors_and_have_no_answer() -> None:
    logits = logits_for([[1, 1, 2], [1, 1, 1]], 5)  # whatever the tokens say, these words have none
    gold = [["B-city", "O", "B-city"], ["O", "I-city", "B-time"]]
    answers = read_answers(task(TAGS, BIO), gold, logits, [[1, -1, -1], [-1, -1, -1]])
    assert answers.predicted == [["B-city", None, None], [None, None, None]]
    assert answers.correct.tolist() == [False, False]
    numbers = task_metrics(task(TAGS, BIO), answers)
    assert (numbers["precision"], numbers["recall"]) == (1.0, pytest.approx(1 / 4))
    assert numbers["accuracy"] == pytest.approx(1 / 6)
    # There is no loss to speak of where there is no token.
    assert numbers["cross_entropy"] == pytest.approx(slow_cross_entropy(logits[0, 1].tolist(), 1))


def test_words_without_a_tag_are_left_out_and_unknown_tags_are_errors() -> None:
    logits = logits_for([[0, 1, 0, 3]], 5)
    answers = read_answers(task(TAGS, BIO), [["O", None, "B-new", "B-time"]], logits, [[0, 1, 2, 3]])
    assert answers.gold == [["O", "B-new", "B-time"]]
    assert answers.predicted == [["O", "O", "B-time"]]
    numbers = task_metrics(task(TAGS, BIO), answers)
    assert (numbers["precision"], numbers["recall"]) == (1.0, 0.5)
    assert numbers["per_type"]["new"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 1}
    assert len(answers.losses) == 2


def test_rows_without_entities_on_either_side() -> None:
    numbers = task_metrics(task(TAGS, BIO), Answers(np.arange(2), [["O"], ["O", "O"]], [["O"], ["O", "O"]]))
    assert {key: value for key, value in numbers.items() if key != "cross_entropy"} == {
        "f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0, "per_type": {}
    }  # fmt: skip


def test_tags_that_are_not_spans_are_scored_by_word() -> None:
    one = task(TAGS, ["ADJ", "NOUN", "VERB"])
    assert primary_metric(one) == "accuracy"
    gold, predicted = [["ADJ", "NOUN"], ["VERB"]], [["ADJ", "VERB"], ["VERB"]]
    numbers = task_metrics(one, Answers(np.arange(2), predicted, gold))
    assert numbers["accuracy"] == pytest.approx(2 / 3)
    assert numbers["macro_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert "f1" not in numbers
    # A word without a token is an error also where there is no O.
    answers = read_answers(one, [["ADJ"]], np.zeros((1, 1, 3)), [[-1]])
    assert answers.predicted == [[None]]


def test_words_without_an_answer_are_in_no_label_of_macro_f1() -> None:
    one = task(TAGS, ["ADJ", "NOUN"])
    answers = Answers(np.arange(2), [["ADJ", None, "NOUN"], [None]], [["ADJ", "ADJ", "NOUN"], ["NOUN"]])
    numbers = task_metrics(one, answers)
    assert (numbers["accuracy"], numbers["macro_f1"]) == (2 / 4, pytest.approx((2 / 3 + 2 / 3) / 2))
    assert one.kind.measure(one, answers)[0]["accuracy"].columns[:, 0].tolist() == [2.0, 0.0]


def test_a_row_with_a_lost_word_is_not_entirely_right() -> None:
    tags, classes = task(TAGS, ["O", "B-x"]), task(CLASSES, ["a", "b"])
    tags.name, classes.name = "tags", "classes"
    tagged = Answers(np.arange(3), [["O"], [None], ["B-x"]], [["O"], ["O"], ["B-x"]])
    answers = {"only": {"tags": tagged, "classes": Answers(np.arange(3), ["a"] * 3, ["a"] * 3)}}
    assert score({"tags": tags, "classes": classes}, answers, {"only": 3})["joint"]["only"] == pytest.approx(2 / 3)


def test_metrics_of_others_read_o_for_a_word_without_an_answer() -> None:
    seen = []

    def other(predictions: Any, references: Any) -> dict[str, float]:
        seen.append((predictions, references))
        return {"other": 1.0}

    task_metrics(task(TAGS, BIO), Answers(np.arange(1), [["O", None]], [["O", "B-city"]]), {"other": other})
    assert seen == [([["O", "O"]], [["O", "B-city"]])]


@pytest.mark.parametrize(("labels", "first"), [(["0", "1", "-1"], "macro_f1"), (["0", "x"], "accuracy")])
def test_macro_f1_comes_first_for_numbers_as_tags(labels: list[str], first: str) -> None:
    assert primary_metric(task(TAGS, labels)) == first


@pytest.mark.parametrize(
    ("labels", "metric", "expected"),
    [
        (["ADJ", "NOUN"], "f1",
         r"`tasks\.task\.metrics`: 'f1' scores spans, but the tags of this task \(ADJ, NOUN\) are labels of words; "
         r"valid are accuracy, macro_f1, cross_entropy. Tags of spans are written as O, B-PER"),
        (BIO, "macro_f1",
         "'macro_f1' scores labels of words, but the tags of this task .* are spans; valid are f1"),
    ],
)  # fmt: skip
def test_metric_of_the_other_kind_of_tags_explains_itself(labels: list[str], metric: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load_metrics({"task": task(TAGS, labels, metrics=[metric])})


# Scores over tasks and sources


def answers_of(pattern: str) -> Answers:
    """Right (`1`) and wrong (`0`) answers and rows without a label (`.`)."""
    rows = [row for row, sign in enumerate(pattern) if sign != "."]
    return Answers(np.array(rows, dtype=int), ["a" if pattern[row] == "1" else "b" for row in rows], ["a"] * len(rows))


def test_score_is_the_weighted_mean_of_the_primary_metrics() -> None:
    tasks = {
        "one": task(CLASSES, "ab"),
        "two": task(CLASSES, "ab", score_weight=3.0),
        "loss": task(NUMBERS, metrics=["mse"]),
        "none": task(CLASSES, "ab", score_weight=0.0),
    }
    answers = {"only": {"one": answers_of("1100"), "two": answers_of("1000"), "none": answers_of("1111"),
                        "loss": Answers(np.arange(2), [1.0, 2.0], [3.0, 4.0])}}  # fmt: skip
    results = score(tasks, answers, {"only": 4})
    assert results["score"] == pytest.approx((0.5 + 3 * 0.25) / 4)
    assert results["tasks"]["loss"]["primary"] == "mse"
    assert results["tasks"]["loss"]["mse"] == 4.0
    assert results["rows"] == {"only": 4}
    tasks["loss"].config.score_weight = 1.0  # asked for
    assert score(tasks, answers, {"only": 4})["score"] == pytest.approx(
        (0.5 + 3 * 0.25 - 4.0) / 5
    )  # of a score more is better


def test_weight_of_a_loss_is_zero_unless_set() -> None:
    assert score_weight(task(CLASSES, "ab")) == 1.0
    assert score_weight(task(CLASSES, "ab", metrics=["cross_entropy"])) == 0.0
    assert score_weight(task(CLASSES, "ab", metrics=["cross_entropy"], score_weight=0.5)) == 0.5
    assert score_weight(task(NUMBERS, metrics=["mse"])) == 0.0
    assert score_weight(task(NUMBERS)) == 1.0


def test_first_metric_is_the_primary_one() -> None:
    assert primary_metric(task(CLASSES, "ab")) == "accuracy"
    assert primary_metric(task(CLASSES, "ab", metrics=["macro_f1", "accuracy"])) == "macro_f1"
    assert primary_metric(task(TAGS, BIO)) == "f1"
    assert primary_metric(task(CLASSES, "ab", metrics=[{"path": "folder/my_metric.py", "x": 1}])) == "my_metric"


def test_joint_accuracy_counts_rows_labelled_for_every_task() -> None:
    tasks = {"one": task(CLASSES, "ab"), "two": task(CLASSES, "ab"), "number": task(NUMBERS)}
    numbers = Answers(np.arange(6), [0.0] * 6, [1.0] * 6)
    answers = {"only": {"one": answers_of("1101.1"), "two": answers_of("10111."), "number": numbers},
               "alone": {"one": answers_of("11")}}  # fmt: skip
    # Rows 0 to 3 are labelled for both; 0 and 3 are right for both.
    assert score(tasks, answers, {"only": 6, "alone": 2})["joint"] == {"only": 0.5}
    nothing = {"only": {"one": answers_of("1."), "two": answers_of(".1")}}
    assert math.isnan(score(tasks, nothing, {"only": 2})["joint"]["only"])


def test_joint_accuracy_of_classes_and_tags() -> None:
    tasks = {"intent": task(CLASSES, "ab"), "slots": task(TAGS, BIO)}
    slots = Answers(np.arange(3), [["O", "B-city"], ["O"], ["B-city"]], [["O", "B-city"], ["B-city"], ["B-city"]])
    answers = {"only": {"intent": answers_of("110"), "slots": slots}}
    assert score(tasks, answers, {"only": 3})["joint"]["only"] == pytest.approx(1 / 3)


def test_task_on_two_sources_is_scored_on_each_and_together() -> None:
    answers = {"de": {"task": answers_of("1110")}, "fr": {"task": answers_of("10")}}
    numbers = score({"task": task(CLASSES, "ab")}, answers, {"de": 4, "fr": 2}, intervals=True)["tasks"]["task"]
    assert numbers["accuracy"] == pytest.approx(4 / 6)
    assert {source: own["accuracy"] for source, own in numbers["per_source"].items()} == {"de": 0.75, "fr": 0.5}


def test_task_that_no_answers_are_about_is_left_out() -> None:
    results = score(
        {"one": task(CLASSES, "ab"), "two": task(CLASSES, "ab")}, {"s": {"one": answers_of("10")}}, {"s": 2}
    )
    assert list(results["tasks"]) == ["one"]
    assert results["score"] == 0.5


# Intervals and baselines


@pytest.mark.parametrize("number", [50, 400])
def test_interval_of_accuracy_is_about_the_binomial_one(number: int) -> None:
    rng = np.random.default_rng(6)
    found = answers_of("".join("1" if rng.random() < 0.8 else "0" for _ in range(number)))
    low, high = interval(task(CLASSES, "ab"), found)
    share = found.correct.mean()
    expected = scipy.stats.binomtest(int(found.correct.sum()), number).proportion_ci(method="wilson")
    assert low < share < high
    assert low == pytest.approx(expected.low, abs=0.03)
    assert high == pytest.approx(expected.high, abs=0.03)
    assert interval(task(CLASSES, "ab"), found) == [low, high]  # seeded


@pytest.mark.parametrize(
    "metrics", [["f1"], ["accuracy"], ["recall"]], ids=["ratio of counts", "accuracy over words", "recall"]
)
def test_interval_of_tags_holds_the_score_and_narrows_with_rows(
    metrics: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_hf.statistics.NUM_RESAMPLES", 60)
    rng = np.random.default_rng(7)
    one = task(TAGS, BIO, metrics=metrics)
    widths = []
    for number in (20, 160):
        gold = [[BIO[tag] for tag in random_tags(rng, 6)] for _ in range(number)]
        predicted = [[tag if rng.random() < 0.8 else "O" for tag in row] for row in gold]
        found = Answers(np.arange(number), predicted, gold)
        low, high = interval(one, found)
        assert low < task_metrics(one, found)[metrics[0]] < high
        widths.append(high - low)
    assert widths[1] < 0.7 * widths[0]


def drawn(answers: Answers, rows: np.ndarray) -> Answers:
    """The answers to some rows, of which some may be drawn twice."""
    losses = np.split(answers.losses, np.cumsum(answers.num_losses))
    return Answers(
        rows,
        [answers.predicted[row] for row in rows],
        [answers.gold[row] for row in rows],
        np.concatenate([losses[row] for row in rows]) if len(answers.losses) else answers.losses,
        answers.num_losses[rows] if len(answers.losses) else answers.num_losses,
    )


def computed_anew(one: TaskData, sides: Sequence[Answers], weights: Sequence[float], number: int) -> list[float]:
    """The interval of weighted answers by scoring each of a number of resamples, with the same draws."""
    values = []
    for rows in np.random.default_rng(13).integers(len(sides[0].rows), size=(number, len(sides[0].rows))):
        numbers = [task_metrics(one, drawn(side, rows))[primary_metric(one)] for side in sides]
        values.append(sum(weight * value for weight, value in zip(weights, numbers, strict=True)))
    return np.quantile(values, [0.025, 0.975]).tolist()


def random_answers(kind: str, rng: np.random.Generator, number: int) -> tuple[TaskData, list[Answers]]:
    """A task, and what two models answer to the same rows, some of which are wrong, lost or unknown to training."""
    labels = {CLASSES: list("abc"), SETS: list("abc"), TAGS: BIO, "words": list("abc")}.get(kind, [])
    one = (
        pairs_task(scored=kind == PAIRS)
        if kind in (PAIRS, "ranks")
        else task(TAGS if kind == "words" else kind, labels)
    )
    lengths = rng.integers(1, 6, number)
    known = [*labels, "new"]
    gold = {
        CLASSES: lambda: [str(label) for label in rng.choice(known, number)],
        SETS: lambda: [[label for label in known if rng.random() < 0.3] for _ in range(number)],
        TAGS: lambda: [[BIO[tag] for tag in random_tags(rng, length)] for length in lengths],
        "words": lambda: [[str(tag) for tag in rng.choice(known, length)] for length in lengths],
        "masked_lm": lambda: lengths.tolist(),
        "ranks": lambda: [1.0] * number,
    }.get(kind, lambda: np.round(rng.normal(size=number), 1).tolist())()
    sides = []
    for _ in range(2):
        predicted: Any
        num_losses = np.zeros(0, dtype=int)
        if kind in (CLASSES, SETS):
            predicted = [label if rng.random() < 0.6 else gold[0] for label in gold]
            predicted = [label if label != "new" else "a" for label in predicted]
            num_losses = np.minimum(1, np.arange(number))  # the first row's label is unknown to training
        elif kind in (TAGS, "words"):
            predicted = [[tag if rng.random() < 0.6 else None if rng.random() < 0.3 else labels[1] for tag in row]
                         for row in gold]  # fmt: skip
            num_losses = np.minimum(lengths - 1, 3)
        elif kind == "masked_lm":
            predicted = [[float(loss), int(rng.integers(words + 1))]
                         for loss, words in zip(rng.gamma(2, size=number), gold, strict=True)]  # fmt: skip
        elif kind == "ranks":
            predicted = rng.integers(1, 5, number).astype(float).tolist()
        else:
            predicted = np.round(np.array(gold) + rng.normal(size=number), 1).tolist()
        losses = rng.gamma(1, size=num_losses.sum())
        sides.append(Answers(np.arange(number), predicted, gold, losses, num_losses))
    return one, sides


EVERY = [CLASSES, SETS, TAGS, "words", NUMBERS, "sentence_similarity", "ranks", "masked_lm"]


@pytest.mark.parametrize("number", [5, 40])
@pytest.mark.parametrize("kind", EVERY)
def test_every_interval_is_that_of_the_metric_computed_anew(
    kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_hf.statistics.NUM_RESAMPLES", 60)
    one, (first, second) = random_answers(kind, np.random.default_rng(number), number)
    for metric in metric_names(one):
        one.config.metrics = [metric]
        for sides, weights in (((first,), (1,)), ((first, second), (1, -1)), ((first, second, second), (0.5, 0.5, -1))):
            own = [side for side, weight in zip(sides, weights, strict=True) if weight > 0]
            other = [side for side, weight in zip(sides, weights, strict=True) if weight < 0]
            expected = computed_anew(one, sides, weights, 60)
            assert interval(one, own, against=other) == pytest.approx(expected, rel=1e-9, abs=1e-9), metric


def test_interval_of_tags_that_are_no_spans_by_macro_f1(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    gold = [[str(tag) for tag in rng.choice(["A", "B"], 5)] for _ in range(25)]
    predicted = [[tag if rng.random() < 0.7 else "A" for tag in row] for row in gold]
    found, one = Answers(np.arange(25), predicted, gold), task(TAGS, ["A", "B"], metrics=["macro_f1"])
    monkeypatch.setattr("mtl_hf.statistics.NUM_RESAMPLES", 200)
    low, high = interval(one, found)
    assert low < task_metrics(one, found)["macro_f1"] < high


@pytest.mark.parametrize(
    ("kind", "labels", "predicted", "gold", "expected"),
    [
        (CLASSES, "abc", ["c"] * 4, ["a", "b", "a", "c"], 0.5),
        (SETS, "ab", [["b"]] * 4, [["a"], ["a"], [], ["a", "b"]], 2 * 3 / (4 + 4)),
        (NUMBERS, "", [1.0, 2.0, 3.0], [3.0, 1.0, 2.0], 0.0),
        (TAGS, BIO, [["B-city"], ["O", "O"]], [["B-city"], ["O", "O"]], 0.0),
        (TAGS, ["A", "B"], [["A"], ["A", "A"]], [["A"], ["B", "B"]], 2 / 3),
    ],
)
def test_baseline_is_the_best_constant_answer(
    kind: str, labels: Any, predicted: Any, gold: Any, expected: float
) -> None:
    found = Answers(np.arange(len(gold)), predicted, gold)
    assert baseline(task(kind, list(labels)), found) == pytest.approx(expected)


def test_rows_with_tags_that_are_all_absent_have_a_baseline_that_is_no_number() -> None:
    found = Answers(np.arange(2), [[], []], [[], []])
    results = score({"task": task(TAGS, BIO)}, {"s": {"task": found}}, {"s": 2}, intervals=True)
    assert math.isnan(results["tasks"]["task"]["f1"])


@pytest.mark.parametrize("kind", [CLASSES, SETS, TAGS])
def test_cross_entropy_as_the_first_metric_has_an_interval_and_no_baseline(kind: str) -> None:
    labels = BIO if kind == TAGS else list("abcde")
    one = task(kind, labels, metrics=["cross_entropy"])
    rng = np.random.default_rng(0)
    gold: list[Any] = [[labels[tag] for tag in random_tags(rng, 3)] for _ in range(40)]
    if kind != TAGS:
        gold = [sorted({*row}) if kind == SETS else row[0] for row in gold]
    gold[5] = None
    gold[6] = "new" if kind == CLASSES else ["new"] * 3  # without a loss, but for sets
    logits = rng.normal(size=(40, 3, 5) if kind == TAGS else (40, 5)).astype(np.float32)
    answers = read_answers(one, gold, logits, [[0, 1, NO_TOKEN]] * 40)
    assert answers.num_losses.sum() == len(answers.losses) > 30
    results = score({"task": one}, {"only": {"task": answers}}, {"only": 40}, intervals=True)
    numbers = results["tasks"]["task"]
    assert one.kind.measure(one, answers)[0]["cross_entropy"].number() == pytest.approx(
        numbers["cross_entropy"], rel=1e-12
    )
    low, high = numbers["interval"]
    assert low < numbers["cross_entropy"] < high
    assert "baseline" not in numbers
    other = Answers(answers.rows, answers.predicted, answers.gold, 2 * answers.losses, answers.num_losses)
    twice = Answers.join([answers, other])
    assert one.kind.measure(one, twice)[0]["cross_entropy"].number() == pytest.approx(1.5 * numbers["cross_entropy"])


# Metrics of `evaluate`

SCRIPT = """
import datasets
import evaluate


class Share(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, factor=1.0):
        right = sum(int(p == r) for p, r in zip(predictions, references))
        return {%s}
"""


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A metric as a file, loaded without a network and without a trace outside the test's folder."""
    forget_modules()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules"), *sys.path])
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    path = tmp_path / "share_right.py"
    path.write_text(SCRIPT % '"share_right": factor * right / len(references)')
    yield path
    forget_modules()


def test_metric_of_a_file_may_be_the_primary_one(script: Path) -> None:
    tasks = {"task": task(CLASSES, "ab", metrics=[{"path": str(script), "factor": 2.0}, "accuracy"])}
    extra = load_metrics(tasks)
    assert list(extra["task"]) == ["share_right"]
    answers = {"one": {"task": answers_of("1110")}, "two": {"task": answers_of("10")}}
    results = score(tasks, answers, {"one": 4, "two": 2}, extra, intervals=True)
    numbers = results["tasks"]["task"]
    assert numbers["primary"] == "share_right"
    assert numbers["share_right"] == pytest.approx(2 * 4 / 6)
    assert numbers["accuracy"] == pytest.approx(4 / 6)
    assert results["score"] == pytest.approx(2 * 4 / 6)
    assert numbers["per_source"]["one"]["share_right"] == pytest.approx(1.5)
    assert "share_right" in scores_table(results)


def test_metric_whose_numbers_are_called_otherwise_counts_by_its_first(script: Path) -> None:
    script.write_text(SCRIPT % '"per_type": {"a": 1}, "overall": right / len(references), "other": 0.0')
    tasks = {"task": task(CLASSES, "ab", metrics=[str(script)])}
    results = score(tasks, {"s": {"task": answers_of("1000")}}, {"s": 4}, load_metrics(tasks))
    assert results["tasks"]["task"]["overall"] == 0.25
    assert results["tasks"]["task"]["share_right"] == results["score"] == 0.25


def test_our_own_metrics_need_no_loading() -> None:
    assert load_metrics({"task": task(CLASSES, "ab", metrics=["macro_f1", "cross_entropy"])}) == {"task": {}}


def test_metric_that_nobody_has_is_refused(script: Path) -> None:
    expected = r"`tasks\.task\.metrics`: 'acuracy' is not built in .*Did you mean `accuracy`"
    with pytest.raises(ValueError, match=expected):
        load_metrics({"task": task(CLASSES, "ab", metrics=["acuracy"])})
    with pytest.raises(ValueError, match=r"`tasks\.task\.metrics`: 'none' is not built in"):
        load_metrics({"task": task(CLASSES, "ab", metrics=[str(script.parent / "none.py")])})


def test_metric_without_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`tasks\.task\.metrics`: .* needs a `path`"):
        load_metrics({"task": task(CLASSES, "ab", metrics=[{"average": "macro"}])})


# For the log and for people


def test_flat_names_of_plain_numbers() -> None:
    tasks = {"one": task(CLASSES, "ab"), "slots": task(TAGS, BIO)}
    slots = Answers(np.arange(2), [["B-city"], ["O"]], [["B-city"], ["O"]])
    results = score(tasks, {"s": {"one": answers_of("10"), "slots": slots}}, {"s": 2}, intervals=True)
    flat = flatten(results, "eval")
    assert flat["eval_score"] == 0.75
    assert flat["eval_one_accuracy"] == 0.5
    assert flat["eval_slots_f1"] == 1.0
    assert flat["eval_joint_s"] == 0.5
    assert all(isinstance(value, float) for value in flat.values())
    assert not any("primary" in key or "per_type" in key or "interval" in key for key in flat)
    assert not any("per_label" in key or "confusion" in key for key in flat)


def test_table_shows_each_number_once_times_100() -> None:
    tasks = {"one": task(CLASSES, "ab"), "stars": task(NUMBERS)}
    stars = Answers(np.arange(4), [1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 3.0, 4.0])
    results = {"split": "test"} | score(
        tasks, {"s": {"one": answers_of("1101"), "stars": stars}}, {"s": 4}, intervals=True
    )
    lines = scores_table(results).splitlines()
    row = next(line for line in lines if line.startswith("one")).split()
    assert row[:3] == ["one", "accuracy", "75.00"]
    assert "to" in row
    assert row[-1] == "100.0"  # the only label there is
    assert any(line.split() == ["mse", "0.2500"] for line in lines)
    assert lines[-2].split() == ["score", f"{100 * results['score']:.2f}"]
    assert lines[-1] == "(test rows: s 4)"


def test_json_has_a_line_for_each_row_of_a_matrix() -> None:
    value = {"é": {"labels": ["a", "b"], "matrix": [[1, 2], [3, 4]], "none": {}}, "rows": {"s": 3}, "x": None}
    assert json_text(value).splitlines() == [
        '{', '  "é": {', '    "labels": ["a", "b"],', '    "matrix": [', "      [1, 2],", "      [3, 4]", "    ],",
        '    "none": {}', "  },", '  "rows": {"s": 3},', '  "x": null', "}",
    ]  # fmt: skip
    assert json.loads(json_text(value)) == value


def test_two_tasks_may_not_log_under_one_name() -> None:
    tasks = {"a": task(CLASSES, "ab"), "a_macro": task(TAGS, ["O", "B-x", "I-x"])}
    for name, one in tasks.items():
        one.name = name
    with pytest.raises(ValueError, match="two tasks would both log 'a_macro_f1'"):
        logged_names(tasks, {})
    assert "a_accuracy" in logged_names({"a": tasks["a"]}, {})


# What is recomputed for each resample: one number, where our metrics compute all of theirs.
REFERENCES: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": sklearn.metrics.accuracy_score,
    "macro_f1": partial(sklearn.metrics.f1_score, average="macro", zero_division=0),
    "micro_f1": partial(sklearn.metrics.f1_score, average="micro", zero_division=0),
    "matthews": sklearn.metrics.matthews_corrcoef,
    "f1": partial(seqeval.metrics.f1_score, zero_division=0),
    "recall": partial(seqeval.metrics.recall_score, zero_division=0),
}


@pytest.mark.parametrize("metric", ["macro_f1", "matthews", "micro_f1"])
def test_intervals_of_classification_are_those_of_recomputed_resamples(metric: str) -> None:
    rng = np.random.default_rng(0)
    gold = [str(label) for label in rng.integers(3, size=120)]
    predicted = [label if rng.random() < 0.7 else "0" for label in gold]
    answers = Answers(np.arange(120), predicted, gold)
    recomputed = METRICS[CLASSES]()._compute(predicted, gold)[metric]
    assert REFERENCES[metric](gold, predicted) == pytest.approx(recomputed)
    resampled = []
    for _ in range(300):
        index = rng.integers(120, size=120)
        resampled.append(REFERENCES[metric]([gold[i] for i in index], [predicted[i] for i in index]))
    expected = np.quantile(resampled, [0.025, 0.975])
    found = interval(task(CLASSES, "012", metrics=[metric]), answers)
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("num_labels", [1, 2, 3, 30])
def test_numbers_of_classes_are_those_of_sklearn(num_labels: int) -> None:
    rng = np.random.default_rng(num_labels)
    for size in (1, 7, 60):
        gold, predicted = ([f"label {label}" for label in rng.integers(num_labels, size=size)] for _ in range(2))
        found = METRICS[CLASSES]()._compute(predicted, gold)
        for name in ("accuracy", "macro_f1", "micro_f1"):
            assert found[name] == pytest.approx(REFERENCES[name](gold, predicted)), name
        # Between one label and itself it is not defined, and sklearn warns; 0, as for any constant answer.
        expected = REFERENCES["matthews"](gold, predicted) if len({*gold, *predicted}) > 1 else 0.0
        assert found["matthews"] == pytest.approx(expected)


@pytest.mark.parametrize("num_labels", [1, 2, 5])
def test_numbers_of_sets_are_those_of_sklearn(num_labels: int) -> None:
    rng = np.random.default_rng(num_labels)
    names = [f"label {label}" for label in range(num_labels)]
    for size in (1, 7, 60):
        gold, predicted = ([[name for name in names if rng.random() < 0.3] for _ in range(size)] for _ in range(2))
        gold[0] = [names[0]]
        occur = sorted({name for row in [*gold, *predicted] for name in row})
        hot = [np.array([[name in row for name in occur] for row in rows]) for rows in (gold, predicted)]
        found = METRICS[SETS]()._compute(predicted, gold)
        by_label = [sklearn.metrics.f1_score(*pair, zero_division=0) for pair in zip(*(h.T for h in hot), strict=True)]
        assert found["macro_f1"] == pytest.approx(np.mean(by_label))
        # One label is one question: the F1 of those that have it, and not the share of right answers.
        assert found["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(*(h.ravel() for h in hot), zero_division=0))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "f1", "recall"])
def test_the_interval_of_a_difference_draws_the_same_rows_for_both(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_hf.statistics.NUM_RESAMPLES", 150)
    rng = np.random.default_rng(9)
    kind = CLASSES if metric in ("accuracy", "macro_f1") else TAGS
    gold: Any = [[BIO[tag] for tag in random_tags(rng, 5)] for _ in range(60)]
    if kind == CLASSES:
        gold = [str(label) for label in rng.integers(3, size=60)]
    other = "0" if kind == CLASSES else ["O"] * 5

    def spoilt(share: float) -> Answers:
        return Answers(np.arange(60), [other if rng.random() < share else label for label in gold], gold)

    one = task(kind, "012" if kind == CLASSES else BIO, metrics=[metric])
    worse, better = spoilt(0.5), spoilt(0.2)
    found = interval(one, better, against=worse)
    for answers in (better, worse):
        recomputed = METRICS[kind]()._compute(answers.predicted, gold)[metric]
        assert REFERENCES[metric](gold, answers.predicted) == pytest.approx(recomputed)

    def slowly(rows: np.ndarray) -> float:
        drawn = [gold[row] for row in rows]
        gains = [REFERENCES[metric](drawn, [answers.predicted[row] for row in rows]) for answers in (better, worse)]
        return gains[0] - gains[1]

    draws = np.random.default_rng(13)  # another order of draws than scipy's in batches, hence the tolerance
    resampled = [slowly(draws.integers(60, size=60)) for _ in range(150)]
    np.testing.assert_allclose(found, np.quantile(resampled, [0.025, 0.975]), atol=0.05)
    assert found[0] < slowly(np.arange(60)) < found[1]
    assert interval(one, better, against=better) == [0, 0]
    apart = [interval(one, answers) for answers in (better, worse)]
    assert found[1] - found[0] < sum(high - low for low, high in apart)
    several = interval(one, [better, better, worse], against=[worse, better])  # of means over models
    assert several != found
    differences = [slowly(draws.integers(60, size=60)) for _ in range(60)]
    means = [np.mean([gain, gain, 0]) - np.mean([0, gain]) for gain in differences]
    np.testing.assert_allclose(several, np.quantile(means, [0.025, 0.975]), atol=0.07)
    with pytest.raises(ValueError, match="answers to the same rows"):
        interval(one, better, against=Answers(np.arange(1, 61), worse.predicted, gold))


# Sentence similarity

PAIRS = "sentence_similarity"


def pairs_task(*, scored: bool = True, **options: Any) -> TaskData:
    """A task on pairs with scores, or without."""
    config = Task(type=PAIRS, source="only", label="y" if scored else None, **options)
    return TaskData("task", config, [], "apart")


def pair_vectors(num_rows: int, noise: float, seed: int = 0) -> np.ndarray:
    """(num_rows, 2, 5) vectors of length 1; the second is the first with noise."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(num_rows, 5))
    vectors = np.stack([first, first + noise * rng.normal(size=first.shape)], axis=1)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_cosines_are_correlated_with_scores() -> None:
    vectors = pair_vectors(50, 1.5)
    rng = np.random.default_rng(2)
    gold = [None if row % 6 == 0 else round(float(rng.random()), 1) for row in range(50)]
    answers = read_answers(pairs_task(), gold, vectors)
    rows = [row for row in range(50) if row % 6]
    assert answers.rows.tolist() == rows
    cosines = [sum(float(a) * float(b) for a, b in zip(*vectors[row], strict=True)) for row in rows]
    np.testing.assert_allclose(answers.predicted, cosines, rtol=1e-12)
    numbers = task_metrics(pairs_task(), answers)
    known = [gold[row] for row in rows]
    ranks = scipy.stats.rankdata(cosines), scipy.stats.rankdata(known)
    assert numbers == {
        "spearman": pytest.approx(np.corrcoef(*ranks)[0, 1]),
        "pearson": pytest.approx(np.corrcoef(cosines, known)[0, 1]),
    }
    assert tuple(numbers) == metric_names(pairs_task())
    assert primary_metric(pairs_task()) == "spearman"


def test_the_own_second_text_is_ranked_among_those_of_all_rows() -> None:
    vectors = pair_vectors(40, 0.8)
    first, second = vectors.astype(np.float64).transpose(1, 0, 2)
    ranks = []
    for row in range(40):
        cosines = [sum(a * b for a, b in zip(first[row], other, strict=True)) for other in second]
        ranks.append(1 + sum(cosine > cosines[row] for cosine in cosines))
    assert 1 < np.mean(ranks) < 10
    for chunk in (7, 40, 1000):
        assert own_ranks(first, second, chunk=chunk).tolist() == ranks
    one = pairs_task(scored=False)
    answers = read_answers(one, [1.0] * 40, vectors)
    assert answers.predicted == ranks
    numbers = task_metrics(one, answers)
    assert numbers == {"accuracy": ranks.count(1) / 40, "mrr": pytest.approx(sum(1 / rank for rank in ranks) / 40)}
    assert tuple(numbers) == metric_names(one)
    low, high = interval(one, answers)
    assert low < numbers["accuracy"] < high
    resampled = np.random.default_rng(0).binomial(40, numbers["accuracy"], size=4000) / 40
    np.testing.assert_allclose([low, high], np.quantile(resampled, [0.025, 0.975]), atol=0.03)


def test_a_second_text_that_is_equal_to_the_own_one_is_the_own_one() -> None:
    first, second = pair_vectors(40, noise=0.5).transpose(1, 0, 2).astype(np.float64)
    texts = np.random.default_rng(3).integers(0, 12, 40)
    second = second[[texts.tolist().index(text) for text in texts]]  # equal texts have equal vectors
    ranks = []
    for row in range(40):
        own = float(first[row] @ second[row])
        nearer = {
            int(texts[other]) for other in range(40) if first[row] @ second[other] > own and texts[other] != texts[row]
        }
        ranks.append(1 + len(nearer))
    assert own_ranks(first, second, texts, chunk=7).tolist() == ranks
    answers = read_answers(pairs_task(scored=False), [1.0] * 40, np.stack([first, second], 1), second_texts=texts)
    assert answers.predicted == ranks
    perfect = np.stack([second, second], 1)  # each first text is its answer's twin
    numbers = task_metrics(
        pairs_task(scored=False), read_answers(pairs_task(scored=False), [1.0] * 40, perfect, second_texts=texts)
    )
    assert numbers == {"accuracy": 1.0, "mrr": 1.0}


def test_texts_that_are_all_the_same_rank_nothing_first() -> None:
    same = np.tile(np.array([1.0, 0, 0]), (4, 1))
    assert own_ranks(same, same).tolist() == [4] * 4
    nearly = same + np.random.default_rng(0).normal(size=same.shape) * 1e-9  # as batches of other sizes round
    assert own_ranks(same, nearly).tolist() == [4] * 4
    assert own_ranks(np.zeros((0, 3)), np.zeros((0, 3))).tolist() == []


@pytest.mark.parametrize("scored", [True, False])
def test_a_constant_answer_about_pairs_scores_nothing(scored: bool) -> None:
    gold = [0.1, 0.9, 0.4, 0.4] if scored else [1.0] * 4
    one = pairs_task(scored=scored)
    results = score({"task": one}, {"only": {"task": read_answers(one, gold, pair_vectors(4, 0.5))}}, {"only": 4},
                    intervals=True)  # fmt: skip
    assert results["tasks"]["task"]["baseline"] == 0
    assert results["score"] == results["tasks"]["task"]["spearman" if scored else "accuracy"]
    assert "sim" not in results["joint"]
    assert ("spearman" if scored else "mrr") in scores_table(results)


@pytest.mark.parametrize("scored", [True, False])
def test_pairs_without_a_row_have_no_numbers(scored: bool) -> None:
    one = pairs_task(scored=scored)
    answers = read_answers(one, [None] * 2 if scored else [], pair_vectors(2 if scored else 0, 0.5))
    assert all(math.isnan(value) for value in task_metrics(one, answers).values())


def test_mrr_may_be_the_primary_metric_of_pairs() -> None:
    one = pairs_task(scored=False, metrics=["mrr"])
    answers = read_answers(one, [1.0] * 30, pair_vectors(30, 1.0))
    low, high = interval(one, answers)
    assert low < task_metrics(one, answers)["mrr"] < high
    assert baseline(one, answers) == pytest.approx(1 / 30)


# Masked language modelling


def masked(num_rows: int = 30) -> tuple[TaskData, np.ndarray]:
    """A task, and for each row the sum of its losses, the number of masked tokens and of the right ones."""
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 5, num_rows)
    found = np.stack([rng.gamma(2, size=num_rows) * counts, counts, rng.binomial(counts, 0.4)], axis=1)
    return task("masked_lm"), found.astype(np.float32)


def test_perplexity_is_over_all_masked_tokens() -> None:
    mlm, found = masked()
    answers = read_answers(mlm, [1.0] * len(found), found)
    assert answers.rows.tolist() == [row for row in range(len(found)) if found[row, 1] > 0] != list(range(len(found)))
    loss = sum(row[0] for row in found.tolist()) / sum(row[1] for row in found.tolist())
    numbers = task_metrics(mlm, answers)
    assert list(numbers) == list(metric_names(mlm)) == ["perplexity", "accuracy", "cross_entropy"]
    assert numbers["cross_entropy"] == pytest.approx(loss, rel=1e-6)
    assert numbers["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert numbers["accuracy"] == pytest.approx(found[:, 2].sum() / found[:, 1].sum())
    assert score_weight(mlm) == 0
    nothing = task_metrics(mlm, read_answers(mlm, [1.0] * 4, np.zeros((4, 3), dtype=np.float32)))
    assert all(map(math.isnan, nothing.values()))


@pytest.mark.parametrize("primary", ["perplexity", "accuracy"])
def test_interval_of_masked_language_modelling_is_that_of_a_loop(primary: str) -> None:
    mlm, found = masked()
    mlm.config.metrics = [primary]
    answers = read_answers(mlm, [1.0] * len(found), found)
    rng, values, rows = np.random.default_rng(0), [], found[found[:, 1] > 0].astype(float)
    for _ in range(4000):
        total = rows[rng.integers(len(rows), size=len(rows))].sum(0)
        values.append(math.exp(total[0] / total[1]) if primary == "perplexity" else total[2] / total[1])
    low, high = np.quantile(values, [0.025, 0.975])
    assert interval(mlm, answers) == pytest.approx([low, high], rel=0.06)


def test_what_is_shown_of_perplexity() -> None:
    mlm, found = masked()
    results = score({"mlm": mlm}, {"only": {"mlm": read_answers(mlm, [1.0] * len(found), found)}}, {"only": 30},
                    intervals=True)  # fmt: skip
    assert math.isnan(results["score"])
    assert "baseline" not in results["tasks"]["mlm"]
    table = scores_table(results)
    assert f"perplexity{results['tasks']['mlm']['perplexity']:>14.2f}" in table
    assert "\nscore" not in table


def test_a_task_that_is_only_scored_has_no_weight_in_the_score() -> None:
    gold = list("abab")
    right, wrong = (Answers(np.arange(4), guesses, gold) for guesses in (gold, gold[::-1]))
    tasks = {"trained": task(CLASSES, "ab"), "kept": task(CLASSES, "ab", train=False)}
    found = {"only": {"trained": right, "kept": wrong}}
    assert score(tasks, found, {"only": 4})["score"] == 1
    tasks["kept"].config.score_weight = 1.0  # unless it is given one
    assert score(tasks, found, {"only": 4})["score"] == 0.5
