"""`extractive_qa`: the answer to a question as a span of a context, or no answer."""

from typing import Any

import torch
from torch import Tensor, nn

from .decode_extractive_qa import ExtractiveQADecoder
from .head import EncoderShape, Head, HeadInputs, HeadLoss, Linear, cross_entropy, wide


class ExtractiveQAHead(Head):
    """Dropout, linear: scores of each token as start and end of the answer; mean of both softmax cross-entropies.

    Devlin et al., arXiv 1810.04805, sections 4.2 and 4.3: if there is no answer, it starts and ends at the first token.
    An item is a row with a label.

    Labels: the first and the last token of the answer, (B, 2), both 0 for no answer, `-100` if the row has no label or
    the answer was truncated. Logits: (B, T, 2), the lowest number at padding. A prediction is (first character,
    character after the last) in the context, or None for no answer.
    """

    decoder_class = ExtractiveQADecoder
    kind = decoder_class.kind
    spec_class = decoder_class.spec_class
    form = "pair"
    offsets = decoder_class.offsets

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.dropout = nn.Dropout(spec.dropout)
        self.scorer = Linear(encoder.hidden_size, 2)

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (B, T, H), mask (B, T) → logits (B, T, 2)."""
        logits = self.scorer(self.dropout(wide(states)))
        return logits.masked_fill(attention_mask[..., None] == 0, torch.finfo(logits.dtype).min)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum over labelled rows of the mean of both cross-entropies, and the number of these rows."""
        (begin, num_items), (end, _) = (cross_entropy(logits[..., side], labels[:, side]) for side in (0, 1))
        return HeadLoss((begin + end) / 2, num_items)
