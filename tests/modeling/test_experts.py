"""Experts between encoder and heads: against a reference by hand, neutral when new, saved, loaded, refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from mtl_hf.modeling.experts import Experts, Gate, mix
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import FAMILIES

EXPERTS = {"num": 3, "hidden": 8}
TEXTS = ["play jazz today", "will it rain in oslo", "book a table for two in rome tomorrow"]


def make(encoder: Any, experts: dict[str, int] | None = EXPERTS, **options: Any) -> MultiTaskModel:
    """Two heads for sentences, which read one layer and two, one for words, one for pairs."""
    model = MultiTaskModel.from_encoder(encoder, experts=experts, **options)
    model.add_head("intent", type="sequence_classification", labels=["a", "b"])
    model.add_head("deep", type="regression", pooling="mean_last_2")
    model.add_head("slots", type="token_classification", labels=["O", "B-x"])
    model.add_head("alike", type="sentence_similarity")
    return model


def awaken(model: MultiTaskModel, seed: int = 0) -> MultiTaskModel:
    """Random experts and gates, that differ much."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("experts.") or ".gate." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def batch(model: MultiTaskModel, texts: list[str] = TEXTS) -> dict[str, torch.Tensor]:
    return dict(model.tokenizer(texts, padding=True, return_tensors="pt"))


def mixed_by_hand(states: np.ndarray, mask: np.ndarray, model: MultiTaskModel, task: str) -> np.ndarray:
    """State by state and expert by expert, in float64."""
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    erf = np.vectorize(math.erf)
    result = states.copy()
    for row in range(len(states)):
        mean = states[row, mask[row] == 1].mean(0)
        scores = [float(mean @ vector) for vector in weights[f"heads.{task}.gate.score.weight"]]
        gates = [math.exp(score) for score in scores]
        gates = [gate / sum(gates) for gate in gates]
        for token in range(states.shape[1]):
            for expert, gate in enumerate(gates):
                inner = weights[f"experts.{expert}.0.weight"] @ states[row, token] + weights[f"experts.{expert}.0.bias"]
                inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
                said = weights[f"experts.{expert}.2.weight"] @ inner + weights[f"experts.{expert}.2.bias"]
                result[row, token] += gate * said
    return result


