"""A new model: made around a pretrained encoder, or out of another multi-task model.

Notable: a multi-task model is loaded whole, and what is not to be kept of it is taken out afterwards. One that is not
`pretrained` has to be built once more, since its encoder may be of another size. Functions here are handed the class
that they make a model of, so that this file does not import the one that imports it.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch

from .configuration_multitask import MultiTaskConfig, own_config
from .encoders import check_fields, check_length, check_vocabulary, load_encoder, resize
from .encoding import WHERE, default_length
from .experts import build_experts
from .package_path import resolve_path


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What `MultiTaskModel.from_encoder`, which describes each of these, was asked for."""

    pooling: str | None
    max_length: int | None
    attn_implementation: str | None
    encoder_config: dict[str, Any]
    pretrained: bool
    keep_heads: bool
    experts: dict[str, int] | None


def make_model(cls: Any, name: str, wishes: Wishes, options: dict[str, Any]) -> Any:
    """Make a model of what a name stands for.

    Args:
        cls: `MultiTaskModel`.
        name: Hub id, local folder or `package:<python package>/<folder>`, of an encoder or of a multi-task model.
        wishes: What it should be like.
        options: Handed to every `from_pretrained` (`revision`, `token`, ...).

    Returns:
        The model in evaluation mode, as `from_pretrained` has it.

    Raises:
        ValueError: As of `MultiTaskModel.from_encoder`.
    """
    name = resolve_path(name)
    own = own_config(name, **{key: options[key] for key in WHERE if key in options})
    if own is not None:
        return _out_of_model(cls, name, own, wishes, options)
    if wishes.keep_heads:
        raise ValueError(f"{name!r} is no multi-task model: it has no heads to keep.")
    return _around_encoder(cls, name, wishes, options)


def _around_encoder(cls: Any, name: str, wishes: Wishes, options: dict[str, Any]) -> Any:
    """A model without heads around an encoder that `AutoModel` loads."""
    encoder, tokenizer = load_encoder(
        name, wishes.attn_implementation, wishes.encoder_config, wishes.pretrained, **options
    )
    check_vocabulary(name, tokenizer, len(encoder.get_input_embeddings().weight))
    limit = check_length(name, wishes.max_length, tokenizer, encoder.config)
    text_config = encoder.config.to_dict()
    if os.path.isdir(name):
        text_config.pop("_name_or_path", None)  # a path of this machine says nothing to those who load the model
    config = MultiTaskConfig(
        text_config=text_config,
        pooling=wishes.pooling or "mean",
        max_length=wishes.max_length or default_length(name, limit, **options),
        encoder_attn_implementation=encoder.config._attn_implementation,
        experts=wishes.experts,
    )
    model = cls(config, encoder=encoder)
    model._tokenizer, model._origin = tokenizer, (name, options)
    return model.eval()


def _out_of_model(cls: Any, name: str, config: MultiTaskConfig, wishes: Wishes, options: dict[str, Any]) -> Any:
    """A model with the encoder of a saved multi-task model, whose configuration this is, and perhaps its heads."""
    check_fields(wishes.encoder_config, config.text_config)
    if wishes.keep_heads and wishes.pooling not in (None, config.pooling):
        raise ValueError(
            f"`pooling` is {wishes.pooling!r}, and the heads of {name!r}, which are kept, were trained with"
            f" {config.pooling!r}: leave it out, or `keep_heads`."
        )
    if wishes.keep_heads and wishes.experts and wishes.experts != config.experts:
        has = f"others ({config.experts})" if config.experts else "none"
        raise ValueError(
            f"`experts` is {wishes.experts}, but {name!r} has {has}, and its heads read what they were trained to read:"
            " leave `experts` out, or take the encoder alone (`model.keep: encoder`)."
        )
    for field, value in wishes.encoder_config.items() if wishes.pretrained else ():
        setattr(config.text_config, field, value)
    config.pooling = wishes.pooling or config.pooling
    config.encoder_attn_implementation = wishes.attn_implementation or config.encoder_attn_implementation
    model = cls.from_pretrained(name, config=config, dtype=torch.float32, **options)
    check_vocabulary(name, model.tokenizer, len(model.get_input_embeddings().weight))
    check_length(name, wishes.max_length, model.tokenizer, config.text_config)
    own = model.config
    own.max_length = wishes.max_length or own.max_length
    if not wishes.keep_heads:
        for head in list(model.heads):
            model.remove_head(head)
        own.experts = wishes.experts
        model.experts = build_experts(own.hidden_size, own.experts)
        if model.experts is not None:
            model.experts.apply(model._init_weights)
    if wishes.pretrained:
        return model
    resize(own.text_config, wishes.encoder_config)
    own.adapters = None  # they would be all that is trained, in an encoder that knows nothing
    for spec in own.heads.values():
        spec.pop("adapter", None)
    fresh = cls(own)
    check_vocabulary(name, model.tokenizer, len(fresh.get_input_embeddings().weight))
    fresh._tokenizer, fresh._origin = model._tokenizer, model._origin
    return fresh.eval()
