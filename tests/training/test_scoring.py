"""Tests of `mtl_hf.training.scoring`: predictions of several sources become scores of tasks, and mixtures of experts.

That predictions come in the order of the rows, each row once, is tested with the trainer, which makes them.
"""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from mtl_hf.config import Task
from mtl_hf.data.rows import EncodedSplit
from mtl_hf.modeling.heads import SentenceSimilarityHead
from mtl_hf.modeling.modeling_multitask import MultiTaskOutput
from mtl_hf.tasks import TaskData
from mtl_hf.training.scoring import Scorer, said_of_rows


def split(gold: dict[str, list]) -> EncodedSplit:
    return EncodedSplit(datasets.Dataset.from_dict({"row": list(range(len(next(iter(gold.values())))))}), gold)


def test_a_task_is_scored_over_all_its_sources_and_so_are_its_mixtures():
    stars = TaskData("stars", Task(type="regression", source=["one", "two"], label="stars"), [], "string", False)
    scorer = Scorer({"stars": stars}, {})
    first, second = np.array([1.0, 2.0]), np.array([4.0])
    gates = [np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[1.0, 0.0]])]
    scorer.add("one", split({"stars": [1.0, 4.0]}), {"stars": first, "stars.gates": gates[0]})
    scorer.add("two", split({"stars": [4.0]}), {"stars": second, "stars.gates": gates[1]})
    results = scorer.results()
    assert results["rows"] == {"one": 2, "two": 1}
    assert results["tasks"]["stars"]["mse"] == pytest.approx(4 / 3)
    assert results["experts"] == {"stars": [0.5, 0.5]}
    assert scorer.answers["two"]["stars"].predicted == [4.0]


def test_without_experts_there_are_no_mixtures():
    stars = TaskData("stars", Task(type="regression", source="one", label="stars"), [], "string", False)
    scorer = Scorer({"stars": stars}, {})
    scorer.add("one", split({"stars": [1.0, 2.0]}), {"stars": np.array([1.0, 2.0])})
    assert "experts" not in scorer.results()


def test_equal_second_texts_are_ranked_as_one():
    task = TaskData("ranked", Task(type="sentence_similarity", source="one", loss="ranking"), [], "apart", False)
    vectors = np.array([[[1.0, 0.0], [0.8, 0.6]], [[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.8, 0.6]]])
    scorer = Scorer({"ranked": task}, {})
    scorer.add("one", replace(split({"ranked": [1.0] * 3}), second_texts=np.array([4, 2, 4])), {"ranked": vectors})
    assert scorer.answers["one"]["ranked"].predicted == [1.0, 1.0, 1.0]
    assert scorer.results()["tasks"]["ranked"]["accuracy"] == 1.0


def test_of_a_batch_each_row_has_its_own_entry():
    heads = nn.ModuleDict({"alike": SentenceSimilarityHead(4), "stars": nn.Identity()})
    vectors, gates = torch.arange(16.0).view(4, 4), torch.arange(8.0).view(4, 2)
    outputs = MultiTaskOutput(logits={"alike": vectors, "stars": torch.ones(4)}, gates={"alike": gates})
    said = said_of_rows(heads, outputs, {})
    assert {name: tuple(one.shape) for name, one in said.items()} == {
        "alike": (2, 2, 4), "stars": (4,), "alike.gates": (2, 2, 2)
    }  # fmt: skip
    assert torch.equal(said["alike.gates"][1], gates[2:])
