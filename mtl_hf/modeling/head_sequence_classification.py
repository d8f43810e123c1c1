"""`sequence_classification`: one label per text."""

from typing import Any

from torch import Tensor

from .decode_sequence_classification import SequenceClassificationDecoder
from .head import EncoderShape, HeadInputs, HeadLoss, Linear, PooledHead
from .imbalance import softmax_loss


class SequenceClassificationHead(PooledHead):
    """Pool, dropout, linear, softmax cross-entropy. An item is a row with a label.

    Labels: class ids (B,), `-100` if missing. Logits: (B, num_labels). A prediction is the name of a label.
    """

    decoder_class = SequenceClassificationDecoder
    kind = decoder_class.kind
    spec_class = decoder_class.spec_class
    windows = True

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.classifier = Linear(encoder.hidden_size, len(spec.labels))
        self.label_smoothing = spec.label_smoothing
        self.spec = spec

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → logits (B, num_labels)."""
        return self.classifier(self.pooled(states, attention_mask, inputs))

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the cross-entropy (`imbalance.softmax_loss`) over labelled rows, and their number."""
        return softmax_loss(logits, labels, self.spec)
