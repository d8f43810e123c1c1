"""`token_classification`: its options, and the tag of each word.

Notable: spans are read from BIO tags leniently, as in seqeval's default mode (an I- without its B- begins a span), so
that the returned entities are the ones that the metrics count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decoding import Decoder, Prediction, first_segments, softmax
from .spec import ImbalanceSpec
from .tags import NO_TOKEN, bio_spans, check_alignment, is_span_scheme
from .viterbi import best_sequences

_RAREST = 1e-12  # probability of a label that is not legal where it stands, in the cross-entropy


@dataclass(kw_only=True)
class TokenSpec(ImbalanceSpec):
    """Options of a token classification head.

    Attributes:
        alignment: How the states of a word's tokens become its state, one of `tags.ALIGNMENTS`.
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


class TokenClassificationDecoder(Decoder):
    """A prediction is a list of tags, one per word, None for a word without tokens.

    With `crf: true`, `weights` has the scores of the CRF: `start`, `end` and `transitions`.
    """

    kind = "token_classification"
    spec_class = TokenSpec

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.labels: list[str] = spec.labels
        self.crf: bool = spec.crf
        self.word_ids = spec.alignment != "first"

    def by_row(self, outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The logits of each row's tokens, (B, L, num_labels), those of its windows one after the other."""
        if "num_segments" not in batch:
            return outputs
        mask = batch["attention_mask"].astype(bool)
        lengths = np.add.reduceat(mask.sum(1), first_segments(batch))
        real = np.arange(lengths.max()) < lengths[:, None]
        joined = np.zeros((*real.shape, outputs.shape[-1]), outputs.dtype)
        joined[real] = outputs[mask]
        return joined

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
        if not self.crf:
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
        rows = np.repeat(np.arange(len(lengths)), lengths)[~lost]
        counts = np.bincount(rows, minlength=len(lengths))
        found, marginals = best_sequences(by_word[~lost], counts, self.weights, self.labels)
        best, scores = np.zeros(len(lost), dtype=np.int64), np.zeros(len(lost))
        best[~lost], scores[~lost] = found, marginals[np.arange(len(found)), found]
        logs = np.zeros(by_word.shape)
        logs[~lost] = np.log(np.maximum(marginals, _RAREST))
        return best, scores, logs

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
