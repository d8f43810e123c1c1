"""Frozen parts that open while training goes on: one after the other, at given steps, or when scores stop rising.

Notable: which parts are open is a pure function of the settings, the steps done and the scores logged until then, all
of which a checkpoint has anyway; so nothing is stored, and a resumed run opens what it would have opened. The optimiser
(and DDP) knows all of these parts from the start: one that is not open gets no gradient, and optimisers pass over
parameters without one. Opening from the top down is of Howard and Ruder, arXiv 1801.06146, section 3.3.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..config import Thawing, nearest
from ..data.labels import TaskData
from ..metrics import LOSS_LIKE, primary_metric
from .features import Feature
from .optimizer import Part, matching

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

PATIENCE = 2  # evaluations, by default


# ---- settings ----


def check_thawing(settings: Thawing, freeze: Sequence[str], eval_strategy: Any, early_stopping: int | None) -> None:
    """Check `training.unfreeze` as far as that needs no model.

    Args:
        settings: The section.
        freeze: `training.freeze`.
        eval_strategy: `training.eval_strategy`.
        early_stopping: `training.early_stopping_patience`.

    Raises:
        ValueError: Fields that do not go together, are missing or out of range.
    """
    if not freeze:
        raise ValueError(
            "`unfreeze` opens what `freeze` names, which is nothing: set `freeze: [encoder]`, for instance."
        )
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
            raise ValueError(f"`unfreeze.{name}` is of `schedule: {schedule}`: take it out, or change the others.")
    if not gradual and not settings.at:
        raise ValueError("`unfreeze.at` is missing: `schedule: explicit` opens parts {encoder.layers.4-5: 300, ...}.")
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
            f"`early_stopping_patience` is {early_stopping} and `unfreeze.patience` {patience}: training would stop"
            " before anything opens. Give early stopping more patience."
        )


def _steps(time: int | str, steps_an_epoch: int, name: str) -> int:
    """Optimiser steps of a time that is given in steps or, as `1.5 epochs`, in epochs; at least 1."""
    epochs = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) epochs?", str(time).strip())
    number = float(epochs[1]) if epochs else float(time) if isinstance(time, int) else 0.0
    if number <= 0:
        raise ValueError(f"`unfreeze.{name}` is {time!r}; valid is a number of steps from 1 on, or such as `1 epoch`.")
    return max(1, round(number * steps_an_epoch)) if epochs else int(number)


# ---- the plan ----


@dataclass(frozen=True)
class Plateau:
    """When scores say that the next parts should open.

    Attributes:
        metric: Key of the log that should rise.
        sign: 1, or -1 where less is better.
        patience: Evaluations without a better one before parts open; the count begins again when they do.
        until: Key of the log → (sign, what it should reach). Once all have at one evaluation, nothing opens any more.
    """

    metric: str
    sign: int
    patience: int
    until: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def openings(self, step: int, history: Iterable[Mapping[str, Any]]) -> int:
        """How many times something has opened after so many steps.

        Args:
            step: Optimiser steps done.
            history: The log (`TrainerState.log_history`); what came later than `step` does not count.
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
    """Which frozen parts open, and when.

    Attributes:
        units: Parts that open together, in the order in which they do.
        steps: Of each unit, after how many optimiser steps; None where a plateau says it.
        plateau: Says it.
    """

    units: list[list[Part]]
    steps: list[int] | None
    plateau: Plateau | None = None

    @property
    def parts(self) -> list[Part]:
        """All of them."""
        return [part for unit in self.units for part in unit]

    def open_parts(self, step: int, history: Iterable[Mapping[str, Any]] = ()) -> list[str]:
        """Names of the parts that are open in the step after `step` steps; arguments as of `Plateau.openings`."""
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
    """The plan that `unfreeze` makes of a model's parts.

    Args:
        settings: `unfreeze`.
        parts: As `find_parts` returns them, those that `freeze` names frozen.
        tasks: Task name → task.
        steps_an_epoch: Optimiser steps.
        scored: Task that evaluations score → its primary metric.
        metric: What should rise, as `metric_for_best_model` names it.
        greater_is_better: Or fall.

    Raises:
        ValueError: A part that is not frozen, is only scored or is named twice; nothing of the encoder to open; a task
            in `until` that is unknown or not scored, or a score that cannot be reached.
    """
    if settings.schedule == "explicit":
        return _explicit(settings.at, parts, tasks, steps_an_epoch)
    frozen = {part.name: part for part in parts if part.frozen and part.in_encoder}
    if not frozen:
        raise ValueError("`unfreeze` opens the frozen parts of the encoder, and `freeze` names none of them.")
    layers = sorted((name for name in frozen if name.startswith("encoder.layers.")),
                    key=lambda name: -int(name.rpartition(".")[2]))  # fmt: skip
    units = [[frozen[name]] for name in [*layers, *(["embeddings"] if "embeddings" in frozen else [])]]
    if top := frozen.get("encoder.top"):  # what follows the last layer opens with it
        units = [[top, *units[0]], *units[1:]] if units else [[top]]
    if settings.when != "plateau":
        every = _steps(settings.every or 0, steps_an_epoch, "every")
        return ThawingPlan(units, [every * number for number in range(1, len(units) + 1)])
    until = {}
    for name, goal in settings.until.items():
        if name not in tasks:
            raise ValueError(f"`unfreeze.until` names {name!r}, which is no task.{nearest(name, tasks)} The tasks are:"
                             f" {', '.join(tasks)}.")  # fmt: skip
        if name not in scored:
            raise ValueError(f"`unfreeze.until.{name}`: no source of that task has a validation split to score it on.")
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
                raise ValueError(f"`unfreeze.at.{pattern}`: {part.name} is not frozen: name it in `freeze`, too.")
            if part.name.startswith("heads.") and not tasks[part.name.removeprefix("heads.")].config.train:
                raise ValueError(f"`unfreeze.at.{pattern}` is the head of a task with `train: false`, which stays.")
            if part.name in found:
                raise ValueError(f"`unfreeze.at` names {part.name} twice.")
            found[part.name] = _steps(time, steps_an_epoch, f"at.{pattern}"), part
    ordered = sorted(found.values(), key=lambda item: item[0])
    return ThawingPlan([[part] for _, part in ordered], [step for step, _ in ordered])


