"""Balanced losses: how much each task's loss weighs is decided anew in every step.

Three ways: by losses alone (the scalarizers of torchjd: uncertainty weights, DWA, ...), by how fast tasks learn and how
strong their gradients are (GradNorm, ours, since torchjd has none), or not at all (`static`). Notable:

- The weights multiply `loss_weight`: a balancer sees losses as they are, so `loss_weight` stays what one prefers.
- A step may hold only some tasks, and a micro-batch only some of those. So a balancer sees the *latest* loss of each
  task, its mean over all items of the last step that had it (1 before the first), and its weights stand before a step
  begins. A scalarizer weighs task i by its derivative for the i-th loss. Where that does not depend on the losses (UW,
  IMTLL, DWA, Random, Mean, Sum) this is exactly the scalarizer; where it does (GeometricMean, STCH, PBI, COSMOS), the
  derivative is taken at the losses of the step before.
- All numbers are means over processes, so every process has the same weights.
"""

import copy
import inspect
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config import nearest
from .choices import find_class, make, read_choice
from .features import Feature, Step
from .optimizer import Part
from .processes import mean_over_processes

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

SETTING = "training.loss_balancing"
GROUP = "balancing"  # name of the optimiser's group with what balancers learn
STATE_FILE = "balancing.safetensors"
LEARNING_RATE = 0.025  # of what balancers learn, which is far from the model's: section 4 of GradNorm
_OWN = {"static": (), "gradnorm": ("alpha",)}
_REFUSED = {
    "FAMO": "it needs the losses of each batch a second time, after the step",
    "Constant": "`tasks.<name>.loss_weight` says the same",
}


