"""Scores of a model: what its heads say of the rows, source after source, and every task scored from that.

Notable: of a source only answers are kept, and the mean of its mixtures of experts, which its predictions hold beside
the logits. Each row is predicted once, for all its tasks; how is the trainer's own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..data.labels import TaskData
from ..data.rows import EncodedSplit
from ..metrics import Answers, read_answers, score
from ..modeling.heads import by_row

_GATES = ".gates"  # after a task's name: its mixtures of experts among the predictions


def said_of_rows(heads: nn.ModuleDict, outputs: Any, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What heads say of each row of a batch, and by which mixture of experts: what predictions are gathered from.

    Args:
        heads: The model's.
        outputs: Of the model (`MultiTaskOutput`).
        labels: Task → labels, of those whose loss is part of what they say (`heads.by_row`).

    Returns:
        Task → (B, ...); with experts also `<task>.gates` → (B, K).
    """
    said = {name: by_row(heads[name], logits, labels.get(name)) for name, logits in outputs.logits.items()}
    return said | {name + _GATES: by_row(heads[name], gates) for name, gates in (outputs.gates or {}).items()}


class Scorer:
    """Takes predictions of one source after the other, and scores every task of all of them.

    Args:
        tasks: Task name → task.
        extra_metrics: As `metrics.load_metrics` returns them.

    Attributes:
        answers: Source → task → its answers.
    """

    def __init__(
        self, tasks: Mapping[str, TaskData], extra_metrics: Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]]
    ) -> None:
        self.tasks = tasks
        self.extra_metrics = extra_metrics
        self.answers: dict[str, dict[str, Answers]] = {}
        self._num_rows: dict[str, int] = {}
        self._gates: dict[str, list[np.ndarray]] = {}

    def add(self, source: str, split: EncodedSplit, predictions: Mapping[str, np.ndarray]) -> None:
        """Read the answers of a source.

        Args:
            source: Its name.
            split: Its rows, and what they are scored against.
            predictions: What `said_of_rows` says of all of them, in the order of the rows.
        """
        starts = split.rows["word_starts"] if "word_starts" in split.rows.column_names else None
        self.answers[source] = {
            name: read_answers(self.tasks[name], gold, predictions[name], starts, split.second_texts)
            for name, gold in split.gold.items()
        }
        self._num_rows[source] = len(split.rows)
        for name in split.gold:
            if (gates := predictions.get(name + _GATES)) is not None:
                self._gates.setdefault(name, []).append(gates)

    def results(self, intervals: bool = False) -> dict[str, Any]:
        """The scores.

        Args:
            intervals: Whether to add intervals and baselines.

        Returns:
            As `metrics.score`; of a model with experts also `experts`: task → the mean weight of each expert in its
            mixtures, over all rows.
        """
        results = score(self.tasks, self.answers, self._num_rows, self.extra_metrics, intervals)
        if self._gates:
            results["experts"] = {
                name: np.concatenate(found).reshape(-1, found[0].shape[-1]).mean(0, dtype=float).tolist()
                for name, found in self._gates.items()
            }
        return results
