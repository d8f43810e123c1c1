"""Tests of the head of masked language modelling and of the model around it, against transformers' own."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    ElectraConfig,
    ElectraForMaskedLM,
    ModernBertConfig,
)

from mtl_hf.modeling.head import EncoderShape, HeadInputs
from mtl_hf.modeling.head_masked_lm import MaskedLMHead
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.modeling_multitask import MultiTaskConfig, MultiTaskModel
from mtl_hf.modeling.tags import IGNORE_INDEX
from tests.conftest import SIZES, save_encoder

VOCABULARY, NUM_ROWS, NUM_TOKENS = 60, 4, 9


def make_batch(vocab_size: int = VOCABULARY) -> tuple[dict[str, Tensor], Tensor]:
    """Ids with padding, and labels of some of them; the third row has none."""
    ids = torch.randint(5, vocab_size, (NUM_ROWS, NUM_TOKENS))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = torch.where((torch.rand(ids.shape) < 0.4) & (mask == 1), ids, IGNORE_INDEX)
    labels[0, 1], labels[1, 2], labels[3, 3], labels[2] = 7, 8, 9, IGNORE_INDEX
    return {"input_ids": ids, "attention_mask": mask}, labels


def model_of(config: Any) -> MultiTaskModel:
    """Random weights, in float64, without dropout."""
    model = MultiTaskModel(MultiTaskConfig(text_config=config, encoder_attn_implementation="eager"))
    model.add_head("mlm", type="masked_lm")
    return model.double().eval()


BERT = BertConfig(**SIZES, vocab_size=VOCABULARY, hidden_act="gelu")
ELECTRA = ElectraConfig(**SIZES, vocab_size=VOCABULARY, embedding_size=20, tie_word_embeddings=True)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_loss_and_gradients_are_those_of_transformers(family: str) -> None:
    model = model_of(copy.deepcopy(BERT if family == "bert" else ELECTRA))
    head: Any = model.heads["mlm"]
    if family == "bert":
        stock: Any = BertForMaskedLM(copy.deepcopy(BERT)).double().eval()
        encoder, layers = stock.bert, stock.cls.predictions.transform
        theirs = (layers.dense, layers.LayerNorm, stock.cls.predictions.bias, stock.bert.embeddings)
    else:  # whose embeddings are narrower than its states
        stock = ElectraForMaskedLM(copy.deepcopy(ELECTRA)).double().eval()
        encoder, layers = stock.electra, stock.generator_predictions
        theirs = (layers.dense, layers.LayerNorm, stock.generator_lm_head.bias, stock.electra.embeddings)
    dense, norm, bias, embeddings = theirs
    with torch.no_grad():
        bias.normal_()
        norm.weight.normal_(1, 0.1)
        head.dense.load_state_dict(dense.state_dict())
        head.norm.load_state_dict(norm.state_dict())
        head.bias.copy_(bias)
    assert head.norm.eps == norm.eps
    found = model.encoder.load_state_dict(encoder.state_dict(), strict=False)
    assert not found.missing_keys

    batch, labels = make_batch()
    wanted = stock(**batch, labels=labels)
    output = model(**batch, labels={"mlm": labels})
    assert output.loss.item() == pytest.approx(wanted.loss.item(), abs=1e-10)
    torch.testing.assert_close(output.logits["mlm"], wanted.logits[labels != IGNORE_INDEX], rtol=0, atol=1e-10)
    torch.testing.assert_close(model(**batch, heads="mlm").logits["mlm"], wanted.logits, rtol=0, atol=1e-10)
    wanted.loss.backward()
    output.loss.backward()
    pairs = [
        (model.encoder.get_input_embeddings().weight, embeddings.word_embeddings.weight),
        (head.dense.weight, dense.weight),
        (head.norm.weight, norm.weight),
        (head.bias, bias),
        *zip(model.encoder.encoder.parameters(), encoder.encoder.parameters(), strict=True),
    ]
    for mine, other in pairs:
        assert other.grad.abs().sum() > 0
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-10)


def make_head() -> MaskedLMHead:
    head = build_head({"type": "masked_lm"}, EncoderShape(6, "mean", VOCABULARY, 5))
    assert isinstance(head, MaskedLMHead)
    return head


def test_loss_and_what_it_says_of_rows_are_those_of_a_loop() -> None:
    batch, labels = make_batch()
    head = make_head().double()
    states, embeddings = torch.randn(NUM_ROWS, NUM_TOKENS, 6).double(), torch.randn(VOCABULARY, 5).double()
    hidden = HeadInputs(embeddings=embeddings, labels=labels)
    every = head(states, batch["attention_mask"], HeadInputs(embeddings=embeddings)).tolist()
    by_hand = []
    for row in range(NUM_ROWS):
        total, number, right = 0.0, 0, 0
        for place, label in enumerate(labels[row].tolist()):
            if label != IGNORE_INDEX:
                scores = every[row][place]
                total += math.log(sum(math.exp(score) for score in scores)) - scores[label]
                number, right = number + 1, right + (max(scores) == scores[label])
        by_hand.append([total, number, right])
    logits = head(states, batch["attention_mask"], hidden)
    assert logits.shape == (int((labels != IGNORE_INDEX).sum()), VOCABULARY)
    torch.testing.assert_close(
        head.by_row(logits, hidden), torch.tensor(by_hand, dtype=torch.float64), rtol=0, atol=1e-9
    )
    loss = head.loss(logits, labels)
    assert loss.total.item() == pytest.approx(sum(row[0] for row in by_hand), abs=1e-9)
    assert loss.num_items.item() == sum(row[1] for row in by_hand)
    right = logits.clone()
    right[torch.arange(3), labels[labels != IGNORE_INDEX][:3]] = 1e6
    assert head.by_row(right, hidden)[:, 2].sum() == 3 + (logits[3:].argmax(-1) == labels[labels != -100][3:]).sum()


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_logits_are_computed_in_float32_under_autocast(weights: torch.dtype) -> None:
    head = make_head().to(weights)
    states, embeddings = torch.randn(2, 4, 6).bfloat16(), torch.randn(VOCABULARY, 5).to(weights)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(states, torch.ones(2, 4), HeadInputs(embeddings=embeddings))
    assert logits.dtype == torch.float32
    exact = head.double()(states.double(), torch.ones(2, 4), HeadInputs(embeddings=embeddings.double()))
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)


def test_bf16_logits_give_float32_numbers() -> None:
    _, labels = make_batch()
    head = make_head()
    logits = (3 * torch.randn(int((labels != IGNORE_INDEX).sum()), VOCABULARY)).bfloat16()
    hidden = HeadInputs(labels=labels)
    exact = head.by_row(logits.double(), hidden)
    assert head.loss(logits, labels).total.dtype == head.by_row(logits, hidden).dtype == torch.float32
    torch.testing.assert_close(head.by_row(logits, hidden).double(), exact, rtol=1e-5, atol=1e-5)
    assert head.loss(logits, labels).total.item() == pytest.approx(exact[:, 0].sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        BERT,
        ELECTRA,
        DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=48, vocab_size=VOCABULARY),
        ModernBertConfig(**SIZES, vocab_size=VOCABULARY, pad_token_id=0, cls_token_id=1, sep_token_id=2,
                         bos_token_id=1, eos_token_id=2),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_a_saved_model_answers_the_same_and_holds_the_embeddings_once(config: Any, tmp_path: Path) -> None:
    model = model_of(copy.deepcopy(config)).float()
    with torch.no_grad():
        model.heads["mlm"].bias.normal_()
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    assert [shape[0] for shape in shapes if len(shape) == 2].count(VOCABULARY) == 1
    batch, labels = make_batch()
    loaded = MultiTaskModel.from_pretrained(tmp_path)
    wanted = model(**batch, labels={"mlm": labels})
    found = loaded(**batch, labels={"mlm": labels})
    assert found.loss.item() == wanted.loss.item()
    assert found.logits["mlm"].equal(wanted.logits["mlm"])


def test_the_head_follows_a_resize(tmp_path: Path) -> None:
    model = model_of(copy.deepcopy(BERT)).float()
    with torch.no_grad():
        model.heads["mlm"].bias.normal_()
    batch, _ = make_batch()
    before = model(**batch, heads="mlm").logits["mlm"]
    model.resize_token_embeddings(VOCABULARY + 3)
    after = model(**batch, heads="mlm").logits["mlm"]
    assert after.shape[-1] == VOCABULARY + 3
    torch.testing.assert_close(after[..., :VOCABULARY], before)
    assert model.heads["mlm"].bias.requires_grad
    model.save_pretrained(tmp_path)
    loaded = MultiTaskModel.from_pretrained(tmp_path)
    assert loaded(**batch, heads="mlm").logits["mlm"].equal(after)
    loaded.resize_token_embeddings(VOCABULARY - 10)
    assert loaded.heads["mlm"].bias.equal(model.heads["mlm"].bias[: VOCABULARY - 10])


def test_a_bias_that_a_file_lacks_is_zero(tmp_path: Path) -> None:
    model = model_of(copy.deepcopy(BERT)).float()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "heads.mlm.bias"}
    model.save_pretrained(tmp_path, state_dict=state)
    assert MultiTaskModel.from_pretrained(tmp_path).heads["mlm"].bias.abs().sum() == 0


def test_frozen_embeddings_stay_and_the_head_trains() -> None:
    model = model_of(copy.deepcopy(BERT))
    embeddings = model.encoder.get_input_embeddings().weight.requires_grad_(False)
    batch, labels = make_batch()
    model(**batch, labels={"mlm": labels}).loss.backward()
    assert embeddings.grad is None
    assert model.heads["mlm"].dense.weight.grad.abs().sum() > 0


@pytest.fixture
def two_heads(encoder_folder: str) -> MultiTaskModel:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("mlm", type="masked_lm")
    model.add_head("mood", type="sequence_classification", labels=["a", "b"])
    return model


def test_the_head_runs_only_when_named_or_labelled(two_heads: MultiTaskModel) -> None:
    batch, labels = make_batch()
    assert list(two_heads(**batch).logits) == ["mood"]
    assert list(two_heads(**batch, heads="mlm").logits) == ["mlm"]
    assert list(two_heads(**batch, labels={"mlm": labels}).losses) == ["mlm"]
    assert list(two_heads.predict(["play jazz"])[0]) == ["mood"]
    assert two_heads.encode(["play jazz"]).shape == (1, 32)


def test_the_head_answers_no_texts(two_heads: MultiTaskModel) -> None:
    with pytest.raises(ValueError, match=r"`heads` has 'mlm', which predicts masked tokens"):
        two_heads.predict(["play jazz"], heads=["mood", "mlm"])


def test_labels_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"does not take these options: .*labels"):
        build_head({"type": "masked_lm", "labels": ["a"]}, EncoderShape(6, "mean", 9, 6))
    with pytest.raises(ValueError, match=r"does not take these options: .*pooling"):
        build_head({"type": "masked_lm", "pooling": "cls"}, EncoderShape(6, "mean", 9, 6))


# From scratch


def small(folder: str, **changes: Any) -> MultiTaskModel:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24}
    return MultiTaskModel.from_encoder(folder, pretrained=False, encoder_config=sizes | changes)


def test_an_encoder_from_scratch_has_its_own_sizes_and_seeded_weights(encoder_folder: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = small(encoder_folder)
    torch.manual_seed(5)
    again = small(encoder_folder)
    other = small(encoder_folder)
    weights, same, others = (dict(model.named_parameters()) for model in (first, again, other))
    assert all(weights[name].equal(same[name]) for name in weights)
    assert not weights["encoder.embeddings.word_embeddings.weight"].equal(
        others["encoder.embeddings.word_embeddings.weight"]
    )
    assert len(first.encoder.encoder.layer) == 2
    assert (first.config.hidden_size, first.config.text_config.intermediate_size) == (16, 24)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not first.training
    first.save_pretrained(tmp_path)
    loaded = MultiTaskModel.from_pretrained(tmp_path)
    batch = loaded.tokenizer(["play jazz"], return_tensors="pt")
    states = [model(**batch, output_hidden_states=True).hidden_states[-1] for model in (first, loaded)]
    assert states[0].equal(states[1])


def test_a_model_of_ours_can_lend_its_sizes_alone(encoder_folder: str, tmp_path: Path) -> None:
    small(encoder_folder).save_pretrained(tmp_path)
    trained = MultiTaskModel.from_encoder(tmp_path)
    fresh = MultiTaskModel.from_encoder(tmp_path, pretrained=False)
    wide = MultiTaskModel.from_encoder(tmp_path, pretrained=False, encoder_config={"hidden_size": 24})
    name = "encoder.embeddings.word_embeddings.weight"
    assert trained.get_parameter(name).shape == fresh.get_parameter(name).shape
    assert not trained.get_parameter(name).equal(fresh.get_parameter(name))
    assert (fresh.config.hidden_size, wide.config.hidden_size) == (16, 24)
    assert wide.get_parameter(name).shape[1] == 24
    assert fresh.encode(["play jazz"]).shape == (1, 16)
    with pytest.raises(ValueError, match="`hidden_size` is 18"):
        MultiTaskModel.from_encoder(tmp_path, pretrained=False, encoder_config={"hidden_size": 18})


def test_an_encoder_from_scratch_reads_no_weights(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    assert small(str(folder)).config.hidden_size == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 18}, "`hidden_size` is 18; it should be divisible by `num_attention_heads`, which is 4"),
        ({"num_hidden_layers": 0}, "`encoder_config.num_hidden_layers` is 0; it should be a whole number"),
        ({"num_hidden_layers": 10**6}, "`encoder_config.num_hidden_layers` is 1,000,000; it should be at most 1,024"),
        ({"intermediate_size": "big"}, "`encoder_config.intermediate_size` is 'big'; it should be a whole number"),
        ({"hidden": 4}, "'hidden' is not a field of BertConfig"),
    ],
)
def test_sizes_that_make_no_encoder_are_refused(encoder_folder: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(encoder_folder, **changes)


def test_what_was_pre_trained_loads_as_a_plain_encoder(tmp_path: Path) -> None:
    model = model_of(copy.deepcopy(BERT)).float()
    model.encoder.save_pretrained(tmp_path)
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path)  # its head is new
    batch, _ = make_batch()
    states = stock.bert(**batch).last_hidden_state
    torch.testing.assert_close(states, model.encoder(**batch).last_hidden_state)
