"""All head types by name, and how a head is built from its specification in `config.json`."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from torch import nn

from .experts import Gate
from .head import EncoderShape, Head
from .head_extractive_qa import ExtractiveQAHead
from .head_masked_lm import MaskedLMHead
from .head_multi_label_classification import MultiLabelClassificationHead
from .head_multiple_choice import MultipleChoiceHead
from .head_regression import RegressionHead
from .head_sentence_similarity import SentenceSimilarityHead
from .head_sequence_classification import SequenceClassificationHead
from .head_token_classification import TokenClassificationHead
from .layer_mix import LAYERS, LayerMix
from .registered_heads import REGISTERED
from .spec import HeadSpec

_OWN: tuple[type[Head], ...] = (
    SequenceClassificationHead,
    MultiLabelClassificationHead,
    RegressionHead,
    TokenClassificationHead,
    SentenceSimilarityHead,
    MultipleChoiceHead,
    ExtractiveQAHead,
    MaskedLMHead,
)
HEADS: dict[str, type[Head]] = {head.kind: head for head in (*_OWN, *REGISTERED)}


def head_class(kind: str) -> type[Head]:
    """The class of a head type.

    Raises:
        ValueError: The type is unknown.
    """
    if kind not in HEADS:
        raise ValueError(
            f"`type` is {kind!r}; valid are {', '.join(HEADS)}. To use a type of another package, import that package"
            " first."
        )
    return HEADS[kind]


def head_spec(found: Mapping[str, Any]) -> HeadSpec:
    """Read the specification that `MultiTaskConfig.heads` holds as plain data.

    Raises:
        ValueError: The type or an option is unknown, or labels are missing.
    """
    return head_class(found["type"]).spec_class.from_dict(found)


def answers_texts(spec: Mapping[str, Any]) -> bool:
    """Whether a head makes predictions for raw texts; a masked_lm head does not."""
    return head_class(spec["type"]).answers_texts


def check_head_name(name: str) -> None:
    """Raise `ValueError` if `name` is invalid for a head: it becomes the name of a module and part of metric names."""
    plain = name.replace("_", "").replace("-", "")
    # Letters, numbers, and the marks that some scripts write with them.
    if not plain or any(unicodedata.category(sign)[0] not in "LNM" for sign in plain):
        raise ValueError(f"a task cannot be called {name!r}: use letters, digits, `_` and `-` only.")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"a task cannot be called {name!r}: torch modules have an attribute of this name.")


def build_head(spec: Mapping[str, Any], encoder: EncoderShape, num_experts: int = 0) -> Head:
    """Build a head from its specification, a value of `MultiTaskConfig.heads`.

    Args:
        spec: `type`, `labels` if the type has labels, and options of the type.
        encoder: Properties of the encoder.
        num_experts: Number of experts of the model; above 0, the head gets a `gate` over them.

    Raises:
        ValueError: As in `head_spec`; or its `layers` are invalid, or cannot be mixed.
    """
    head = head_class(spec["type"])(head_spec(spec), encoder)
    if (layers := spec.get("layers") or "last") != "last":
        _add_layer_mix(head, layers, encoder)
    if num_experts:
        head.gate = Gate(encoder.hidden_size, num_experts)
    return head


def _add_layer_mix(head: Head, layers: str, encoder: EncoderShape) -> None:
    """Let a head read a mix of all layers."""
    if layers not in LAYERS:
        raise ValueError(f"`layers` is {layers!r}; valid are {', '.join(LAYERS)}.")
    if head.num_layers > 1:
        raise ValueError("`layers: mix` and `pooling: mean_last_<n>` both choose layers: use only one of them.")
    if not encoder.num_layers:
        raise ValueError("`layers: mix` needs an encoder whose configuration has `num_hidden_layers`.")
    head.layer_mix = LayerMix(encoder.num_layers + 1)
    head.num_layers = encoder.num_layers + 1
