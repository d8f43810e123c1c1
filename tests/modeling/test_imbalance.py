"""Tests of `mtl_hf.modeling.imbalance`: losses against loops in plain Python, the law of sums, thresholds of heads."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_hf.modeling.head import EncoderShape
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tags import IGNORE_INDEX

SEQUENCE, SEVERAL, TOKENS = "sequence_classification", "multi_label_classification", "token_classification"
LABELS = ["a", "b", "c"]
WEIGHTS, PRIORS = [0.5, 2.0, 7.0], [0.7, 0.2, 0.1]
SOFTMAX = [
    {"class_weights": WEIGHTS},
    {"focal_loss": 2.0},
    {"focal_loss": 0.5, "class_weights": WEIGHTS},
    {"logit_adjustment": 1.5, "label_priors": PRIORS},
    {"logit_adjustment": 1.0, "label_priors": PRIORS, "focal_loss": 2.0, "class_weights": WEIGHTS},
    {"logit_adjustment": 1.0, "label_priors": PRIORS, "label_smoothing": 0.2},
    {"class_weights": WEIGHTS, "label_smoothing": 0.2},
]
SIGMOID = [options for options in SOFTMAX if "logit_adjustment" not in options]


def head_of(kind: str, **options: Any) -> Any:
    return build_head({"type": kind, "labels": LABELS, **options}, EncoderShape(6))


def batch_of(kind: str, num_rows: int = 12) -> tuple[Tensor, Tensor]:
    """Float64 logits and labels, of which some are missing."""
    missing = torch.arange(num_rows) % 4 == 1
    if kind == SEVERAL:
        labels = torch.randint(2, (num_rows, 3)).double()
        labels[missing] = IGNORE_INDEX
        return 3 * torch.randn(num_rows, 3, dtype=torch.float64), labels
    shape = (num_rows, 4) if kind == TOKENS else (num_rows,)
    labels = torch.randint(3, shape)
    labels[missing] = IGNORE_INDEX
    return 3 * torch.randn(*shape, 3, dtype=torch.float64), labels


def by_hand(logits: list[float], label: int, options: dict[str, Any]) -> float:
    """The loss of one item with one label."""
    tau, smoothing = options.get("logit_adjustment", 0), options.get("label_smoothing", 0)
    scores = [logit + tau * math.log(prior) for logit, prior in zip(logits, PRIORS, strict=True)]
    chances = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
    loss = -(1 - smoothing) * math.log(chances[label]) - smoothing / 3 * sum(map(math.log, chances))
    weight = options["class_weights"][label] if "class_weights" in options else 1
    return weight * (1 - chances[label]) ** options.get("focal_loss", 0) * loss


def by_hand_of_several(logits: list[float], labels: list[float], options: dict[str, Any]) -> float:
    """The loss of one row with any number of labels: the mean over the labels."""
    smoothing, losses = options.get("label_smoothing", 0), []
    for place, (logit, label) in enumerate(zip(logits, labels, strict=True)):
        target = label * (1 - smoothing) + smoothing / 2
        chance = 1 / (1 + math.exp(-logit))
        weight = options["class_weights"][place] if "class_weights" in options else 1
        loss = -weight * target * math.log(chance) - (1 - target) * math.log(1 - chance)
        right = chance if label else 1 - chance
        losses.append((1 - right) ** options.get("focal_loss", 0) * loss)
    return sum(losses) / 3


CASES = [(kind, options) for kind in (SEQUENCE, TOKENS) for options in SOFTMAX] + [(SEVERAL, own) for own in SIGMOID]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_losses_are_those_of_a_loop(kind: str, options: dict[str, Any]) -> None:
    logits, labels = batch_of(kind)
    total, num_items = head_of(kind, **options).loss(logits, labels)
    if kind == SEVERAL:
        rows = [row for row in range(12) if labels[row, 0] != IGNORE_INDEX]
        losses = [by_hand_of_several(logits[row].tolist(), labels[row].tolist(), options) for row in rows]
    else:
        items = zip(logits.view(-1, 3).tolist(), labels.flatten().tolist(), strict=True)
        losses = [by_hand(own, label, options) for own, label in items if label != IGNORE_INDEX]
    assert num_items == len(losses), "the number of labelled items, whatever their weights"
    torch.testing.assert_close(total, torch.tensor(sum(losses), dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_gradients_are_right_and_parts_add_up(kind: str, options: dict[str, Any]) -> None:
    logits, labels = batch_of(kind)
    head = head_of(kind, **options)
    assert torch.autograd.gradcheck(lambda given: head.loss(given, labels).total, logits.requires_grad_())
    whole = head.loss(logits, labels)
    parts = [head.loss(logits[begin : begin + 4], labels[begin : begin + 4]) for begin in (0, 4, 8)]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    assert sum(part.num_items for part in parts) == whole.num_items


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("kind", [SEQUENCE, SEVERAL])
def test_a_certain_prediction_has_a_finite_gradient(kind: str, gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0, -200.0]], requires_grad=True)
    labels = torch.tensor([0]) if kind == SEQUENCE else torch.tensor([[1.0, 0.0, 0.0]])
    total, _ = head_of(kind, focal_loss=gamma).loss(logits, labels)
    total.backward()
    assert total == 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", [SEQUENCE, TOKENS, SEVERAL])
def test_without_options_losses_are_bit_for_bit_those_of_torch(kind: str) -> None:
    logits, labels = (tensor.float() if tensor.is_floating_point() else tensor for tensor in batch_of(kind))
    if kind == SEVERAL:
        known = labels[:, 0] != IGNORE_INDEX
        rows = F.binary_cross_entropy_with_logits(logits[known], labels[known], reduction="none")
        expected = rows.mean(1).sum()
    else:
        expected = F.cross_entropy(logits.view(-1, 3), labels.flatten(), reduction="sum")
    for options in ({}, {"focal_loss": 0.0, "logit_adjustment": 0.0, "label_priors": PRIORS}):
        options = {} if kind == SEVERAL else options
        assert head_of(kind, **options).loss(logits, labels).total.equal(expected)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SEQUENCE, {"class_weights": [1.0, 2.0]}, r"with 3 labels has 2 numbers in `class_weights`"),
        (SEQUENCE, {"class_weights": [1.0, -2.0, 1.0]}, r"numbers at least 0 in `class_weights`, not -2\.0"),
        (SEQUENCE, {"class_weights": [1.0, math.inf, 1.0]}, r"in `class_weights`, not inf"),
        (SEQUENCE, {"class_weights": [1.0, "2", 1.0]}, r"in `class_weights`, not '2'"),
        (TOKENS, {"focal_loss": -1.0}, r"at least 0 as `focal_loss`, not -1\.0"),
        (TOKENS, {"focal_loss": math.nan}, r"as `focal_loss`, not nan"),
        (TOKENS, {"logit_adjustment": 1.0}, r"needs `label_priors`"),
        (TOKENS, {"label_priors": [0.5, 0.5, 0.0]}, r"above 0 and at most 1 in `label_priors`, not 0\.0"),
        (SEVERAL, {"focal_loss": 2.0, "label_smoothing": 0.1}, r"either `focal_loss` or `label_smoothing`"),
        (SEVERAL, {"logit_adjustment": 1.0, "label_priors": PRIORS}, r"does not take `logit_adjustment`"),
        (SEVERAL, {"thresholds": [0.5, 0.5, 1.5]}, r"at least 0 and at most 1 in `thresholds`, not 1\.5"),
        (SEQUENCE, {"thresholds": [0.5, 0.5, 0.5]}, r"`thresholds` only with two labels; it has 3"),
    ],
)
def test_options_that_cannot_be_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_of(kind, **options)


# ---- thresholds ----


def test_labels_are_predicted_from_their_thresholds() -> None:
    logits = np.log(np.array([[0.3, 0.6, 0.9], [0.1, 0.1, 0.1]]) / np.array([[0.7, 0.4, 0.1], [0.9, 0.9, 0.9]]))
    plain, own = head_of(SEVERAL), head_of(SEVERAL, thresholds=[0.2, 0.7, 0.05])
    assert [answer.value for answer in plain.decode(logits, {})] == [["b", "c"], []]
    found = own.decode(logits, {})
    assert [answer.value for answer in found] == [["a", "c"], ["c"]]
    assert [answer["label"] for answer in own.answer(found[0])] == ["a", "c"]


def test_one_of_two_labels_is_predicted_from_its_threshold() -> None:
    spec = {"type": SEQUENCE, "labels": ["no", "yes"]}
    plain, own = (build_head(spec | more, EncoderShape(6)) for more in ({}, {"thresholds": [0.7, 0.3]}))
    logits = np.log(np.array([[0.6, 0.4], [0.8, 0.2], [0.1, 0.9]]))
    assert [answer.value for answer in plain.decode(logits, {})] == ["no", "no", "yes"]
    found = own.decode(logits, {})
    assert [answer.value for answer in found] == ["yes", "no", "yes"]
    assert own.answer(found[0]) == {"label": "yes", "score": pytest.approx(0.4)}, "the score of the predicted label"


def test_a_saved_model_keeps_the_options(encoder_folder: str, tmp_path: Path) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    options = {"class_weights": WEIGHTS, "focal_loss": 1.5, "thresholds": [0.2, 0.5, 0.7]}
    model.add_head("topics", type=SEVERAL, labels=LABELS, **options)
    model.eval().save_pretrained(tmp_path)
    loaded = MultiTaskModel.from_pretrained(tmp_path)
    assert {key: loaded.config.heads["topics"][key] for key in options} == options
    logits, labels = batch_of(SEVERAL)
    assert loaded.heads["topics"].loss(logits, labels).total == model.heads["topics"].loss(logits, labels).total
    assert loaded.predict(["play jazz"]) == model.predict(["play jazz"])
