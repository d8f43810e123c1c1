"""What every head is: encoder states → the logits, the loss and the predictions of one task.

Notable: a head knows what an *item* of its task is (a labelled row, a labelled word) and returns its loss as the sum
over items together with their number. Who calls it decides what to divide by: a batch on its own, or all batches and
ranks of an optimiser step. Labels that are absent are marked inside the tensor and add nothing. Heads compute in
float32 or wider, under autocast and with weights of half precision too: logits in bf16 have 8 significant bits, so that
a regression head would predict only a few distinct numbers.

A head type is a subclass in a file of its own (`head_<type>.py`), with its options as a `HeadSpec`. Its `decode` is the
only way from logits to predictions: evaluation, `predict`, the pipeline and exports all use it.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pooling import layers_read, make_pooling
from .tags import IGNORE_INDEX


class HeadLoss(NamedTuple):
    """Sum of the loss over a batch's labelled items, and how many these are."""

    total: Tensor  # ()
    num_items: Tensor  # ()


class Prediction(NamedTuple):
    """What a head predicts for one row.

    Attributes:
        value: In the form of the task's labels: a name, a list of names, a tag for each word, a number, ...
        scores: The probabilities behind it, where the type has them: of each label, or of each word's best one.
    """

    value: Any
    scores: Any = None


@dataclass(frozen=True)
class EncoderShape:
    """What a head is built on.

    Attributes:
        hidden_size: Width of the encoder's states, H.
        pooling: The model's pooling, for heads that pool and name none of their own.
        vocab_size: Rows of the matrix of input embeddings, V; 0 where nothing is tied to it.
        embedding_size: Its width, E, which need not be H.
    """

    hidden_size: int
    pooling: str = "mean"
    vocab_size: int = 0
    embedding_size: int = 0


@dataclass(frozen=True)
class HeadInputs:
    """What a head may read of a batch beside the encoder's states. B rows have N segments in all.

    Attributes:
        input_ids: (N, T).
        attention_mask: (N, T).
        labels: The task's own, in the form that its head documents.
        embeddings: The matrix of input embeddings, (V, E).
        num_segments: Segments of each row, (B,); None where each row is one.
    """

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    embeddings: Tensor | None = None
    num_segments: Tensor | None = None


@dataclass(kw_only=True)
class HeadSpec:
    """A head as `config.json` holds it: `MultiTaskConfig.heads[name]` is `to_dict()` of one.

    Attributes:
        type: The type of its head.
        text: How it reads a text, one of `encoding.FORMS`.
        num_steps: Optimiser steps in which it had labels.
        adapter: The adapter that the encoder runs with for it, where that is not the one of all heads.
    """

    type: str
    text: str = "string"
    num_steps: int = 0
    adapter: str | None = None

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> typing.Self:
        """Read a specification; keys whose value is None keep their default.

        Raises:
            ValueError: An option that the type does not have, or a value of the wrong type.
        """
        values = {key: value for key, value in found.items() if value is not None}
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := [key for key in values if key not in known]:
            raise ValueError(
                f"a {found['type']} head does not take these options: {', '.join(unknown)}; it takes"
                f" {', '.join(sorted(known - {'type'}))}."
            )
        hints = typing.get_type_hints(cls)
        for key, value in values.items():
            _check_type(found["type"], key, value, hints[key])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain data, without what is None."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(kw_only=True)
class LabelledSpec(HeadSpec):
    """A specification with a label vocabulary.

    Attributes:
        labels: Names of the labels in the order of the logits.
        dropout: Share of the states that is dropped in training.
        label_smoothing: Share of each label that is spread over all labels.
    """

    labels: list[str] = dataclasses.field(default_factory=list)
    dropout: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError(f"a {self.type} head needs `labels`, a list of names.")