def thawing_table(plan: ThawingPlan, num_steps: int) -> str:
    """The plan as the run prints it."""
    names = [", ".join(part.name for part in unit) for unit in plan.units]
    if found := plan.plateau:
        goals = " and ".join(f"{key.removeprefix('eval_')} {goal:g}" for key, (_, goal) in found.until.items())
        times = "every evaluation" if found.patience == 1 else f"{found.patience} evaluations"
        metric = found.metric.removeprefix("eval_")
        return (
            f"Frozen at first, and opened one by one after {times} without a better {metric}: {'; '.join(names)}."
            + (f" No more open once there are {goals}." if goals else "")
        )
    lines = [f"{'frozen at first':<40}{'trained after step':>20}"]
    for name, step in zip(names, plan.steps or (), strict=True):
        lines.append(f"{name:<40}{step if step < num_steps else 'never':>20}")
    return "\n".join(lines)


def warn_of_never(plan: ThawingPlan, num_steps: int) -> None:
    """Warn of what will stay frozen, because the run is over before its time comes."""
    late = [part.name for unit, step in zip(plan.units, plan.steps or (), strict=False) if step >= num_steps
            for part in unit]  # fmt: skip
    if late:
        logger.warning(
            "`unfreeze` never opens %s: the run is over after %d steps. Open them earlier, or train longer.",
            ", ".join(late),
            num_steps,
        )


class Thaw(Feature):
    """Freezes the parts of a plan when training begins, and opens each when it is due.

    Args:
        plan: The plan.
        opened: Called with the names of the parts that open.
    """

    def __init__(self, plan: ThawingPlan, opened: Callable[[list[str]], None]) -> None:
        self.plan = plan
        self.opened = opened
        self._open: list[str] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As it was in the last step, if there was one: by now the optimiser has been made, and DDP knows all parts."""
        self._set(self.plan.open_parts(state.global_step - 1, state.log_history))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open what is due."""
        found = self.plan.open_parts(state.global_step, state.log_history)
        if opened := [name for name in found if name not in self._open]:
            self._set(found)
            self.opened(opened)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say what was opened in all."""
        logger.info("Opened %d of %d parts that were frozen at first%s.", len(self._open), len(self.plan.parts),
                    f": {', '.join(self._open)}" if self._open else "")  # fmt: skip

    def _set(self, names: list[str]) -> None:
        self._open = names
        for part in self.plan.parts:
            part.train(part.name in names)


def make_thaw(trainer: "MultiTaskTrainer") -> Thaw | None:
    """The feature of `unfreeze`; its parts are left to the optimiser and DDP until training begins.

    Raises:
        ValueError: As of `plan_thawing`, or FSDP.
    """
    args = trainer.args
    if args.unfreeze is None or trainer.batch_sampler is None:
        return None
    if trainer.is_fsdp_enabled:
        raise ValueError("`unfreeze` is not possible under FSDP: use configs/accelerate/multi_gpu.yaml.")
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
