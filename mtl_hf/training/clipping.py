"""Clipping of gradients by their norm: parameters that share nothing do not share a norm.

Notable: while anything that several heads have in common is trained, all trained parameters have one norm, as in the
stock Trainer. Where all of it is frozen, each head (with an adapter of its own, if it has one) is a model of its own
and is clipped by its own norm, so that one with large gradients does not make the steps of another smaller: beside
others it takes the steps that it takes alone.
"""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..data.labels import TaskData
from ..modeling.adapters import SHARED, adapter_parameters
from ..modeling.modeling_multitask import MultiTaskModel
from .arguments import MultiTaskTrainingArguments
from .choices import read_choice

logger = logging.getLogger(__name__)


def norm_groups(model: MultiTaskModel) -> list[list[nn.Parameter]]:
    """The model's parameters, apart where they share a norm with no other: all of them in one, or a list a head.

    A head that reads with an adapter of its own is in one list with it.
    """
    owners: dict[str, str] = {}
    if model.config.adapters:  # this is asked at every step, and without any there is nothing to look for
        owners = {f"encoder.{name}": adapter for name, adapter in adapter_parameters(model.encoder).items()}
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("heads."):
            head = name.split(".")[1]
            owner = model.config.heads[head].get("adapter") or f"heads.{head}"
        else:
            owner = owners.get(name, SHARED)
        if owner == SHARED:
            return [list(model.parameters())]
        groups.setdefault(owner, []).append(parameter)
    return list(groups.values())


def clip(groups: Sequence[Sequence[nn.Parameter]], max_norm: float) -> Tensor:
    """Scale the gradients of each group whose norm is above `max_norm` down to it, in place.

    Gradients within the norm are left alone: scaling by 1 would be a pass over all of them.

    Returns:
        The norm of all gradients as they were, ().
    """
    norms = []
    for parameters in groups:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            continue
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if norm > max_norm:
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm, foreach=True)
        norms.append(norm)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def warn_of_clipping(args: MultiTaskTrainingArguments, tasks: Mapping[str, TaskData], num_sources: int) -> None:
    """Warn if clipping undoes what losses are multiplied by.

    Args:
        args: Of a run that trains something that tasks share.
        tasks: Task name → task.
        num_sources: How many sources take turns.
    """
    balanced = read_choice("training.loss_balancing", args.loss_balancing)[0] != "static"
    if is_clipped_away(args, tasks, balanced=balanced):
        logger.warning(
            "What losses are multiplied by (`loss_weight`, `loss_balancing`) will change little: a step is one"
            " batch, of one source, and a gradient longer than `max_grad_norm` (%g) is cut to that length, whatever"
            " its loss is multiplied by. It acts where a step is a whole round (`gradient_accumulation_steps: %d`,"
            " with so many times fewer steps), or with `max_grad_norm: 0`.",
            args.max_grad_norm,
            num_sources,
        )


def is_clipped_away(args: MultiTaskTrainingArguments, tasks: Mapping[str, TaskData], *, balanced: bool) -> bool:
    """Whether sources are weighed against each other, and clipping undoes it because no step holds two of them.

    Args:
        args: Of the run.
        tasks: Task name → task.
        balanced: Whether losses are multiplied by more than `loss_weight`.
    """
    weights: dict[str, set[float]] = {}
    for task in tasks.values():
        for source in task.config.sources if task.config.train else ():
            weights.setdefault(source, set()).add(task.config.loss_weight)
    weighed = len(weights) > 1 and (balanced or len({frozenset(own) for own in weights.values()}) > 1)
    return weighed and args.gradient_accumulation_steps == 1 and (args.max_grad_norm or 0) > 0
