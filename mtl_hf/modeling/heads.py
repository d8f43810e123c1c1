"""All types of heads by name, and how one is built from its specification in `config.json`."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from torch import nn

from .experts import Gate
from .head import EncoderShape, Head, HeadSpec
from .head_extractive_qa import ExtractiveQAHead
from .head_masked_lm import MaskedLMHead
from .head_multi_label_classification import MultiLabelClassificationHead
from .head_multiple_choice import MultipleChoiceHead
from .head_regression import RegressionHead
from .head_sentence_similarity import SentenceSimilarityHead
from .head_sequence_classification import SequenceClassificationHead
from .head_token_classification import TokenClassificationHead
from .registered_heads import REGISTERED

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
    """The class of a type of head.

    Raises:
        ValueError: There is no such type.
    """
    if kind not in HEADS:
        raise ValueError(
            f"`type` is {kind!r}; valid are {', '.join(HEADS)}. A type of another package is known once that package is"
            " imported."
        )
    return HEADS[kind]


def head_spec(found: Mapping[str, Any]) -> HeadSpec:
    """The specification that `MultiTaskConfig.heads` holds as plain data.

    Raises:
        ValueError: An unknown type or option, or labels missing where they are needed.
    """
    return head_class(found["type"]).spec_class.from_dict(found)


def answers_texts(spec: Mapping[str, Any]) -> bool:
    """Whether a head of this specification predicts something for a raw text; one of masked_lm does not."""
    return head_class(spec["type"]).answers_texts


def check_head_name(name: str) -> None:
    """Raise `ValueError` if `name` cannot be a head's: it becomes a module's name and part of metric names."""
    plain = name.replace("_", "").replace("-", "")
    # Letters, numbers, and the marks that some scripts write with them.
    if not plain or any(unicodedata.category(sign)[0] not in "LNM" for sign in plain):
        raise ValueError(f"a task cannot be called {name!r}: use letters, digits, `_` and `-` only.")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"a task cannot be called {name!r}: torch modules have an attribute of that name.")


def build_head(spec: Mapping[str, Any], encoder: EncoderShape, num_experts: int = 0) -> Head:
    """Make the head that `spec` (a value of `MultiTaskConfig.heads`) describes.

    Args:
        spec: `type`, `labels` where the type has them, and options of the type.
        encoder: What it is built on.
        num_experts: Of the model; with some the head has a `gate` over them.

    Raises:
        ValueError: As of `head_spec`.
    """
    head = head_class(spec["type"])(head_spec(spec), encoder)
    if num_experts:
        head.gate = Gate(encoder.hidden_size, num_experts)
    return head
