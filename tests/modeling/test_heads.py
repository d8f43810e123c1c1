"""Tests of `mtl_hf.modeling.heads`: losses against loops in plain Python, the law of sums, absent labels, options."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_hf.modeling.head import EncoderShape, HeadInputs, HeadLoss
from mtl_hf.modeling.head_sentence_similarity import number_texts
from mtl_hf.modeling.heads import HEADS, build_head, check_head_name
from mtl_hf.modeling.pooling import POOLING
from mtl_hf.modeling.tags import IGNORE_INDEX

HIDDEN, NUM_LABELS, NUM_ROWS, NUM_TOKENS = 6, 4, 10, 7
SMOOTHED = ("sequence_classification", "multi_label_classification", "token_classification")
PAIRS = "sentence_similarity"  # whose logits are vectors, two a row
CHOICES, NUM_CHOICES = "multiple_choice", 3  # whose logits are a number for each choice
SPANS = "extractive_qa"  # whose labels are two places
TIED = "masked_lm"  # whose head needs the embeddings: test_masked_lm.py
WITHOUT_NAMES = ("regression", PAIRS, CHOICES, SPANS)
LINEAR = [kind for kind in HEADS if kind not in (PAIRS, TIED, CHOICES, SPANS)]
KINDS = [(kind, 0.0) for kind in HEADS if kind != TIED] + [(kind, 0.2) for kind in SMOOTHED]


def make_head(kind: str, **options: Any) -> nn.Module:
    labels = {} if kind in WITHOUT_NAMES else {"labels": [f"label{index}" for index in range(NUM_LABELS)]}
    return build_head({"type": kind, "text": "string", "num_steps": 3, **labels, **options}, EncoderShape(HIDDEN))


def make_logits_and_labels(kind: str, *, labelled: bool = True) -> tuple[Tensor, Tensor]:
    """Float64 logits and labels of which about a third (or all) are absent."""
    absent = torch.rand(NUM_ROWS) < 0.3 if labelled else torch.ones(NUM_ROWS, dtype=torch.bool)
    if labelled:
        absent[:2] = torch.tensor([True, False])
    if kind == "token_classification":
        labels = torch.randint(NUM_LABELS, (NUM_ROWS, NUM_TOKENS))
        labels[absent] = IGNORE_INDEX
        labels[:, ::3] = IGNORE_INDEX  # special tokens and second sub-words
        return 3 * torch.randn(NUM_ROWS, NUM_TOKENS, NUM_LABELS, dtype=torch.float64), labels
    if kind == "regression":
        labels = torch.randn(NUM_ROWS, dtype=torch.float64)
        labels[absent] = math.nan
        return torch.randn(NUM_ROWS, dtype=torch.float64), labels
    if kind == PAIRS:
        labels = torch.rand(NUM_ROWS, dtype=torch.float64)
        labels[absent] = math.nan
        vectors = torch.randn(2 * NUM_ROWS, HIDDEN, dtype=torch.float64)
        return vectors / vectors.norm(dim=-1, keepdim=True), labels
    if kind in (CHOICES, SPANS):
        labels = torch.randint(3, (NUM_ROWS,) if kind == CHOICES else (NUM_ROWS, 2))
        labels[absent] = IGNORE_INDEX
        shape = (NUM_CHOICES * NUM_ROWS,) if kind == CHOICES else (NUM_ROWS, NUM_TOKENS, 2)
        return 3 * torch.randn(shape, dtype=torch.float64), labels
    logits = 3 * torch.randn(NUM_ROWS, NUM_LABELS, dtype=torch.float64)
    if kind == "multi_label_classification":
        labels = torch.randint(2, (NUM_ROWS, NUM_LABELS))
        labels[1] = 0  # an empty set is a label
    else:
        labels = torch.randint(NUM_LABELS, (NUM_ROWS,))
    labels[absent] = IGNORE_INDEX
    return logits, labels


def cross_entropy_by_hand(logits: list[float], label: int, smoothing: float) -> float:
    normaliser = math.log(sum(math.exp(value) for value in logits))
    losses = [normaliser - value for value in logits]
    return (1 - smoothing) * losses[label] + smoothing * sum(losses) / len(losses)


def binary_cross_entropy_by_hand(logit: float, label: int, smoothing: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    target = label * (1 - smoothing) + smoothing / 2
    return -target * math.log(probability) - (1 - target) * math.log(1 - probability)


def cosine_by_hand(first: list[float], second: list[float]) -> float:
    """Of vectors of length 1."""
    return sum(a * b for a, b in zip(first, second, strict=True))


def loss_by_hand(kind: str, logits: Tensor, labels: Tensor, smoothing: float) -> tuple[float, int]:
    """The sum over items and their number, one item at a time."""
    if kind == "token_classification":
        logits, labels = logits.flatten(0, 1), labels.flatten()
    if kind == PAIRS:
        cosines = [cosine_by_hand(*logits[2 * row : 2 * row + 2].tolist()) for row in range(len(labels))]
        losses = [(own - score) ** 2 for own, score in zip(cosines, labels.tolist(), strict=True) if score == score]
        return sum(losses), len(losses)
    if kind == CHOICES:
        logits = logits.unflatten(0, (-1, NUM_CHOICES))
    if kind == SPANS:
        (begin, num_items), (end, _) = (
            loss_by_hand("sequence_classification", logits[..., side], labels[:, side], 0.0) for side in (0, 1)
        )
        return (begin + end) / 2, num_items
    total, num_items = 0.0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if kind == "regression":
            if math.isnan(label):
                continue
            total += (row - label) ** 2
        elif kind == "multi_label_classification":
            if label[0] == IGNORE_INDEX:
                continue
            parts = [binary_cross_entropy_by_hand(*pair, smoothing) for pair in zip(row, label, strict=True)]
            total += sum(parts) / len(parts)
        else:
            if label == IGNORE_INDEX:
                continue
            total += cross_entropy_by_hand(row, label, smoothing)
        num_items += 1
    return total, num_items


def loss_of(kind: str, smoothing: float, logits: Tensor, labels: Tensor) -> HeadLoss:
    head = make_head(kind, **({"label_smoothing": smoothing} if smoothing else {}))
    inputs = HeadInputs(num_segments=torch.full((len(labels),), NUM_CHOICES)) if kind == CHOICES else None
    return head.loss(logits, labels, inputs)


@pytest.mark.parametrize(("kind", "smoothing"), KINDS)
def test_loss_is_the_sum_over_labelled_items_and_their_number(kind: str, smoothing: float) -> None:
    logits, labels = make_logits_and_labels(kind)
    total, num_items = loss_by_hand(kind, logits, labels, smoothing)
    assert 0 < num_items < (NUM_ROWS * NUM_TOKENS if kind == "token_classification" else NUM_ROWS)
    loss = loss_of(kind, smoothing, logits, labels)
    assert loss.total.item() == pytest.approx(total, rel=1e-12)
    assert loss.num_items.item() == num_items


@pytest.mark.parametrize(("kind", "smoothing"), KINDS)
def test_losses_of_two_halves_over_all_items_are_the_loss_of_the_whole(kind: str, smoothing: float) -> None:
    logits, labels = make_logits_and_labels(kind)
    whole = loss_of(kind, smoothing, logits, labels)
    cut = 3  # halves that differ in size and in the number of items
    per_row = len(logits) // NUM_ROWS
    halves = [
        loss_of(kind, smoothing, logits[part], labels[rows])
        for part, rows in [(slice(cut * per_row), slice(cut)), (slice(cut * per_row, None), slice(cut, None))]
    ]
    assert halves[0].num_items != halves[1].num_items
    num_items = sum(half.num_items for half in halves)
    mean = sum(half.total for half in halves) / num_items
    assert mean.item() == pytest.approx((whole.total / whole.num_items).item(), rel=1e-12)


@pytest.mark.parametrize(("kind", "smoothing"), KINDS)
def test_batch_without_labels_has_no_items_and_a_loss_of_zero(kind: str, smoothing: float) -> None:
    logits, labels = make_logits_and_labels(kind, labelled=False)
    loss = loss_of(kind, smoothing, logits.requires_grad_(), labels)
    assert loss.num_items.item() == 0
    assert loss.total.item() == 0
    loss.total.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(("kind", "smoothing"), KINDS)
def test_rows_without_labels_get_no_gradient(kind: str, smoothing: float) -> None:
    logits, labels = make_logits_and_labels(kind)
    loss_of(kind, smoothing, logits.requires_grad_(), labels).total.backward()
    absent = labels.isnan() if labels.is_floating_point() else labels == IGNORE_INDEX
    absent = absent.repeat_interleave({PAIRS: 2, CHOICES: NUM_CHOICES}.get(kind, 1), dim=0)
    absent = absent[:, 0] if kind == SPANS else absent
    assert logits.grad[absent].abs().sum() == 0
    assert (logits.grad[~absent] != 0).all()


@pytest.mark.parametrize(("kind", "smoothing"), KINDS)
def test_bf16_logits_give_a_float32_loss(kind: str, smoothing: float) -> None:
    logits, labels = make_logits_and_labels(kind)
    logits = logits.bfloat16()
    labels = labels.float() if labels.is_floating_point() else labels
    loss = loss_of(kind, smoothing, logits, labels)
    assert loss.total.dtype == torch.float32
    total, _ = loss_by_hand(kind, logits, labels, smoothing)
    assert loss.total.item() == pytest.approx(total, rel=1e-5)  # bf16 itself would be off by about 4e-3


# Sentence similarity


def unit_vectors(num_pairs: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    vectors = torch.randn(2 * num_pairs, HIDDEN, dtype=dtype)
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_ranking_is_the_cross_entropy_of_the_own_second_text(temperature: float) -> None:
    vectors = unit_vectors(7)
    loss = make_head(PAIRS, loss="ranking", temperature=temperature).loss(vectors, torch.ones(7))
    rows, total = vectors.tolist(), 0.0
    for own in range(7):
        cosines = [cosine_by_hand(rows[2 * own], rows[2 * other + 1]) / temperature for other in range(7)]
        total += cross_entropy_by_hand(cosines, own, 0.0)
    assert loss.total.item() == pytest.approx(total, rel=1e-12)
    assert loss.num_items.item() == 7


def numbered(texts: Tensor) -> HeadInputs:
    """Texts of one token each."""
    return HeadInputs(input_ids=texts[:, None], attention_mask=torch.ones(len(texts), 1))


def test_second_texts_equal_to_the_own_one_are_no_negatives() -> None:
    vectors, labels = unit_vectors(7), torch.ones(7)
    labels[5] = math.nan
    seconds = [4, 9, 4, 1, 9, 4, 4]
    texts = torch.tensor([number for row, second in enumerate(seconds) for number in (100 + row, second)])
    found = make_head(PAIRS, loss="ranking", temperature=0.5).loss(vectors, labels, numbered(texts))
    rows, total = vectors.tolist(), 0.0
    for own in (0, 1, 2, 3, 4, 6):
        others = [row for row in (0, 1, 2, 3, 4, 6) if row == own or seconds[row] != seconds[own]]
        cosines = [cosine_by_hand(rows[2 * own], rows[2 * other + 1]) / 0.5 for other in others]
        total += cross_entropy_by_hand(cosines, others.index(own), 0.0)
    assert found.total.item() == pytest.approx(total, rel=1e-12)
    assert found.num_items.item() == 6


def test_second_texts_that_are_all_equal_have_no_loss_and_no_gradient() -> None:
    vectors = unit_vectors(4).requires_grad_()
    head = make_head(PAIRS, loss="ranking")
    texts = torch.tensor([0, 9, 1, 9, 2, 9, 3, 9])
    head.loss(vectors, torch.ones(4), numbered(texts)).total.backward()
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_texts_are_numbered_by_their_tokens_without_padding() -> None:
    ids = torch.tensor([[5, 6, 0], [5, 6, 7], [5, 6, 9], [5, 6, 0], [5, 6, 0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 0]])
    numbers = number_texts(ids, mask).tolist()
    assert numbers[0] == numbers[2] == numbers[4]  # whatever the padding is
    assert len(set(numbers)) == 3


def test_rows_without_a_label_are_no_negatives_either() -> None:
    vectors, labels = unit_vectors(4), torch.tensor([1.0, math.nan, 1.0, 1.0])
    head = make_head(PAIRS, loss="ranking")
    loss = head.loss(vectors, labels)
    alone = head.loss(torch.cat([vectors[:2], vectors[4:]]), torch.ones(3))
    assert loss.total.item() == pytest.approx(alone.total.item(), rel=1e-12)
    assert loss.num_items.item() == 3
    assert head.loss(vectors, torch.full((4,), math.nan)).total.item() == 0


def test_ranking_is_computed_in_float32_under_autocast() -> None:
    vectors = unit_vectors(6, dtype=torch.float32)
    head = make_head(PAIRS, loss="ranking")
    exact = head.loss(vectors, torch.ones(6)).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.loss(vectors, torch.ones(6)).total, exact)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "attention"])
def test_vectors_are_the_pooled_states_at_length_one(pooling: str) -> None:
    head = make_head(PAIRS, pooling=pooling).double().train()  # without dropout unless it is asked for
    states, mask = torch.randn(3, NUM_TOKENS, HIDDEN, dtype=torch.float64), torch.ones(3, NUM_TOKENS)
    pooled = head.pool(states, mask)
    vectors = head(states, mask)
    for row in range(3):
        length = math.sqrt(sum(value**2 for value in pooled[row].tolist()))
        assert vectors[row].tolist() == pytest.approx([value / length for value in pooled[row].tolist()], rel=1e-12)


def test_of_a_pair_a_row_of_predictions_holds_both_vectors() -> None:
    vectors = unit_vectors(3)
    by_row = make_head(PAIRS).by_row(vectors)
    assert by_row.shape == (3, 2, HIDDEN)
    assert all(torch.equal(by_row[row, side], vectors[2 * row + side]) for row in range(3) for side in (0, 1))


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("kind", [kind for kind in LINEAR if kind != "token_classification"])
def test_logits_are_a_linear_map_of_the_pooled_states(kind: str, pooling: str) -> None:
    head = make_head(kind, pooling=pooling).double().eval()
    states = torch.randn(3, NUM_TOKENS, HIDDEN, dtype=torch.float64)
    mask = torch.ones(3, NUM_TOKENS, dtype=torch.long)
    mask[1, 4:] = 0
    linear = head.regressor if kind == "regression" else head.classifier
    logits = head(states, mask).reshape(3, -1)
    assert logits.shape[1] == (1 if kind == "regression" else NUM_LABELS)
    for row in range(3):
        tokens = states[row][mask[row] == 1]
        pooled = {"mean": tokens.mean(0), "cls": tokens[0], "max": tokens.max(0).values}[pooling]
        for label in range(logits.shape[1]):
            by_hand = sum(w * x for w, x in zip(linear.weight[label].tolist(), pooled.tolist(), strict=True))
            assert logits[row, label].item() == pytest.approx(by_hand + linear.bias[label].item(), rel=1e-9)


def test_token_logits_are_a_linear_map_of_each_state() -> None:
    head = make_head("token_classification").double().eval()
    states = torch.randn(2, 3, HIDDEN, dtype=torch.float64)
    logits = head(states, torch.ones(2, 3))
    for row in range(2):
        for position in range(3):
            by_hand = head.classifier.weight @ states[row, position] + head.classifier.bias
            torch.testing.assert_close(logits[row, position], by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != TIED])
def test_dropout_acts_only_in_training(kind: str) -> None:
    head = make_head(kind, dropout=0.5)
    states, mask = torch.randn(2, NUM_TOKENS, HIDDEN), torch.ones(2, NUM_TOKENS)
    head.train()
    assert not torch.equal(head(states, mask), head(states, mask))
    head.eval()
    assert torch.equal(head(states, mask), head(states, mask))


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != TIED])
def test_heads_in_bf16_compute_in_float32(kind: str) -> None:
    head = make_head(kind).bfloat16().eval()
    states, mask = torch.randn(2, NUM_TOKENS, HIDDEN).bfloat16(), torch.ones(2, NUM_TOKENS)
    logits = head(states, mask)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head.float()(states.float(), mask), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != TIED])
def test_heads_compute_in_float32_under_autocast(kind: str, dtype: torch.dtype, pooling: str) -> None:
    head = make_head(kind, pooling=None if kind in ("token_classification", SPANS) else pooling).eval()
    states, mask = torch.randn(3, NUM_TOKENS, HIDDEN).to(dtype), torch.ones(3, NUM_TOKENS)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(states, mask)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(states.float(), mask))


def test_a_regression_head_under_autocast_predicts_as_many_numbers_as_there_are_rows() -> None:
    head = make_head("regression").eval()
    with torch.autocast("cpu", torch.bfloat16):
        predictions = head(torch.randn(2_000, NUM_TOKENS, HIDDEN).bfloat16(), torch.ones(2_000, NUM_TOKENS))
    assert len(predictions.unique()) > 1_990


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind not in ("token_classification", TIED, SPANS)])
def test_pooling_is_the_models_unless_the_head_names_one(kind: str) -> None:
    spec = {"type": kind} | ({} if kind in WITHOUT_NAMES else {"labels": ["a", "b"]})
    assert build_head(spec, EncoderShape(HIDDEN, "max")).pool is POOLING["max"]
    assert build_head(spec | {"pooling": "cls"}, EncoderShape(HIDDEN, "max")).pool is POOLING["cls"]
    assert build_head(spec | {"pooling": None}, EncoderShape(HIDDEN, "max")).pool is POOLING["max"]
    over_layers = build_head(spec | {"pooling": "mean_last_3"}, EncoderShape(HIDDEN, "max"))
    assert (over_layers.pool, over_layers.num_layers) == (POOLING["mean"], 3)
    assert build_head(spec | {"pooling": "cls"}, EncoderShape(HIDDEN, "mean_last_2")).num_layers == 1
    one, other = (build_head(spec, EncoderShape(HIDDEN, "attention")).pool for _ in range(2))
    assert one.score.weight.shape == (1, HIDDEN)
    assert one is not other


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "tagging"}, "`type` is 'tagging'; valid are sequence_classification, "),
        ({"type": "sequence_classification"}, "needs `labels`"),
        ({"type": "token_classification", "labels": []}, "needs `labels`"),
        ({"type": "regression", "labels": ["a"]}, "does not take these options: .*labels"),
        ({"type": "regression", "label_smoothing": 0.1}, "does not take these options: .*label_smoothing"),
        ({"type": "token_classification", "labels": ["a"], "pooling": "cls"}, "does not take these options: .*pooling"),
        ({"type": "sequence_classification", "labels": ["a"], "pooling": "sum"}, "`pooling` is 'sum'; valid are mean"),
        ({"type": "sequence_classification", "labels": ["a"], "hidden_size": 9}, "does not take these options"),
        ({"type": "regression", "loss": "ranking"}, "does not take these options: .*loss"),
        ({"type": PAIRS, "labels": ["a"]}, "does not take these options: .*labels"),
        ({"type": PAIRS, "loss": "rank"}, "`loss` is 'rank'; valid are cosine, ranking"),
        ({"type": PAIRS, "loss": "ranking", "temperature": 0}, "`temperature` is 0; it should be above 0"),
    ],
)
def test_wrong_specification_is_refused(spec: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(spec, EncoderShape(HIDDEN, "mean"))


@pytest.mark.parametrize(
    "name", ["type", "to", "train", "float", "pop", "keys", "a.b", "", " ", "a b", "a/b", "_", "é!"]
)
def test_name_that_a_module_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a task cannot be called"):
        check_head_name(name)


@pytest.mark.parametrize("name", ["intent", "slot-filling", "task_2", "2nd", "Categoría", "श्रेणी"])
def test_name_that_is_accepted_works_as_a_modules_name(name: str) -> None:
    check_head_name(name)
    heads = nn.ModuleDict({name: nn.Linear(1, 1)})
    assert list(heads.state_dict()) == [f"{name}.weight", f"{name}.bias"]
