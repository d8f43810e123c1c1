"""Loss balancing: the weight of each task's loss is computed anew in every step.

There are three methods: by the losses alone (the scalarizers of torchjd: uncertainty weights, DWA, ...), by learning
speed and gradient norm (GradNorm, implemented here because torchjd does not have it), or none (`static`). Notable:

- The weights are multiplied by `loss_weight`: a balancer sees unweighted losses, so `loss_weight` keeps its meaning.
- A step may contain only some tasks, and a micro-batch only some of those. So a balancer uses the *latest* loss of each
  task, its mean over all items of the last step with the task (1 before the first), and computes the weights before a
  step begins. A scalarizer weights task i by its derivative with respect to the i-th loss. If that does not depend on
  the losses (UW, IMTLL, DWA, Random, Mean, Sum), the result is exactly the scalarizer; otherwise (GeometricMean, STCH,
  PBI, COSMOS) the derivative is taken at the losses of the previous step.
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
GROUP = "balancing"  # name of the optimiser group with the balancer's parameters
STATE_FILE = "balancing.safetensors"
LEARNING_RATE = 0.025  # of the balancer's parameters, far above the model's: section 4 of GradNorm
_OWN = {"static": (), "gradnorm": ("alpha",)}
_REFUSED = {
    "FAMO": "it needs the losses of each batch a second time, after the step",
    "Constant": "set `tasks.<name>.loss_weight` instead",
}


class Balancer:
    """Collects the losses of each step, and computes their weights before each step.

    Args:
        tasks: Names of the tasks, in the order of the weights.
        device: Device of the losses.
        dtype: Type of the learned parameters.
        learning_rate: Learning rate of the learned parameters.
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
        """The learned parameters."""
        return []

    def begin_step(self, epoch: int) -> dict[str, float]:
        """Task → its weight in the step that begins.

        Args:
            epoch: Number of completed epochs.
        """
        return dict(zip(self.tasks, self._weights().tolist(), strict=True))

    def add(self, task: str, loss: Tensor) -> None:
        """Record a task's unweighted loss in a micro-batch of this process, before its backward pass."""
        self._sums[self.tasks.index(task)] += loss.detach()

    def end_step(self, tasks: Collection[str]) -> None:
        """Update the balancer, before the optimiser step.

        Args:
            tasks: Tasks with a labelled item in the step, on any process.
        """
        here = torch.tensor([name in tasks for name in self.tasks], device=self.losses.device)
        self.losses = torch.where(here, mean_over_processes(self._sums), self.losses)
        self._sums = torch.zeros_like(self.losses)
        self._learn(here)

    def state(self) -> dict[str, Tensor]:
        """The state to save in a checkpoint."""
        return {"losses": self.losses}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state`."""
        self.losses = state["losses"].to(self.losses.device)

    def _weights(self) -> Tensor:
        raise NotImplementedError

    def _learn(self, here: Tensor) -> None:
        raise NotImplementedError


class ScalarizedLosses(Balancer):
    """Weights by one of torchjd's scalarizers.

    Args:
        scalarizer: Scalarizer of the losses, in the order of the tasks.
        seed: Seed of random scalarizers.
        tasks: See `Balancer`.
        **options: See `Balancer`.

    Raises:
        ValueError: The scalarizer does not fit the number of tasks.
    """

    def __init__(self, scalarizer: nn.Module, seed: int, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(tasks, **options)
        self.scalarizer = scalarizer.to(device=self.losses.device, dtype=self.losses.dtype)
        for name, value in vars(scalarizer).items():
            if isinstance(value, Tensor):  # torchjd stores tensor options in plain attributes
                setattr(self.scalarizer, name, value.to(self.losses))
        self.seed = seed
        self.num_steps = self.epoch = 0
        self._weights()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The learned parameters."""
        return list(self.scalarizer.parameters())

    def begin_step(self, epoch: int) -> dict[str, float]:
        """Task → its weight in the step that begins."""
        if epoch > self.epoch and self._remembers_epochs:
            self.scalarizer.step()  # type: ignore[operator]
        self.epoch = epoch
        return super().begin_step(epoch)

    def state(self) -> dict[str, Tensor]:
        """The state to save in a checkpoint."""
        state = super().state() | {"progress": torch.tensor([self.num_steps, self.epoch])}
        state |= {f"scalarizer.{name}": tensor for name, tensor in self.scalarizer.state_dict().items()}
        if self._remembers_epochs:  # stored in plain attributes, which are not in `state_dict`
            own: Any = self.scalarizer
            state["num_batches"] = torch.tensor(own._n_batches)
            state["averages"] = torch.stack([*own._previous_averages, self.losses])[:-1]
            if own._loss_sum is not None:
                state["sum"] = own._loss_sum
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state`."""
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
            total = copy.deepcopy(self.scalarizer)(losses)  # use a copy, because DWA records the losses that it gets
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
    """GradNorm (Chen et al., arXiv 1711.02257): weights with which all tasks train at similar rates.

    Let n_i be the norm of the gradient of task i's loss at the last shared layer, w_i its weight, and r_i = (L_i /
    L_i(0)) / mean(L / L(0)) its relative inverse training rate. The weights learn to make w_i n_i equal to mean(w n) ·
    r_i^alpha, with the gradient of Σ |w_i n_i − mean(w n) r_i^alpha| (equation 2; the right-hand sides are constants).
    After each step the weights are scaled so that their sum is the number of tasks. Losses and norms are those of the
    last step with the task; L(0) is its first loss; updates start once every task has one. Weights are at least 0.

    Args:
        layers: Shared parts, from the input up: the last one that is trained in a step is the last shared layer.
        alpha: Strength with which slower tasks get larger weights; 0 makes gradient norms equal (0.12 to 1.5 in the
            paper).
        tasks: See `Balancer`.
        **options: See `Balancer`.
    """

    def __init__(self, layers: Sequence[Part], alpha: float, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(tasks, **options)
        self.layers, self.alpha = list(layers), alpha
        self.shared: list[nn.Parameter] = []  # of the last layer that is trained in this step
        self.task_weights = nn.Parameter(torch.ones_like(self.losses))
        self.first_losses = torch.full_like(self.losses, torch.nan)
        self.norms = torch.zeros_like(self.losses)
        self._gradients = self.losses.new_zeros(len(tasks), 0)  # of this step, there

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The learned parameters."""
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
        """Record a task's loss and its gradient at the last shared layer."""
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
        """The state to save in a checkpoint."""
        own = {"task_weights": self.task_weights.detach(), "first_losses": self.first_losses, "norms": self.norms}
        return super().state() | own

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state`."""
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
    """Seed random draws by (seed, step), so that they are equal on every process and after a resume.

    The random state of training itself is not changed.
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
    """Create the balancer of `loss_balancing`; None for `static`.

    Args:
        value: A checked value of the setting.
        tasks: Names of the trained tasks.
        parts: The result of `find_parts`, with frozen parts frozen.
        seed: Seed of random draws.
        device: Device of the model.
        dtype: Type of the model.

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
                f"`{SETTING}: gradnorm` weights tasks by their gradients at the last shared layer, but no shared layer"
                " is trained: unfreeze a layer, or choose another method, such as UW."
            )
        return GradNorm(layers, options.get("alpha", 1.5), tasks, **own)
    kind = find_class(SETTING, name, "scalarization", "Scalarizer", _REFUSED, tuple(_OWN))
    scalarizer = make(SETTING, kind, _with_shape(kind, options, len(tasks)))
    try:
        return ScalarizedLosses(scalarizer, seed, tasks, **own)
    except ValueError as error:  # options for another number of tasks
        raise ValueError(f"`{SETTING}`: {name} of {len(tasks)} tasks ({', '.join(tasks)}): {error}") from error


def _with_shape(kind: Any, options: Mapping[str, Any], num_tasks: int) -> dict[str, Any]:
    """Options of a scalarizer, with the number of tasks if it has that parameter."""
    has_shape = "shape" in inspect.signature(kind).parameters
    return dict(options) | ({"shape": num_tasks} if has_shape else {})


class LossBalancing(Feature):
    """Multiplies each task's loss by the weight of a balancer, on top of `loss_weight`.

    Args:
        balancer: The balancer.
        own_weights: Task → its `loss_weight`.
        stop: Called with the problem if training cannot continue.
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
        """Pass the loss to the balancer."""
        self.balancer.add(task, loss)

    def end_step(self, step: Step) -> None:
        """Update the balancer."""
        self.balancer.end_step(step.tasks)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser group of the balancer's parameters."""
        if not self.balancer.parameters:
            return []
        rate = self.balancer.learning_rate
        return [{"params": self.balancer.parameters, "lr": rate, "weight_decay": 0.0, "name": GROUP}]

    def logs(self) -> dict[str, float]:
        """`<task>_weight` → the weight of the task's loss."""
        return {f"{name}_weight": self.loss_weights[name] for name in self.balancer.tasks}

    def save(self, checkpoint: Path) -> None:
        """Save the balancer's state."""
        state = {name: tensor.cpu().clone() for name, tensor in self.balancer.state().items()}
        save_file(state, checkpoint / STATE_FILE)

    def load(self, checkpoint: Path) -> None:
        """Load the balancer's state.

        Raises:
            ValueError: The checkpoint is of a run without loss balancing.
        """
        if not (checkpoint / STATE_FILE).is_file():
            raise ValueError(
                f"`resume_from_checkpoint`: {checkpoint} has no {STATE_FILE}: its run had no `loss_balancing`."
            )
        self.balancer.load(load_file(checkpoint / STATE_FILE))


def make_balancing(trainer: "MultiTaskTrainer") -> LossBalancing | None:
    """The feature of `loss_balancing`.

    Raises:
        ValueError: See `make_balancer`.
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
        logger.info("Losses of %s are balanced by %s: the weight of each is logged beside it (x).",
                    ", ".join(tasks), read_choice(SETTING, args.loss_balancing)[0])  # fmt: skip
    return LossBalancing(balancer, trainer.loss_weights, trainer.stop)
