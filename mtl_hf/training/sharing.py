"""How tasks share the encoder: balanced losses, aggregated gradients and the log of conflicts, as one step of them.

The trainer calls this before a step, with the losses of each micro-batch, and after a step's last backward pass.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..modeling.modeling_multitask import MultiTaskModel
from ..tasks import TaskData
from .arguments import MultiTaskTrainingArguments
from .balancing import GROUP, STATE_FILE, make_balancer
from .choices import read_choice
from .conflicts import ConflictLog
from .gradients import make_aggregation
from .optimizer import Part

logger = logging.getLogger(__name__)


class TaskSharing:
    """What `loss_balancing`, `gradient_aggregation` and `log_gradient_conflicts` make of a step.

    Args:
        model: On its device, with what is frozen frozen.
        args: Of the run; with aggregation, steps are rounds already (`gradients.steps_of_a_round`).
        tasks: Task name → task.
        parts: Of the model, as `find_parts` returns them.
        num_sources: How many sources take turns; 0 where nothing is trained.
        stop: Called with what is wrong in a step that cannot go on.

    Attributes:
        loss_weights: Task → what its loss is multiplied by in the step that goes on.

    Raises:
        ValueError: A setting that does not fit the tasks or the model.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        args: MultiTaskTrainingArguments,
        tasks: Mapping[str, TaskData],
        parts: Sequence[Part],
        *,
        num_sources: int,
        stop: Callable[[str], NoReturn],
    ) -> None:
        self.own_weights = {name: task.config.loss_weight for name, task in tasks.items()}
        self.loss_weights = dict(self.own_weights)
        self.stop = stop
        self.balancer = make_balancer(
            args.loss_balancing,
            [name for name, task in tasks.items() if task.config.train],
            parts,
            seed=args.seed,
            device=args.device,
            dtype=model.dtype,
        )
        self.aggregation = make_aggregation(args.gradient_aggregation, model, seed=args.seed)
        self.conflicts: ConflictLog | None = None
        if args.log_gradient_conflicts and num_sources:
            round_steps = math.ceil(num_sources / args.gradient_accumulation_steps)
            self.conflicts = ConflictLog(
                args.log_gradient_conflicts, parts, round_steps, Path(str(args.output_dir)), args.process_index == 0
            )
        self._tasks: list[str] = []
        if num_sources:
            self._say_how(args, [name for name, task in tasks.items() if task.config.train])
        shares = any(part.shared and not part.frozen for part in parts)  # what opens later counts as trained here
        if num_sources and shares and is_clipped_away(args, tasks, balanced=self.balancer is not None):
            logger.warning(
                "What losses are multiplied by (`loss_weight`, `loss_balancing`) will change little: a step is one"
                " batch, of one source, and a gradient longer than `max_grad_norm` (%g) is cut to that length, whatever"
                " its loss is multiplied by. It acts where a step is a whole round (`gradient_accumulation_steps: %d`,"
                " with so many times fewer steps), or with `max_grad_norm: 0`.",
                args.max_grad_norm,
                num_sources,
            )

    def _say_how(self, args: MultiTaskTrainingArguments, tasks: Sequence[str]) -> None:
        """Say before training how tasks share the encoder, where it is not by adding up their losses."""
        if args.gradient_aggregation is not None:
            logger.info(
                "Gradients of %s are combined by %s: `gradient_accumulation_steps` is set to %d, so that a step is a"
                " round, one batch of each source. What it multiplies each task's gradient by is logged beside its loss"
                " (x), where it has such a number.",
                ", ".join(tasks),
                read_choice("training.gradient_aggregation", args.gradient_aggregation)[0],
                args.gradient_accumulation_steps,
            )
        elif self.balancer:
            name = read_choice("training.loss_balancing", args.loss_balancing)[0]
            logger.info("Losses of %s are balanced by %s: what each is multiplied by is logged beside it (x).",
                        ", ".join(tasks), name)  # fmt: skip

    def begin_step(self, step: int, epoch: int, tasks: Sequence[str]) -> None:
        """Decide what losses are multiplied by in a step.

        Args:
            step: Its number, from 1.
            epoch: How many epochs are over.
            tasks: Those with a labelled item in it, on whatever process.
        """
        self._tasks = list(tasks)
        if self.balancer:
            for name, weight in self.balancer.begin_step(epoch).items():
                if not math.isfinite(weight):
                    self.stop(f"the weight of task {name!r} is {weight} in step {step}")
                self.loss_weights[name] = weight * self.own_weights[name]
        if self.aggregation:
            self.aggregation.begin_step(tasks)
        if self.conflicts:
            self.conflicts.begin_step(step, tasks)

    def weigh(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> Tensor:
        """Make one loss of those of a micro-batch.

        Args:
            losses: Task → its loss.
            backward: `Accelerator.backward`, by which aggregation takes the gradients of one task after the other.

        Returns:
            The weighted sum. After aggregation it is a number from which nothing is left to backpropagate.
        """
        weighted = {}
        for name, loss in losses.items():
            if self.balancer:
                self.balancer.add(name, loss)
            if self.conflicts:
                self.conflicts.add(name, loss)
            weighted[name] = self.loss_weights[name] * loss
        total = torch.stack(list(weighted.values())).sum()
        if self.aggregation:
            self.aggregation.add(weighted, backward)
            return total.detach().requires_grad_()
        return total

    def end_step(self, step: int) -> None:
        """Look at all of a step, between its last backward pass and the optimiser."""
        if self.balancer:
            self.balancer.end_step(self._tasks)
        if self.aggregation and (problem := self.aggregation.end_step(step)):
            self.stop(f"{problem} in step {step}")
        if self.conflicts:
            self.conflicts.end_step()

    def logs(self) -> dict[str, float]:
        """`<task>_weight` → what the task's loss was multiplied by; with aggregation, on what tasks share."""
        if self.balancer:
            return {f"{name}_weight": self.loss_weights[name] for name in self.balancer.tasks}
        if self.aggregation:
            return {f"{name}_weight": weight * self.own_weights[name]
                    for name, weight in self.aggregation.weights.items()}  # fmt: skip
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups of what is learned here, behind those of the model."""
        if not (self.balancer and self.balancer.parameters):
            return []
        rate = self.balancer.learning_rate
        return [{"params": self.balancer.parameters, "lr": rate, "weight_decay": 0.0, "name": GROUP}]

    def save(self, checkpoint: Path) -> None:
        """Write what a run needs to go on from a checkpoint."""
        if self.balancer:
            state = {name: tensor.cpu().clone() for name, tensor in self.balancer.state().items()}
            save_file(state, checkpoint / STATE_FILE)

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: It is of a run without balanced losses.
        """
        if not self.balancer:
            return
        if not (checkpoint / STATE_FILE).is_file():
            raise ValueError(
                f"`resume_from_checkpoint`: {checkpoint} has no {STATE_FILE}: its run did not balance losses."
            )
        self.balancer.load(load_file(checkpoint / STATE_FILE))


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
