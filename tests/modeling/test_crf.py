"""Tests of the CRF against an enumeration of all label sequences, in float64."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mtl_hf.modeling.crf import CRF
from mtl_hf.modeling.head import EncoderShape, HeadInputs
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tags import IGNORE_INDEX, NO_TOKEN, UNLABELLED
from mtl_hf.modeling.viterbi import best_sequences, legal_tags

BIO = ["O", "I-a", "B-a", "B-b"]
PLAIN = ["N", "V", "D"]


def random_crf(labels: list[str], seed: int = 0) -> CRF:
    crf = CRF(labels).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in crf.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return crf


def legal_pair(labels: list[str], before: int | None, after: int) -> bool:
    """Whether a tag may follow another one (None: be the first), from the definition of BIO."""
    tag = labels[after]
    if not tag.startswith("I-") or f"B-{tag[2:]}" not in labels:
        return True
    return before is not None and labels[before] in (tag, f"B-{tag[2:]}")


def decode(crf: CRF, labels: list[str], words: np.ndarray, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    weights = {name: scores.detach().numpy() for name, scores in crf.named_parameters()}
    return best_sequences(words, np.array(counts), weights, labels)


def paths(crf: CRF, labels: list[str], words: Tensor) -> dict[tuple[int, ...], float]:
    """Every legal sequence of a row and its score; `words` are the logits of its words, (W, C)."""
    found = {}
    for path in itertools.product(range(len(labels)), repeat=len(words)):
        if not all(legal_pair(labels, before, after) for before, after in zip((None, *path), path, strict=False)):
            continue
        score = sum(words[place, tag].item() for place, tag in enumerate(path))
        score += sum(crf.transitions[pair].item() for pair in itertools.pairwise(path))
        if path:
            score += (crf.start[path[0]] + crf.end[path[-1]]).item()
        found[path] = score
    return found


def log_sum(scores: list[float]) -> float:
    most = max(scores)
    return most + math.log(sum(math.exp(score - most) for score in scores))


def enumerated_loss(crf: CRF, labels: list[str], words: Tensor, gold: list[int]) -> float:
    """Negative log-likelihood of a row; a negative label stands for any."""
    scores = paths(crf, labels, words)
    agreeing = [
        score for path, score in scores.items()
        if all(tag < 0 or tag == own for tag, own in zip(gold, path, strict=True))
    ]  # fmt: skip
    return log_sum(list(scores.values())) - log_sum(agreeing)


# Labels of 5 rows and 7 tokens: words at some tokens; without labels, one word, no words, no known label.
_, X = IGNORE_INDEX, UNLABELLED
BIO_LABELS = [
    [_, 0, _, 2, 1, 1, _],
    [_, X, 1, X, X, 3, _],
    [_, _, _, 3, _, _, _],
    [_, _, _, _, _, _, _],
    [X, X, _, _, X, _, _],
]
PLAIN_LABELS = [[tag if tag < 0 else tag % 3 for tag in row] for row in BIO_LABELS]


@pytest.mark.parametrize(("labels", "gold"), [(BIO, BIO_LABELS), (PLAIN, PLAIN_LABELS)])
def test_loss_is_that_of_all_sequences(labels: list[str], gold: list[list[int]]) -> None:
    crf, logits = random_crf(labels), 3 * torch.randn(5, 7, len(labels), dtype=torch.float64)
    total, num_items = crf.loss(logits, torch.tensor(gold))
    expected = 0.0
    for row, tags in zip(logits, gold, strict=True):
        here = [place for place, tag in enumerate(tags) if tag != IGNORE_INDEX]
        expected += enumerated_loss(crf, labels, row[here], [tags[place] for place in here])
    assert total.item() == pytest.approx(expected, abs=1e-9)
    assert num_items.item() == sum(tag >= 0 for row in gold for tag in row) == 7


def test_words_of_several_segments_are_one_sequence() -> None:
    crf = random_crf(BIO)
    logits = torch.randn(4, 3, 4, dtype=torch.float64)
    gold = torch.tensor([[_, 2, _], [1, X, _], [_, 0, 3], [_, _, 1]])  # rows of 3 segments and of 1
    total, num_items = crf.loss(logits, gold, torch.tensor([3, 1]))
    first = torch.stack([logits[0, 1], logits[1, 0], logits[1, 1], logits[2, 1], logits[2, 2]])
    expected = enumerated_loss(crf, BIO, first, [2, 1, -1, 0, 3])
    expected += enumerated_loss(crf, BIO, logits[3, 2:], [2])  # I-a at the beginning counts as B-a
    assert total.item() == pytest.approx(expected, abs=1e-9)
    assert num_items.item() == 5


def test_the_rest_of_an_entity_counts_as_its_beginning() -> None:
    crf, logits = random_crf(BIO), torch.randn(1, 4, 4, dtype=torch.float64)
    written = crf.loss(logits, torch.tensor([[1, 1, 3, 1]]))
    read = crf.loss(logits, torch.tensor([[2, 1, 3, 2]]))
    assert written.total.item() == pytest.approx(read.total.item(), abs=1e-12)
    assert math.isfinite(read.total.item())


@pytest.mark.parametrize("labels", [BIO, PLAIN])
def test_best_sequence_and_marginals_are_those_of_all_sequences(labels: list[str]) -> None:
    crf, lengths = random_crf(labels), [4, 0, 1, 6]
    for seed in range(10):
        words = 3 * torch.randn(11, len(labels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        best, marginals = decode(crf, labels, words.numpy(), lengths)
        begin = 0
        for length in lengths:
            scores = paths(crf, labels, words[begin : begin + length])
            own = slice(begin, begin + length)
            assert tuple(best[own].tolist()) == max(scores, key=scores.__getitem__)
            total = log_sum(list(scores.values()))
            expected = np.zeros((length, len(labels)))
            for path, score in scores.items():
                expected[range(length), path] += math.exp(score - total)
            assert marginals[own] == pytest.approx(expected, abs=1e-9)
            begin += length


def test_gradients_are_those_of_differences() -> None:
    crf = random_crf(BIO)
    logits = torch.randn(5, 7, 4, dtype=torch.float64, requires_grad=True)

    def loss(logits: Tensor, *_: Tensor) -> Tensor:  # gradcheck changes the parameters in place
        return crf.loss(logits, torch.tensor(BIO_LABELS)).total

    assert torch.autograd.gradcheck(loss, (logits, *crf.parameters()))
    weighted = torch.autograd.grad(7 * loss(logits), [logits, crf.transitions])
    for found, expected in zip(weighted, torch.autograd.grad(loss(logits), [logits, crf.transitions]), strict=True):
        assert torch.allclose(found, 7 * expected, atol=1e-12)


def test_without_transitions_it_is_the_softmax() -> None:
    crf, logits = CRF(PLAIN).double(), torch.randn(5, 7, 3, dtype=torch.float64)
    gold = torch.tensor([[tag if tag >= 0 else IGNORE_INDEX for tag in row] for row in PLAIN_LABELS])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), gold.flatten(), reduction="sum")
    assert crf.loss(logits, gold).total.item() == pytest.approx(expected.item(), rel=1e-13)
    best, marginals = decode(crf, PLAIN, logits[0].numpy(), [4, 3])
    assert best.tolist() == logits[0].argmax(-1).tolist()
    assert marginals == pytest.approx(logits[0].softmax(-1).numpy(), abs=1e-14)


def test_logits_far_apart_keep_the_loss_finite_and_right() -> None:
    crf = random_crf(BIO)
    logits = torch.tensor([[[0.0, 300, 0, 0], [400, -300, 0, 0], [0, 350, 0, 0]]], dtype=torch.float64)
    total = crf.loss(logits, torch.tensor([[3, 0, 2]])).total.item()
    assert total == pytest.approx(enumerated_loss(crf, BIO, logits[0], [3, 0, 2]), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_illegal_sequences_are_never_predicted(seed: int) -> None:
    crf = random_crf(BIO, seed)
    words = 20 * np.random.default_rng(seed).standard_normal((60, 4))
    best, marginals = decode(crf, BIO, words, [10] * 6)
    for row in best.reshape(6, 10).tolist():
        assert all(legal_pair(BIO, before, after) for before, after in zip((None, *row), row, strict=False))
    assert np.abs(marginals.sum(-1) - 1).max() < 1e-12
    assert (marginals.reshape(6, 10, 4)[:, 0, 1] == 0).all()  # I-a is never first


def test_legal_tags_follow_the_vocabulary() -> None:
    first, follows, instead = legal_tags(["O", "B-a", "I-a", "I-c"])
    assert first.tolist() == [True, True, False, True]  # no B-c: nothing else can begin a span of c
    assert follows[:, 2].tolist() == [False, True, True, False]
    assert follows[:, [0, 1, 3]].all()
    assert instead.tolist() == [0, 1, 1, 3]
    assert all(found.all() for found in legal_tags(PLAIN)[:2])


def head_of(**options: object) -> torch.nn.Module:
    head = build_head({"type": "token_classification", "labels": BIO, "crf": True, **options}, EncoderShape(4))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def test_a_head_decodes_words_with_tokens_and_leaves_the_others_out() -> None:
    head = head_of()
    outputs = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    found = head.decode(outputs, {"word_starts": [[1, NO_TOKEN, 3], [], [NO_TOKEN]]})
    best, marginals = decode(head.crf, BIO, outputs[0, [1, 3]], [2])
    assert found[0].value == [BIO[best[0]], None, BIO[best[1]]]
    assert found[0].scores == pytest.approx([marginals[0, best[0]], 0, marginals[1, best[1]]], abs=1e-12)
    assert np.exp(found[0].log_probabilities[[0, 2]]) == pytest.approx(np.maximum(marginals, 1e-12), abs=1e-12)
    assert (found[1].value, found[2].value) == ([], [None])
    assert head.decode(outputs[:0], {"word_starts": []}) == []


def test_autocast_does_not_round_the_loss() -> None:
    head = head_of()
    logits, labels = torch.randn(5, 7, 4), torch.tensor(BIO_LABELS)
    expected = head.loss(logits, labels, HeadInputs()).total
    with torch.autocast("cpu", torch.bfloat16):
        found = head.loss(logits, labels, HeadInputs()).total
    assert found == expected
    assert found.dtype == torch.float32


def test_a_new_crf_starts_at_zero() -> None:
    assert all(not parameter.any() for parameter in CRF(BIO).parameters())


@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"focal_loss": 2.0}, {"class_weights": [1.0] * len(BIO)}])
def test_options_of_the_softmax_loss_are_refused(option: dict[str, float | list[float]]) -> None:
    with pytest.raises(ValueError, match=f"`crf` cannot be combined with `{next(iter(option))}`"):
        head_of(**option)


def test_losses_of_micro_batches_add_up() -> None:
    crf, logits, gold = random_crf(BIO), torch.randn(5, 7, 4, dtype=torch.float64), torch.tensor(BIO_LABELS)
    whole = crf.loss(logits, gold)
    parts = [crf.loss(logits[place : place + 1, :6], gold[place : place + 1, :6]) for place in range(5)]
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), abs=1e-12)
    assert sum(part.num_items.item() for part in parts) == whole.num_items.item()


def test_a_saved_model_answers_alike_also_by_its_own_code(encoder_folder: str, tmp_path: Path) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("slots", type="token_classification", labels=BIO, crf=True, alignment="max", layers="mix")
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)
    model.config.heads["slots"]["num_steps"] = 1
    texts = ["play some jazz in paris", "oslo", ["reserve", "a", "qqq", "xyzzyrome"]]
    expected = model.predict(texts)
    model.save_pretrained(tmp_path / "saved")
    assert MultiTaskModel.from_pretrained(tmp_path / "saved").predict(texts) == expected
    script = """
import json, sys
sys.modules["mtl_hf"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps(model.predict(json.loads(sys.argv[2]))))
"""
    done = subprocess.run(  # in another process: loading code of a model registers its classes
        [sys.executable, "-c", script, str(tmp_path / "saved"), json.dumps(texts)],
        capture_output=True, text=True, check=False, env={"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
    assert any(answers["slots"] for answers in expected)
