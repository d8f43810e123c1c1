"""Pooling: token states (B, T, H) and their attention mask (B, T) become one vector per row (B, H).

Notable: sums are computed in float32 also under bf16 autocast, and padding is ignored. Only `attention` has weights,
which belong to its head. Only `mean_last_<n>` reads more than the last hidden states (`layers_read`), so the encoder
returns its other layers only if a head needs them.
"""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


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


class AttentionPooling(nn.Module):
    """Weighted mean of the token states: a learned score per token, softmax over the real tokens of a row.

    Lin et al., A structured self-attentive sentence embedding (arXiv 1703.03130), with one row of attention and a
    linear score, since the states come from an encoder. With the small scores of a new head it is nearly the mean.

    Args:
        hidden_size: Width of the states.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)  # softmax does not feel a bias

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Shapes as in `mean_pooling`; scores and sums in float32 or wider."""
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        scores = (wide * self.score.weight[0]).sum(-1)  # without calling the layer: autocast would round to bf16
        weights = scores.masked_fill(attention_mask == 0, torch.finfo(wide.dtype).min).softmax(-1)
        return (weights.unsqueeze(-1) * wide).sum(1)


def pad_segments(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Split consecutive values into rows, padded with zeros.

    Args:
        values: (N, ...).
        lengths: How many belong to each row, (B,), N in total.

    Returns:
        The rows, (B, longest row, ...), and the mask of real values, (B, longest row).
    """
    mask = torch.arange(int(lengths.max()), device=values.device) < lengths[:, None]
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    padded[mask] = values
    return padded, mask


def make_window_pooling(name: str, hidden_size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Create a pooling of the vectors of a long text's windows, `mean` or `attention`; shapes as in `mean_pooling`.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in ("mean", "attention"):
        raise ValueError(f"`window_pooling` is {name!r}; valid are mean, attention.")
    return AttentionPooling(hidden_size) if name == "attention" else mean_pooling


def mean_of_windows(vectors: Tensor, num_windows: Tensor | None) -> Tensor:
    """The mean over the windows of each row: (N, H) → (B, H).

    Args:
        vectors: One for each window.
        num_windows: Number of windows of each row, (B,); None if each row has one.
    """
    if num_windows is None or len(num_windows) == len(vectors):
        return vectors
    return mean_pooling(*pad_segments(vectors, num_windows))


def layers_read(name: str) -> int:
    """How many of the encoder's last layers a pooling reads: n of `mean_last_<n>`, else 1."""
    return int(name.removeprefix("mean_last_")) if name.startswith("mean_last_") else 1


def last_layers(states: Tensor, hidden_states: Sequence[Tensor] | None, num_layers: int) -> Tensor:
    """The states that a head pools: the encoder's last hidden states, or the mean over its last layers.

    Args:
        states: The encoder's last hidden states, (B, T, H).
        hidden_states: The hidden states of all layers; not needed for one layer.
        num_layers: How many layers to average.

    Returns:
        (B, T, H); a mean is float32 or wider.
    """
    if num_layers == 1 or hidden_states is None:
        return states
    total = states.to(torch.promote_types(states.dtype, torch.float32))
    for layer in hidden_states[-num_layers:-1]:  # not the last one: it may lack the final norm that `states` has
        total = total + layer
    return total / num_layers


def check_pooling(name: str, num_layers: int | None = None) -> str:
    """Return `name` if it is a known pooling and the encoder has enough layers, else raise `ValueError`."""
    if not isinstance(name, str) or not (name in POOLING or re.fullmatch(r"attention|mean_last_[1-9][0-9]{,3}", name)):
        raise ValueError(f"`pooling` is {name!r}; valid are {', '.join(POOLING)}, attention, mean_last_<n>.")
    if name.startswith("mean_last_") and not 2 <= layers_read(name) <= (num_layers or layers_read(name)):
        most = "" if num_layers is None else f" and at most {num_layers}, the layers of this encoder"
        raise ValueError(f"`pooling` is {name!r}; the number of layers should be at least 2{most}.")
    return name


def make_pooling(name: str, hidden_size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Create a pooling by name, for states from `last_layers`; `attention` gets new weights.

    Raises:
        ValueError: The name is unknown.
    """
    if check_pooling(name) == "attention":
        return AttentionPooling(hidden_size)
    return POOLING.get(name, mean_pooling)  # `last_layers` has averaged over layers already
