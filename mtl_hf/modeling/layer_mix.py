"""A head's learnt mix of the encoder's layers: softmax weights times a scale (ELMo, arXiv 1802.05365, equation 1).

Notable: all weights start equal. A softmax weight learns in proportion to its size, so with a start near the last layer
the others would hardly move in a fine-tuning run; and from an equal start, the weights show what training preferred.
Sums are computed in float32 or wider.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization

LAYERS = ("last", "mix")


class LayerMix(nn.Module):
    """Weights of the embeddings' output and of each layer, and a scale.

    Args:
        num_states: Number of layers, and one for the embeddings' output.
    """

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_states))
        self.scale = nn.Parameter(torch.ones(1))

    def init_weights(self) -> None:
        """Equal weights, and a scale of 1."""
        initialization.zeros_(self.scores)
        initialization.ones_(self.scale)

    def weights(self) -> Tensor:
        """The weight of each layer, (L + 1,), in float32 or wider; they sum to 1."""
        return self.scores.to(torch.promote_types(self.scores.dtype, torch.float32)).softmax(0)

    def forward(self, hidden_states: Sequence[Tensor]) -> Tensor:
        """The output of the embeddings and of each layer, (B, T, H) each → their mix, (B, T, H)."""
        weights = self.weights() * self.scale.to(self.weights().dtype)
        total = weights[0] * hidden_states[0]
        for weight, states in zip(weights[1:], hidden_states[1:], strict=True):
            total = total + weight * states
        return total
