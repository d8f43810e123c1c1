"""Conflicting gradients: the tasks' gradients of the shared parameters are combined by an aggregator of torchjd.

A step is one round, and its Jacobian has a row a task: the gradient of that task's loss (its mean over all items of the
step, times `loss_weight`) for every trained parameter that belongs to no head. An aggregator (UPGrad, arXiv 2406.16232;
PCGrad, arXiv 2001.06782; ...) makes one gradient of the rows; heads keep the gradient of their own task's loss, as in a
plain run. Notable:

- A micro-batch of one task costs one ordinary backward pass; of several tasks one pass each, over one forward pass.
- A row is the tensors that the backward pass leaves, never copied: of the aggregators that need nothing but inner
  products, only J Jᵀ and one weighted sum of rows are computed, which is `torchjd.autojac.jac_to_grad` without its
  matrix. Memory is that of the shared parameters once a task; other aggregators, and several processes, take it twice.
- With several processes the model runs outside of DDP, which knows one gradient a parameter: rows and heads' gradients
  are averaged here, so that a run sends one gradient a task instead of one.
- `Sum` is the plain run over whole rounds, bit for bit: nothing here is used.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from .balancing import drawing
from .choices import find_class, make, read_choice
from .features import Feature, Step
from .processes import in_several_processes, mean_over_processes

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

SETTING = "training.gradient_aggregation"
_PIECE = 131_072  # numbers that are multiplied and added up at once: of millions, a sum in float32 is wrong in digit 3
_MEMORY = "it remembers earlier steps, which a checkpoint does not hold"
_WORKERS = "it guards against workers that send wrong gradients, and tasks are none"
_REFUSED = {
    "Constant": "`tasks.<name>.loss_weight` says the same",
    "ExcessMTL": _MEMORY,
    "GradVac": _MEMORY,
    "Krum": _WORKERS,
    "NashMTL": _MEMORY,
    "PCD": _MEMORY,
    "TrimmedMean": _WORKERS,
}


class GradientAggregation:
    """The Jacobian of a step, and what is made of it.

    Args:
        aggregator: Of torchjd.
        model: What is trained.
        seed: Decides what an aggregator draws at random.
    """

    def __init__(self, aggregator: Any, model: nn.Module, seed: int) -> None:
        self.aggregator, self.model, self.seed = aggregator, model, seed
        self.tasks: list[str] = []  # of the step, in the order of the rows
        self.rows: list[list[Tensor | None]] = []  # of each task, of each shared parameter: its gradient so far
        self.weights: dict[str, float] = {}  # of the rows in the last step, where the aggregator has any
        self._shared: list[nn.Parameter] = []

    def begin_step(self, tasks: Sequence[str]) -> None:
        """Make place for the rows of the tasks with a labelled item in the step, on whatever process."""
        self.tasks = list(tasks)
        self._shared = [parameter for name, parameter in self._trained() if not name.startswith("heads.")]
        self.rows = [[None] * len(self._shared) for _ in tasks]

    def add(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Backpropagate the losses of a micro-batch of this process.

        Args:
            losses: Task → its share of the task's loss, weighted.
            backward: `Accelerator.backward`.
        """
        for number, (name, loss) in enumerate(losses.items(), start=1):
            row = self.rows[self.tasks.index(name)]
            for parameter, before in zip(self._shared, row, strict=True):
                parameter.grad = before  # which the backward pass adds to
            backward(loss, retain_graph=number < len(losses))
            for position, parameter in enumerate(self._shared):
                row[position], parameter.grad = parameter.grad, None

    @torch.no_grad()
    def end_step(self, step: int) -> str | None:
        """Write the gradients that the optimiser takes.

        Args:
            step: Decides, with the seed, what is drawn at random.

        Returns:
            What is no number, if anything: then no gradient is written.
        """
        self._average_heads()
        shared, rows = self._take_rows()
        if not shared:
            self.weights = {}
            return None
        gramian = inner_products(rows)
        for name, square in zip(self.tasks, gramian.diagonal().tolist(), strict=True):
            if not math.isfinite(square):
                return f"the norm of the gradient of task {name!r} is {math.sqrt(square) if square > 0 else square}"
        with drawing(self.seed, step, gramian.device):
            weights, combined = combine(self.aggregator, rows, gramian)
        self.weights = {} if weights is None else dict(zip(self.tasks, weights.tolist(), strict=True))
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                return f"the weight of the gradient of task {name!r} is {weight}"
        for parameter, gradient in zip(shared, combined, strict=True):
            parameter.grad = gradient
        return None

    def _take_rows(self) -> tuple[list[nn.Parameter], list[list[Tensor]]]:
        """The shared parameters that a task reaches, on whatever process, and the rows of all processes together.

        What no task reaches has no gradient, as in a plain run, and not one of 0. While all shared parameters are
        frozen (`unfreeze` opens them later) there are no rows.
        """
        reached = torch.tensor([[grad is not None for grad in row] for row in self.rows], dtype=torch.float32)
        if self._shared:
            reached = mean_over_processes(reached.to(self._shared[0].device))
        places = [position for position, share in enumerate(reached.sum(0).tolist()) if share]
        shared = [self._shared[position] for position in places]
        if not shared:
            self.rows = []
            return [], []
        rows = []
        while self.rows:  # so that a row of this process is free once there is that of all of them
            own = self.rows.pop(0)
            row = filled(shared, [own[position] for position in places])
            rows.append(_split(mean_over_processes(join(row)), shared) if in_several_processes() else row)
        return shared, rows

    def _average_heads(self) -> None:
        for name, parameter in self._trained():
            if name.startswith("heads.") and name.split(".")[1] in self.tasks:
                (own,) = filled([parameter], [parameter.grad])  # a process without a labelled item for it has none
                parameter.grad = mean_over_processes(own)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def inner_products(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Those of long rows with each other, (num_rows, num_rows).

    Args:
        rows: Of each row, the tensors that it consists of; of one shape at one position.
    """
    found = rows[0][0].new_zeros(len(rows), len(rows))
    pieces = [[piece for tensor in row for piece in tensor.flatten().split(_PIECE)] for row in rows]
    for a, b in combinations_with_replacement(range(len(rows)), 2):
        found[a, b] = found[b, a] = torch.stack([x @ y for x, y in zip(pieces[a], pieces[b], strict=True)]).sum()
    return found


def combine(
    aggregator: Any, rows: Sequence[Sequence[Tensor]], gramian: Tensor
) -> tuple[Tensor | None, Sequence[Tensor]]:
    """What an aggregator makes of the rows.

    Args:
        aggregator: Of torchjd.
        rows: Of each task, its gradient for each parameter. The first of them becomes the combined one.
        gramian: Inner products of the rows, (num_tasks, num_tasks).

    Returns:
        What the rows are multiplied by, (num_tasks,), or None where there is no such number; and their combination,
        a tensor a parameter.
    """
    from torchjd.aggregation import GramianWeightedAggregator, WeightedAggregator

    if isinstance(aggregator, GramianWeightedAggregator):
        weights = aggregator.gramian_weighting(gramian)
    else:
        jacobian = torch.stack([join(row) for row in rows])
        if not isinstance(aggregator, WeightedAggregator):
            return None, _split(aggregator(jacobian), rows[0])
        weights = aggregator.weighting(jacobian)
    first, *others = weights.tolist()
    for combined, *tensors in zip(*rows, strict=True):
        combined *= first  # in place: of long rows, memory of its own would cost as much time again
        for tensor, weight in zip(tensors, others, strict=True):
            combined.add_(tensor, alpha=weight)
    return weights, rows[0]


def filled(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Gradients of parameters, 0 where there is none."""
    pairs = zip(parameters, gradients, strict=True)
    return [torch.zeros_like(parameter) if grad is None else grad for parameter, grad in pairs]


def join(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all that tensors hold."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, shaped like those given, that lie in a vector one after the other."""
    parts = vector.split([one.numel() for one in like])
    return [part.view_as(one) for part, one in zip(parts, like, strict=True)]


def check_aggregation(value: str | Mapping[str, Any], policy: str, balancing: str | Mapping[str, Any]) -> None:
    """Check `gradient_aggregation` as far as it can be without a model.

    Args:
        value: Of the setting.
        policy: How sources take turns.
        balancing: `loss_balancing`.

    Raises:
        ValueError: An unknown class, one that cannot be used, wrong options, or another setting that it excludes.
    """
    name, _ = read_choice(SETTING, value)
    make_aggregator(value)
    if policy != "round_robin":
        raise ValueError(
            f"`{SETTING}: {name}` combines the gradients of one round, and `policy` is {policy}, which has none: set"
            " `policy: round_robin`."
        )
    if read_choice("training.loss_balancing", balancing)[0] != "static":
        raise ValueError(
            f"`{SETTING}: {name}` and `loss_balancing` both decide how tasks share the encoder, and exclude each other:"
            " set `loss_balancing: static` (a preference for a task is its `loss_weight`)."
        )


def make_aggregator(value: str | Mapping[str, Any]) -> Any:
    """The aggregator that a value of `gradient_aggregation` names; None for `Sum`.

    Raises:
        ValueError: As of `check_aggregation`.
    """
    name, options = read_choice(SETTING, value)
    kind = find_class(SETTING, name, "aggregation", "Aggregator", _REFUSED)
    for key, option in options.items():
        if isinstance(option, list):
            raise ValueError(
                f"`{SETTING}.{key}` is a list, a number a row, and a step has only the rows of tasks with labels in"
                " it: prefer a task by its `loss_weight`."
            )
    aggregator = make(SETTING, kind, options)
    return None if name == "Sum" else aggregator


def steps_of_a_round(num_sources: int, given: int) -> int:
    """Micro-batches of a step: one of each source.

    Args:
        num_sources: How many sources take turns.
        given: `gradient_accumulation_steps`.

    Raises:
        ValueError: Another number was asked for.
    """
    if given not in (1, num_sources):
        raise ValueError(
            f"`training.gradient_accumulation_steps` is {given}; with `gradient_aggregation` a step is one round, so it"
            f" is the number of sources, {num_sources}: leave it out."
        )
    return num_sources


class AggregatedGradients(Feature):
    """Backpropagates each task's loss by itself and writes the aggregated gradients at the end of a step.

    Args:
        aggregation: Of the model that is trained.
        own_weights: Task → its `loss_weight`.
        stop: Called with what is wrong in a step that cannot go on.
    """

    own_backward = True

    def __init__(
        self, aggregation: GradientAggregation, own_weights: Mapping[str, float], stop: Callable[[str], NoReturn]
    ) -> None:
        self.aggregation, self.own_weights, self.stop = aggregation, own_weights, stop

    def begin_step(self, step: Step) -> None:
        """Make place for the gradients of the step's tasks."""
        self.aggregation.begin_step(step.tasks)

    def backward(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Backpropagate the losses one by one."""
        self.aggregation.add(losses, backward)

    def end_step(self, step: Step) -> None:
        """Write the gradients that the optimiser takes."""
        if problem := self.aggregation.end_step(step.number):
            self.stop(f"{problem} in step {step.number}")

    def logs(self) -> dict[str, float]:
        """`<task>_weight` → what the task's loss was multiplied by, on what tasks share."""
        weights = self.aggregation.weights
        return {f"{name}_weight": weight * self.own_weights[name] for name, weight in weights.items()}


def make_aggregation(trainer: "MultiTaskTrainer") -> AggregatedGradients | None:
    """The feature of `gradient_aggregation`; none for `Sum`.

    Raises:
        ValueError: Nothing that tasks share is trained.
    """
    args, model = trainer.args, trainer.model
    if args.gradient_aggregation is None:
        return None
    if not any(one.requires_grad for name, one in model.named_parameters() if not name.startswith("heads.")):
        raise ValueError(
            f"`{SETTING}` combines gradients of what tasks share, and nothing of that is trained: thaw some of the"
            " encoder, or leave it out."
        )
    aggregator = make_aggregator(args.gradient_aggregation)
    if trainer.train_rows:
        logger.info(
            "Gradients of %s are combined by %s: `gradient_accumulation_steps` is set to %d, so that a step is a"
            " round, one batch of each source. What it multiplies each task's gradient by is logged beside its loss"
            " (x), where it has such a number.",
            ", ".join(name for name, task in trainer.tasks.items() if task.config.train),
            read_choice(SETTING, args.gradient_aggregation)[0],
            args.gradient_accumulation_steps,
        )
    if aggregator is None:
        return None
    return AggregatedGradients(GradientAggregation(aggregator, model, args.seed), trainer.loss_weights, trainer.stop)
