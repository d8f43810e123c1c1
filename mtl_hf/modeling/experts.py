"""Experts between encoder and heads: small networks that all tasks share, and for each task a gate that mixes them.

Multi-gate mixture of experts (Ma et al., KDD 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts", section 4.2). Notable: the outputs of the experts are added to the encoder's states, and new
experts output zeros, so that a model starts as if it had none. As in the paper, a gate reads the whole input, here the
mean over its real tokens: all tokens of a row have the same mixture. The mean mixture over a task's rows shows which
experts the task uses. A gate is part of its head (`heads.<task>.gate`): it is trained, frozen, kept and renamed with
it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .pooling import mean_pooling


class ZeroLinear(nn.Linear):
    """A linear layer that `MultiTaskModel` initializes with zeros.

    A class of its own, because transformers does not call `_init_weights` on modules without own parameters, such as
    `Experts`.
    """


class Experts(nn.ModuleList):
    """K networks on token states: linear, GELU, and a linear layer that starts at zero.

    Args:
        hidden_size: Width of the states, H.
        num: How many, K.
        hidden: Width inside each.
    """

    def __init__(self, hidden_size: int, num: int, hidden: int) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(hidden_size, hidden), nn.GELU(), ZeroLinear(hidden, hidden_size))
            for _ in range(num)
        )

    def forward(self, states: Tensor) -> Tensor:
        """States (B, T, H) → the output of each expert for each token, (B, T, K, H)."""
        return torch.stack([expert(states) for expert in self], dim=2)


class Gate(nn.Module):
    """A task's mixture of experts for each row: the softmax of a linear layer on the mean of its real tokens.

    Args:
        hidden_size: Width of the states.
        num: How many experts, K.
    """

    def __init__(self, hidden_size: int, num: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, num, bias=False)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """States (B, T, H), mask (B, T) → weights that sum to 1, (B, K), in float32 or wider."""
        mean = mean_pooling(states, attention_mask)
        return (mean.unsqueeze(1) * self.score.weight).sum(-1).softmax(-1)  # not by the layer: autocast would round it


def mix(states: Tensor, expert_outputs: Tensor, gates: Tensor) -> Tensor:
    """The input of a task's head: the states plus the mixture of the experts' outputs.

    Args:
        states: Token states, (B, T, H).
        expert_outputs: Output of each expert, (B, T, K, H).
        gates: The task's weight of each expert, (B, K).

    Returns:
        (B, T, H) in the type of `states`.
    """
    return states + (gates[:, None, :, None] * expert_outputs).sum(2).to(states.dtype)


def check_experts(experts: dict[str, Any]) -> None:
    """Raise `ValueError` unless the keys are `num` (a whole number of at least 2) and `hidden` (at least 1)."""
    for key, least in (("num", 2), ("hidden", 1)):
        value = experts.get(key)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"`experts.{key}` is {value!r}; it should be a whole number of at least {least}.")
    if unknown := set(experts) - {"num", "hidden"}:
        raise ValueError(f"`experts` has the key {unknown.pop()!r}; valid are num and hidden.")


def build_experts(hidden_size: int, experts: dict[str, Any] | None) -> Experts | None:
    """Build the experts of `MultiTaskConfig.experts` for states of width `hidden_size`; None if there are none.

    Raises:
        ValueError: As of `check_experts`.
    """
    if not experts:
        return None
    check_experts(experts)
    return Experts(hidden_size, **experts)
