"""`regression`: one number per text."""

from typing import Any

from torch import Tensor

from .decode_regression import RegressionDecoder
from .head import EncoderShape, HeadInputs, HeadLoss, Linear, PooledHead, wide


class RegressionHead(PooledHead):
    """Pool, dropout, linear, squared error. An item is a row with a number.

    Labels: (B,), NaN if missing. Logits: the predicted numbers, (B,).
    """

    decoder_class = RegressionDecoder
    kind = decoder_class.kind
    spec_class = decoder_class.spec_class
    windows = True

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.regressor = Linear(encoder.hidden_size, 1)

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → predictions (B,)."""
        return self.regressor(self.pooled(states, attention_mask, inputs)).squeeze(-1)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the squared error over rows with a number, and the number of these rows."""
        known = ~labels.isnan()
        predictions = wide(logits[known])
        error = predictions - labels[known].to(predictions.dtype)
        return HeadLoss(error.square().sum(), known.sum())
