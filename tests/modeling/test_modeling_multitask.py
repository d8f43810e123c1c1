"""Tests of `mtl_hf.modeling.modeling_multitask`: running, saving and loading, for every encoder family."""

import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer

import mtl_hf
from mtl_hf.config import resolve_path
from mtl_hf.modeling.modeling_multitask import MultiTaskModel, MultiTaskOutput
from tests.conftest import SENTENCES
from tests.modeling.conftest import TAGS, add_pooling_heads, make_batch, trained


def make_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Labels for every head; each lacks some."""
    slots = batch["input_ids"] % len(TAGS)
    slots[batch["attention_mask"] == 0] = -100
    return {
        "slots": slots,
        "intent": torch.tensor([2, -100, 0, 1]),
        "topics": torch.tensor([[0, 1], [-100, -100], [0, 0], [1, 1]]),
        "stars": torch.tensor([1.0, 2.0, float("nan"), float("nan")]),
    }


# ---- building ----


def test_equal_second_texts_of_a_batch_are_no_negatives(bert: MultiTaskModel) -> None:
    bert.add_head("ranked", type="sentence_similarity", loss="ranking")
    batch = bert.tokenizer(
        ["play some jazz", "it is warm", "will it rain", "it is warm", "book a table", "for two in rome today"],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    bert.eval()
    with torch.no_grad():
        out = bert(**batch, heads="ranked", labels={"ranked": torch.ones(3)})
        first, second = out.logits["ranked"][0::2], out.logits["ranked"][1::2]
    scores = (first @ second.T / 0.05).tolist()
    losses = []
    for own, others in ((0, (0, 2)), (1, (1, 2)), (2, (0, 1, 2))):
        losses.append(math.log(sum(math.exp(scores[own][other]) for other in others)) - scores[own][own])
    assert out.loss.item() == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_encoder_states_are_those_of_the_plain_encoder(
    family: str, model: MultiTaskModel, encoder_folders: dict[str, Path]
) -> None:
    plain = AutoModel.from_pretrained(encoder_folders[family])
    batch = make_batch(model)
    with torch.no_grad():
        ours = model(**batch, output_hidden_states=True)
        theirs = plain(**batch, output_hidden_states=True)
    assert torch.equal(model.encoder(**batch).last_hidden_state, theirs.last_hidden_state)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 4
    assert all(torch.equal(*pair) for pair in zip(ours.hidden_states, theirs.hidden_states, strict=True))
    assert model.config.encoder_attn_implementation == plain.config._attn_implementation


def test_model_has_no_pooler_of_the_encoders_own(family: str, model: MultiTaskModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    for one in (model, MultiTaskModel.from_pretrained(tmp_path)):
        assert not [name for name in one.state_dict() if "pooler" in name]


def test_at_least_one_family_comes_with_a_pooler(encoder_folders: dict[str, Path]) -> None:
    assert "pooler.dense.weight" in AutoModel.from_pretrained(encoder_folders["bert"]).state_dict()


def test_from_encoder_is_in_evaluation_mode_as_from_pretrained(model: MultiTaskModel) -> None:
    assert not [name for name, module in model.named_modules() if module.training]
    head = model.train().add_head("late", type="regression")
    assert head.training


# ---- forward ----


def test_forward_runs_every_head(model: MultiTaskModel) -> None:
    batch = make_batch(model)
    output = model(**batch)
    assert isinstance(output, MultiTaskOutput)
    assert {name: tuple(logits.shape) for name, logits in output.logits.items()} == {
        "slots": (*batch["input_ids"].shape, 4),
        "intent": (4, 3),
        "topics": (4, 2),
        "stars": (4,),
    }
    assert output.loss is None
    assert output.losses is None
    assert output.hidden_states is None


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (None, ["slots", "intent", "topics", "stars"]),
        ("stars", ["stars"]),
        (["stars", "slots"], ["stars", "slots"]),
        ([], []),
    ],
)
def test_a_head_that_is_not_asked_for_is_not_run(
    bert: MultiTaskModel, heads: str | list[str] | None, expected: list[str]
) -> None:
    run = []
    for name, head in bert.heads.items():
        head.register_forward_hook(lambda *_, name=name: run.append(name))
    batch = make_batch(bert)
    whole = bert(**batch).logits
    run.clear()
    logits = bert(**batch, heads=heads).logits
    assert run == list(logits) == expected
    assert all(torch.equal(logits[name], whole[name]) for name in expected)


def test_unknown_heads_and_labels_are_refused(bert: MultiTaskModel) -> None:
    batch = make_batch(bert)
    with pytest.raises(ValueError, match=r"`heads` has \['mood'\]; the heads of the model are \['slots', 'intent'"):
        bert(**batch, heads=["intent", "mood"])
    with pytest.raises(ValueError, match=r"`labels` has \['mood'\]; the heads are \['slots', 'intent'"):
        bert(**batch, labels={"mood": torch.zeros(4)})


def test_loss_is_the_sum_of_the_means_over_labelled_items(model: MultiTaskModel) -> None:
    batch = make_batch(model)
    labels = make_labels(batch)
    output = model(**batch, labels=labels)
    num_items = {"slots": int(batch["attention_mask"].sum()), "intent": 3, "topics": 3, "stars": 2}
    assert list(output.losses) == list(model.heads)
    for name, loss in output.losses.items():
        total, items = model.heads[name].loss(output.logits[name], labels[name])
        assert items.item() == num_items[name]
        assert loss.item() == pytest.approx(total.item() / num_items[name], rel=1e-6)
    assert output.loss.item() == pytest.approx(sum(loss.item() for loss in output.losses.values()), rel=1e-6)


def test_only_tasks_with_labels_that_run_have_a_loss(bert: MultiTaskModel) -> None:
    batch = make_batch(bert)
    labels = make_labels(batch)
    some = {name: labels[name] for name in ("stars", "intent")}
    output = bert(**batch, labels=some)
    assert set(output.losses) == {"stars", "intent"}
    assert set(output.logits) == set(bert.heads)
    output = bert(**batch, labels=some, heads=["intent", "slots"])
    assert list(output.losses) == ["intent"]
    assert list(output.logits) == ["intent", "slots"]
    assert torch.equal(output.loss, output.losses["intent"])


def test_num_items_is_what_a_loss_is_divided_by(bert: MultiTaskModel) -> None:
    batch = make_batch(bert)
    labels = make_labels(batch)
    means = bert(**batch, labels=labels).losses
    output = bert(**batch, labels=labels, num_items={"slots": 100, "intent": torch.tensor(6), "topics": 3, "stars": 1})
    own = {"slots": batch["attention_mask"].sum().item(), "intent": 3, "topics": 3, "stars": 2}
    given = {"slots": 100, "intent": 6, "topics": 3, "stars": 1}
    for name, loss in output.losses.items():
        assert loss.item() == pytest.approx(means[name].item() * own[name] / given[name], rel=1e-6)


def test_batch_without_a_labelled_item_has_a_loss_of_zero(bert: MultiTaskModel) -> None:
    batch = make_batch(bert)
    labels = make_labels(batch)
    absent = {name: torch.full_like(value, float("nan") if name == "stars" else -100) for name, value in labels.items()}
    output = bert(**batch, labels=absent)
    assert [loss.item() for loss in output.losses.values()] == [0, 0, 0, 0]


def test_padding_changes_no_logits(model: MultiTaskModel) -> None:
    batch = make_batch(model)
    together = model(**batch).logits
    for row, text in enumerate(SENTENCES[:4]):
        alone = model(**make_batch(model, [text])).logits
        for name, logits in alone.items():
            real = together[name][row, : logits.shape[1]] if name == "slots" else together[name][row]
            torch.testing.assert_close(real, logits[0], rtol=1e-4, atol=1e-5)


def test_without_a_mask_every_token_is_real(bert: MultiTaskModel) -> None:
    batch = make_batch(bert, SENTENCES[:1])
    with_mask = bert(**batch).logits["intent"]
    del batch["attention_mask"]
    assert torch.equal(bert(**batch).logits["intent"], with_mask)
    embeddings = bert.get_input_embeddings()(batch.pop("input_ids"))
    assert torch.equal(bert(**batch, inputs_embeds=embeddings).logits["intent"], with_mask)


# ---- saving and loading ----


def test_reloaded_model_gives_the_same_logits_bit_for_bit(model: MultiTaskModel, tmp_path: Path) -> None:
    batch = make_batch(model)
    before = model(**batch).logits
    model.save_pretrained(tmp_path)
    again, info = MultiTaskModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    after = again(**batch).logits
    assert set(after) == {"slots", "intent", "topics", "stars"}
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_saved_configuration_describes_the_model_and_not_this_machine(
    family: str, model: MultiTaskModel, encoder_folders: dict[str, Path], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "first")
    MultiTaskModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("first", "second"):
        text = (tmp_path / name / "config.json").read_text()
        assert str(encoder_folders[family]) not in text
        assert str(tmp_path) not in text
        config = json.loads(text)
        assert config["heads"] == model.config.heads
        assert config["heads"]["intent"]["labels"] == ["music", "booking", "weather"]
        assert config["text_config"]["model_type"] == family
        assert config["max_length"] == (62 if family == "roberta" else 64)
        assert config["dtype"] == "float32"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_kernel_is_kept(attention: str, encoder_folder: str, tmp_path: Path) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, attn_implementation=attention)
    assert model.encoder.config._attn_implementation == attention
    model.save_pretrained(tmp_path)
    assert MultiTaskModel.from_pretrained(tmp_path).encoder.config._attn_implementation == attention


def test_model_keeps_its_tokenizer_when_it_is_saved_again(model: MultiTaskModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "first")
    MultiTaskModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    again = MultiTaskModel.from_pretrained(tmp_path / "second")
    assert again.predict(SENTENCES[:2]) == model.predict(SENTENCES[:2])


def test_model_without_a_tokenizer_is_saved_with_a_warning(
    bert: MultiTaskModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bert.save_pretrained(tmp_path / "first")
    for file in (tmp_path / "first").glob("tokenizer*"):
        file.unlink()
    again = MultiTaskModel.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "model.safetensors").exists()
    assert "is saved without a tokenizer" in caplog.text
    MultiTaskModel(bert.config).save_pretrained(tmp_path / "third")  # made from a configuration: never had one
    assert not list((tmp_path / "third").glob("tokenizer*"))


def test_auto_model_loads_it(bert: MultiTaskModel, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    assert mtl_hf.MultiTaskModel is MultiTaskModel
    assert type(AutoModel.from_pretrained(tmp_path)) is MultiTaskModel
    assert type(AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))) is MultiTaskModel


def test_touching_a_name_of_the_package_registers_the_model() -> None:
    code = """
