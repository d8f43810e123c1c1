"""Load a pretrained encoder and its tokenizer, apply changes to its configuration, and check both.

Notable: weights are float32 even if the checkpoint has half precision, in which small updates are lost to rounding. An
encoder that is not `pretrained` is built from its configuration, whose sizes may then be changed.
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
        attn_implementation: `sdpa`, `eager`, ...; None for the choice of transformers.
        changes: Fields of its configuration to override.
        pretrained: Whether to load its weights; otherwise they are random.
        **kwargs: Passed to every `from_pretrained` (`revision`, `token`, `trust_remote_code`, ...).

    Raises:
        ValueError: The tokenizer has no padding token, a field is unknown, a size is invalid, or the encoder runs
            remote code.
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
            f"{name!r} runs remote code ({type(encoder).__name__}), which is not saved with a model: choose an encoder"
            " whose class is in transformers."
        )
    return encoder, tokenizer


def check_fields(changes: dict[str, Any], config: Any) -> None:
    """Raise `ValueError` if the encoder's configuration does not have a field, or a size is out of bounds."""
    if unknown := [field for field in changes if not hasattr(config, field)]:
        raise ValueError(f"`encoder_config`: {unknown[0]!r} is not a field of {type(config).__name__}.")
    check_sizes(changes, "encoder_config.")


def resize(config: PreTrainedConfig, changes: dict[str, Any]) -> PreTrainedConfig:
    """Change an encoder's configuration in place, and check that an encoder can be built from it.

    Raises:
        ValueError: A size is not a whole number above 0, or the width is not divisible by the number of attention
            heads.
    """
    for field, value in changes.items():
        old = getattr(config, field)
        if isinstance(old, int) and not isinstance(old, bool) and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`encoder_config.{field}` is {value!r}; it should be a whole number of at least 1.")
        setattr(config, field, value)
    width, num_heads = config.hidden_size, config.num_attention_heads
    if width % num_heads:
        raise ValueError(
            f"`encoder_config`: `hidden_size` is {width}; it should be divisible by `num_attention_heads`, which is"
            f" {num_heads}."
        )
    return config


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> None:
    """Raise `ValueError` if a tokenizer has more tokens than the encoder has embeddings.

    Args:
        name: Name of the encoder, for the message.
        tokenizer: Its tokenizer.
        num_embeddings: Number of its input embeddings.
    """
    if len(tokenizer) > num_embeddings:
        raise ValueError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens, but the encoder has embeddings for"
            f" {num_embeddings}: call its `resize_token_embeddings({len(tokenizer)})` and save it, or remove the"
            " tokens that were added."
        )


def check_length(name: str, max_length: int | None, tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """The largest number of tokens that encoder and tokenizer support.

    Args:
        name: Name of the encoder, for messages.
        max_length: The requested maximum, or None.
        tokenizer: Its tokenizer.
        config: Its configuration.

    Raises:
        ValueError: `max_length` is above this number, or below 3.
    """
    limit = longest_input(tokenizer, config)
    if max_length is not None and not 3 <= max_length <= limit:
        raise ValueError(f"`max_length` is {max_length}; {name!r} supports 3 to {limit} tokens.")
    return limit