def _check_type(kind: str, key: str, value: Any, hint: Any) -> None:
    """Raise `ValueError` if a value is not of the type of its field: a plain type, a list, or one of these or None."""
    parts = [hint] if typing.get_origin(hint) is list else typing.get_args(hint) or [hint]
    accepted = tuple(typing.get_origin(part) or part for part in parts)
    accepted += (int,) if float in accepted else ()
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        names = " or ".join(one.__name__ for one in accepted if one is not type(None))
        raise ValueError(f"a {kind} head takes {names} as `{key}`, not {value!r:.60}.")


class Head(nn.Module):
    """Base of all heads.

    Attributes:
        kind: The name of its type: of its file, in YAML and in `config.json`.
        spec_class: The class of its specification.
        form: The form of text that it needs, one of `encoding.FORMS`; None where it reads strings, words and pairs.
        answers_texts: Whether it predicts something for a raw text.
        offsets: Whether it needs the character offsets of tokens.
        num_layers: How many of the encoder's last layers it reads.

    Args:
        spec: Its specification.
        encoder: What it is built on.
    """

    kind: ClassVar[str]
    spec_class: ClassVar[type[HeadSpec]] = HeadSpec
    form: ClassVar[str | None] = None
    answers_texts: ClassVar[bool] = True
    offsets: ClassVar[bool] = False
    num_layers: int = 1

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__()

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → logits."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the loss over the labelled items of a batch, and how many these are."""
        raise NotImplementedError

    def by_row(self, logits: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """The outputs of each row of the data, (B, ...): what `decode` reads. Most logits are one a row already."""
        return logits

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Outputs → predictions.

        Args:
            outputs: Of `by_row`, (B, ...), in float32 or wider.
            columns: The encoded rows, as `encoding.encode` returns them: where words begin, where tokens are in the
                text.
        """
        raise NotImplementedError

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """A prediction as `MultiTaskModel.predict` answers it: by default its value.

        Args:
            prediction: Of `decode`.
            text: The raw text, for what is cut out of it.
            words: Character span of each word in `text`.
            top_k: How many labels of a text to answer, None for all; for types that choose among labels.
        """
        return prediction.value

    def init_weights(self) -> None:
        """Initialise the parameters that no layer of torch holds."""

    def resize(self, vocab_size: int) -> None:
        """Follow a change of the vocabulary, whose last tokens are new or gone."""


@dataclass(kw_only=True)
class PooledSpec(HeadSpec):
    """Options of a head that pools. The default of `pooling` is the model's."""

    pooling: str | None = None
    dropout: float = 0.1


class PooledHead(Head):
    """Pool and drop out: what heads of whole texts begin with. `spec` has `pooling` and `dropout`."""

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        pooling = spec.pooling or encoder.pooling
        self.pool = make_pooling(pooling, encoder.hidden_size)
        self.num_layers = layers_read(pooling)
        self.dropout = nn.Dropout(spec.dropout)

    def pooled(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """States (N, T, H), mask (N, T) → vectors (N, H), float32 or wider."""
        return self.dropout(wide(self.pool(states, attention_mask)))


class Linear(nn.Linear):
    """A linear layer that computes in float32 or wider, whatever its weights and its input are in."""

    def forward(self, states: Tensor) -> Tensor:
        """States (..., H_in) → (..., H_out), float32 or wider."""
        return wide_linear(states, self.weight, self.bias)


def wide_linear(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `torch.nn.functional.linear`, in float32 or wider, also under autocast.

    Args:
        states: (..., H_in).
        weight: (H_out, H_in).
        bias: (H_out,).
    """
    dtype = torch.promote_types(torch.promote_types(states.dtype, weight.dtype), torch.float32)
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states.to(dtype), weight.to(dtype), bias.to(dtype))


def wide(tensor: Tensor) -> Tensor:
    """A tensor in float32, or in its own type if that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> HeadLoss:
    """Logits (N, C), labels (N,) → sum over labels that are not `-100`, in float32 or wider."""
    total = F.cross_entropy(
        wide(logits),
        labels,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return HeadLoss(total, (labels != IGNORE_INDEX).sum())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, in float64, in a form that cannot overflow."""
    return (1 + np.tanh(logits.astype(np.float64) / 2)) / 2
