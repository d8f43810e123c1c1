"""Tests of the mix of layers: against a loop, in the model, and where it cannot be used."""

from pathlib import Path

import pytest
import torch

from mtl_hf.modeling.head import EncoderShape
from mtl_hf.modeling.heads import build_head
from mtl_hf.modeling.layer_mix import LayerMix
from mtl_hf.modeling.modeling_multitask import MultiTaskModel


def test_mix_is_the_weighted_sum_times_the_scale() -> None:
    mix = LayerMix(3).double()
    mix.scores.data = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    mix.scale.data = torch.tensor([1.5], dtype=torch.float64)
    layers = [torch.randn(2, 4, 5, dtype=torch.float64) for _ in range(3)]
    shares = [
        torch.exp(score) / sum(torch.exp(other) for other in mix.scores.detach()) for score in mix.scores.detach()
    ]
    expected = sum(1.5 * share * layer for share, layer in zip(shares, layers, strict=True))
    torch.testing.assert_close(mix(layers), expected, rtol=1e-14, atol=1e-14)
    assert mix.weights().tolist() == pytest.approx([float(share) for share in shares])


def test_a_new_mix_is_the_mean_over_layers(encoder_folder: str, tmp_path: Path) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, experts={"num": 2, "hidden": 4})
    model.add_head("slots", type="token_classification", labels=["a", "b"], layers="mix")
    model.add_head("intent", type="sequence_classification", labels=["a", "b"], layers="mix")
    model.add_head("plain", type="sequence_classification", labels=["a", "b"])
    for spec in model.config.heads.values():
        spec["num_steps"] = 1
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        encoded = model.encoder(ids, output_hidden_states=True)
        mean = torch.stack(encoded.hidden_states).mean(0)
        output = model(input_ids=ids)
    assert model.heads["slots"].layer_mix.weights().tolist() == [0.25] * 4
    torch.testing.assert_close(output.logits["slots"], model.heads["slots"].classifier(mean))
    torch.testing.assert_close(output.logits["intent"], model.heads["intent"].classifier(mean.mean(1)))
    torch.testing.assert_close(output.logits["plain"], model.heads["plain"].classifier(encoded[0].mean(1)))
    vector = model.encode("play some jazz", head="intent")
    ids = torch.tensor([model.tokenizer("play some jazz")["input_ids"]])
    with torch.no_grad():
        mean = torch.stack(model.encoder(ids, output_hidden_states=True).hidden_states).mean(0).mean(1)[0]
    torch.testing.assert_close(vector, mean, rtol=1e-4, atol=1e-5)
    model.heads["slots"].layer_mix.scores.data.normal_()
    model.save_pretrained(tmp_path)
    loaded = MultiTaskModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.heads["slots"].layer_mix.scores, model.heads["slots"].layer_mix.scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "all"}, "`layers` is 'all'; valid are last, mix"),
        ({"layers": "mix", "pooling": "mean_last_2"}, "both choose layers"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head({"type": "sequence_classification", "labels": ["a"], **options}, EncoderShape(4, num_layers=3))


def test_an_encoder_of_unknown_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="num_hidden_layers"):
        build_head({"type": "regression", "layers": "mix"}, EncoderShape(4))
