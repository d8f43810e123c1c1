"""Load a pretrained encoder and its tokenizer, apply changes to its configuration, and check both.

Notable: weights are float32 even if the checkpoint has half precision, in which small updates are lost to rounding. An
encoder that is not `pretrained` is built from its configuration, whose sizes may then be changed.
"""

from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from .checking import DAMAGED, check_sizes, explain
from .tokenizing import load_tokenizer, longest_input


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
        ValueError: The model is not an encoder of text, its tokenizer has no padding token, a field is unknown, a size
            is invalid, or the encoder runs remote code.
    """
    config = AutoConfig.from_pretrained(name, **kwargs)
    check_kind(name, config)
    tokenizer = load_tokenizer(name, **kwargs)
    if tokenizer.pad_token_id is None:
        generates = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        hint = f" {type(config).__name__} is of a model that generates text: choose an encoder." if generates else ""
        raise ValueError(f"the tokenizer of {name!r} has no padding token, so it cannot make batches.{hint}")
    check_fields(changes, config)
    auto = auto_class(config)
    chosen: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    if pretrained:
        try:
            encoder = auto.from_pretrained(name, **chosen, **changes, **kwargs)
        except DAMAGED as error:
            raise ValueError(f"{name!r} cannot be loaded: {explain(error)}") from error
    else:
        encoder = auto.from_config(resize(config, changes), **chosen)
    if type(encoder).__module__.startswith("transformers_modules."):
        raise ValueError(
            f"{name!r} runs remote code ({type(encoder).__name__}), which is not saved with a model: choose an encoder"
            " whose class is in transformers."
        )
    check_sees_both_sides(name, encoder, longest_input(tokenizer, encoder.config))
    return encoder, tokenizer


def auto_class(config: PreTrainedConfig) -> Any:
    """`AutoModel`, or for the configuration of an encoder-decoder such as T5 the auto class of its encoder alone."""
    # The field of the object is false once an encoder alone was saved; that of the class stays.
    both = getattr(type(config), "is_encoder_decoder", False)
    return AutoModelForTextEncoding if both and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel


def check_kind(name: str, config: PreTrainedConfig) -> None:
    """Raise `ValueError` if a configuration is of a model that cannot be an encoder of text, before it is loaded."""
    found: Any = MODEL_MAPPING.get(type(config), None)
    if not isinstance(found, type):  # code of its own, or a class without a plain model: AutoModel has the message
        return
    main_input = getattr(found, "main_input_name", "input_ids")
    if main_input != "input_ids":
        raise ValueError(
            f"{name!r} ({found.__name__}) reads `{main_input}`, not text: choose an encoder of text, such as BERT."
        )
    if config.is_encoder_decoder and auto_class(config) is AutoModel:
        raise ValueError(
            f"{name!r} ({found.__name__}) is an encoder-decoder, and transformers has no class for its encoder alone."
            " Choose an encoder, such as BERT; of T5, mT5 and UMT5 the encoder is used."
        )
    if missing := [field for field in ("hidden_size", "num_hidden_layers") if not hasattr(config, field)]:
        raise ValueError(
            f"{name!r} ({found.__name__}) cannot be used: its configuration has no `{missing[0]}`, as models of several"
            " parts do. Choose an encoder of text, such as BERT."
        )


def check_sees_both_sides(name: str, encoder: Any, limit: int) -> None:
    """Raise `ValueError` if the state of a token does not depend on the tokens after it, as in decoders.

    This runs the encoder on two short inputs that differ in the last token. Configurations do not tell: BERT can be a
    decoder, and Gemma an encoder.

    Args:
        name: Name of the encoder, for the message.
        encoder: The encoder.
        limit: The largest number of tokens that it supports.
    """
    length = min(8, limit)
    pad = encoder.config.pad_token_id
    first, other = [token for token in range(3) if token != pad][:2]
    input_ids = torch.full((2, length), first, device=encoder.device)
    input_ids[1, -1] = other
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        states = encoder(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state
    encoder.train(training)
    if torch.equal(states[0, 0], states[1, 0]):
        raise ValueError(
            f"{name!r} ({type(encoder).__name__}) is a decoder: the state of a token does not depend on the tokens"
            " after it, so heads would read an unfinished text. Choose an encoder, such as BERT or ModernBERT."
        )


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
