"""From the outputs of a head to its predictions. No torch: exported models use the same code.

A head type has a `Decoder` in its own file (`decode_<type>.py`), the only way from outputs to predictions: evaluation,
`predict`, the pipeline, the server and exports all use it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .spec import HeadSpec


class Prediction(NamedTuple):
    """A prediction for one row.

    Attributes:
        value: The prediction in the form of the task's labels: a name, a list of names, a tag per word, a number, ...
        scores: Its probabilities, if the type has them: of each label, or of the best tag of each word.
        log_probabilities: Logarithms of the probabilities of all labels of each word, (W, C), if they are not the
            softmax of the outputs.
    """

    value: Any
    scores: Any = None
    log_probabilities: Any = None


class Decoder:
    """Turns the outputs of one head into predictions.

    Attributes:
        kind: Name of the task type.
        spec_class: Class of the options of its head.
        answers_texts: Whether it makes predictions for raw texts, as all types with a decoder do.
        offsets: Whether it needs the character offsets of tokens.
        word_ids: Whether the head needs the word of each token.
        weights: Parameters of the head that decoding needs, by name; most types have none.

    Args:
        spec: The options of the head.
    """

    kind: ClassVar[str]
    spec_class: ClassVar[type[HeadSpec]] = HeadSpec
    answers_texts: ClassVar[bool] = True
    offsets: ClassVar[bool] = False
    word_ids: bool = False

    def __init__(self, spec: Any) -> None:
        self.weights: Mapping[str, np.ndarray] = {}

    def by_row(self, outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Group the outputs of a batch by row, (B, ...), as `Head.by_row` does. Most already have one entry per row.

        Args:
            outputs: Outputs of the head for each segment, (N, ...).
            batch: The batch (`texts.padded_batches`).
        """
        return outputs

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Turn outputs into predictions.

        Args:
            outputs: Outputs by row, (B, ...), in float32 or wider.
            columns: The encoded rows, as `encoding.encode` returns them, with `word_starts` or `offsets`.
        """
        raise NotImplementedError

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """A prediction as `MultiTaskModel.predict` returns it: by default its value.

        Args:
            prediction: A result of `decode`.
            text: The raw text.
            words: Character span of each word in `text`.
            top_k: How many labels to return, None for all; for types that choose among labels.
        """
        return prediction.value


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, in float64, in a form that cannot overflow."""
    return (1 + np.tanh(logits.astype(np.float64) / 2)) / 2


def first_segments(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """The number of the first segment of each row of a batch with `num_segments`, (B,)."""
    counts = batch["num_segments"]
    first: np.ndarray = np.cumsum(counts) - counts
    return first


def mean_by_row(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mean over the segments of each row: (N, ...) → (B, ...)."""
    if "num_segments" not in batch:
        return outputs
    counts = batch["num_segments"].reshape(-1, *[1] * (outputs.ndim - 1))
    return (np.add.reduceat(outputs, first_segments(batch)) / counts).astype(outputs.dtype)
