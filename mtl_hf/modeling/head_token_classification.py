"""`token_classification`: a tag for each word, such as those of entities.

Notable: spans are read from BIO tags leniently, as in seqeval's default mode (an I- without its B- begins a span), so
that the returned entities are the ones that the metrics count. With `crf: true`, loss and predictions are those of the
whole sequence of words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from .alignment import align, check_alignment
from .crf import CRF
from .head import (
    EncoderShape,
    Head,
    HeadInputs,
    HeadLoss,
    Linear,
    Prediction,
    join_segments,
    softmax,
    wide,
)
from .imbalance import ImbalanceSpec, softmax_loss
from .tags import NO_TOKEN, bio_spans, is_span_scheme

_RAREST = 1e-12  # probability of a label that is not legal where it stands, in the cross-entropy


@dataclass(kw_only=True)
class TokenSpec(ImbalanceSpec):
    """Options of a token classification head.

    Attributes:
        alignment: How the states of a word's tokens become its state, one of `alignment.ALIGNMENTS`.
        crf: Whether a linear-chain CRF predicts the labels of a row together.
    """

    alignment: str = "first"
    crf: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alignment(self.alignment)
        for key in ("label_smoothing", "class_weights", "focal_loss", "logit_adjustment") if self.crf else ():
            if getattr(self, key):
                raise ValueError(f"`crf` cannot be combined with `{key}`, which changes the softmax loss.")


class TokenClassificationHead(Head):
    """Dropout, linear on every token. An item is a word with a label, at its first sub-word.

    Labels: (N, T) with the class id at the first sub-word of each word, `-100` elsewhere; with windows, a word has its
    label in one of them (`windows.window_starts`). For a CRF, words without a label have `UNLABELLED` at their first
    sub-word. Logits: (N, T, num_labels). A prediction is a list of tags, one per
    word, None for a word without tokens.
    """

    kind = "token_classification"
    spec_class = TokenSpec
    windows = True
    form = "words"

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        self.labels = spec.labels
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = Linear(encoder.hidden_size, len(spec.labels))
        self.spec = spec
        self.alignment = spec.alignment
        self.word_ids = spec.alignment != "first"
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

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Logits (B, T, num_labels) → the most likely tag of each word, and its probability (0 without tokens).

        Args:
            outputs: The logits.
            columns: `word_starts`: for each row the position of each word's first token, `NO_TOKEN` if it has none.
        """
        lengths = [len(starts) for starts in columns["word_starts"]]
        starts = np.array([start for row in columns["word_starts"] for start in row], dtype=int)
        by_word = outputs[np.repeat(np.arange(len(lengths)), lengths), np.maximum(starts, 0)]
        lost = starts == NO_TOKEN
        if self.crf is None:
            best, scores, logs = by_word.argmax(-1), np.where(lost, 0.0, softmax(by_word).max(-1)), None
        else:
            best, scores, logs = self._decode_rows(by_word, np.array(lengths, dtype=int), lost)
        tags = [None if gone else self.labels[index] for index, gone in zip(best.tolist(), lost.tolist(), strict=True)]
        ends = np.cumsum(lengths, dtype=int).tolist()
        return [
            Prediction(
                tags[end - length : end],
                scores[end - length : end],
                None if logs is None else logs[end - length : end],
            )
            for end, length in zip(ends, lengths, strict=True)
        ]

    def _decode_rows(
        self, by_word: np.ndarray, lengths: np.ndarray, lost: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best sequences of a CRF, the marginal probabilities of their tags, and the logarithms of all marginals.

        Args:
            by_word: Logits of the words of all rows, (P, C).
            lengths: Number of words of each row, (B,).
            lost: Whether a word has no token, (P,); such words are left out of the sequences.
        """
        assert self.crf is not None
        rows = np.repeat(np.arange(len(lengths)), lengths)[~lost]
        found, marginals = self.crf.decode(by_word[~lost], np.bincount(rows, minlength=len(lengths)))
        best, scores = np.zeros(len(lost), dtype=np.int64), np.zeros(len(lost))
        best[~lost], scores[~lost] = found, marginals[np.arange(len(found)), found]
        logs = np.zeros(by_word.shape)
        logs[~lost] = np.log(np.maximum(marginals, _RAREST))
        return best, scores, logs

    def beyond_stock(self) -> list[str]:
        """Alignment and CRF."""
        own = [f"alignment: {self.alignment}"] if self.alignment != "first" else []
        return [*super().beyond_stock(), *own, *(["crf: true"] if self.crf is not None else [])]

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """A list of entities, or of words if the labels are not BIO.

        Returns:
            `{"type", "text", "start", "end", "score"}` for each entity, with character offsets and the mean score of
            its words; or `{"label", "text", "start", "end", "score"}` for each word (label None and score 0 for a word
            without tokens).
        """
        tags, scores = prediction.value, prediction.scores
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
