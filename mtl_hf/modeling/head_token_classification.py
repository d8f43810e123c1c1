"""`token_classification`: a tag for each word, such as those of entities.

Notable: with `crf: true`, loss and predictions are those of the whole sequence of words.
"""

from typing import Any

import numpy as np
from torch import Tensor, nn

from .alignment import align
from .crf import CRF
from .decode_token_classification import TokenClassificationDecoder
from .head import EncoderShape, Head, HeadInputs, HeadLoss, Linear, join_segments, wide
from .imbalance import softmax_loss


class TokenClassificationHead(Head):
    """Dropout, linear on every token. An item is a word with a label, at its first sub-word.

    Labels: (N, T) with the class id at the first sub-word of each word, `-100` elsewhere; with windows, a word has its
    label in one of them (`windows.window_starts`). For a CRF, words without a label have `UNLABELLED` at their first
    sub-word. Logits: (N, T, num_labels). A prediction is a list of tags, one per
    word, None for a word without tokens.
    """

    decoder_class = TokenClassificationDecoder
    kind = decoder_class.kind
    spec_class = decoder_class.spec_class
    windows = True
    form = "words"

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = Linear(encoder.hidden_size, len(spec.labels))
        self.spec = spec
        self.alignment = spec.alignment
        self.crf = CRF(spec.labels) if spec.crf else None

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H) → logits (N, T, num_labels); the mask is not used."""
        aligned = align(wide(states), None if inputs is None else inputs.word_ids, self.alignment)
        return self.classifier(self.dropout(aligned))

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the cross-entropy (of a CRF: of the negative log-likelihood of rows), and number of labelled words."""
        if self.crf is not None:
            return self.crf.loss(logits, labels, None if inputs is None else inputs.num_segments)
        return softmax_loss(logits.flatten(0, 1), labels.flatten(), self.spec)

    def by_row(self, logits: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """The logits of each row's tokens, (B, L, num_labels), those of its windows one after the other."""
        if inputs is None or inputs.num_segments is None or inputs.attention_mask is None:
            return logits
        return join_segments(logits, inputs.attention_mask, inputs.num_segments)

    def decoding_weights(self) -> dict[str, np.ndarray]:
        """The scores of the CRF, if there is one."""
        crf = {} if self.crf is None else dict(self.crf.named_parameters())
        return {name: scores.detach().cpu().double().numpy() for name, scores in crf.items()}

    def beyond_stock(self) -> list[str]:
        """Alignment and CRF."""
        own = [f"alignment: {self.alignment}"] if self.alignment != "first" else []
        return [*super().beyond_stock(), *own, *(["crf: true"] if self.crf is not None else [])]
