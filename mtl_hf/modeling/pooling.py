"""Pooling: token states (B, T, H) and their attention mask (B, T) become one vector a row (B, H).

Notable: sums are taken in float32 also under bf16 autocast, and padding never takes part.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def mean_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over real tokens, special ones included (as sentence-transformers does).

    Args:
        states: Token states, (B, T, H).
        attention_mask: 1 for real tokens, 0 for padding, (B, T).

    Returns:
        (B, H), float32 or wider.
    """
    mask = attention_mask.unsqueeze(-1).to(torch.promote_types(states.dtype, torch.float32))
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


def cls_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """State of the first token; inputs are padded on the right. Shapes as in `mean_pooling`."""
    return states[:, 0]


def max_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Largest value of each dimension over real tokens. Shapes as in `mean_pooling`."""
    return states.masked_fill(attention_mask.unsqueeze(-1) == 0, torch.finfo(states.dtype).min).amax(1)


POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_pooling,
    "cls": cls_pooling,
    "max": max_pooling,
}


def check_pooling(name: str) -> str:
    """Return `name` if it is a known pooling, else raise `ValueError`."""
    if name not in POOLING:
        raise ValueError(f"`pooling` is {name!r}; valid are {', '.join(POOLING)}.")
    return name