import sys
import mtl_hf
assert "torch" not in sys.modules and "transformers" not in sys.modules
from transformers import AutoConfig
try:
    AutoConfig.for_model("mtl-hf")
except ValueError:
    mtl_hf.MultiTaskModel
    print(type(AutoConfig.for_model("mtl-hf")).__name__)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "MultiTaskConfig"


def test_model_loaded_in_bf16_runs_every_head(model: MultiTaskModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    half = MultiTaskModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.add_head("late", type="token_classification", labels=TAGS)
    batch = make_batch(model)
    exact, rough = model(**batch).logits, half(**batch).logits
    assert {logits.dtype for logits in rough.values()} == {torch.float32}
    for name in exact:
        torch.testing.assert_close(rough[name].float(), exact[name], rtol=0.1, atol=0.25)
    assert half.encode(SENTENCES).dtype == torch.float32


def test_under_autocast_logits_are_those_of_the_heads_in_float32(model: MultiTaskModel) -> None:
    batch = make_batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch).logits
        rows = model.row_outputs(batch, list(model.heads))
        states = model.encoder(**batch).last_hidden_state
    for name, logits in found.items():
        assert torch.equal(logits, model.heads[name](states.float(), batch["attention_mask"])), name
        assert rows[name].dtype == torch.float32


