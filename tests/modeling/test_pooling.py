"""Tests of `mtl_hf.modeling.pooling`: each pooling against loops over real tokens, padding, half precision."""

import math

import pytest
import torch
from torch import Tensor

from mtl_hf.config import RunConfig
from mtl_hf.modeling.pooling import POOLING, AttentionPooling, check_pooling, last_layers, layers_read, make_pooling

LENGTHS = (5, 1, 3, 7)


def states_and_mask(dtype: torch.dtype = torch.float64, *, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Negative states, so that a zero would win a maximum, with large numbers where padding is."""
    generator = torch.Generator().manual_seed(1)
    num_tokens = max(LENGTHS) + extra
    states = torch.full((len(LENGTHS), num_tokens, 3), 1e4, dtype=torch.float64)
    mask = torch.zeros(len(LENGTHS), num_tokens, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        states[row, :length] = -1 - torch.rand(length, 3, generator=generator, dtype=torch.float64)
        mask[row, :length] = 1
    return states.to(dtype), mask


def pooled_by_hand(pooling: str, states: Tensor) -> list[list[float]]:
    result = []
    for row, length in enumerate(LENGTHS):
        tokens = states[row, :length].tolist()
        columns = list(zip(*tokens, strict=True))
        if pooling == "mean":
            result.append([sum(column) / length for column in columns])
        elif pooling == "max":
            result.append([max(column) for column in columns])
        else:
            result.append(tokens[0])
    return result


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling_reads_real_tokens_only(pooling: str) -> None:
    states, mask = states_and_mask()
    by_hand = torch.tensor(pooled_by_hand(pooling, states), dtype=torch.float64)
    torch.testing.assert_close(POOLING[pooling](states, mask), by_hand, rtol=1e-12, atol=0)


@pytest.mark.parametrize("pooling", POOLING)
def test_more_padding_changes_nothing(pooling: str) -> None:
    short = POOLING[pooling](*states_and_mask())
    padded = POOLING[pooling](*states_and_mask(extra=9))
    torch.testing.assert_close(padded, short, rtol=1e-14, atol=0)


@pytest.mark.parametrize("pooling", POOLING)
def test_padding_gets_no_gradient(pooling: str) -> None:
    states, mask = states_and_mask()
    POOLING[pooling](states.requires_grad_(), mask).sum().backward()
    assert states.grad[mask == 0].abs().sum() == 0
    torch.testing.assert_close(states.grad.sum((1, 2)), torch.full((len(LENGTHS),), 3.0, dtype=torch.float64))


def test_mean_of_bf16_states_is_taken_in_float32() -> None:
    states, mask = states_and_mask(torch.bfloat16)
    pooled = POOLING["mean"](states, mask)
    assert pooled.dtype == torch.float32
    by_hand = torch.tensor(pooled_by_hand("mean", states.double()))
    torch.testing.assert_close(pooled, by_hand, rtol=1e-6, atol=0)  # a bf16 result would be off by up to 4e-3


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_bf16_states_are_chosen_exactly(pooling: str) -> None:
    states, mask = states_and_mask(torch.bfloat16)
    assert POOLING[pooling](states, mask).tolist() == pooled_by_hand(pooling, states)


VALID = [*POOLING, "attention", "mean_last_2", "mean_last_12"]


def test_unknown_pooling_is_refused_with_the_valid_ones() -> None:
    assert [check_pooling(name) for name in VALID] == VALID
    with pytest.raises(ValueError, match="`pooling` is 'average'; valid are mean, cls, max, attention, mean_last_<n>"):
        check_pooling("average")
    with pytest.raises(ValueError, match="'mean_last_7'; the number of layers should be at least 2 and at most 6"):
        check_pooling("mean_last_7", 6)
    assert check_pooling("mean_last_6", 6) == "mean_last_6"


@pytest.mark.parametrize(
    "name", [*VALID, "mean_last_1", "mean_last_0", "mean_last_", "mean_last_2x", "Mean", "", "last"]
)
def test_a_config_takes_what_a_model_takes(name: str) -> None:
    source, task = {"path": "json", "text": "t"}, {"type": "regression", "source": "s", "label": "y"}
    for section in ({"encoder": "e", "pooling": name}, {"encoder": "e"}):
        config = {"model": section, "sources": {"s": source}, "tasks": {"t": task | (
            {} if "pooling" in section else {"pooling": name})}}  # fmt: skip
        if name in VALID:
            RunConfig.load(config)
            continue
        with pytest.raises(
            ValueError, match=r"pooling` is '.*'\..*Valid are mean, cls, max, attention, and mean_last_<n>"
        ):
            RunConfig.load(config)
        with pytest.raises(ValueError, match="`pooling` is"):
            check_pooling(name)


# Over layers


def test_states_of_the_last_layers_are_averaged() -> None:
    layers = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(5)]
    normed = torch.randn(2, 3, 4, dtype=torch.float64)  # the encoder's last states, which need not be the last layer's
    for number in (2, 3, 5):
        mean = last_layers(normed, layers, number)
        chosen = [*layers[5 - number : 4], normed]
        for place in [(0, 0, 0), (1, 2, 3), (0, 2, 1)]:
            assert mean[place].item() == pytest.approx(sum(layer[place].item() for layer in chosen) / number, rel=1e-12)
    assert last_layers(normed, layers, 1) is normed
    assert last_layers(normed, None, 1) is normed


def test_layers_in_bf16_are_averaged_in_float32() -> None:
    layers = [torch.full((1, 1, 1), value, dtype=torch.bfloat16) for value in (256.0, 1.0)]
    assert last_layers(layers[1], layers, 2).item() == 128.5  # bf16 has no number between 128 and 129
    assert last_layers(layers[1], layers, 2).dtype == torch.float32


def test_a_pooling_says_how_many_layers_it_reads() -> None:
    assert [layers_read(name) for name in VALID] == [1, 1, 1, 1, 2, 12]
    assert make_pooling("mean_last_4", 3) is POOLING["mean"]


# Attention


def attention(seed: int = 0) -> AttentionPooling:
    torch.manual_seed(seed)
    return AttentionPooling(3).double()


def attended_by_hand(pool: AttentionPooling, states: Tensor) -> list[list[float]]:
    (weights,) = pool.score.weight.tolist()
    result = []
    for row, length in enumerate(LENGTHS):
        tokens = states[row, :length].tolist()
        powers = [math.exp(sum(w * value for w, value in zip(weights, token, strict=True))) for token in tokens]
        result.append([sum(p * token[place] for p, token in zip(powers, tokens, strict=True)) / sum(powers)
                       for place in range(3)])  # fmt: skip
    return result


def test_attention_is_a_weighted_mean_of_real_tokens() -> None:
    pool = attention()
    torch.nn.init.normal_(pool.score.weight, std=3)
    states, mask = states_and_mask()
    by_hand = torch.tensor(attended_by_hand(pool, states), dtype=torch.float64)
    torch.testing.assert_close(pool(states, mask), by_hand, rtol=1e-12, atol=0)
    torch.testing.assert_close(pool(*states_and_mask(extra=9)), by_hand, rtol=1e-12, atol=0)
    plain = POOLING["mean"](states, mask)
    assert (by_hand - plain).abs().max() > 0.05
    torch.nn.init.zeros_(pool.score.weight)
    torch.testing.assert_close(pool(states, mask), plain, rtol=1e-12, atol=0)


def test_attention_gives_padding_no_gradient_and_learns() -> None:
    pool = attention()
    states, mask = states_and_mask()
    pool(states.requires_grad_(), mask).square().sum().backward()
    assert states.grad[mask == 0].abs().sum() == 0
    assert (states.grad[mask == 1] != 0).all()
    assert (pool.score.weight.grad != 0).all()


def test_attention_to_bf16_states_is_computed_in_float32_also_under_autocast() -> None:
    pool = attention().float()
    states, mask = states_and_mask(torch.bfloat16)
    pooled = pool(states, mask)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.tensor(attended_by_hand(pool, states.double())), rtol=1e-6, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pool(states, mask), pooled)


def test_attention_to_a_row_without_real_tokens_is_a_number() -> None:
    states, mask = states_and_mask()
    mask[2] = 0
    assert torch.isfinite(attention()(states, mask)).all()


def test_mean_of_a_row_without_real_tokens_is_zero() -> None:
    states, mask = states_and_mask()
    mask[2] = 0
    pooled = POOLING["mean"](states, mask)
    assert pooled[2].tolist() == [0, 0, 0]
    assert torch.isfinite(pooled).all()
