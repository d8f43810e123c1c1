"""Freeze parts of a model by name. Frozen parameters get no gradient and are in no optimiser group.

Notable: in training, modules all of whose parameters are frozen are in evaluation mode, so that what does not learn
has no dropout either, and says of a text the same in every epoch.
"""

from collections.abc import Iterable, Mapping

from torch import nn

from ..modeling.modeling_multitask import MultiTaskModel
from .optimizer import Part, matching


def freeze(parts: Iterable[Part], patterns: Iterable[str], only_scored: Iterable[str] = ()) -> list[str]:
    """Freeze the parts that the patterns name, in place.

    Args:
        parts: As `find_parts` returns them.
        patterns: As `optimizer.matching` reads them.
        only_scored: Tasks with `train: false`, whose heads are frozen too.

    Returns:
        Names of the frozen parts.

    Raises:
        ValueError: A pattern that matches nothing, or nothing left to train.
    """
    parts = list(parts)
    patterns = [*patterns, *(part.name for part in parts if part.name in {f"heads.{name}" for name in only_scored})]
    frozen = set()
    for pattern in patterns:
        for part in matching(parts, pattern, "freeze"):
            frozen.add(part.name)
            part.train(False)
    if all(part.frozen for part in parts):
        raise ValueError(
            "`freeze` leaves nothing to train: use `mtl-hf embed` for the features of a frozen encoder, or"
            " `mtl-hf evaluate` to score a model as it is."
        )
    return [part.name for part in parts if part.name in frozen]


def check_tasks(parts: Iterable[Part], tasks: Mapping[str, str | None]) -> None:
    """Raise `ValueError` if a task that is trained finds everything frozen that its loss could move.

    Args:
        parts: As `find_parts` returns them.
        tasks: Task → the adapter that its head alone, or with some others, reads with.
    """
    trained = [part for part in parts if not part.frozen]
    if any(part.shared for part in trained):
        return
    free = {part.name for part in trained}
    for name, adapter in tasks.items():
        if not free & {f"heads.{name}", f"adapters.{adapter}"}:
            raise ValueError(
                f"`freeze`: with the encoder frozen, task {name!r} has nothing to train, since its head is frozen too"
                f" or has no weights. Leave one of them free; or, where the head comes from `model.from`, set"
                f" `tasks.{name}.train: false`, which only scores it."
            )


def modules_without_dropout(model: MultiTaskModel, parts: Iterable[Part]) -> list[nn.Module]:
    """Frozen modules, which run in evaluation mode; around adapters that are trained the encoder keeps its mode.

    Args:
        model: The model.
        parts: As `find_parts` returns them.
    """
    adapted = any(part.name.startswith("adapters") and not part.frozen for part in parts)
    inside = set(model.encoder.modules()) if adapted else set()
    return [module for module in _frozen_modules(model) if module not in inside]


def _frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The topmost modules in `module` (perhaps itself) that have parameters, all of which are frozen."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [module]
    return [found for child in module.children() for found in _frozen_modules(child)]
