"""A pretrained encoder with its tokenizer, as a model is built around it: loaded, changed where asked for, checked.

Notable: weights are float32 in spite of what the checkpoint is in, since half-precision weights do not take small
updates. An encoder that is not `pretrained` is made of its configuration, which then may also be of other sizes.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedTokenizerBase

from .checking import DAMAGED, check_sizes, explain
from .encoding import load_tokenizer, longest_input


def load_encoder(
    name: str, attn_implementation: str | None, changes: dict[str, Any], pretrained: bool, **kwargs: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer.

    Args:
        name: Hub id or local folder of anything that `AutoModel` loads.
        attn_implementation: `sdpa`, `eager`, ...; None for transformers' own choice.
        changes: Fields of its configuration to change.
        pretrained: Whether to load its weights; else they are random.
        **kwargs: Handed to every `from_pretrained` (`revision`, `token`, `trust_remote_code`, ...).

    Raises:
        ValueError: A tokenizer without padding, an unknown field, a size that cannot be, or an encoder that runs code
            of its own.
    """
    tokenizer = load_tokenizer(name, **kwargs)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {name!r} has no padding token, so it cannot make batches.")
    config = AutoConfig.from_pretrained(name, **kwargs)
    check_fields(changes, config)
    chosen: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    if pretrained:
        try:
            encoder = AutoModel.from_pretrained(name, **chosen, **changes, **kwargs)
        except DAMAGED as error:
            raise ValueError(f"{name!r} cannot be loaded: {explain(error)}") from error
    else:
        encoder = AutoModel.from_config(resize(config, changes), **chosen)
    if type(encoder).__module__.startswith("transformers_modules."):
        raise ValueError(
            f"{name!r} runs code of its own ({type(encoder).__name__}), which a saved model would not have: choose"
            " an encoder that transformers knows."
        )
    return encoder, tokenizer


def check_fields(changes: dict[str, Any], config: Any) -> None:
    """Raise `ValueError` for a field to change that an encoder's configuration does not have, or an absurd size."""
    if unknown := [field for field in changes if not hasattr(config, field)]:
        raise ValueError(f"`encoder_config`: {unknown[0]!r} is no field of {type(config).__name__}.")
    check_sizes(changes, "encoder_config.")


def resize(config: PreTrainedConfig, changes: dict[str, Any]) -> PreTrainedConfig:
    """An encoder's configuration, changed in place to values that make an encoder.

    Raises:
        ValueError: A size that is no whole number above 0, or a width that the attention heads do not divide.
    """
    for field, value in changes.items():
        old = getattr(config, field)
        if isinstance(old, int) and not isinstance(old, bool) and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`encoder_config.{field}` is {value!r}; it is a whole number of at least 1.")
        setattr(config, field, value)
    width, num_heads = config.hidden_size, config.num_attention_heads
    if width % num_heads:
        raise ValueError(
            f"`encoder_config`: `hidden_size` is {width}, which its {num_heads} attention heads"
            " (`num_attention_heads`) do not divide."
        )
    return config


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> None:
    """Raise `ValueError` if a tokenizer has tokens that an encoder has no embedding for.

    Args:
        name: The encoder's, for the message.
        tokenizer: The encoder's.
        num_embeddings: Rows of its input embeddings.
    """
    if len(tokenizer) > num_embeddings:
        raise ValueError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens, but the encoder has embeddings for"
            f" {num_embeddings}: call its `resize_token_embeddings({len(tokenizer)})` and save it, or remove the"
            " tokens that were added."
        )


def check_length(name: str, max_length: int | None, tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """The most tokens that encoder and tokenizer can take.

    Args:
        name: The encoder's, for messages.
        max_length: What was asked for, None for nothing.
        tokenizer: The encoder's.
        config: The encoder's.

    Raises:
        ValueError: `max_length` is more than that, or less than 3.
    """
    limit = longest_input(tokenizer, config)
    if max_length is not None and not 3 <= max_length <= limit:
        raise ValueError(f"`max_length` is {max_length}; {name!r} takes 3 to {limit} tokens.")
    return limit
