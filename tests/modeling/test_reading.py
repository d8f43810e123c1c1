"""Tests of `mtl_hf.modeling.reading`: which states a head reads, and how often encoder and experts run for them.

That the states are right is tested with what makes them: adapters, poolings and experts.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.pooling import POOLING
from mtl_hf.modeling.reading import adapter_of, encoder_passes, states_read
from tests.modeling.conftest import add_pooling_heads, make_batch


def config_with(adapters: list[str], **own: str) -> SimpleNamespace:
    """A configuration with these adapters and two heads, some with one of their own."""
    heads = {name: {"adapter": own[name]} if name in own else {} for name in ("slots", "intent")}
    return SimpleNamespace(overflow="truncate", adapters=dict.fromkeys(adapters), heads=heads)


@pytest.mark.parametrize(
    ("config", "adapters", "passes"),
    [
        (config_with([]), [None, None, None], [["slots", None, "intent"]]),
        (config_with(["shared"]), ["shared", "shared", "shared"], [["slots", None, "intent"]]),
        (config_with(["a"], slots="a"), ["a", None, None], [["slots"], [None, "intent"]]),
        (config_with(["a", "b"], slots="a", intent="b"), ["a", "b", None], [["slots"], [None], ["intent"]]),
        (config_with(["shared", "a"], intent="a"), ["shared", "a", "shared"], [["slots", None], ["intent"]]),
    ],
    ids=["bare", "shared", "one", "each", "both"],
)
def test_the_encoder_runs_once_for_all_that_read_with_the_same_adapter(config, adapters, passes):
    assert [adapter_of(config, name) for name in ("slots", "intent", None)] == adapters
    encoder = nn.Identity()
    assert list(encoder_passes(encoder, config, ["slots", None, "intent"], input=7)) == [(group, 7) for group in passes]
    assert list(encoder_passes(encoder, config, [], input=7)) == [([], 7)], "hidden states may be asked for alone"


def test_layers_are_asked_for_only_when_a_head_that_runs_reads_them(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, names = make_batch(model), list(model.heads)
    before = model(**batch).logits
    add_pooling_heads(model)
    asked = []
    forward = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda *args, **options: (
        asked.append(options.get("output_hidden_states", False)), forward(*args, **options))[1])  # fmt: skip
    alone = model(**batch, heads=names)
    together = model(**batch)
    assert asked == [False, True]
    assert alone.hidden_states is None
    assert together.hidden_states is None
    for name in names:  # bit for bit, whoever else reads other layers
        assert torch.equal(alone.logits[name], before[name])
        assert torch.equal(together.logits[name], before[name])
    encoded = model.encoder(**batch, output_hidden_states=True)
    mean = (encoded.hidden_states[-2] + encoded.last_hidden_state) / 2
    pooled = POOLING["mean"](mean, batch["attention_mask"])
    by_hand = model.heads["layers"].regressor(pooled).squeeze(-1)
    torch.testing.assert_close(together.logits["layers"], by_hand, rtol=1e-4, atol=1e-5)


def test_experts_are_asked_once_for_all_heads_that_read_the_same_layers():
    class Head(nn.Module):
        def __init__(self, num_layers: int) -> None:
            super().__init__()
            self.num_layers = num_layers

        def gate(self, states, attention_mask):
            return torch.ones(len(states), 1)

    asked = []

    def experts(states):
        asked.append(states)
        return torch.ones(*states.shape[:2], 1, states.shape[2])

    heads = nn.ModuleDict({"one": Head(1), "two": Head(2), "last": Head(1)})
    layers = tuple(torch.full((2, 3, 4), float(number)) for number in range(4))
    encoded = BaseModelOutput(last_hidden_state=layers[-1], hidden_states=layers)
    found = list(states_read(encoded, torch.ones(2, 3), heads, ["last", "two", "one"], experts))
    assert [name for name, _, _ in found] == ["last", "two", "one"]
    assert [states.unique().item() for _, states, _ in found] == [4.0, 3.5, 4.0], "the mean of layers, and 1 of experts"
    assert [gates.shape for _, _, gates in found] == [(2, 1)] * 3
    assert len(asked) == 2
    bare = list(states_read(encoded, torch.ones(2, 3), heads, ["one"], None))
    assert [(name, states is layers[-1], gates) for name, states, gates in bare] == [("one", True, None)]