def test_resized_vocabulary_goes_to_the_encoders_configuration(model: MultiTaskModel, tmp_path: Path) -> None:
    size = model.config.text_config.vocab_size
    assert model.get_input_embeddings() is model.encoder.get_input_embeddings()
    batch = make_batch(model)
    before = model(**batch).logits["intent"]
    model.resize_token_embeddings(size + 7)
    assert model.config.text_config.vocab_size == size + 7
    assert torch.equal(model(**batch).logits["intent"], before)
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert again.get_input_embeddings().weight.shape[0] == size + 7
    assert torch.equal(again(**batch).logits["intent"], before)


def test_heads_with_poolings_of_their_own_are_saved_and_loaded(model: MultiTaskModel, tmp_path: Path) -> None:
    add_pooling_heads(model).save_pretrained(tmp_path)
    loaded, info = MultiTaskModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    batch = make_batch(model)
    for name, logits in model(**batch).logits.items():
        assert torch.equal(loaded(**batch).logits[name], logits), name
    attentions = {name for name in loaded.state_dict() if "pool.score" in name}
    assert attentions == {"heads.look.pool.score.weight", "heads.alike.pool.score.weight"}
    half = MultiTaskModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, logits in half(**batch).logits.items():
        assert torch.isfinite(logits).all(), name


