"""Adapters in training: what they exclude, which of them nothing trains, and that each of them learns.

Notable: an adapter that the encoder never asks would be saved, reported and trained on for nothing. One small batch
without dropout shows it: a parameter that the states do not depend on has no gradient (one that is zero is no sign: in
the first step that of LoRA's first matrix is, since the second begins at zero).
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
    """Parts of the adapters that only heads read with which are not trained.

    Args:
        model: The model.
        only_scored: Tasks with `train: false`.
    """
    heads = model.config.heads
    trained = {spec.get("adapter") for name, spec in heads.items() if name not in only_scored}
    idle = {heads[name].get("adapter") for name in only_scored} - trained
    return [adapters_part(adapter) for adapter in model.config.adapters or () if adapter in idle]


def check_adapters(model: MultiTaskModel, parts: Iterable[Part], args: MultiTaskTrainingArguments) -> None:
    """Check that training moves all of the adapters. Weights, gradients and random numbers stay as they are.

    Args:
        model: With adapters.
        parts: As `find_parts` returns them, frozen or not.
        args: The arguments of the run.

    Raises:
        ValueError: An adapter that the encoder does not use, in whole or in part; a setting that does not go with
            adapters.
    """
    adapters: dict[str, Any] = model.config.adapters or {}
    excluded = {
        "layerwise_lr_decay": (
            args.layerwise_lr_decay != 1,
            "is of layers, which are frozen around adapters (set it to 1)",
        ),
        "unfreeze": (args.unfreeze is not None, "opens layers, which stay as they are around adapters"),
        "frozen_cache": (args.frozen_cache is not None, "keeps what frozen layers say, and adapters change it"),
    }
    if SHARED not in adapters:
        nothing = (
            "is about what tasks share, and with an adapter for each they share nothing of the encoder that is trained"
        )
        if model.config.experts:
            nothing += " (experts are shared, but what is not, each task's adapter, would count beside them)"
        excluded["gradient_aggregation"] = (args.gradient_aggregation is not None, nothing)
        excluded["log_gradient_conflicts"] = (bool(args.log_gradient_conflicts), nothing)
    for setting, (given, reason) in excluded.items():
        if given:
            raise ValueError(f"`training.{setting}` {reason}: leave it out, or train without `model.peft`.")
    if args.activation_checkpointing and len({model.adapter_of(name) for name in model.heads}) > 1:
        raise ValueError(
            f"`activation_checkpointing` runs the encoder again on the way back, then with the last of the adapters"
            f" ({', '.join(adapters)}): leave it out, or share one adapter."
        )
    trained = {part.name: part for part in parts if not part.frozen}
    for adapter, spec in adapters.items():
        part = trained.get(adapters_part(adapter))
        if part is None:
            continue
        ignored = _ignored(model, adapter, part)
        if ignored:
            raise ValueError(
                f"`peft`: {spec['type']} has {len(ignored)} of its {len(part.parameters)} weights where"
                f" {type(model.encoder).__name__} never uses them, such as {ignored[0]}: no gradient reaches them."
                " Choose other `target_modules`, or leave these out with `exclude_modules`."
            )
    for name in model.heads:
        if model.adapter_of(name) is None and f"heads.{name}" in trained:
            logger.warning("Head %s has no adapter: it is trained on the encoder as it is.", name)


def _ignored(model: MultiTaskModel, adapter: str, part: Part) -> list[str]:
    """Names of an adapter's parameters that the encoder's states do not depend on."""
    names = [name for name, parameter in part.parameters.items() if parameter.requires_grad]
    ids = torch.tensor([model.tokenizer("to be")["input_ids"]], device=model.device)
    states = model.adapted_states(adapter, input_ids=ids, attention_mask=torch.ones_like(ids))
    gradients = torch.autograd.grad(states.sum(), [part.parameters[name] for name in names], allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
