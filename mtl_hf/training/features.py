"""`Feature`: the interface by which a feature of training plugs into the Trainer.

A feature is a `TrainerCallback` that also has the hooks that transformers lacks. All of them do nothing by default. The
Trainer adds its own features from a table (`trainer.FEATURES`) to its callbacks; others are given as `callbacks`, or
added with `add_callback`. Each hook is called for one feature after the other, in the order of the callbacks: those
given first, then those of the table. In a run they come in this order (callbacks' in brackets):

- `load`, of a run that resumes; `before_training`; `parameter_groups`; [`on_train_begin`]
- every step, once its batches are taken: [`on_step_begin`]; `begin_step`
    - every micro-batch of it: `around_forward`; `add_loss` for each task; `backward`
    - `end_step`; clipping; [`on_pre_optimizer_step`]; the optimiser; [`on_step_end`]
- every log of a training loss: `logs`; [`on_log`]
- every evaluation while training, source after source: `before_evaluation`; `around_forward`
- every checkpoint: `save`; `steps_to_keep`; [`on_save`]
- [`on_train_end`]
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from ..data.collator import EncodedRows


@dataclass
class Step:
    """An optimiser step, over all its micro-batches and processes.

    Attributes:
        number: Its number, from 1.
        epoch: How many epochs are over.
        tasks: Those with a labelled item in it, on whatever process.
        loss_weights: Task → what its loss is multiplied by: `loss_weight`, which features multiply in `begin_step`.
    """

    number: int
    epoch: int
    tasks: list[str]
    loss_weights: dict[str, float]


class Feature(TrainerCallback):
    """What the Trainer calls besides the hooks of `TrainerCallback`; see above for the order.

    Attributes:
        own_backward: Whether `backward` takes the place of the Trainer's own. The model then runs outside of DDP, which
            averages one gradient a parameter.
    """

    own_backward = False

    def before_training(self, rows: EncodedRows) -> None:
        """Training rows are about to be loaded, on every process.

        Args:
            rows: All of them, whose `states` may be set.
        """

    def before_evaluation(self, source: str, rows: EncodedRows, order: np.ndarray) -> None:
        """Validation rows of a source are about to be loaded, while training.

        Args:
            source: Its name.
            rows: All of its rows, in another order; their `states` may be set.
            order: For each of these rows, its number in the source.
        """

    def begin_step(self, step: Step) -> None:
        """A step's batches are taken, and parts that open in it are open."""

    def around_forward(self, inputs: dict[str, Any]) -> AbstractContextManager[None]:
        """A context for a pass through the model, in training and in evaluation.

        Args:
            inputs: Of the model, of a whole micro-batch on its device; may be changed.
        """
        return nullcontext()

    def add_loss(self, task: str, loss: Tensor) -> None:
        """Read a task's loss in a micro-batch of this process, unweighted and not backpropagated yet, ()."""

    def backward(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Backpropagate a micro-batch; only with `own_backward`.

        Args:
            losses: Task → its weighted loss.
            backward: `Accelerator.backward`.
        """

    def end_step(self, step: Step) -> None:
        """All gradients of a step are there, not clipped yet; of this process alone with `own_backward`."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups of what the feature learns, which come after those of the model."""
        return []

    def logs(self) -> dict[str, float]:
        """What a log of the training loss has besides."""
        return {}

    def steps_to_keep(self, state: TrainerState) -> set[int]:
        """Steps whose checkpoints are kept whatever `save_total_limit` is, and are saved with `save_strategy: best`."""
        return set()

    def save(self, checkpoint: Path) -> None:
        """Write into a checkpoint what `load` needs; on the main process."""

    def load(self, checkpoint: Path) -> None:
        """Restore the feature from a checkpoint that is resumed.

        Raises:
            ValueError: The checkpoint lacks what `save` writes.
        """
