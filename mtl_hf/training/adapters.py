"""Adapters in training: which settings they exclude, which of them are not trained, and that each of them learns.

Notable: an adapter that the encoder does not use would be saved and reported although it has no effect. One small batch
without dropout detects it: a parameter that the hidden states do not depend on has no gradient. (A gradient of zero is
no evidence: LoRA's first matrix has one in the first step, because the second matrix starts at zero.)
"""

import logging
from collections.abc import Collection, Iterable
from typing import Any

import torch

from ..modeling.adapters import SHARED
from ..modeling.modeling_multitask import MultiTaskModel
from .arguments import MultiTaskTrainingArguments
from .optimizer import Part, adapters_part

logger = logging.getLogger(__name__)


def idle_adapters(model: MultiTaskModel, only_scored: Collection[str]) -> list[str]:
    """Parts of adapters that are used only by heads that are not trained.

    Args:
        model: The model.
        only_scored: Tasks with `train: false`.
    """
    heads = model.config.heads
    trained = {spec.get("adapter") for name, spec in heads.items() if name not in only_scored}
    idle = {heads[name].get("adapter") for name in only_scored} - trained
    return [adapters_part(adapter) for adapter in model.config.adapters or () if adapter in idle]


def check_adapters(model: MultiTaskModel, parts: Iterable[Part], args: MultiTaskTrainingArguments) -> None:
    """Check that training changes all adapters. Weights, gradients and random state are left unchanged.

    Args:
        model: A model with adapters.
        parts: The result of `find_parts`, with frozen parts frozen.
        args: The training arguments.

    Raises:
        ValueError: The encoder does not use an adapter or a part of it, or a setting cannot be used with adapters.
    """
    adapters: dict[str, Any] = model.config.adapters or {}
    excluded = {
        "layerwise_lr_decay": (
            args.layerwise_lr_decay != 1,
            "applies to encoder layers, which are frozen when adapters are trained (set it to 1)",
        ),
        "unfreeze": (
            args.unfreeze is not None,
            "unfreezes encoder layers, which stay frozen when adapters are trained",
        ),
        "frozen_cache": (
            args.frozen_cache is not None,
            "stores the outputs of frozen layers, and adapters change them",
        ),
    }
    if SHARED not in adapters:
        nothing = (
            "needs trained parameters that tasks share, and with one adapter per task they share none in the encoder"
        )
        if model.config.experts:
            nothing += " (experts are shared, but each task's adapter is not)"
        excluded["gradient_aggregation"] = (args.gradient_aggregation is not None, nothing)
        excluded["log_gradient_conflicts"] = (bool(args.log_gradient_conflicts), nothing)
    for setting, (given, reason) in excluded.items():
        if given:
            raise ValueError(f"`training.{setting}` {reason}: remove it, or train without `model.peft`.")
    if args.activation_checkpointing and len({model.adapter_of(name) for name in model.heads}) > 1:
        raise ValueError(
            f"`activation_checkpointing` runs the encoder again in the backward pass, and would use the last adapter"
            f" for all ({', '.join(adapters)}): remove it, or share one adapter."
        )
    trained = {part.name: part for part in parts if not part.frozen}
    for adapter, spec in adapters.items():
        part = trained.get(adapters_part(adapter))
        if part is None:
            continue
        ignored = _ignored(model, adapter, part)
        if ignored:
            raise ValueError(
                f"`peft`: {type(model.encoder).__name__} does not use {len(ignored)} of the {len(part.parameters)}"
                f" weights of {spec['type']}, such as {ignored[0]}: they get no gradient."
                " Choose other `target_modules`, or exclude these with `exclude_modules`."
            )
    for name in model.heads:
        if model.adapter_of(name) is None and f"heads.{name}" in trained:
            logger.warning("Head %s has no adapter: it is trained on the unadapted encoder.", name)


def _ignored(model: MultiTaskModel, adapter: str, part: Part) -> list[str]:
    """Names of an adapter's parameters that do not affect the encoder's outputs."""
    names = [name for name, parameter in part.parameters.items() if parameter.requires_grad]
    ids = torch.tensor([model.tokenizer("to be")["input_ids"]], device=model.device)
    states = model.adapted_states(adapter, input_ids=ids, attention_mask=torch.ones_like(ids))
    gradients = torch.autograd.grad(states.sum(), [part.parameters[name] for name in names], allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
