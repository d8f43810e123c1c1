"""Gradient clipping by norm, separately for independent groups of parameters.

Notable: while any parameter that several heads share is trained, all trained parameters have one norm, as in the stock
Trainer. If all shared parameters are frozen, each head (with its own adapter, if it has one) is an independent model
and is clipped by its own norm, so large gradients of one head do not shrink the steps of another: each head takes the
same steps as if it were trained alone.
"""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..modeling.adapters import SHARED, adapter_parameters
from ..modeling.modeling_multitask import MultiTaskModel
from ..tasks import TaskData
from .arguments import MultiTaskTrainingArguments
from .choices import read_choice

logger = logging.getLogger(__name__)


def norm_groups(model: MultiTaskModel) -> list[list[nn.Parameter]]:
    """Groups of parameters that share a norm: one group with all parameters, or one group per head.

    A head and its own adapter are in the same group.
    """
    owners: dict[str, str] = {}
    if model.config.adapters:  # called at every step, so skip the search if there are no adapters
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
    """Scale down the gradients of each group whose norm is above `max_norm`, in place.

    Other groups are not touched: scaling by 1 would be a pass over all gradients.

    Returns:
        The norm of all gradients before clipping, ().
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
    """Warn if gradient clipping cancels loss weights.

    Args:
        args: Arguments of a run that trains shared parameters.
        tasks: Task name → task.
        num_sources: Number of sources.
    """
    balanced = read_choice("training.loss_balancing", args.loss_balancing)[0] != "static"
    if is_clipped_away(args, tasks, balanced=balanced):
        logger.warning(
            "Loss weights (`loss_weight`, `loss_balancing`) will have little effect: a step is one batch of one source,"
            " and gradients are clipped to `max_grad_norm` (%g) whatever the weight. Loss weights take effect if a step"
            " covers all sources (`gradient_accumulation_steps: %d`, with that many times fewer steps) or with"
            " `max_grad_norm: 0`.",
            args.max_grad_norm,
            num_sources,
        )


def is_clipped_away(args: MultiTaskTrainingArguments, tasks: Mapping[str, TaskData], *, balanced: bool) -> bool:
    """Whether clipping cancels the loss weights of sources, because each step has one source only.

    Args:
        args: The training arguments.
        tasks: Task name → task.
        balanced: Whether there are loss weights besides `loss_weight`.
    """
    weights: dict[str, set[float]] = {}
    for task in tasks.values():
        for source in task.config.sources if task.config.train else ():
            weights.setdefault(source, set()).add(task.config.loss_weight)
    weighed = len(weights) > 1 and (balanced or len({frozenset(own) for own in weights.values()}) > 1)
    return weighed and args.gradient_accumulation_steps == 1 and (args.max_grad_norm or 0) > 0
