"""Tests of `mtl_hf.modeling.pooling`: each pooling against loops over real tokens, padding, half precision."""

import pytest
import torch
from torch import Tensor

from mtl_hf.modeling.pooling import POOLING, check_pooling

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


def test_unknown_pooling_is_refused_with_the_valid_ones() -> None:
    assert [check_pooling(name) for name in POOLING] == list(POOLING)
    with pytest.raises(ValueError, match="`pooling` is 'average'; valid are mean, cls, max"):
        check_pooling("average")


def test_mean_of_a_row_without_real_tokens_is_zero() -> None:
    states, mask = states_and_mask()
    mask[2] = 0
    pooled = POOLING["mean"](states, mask)
    assert pooled[2].tolist() == [0, 0, 0]
    assert torch.isfinite(pooled).all()
