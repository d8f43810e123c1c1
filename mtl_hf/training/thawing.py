"""Unfreeze frozen parts during training: one after the other, at given steps, or when scores stop improving.

Notable: which parts are unfrozen is a pure function of the settings, the completed steps and the logged scores, which
are all in a checkpoint; so no state is stored, and a resumed run unfreezes the same parts. The optimiser (and DDP) has
all of these parts from the start: a frozen part gets no gradient, and optimisers skip parameters without a gradient.
Gradual unfreezing from the top down follows Howard and Ruder, arXiv 1801.06146, section 3.3.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..config import Thawing, nearest
from ..metrics import LOSS_LIKE, primary_metric
from ..tasks import TaskData
from .features import Feature
from .optimizer import Part, matching

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

PATIENCE = 2  # evaluations, by default


# ---- settings ----


def check_thawing(settings: Thawing, freeze: Sequence[str], eval_strategy: Any, early_stopping: int | None) -> None:
    """Check `training.unfreeze`, as far as possible without a model.

    Args:
        settings: The section.
        freeze: `training.freeze`.
        eval_strategy: `training.eval_strategy`.
        early_stopping: `training.early_stopping_patience`.

    Raises:
        ValueError: Fields cannot be combined, are missing or out of range.
    """
    if not freeze:
        raise ValueError("`unfreeze` needs parts in `freeze`, which is empty: set `freeze: [encoder]`, for example.")
    gradual, plateau = settings.schedule == "gradual", settings.when == "plateau"
    strangers = {
        "every": (settings.every is not None, gradual and not plateau, "gradual` without `when"),
        "when": (plateau, gradual, "gradual"),
        "patience": (settings.patience is not None, gradual and plateau, "gradual` with `when: plateau"),
        "until": (bool(settings.until), gradual and plateau, "gradual` with `when: plateau"),
        "at": (bool(settings.at), not gradual, "explicit"),
    }
    for name, (given, possible, schedule) in strangers.items():
        if given and not possible:
            raise ValueError(
                f"`unfreeze.{name}` only works with `schedule: {schedule}`. Remove it, or change the other settings."
            )
    if not gradual and not settings.at:
        raise ValueError(
            "`unfreeze.at` is missing: `schedule: explicit` needs parts and steps, {encoder.layers.4-5: 300, ...}."
        )
    if gradual and not plateau and settings.every is None:
        raise ValueError("`unfreeze` needs `every` (`1 epoch`, or a number of steps) or `when: plateau`.")
    for name, time in {"every": settings.every, **{f"at.{part}": time for part, time in settings.at.items()}}.items():
        if time is not None:
            _steps(time, 1, name)
    for name, goal in settings.until.items():
        if not math.isfinite(goal):
            raise ValueError(f"`unfreeze.until.{name}` is {goal}; it is a score that can be reached.")
    if not plateau:
        return
    patience = PATIENCE if settings.patience is None else settings.patience
    if patience < 1:
        raise ValueError(f"`unfreeze.patience` is {patience}; it is at least 1.")
    if eval_strategy == "no":
        raise ValueError("`unfreeze.when: plateau` needs evaluations: set `eval_strategy` to epoch or steps.")
    if early_stopping is not None and early_stopping <= patience:
        raise ValueError(
            f"`early_stopping_patience` is {early_stopping} and `unfreeze.patience` is {patience}: training would stop"
            " before anything is unfrozen. Increase `early_stopping_patience`."
        )


def _steps(time: int | str, steps_an_epoch: int, name: str) -> int:
    """Convert a time in steps or epochs (`1.5 epochs`) to optimiser steps, at least 1."""
    epochs = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) epochs?", str(time).strip())
    number = float(epochs[1]) if epochs else float(time) if isinstance(time, int) else 0.0
    if number <= 0:
        raise ValueError(
            f"`unfreeze.{name}` is {time!r}; valid is a number of steps from 1 on, or of epochs, such as `1 epoch`."
        )
    return max(1, round(number * steps_an_epoch)) if epochs else int(number)


# ---- the plan ----


@dataclass(frozen=True)
class Plateau:
    """Unfreezes the next parts when a metric stops improving.

    Attributes:
        metric: Log key of the metric.
        sign: 1, or -1 if lower is better.
        patience: Evaluations without improvement before parts are unfrozen; the count then restarts.
        until: Log key → (sign, goal). Once all goals are reached at one evaluation, nothing more is unfrozen.
    """

    metric: str
    sign: int
    patience: int
    until: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def openings(self, step: int, history: Iterable[Mapping[str, Any]]) -> int:
        """How many times parts have been unfrozen after a number of steps.

        Args:
            step: Completed optimiser steps.
            history: The log (`TrainerState.log_history`); entries after `step` are ignored.
        """
        evaluations = {entry["step"]: entry for entry in history if self.metric in entry and entry["step"] <= step}
        best, waited, opened = -math.inf, 0, 0
        for _, entry in sorted(evaluations.items()):
            if self.until and all(sign * entry.get(key, math.nan) >= sign * goal
                                  for key, (sign, goal) in self.until.items()):  # fmt: skip
                break
            if self.sign * entry[self.metric] > best:
                best, waited = self.sign * entry[self.metric], 0
                continue
            waited += 1
            if waited == self.patience:
                opened, waited = opened + 1, 0
        return opened


@dataclass(frozen=True)
class ThawingPlan:
    """Which frozen parts are unfrozen, and when.

    Attributes:
        units: Groups of parts that are unfrozen together, in order.
        steps: For each unit, after how many optimiser steps; None if `plateau` decides.
        plateau: Decides by the scores.
    """

    units: list[list[Part]]
    steps: list[int] | None
    plateau: Plateau | None = None

    @property
    def parts(self) -> list[Part]:
        """All parts of the plan."""
        return [part for unit in self.units for part in unit]

    def open_parts(self, step: int, history: Iterable[Mapping[str, Any]] = ()) -> list[str]:
        """Names of the parts that are unfrozen after `step` steps; for arguments see `Plateau.openings`."""
        if self.plateau is not None:
            units = self.units[: self.plateau.openings(step, history)]
        else:
            units = [unit for unit, at in zip(self.units, self.steps or (), strict=True) if at <= step]
        return [part.name for unit in units for part in unit]


def plan_thawing(
    settings: Thawing,
    parts: Sequence[Part],
    tasks: Mapping[str, TaskData],
    *,
    steps_an_epoch: int,
    scored: Mapping[str, str],
    metric: str = "score",
    greater_is_better: bool = True,
) -> ThawingPlan:
    """Create the plan of `unfreeze` for a model's parts.

    Args:
        settings: The section `unfreeze`.
        parts: The result of `find_parts`, with the parts in `freeze` frozen.
        tasks: Task name → task.
        steps_an_epoch: Optimiser steps per epoch.
        scored: Task that evaluations score → its primary metric.
        metric: The metric that should improve, see `metric_for_best_model`.
        greater_is_better: Whether higher is better.

    Raises:
        ValueError: A part is not frozen, is only scored or is named twice; no encoder part to unfreeze; a task in
            `until` is unknown or not scored, or its goal cannot be reached.
    """
    if settings.schedule == "explicit":
        return _explicit(settings.at, parts, tasks, steps_an_epoch)
    frozen = {part.name: part for part in parts if part.frozen and part.in_encoder}
    if not frozen:
        raise ValueError("`unfreeze` needs frozen parts of the encoder, but `freeze` names none.")
    layers = sorted((name for name in frozen if name.startswith("encoder.layers.")),
                    key=lambda name: -int(name.rpartition(".")[2]))  # fmt: skip
    units = [[frozen[name]] for name in [*layers, *(["embeddings"] if "embeddings" in frozen else [])]]
    if top := frozen.get("encoder.top"):  # the top is unfrozen together with the last layer
        units = [[top, *units[0]], *units[1:]] if units else [[top]]
    if settings.when != "plateau":
        every = _steps(settings.every or 0, steps_an_epoch, "every")
        return ThawingPlan(units, [every * number for number in range(1, len(units) + 1)])
    until = {}
    for name, goal in settings.until.items():
        if name not in tasks:
            raise ValueError(f"`unfreeze.until` names {name!r}, which is not a task.{nearest(name, tasks)} The tasks"
                             f" are: {', '.join(tasks)}.")  # fmt: skip
        if name not in scored:
            raise ValueError(f"`unfreeze.until.{name}`: no source of this task has a validation split to score it on.")
        sign = -1 if scored[name] in LOSS_LIKE else 1
        if sign == 1 and goal > 1:
            raise ValueError(f"`unfreeze.until.{name}` is {goal:g}; {scored[name]} is a fraction, at most 1.")
        until[f"eval_{name}_{scored[name]}"] = (sign, goal)
    key, sign = f"eval_{metric.removeprefix('eval_')}", 1 if greater_is_better else -1
    return ThawingPlan(units, None, Plateau(key, sign, settings.patience or PATIENCE, until))


def _explicit(
    times: Mapping[str, int | str], parts: Sequence[Part], tasks: Mapping[str, TaskData], steps_an_epoch: int
) -> ThawingPlan:
    found: dict[str, tuple[int, Part]] = {}
    for pattern, time in times.items():
        for part in matching(parts, pattern, "unfreeze.at"):
            if not part.frozen:
                raise ValueError(f"`unfreeze.at.{pattern}`: {part.name} is not frozen: add it to `freeze`.")
            if part.name.startswith("heads.") and not tasks[part.name.removeprefix("heads.")].config.train:
                raise ValueError(
                    f"`unfreeze.at.{pattern}` is the head of a task with `train: false`, which stays frozen."
                )
            if part.name in found:
                raise ValueError(f"`unfreeze.at` names {part.name} twice.")
            found[part.name] = _steps(time, steps_an_epoch, f"at.{pattern}"), part
    ordered = sorted(found.values(), key=lambda item: item[0])
    return ThawingPlan([[part] for _, part in ordered], [step for step, _ in ordered])


def thawing_table(plan: ThawingPlan, num_steps: int) -> str:
    """A table of the plan."""
    names = [", ".join(part.name for part in unit) for unit in plan.units]
    if found := plan.plateau:
        goals = " and ".join(f"{key.removeprefix('eval_')} {goal:g}" for key, (_, goal) in found.until.items())
        times = "every evaluation" if found.patience == 1 else f"{found.patience} evaluations"
        metric = found.metric.removeprefix("eval_")
        return (
            f"Frozen at first, and unfrozen one by one after {times} without a better {metric}: {'; '.join(names)}."
            + (f" Unfreezing ends once {goals} is reached." if goals else "")
        )
    lines = [f"{'frozen at first':<40}{'trained after step':>20}"]
    for name, step in zip(names, plan.steps or (), strict=True):
        lines.append(f"{name:<40}{step if step < num_steps else 'never':>20}")
    return "\n".join(lines)


def warn_of_unreached(plan: ThawingPlan, num_steps: int) -> None:
    """Warn about parts that stay frozen because the run ends before they are unfrozen."""
    late = [part.name for unit, step in zip(plan.units, plan.steps or (), strict=False) if step >= num_steps
            for part in unit]  # fmt: skip
    if late:
        logger.warning(
            "%s will stay frozen: the run ends after %d steps. Unfreeze earlier, or train longer.",
            ", ".join(late),
            num_steps,
        )


class Thaw(Feature):
    """Freezes the parts of a plan when training starts, and unfreezes each when it is due.

    Args:
        plan: The plan.
        opened: Called with the names of parts when they are unfrozen.
    """

    def __init__(self, plan: ThawingPlan, opened: Callable[[list[str]], None]) -> None:
        self.plan = plan
        self.opened = opened
        self._open: list[str] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the state of the last step, if any: by now the optimiser and DDP have all parts."""
        self._set(self.plan.open_parts(state.global_step - 1, state.log_history))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Unfreeze parts that are due."""
        found = self.plan.open_parts(state.global_step, state.log_history)
        if opened := [name for name in found if name not in self._open]:
            self._set(found)
            self.opened(opened)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log all parts that were unfrozen."""
        logger.info("Unfroze %d of %d parts that were frozen at first%s.", len(self._open), len(self.plan.parts),
                    f": {', '.join(self._open)}" if self._open else "")  # fmt: skip

    def _set(self, names: list[str]) -> None:
        self._open = names
        for part in self.plan.parts:
            part.train(part.name in names)


def make_thaw(trainer: "MultiTaskTrainer") -> Thaw | None:
    """The feature of `unfreeze`; its parts stay trainable until training starts, so the optimiser and DDP have them.

    Raises:
        ValueError: See `plan_thawing`; or FSDP is used.
    """
    args = trainer.args
    if args.unfreeze is None or trainer.batch_sampler is None:
        return None
    if trainer.is_fsdp_enabled:
        raise ValueError("`unfreeze` does not support FSDP: use configs/accelerate/multi_gpu.yaml.")
    plan = plan_thawing(
        args.unfreeze,
        trainer.parts,
        trainer.tasks,
        steps_an_epoch=trainer.steps_an_epoch(),
        scored={
            name: primary_metric(task)
            for name, task in trainer.tasks.items()
            if any(name in split.gold for split in trainer.eval_splits.values())
        },
        metric=args.metric_for_best_model or "score",
        greater_is_better=args.greater_is_better is not False,
    )
    for part in plan.parts:
        part.train(True)
    return Thaw(plan, trainer.note_opened)
