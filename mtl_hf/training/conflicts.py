"""Log of gradient conflicts: the cosines between the gradients of tasks, for each shared part of the model.

If the cosine is below 0, a step that helps one task hurts the other (Yu et al., arXiv 2001.06782, definition 1). Every
N steps, a line of `gradient_conflicts.jsonl` contains the cosine of each pair of tasks, per part and over all parts.
Notable:

- The compared gradients are those of one round: of the N-th step and, if a step is shorter than a round, of the steps
  just before it, at weights that are a few updates apart. Each is the gradient of the task's mean loss over all items
  of its step, over all processes. (`proportional` has no rounds: it uses as many steps as there are sources, and pairs
  that do not occur in them are left out.)
- If a step has one task, its gradient is available at no cost. With several, each costs one more backward pass.
- Training is not changed: nothing is drawn at random, and no gradient that it uses is touched.
- A resumed run first removes the lines after its checkpoint. Gradients are not saved, so a round that a checkpoint
  divides is left out (never if checkpoints are at multiples of N or of a round).
"""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from ..files import write_atomic
from .conflict_report import CONFLICTS_FILE, conflict_sentences, read_conflicts
from .features import Feature, Step
from .gradients import filled, inner_products, join
from .optimizer import Part
from .processes import mean_over_processes

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

TOGETHER = "all"  # name of the cosine over all parts


class ConflictLog(Feature):
    """Collects the gradients of tasks and logs their cosines.

    Args:
        every: Steps between two lines.
        parts: The result of `find_parts`.
        round_steps: Steps per round.
        folder: Folder of the log.
        writes: Whether this process writes the log.
    """

    def __init__(self, every: int, parts: Sequence[Part], round_steps: int, folder: Path, writes: bool) -> None:
        self.writes = writes
        self.every, self.round_steps = every, min(round_steps, every)
        self.parts = [part for part in parts if not part.name.startswith("heads.")]
        self.file = folder / CONFLICTS_FILE
        self._due, self._takes_own = (
            False,
            False,
        )  # whether the step is compared; whether it needs a backward pass per task
        self._gradients: dict[str, Tensor] = {}  # task → its latest gradient, (num_shared_parameters,)
        self._steps: dict[str, int] = {}  # task → the step of this gradient

    def begin_step(self, step: Step) -> None:
        """Decide whether the step's gradients are compared, and whether each task needs its own backward pass."""
        shared = list(self._shared())
        self._due = bool(shared) and -step.number % self.every < self.round_steps
        self._takes_own = self._due and len(step.tasks) > 1
        if self._takes_own:
            for name in step.tasks:
                self._gradients[name] = join(filled(shared, [None] * len(shared)))

    def add_loss(self, task: str, loss: Tensor) -> None:
        """Add the gradient of a task's loss in a micro-batch of this process."""
        if not self._takes_own:
            return
        shared = list(self._shared())
        gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        self._gradients[task] += join(filled(shared, gradients))

    def end_step(self, step: Step) -> None:
        """Compare the gradients at the end of a round."""
        if not self._due:
            return
        shared = list(self._shared())
        for name in step.tasks:
            if self._takes_own:
                mean_over_processes(self._gradients[name])
            else:
                self._gradients[name] = join(filled(shared, [parameter.grad for parameter in shared]))
            self._steps[name] = step.number
        if step.number % self.every:
            return
        size = sum(parameter.numel() for parameter in shared)  # larger than before if parts were unfrozen
        names = [name for name, gradient in self._gradients.items() if len(gradient) == size]
        if self.writes and len(names) > 1:
            cosines = self._cosines([self._gradients[name] for name in names])
            pairs = combinations(range(len(names)), 2)
            line = {
                "step": step.number,
                "steps": {name: self._steps[name] for name in names},
                "pairs": [
                    {"tasks": [names[a], names[b]], "cosines": {part: found[a][b] for part, found in cosines.items()}}
                    for a, b in pairs
                ],
            }
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._gradients, self._steps = {}, {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the lines after the step at which training starts."""
        self._gradients, self._steps = {}, {}
        if not list(self._shared()):
            logger.warning("No shared parameter is trained: %s stays empty until one is unfrozen.", self.file)
        if self.writes and self.file.is_file():
            kept = [line for line in read_conflicts(self.file.parent) if line["step"] <= state.global_step]
            write_atomic(self.file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log a summary of the conflicts, or why there is none."""
        if not self.writes:
            return
        lines = read_conflicts(self.file.parent) if self.file.is_file() else []
        for sentence in conflict_sentences(lines):
            logger.info("%s", sentence)
        if not lines:
            reason = (
                "set a smaller number"
                if state.global_step < self.every
                else "at its multiples no two tasks had gradients of shared parameters"
            )
            logger.warning(
                "No gradients were compared: `log_gradient_conflicts` is %d, and the run has %d steps: %s.",
                self.every, state.global_step, reason,
            )  # fmt: skip

    def _shared(self) -> Iterator[nn.Parameter]:
        for part in self.parts:
            yield from (parameter for parameter in part.parameters.values() if parameter.requires_grad)

    def _cosines(self, gradients: Sequence[Tensor]) -> dict[str, list[list[float | None]]]:
        """Part → cosine of each two gradients, None where one of them is 0."""
        products, begin = {}, 0
        for part in self.parts:
            size = sum(parameter.numel() for parameter in part.parameters.values() if parameter.requires_grad)
            if size:
                rows = [[gradient[begin : begin + size]] for gradient in gradients]
                products[part.name] = inner_products(rows).double().cpu()
            begin += size
        products[TOGETHER] = torch.stack([*products.values()]).sum(0)
        cosines = {}
        for name, found in products.items():
            norms = found.diagonal().sqrt()
            cells = (found / torch.outer(norms, norms)).tolist()
            cosines[name] = [[cell if math.isfinite(cell) else None for cell in row] for row in cells]
        return cosines


def make_conflict_log(trainer: "MultiTaskTrainer") -> ConflictLog | None:
    """The feature of `log_gradient_conflicts`."""
    args, num_sources = trainer.args, len(trainer.train_rows)
    if not (args.log_gradient_conflicts and num_sources):
        return None
    round_steps = math.ceil(num_sources / args.gradient_accumulation_steps)
    folder = Path(str(args.output_dir))
    return ConflictLog(args.log_gradient_conflicts, trainer.parts, round_steps, folder, args.process_index == 0)