def test_what_heads_read_is_the_mixture_of_a_reference_in_float64(still_encoder_folder: str) -> None:
    model = awaken(make(still_encoder_folder).double())
    inputs = batch(model)
    mask = inputs["attention_mask"].numpy()
    out = model(**inputs, output_hidden_states=True)
    last, before = (out.hidden_states[k].detach().numpy() for k in (-1, -2))
    read = {"slots": last, "intent": last, "deep": (last + before) / 2}
    for task, states in read.items():
        expected = mixed_by_hand(states, mask, model, task)
        head: Any = model.heads[task]
        if task != "slots":
            expected = (expected * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
        layer = {"slots": "classifier", "intent": "classifier", "deep": "regressor"}[task]
        weight, bias = (getattr(getattr(head, layer), key).detach().numpy() for key in ("weight", "bias"))
        logits = (expected @ weight.T + bias).squeeze(-1) if task == "deep" else expected @ weight.T + bias
        np.testing.assert_allclose(out.logits[task].detach().numpy(), logits, rtol=0, atol=1e-10)
        assert np.abs(expected - states).max() > 0.1 if task == "slots" else True, "experts say something"
    assert out.gates["intent"].shape == (3, 3)
    torch.testing.assert_close(out.gates["intent"].sum(1), torch.ones(3, dtype=torch.float64))


def test_in_float32_the_mixture_is_the_reference_to_1e_6() -> None:
    torch.manual_seed(1)
    experts, gate = Experts(16, 4, 8), Gate(16, 4)
    states = torch.randn(2, 5, 16)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = mix(states, experts(states), gate(states, mask))
    experts.double(), gate.double()
    expected = states.double()
    for row in range(2):
        weights = (gate.score.weight @ states[row, mask[row] == 1].double().mean(0)).softmax(0)
        for weight, expert in zip(weights, experts, strict=True):
            expected[row] += weight * expert(states[row].double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_experts_change_nothing_bit_for_bit(family: str, encoder_folders: dict[str, Path]) -> None:
    plain = make(encoder_folders[family], None)
    model = make(encoder_folders[family])
    assert not model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    inputs = batch(plain)
    before, after = plain(**inputs), model(**inputs)
    assert before.gates is None
    for task in ("intent", "deep", "slots"):
        assert torch.equal(before.logits[task], after.logits[task]), task


def test_padding_has_no_say(still_encoder_folder: str) -> None:
    model = awaken(make(still_encoder_folder).double())
    together, alone = model(**batch(model)), model(**batch(model, TEXTS[:1]))
    torch.testing.assert_close(together.gates["intent"][:1], alone.gates["intent"])
    torch.testing.assert_close(together.logits["intent"][:1], alone.logits["intent"])


def test_a_head_that_does_not_run_has_no_gradient_and_neither_has_its_gate(still_encoder_folder: str) -> None:
    model = awaken(make(still_encoder_folder)).train()
    model(**batch(model), labels={"intent": torch.tensor([0, 1, 1])}, heads="intent").loss.backward()
    moving = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name in moving if "gate" in name} == {"heads.intent.gate.score.weight"}
    assert {name for name in moving if name.startswith("experts.")} == {f"experts.{name}" for name, _ in
                                                                        model.experts.named_parameters()}  # fmt: skip


def test_predict_answers_from_the_mixture_and_encode_from_the_encoder(still_encoder_folder: str) -> None:
    model = awaken(make(still_encoder_folder))
    plain = MultiTaskModel.from_encoder(still_encoder_folder)
    assert torch.equal(model.encode(TEXTS), plain.encode(TEXTS))
    answers = model.predict(TEXTS, heads=["intent", "deep"], embeddings=True)
    for row, text in enumerate(TEXTS):
        logits = model(**batch(model, [text])).logits
        probabilities = logits["intent"].softmax(-1)[0]
        assert answers[row]["intent"]["score"] == pytest.approx(probabilities.max().item(), abs=1e-5)
        assert answers[row]["embedding"] == pytest.approx(plain.encode(text).tolist(), abs=1e-5)
    assert model.predict([tuple(TEXTS[:2])], heads="alike"), "of pairs, each text has its mixture"


def test_saved_and_loaded_it_answers_as_before_also_by_the_code_that_travels(
    still_encoder_folder: str, tmp_path: Path
) -> None:
    model = awaken(make(still_encoder_folder))
    model.rename_head("deep", "deeper")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "experts.py").is_file()
    inputs = batch(model)
    travelled = get_class_from_dynamic_module("modeling_multitask.MultiTaskModel", str(tmp_path))
    assert travelled is not MultiTaskModel
    for kind in (MultiTaskModel, travelled):
        loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert loaded.config.experts == EXPERTS
        out = loaded(**inputs)
        for task, logits in model(**inputs).logits.items():
            assert torch.equal(logits, out.logits[task]), task


def test_going_on_from_a_model_keeps_its_experts_with_its_heads_only(still_encoder_folder: str, tmp_path: Path) -> None:
    awaken(make(still_encoder_folder)).save_pretrained(tmp_path / "with")
    make(still_encoder_folder, None).save_pretrained(tmp_path / "without")
    kept = MultiTaskModel.from_encoder(tmp_path / "with", keep_heads=True)
    assert len(kept.experts) == 3
    assert len(MultiTaskModel.from_encoder(tmp_path / "with", keep_heads=True, experts=EXPERTS).experts) == 3
    assert MultiTaskModel.from_encoder(tmp_path / "with").experts is None, "the encoder alone"
    fresh = MultiTaskModel.from_encoder(tmp_path / "with", experts={"num": 2, "hidden": 4})
    assert len(fresh.experts) == 2
    assert not any(expert[-1].weight.any() for expert in fresh.experts), "new experts output zeros"
    fresh.add_head("intent", type="sequence_classification", labels=["a", "b"])
    assert fresh.heads["intent"].gate.score.weight.shape == (2, 32)
    for name, has in (("without", "no experts"), ("with", "experts {")):
        with pytest.raises(
            ValueError, match=rf"`experts` is .*num.*: 2.* trained with {has}.*Leave out `experts`.*keep: encoder"
        ):
            MultiTaskModel.from_encoder(tmp_path / name, keep_heads=True, experts={"num": 2, "hidden": 4})


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        ({"num": 1, "hidden": 8}, r"`experts\.num` is 1; it should be a whole number of at least 2"),
        ({"num": 2}, r"`experts\.hidden` is None; it should be a whole number of at least 1"),
        ({"num": 2, "hidden": 8, "top": 1}, "`experts` has the key 'top'; valid are num and hidden"),
    ],
)
def test_experts_that_cannot_be_are_refused(experts: dict[str, int], expected: str, encoder_folder: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MultiTaskModel.from_encoder(encoder_folder, experts=experts)
