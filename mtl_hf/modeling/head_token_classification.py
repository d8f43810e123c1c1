"""`token_classification`: a tag for each word, such as those of entities.

Notable: spans are read from BIO tags leniently, as in seqeval's default mode (an I- without its B- begins a span), so
that the returned entities are the ones that the metrics count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .head import (
    EncoderShape,
    Head,
    HeadInputs,
    HeadLoss,
    LabelledSpec,
    Linear,
    Prediction,
    cross_entropy,
    join_segments,
    softmax,
    wide,
)
from .tags import NO_TOKEN, bio_spans, is_span_scheme


class TokenClassificationHead(Head):
    """Dropout, linear on every token. An item is a word with a label, at its first sub-word.

    Labels: (N, T) with the class id at the first sub-word of each word, `-100` elsewhere; with windows, a word has its
    label in one of them (`windows.window_starts`). Logits: (N, T, num_labels). A prediction is a list of tags, one per
    word, None for a word without tokens.
    """

    kind = "token_classification"
    spec_class = LabelledSpec
    windows = True
    form = "words"

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.labels = spec.labels
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = Linear(encoder.hidden_size, len(spec.labels))
        self.label_smoothing = spec.label_smoothing

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H) → logits (N, T, num_labels); the mask is not used."""
        return self.classifier(self.dropout(wide(states)))

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the cross-entropy over labelled words, and their number."""
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), self.label_smoothing)

    def by_row(self, logits: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """The logits of each row's tokens, (B, L, num_labels), those of its windows one after the other."""
        if inputs is None or inputs.num_segments is None or inputs.attention_mask is None:
            return logits
        return join_segments(logits, inputs.attention_mask, inputs.num_segments)

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Logits (B, T, num_labels) → the most likely tag of each word, and its probability (0 without tokens).

        Args:
            outputs: The logits.
            columns: `word_starts`: for each row the position of each word's first token, `NO_TOKEN` if it has none.
        """
        lengths = [len(starts) for starts in columns["word_starts"]]
        starts = np.array([start for row in columns["word_starts"] for start in row], dtype=int)
        by_word = outputs[np.repeat(np.arange(len(lengths)), lengths), np.maximum(starts, 0)]
        best, lost = by_word.argmax(-1), starts == NO_TOKEN
        scores = np.where(lost, 0.0, softmax(by_word).max(-1))
        tags = [None if gone else self.labels[index] for index, gone in zip(best.tolist(), lost.tolist(), strict=True)]
        ends = np.cumsum(lengths, dtype=int).tolist()
        return [
            Prediction(tags[end - length : end], scores[end - length : end])
            for end, length in zip(ends, lengths, strict=True)
        ]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """A list of entities, or of words if the labels are not BIO.

        Returns:
            `{"type", "text", "start", "end", "score"}` for each entity, with character offsets and the mean score of
            its words; or `{"label", "text", "start", "end", "score"}` for each word (label None and score 0 for a word
            without tokens).
        """
        tags, scores = prediction
        if not is_span_scheme(self.labels):
            return [
                {"label": tag, "text": text[start:end], "start": start, "end": end, "score": float(score)}
                for tag, (start, end), score in zip(tags, words, scores, strict=True)
            ]
        return [
            {
                "type": span_type,
                "text": text[words[begin][0] : words[end - 1][1]],
                "start": words[begin][0],
                "end": words[end - 1][1],
                "score": float(scores[begin:end].mean()),
            }
            for span_type, begin, end in bio_spans(tags)
        ]
