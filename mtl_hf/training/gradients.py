"""Gradient aggregation: an aggregator of torchjd combines the tasks' gradients of the shared parameters.

A step is one round. Its Jacobian has one row per task: the gradient of the task's loss (its mean over all items of the
step, times `loss_weight`) for every trained parameter that belongs to no head. An aggregator (UPGrad, arXiv 2406.16232;
PCGrad, arXiv 2001.06782; ...) combines the rows into one gradient; heads keep the gradient of their own task's loss, as
in a plain run. Notable:

- A micro-batch of one task costs one ordinary backward pass; with several tasks, one pass per task after one forward
  pass.
- A row consists of the tensors of the backward pass, without a copy. For aggregators that need only inner products, the
  code computes J Jᵀ and one weighted sum of rows, like `torchjd.autojac.jac_to_grad` without its matrix. Memory is that
  of the shared parameters per task; other aggregators and several processes need it twice.
- With several processes the model runs outside DDP, which averages one gradient per parameter: rows and the gradients
  of heads are averaged here, so a run communicates one gradient per task.
- `Sum` is the plain run over complete rounds, bit for bit: nothing here is used.
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
_PIECE = 131_072  # numbers per partial sum: a float32 sum over millions is wrong in the third digit
_MEMORY = "it depends on earlier steps, which a checkpoint does not contain"
_WORKERS = "it protects against faulty workers, which does not apply to tasks"
_REFUSED = {
    "Constant": "set `tasks.<name>.loss_weight` instead",
    "ExcessMTL": _MEMORY,
    "GradVac": _MEMORY,
    "Krum": _WORKERS,
    "NashMTL": _MEMORY,
    "PCD": _MEMORY,
    "TrimmedMean": _WORKERS,
}


class GradientAggregation:
    """Collects the Jacobian of a step and aggregates it.

    Args:
        aggregator: An aggregator of torchjd.
        model: The trained model.
        seed: Seed of random aggregators.
    """

    def __init__(self, aggregator: Any, model: nn.Module, seed: int) -> None:
        self.aggregator, self.model, self.seed = aggregator, model, seed
        self.tasks: list[str] = []  # tasks of the step, in the order of the rows
        self.rows: list[list[Tensor | None]] = []  # by task and shared parameter: the gradient so far
        self.weights: dict[str, float] = {}  # of the rows in the last step, if the aggregator has weights
        self._shared: list[nn.Parameter] = []

    def begin_step(self, tasks: Sequence[str]) -> None:
        """Prepare a row for each task with a labelled item in the step, on any process."""
        self.tasks = list(tasks)
        self._shared = [parameter for name, parameter in self._trained() if not name.startswith("heads.")]
        self.rows = [[None] * len(self._shared) for _ in tasks]

    def add(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Run the backward passes of a micro-batch of this process.

        Args:
            losses: Task → weighted contribution to the task's loss.
            backward: `Accelerator.backward`.
        """
        for number, (name, loss) in enumerate(losses.items(), start=1):
            row = self.rows[self.tasks.index(name)]
            for parameter, before in zip(self._shared, row, strict=True):
                parameter.grad = before  # the backward pass adds to it
            backward(loss, retain_graph=number < len(losses))
            for position, parameter in enumerate(self._shared):
                row[position], parameter.grad = parameter.grad, None

    @torch.no_grad()
    def end_step(self, step: int) -> str | None:
        """Write the aggregated gradients for the optimiser.

        Args:
            step: Number of the step, which with the seed determines random draws.

        Returns:
            A message if a value is not finite (no gradient is written then), else None.
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
        """The shared parameters with a gradient of any task on any process, and the rows averaged over processes.

        Other parameters have no gradient, as in a plain run, instead of a gradient of 0. While all shared parameters
        are frozen (before `unfreeze` unfreezes them) there are no rows.
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
        while self.rows:  # free each row of this process once it is averaged
            own = self.rows.pop(0)
            row = filled(shared, [own[position] for position in places])
            rows.append(_split(mean_over_processes(join(row)), shared) if in_several_processes() else row)
        return shared, rows

    def _average_heads(self) -> None:
        for name, parameter in self._trained():
            if name.startswith("heads.") and name.split(".")[1] in self.tasks:
                (own,) = filled([parameter], [parameter.grad])  # None on a process without a labelled item of the task
                parameter.grad = mean_over_processes(own)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def inner_products(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products of long rows with each other, (num_rows, num_rows).

    Args:
        rows: The tensors of each row; tensors at the same position have the same shape.
    """
    found = rows[0][0].new_zeros(len(rows), len(rows))
    pieces = [[piece for tensor in row for piece in tensor.flatten().split(_PIECE)] for row in rows]
    for a, b in combinations_with_replacement(range(len(rows)), 2):
        found[a, b] = found[b, a] = torch.stack([x @ y for x, y in zip(pieces[a], pieces[b], strict=True)]).sum()
    return found


def combine(
    aggregator: Any, rows: Sequence[Sequence[Tensor]], gramian: Tensor
) -> tuple[Tensor | None, Sequence[Tensor]]:
    """Aggregate the rows.

    Args:
        aggregator: An aggregator of torchjd.
        rows: For each task, its gradient for each parameter. The first row is overwritten by the result.
        gramian: Inner products of the rows, (num_tasks, num_tasks).

    Returns:
        The weights of the rows, (num_tasks,), or None if the aggregator has no weights; and their combination, one
        tensor per parameter.
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
        combined *= first  # in place: for long rows, allocating memory would double the time
        for tensor, weight in zip(tensors, others, strict=True):
            combined.add_(tensor, alpha=weight)
    return weights, rows[0]


def filled(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Gradients of parameters, 0 for parameters without one."""
    pairs = zip(parameters, gradients, strict=True)
    return [torch.zeros_like(parameter) if grad is None else grad for parameter, grad in pairs]


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors into one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Split a vector into consecutive tensors with the shapes of the given ones."""
    parts = vector.split([one.numel() for one in like])
    return [part.view_as(one) for part, one in zip(parts, like, strict=True)]


def check_aggregation(value: str | Mapping[str, Any], policy: str, balancing: str | Mapping[str, Any]) -> None:
    """Check `gradient_aggregation`, as far as possible without a model.

    Args:
        value: Value of the setting.
        policy: Value of `policy`.
        balancing: Value of `loss_balancing`.

    Raises:
        ValueError: An unknown class, one that cannot be used, wrong options, or a conflict with another setting.
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
            f"`{SETTING}: {name}` and `loss_balancing` both weight the tasks and cannot be combined: set"
            " `loss_balancing: static` (to prefer a task, set its `loss_weight`)."
        )


def make_aggregator(value: str | Mapping[str, Any]) -> Any:
    """Create the aggregator of `gradient_aggregation`; None for `Sum`.

    Raises:
        ValueError: See `check_aggregation`.
    """
    name, options = read_choice(SETTING, value)
    kind = find_class(SETTING, name, "aggregation", "Aggregator", _REFUSED)
    for key, option in options.items():
        if isinstance(option, list):
            raise ValueError(
                f"`{SETTING}.{key}` is a list with one number per row, but a step has only rows of tasks with labels"
                " in it: to prefer a task, set its `loss_weight`."
            )
    aggregator = make(SETTING, kind, options)
    return None if name == "Sum" else aggregator


def steps_of_a_round(num_sources: int, given: int) -> int:
    """Micro-batches per step: one of each source.

    Args:
        num_sources: Number of sources.
        given: Value of `gradient_accumulation_steps`.

    Raises:
        ValueError: Another number is configured.
    """
    if given not in (1, num_sources):
        raise ValueError(
            f"`training.gradient_accumulation_steps` is {given}; with `gradient_aggregation` a step is one round, so it"
            f" must be the number of sources, {num_sources}: remove it."
        )
    return num_sources


class AggregatedGradients(Feature):
    """Runs a backward pass for each task's loss and writes the aggregated gradients at the end of a step.

    Args:
        aggregation: The aggregation of the trained model.
        own_weights: Task → its `loss_weight`.
        stop: Called with the problem if training cannot continue.
    """

    own_backward = True

    def __init__(
        self, aggregation: GradientAggregation, own_weights: Mapping[str, float], stop: Callable[[str], NoReturn]
    ) -> None:
        self.aggregation, self.own_weights, self.stop = aggregation, own_weights, stop

    def begin_step(self, step: Step) -> None:
        """Prepare for the gradients of the step's tasks."""
        self.aggregation.begin_step(step.tasks)

    def backward(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Run the backward pass of each loss."""
        self.aggregation.add(losses, backward)

    def end_step(self, step: Step) -> None:
        """Write the aggregated gradients for the optimiser."""
        if problem := self.aggregation.end_step(step.number):
            self.stop(f"{problem} in step {step.number}")

    def logs(self) -> dict[str, float]:
        """`<task>_weight` → weight of the task's gradient of the shared parameters."""
        weights = self.aggregation.weights
        return {f"{name}_weight": weight * self.own_weights[name] for name, weight in weights.items()}


def make_aggregation(trainer: "MultiTaskTrainer") -> AggregatedGradients | None:
    """The feature of `gradient_aggregation`; none for `Sum`.

    Raises:
        ValueError: No shared parameter is trained.
    """
    args, model = trainer.args, trainer.model
    if args.gradient_aggregation is None:
        return None
    if not any(one.requires_grad for name, one in model.named_parameters() if not name.startswith("heads.")):
        raise ValueError(
            f"`{SETTING}` combines gradients of shared parameters, but none of them is trained: unfreeze a part of the"
            " encoder, or remove it."
        )
    aggregator = make_aggregator(args.gradient_aggregation)
    if trainer.train_rows:
        logger.info(
            "Gradients of %s are combined by %s: `gradient_accumulation_steps` is set to %d, so that a step is a"
            " round, one batch of each source. If the method has weights, the weight of each task is logged beside its"
            " loss (x).",
            ", ".join(name for name, task in trainer.tasks.items() if task.config.train),
            read_choice(SETTING, args.gradient_aggregation)[0],
            args.gradient_accumulation_steps,
        )
    if aggregator is None:
        return None
    return AggregatedGradients(GradientAggregation(aggregator, model, args.seed), trainer.loss_weights, trainer.stop)