class Balancer:
    """Collects the losses of a step, and says before each step what they are multiplied by.

    Args:
        tasks: Names of the tasks, in the order of the weights.
        device: Where losses are.
        dtype: Of what is learned.
        learning_rate: Of what is learned.
    """

    def __init__(
        self, tasks: Sequence[str], *, device: torch.device, dtype: torch.dtype, learning_rate: float = LEARNING_RATE
    ) -> None:
        self.tasks = list(tasks)
        self.learning_rate = learning_rate
        self.losses = torch.ones(len(tasks), device=device, dtype=dtype)
        self._sums = torch.zeros_like(self.losses)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned."""
        return []

    def begin_step(self, epoch: int) -> dict[str, float]:
        """Task → its weight in the step that begins.

        Args:
            epoch: How many epochs are over.
        """
        return dict(zip(self.tasks, self._weights().tolist(), strict=True))

    def add(self, task: str, loss: Tensor) -> None:
        """Take note of a task's loss in a micro-batch of this process, unweighted and not backpropagated yet."""
        self._sums[self.tasks.index(task)] += loss.detach()

    def end_step(self, tasks: Collection[str]) -> None:
        """Learn from the step, before the optimiser's.

        Args:
            tasks: Those with a labelled item in the step, on whatever process.
        """
        here = torch.tensor([name in tasks for name in self.tasks], device=self.losses.device)
        self.losses = torch.where(here, mean_over_processes(self._sums), self.losses)
        self._sums = torch.zeros_like(self.losses)
        self._learn(here)

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs to hold."""
        return {"losses": self.losses}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.losses = state["losses"].to(self.losses.device)

    def _weights(self) -> Tensor:
        raise NotImplementedError

    def _learn(self, here: Tensor) -> None:
        raise NotImplementedError


class ScalarizedLosses(Balancer):
    """Weights by one of torchjd's scalarizers.

    Args:
        scalarizer: Of losses in the order of the tasks.
        seed: Decides what a scalarizer draws at random.
        tasks: As of `Balancer`.
        **options: As of `Balancer`.

    Raises:
        ValueError: The scalarizer does not fit the number of tasks.
    """

    def __init__(self, scalarizer: nn.Module, seed: int, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(tasks, **options)
        self.scalarizer = scalarizer.to(device=self.losses.device, dtype=self.losses.dtype)
        for name, value in vars(scalarizer).items():
            if isinstance(value, Tensor):  # torchjd keeps options that are tensors in plain attributes
                setattr(self.scalarizer, name, value.to(self.losses))
        self.seed = seed
        self.num_steps = self.epoch = 0
        self._weights()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned."""
        return list(self.scalarizer.parameters())

    def begin_step(self, epoch: int) -> dict[str, float]:
        """Task → its weight in the step that begins."""
        if epoch > self.epoch and self._remembers_epochs:
            self.scalarizer.step()  # type: ignore[operator]
        self.epoch = epoch
        return super().begin_step(epoch)

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs to hold."""
        state = super().state() | {"progress": torch.tensor([self.num_steps, self.epoch])}
        state |= {f"scalarizer.{name}": tensor for name, tensor in self.scalarizer.state_dict().items()}
        if self._remembers_epochs:  # in plain attributes, which `state_dict` does not have
            own: Any = self.scalarizer
            state["num_batches"] = torch.tensor(own._n_batches)
            state["averages"] = torch.stack([*own._previous_averages, self.losses])[:-1]
            if own._loss_sum is not None:
                state["sum"] = own._loss_sum
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        super().load(state)
        self.num_steps, self.epoch = state["progress"].tolist()
        own: Any = self.scalarizer
        own.load_state_dict({name: state[f"scalarizer.{name}"] for name in own.state_dict()})
        if self._remembers_epochs:
            own._n_batches = int(state["num_batches"])
            own._previous_averages = list(state["averages"].to(self.losses.device))
            own._loss_sum = state["sum"].to(self.losses.device) if "sum" in state else None

    @property
    def _remembers_epochs(self) -> bool:
        return type(self.scalarizer).__name__ == "DWA"

    def _weights(self) -> Tensor:
        losses = self.losses.clone().requires_grad_()
        with drawing(self.seed, self.num_steps, self.losses.device):
            total = copy.deepcopy(self.scalarizer)(losses)  # of a copy, since DWA takes note of what it is shown
        (weights,) = torch.autograd.grad(total, losses)
        return weights

    def _learn(self, here: Tensor) -> None:
        with drawing(self.seed, self.num_steps, self.losses.device):
            total = self.scalarizer(self.losses)
        self.num_steps += 1
        if self.parameters:
            for parameter, gradient in zip(self.parameters, torch.autograd.grad(total, self.parameters), strict=True):
                parameter.grad = gradient


class GradNorm(Balancer):
    """GradNorm (Chen et al., arXiv 1711.02257): weights by which all tasks learn at a like pace.

    With n_i the norm of the gradient of task i's loss at the last shared layer and w_i its weight, w learns to make
    w_i n_i equal to mean(w n) · r_i^alpha, where r_i = (L_i / L_i(0)) / mean(L / L(0)) is how far task i is behind: by
    the gradient of Σ |w_i n_i − mean(w n) r_i^alpha| (equation 2), the right-hand sides taken as constants. After each
    step the weights are scaled so that their sum is the number of tasks. Losses and norms are those of the last step
    that had the task; L(0) is the first; nothing is learned before every task has one. Weights stay above or at 0.

    Args:
        layers: Shared parts, from the input up: the last of them that is open in a step is the last shared layer.
        alpha: How strongly tasks that are behind are pulled: 0 makes gradients equally strong (0.12 to 1.5 in the
            paper).
        tasks: As of `Balancer`.
        **options: As of `Balancer`.
    """

    def __init__(self, layers: Sequence[Part], alpha: float, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(tasks, **options)
        self.layers, self.alpha = list(layers), alpha
        self.shared: list[nn.Parameter] = []  # of the last layer that is open in this step
        self.task_weights = nn.Parameter(torch.ones_like(self.losses))
        self.first_losses = torch.full_like(self.losses, torch.nan)
        self.norms = torch.zeros_like(self.losses)
        self._gradients = self.losses.new_zeros(len(tasks), 0)  # of this step, there

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned."""
        return [self.task_weights]

    def begin_step(self, epoch: int) -> dict[str, float]:
        """Task → its weight in the step that begins."""
        with torch.no_grad():
            self.task_weights.clamp_(min=0)
            self.task_weights.mul_(len(self.tasks) / self.task_weights.sum())
        last = next((part for part in reversed(self.layers) if not part.frozen), None)
        self.shared = [one for one in last.parameters.values() if one.requires_grad] if last else []
        size = sum(parameter.numel() for parameter in self.shared)
        self._gradients = self.task_weights.new_zeros(len(self.tasks), size)
        return super().begin_step(epoch)

    def add(self, task: str, loss: Tensor) -> None:
        """Take note of a task's loss, and of its gradient at the shared layer."""
        super().add(task, loss)
        if not self.shared:
            return
        gradients = torch.autograd.grad(loss, self.shared, retain_graph=True, allow_unused=True)
        begin, row = 0, self._gradients[self.tasks.index(task)]
        for parameter, gradient in zip(self.shared, gradients, strict=True):
            if gradient is not None:
                row[begin : begin + parameter.numel()] += gradient.flatten()
            begin += parameter.numel()

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs to hold."""
        own = {"task_weights": self.task_weights.detach(), "first_losses": self.first_losses, "norms": self.norms}
        return super().state() | own

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        super().load(state)
        self.first_losses = state["first_losses"].to(self.losses.device)
        self.norms = state["norms"].to(self.losses.device)
        with torch.no_grad():
            self.task_weights.copy_(state["task_weights"])

    def _weights(self) -> Tensor:
        return self.task_weights.detach()

    def _learn(self, here: Tensor) -> None:
        if not self.shared:
            return
        norms = mean_over_processes(self._gradients).norm(dim=1).to(self.losses.dtype)
        self.norms = torch.where(here, norms, self.norms)
        self.first_losses = torch.where(here & self.first_losses.isnan(), self.losses, self.first_losses)
        if self.first_losses.isnan().any():
            return
        progress = self.losses / self.first_losses
        strengths = self.task_weights * self.norms
        wanted = (strengths.mean() * (progress / progress.mean()) ** self.alpha).detach()
        (self.task_weights.grad,) = torch.autograd.grad((strengths - wanted).abs().sum(), self.task_weights)


@contextmanager
def drawing(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Draw what is drawn at random by (seed, step): alike on every process and after a resume.

    The random numbers of training itself stay as they are.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(1_000_003 * seed + step)
        yield


def check_balancing(value: str | Mapping[str, Any]) -> None:
    """Check `loss_balancing` as far as it can be without tasks.

    Raises:
        ValueError: An unknown name, an option that the method does not have, a class that cannot be used here.
    """
    name, options = read_choice(SETTING, value)
    rate = options.pop("learning_rate", LEARNING_RATE)
    _check_number("learning_rate", rate)
    if name not in _OWN:
        kind = find_class(SETTING, name, "scalarization", "Scalarizer", _REFUSED, tuple(_OWN))
        make(SETTING, kind, _with_shape(kind, options, 2), besides=["learning_rate"])
        return
    for key, number in options.items():
        if key not in _OWN[name]:
            known = (*_OWN[name], "learning_rate")
            raise ValueError(f"`{SETTING}` {name!r} has no option `{key}`.{nearest(key, known)}")
        _check_number(key, number)


def _check_number(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{SETTING}.{key}` is {value!r}; it is a finite number of at least 0.")


def make_balancer(
    value: str | Mapping[str, Any],
    tasks: Sequence[str],
    parts: Sequence[Part],
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Balancer | None:
    """What `loss_balancing` asks for; None for `static`.

    Args:
        value: A checked value.
        tasks: Names of the tasks that are trained.
        parts: Of the model, as `find_parts` returns them, with what is frozen frozen.
        seed: Decides what is drawn at random.
        device: Of the model.
        dtype: Of the model.

    Raises:
        ValueError: The method does not fit the tasks, or needs a shared layer and none is trained.
    """
    name, options = read_choice(SETTING, value)
    if name == "static":
        return None
    own = {"device": device, "dtype": dtype, "learning_rate": options.pop("learning_rate", LEARNING_RATE)}
    if name == "gradnorm":
        trained = [part for part in parts if not part.frozen]
        layers = [part for part in trained if part.name.startswith("encoder.layers.")]
        layers = layers or [part for part in trained if part.name in ("adapters", "experts")]
        if not layers:
            raise ValueError(
                f"`{SETTING}: gradnorm` weighs tasks by their gradients at the last shared layer, and nothing that they"
                " share is trained: thaw a layer, or choose another balancing, such as UW."
            )
        return GradNorm(layers, options.get("alpha", 1.5), tasks, **own)
    kind = find_class(SETTING, name, "scalarization", "Scalarizer", _REFUSED, tuple(_OWN))
    scalarizer = make(SETTING, kind, _with_shape(kind, options, len(tasks)))
    try:
        return ScalarizedLosses(scalarizer, seed, tasks, **own)
    except ValueError as error:  # options of another number of tasks
        raise ValueError(f"`{SETTING}`: {name} of {len(tasks)} tasks ({', '.join(tasks)}): {error}") from error


def _with_shape(kind: Any, options: Mapping[str, Any], num_tasks: int) -> dict[str, Any]:
    """Options of a scalarizer, with the number of tasks where it asks for that."""
    asks = "shape" in inspect.signature(kind).parameters
    return dict(options) | ({"shape": num_tasks} if asks else {})


class LossBalancing(Feature):
    """Multiplies each task's loss by the weight that a balancer gives it, on top of `loss_weight`.

    Args:
        balancer: The balancer.
        own_weights: Task → its `loss_weight`.
        stop: Called with what is wrong in a step that cannot go on.
    """

    def __init__(self, balancer: Balancer, own_weights: Mapping[str, float], stop: Callable[[str], NoReturn]) -> None:
        self.balancer, self.stop = balancer, stop
        self.loss_weights = dict(own_weights)  # of the last step

    def begin_step(self, step: Step) -> None:
        """Set the step's weights."""
        for name, weight in self.balancer.begin_step(step.epoch).items():
            if not math.isfinite(weight):
                self.stop(f"the weight of task {name!r} is {weight} in step {step.number}")
            step.loss_weights[name] *= weight
        self.loss_weights = step.loss_weights

    def add_loss(self, task: str, loss: Tensor) -> None:
        """Hand the loss to the balancer."""
        self.balancer.add(task, loss)

    def end_step(self, step: Step) -> None:
        """Learn from the step."""
        self.balancer.end_step(step.tasks)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the balancer learns."""
        if not self.balancer.parameters:
            return []
        rate = self.balancer.learning_rate
        return [{"params": self.balancer.parameters, "lr": rate, "weight_decay": 0.0, "name": GROUP}]

    def logs(self) -> dict[str, float]:
        """`<task>_weight` → what the task's loss was multiplied by."""
        return {f"{name}_weight": self.loss_weights[name] for name in self.balancer.tasks}

    def save(self, checkpoint: Path) -> None:
        """Write the balancer's state."""
        state = {name: tensor.cpu().clone() for name, tensor in self.balancer.state().items()}
        save_file(state, checkpoint / STATE_FILE)

    def load(self, checkpoint: Path) -> None:
        """Read it.

        Raises:
            ValueError: The checkpoint is of a run without balanced losses.
        """
        if not (checkpoint / STATE_FILE).is_file():
            raise ValueError(
                f"`resume_from_checkpoint`: {checkpoint} has no {STATE_FILE}: its run did not balance losses."
            )
        self.balancer.load(load_file(checkpoint / STATE_FILE))


def make_balancing(trainer: "MultiTaskTrainer") -> LossBalancing | None:
    """The feature of `loss_balancing`.

    Raises:
        ValueError: As of `make_balancer`.
    """
    args = trainer.args
    tasks = [name for name, task in trainer.tasks.items() if task.config.train]
    model = trainer.model
    balancer = make_balancer(
        args.loss_balancing, tasks, trainer.parts, seed=args.seed, device=args.device, dtype=model.dtype
    )
    if balancer is None:
        return None
    if trainer.train_rows:
        logger.info("Losses of %s are balanced by %s: what each is multiplied by is logged beside it (x).",
                    ", ".join(tasks), read_choice(SETTING, args.loss_balancing)[0])  # fmt: skip
    return LossBalancing(balancer, trainer.loss_weights, trainer.stop)
