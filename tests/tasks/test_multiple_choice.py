"""Tests of `multiple_choice`: labels as people write them, losses by hand, and a run from its rows to its answers."""

import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.modeling.head import EncoderShape, HeadInputs
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import SENTENCES


def rows(number: int = 24, split: str = "train") -> list[dict[str, Any]]:
    """The right choice is Rome, wherever it stands among two or three."""
    found = []
    for index in range(number):
        choices = [["rome", "paris"], ["oslo", "rome"], ["paris", "oslo", "rome"]][index % 3]
        found.append({"question": f"is it {split} {index}", "choices": choices, "right": choices.index("rome")})
    return found


def config(encoder_folder: str, found: Any, tmp_path: Path | None = None, **task: Any) -> dict[str, Any]:
    return {
        "model": {"encoder": encoder_folder},
        "sources": {"quiz": {"dataset": found, "text": ["question", "choices"], "batch_size": 8}},
        "tasks": {"best": {"type": "multiple_choice", "source": "quiz", "label": "right", **task}},
        "training": {"output_dir": str(tmp_path), "max_steps": 30, "learning_rate": 3e-3, "use_cpu": True,
                     "precision": "fp32", "disable_tqdm": True},
    }  # fmt: skip


def read(found: list[dict[str, Any]], text: list[str] | None = None) -> list[Any]:
    tree = config("unused", {"train": datasets.Dataset.from_list(found)})
    tree["sources"]["quiz"] |= {"text": text or ["question", "choices"], "split": {"validation": 0.2}}
    run = RunConfig.load(tree)
    sources = load_sources(run, ["train"])
    build_tasks(run, sources)
    return sources["quiz"].gold["train"]["best"]


def test_loss_and_predictions_are_those_of_a_loop_over_rows_of_different_sizes() -> None:
    head = build_head({"type": "multiple_choice", "text": "choices"}, EncoderShape(4))
    generator = torch.Generator().manual_seed(0)
    logits, counts = torch.randn(9, generator=generator, dtype=torch.float64), [2, 4, 3]
    labels = torch.tensor([1, -100, 0])
    inputs = HeadInputs(num_segments=torch.tensor(counts))
    begins, total = [0, 2, 6], 0.0
    for begin, count, label in zip(begins, counts, labels.tolist(), strict=True):
        own = logits[begin : begin + count].tolist()
        if label >= 0:
            total += math.log(sum(map(math.exp, own))) - own[label]
    loss = head.loss(logits, labels, inputs)
    assert loss.num_items.item() == 2
    assert loss.total.item() == pytest.approx(total, rel=1e-12)
    found = head.decode(head.by_row(logits, inputs).numpy(), {})
    for begin, count, prediction in zip(begins, counts, found, strict=True):
        own = np.exp(logits[begin : begin + count].numpy())
        assert prediction.value == own.argmax()
        np.testing.assert_allclose(prediction.scores[:count], own / own.sum(), rtol=1e-12)
        assert not prediction.scores[count:].any()


@pytest.mark.parametrize(
    ("label", "expected"), [(1, 1), ("1", 1), ("B", 1), (" b ", 1), (1.0, 1), (None, None), ("", None)]
)
def test_a_label_is_a_number_or_a_letter(label: Any, expected: int | None) -> None:
    row = {"question": "which", "choices": ["one", "two"], "right": label}
    others = [row | {"question": f"which {index}", "right": type(label)(0) if isinstance(label, float) else label}
              for index in range(8)]  # fmt: skip
    if expected is None:
        others[0]["right"] = "A"
    assert expected in read([row, *others])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"right": 3}, r"row 4 of the split 'train' of source 'quiz' has 3 choices in 'choices' and the label 3"),
        (
            {"choices": ["one"]},
            r"row 4 .* has 1 choice in 'choices' and the label 0 .*there should be at least two choices",
        ),
        ({"right": -1}, r"row 4 .* has -1 in the column 'right'; multiple_choice takes the right choice: its number"),
    ],
)
def test_what_is_no_choice_is_refused_with_its_row(changed: dict[str, Any], expected: str) -> None:
    found = [{"question": f"q {index}", "choices": ["a", "b", "c"], "right": 0} for index in range(9)]
    found[3] |= changed
    with pytest.raises(ValueError, match=expected):
        read(found)


def test_a_label_that_the_hub_hides_is_absent() -> None:
    found = [{"question": f"q {index}", "choices": ["a", "b"], "right": index % 2} for index in range(9)]
    found[3]["right"] = -1
    features = datasets.Features(
        question=datasets.Value("string"), choices=datasets.List(datasets.Value("string")),
        right=datasets.ClassLabel(names=["0", "1"]),
    )  # fmt: skip
    run = RunConfig.load(config("unused", {"train": datasets.Dataset.from_list(found, features=features)}))
    sources = load_sources(run)
    build_tasks(run, sources)
    assert sources["quiz"].gold["train"]["best"][2:5] == [0, None, 0]


def test_choices_may_be_columns_of_their_own() -> None:
    found = [{"question": f"q {index}", "first": "a", "second": "b", "right": index % 2} for index in range(10)]
    assert set(read(found, ["question", "first", "second"])) == {0, 1}


def test_a_source_of_choices_is_refused_by_other_types() -> None:
    run = config("unused", {"train": datasets.Dataset.from_list(rows())}, type="sequence_classification")
    loaded = RunConfig.load(run)
    with pytest.raises(ValueError, match=r"needs texts that are strings, lists of words or pairs, but .* with choices"):
        build_tasks(loaded, load_sources(loaded))


def test_a_run_learns_is_scored_saved_and_answers(encoder_folder: str, tmp_path: Path) -> None:
    data = {
        split: datasets.Dataset.from_list(rows(number, split)) for split, number in (("train", 48), ("validation", 12))
    }
    results = mtl_hf.train(config(encoder_folder, data, tmp_path))["tasks"]["best"]
    assert results["primary"] == "accuracy"
    assert results["accuracy"] == 1.0
    assert 0 < results["baseline"] < 1
    assert 0 < results["cross_entropy"] < 1
    model = MultiTaskModel.from_pretrained(tmp_path)
    texts = [("is it", ["oslo", "rome", "paris"]), ("is it", ["rome", "oslo"])]
    first, second = (found["best"] for found in model.predict(texts))
    assert (first["choice"], first["text"]) == (1, "rome")
    assert (second["choice"], second["text"]) == (0, "rome")
    ranked = model.predict(texts, top_k=None)[0]["best"]
    assert ranked[0]["text"] == "rome"
    assert sum(answer["score"] for answer in ranked) == pytest.approx(1)
    assert model.predict([SENTENCES[0]]) == [{}], "a single text has no choices"
    alone = [model.predict([text])[0]["best"]["score"] for text in texts]
    assert [first["score"], second["score"]] == pytest.approx(alone, abs=1e-5)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Input: a text with choices. Output: the best of its choices." in card
