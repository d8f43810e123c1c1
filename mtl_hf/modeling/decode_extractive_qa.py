"""`extractive_qa`: its options, and the best span of each context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decoding import Decoder, Prediction, softmax
from .spec import HeadSpec

CONTEXT = 1  # the second text of a pair


@dataclass(kw_only=True)
class ExtractiveQASpec(HeadSpec):
    """Options of the head.

    Attributes:
        dropout: Dropout rate of the states.
        max_answer_length: Maximum length of an answer, in tokens.
    """

    dropout: float = 0.1
    max_answer_length: int = 30

    def __post_init__(self) -> None:
        if self.max_answer_length < 1:
            raise ValueError(f"`max_answer_length` is {self.max_answer_length}; it should be at least 1.")


class ExtractiveQADecoder(Decoder):
    """A prediction is (first character, character after the last) in the context, or None for no answer."""

    kind = "extractive_qa"
    spec_class = ExtractiveQASpec
    offsets = True

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.max_answer_length: int = spec.max_answer_length

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Logits (B, T, 2) → the best span of each context, or no answer if the first token scores higher.

        Args:
            outputs: The logits.
            columns: `offsets`: for each token of each row (text, first character, character after the last).
        """
        found = []
        for logits, offsets in zip(outputs, columns["offsets"], strict=True):
            texts, starts, ends = np.array(offsets, dtype=int).reshape(-1, 3).T
            places = np.flatnonzero(texts == CONTEXT)
            chances = softmax(logits[: len(texts)].T)  # (2, T)
            first, last, score = self._best(logits[places].astype(np.float64))
            if not len(places) or logits[0].astype(np.float64).sum() > score:
                found.append(Prediction(None, float(chances[:, 0].prod())))
                continue
            first, last = places[first], places[last]
            found.append(Prediction((int(starts[first]), int(ends[last])), float(chances[0, first] * chances[1, last])))
        return found

    def _best(self, logits: np.ndarray) -> tuple[int, int, float]:
        """First and last token of the best span of at most `max_answer_length` tokens, and the sum of its logits.

        Args:
            logits: Logits of the tokens of a context, (n, 2).
        """
        if not len(logits):
            return 0, 0, -np.inf
        totals = logits[:, 0][:, None] + logits[:, 1][None, :]
        length = np.arange(len(logits))[None, :] - np.arange(len(logits))[:, None]
        totals[(length < 0) | (length >= self.max_answer_length)] = -np.inf
        first, last = np.unravel_index(totals.argmax(), totals.shape)
        return int(first), int(last), float(totals[first, last])

    def answer(
        self, prediction: Prediction, text: Any = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """`{"text", "start", "end", "score"}` with offsets in the context; `""` and None for no answer."""
        start, end = prediction.value or (None, None)
        found = "" if prediction.value is None else text[1][start:end]
        return {"text": found, "start": start, "end": end, "score": prediction.scores}
