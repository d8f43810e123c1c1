"""Tests of `mtl_hf.training.scoring`: batches of several sources become scores of tasks, and mixtures of experts.

That each row is predicted once, on one process and on two, is tested with the trainer, which makes the batches.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_hf.config import Task
from mtl_hf.data.rows import EncodedSplit
from mtl_hf.modeling.head import EncoderShape
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.modeling_multitask import MultiTaskOutput
from mtl_hf.tasks import TaskData
from mtl_hf.training.scoring import Scorer

STARS = TaskData("stars", Task(type="regression", source=["one", "two"], label="stars"), [], "string")


class Tokenizer:
    unk_token_id = -1


def heads(**kinds: str) -> nn.ModuleDict:
    return nn.ModuleDict({name: build_head({"type": kind}, EncoderShape(4)) for name, kind in kinds.items()})


def split(gold: dict[str, list], **columns: Sequence[Any]) -> EncodedSplit:
    columns = columns or {"cut": [False] * len(next(iter(gold.values())))}
    texts = [("first", f"second {row}") for row in range(len(next(iter(gold.values()))))]
    return EncodedSplit(datasets.Dataset.from_dict(columns), gold, lambda rows: [texts[row] for row in rows])


def outputs(gates: Tensor | None = None, **logits: Tensor) -> MultiTaskOutput:
    return MultiTaskOutput(logits=logits, gates=None if gates is None else dict.fromkeys(logits, gates))


def test_a_task_is_scored_over_all_its_sources_and_so_are_its_mixtures() -> None:
    scorer, model = Scorer({"stars": STARS}, {}), heads(stars="regression")
    first, second = split({"stars": [1.0, 4.0]}), split({"stars": [4.0]})
    scorer.add(first, [1], outputs(torch.tensor([[0.0, 1.0]]), stars=torch.tensor([2.0])), model, {})
    scorer.add(first, [0], outputs(torch.tensor([[0.5, 0.5]]), stars=torch.tensor([1.0])), model, {})
    scorer.finish("one", first)
    scorer.add(second, [0], outputs(torch.tensor([[1.0, 0.0]]), stars=torch.tensor([4.0])), model, {})
    scorer.finish("two", second)
    results = scorer.results()
    assert results["rows"] == {"one": 2, "two": 1}
    assert results["tasks"]["stars"]["mse"] == pytest.approx(4 / 3)
    assert results["experts"] == {"stars": [0.5, 0.5]}
    assert scorer.answers["one"]["stars"].predicted == [1.0, 2.0], "in the order of the rows"
    assert scorer.answers["two"]["stars"].predicted == [4.0]


def test_without_experts_there_are_no_mixtures() -> None:
    scorer, rows = Scorer({"stars": STARS}, {}), split({"stars": [1.0, 2.0]})
    scorer.add(rows, [0, 1], outputs(stars=torch.tensor([1.0, 2.0])), heads(stars="regression"), {})
    scorer.finish("one", rows)
    assert "experts" not in scorer.results()


def test_a_row_that_two_processes_had_counts_once() -> None:
    rows, model = split({"stars": [1.0, 2.0, 6.0]}), heads(stars="regression")
    scorer, other = (Scorer({"stars": STARS}, {}) for _ in range(2))
    gates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scorer.add(rows, [2, 0], outputs(gates, stars=torch.tensor([6.0, 1.0])), model, {})
    other.add(rows, [1, 2], outputs(gates, stars=torch.tensor([3.0, 6.0])), model, {})
    parts = [[*other._pieces["stars"]], [*other._mixed["stars"]]]
    scorer.finish("one", rows, lambda own: own + parts.pop(0))
    assert scorer.answers["one"]["stars"].predicted == [1.0, 3.0, 6.0]
    assert scorer.results()["experts"] == {"stars": pytest.approx([2 / 3, 1 / 3])}


def test_equal_second_texts_are_ranked_as_one() -> None:
    task = TaskData("ranked", Task(type="sentence_similarity", source="one", options={"loss": "ranking"}), [], "apart")
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.8, 0.6]])
    rows = split(
        {"ranked": [1.0] * 3}, input_ids=[[7, 4], [7, 2], [7, 4]], segments=[[1, 1]] * 3, cut=[False] * 3
    )  # fmt: skip
    scorer = Scorer({"ranked": task}, {}, Tokenizer(), max_length=8)
    scorer.add(rows, [0, 1, 2], outputs(ranked=vectors), heads(ranked="sentence_similarity"), {})
    scorer.finish("one", rows)
    assert scorer.answers["one"]["ranked"].predicted == [1.0, 1.0, 1.0]
    assert scorer.results()["tasks"]["ranked"]["accuracy"] == 1.0


def test_outputs_are_kept_for_heads_that_are_asked_for_a_row_each() -> None:
    model, gold = heads(stars="regression", alike="sentence_similarity"), {"stars": [1.0, 2.0], "alike": [0.5, 1.0]}
    alike = TaskData("alike", Task(type="sentence_similarity", source="one", label="score"), [], "apart")
    scorer = Scorer({"stars": STARS, "alike": alike}, {}, keep_outputs=["alike"])
    rows, vectors = split(gold), torch.arange(16.0).view(4, 4)
    gates, segments = torch.arange(8.0).view(4, 2), {"num_segments": torch.tensor([2, 2])}
    both = MultiTaskOutput(logits={"alike": vectors, "stars": torch.ones(2)}, gates={"alike": gates})
    scorer.add(rows, [1, 0], both, model, segments)
    scorer.finish("one", rows)
    assert list(scorer.outputs["one"]) == ["alike"]
    np.testing.assert_array_equal(scorer.outputs["one"]["alike"], [vectors[2:].numpy(), vectors[:2].numpy()])
    assert scorer.results()["experts"]["alike"] == gates.mean(0).tolist()
