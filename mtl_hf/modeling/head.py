"""Base class of heads: encoder states → logits, loss and predictions of one task.

Notable: each task type defines its *item* (a labelled row, a labelled word). A head returns the sum of its loss over
items and their number, and the caller divides: by the items of one batch, or of all batches and ranks of an optimizer
step. Missing labels are marked inside the tensor and add nothing. Heads compute in float32 or wider, also under
autocast and with half-precision weights: bf16 logits have 8 significant bits, with which a regression head could
predict only a few distinct numbers.

A head type is a subclass in its own file (`head_<type>.py`), with its options as a `HeadSpec`. Its `decode` is the only
way from logits to predictions: evaluation, `predict`, the pipeline and exports all use it.
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

from .layer_mix import LayerMix
from .pooling import layers_read, make_pooling, make_window_pooling, pad_segments
from .tags import IGNORE_INDEX


class HeadLoss(NamedTuple):
    """Sum of the loss over the labelled items of a batch, and their number."""

    total: Tensor  # ()
    num_items: Tensor  # ()


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


@dataclass(frozen=True)
class EncoderShape:
    """The properties of an encoder that heads are built with.

    Attributes:
        hidden_size: Width of the encoder's states, H.
        pooling: The model's pooling, the default of heads that pool.
        vocab_size: Number of input embeddings, V; 0 if no head is tied to them.
        embedding_size: Width of the input embeddings, E, which may differ from H.
        num_layers: Number of its layers; 0 if no head mixes them.
    """

    hidden_size: int
    pooling: str = "mean"
    vocab_size: int = 0
    embedding_size: int = 0
    num_layers: int = 0


@dataclass(frozen=True)
class HeadInputs:
    """Inputs of a head besides the encoder's states. The B rows of a batch have N segments in total.

    Attributes:
        input_ids: (N, T).
        attention_mask: (N, T).
        labels: Labels of the task, in the form that its head documents.
        embeddings: The matrix of input embeddings, (V, E).
        num_segments: Number of segments of each row, (B,); None if each row has one.
        word_ids: Number of each token's word, -1 for special tokens and padding, (N, T); None if no head needs it.
    """

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    embeddings: Tensor | None = None
    num_segments: Tensor | None = None
    word_ids: Tensor | None = None


@dataclass(kw_only=True)
class HeadSpec:
    """Options of a head: `to_dict()` is what `config.json` stores as `heads.<name>`.

    Attributes:
        type: Task type of the head.
        text: Form of the texts that it reads, one of `encoding.FORMS`.
        num_steps: Number of optimizer steps in which it had labels.
        adapter: Name of its adapter, if not the one of all heads.
        layers: `last` for the encoder's output, or `mix` for a learnt mix of all layers (`LayerMix`).
    """

    type: str
    text: str = "string"
    num_steps: int = 0
    adapter: str | None = None
    layers: str = "last"

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> typing.Self:
        """Read a specification. A key with the value None keeps its default.

        Raises:
            ValueError: An option is unknown, or a value has the wrong type.
        """
        values = {key: value for key, value in found.items() if value is not None}
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := [key for key in values if key not in known]:
            raise ValueError(
                f"a {found['type']} head does not take these options: {', '.join(unknown)}; valid are"
                f" {', '.join(sorted(known - {'type'}))}."
            )
        hints = typing.get_type_hints(cls)
        for key, value in values.items():
            _check_type(found["type"], key, value, hints[key])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain data, without values that are None."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(kw_only=True)
class LabelledSpec(HeadSpec):
    """A specification with a label vocabulary.

    Attributes:
        labels: Label names in the order of the logits.
        dropout: Dropout rate of the states.
        label_smoothing: Label smoothing of the loss.
    """

    labels: list[str] = dataclasses.field(default_factory=list)
    dropout: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError(f"a {self.type} head needs `labels`, a list of names.")


def _check_type(kind: str, key: str, value: Any, hint: Any) -> None:
    """Raise `ValueError` if a value does not have the type of its field: a plain type, a list, or an optional one."""
    parts = [hint] if typing.get_origin(hint) is list else typing.get_args(hint) or [hint]
    accepted = tuple(typing.get_origin(part) or part for part in parts)
    accepted += (int,) if float in accepted else ()
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        names = " or ".join(one.__name__ for one in accepted if one is not type(None))
        raise ValueError(f"a {kind} head takes {names} as `{key}`, not {value!r:.60}.")


class Head(nn.Module):
    """Base class of all heads.

    Attributes:
        kind: Name of the task type, in YAML, in `config.json` and in the name of its file.
        spec_class: Class of its specification.
        form: Form of text that it needs, one of `encoding.FORMS`; None if it reads strings, words and pairs.
        answers_texts: Whether it makes predictions for raw texts.
        offsets: Whether it needs the character offsets of tokens.
        num_layers: How many of the encoder's last layers it reads.
        word_ids: Whether it needs the word of each token.
        layer_mix: Its mix of the encoder's layers, or None.
        windows: Whether it can read a long text in several windows, which are the segments of a row.

    Args:
        spec: Its specification.
        encoder: Properties of the encoder.
    """

    kind: ClassVar[str]
    spec_class: ClassVar[type[HeadSpec]] = HeadSpec
    form: ClassVar[str | None] = None
    answers_texts: ClassVar[bool] = True
    offsets: ClassVar[bool] = False
    windows: ClassVar[bool] = False
    num_layers: int = 1
    word_ids: bool = False

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__()
        self.layer_mix: LayerMix | None = None

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """States (N, T, H), mask (N, T) → logits."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum of the loss over the labelled items of a batch, and their number."""
        raise NotImplementedError

    def by_row(self, logits: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """Group logits by row, (B, ...), as `decode` takes them. Most logits already have one entry per row."""
        return logits

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Turn outputs into predictions.

        Args:
            outputs: Result of `by_row`, (B, ...), in float32 or wider.
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

    def init_weights(self) -> None:
        """Initialize the parameters that the head holds itself, outside of torch layers."""

    def beyond_stock(self) -> list[str]:
        """The options of this head that no stock class of transformers computes, as they are written in YAML."""
        return [] if self.layer_mix is None else ["layers: mix"]

    def resize(self, vocab_size: int) -> None:
        """Adapt to a new size of the vocabulary, whose last tokens were added or removed."""


@dataclass(kw_only=True)
class PooledSpec(HeadSpec):
    """Options of a head that pools.

    Attributes:
        pooling: How the tokens of a segment are pooled; None for the pooling of the model.
        window_pooling: How the windows of a long text are pooled: `mean` or `attention`.
        dropout: Dropout rate of the pooled states.
    """

    pooling: str | None = None
    window_pooling: str = "mean"
    dropout: float = 0.1


class PooledHead(Head):
    """Base class of heads on whole texts: pooling and dropout. `spec` has `pooling` and `dropout`."""

    def __init__(self, spec: Any, encoder: EncoderShape) -> None:
        super().__init__(spec, encoder)
        pooling = spec.pooling or encoder.pooling
        self.pool = make_pooling(pooling, encoder.hidden_size)
        self.pool_windows = make_window_pooling(getattr(spec, "window_pooling", "mean"), encoder.hidden_size)
        self.num_layers = layers_read(pooling)
        self.dropout = nn.Dropout(spec.dropout)

    def pooled(self, states: Tensor, attention_mask: Tensor, inputs: HeadInputs | None = None) -> Tensor:
        """Pool the tokens of each segment, and then the windows of each row.

        Args:
            states: (N, T, H).
            attention_mask: (N, T).
            inputs: Given by heads with `windows`, for the number of windows of each row.

        Returns:
            (N, H), or (B, H) with `inputs`; float32 or wider.
        """
        vectors = wide(self.pool(states, attention_mask))
        num_windows = None if inputs is None else inputs.num_segments
        # With weights also where every row has one window: else they would have a gradient, and so momentum and decay
        # in the step, only if a row with a label shares its micro-batch with a row of several windows.
        learned = isinstance(self.pool_windows, nn.Module)
        if num_windows is not None and (learned or len(num_windows) < len(vectors)):
            vectors = self.pool_windows(*pad_segments(vectors, num_windows))
        return self.dropout(vectors)


def join_segments(values: Tensor, attention_mask: Tensor, num_segments: Tensor) -> Tensor:
    """Concatenate what the tokens of each row's segments have.

    Args:
        values: (N, T, ...).
        attention_mask: (N, T).
        num_segments: Number of segments of each row, (B,).

    Returns:
        (B, L, ...) for rows of at most L tokens; 0 where a row has fewer.
    """
    rows = torch.repeat_interleave(torch.arange(len(num_segments), device=values.device), num_segments)
    lengths = attention_mask.new_zeros(len(num_segments)).index_add(0, rows, attention_mask.sum(1))
    return pad_segments(values[attention_mask.bool()], lengths)[0]


class Linear(nn.Linear):
    """A linear layer that computes in float32 or wider, whatever the type of its weights and input."""

    def forward(self, states: Tensor) -> Tensor:
        """States (..., H_in) → (..., H_out), float32 or wider."""
        return wide_linear(states, self.weight, self.bias)


def wide_linear(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`torch.nn.functional.linear` in float32 or wider, also under autocast.

    Args:
        states: (..., H_in).
        weight: (H_out, H_in).
        bias: (H_out,).
    """
    dtype = torch.promote_types(torch.promote_types(states.dtype, weight.dtype), torch.float32)
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states.to(dtype), weight.to(dtype), bias.to(dtype))


def wide(tensor: Tensor) -> Tensor:
    """Convert a tensor to float32, unless its own type is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> HeadLoss:
    """Logits (N, C), labels (N,) → sum of the cross-entropy over labels that are not `-100`, in float32 or wider."""
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
