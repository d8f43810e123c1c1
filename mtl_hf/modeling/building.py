"""Create a model: around a pretrained encoder, or from another multi-task model.

Notable: a multi-task model is loaded completely, and the heads that are not kept are removed afterwards. Without
`pretrained` the model is built a second time, since its encoder may have another size. Functions here take the model
class as an argument, because `modeling_multitask.py` imports this file.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch

from .changes import add_tokens_to
from .configuration_multitask import MultiTaskConfig, own_config
from .encoders import check_fields, check_length, check_vocabulary, load_encoder, resize
from .experts import build_experts
from .package_path import resolve_path
from .tokenizing import WHERE, default_length, set_truncation_side
from .windows import TRUNCATE, WINDOW, check_stride, check_windows


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options of `MultiTaskModel.from_encoder`, where they are documented."""

    pooling: str | None
    max_length: int | None
    overflow: str | None
    stride: int | None
    truncation_side: str | None
    add_tokens: tuple[str, ...]
    attn_implementation: str | None
    encoder_config: dict[str, Any]
    pretrained: bool
    keep_heads: bool
    experts: dict[str, int] | None


def make_model(cls: Any, name: str, options: ModelOptions, kwargs: dict[str, Any]) -> Any:
    """Create a model from an encoder or from a multi-task model.

    Args:
        cls: `MultiTaskModel`.
        name: Hub id, local folder or `package:<python package>/<folder>`, of an encoder or of a multi-task model.
        options: The options of `from_encoder`.
        kwargs: Passed to every `from_pretrained` (`revision`, `token`, ...).

    Returns:
        The model in evaluation mode, as `from_pretrained` returns it.

    Raises:
        ValueError: As of `MultiTaskModel.from_encoder`.
    """
    name = resolve_path(name)
    own = own_config(name, **{key: kwargs[key] for key in WHERE if key in kwargs})
    if own is not None:
        model = _out_of_model(cls, name, own, options, kwargs)
    elif options.keep_heads:
        raise ValueError(f"{name!r} is not a multi-task model: it has no heads to keep.")
    else:
        model = _around_encoder(cls, name, options, kwargs)
    _set_overflow(model, options)
    add_tokens_to(model, options.add_tokens)
    return model


def _set_overflow(model: Any, options: ModelOptions) -> None:
    """Set how long texts are read, and check that the tokenizer and the heads of the model support it."""
    config, side = model.config, options.truncation_side
    if options.overflow not in (None, TRUNCATE, WINDOW):
        raise ValueError(f"`overflow` is {options.overflow!r}; valid are {TRUNCATE}, {WINDOW}.")
    if side not in (None, "right", "left"):
        raise ValueError(f"`truncation_side` is {side!r}; valid are right, left.")
    config.overflow = options.overflow or config.overflow
    if config.overflow == TRUNCATE:
        if options.stride is not None:
            raise ValueError(f"`stride` is {options.stride}, but long texts are truncated: add `overflow: window`, or"
                             " remove `stride`.")  # fmt: skip
        config.stride = None
        if side is not None:
            set_truncation_side(model.tokenizer, side)
        return
    if side is not None:
        raise ValueError(f"`truncation_side` is {side!r}, but with `overflow: window` texts are not truncated: remove"
                         " one of the two.")  # fmt: skip
    config.stride = config.stride if options.stride is None else options.stride
    check_stride(model.tokenizer, config.max_length, config.window_stride)
    for name, spec in config.heads.items():
        check_windows(name, spec, model.heads[name].windows)


def _around_encoder(cls: Any, name: str, options: ModelOptions, kwargs: dict[str, Any]) -> Any:
    """A model without heads around an encoder that `AutoModel` loads."""
    encoder, tokenizer = load_encoder(
        name, options.attn_implementation, options.encoder_config, options.pretrained, **kwargs
    )
    check_vocabulary(name, tokenizer, len(encoder.get_input_embeddings().weight))
    limit = check_length(name, options.max_length, tokenizer, encoder.config)
    text_config = encoder.config.to_dict()
    if os.path.isdir(name):
        text_config.pop("_name_or_path", None)  # a local path means nothing on other machines
    config = MultiTaskConfig(
        text_config=text_config,
        pooling=options.pooling or "mean",
        max_length=options.max_length or default_length(name, limit, **kwargs),
        encoder_attn_implementation=encoder.config._attn_implementation,
        experts=options.experts,
    )
    model = cls(config, encoder=encoder)
    model._tokenizer, model._origin = tokenizer, (name, kwargs)
    return model.eval()


def _out_of_model(cls: Any, name: str, config: MultiTaskConfig, options: ModelOptions, kwargs: dict[str, Any]) -> Any:
    """A model with the encoder of a saved multi-task model and, with `keep_heads`, its heads."""
    check_fields(options.encoder_config, config.text_config)
    if options.keep_heads and options.pooling not in (None, config.pooling):
        raise ValueError(
            f"`pooling` is {options.pooling!r}, but the heads of {name!r} were trained with {config.pooling!r}. Leave"
            " out `pooling`, or do not keep the heads (`keep_heads=False`)."
        )
    if options.keep_heads and options.experts and options.experts != config.experts:
        has = f"experts {config.experts}" if config.experts else "no experts"
        raise ValueError(
            f"`experts` is {options.experts}, but the heads of {name!r} were trained with {has}. Leave out `experts`,"
            " or load only the encoder (`model.keep: encoder`)."
        )
    for field, value in options.encoder_config.items() if options.pretrained else ():
        setattr(config.text_config, field, value)
    config.pooling = options.pooling or config.pooling
    config.encoder_attn_implementation = options.attn_implementation or config.encoder_attn_implementation
    model = cls.from_pretrained(name, config=config, dtype=torch.float32, **kwargs)
    check_vocabulary(name, model.tokenizer, len(model.get_input_embeddings().weight))
    check_length(name, options.max_length, model.tokenizer, config.text_config)
    own = model.config
    own.max_length = options.max_length or own.max_length
    if not options.keep_heads:
        for head in list(model.heads):
            model.remove_head(head)
        own.word_rules = None  # they belong to the heads
        own.experts = options.experts
        model.experts = build_experts(own.hidden_size, own.experts)
        if model.experts is not None:
            model.experts.apply(model._init_weights)
    if options.pretrained:
        return model
    resize(own.text_config, options.encoder_config)
    own.adapters = None  # with adapters, the encoder's random weights would stay frozen
    for spec in own.heads.values():
        spec.pop("adapter", None)
    fresh = cls(own)
    check_vocabulary(name, model.tokenizer, len(fresh.get_input_embeddings().weight))
    fresh._tokenizer, fresh._origin = model._tokenizer, model._origin
    return fresh.eval()
