"""Freeze parts of a model by name. Frozen parameters get no gradient and are in no optimiser group.

Notable: during training, modules with only frozen parameters are in evaluation mode. So they have no dropout and give
the same output for a row in every epoch.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn

from ..modeling.modeling_multitask import MultiTaskModel
from .adapters import check_adapters, idle_adapters
from .features import Feature, Step
from .optimizer import Part, matching

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer


def freeze(parts: Iterable[Part], patterns: Iterable[str], only_scored: Iterable[str] = ()) -> list[str]:
    """Freeze the parts that match the patterns, in place.

    Args:
        parts: The result of `find_parts`.
        patterns: Patterns, see `optimizer.matching`.
        only_scored: Tasks with `train: false`, whose heads are frozen, too.

    Returns:
        Names of the frozen parts.

    Raises:
        ValueError: A pattern matches nothing, or nothing is left to train.
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
            "`freeze` leaves nothing to train: use `mtl-hf embed` to get the embeddings of a frozen encoder, or"
            " `mtl-hf evaluate` to score a model without training."
        )
    return [part.name for part in parts if part.name in frozen]


def check_tasks(parts: Iterable[Part], tasks: Mapping[str, str | None]) -> None:
    """Raise `ValueError` if all parameters that the loss of a trained task depends on are frozen.

    Args:
        parts: The result of `find_parts`.
        tasks: Task → the adapter that its head uses, None for the shared one or none.
    """
    trained = [part for part in parts if not part.frozen]
    if any(part.shared for part in trained):
        return
    free = {part.name for part in trained}
    for name, adapter in tasks.items():
        if not free & {f"heads.{name}", f"adapters.{adapter}"}:
            raise ValueError(
                f"`freeze`: the encoder is frozen, and task {name!r} has nothing to train because its head is frozen,"
                f" too, or has no weights. Unfreeze one of them; or, if the head comes from `model.from`, set"
                f" `tasks.{name}.train: false` to only score it."
            )


def modules_without_dropout(model: MultiTaskModel, parts: Iterable[Part]) -> list[nn.Module]:
    """Frozen modules, which run in evaluation mode; an encoder with trained adapters stays in training mode.

    Args:
        model: The model.
        parts: The result of `find_parts`.
    """
    adapted = any(part.name.startswith("adapters") and not part.frozen for part in parts)
    inside = set(model.encoder.modules()) if adapted else set()
    return [module for module in _frozen_modules(model) if module not in inside]


def _frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The topmost modules in `module` (possibly itself) that have parameters and whose parameters are all frozen."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [module]
    return [found for child in module.children() for found in _frozen_modules(child)]


class FrozenModules(Feature):
    """Keeps frozen modules in evaluation mode while others are trained.

    Args:
        model: The model.
        parts: The result of `find_parts`.
    """

    def __init__(self, model: MultiTaskModel, parts: Sequence[Part]) -> None:
        self.model, self.parts = model, parts
        self._find()

    def begin_step(self, step: Step) -> None:
        """Update the list of modules if parts were frozen or unfrozen."""
        if [part.frozen for part in self.parts] != self._frozen:
            self._find()

    def around_forward(self, inputs: dict[str, Any]) -> AbstractContextManager[None]:
        """Set the mode before every forward pass: the stock step puts the whole model into training mode."""
        for module in self._modules:
            module.eval()
        return nullcontext()

    def _find(self) -> None:
        self._frozen = [part.frozen for part in self.parts]
        self._modules = modules_without_dropout(self.model, self.parts)


def make_freezing(trainer: "MultiTaskTrainer") -> FrozenModules:
    """The feature of `freeze` and of tasks with `train: false`; it also freezes these parts.

    Raises:
        ValueError: See `freeze`, `check_tasks` and `check_adapters`.
    """
    args, model, parts = trainer.args, trainer.model, trainer.parts
    only_scored = [name for name, task in trainer.tasks.items() if not task.config.train]
    if args.freeze or only_scored:
        freeze(parts, [*args.freeze, *idle_adapters(model, only_scored)], only_scored)
    if trainer.train_rows:
        trained = [name for name in trainer.tasks if name not in only_scored]
        check_tasks(parts, {name: model.config.heads[name].get("adapter") for name in trained})
    if model.config.adapters:
        check_adapters(model, parts, args)
    return FrozenModules(model, parts)
