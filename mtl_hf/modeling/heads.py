"""Heads: encoder states → one task's logits and loss.

Notable: a head knows what an *item* of its task is (a labelled row, a labelled word) and returns its loss as the sum
over items together with their number. Who calls it decides what to divide by: a batch on its own, or all batches and
ranks of an optimiser step. Labels that are absent are marked inside the tensor and add nothing. Heads compute in
float32 or wider, under autocast and with weights of half precision too: logits in bf16 have 8 significant bits, so that
a regression head would predict only a few distinct numbers.
"""

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .experts import Gate
from .pooling import layers_read, make_pooling

IGNORE_INDEX = -100  # an absent class label; also what the pads of token labels are


class HeadLoss(NamedTuple):
    """Sum of the loss over a batch's labelled items, and how many these are."""

    total: Tensor  # ()
    num_items: Tensor  # ()


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


def _wide(tensor: Tensor) -> Tensor:
    """A tensor in float32, or in its own type if that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class SequenceClassificationHead(nn.Module):
    """Pool, dropout, linear, softmax cross-entropy. An item is a row with a label.

    Labels: class ids (B,), `-100` where absent. Logits: (B, num_labels).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        labels: list[str],
        pooling: str = "mean",
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool = make_pooling(pooling, hidden_size)
        self.num_layers = layers_read(pooling)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(hidden_size, len(labels))
        self.label_smoothing = label_smoothing

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """States (B, T, H), mask (B, T) → logits (B, num_labels)."""
        return self.classifier(self.dropout(_wide(self.pool(states, attention_mask))))

    def loss(self, logits: Tensor, labels: Tensor) -> HeadLoss:
        """Sum of the cross-entropy over labelled rows, and their number."""
        return _cross_entropy(logits, labels, self.label_smoothing)


class MultiLabelClassificationHead(SequenceClassificationHead):
    """Pool, dropout, linear, a sigmoid a label. An item is a row with labels (an empty set is a label).

    The loss of a row is the mean over its labels, so that it weighs like any other task's.
    Labels: multi-hot (B, num_labels) with 0 and 1, `-100` in every place of a row without labels.
    """

    def loss(self, logits: Tensor, labels: Tensor) -> HeadLoss:
        """Sum over labelled rows of the mean binary cross-entropy over labels, and the number of rows."""
        known = labels[:, 0] != IGNORE_INDEX
        targets = labels[known].to(torch.promote_types(logits.dtype, torch.float32))
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        rows = F.binary_cross_entropy_with_logits(logits[known].to(targets.dtype), targets, reduction="none")
        return HeadLoss(rows.mean(1).sum(), known.sum())


class RegressionHead(nn.Module):
    """Pool, dropout, linear, squared error. An item is a row with a number.

    Labels: (B,), NaN where absent. Logits, the predicted numbers: (B,).
    """

    def __init__(self, hidden_size: int, *, pooling: str = "mean", dropout: float = 0.1) -> None:
        super().__init__()
        self.pool = make_pooling(pooling, hidden_size)
        self.num_layers = layers_read(pooling)
        self.dropout = nn.Dropout(dropout)
        self.regressor = Linear(hidden_size, 1)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """States (B, T, H), mask (B, T) → predictions (B,)."""
        return self.regressor(self.dropout(_wide(self.pool(states, attention_mask)))).squeeze(-1)

    def loss(self, logits: Tensor, labels: Tensor) -> HeadLoss:
        """Sum of the squared error over rows with a number, and how many these are."""
        known = ~labels.isnan()
        predictions = _wide(logits[known])
        error = predictions - labels[known].to(predictions.dtype)
        return HeadLoss(error.square().sum(), known.sum())


