"""Freeze parts of a model by name. Frozen parameters get no gradient and are in no optimiser group.

Notable: in training, modules all of whose parameters are frozen are in evaluation mode, so that what does not learn
has no dropout either, and says of a text the same in every epoch.
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


class FrozenModules(Feature):
    """Keeps frozen modules in evaluation mode while the others are trained.

    Args:
        model: The model.
        parts: As `find_parts` returns them.
    """

    def __init__(self, model: MultiTaskModel, parts: Sequence[Part]) -> None:
        self.model, self.parts = model, parts
        self._find()

    def begin_step(self, step: Step) -> None:
        """Find them anew if parts were frozen or opened."""
        if [part.frozen for part in self.parts] != self._frozen:
            self._find()

    def around_forward(self, inputs: dict[str, Any]) -> AbstractContextManager[None]:
        """Before every pass: the stock step puts all of the model into training mode."""
        for module in self._modules:
            module.eval()
        return nullcontext()

    def _find(self) -> None:
        self._frozen = [part.frozen for part in self.parts]
        self._modules = modules_without_dropout(self.model, self.parts)


def make_freezing(trainer: "MultiTaskTrainer") -> FrozenModules:
    """The feature of `freeze` and of tasks with `train: false`, which freezes what they name.

    Raises:
        ValueError: As of `freeze`, `check_tasks` and `check_adapters`.
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
