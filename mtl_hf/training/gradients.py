"""Conflicting gradients: the tasks' gradients of the shared parameters are combined by an aggregator of torchjd.

A step is one round, and its Jacobian has a row a task: the gradient of that task's loss (its mean over all items of the
step, times `loss_weight`) for every trained parameter that belongs to no head. An aggregator (UPGrad, arXiv 2406.16232;
PCGrad, arXiv 2001.06782; ...) makes one gradient of the rows; heads keep the gradient of their own task's loss, as in a
plain run. Notable:

- A micro-batch of one task costs one ordinary backward pass; of several tasks one pass each, over one forward pass.
- The rows lie one after the other in memory: of the aggregators that need nothing but inner products, only J Jᵀ and one
  weighted sum of rows are computed, which is `torchjd.autojac.jac_to_grad` without its copies. Memory is that of the
  shared parameters once a task.
- With several processes the model runs outside of DDP, which knows one gradient a parameter: rows and heads' gradients
  are averaged here, so that a run sends one gradient a task instead of one.
- `Sum` is the plain run over whole rounds, bit for bit: nothing here is used.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .balancing import drawing
from .choices import find_class, make, read_choice
from .processes import mean_over_processes

SETTING = "training.gradient_aggregation"
_PIECE = 16_384  # columns of rows that are multiplied at once: what a processor's cache holds
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
        self.jacobian = torch.empty(0, 0)  # (num_tasks, number of trained shared numbers)
        self.weights: dict[str, float] = {}  # of the rows in the last step, where the aggregator has any
        self._shared: list[nn.Parameter] = []
        self._reached: list[list[bool]] = []  # of each row and shared parameter: whether there is a gradient yet

    def begin_step(self, tasks: Sequence[str]) -> None:
        """Make place for the rows of the tasks with a labelled item in the step, on whatever process."""
        self.tasks = list(tasks)
        self._shared = [parameter for name, parameter in self._trained() if not name.startswith("heads.")]
        self._reached = [[False] * len(self._shared) for _ in tasks]
        if not self._shared:  # all that tasks share is still to open
            self.weights, self.jacobian = {}, torch.empty(len(tasks), 0)
            return
        size = sum(parameter.numel() for parameter in self._shared)
        if len(self.jacobian) < len(tasks) or self.jacobian.shape[1] != size:
            self.jacobian = self._shared[0].new_empty(len(tasks), size)

    def add(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Backpropagate the losses of a micro-batch of this process.

        Args:
            losses: Task → its share of the task's loss, weighted.
            backward: `Accelerator.backward`.
        """
        for number, (name, loss) in enumerate(losses.items(), start=1):
            backward(loss, retain_graph=number < len(losses))
            row = self.tasks.index(name)
            for position, place in enumerate(self._places(row)):
                parameter = self._shared[position]
                if parameter.grad is None:
                    continue
                if self._reached[row][position]:
                    place += parameter.grad
                else:
                    place.copy_(parameter.grad)
                    self._reached[row][position] = True
                parameter.grad = None

    @torch.no_grad()
    def end_step(self, step: int) -> str | None:
        """Write the gradients that the optimiser takes.

        Args:
            step: Decides, with the seed, what is drawn at random.

        Returns:
            What is no number, if anything: then no gradient is written.
        """
        for row, reached in enumerate(self._reached):
            for there, place in zip(reached, self._places(row), strict=True):
                if not there:
                    place.zero_()
        jacobian = mean_over_processes(self.jacobian[: len(self.tasks)])
        gramian = inner_products(jacobian)
        for name, square in zip(self.tasks, gramian.diagonal().tolist(), strict=True):
            if not math.isfinite(square):
                return f"the norm of the gradient of task {name!r} is {math.sqrt(square) if square > 0 else square}"
        with drawing(self.seed, step, jacobian.device):
            weights = weigh_rows(self.aggregator, jacobian, gramian)
            combined = self.aggregator(jacobian) if weights is None else jacobian[0]
        self.weights = {} if weights is None else dict(zip(self.tasks, weights.tolist(), strict=True))
        for row, (name, weight) in enumerate(self.weights.items()):
            if not math.isfinite(weight):
                return f"the weight of the gradient of task {name!r} is {weight}"
            if row == 0:  # which becomes the weighted sum: of long rows, memory of its own would cost as much again
                combined *= weight
            else:
                combined.add_(jacobian[row], alpha=weight)
        begin, everywhere = 0, mean_over_processes(torch.tensor(self._reached, dtype=torch.float32).to(jacobian.device))
        for parameter, share in zip(self._shared, everywhere.sum(0).tolist(), strict=True):
            if share:  # what no task reaches has no gradient, as in a plain run, and not one of 0
                parameter.grad = combined[begin : begin + parameter.numel()].view_as(parameter)
            begin += parameter.numel()
        self._average_heads()
        return None

    def _average_heads(self) -> None:
        for name, parameter in self._trained():
            if name.startswith("heads.") and name.split(".")[1] in self.tasks:
                # a process without a labelled item for it has none
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = mean_over_processes(own)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def _places(self, row: int) -> list[Tensor]:
        """Where the gradient of each shared parameter lies in a row."""
        parts = self.jacobian[row].split([parameter.numel() for parameter in self._shared])
        return [part.view_as(parameter) for part, parameter in zip(parts, self._shared, strict=True)]


def inner_products(rows: Tensor) -> Tensor:
    """Those of long rows with each other, (num_rows, num_rows).

    Piece by piece, which is over twice as fast as at once, and exact: in float32, one sum over millions of numbers is
    wrong in its third digit.
    """
    total = rows.new_zeros(len(rows), len(rows))
    for piece in rows.split(_PIECE, dim=1):
        total += piece @ piece.T
    return total


def weigh_rows(aggregator: Any, jacobian: Tensor, gramian: Tensor) -> Tensor | None:
    """What an aggregator multiplies the rows by before it adds them up; None where it makes no weighted sum of them.

    Args:
        aggregator: Of torchjd.
        jacobian: A row a task, (num_tasks, num_parameters).
        gramian: Inner products of its rows, (num_tasks, num_tasks).
    """
    from torchjd.aggregation import GramianWeightedAggregator, WeightedAggregator

    if isinstance(aggregator, GramianWeightedAggregator):
        return aggregator.gramian_weighting(gramian)
    return aggregator.weighting(jacobian) if isinstance(aggregator, WeightedAggregator) else None


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


def make_aggregation(
    value: str | Mapping[str, Any] | None, model: nn.Module, *, seed: int
) -> GradientAggregation | None:
    """What `gradient_aggregation` asks for; None where it asks for nothing, and for `Sum`.

    Args:
        value: A checked value.
        model: What is trained, with what is frozen frozen.
        seed: Decides what is drawn at random.

    Raises:
        ValueError: Nothing that tasks share is trained.
    """
    if value is None:
        return None
    if not any(one.requires_grad for name, one in model.named_parameters() if not name.startswith("heads.")):
        raise ValueError(
            f"`{SETTING}` combines gradients of what tasks share, and nothing of that is trained: thaw some of the"
            " encoder, or leave it out."
        )
    aggregator = make_aggregator(value)
    return GradientAggregation(aggregator, model, seed) if aggregator else None


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
