"""Experts between encoder and heads: small networks that all tasks share, and for each task a gate that mixes them.

Multi-gate mixture of experts (Ma et al., KDD 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts", section 4.2). Notable: what experts say is added to the encoder's states, and new experts say
nothing, so that a model begins as if it had none; as in the paper a gate sees the whole input, here the mean over its
real tokens, so a row has one mixture for all its tokens, and the mean mixture of a task's rows says which experts it
uses. A gate is part of its head (`heads.<task>.gate`): it is trained, frozen, kept, renamed and idle with it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .pooling import mean_pooling


class Silent(nn.Linear):
    """A linear layer that `MultiTaskModel` begins at zero.

    A class of its own, because transformers does not hand `_init_weights` a module without parameters, as `Experts` is.
    """


class Experts(nn.ModuleList):
    """K networks on token states: linear, GELU, and a linear layer that begins at zero.

    Args:
        hidden_size: Width of the states, H.
        num: How many, K.
        hidden: Width inside each.
    """

    def __init__(self, hidden_size: int, num: int, hidden: int) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(hidden_size, hidden), nn.GELU(), Silent(hidden, hidden_size)) for _ in range(num)
        )

    def forward(self, states: Tensor) -> Tensor:
        """States (B, T, H) → what each expert says of each token, (B, T, K, H)."""
        return torch.stack([expert(states) for expert in self], dim=2)


class Gate(nn.Module):
    """A task's mixture of experts for each row: softmax of a linear score of the mean over its real tokens.

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


def mix(states: Tensor, said: Tensor, gates: Tensor) -> Tensor:
    """What a task's head reads: the states, and what the experts say of them in the task's mixture.

    Args:
        states: (B, T, H).
        said: By each expert, (B, T, K, H).
        gates: (B, K).

    Returns:
        (B, T, H) in the type of `states`.
    """
    return states + (gates[:, None, :, None] * said).sum(2).to(states.dtype)


def check_experts(experts: dict[str, Any]) -> None:
    """Raise `ValueError` if this is not `num` and `hidden`, both whole numbers, of which at least 2 and 1."""
    for key, least in (("num", 2), ("hidden", 1)):
        value = experts.get(key)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"`experts.{key}` is {value!r}; it is a whole number of at least {least}.")
    if unknown := set(experts) - {"num", "hidden"}:
        raise ValueError(f"`experts` has {unknown.pop()!r}; it has num and hidden.")


def build_experts(hidden_size: int, experts: dict[str, Any] | None) -> Experts | None:
    """The experts that `MultiTaskConfig.experts` describes, for states of that width; None for none.

    Raises:
        ValueError: As of `check_experts`.
    """
    if not experts:
        return None
    check_experts(experts)
    return Experts(hidden_size, **experts)
