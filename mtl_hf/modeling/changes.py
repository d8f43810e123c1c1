"""Add, remove and rename heads and adapters of a model.

Notable: modules and configuration change together, so a saved model always matches its configuration. An adapter is
removed with the last head that uses it. Arguments and errors are documented at the methods of `MultiTaskModel` that
call these functions.
"""

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from .adapters import SHARED, adapter_config, inject_adapter, merge_adapter, remove_adapters, rename_adapter
from .heads import check_head_name, head_class
from .pooling import check_pooling
from .reading import freeze_around_adapters
from .tokenizing import add_tokens, tokenizer_of_words
from .windows import WINDOW, check_windows

logger = logging.getLogger(__name__)

# ---- tokens ----


def add_tokens_to(model: Any, tokens: Sequence[str]) -> list[str]:
    """Add tokens to the vocabulary and resize the embeddings; return the new ones (`MultiTaskModel.add_tokens`)."""
    for token in tokens:
        if not isinstance(token, str) or not token or token != token.strip():
            raise ValueError(f"`add_tokens` has {token!r}; a token should have no space at its beginning or end.")
        if list(tokens).count(token) > 1:
            raise ValueError(f"`add_tokens` names {token!r} twice.")
    if not tokens:
        return []
    new = add_tokens(model.tokenizer, tokens)
    if known := [token for token in tokens if token not in new]:
        logger.info("`add_tokens`: the tokenizer already has %s; nothing is added for these.", ", ".join(known))
    if len(model.tokenizer) > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(len(model.tokenizer))
    if new:
        logger.info("%d new tokens: %s. Their embeddings have to be trained.", len(new), ", ".join(new))
    return new


# ---- heads ----


def add_head_to(
    model: Any, name: str, type: str, labels: Sequence[str] | None, text: str, options: dict[str, Any]
) -> nn.Module:
    """Add a head with random weights and return it (`MultiTaskModel.add_head`)."""
    check_head_name(name)
    if name in model.heads:
        raise ValueError(f"the model already has a head {name!r}.")
    config = model.config
    spec: dict[str, Any] = {"type": type, "text": head_class(type).form or text}
    if labels is not None:
        spec["labels"] = list(labels)
    spec |= {key: value for key, value in options.items() if value is not None}
    spec["num_steps"] = 0
    adapters = config.adapters or {}
    if "adapter" in spec and spec["adapter"] not in adapters:
        raise ValueError(
            f"`adapter` is {spec['adapter']!r}; the adapters of the model are: {', '.join(adapters) or 'none'}."
        )
    if config.overflow == WINDOW:
        check_windows(name, spec, head_class(type).windows)
    check_pooling(spec.get("pooling", config.pooling), model._num_layers)
    head: nn.Module = model._build_head(spec)
    first_of_words = not any(other["text"] == "words" for other in config.heads.values())
    if spec["text"] == "words" and first_of_words and model._origin is not None:
        where, settings = model._origin
        model._tokenizer = tokenizer_of_words(model.tokenizer, where, **{"trust_remote_code": False} | settings)
    head.apply(model._init_weights)
    model.heads[name] = head.to(model.device, model.dtype).train(model.training)
    config.heads[name] = spec
    return head


def remove_head_of(model: Any, name: str) -> nn.Module:
    """Remove a head, and its adapter if no other head uses it; return the head (`MultiTaskModel.remove_head`)."""
    _check_head(model, name)
    config = model.config
    head: nn.Module = model.heads.pop(name)
    adapter = config.heads.pop(name).get("adapter")
    adapters = config.adapters or {}
    if adapter in adapters and not any(spec.get("adapter") == adapter for spec in config.heads.values()):
        remove_adapters(model.encoder, adapter)
        config.adapters = {other: spec for other, spec in adapters.items() if other != adapter} or None
    model._warned_heads.discard(name)
    return head


def rename_head_of(model: Any, old: str, new: str) -> None:
    """Rename a head, and its adapter if that has the same name (`MultiTaskModel.rename_head`)."""
    _check_head(model, old)
    check_head_name(new)
    if new in model.heads:
        raise ValueError(f"the model already has a head {new!r}.")
    config = model.config
    if config.heads[old].get("adapter") == old:
        _rename_adapter(model, old, new)
    model.heads = nn.ModuleDict({new if name == old else name: head for name, head in model.heads.items()})
    config.heads = {new if name == old else name: spec for name, spec in config.heads.items()}
    model._warned_heads.discard(old)


def _check_head(model: Any, name: str) -> None:
    if name not in model.heads:
        raise ValueError(f"there is no head {name!r}; the heads are: {', '.join(model.heads) or 'none'}.")


# ---- adapters ----


def put_adapters_into(model: Any, spec: dict[str, Any], per_task: bool) -> None:
    """Freeze the encoder and put new adapters into it (`MultiTaskModel.adapt`)."""
    config = model.config
    if config.adapters:
        raise ValueError(
            f"`peft`: the model already has adapters ({', '.join(config.adapters)}): train those, or merge them into"
            " the encoder first (mtl-hf merge)."
        )
    adapter_config(spec)  # raises before anything is changed
    if per_task and (not model.heads or SHARED in model.heads):
        raise ValueError(
            f"`peft.per_task`: a task cannot be called {SHARED!r}, which is the name of the adapter of all heads."
            if model.heads
            else "`peft.per_task`: the model has no heads to give adapters to."
        )
    names = list(model.heads) if per_task else [SHARED]
    config.adapters = {name: inject_adapter(model.encoder, name, spec) for name in names}
    for name in model.heads if per_task else ():
        config.heads[name]["adapter"] = name
    freeze_around_adapters(model.encoder, config)


def merge_adapter_of(model: Any, task: str | None) -> None:
    """Add one adapter to the encoder's own weights (`MultiTaskModel.merge_adapters`)."""
    config = model.config
    if not config.adapters:
        raise ValueError("the model has no adapters to merge.")
    if task is not None:
        _check_head(model, task)
    elif list(config.adapters) != [SHARED]:
        raise ValueError(
            f"the model has several adapters ({', '.join(config.adapters)}), and only one can be merged into the"
            " encoder: choose it with `task`."
        )
    adapter = model.adapter_of(task)
    if adapter is None:
        raise ValueError(f"head {task!r} uses the encoder without an adapter: there is nothing to merge.")
    others = [name for name in model.heads if model.adapter_of(name) != adapter]
    merge_adapter(model.encoder, adapter)
    config.adapters = None
    for name in others:
        remove_head_of(model, name)
    for spec in config.heads.values():
        spec.pop("adapter", None)


def _rename_adapter(model: Any, old: str, new: str) -> None:
    config = model.config
    if new in (SHARED, *config.adapters):
        readers = [name for name, spec in config.heads.items() if spec.get("adapter") == new]
        whose = "all heads" if new == SHARED else f"head {readers[0]!r}"
        raise ValueError(
            f"head {old!r} has its own adapter, which is renamed with it, but {new!r} is already the name of the"
            f" adapter of {whose}: choose another name."
        )
    config.adapters = rename_adapter(model.encoder, config.adapters, old, new)
    for spec in config.heads.values():
        if spec.get("adapter") == old:
            spec["adapter"] = new
    freeze_around_adapters(model.encoder, config)
