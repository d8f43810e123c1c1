"""`Feature`: the interface with which a training feature plugs into the Trainer.

A feature is a `TrainerCallback` with additional hooks that transformers lacks. By default all of them do nothing. The
Trainer adds its own features from a table (`trainer.FEATURES`) to its callbacks; pass others as `callbacks`, or add
them with `add_callback`. Each hook is called for all features in the order of the callbacks: those passed first, then
those of the table. The hooks of a run, in order (stock callback hooks in brackets):

- `load`, in a resumed run; `before_training`; `parameter_groups`; [`on_train_begin`]
- every step, after its batches are fetched: [`on_step_begin`]; `begin_step`
    - every micro-batch of it: `around_forward`; `add_loss` for each task; `backward`
    - `end_step`; clipping; [`on_pre_optimizer_step`]; the optimiser step; [`on_step_end`]
- every log of a training loss: `logs`; [`on_log`]
- every evaluation during training, for each source: `before_evaluation`; `around_forward`
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
        epoch: Number of completed epochs.
        tasks: Tasks with a labelled item in it, on any process.
        loss_weights: Task → weight of its loss: `loss_weight`, which features may multiply in `begin_step`.
    """

    number: int
    epoch: int
    tasks: list[str]
    loss_weights: dict[str, float]


class Feature(TrainerCallback):
    """Hooks besides those of `TrainerCallback`; for their order see above.

    Attributes:
        own_backward: Whether `backward` replaces the Trainer's own. The model then runs outside DDP, which averages one
            gradient per parameter.
    """

    own_backward = False

    def before_training(self, rows: EncodedRows) -> None:
        """Called before training rows are loaded, on every process.

        Args:
            rows: All training rows; their `states` may be set.
        """

    def before_evaluation(self, source: str, rows: EncodedRows, order: np.ndarray) -> None:
        """Called before validation rows of a source are loaded, during training.

        Args:
            source: Name of the source.
            rows: All of its rows, in another order; their `states` may be set.
            order: The number of each of these rows in the source.
        """

    def begin_step(self, step: Step) -> None:
        """Called when a step's batches are fetched and the parts to unfreeze in it are unfrozen."""

    def around_forward(self, inputs: dict[str, Any]) -> AbstractContextManager[None]:
        """A context around each forward pass, in training and in evaluation.

        Args:
            inputs: Model inputs of a micro-batch, on its device; may be changed.
        """
        return nullcontext()

    def add_loss(self, task: str, loss: Tensor) -> None:
        """Called with a task's unweighted loss, (), in a micro-batch of this process, before the backward pass."""

    def backward(self, losses: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Run the backward pass of a micro-batch; only called with `own_backward`.

        Args:
            losses: Task → its weighted loss.
            backward: `Accelerator.backward`.
        """

    def end_step(self, step: Step) -> None:
        """Called when all gradients of a step are computed, before clipping; not averaged yet with `own_backward`."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of the feature's own parameters, added after those of the model."""
        return []

    def logs(self) -> dict[str, float]:
        """Values to add to each log of the training loss."""
        return {}

    def steps_to_keep(self, state: TrainerState) -> set[int]:
        """Steps whose checkpoints are kept beyond `save_total_limit`, and are saved with `save_strategy: best`."""
        return set()

    def save(self, checkpoint: Path) -> None:
        """Save the state that `load` needs to a checkpoint; called on the main process."""

    def load(self, checkpoint: Path) -> None:
        """Restore the feature from a checkpoint when a run is resumed.

        Raises:
            ValueError: The checkpoint lacks the state that `save` writes.
        """