class TokenClassificationHead(nn.Module):
    """Dropout, linear on every token. An item is a word with a label, read at its first sub-word.

    Labels: (B, T) with the class id at the first sub-word of each word, `-100` elsewhere. Logits: (B, T, num_labels).
    """

    def __init__(
        self, hidden_size: int, *, labels: list[str], dropout: float = 0.1, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(hidden_size, len(labels))
        self.label_smoothing = label_smoothing

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """States (B, T, H) → logits (B, T, num_labels); the mask is not needed."""
        return self.classifier(self.dropout(_wide(states)))

    def loss(self, logits: Tensor, labels: Tensor) -> HeadLoss:
        """Sum of the cross-entropy over labelled words, and their number."""
        return _cross_entropy(logits.flatten(0, 1), labels.flatten(), self.label_smoothing)


class SentenceSimilarityHead(nn.Module):
    """Pool, dropout, scale to length 1: a vector a text, whose cosine with that of another says how alike they are.

    Texts of a pair go through the encoder one by one, as rows 2i and 2i + 1 of the batch. An item is a pair.

    - `loss: cosine`: squared error of the cosine against a score from 0 to 1 (Reimers and Gurevych, arXiv 1908.10084,
      section 3; `CosineSimilarityLoss` of sentence-transformers).
    - `loss: ranking`: cross-entropy of each first text's own second text among all second texts of the batch, by their
      cosines over `temperature` (multiple negatives, Henderson et al., arXiv 1705.00652, section 4). From first to
      second text only, as there and as its metrics count. The negatives are those of the batch that one process sees at
      once, so accumulated batches and processes do not add any. A second text equal to one's own is no negative.

    Labels: (B,) scores, for `ranking` any number; NaN where absent. Logits, the vectors: (2B, H) float32 or wider; of
    any number of single texts as many.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        pooling: str = "mean",
        loss: str = "cosine",
        temperature: float = 0.05,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if loss not in ("cosine", "ranking"):
            raise ValueError(f"`loss` is {loss!r}; valid are cosine, ranking.")
        if temperature <= 0:
            raise ValueError(f"`temperature` is {temperature}; it is above 0.")
        self.pool = make_pooling(pooling, hidden_size)
        self.num_layers = layers_read(pooling)
        self.dropout = nn.Dropout(dropout)
        self.ranking = loss == "ranking"
        self.temperature = temperature

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """States (N, T, H), mask (N, T) → vectors of length 1, (N, H)."""
        return F.normalize(self.dropout(_wide(self.pool(states, attention_mask))), dim=-1)

    def loss(self, logits: Tensor, labels: Tensor, texts: Tensor | None = None) -> HeadLoss:
        """Sum of the loss over pairs with a label, and how many these are.

        Args:
            logits: (2B, H).
            labels: (B,).
            texts: A number for each text, (2B,), the same for equal ones (`number_texts`); without them all count as
                different.
        """
        known = ~labels.isnan()
        vectors = _wide(logits)
        first, second = vectors[0::2][known], vectors[1::2][known]
        if not self.ranking:
            error = (first * second).sum(-1) - labels[known].to(first.dtype)
            return HeadLoss(error.square().sum(), known.sum())
        with torch.autocast(first.device.type, enabled=False):  # or their product would be rounded
            scores = first @ second.T / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        if texts is not None:
            seconds = texts[1::2][known]
            equal = (seconds[:, None] == seconds).fill_diagonal_(False)
            scores = scores.masked_fill(equal, -torch.inf)
        return HeadLoss(F.cross_entropy(scores, own, reduction="sum"), known.sum())

    def by_row(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """The two vectors of each pair, (B, 2, H)."""
        return logits.unflatten(0, (-1, 2))


def number_texts(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """A number for each text, (N,): the same for those with the same tokens.

    Args:
        input_ids: (N, T).
        attention_mask: (N, T), 0 for padding.
    """
    return input_ids.masked_fill(attention_mask == 0, -1).unique(dim=0, return_inverse=True)[1]


class MaskedLMHead(nn.Module):
    """Dense, GELU, LayerNorm, then every token of the vocabulary scored by its input embedding, plus a bias a token.

    Devlin et al., arXiv 1810.04805, section 3.1. The output layer is tied to the input embeddings (Press and Wolf,
    arXiv 1608.05859): the model hands their matrix over, so there is one of it in memory and in files. An item is a
    masked token.

    Labels: (B, T) with the ids that were masked, `-100` elsewhere. Logits: those of the N masked tokens alone, (N, V),
    where there are labels; else of all, (B, T, V).
    """

    def __init__(self, hidden_size: int, *, vocab_size: int, embedding_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(
        self, states: Tensor, attention_mask: Tensor, embeddings: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """States (B, T, H), embeddings (V, E) → logits; the mask is not needed."""
        if labels is not None:
            states = states[labels != IGNORE_INDEX]
        hidden = F.gelu(self.dense(states))
        weight, bias = self.norm.weight.to(hidden.dtype), self.norm.bias.to(hidden.dtype)
        normed = F.layer_norm(hidden, self.norm.normalized_shape, weight, bias, self.norm.eps)
        return wide_linear(normed, embeddings, self.bias)

    def loss(self, logits: Tensor, labels: Tensor) -> HeadLoss:
        """Sum of the cross-entropy over masked tokens, and their number."""
        return _cross_entropy(logits, labels[labels != IGNORE_INDEX], 0.0)

    def by_row(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Of each row the sum of -log p over its masked tokens, their number, and how many are right: (B, 3)."""
        if labels is None:
            return logits
        hidden = labels != IGNORE_INDEX
        scores, ids = _wide(logits), labels[hidden]
        losses = F.cross_entropy(scores, ids, reduction="none")
        found = torch.stack([losses, torch.ones_like(losses), (scores.argmax(-1) == ids).to(losses.dtype)], dim=1)
        return losses.new_zeros(len(labels), 3).index_add(0, hidden.nonzero()[:, 0], found)

    def resize(self, vocab_size: int) -> None:
        """Follow a change of the vocabulary: tokens at its end are new or gone."""
        bias = self.bias.new_zeros(vocab_size)
        kept = min(vocab_size, len(self.bias))
        bias[:kept] = self.bias.detach()[:kept]
        self.bias = nn.Parameter(bias)


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> HeadLoss:
    """Logits (N, C), labels (N,) → sum over labels that are not `-100`, in float32 or wider."""
    total = F.cross_entropy(
        _wide(logits),
        labels,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return HeadLoss(total, (labels != IGNORE_INDEX).sum())


def by_row(head: nn.Module, logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """What a head's logits say of each row of the data, (B, ...): what predictions are gathered and scored from.

    A head whose logits are not one a row has a method of this name.
    """
    own: Callable[..., Tensor] | None = getattr(head, "by_row", None)
    return logits if own is None else own(logits, labels)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "sequence_classification": SequenceClassificationHead,
    "multi_label_classification": MultiLabelClassificationHead,
    "regression": RegressionHead,
    "token_classification": TokenClassificationHead,
    "sentence_similarity": SentenceSimilarityHead,
    "masked_lm": MaskedLMHead,
}


def answers_texts(spec: Mapping[str, Any]) -> bool:
    """Whether a head of this specification says anything about a text; one of masked_lm fills in masked tokens."""
    return spec["type"] != "masked_lm"


_WITHOUT_LABELS = ("regression", "sentence_similarity", "masked_lm")

# What a head's specification holds besides the arguments of its class.
_NOT_ARGUMENTS = ("type", "text", "num_steps", "adapter")


def check_head_name(name: str) -> None:
    """Raise `ValueError` if `name` cannot be a head's: it becomes a module's name and part of metric names."""
    plain = name.replace("_", "").replace("-", "")
    # Letters, numbers, and the marks that some scripts write with them.
    if not plain or any(unicodedata.category(sign)[0] not in "LNM" for sign in plain):
        raise ValueError(f"a task cannot be called {name!r}: use letters, digits, `_` and `-` only.")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"a task cannot be called {name!r}: torch modules have an attribute of that name.")


def build_head(
    hidden_size: int,
    pooling: str,
    spec: dict[str, Any],
    embeddings: tuple[int, int] | None = None,
    num_experts: int = 0,
) -> nn.Module:
    """Make the head that `spec` (a value of `MultiTaskConfig.heads`) describes.

    Args:
        hidden_size: Width of the encoder's states.
        pooling: The model's pooling, for heads that pool and name none of their own.
        spec: `type`, `labels` where the type has them, and options of the head's class.
        embeddings: Shape of the input embeddings' matrix, for heads that are tied to it.
        num_experts: Of the model; with some a head has a `gate` over them.

    Raises:
        ValueError: Unknown type or option, or labels missing where they are needed.
    """
    if spec["type"] not in HEADS:
        raise ValueError(f"`type` is {spec['type']!r}; valid are {', '.join(HEADS)}.")
    options = {key: value for key, value in spec.items() if key not in _NOT_ARGUMENTS and value is not None}
    if spec["type"] == "masked_lm" and embeddings is not None:
        options |= {"vocab_size": embeddings[0], "embedding_size": embeddings[1]}
    elif spec["type"] not in ("token_classification", "masked_lm"):
        options.setdefault("pooling", pooling)
    if spec["type"] not in _WITHOUT_LABELS and not options.get("labels"):
        raise ValueError(f"a {spec['type']} head needs `labels`, a list of names.")
    try:
        head = HEADS[spec["type"]](hidden_size, **options)
    except TypeError as error:
        raise ValueError(f"a {spec['type']} head does not take these options: {error}.") from error
    if num_experts:
        head.gate = Gate(hidden_size, num_experts)
    return head