def test_attention_that_a_checkpoint_lacks_is_initialised_as_the_encoder_is(
    encoder_folder: str, tmp_path: Path
) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.save_pretrained(tmp_path)
    spec = {"type": "sentence_similarity", "text": "apart", "pooling": "attention", "num_steps": 0}
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"heads": {f"h{number}": spec for number in range(40)}}
    path.write_text(json.dumps(config), encoding="utf-8")
    loaded, info = MultiTaskModel.from_pretrained(tmp_path, output_loading_info=True)
    assert len(info["missing_keys"]) == 40
    weights = torch.cat([head.pool.score.weight.flatten() for head in loaded.heads.values()])
    assert weights.std().item() == pytest.approx(model.config.text_config.initializer_range, rel=0.1)


# ---- untrained heads ----


def count_warnings(caplog: pytest.LogCaptureFixture, name: str) -> int:
    return sum(f"Head '{name}' has not been trained" in record.getMessage() for record in caplog.records)


def test_untrained_head_warns_once_by_name(bert: MultiTaskModel, caplog: pytest.LogCaptureFixture) -> None:
    bert.config.heads["stars"]["num_steps"] = 0
    batch = make_batch(bert)
    bert(**batch, heads="intent")
    bert(**batch, labels=make_labels(batch))  # a loss is asked for, not an answer
    assert count_warnings(caplog, "stars") == 0
    bert(**batch)
    bert(**batch)
    bert.predict(["play jazz"])
    assert count_warnings(caplog, "stars") == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_head_with_steps_does_not_warn(bert: MultiTaskModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bert.config.heads["stars"]["num_steps"] = 0
    bert.save_pretrained(tmp_path)
    MultiTaskModel.from_pretrained(tmp_path).predict(["play jazz"])
    assert [count_warnings(caplog, name) for name in ("stars", "slots", "intent")] == [1, 0, 0]
    caplog.clear()
    trained(bert).predict(["play jazz"])
    assert not caplog.records


# ---- answering raw text ----


@pytest.mark.parametrize("run", [MultiTaskModel.encode, MultiTaskModel.predict])
def test_answers_have_no_dropout_and_leave_every_module_in_its_mode(
    bert: MultiTaskModel, run: Callable[[MultiTaskModel, list[str]], Tensor | list]
) -> None:
    for head in bert.heads.values():
        head.dropout.p = 0.5
    still = run(bert, SENTENCES)
    bert.train()
    bert.encoder.embeddings.eval()  # as a frozen part may be
    before = {name: module.training for name, module in bert.named_modules()}
    found = run(bert, SENTENCES)
    assert torch.equal(found, still) if isinstance(found, Tensor) else found == still
    assert {name: module.training for name, module in bert.named_modules()} == before
    assert len(set(before.values())) == 2


@pytest.mark.parametrize("run", [MultiTaskModel.encode, MultiTaskModel.predict])
def test_progress_counts_texts(
    bert: MultiTaskModel, run: Callable[..., object], capfd: pytest.CaptureFixture[str]
) -> None:
    run(bert, SENTENCES, batch_size=3, show_progress=True)
    assert "8/8" in capfd.readouterr().err


# ---- training ----


def test_gradient_checkpointing_gives_equal_gradients(model: MultiTaskModel) -> None:
    assert model.supports_gradient_checkpointing
    batch = make_batch(model)
    labels = make_labels(batch)
    layer = next(module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    passes = []
    next(layer.children()).register_forward_hook(lambda *_: passes.append(1))

    def gradients() -> dict[str, Tensor]:
        passes.clear()
        model.zero_grad()
        torch.manual_seed(3)  # dropout is on
        model(**batch, labels=labels).loss.backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    model.train()
    plain = gradients()
    assert len(passes) == 1
    model.activation_checkpointing_enable()
    checkpointed = gradients()
    assert len(passes) == 2  # forward, and again for the backward
    assert set(checkpointed) == set(plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder_folder: str) -> str:
    """An importable package with an encoder in it."""
    shutil.copytree(encoder_folder, tmp_path / "encoder_in_a_package" / "model")
    (tmp_path / "encoder_in_a_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return "package:encoder_in_a_package/model"


def test_a_path_into_a_package_is_a_place_for_encoders_and_models(package: str, encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(package)
    other = MultiTaskModel.from_encoder(encoder_folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert model.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    model.add_head("stars", type="regression")
    model.save_pretrained(resolve_path(package))
    loaded = MultiTaskModel.from_pretrained(package)
    assert torch.equal(loaded.heads["stars"].regressor.weight, model.heads["stars"].regressor.weight)
    assert loaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()


@pytest.mark.parametrize("load", [MultiTaskModel.from_encoder, MultiTaskModel.from_pretrained])
def test_a_package_that_is_not_there_is_named(load: Any, package: str) -> None:
    with pytest.raises(ValueError, match=r"'no_such_package' is not installed; try: pip install no-such-package"):
        load("package:no_such_package/model")
    with pytest.raises(ValueError, match=r"there is no 'other' in the installed package 'encoder_in_a_package'"):
        load("package:encoder_in_a_package/other")


@pytest.mark.parametrize("load", [MultiTaskModel, AutoModel])
def test_the_requested_attention_kernel_is_that_of_the_encoder(
    load: Any, model: MultiTaskModel, tmp_path: Path
) -> None:
    mtl_hf.register()
    model.save_pretrained(tmp_path)
    batch = make_batch(model)
    eager = load.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.encoder.config._attn_implementation == eager.config._attn_implementation == "eager"
    attentions = eager(**batch, output_attentions=True).attentions
    assert len(attentions) == 3
    num_rows, length = batch["input_ids"].shape
    assert attentions[0].shape == (num_rows, 2, length, length)
    kernel = model.encoder.config._attn_implementation
    plain = load.from_pretrained(tmp_path)
    assert plain.encoder.config._attn_implementation == kernel
    if kernel != "eager":
        with pytest.raises(ValueError, match=rf'\'{kernel}\', returns no attentions. .*attn_implementation="eager"'):
            plain(**batch, output_attentions=True)


def test_what_an_encoder_that_is_not_run_would_return_is_refused(model: MultiTaskModel) -> None:
    batch = make_batch(model)
    states = model.encoder(**batch).last_hidden_state
    for option in ("output_attentions", "output_hidden_states"):
        with pytest.raises(ValueError, match="with `encoder_states` the encoder is not run"):
            model(**batch, encoder_states=states, **{option: True})
