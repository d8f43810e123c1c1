"""Base class of heads: encoder states → logits, loss and predictions of one task.

Notable: each task type defines its *item* (a labelled row, a labelled word). A head returns the sum of its loss over
items and their number, and the caller divides: by the items of one batch, or of all batches and ranks of an optimizer
step. Missing labels are marked inside the tensor and add nothing. Heads compute in float32 or wider, also under
autocast and with half-precision weights: bf16 logits have 8 significant bits, with which a regression head could
predict only a few distinct numbers.

A head type is a subclass in its own file (`head_<type>.py`). Its options and the way from its outputs to predictions
are in `decode_<type>.py`, without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .decoding import Decoder, Prediction
from .layer_mix import LayerMix
from .pooling import layers_read, make_pooling, make_window_pooling, pad_segments
from .spec import HeadSpec
from .tags import IGNORE_INDEX


class HeadLoss(NamedTuple):
    """Sum of the loss over the labelled items of a batch, and their number."""

    total: Tensor  # ()
    num_items: Tensor  # ()


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


class Head(nn.Module):
    """Base class of all heads.

    Attributes:
        decoder_class: Its `Decoder`, unless it has a `decode` of its own.
        kind: Name of the task type, in YAML, in `config.json` and in the name of its file.
        spec_class: Class of its specification.
        form: Form of text that it needs, one of `encoding.FORMS`; None if it reads strings, words and pairs.
        answers_texts: Whether it makes predictions for raw texts.
        offsets: Whether it needs the character offsets of tokens.
        num_layers: How many of the encoder's last layers it reads.
        word_ids: Whether it needs the word of each token.
        decoder: Its decoder.
        layer_mix: Its mix of the encoder's layers, or None.
        windows: Whether it can read a long text in several windows, which are the segments of a row.

    Args:
        spec: Its specification.
        encoder: Properties of the encoder.
    """

    decoder_class: ClassVar[type[Decoder]] = Decoder
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
        self.decoder: Any = self.decoder_class(spec)
        self.word_ids = self.decoder.word_ids
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
        """Turn outputs of `by_row` into predictions; see `Decoder.decode`."""
        self.decoder.weights = self.decoding_weights()
        predictions: list[Prediction] = self.decoder.decode(outputs, columns)
        return predictions

    def answer(
        self, prediction: Prediction, text: str = "", words: Sequence[tuple[int, int]] = (), top_k: int | None = 1
    ) -> Any:
        """A prediction as `MultiTaskModel.predict` returns it; see `Decoder.answer`."""
        return self.decoder.answer(prediction, text, words, top_k)

    def decoding_weights(self) -> dict[str, np.ndarray]:
        """The parameters that the decoder needs (`Decoder.weights`); none by default."""
        return {}

    def init_weights(self) -> None:
        """Initialize the parameters that the head holds itself, outside of torch layers."""

    def beyond_stock(self) -> list[str]:
        """The options of this head that no stock class of transformers computes, as they are written in YAML."""
        return [] if self.layer_mix is None else ["layers: mix"]

    def resize(self, vocab_size: int) -> None:
        """Adapt to a new size of the vocabulary, whose last tokens were added or removed."""


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
