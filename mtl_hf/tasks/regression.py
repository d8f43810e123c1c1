"""`regression`: one number per row."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ..config import Task
from ..statistics import Metric, mean, pearson, spearman
from .column import MAX_NUMBERS, Candidate
from .measures import undefined
from .numbers import as_labels, read_numbers
from .source_data import SourceData
from .task_type import Answers, Measured, TaskData, TaskType

logger = logging.getLogger(__name__)

LARGEST = 1e18  # largest label: sums of the squares of larger ones overflow float32
FAR = 10  # labels with a larger mean or deviation have squared errors that dominate other losses


class Regression(TaskType):
    """Pearson and Spearman correlation and the mean squared error."""

    name = "regression"
    label = "one number per row"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mse")
    numeric = True
    fewest_scored = 2  # the correlation of one number is not defined
    rejects: ClassVar[tuple[str, ...]] = ("labels", "label_smoothing")
    hub_task = "text-regression"
    pipeline: ClassVar[str | None] = "text-classification"
    stock: ClassVar[tuple[str, str | None] | None] = ("AutoModelForSequenceClassification", "regression")

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """Numbers, None for rows without one."""
        labels: dict[str, list[Any]] = {}
        for split in source.splits:
            numbers = read_numbers(name, spec, source, split)
            if len(beyond := np.flatnonzero(np.abs(numbers) > LARGEST)):
                row = beyond[0]
                raise ValueError(
                    f"`tasks.{name}`: {source.where(split, row)} has {numbers[row]:g} in the column {spec.label!r};"
                    f" regression takes numbers from {-LARGEST:g} to {LARGEST:g}, whose squares float32 can hold."
                )
            labels[split] = as_labels(numbers)
        return labels

    def warn(self, task: TaskData, sources: Sequence[SourceData]) -> None:
        """Warn about labels whose squared error dominates the losses of other tasks, and suggest a remedy.

        There is no warning if `loss_weight` already makes the error small enough.
        """
        labels = [label for source in sources for label in source.gold["train"][task.name]]
        numbers = np.array([label for label in labels if label is not None])
        mean_, deviation = float(numbers.mean()), float(numbers.std())
        if not is_far(mean_ * task.config.loss_weight**0.5, deviation * task.config.loss_weight**0.5):
            return
        scaled = f"(label - {mean_:.4g}) / {deviation:.4g}" if deviation else f"label - ({mean_:.4g})"
        weight = (
            f", or set `tasks.{task.name}.loss_weight: {1 / deviation**2:.2g}` (1 / variance), which clipping undoes"
            " unless a step is a whole round or `max_grad_norm` is 0"
            if deviation > FAR
            else ""
        )
        logger.warning(
            "Task %s: its training labels have mean %.4g and standard deviation %.4g. The squared error of such numbers"
            " dominates the losses of other tasks and the gradient norm, which is clipped for all together: scale the"
            " labels in the data, as %s%s.", task.name, mean_, deviation, scaled, weight,
        )  # fmt: skip

    def feature(self) -> Any:
        """A number."""
        import datasets

        return datasets.Value("float64")

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """Numbers, NaN if missing."""
        return [float("nan") if number is None else number for number in gold]

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers, (B,)."""
        numbers = labels.to_numpy().astype(np.float32)
        return numbers, ~np.isnan(numbers)

    def evaluate_features(self) -> tuple[Any, Any]:
        """A number."""
        import datasets

        return datasets.Value("float64"), datasets.Value("float64")

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """One number per row."""
        predicted, gold = answers.predicted, answers.gold
        mse = mean(np.square(np.subtract(predicted, gold)))
        return correlations(predicted, gold, ("pearson", "spearman")) | {
            "mse": mse if len(gold) > 1 else undefined(["mse"], len(gold))["mse"]
        }, {}

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The mean."""
        return [float(np.mean(gold))] * len(gold)

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Quantities with a mean and deviation of about 1."""
        column = found.column
        if not found.quantity or found.only_number:
            return None
        if not is_far(column.mean, column.deviation):
            return True, ""
        return False, (
            f"numbers of mean {column.mean:.4g} and standard deviation {column.deviation:.4g}: their squared"
            " error would dominate the losses of other tasks. Scale them to about 1 and use `--label"
            f" {column.name}=regression`"
        )

    def takes(self, found: Candidate) -> bool:
        """Numbers, except for few distinct whole ones."""
        column = found.column
        return column.kind == "number" and not (column.whole and column.num_distinct <= MAX_NUMBERS)

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """A number."""
        return "a number, in the unit of the training data", "..."


def correlations(predicted: Sequence[float], gold: Sequence[float], names: Sequence[str]) -> dict[str, Metric]:
    """`pearson` and `spearman` in the order of `names`; 0 if a side is constant, NaN for fewer than two rows."""
    if len(gold) < 2:
        return undefined(names, len(gold))
    # The correlation with a constant is not defined; a model with constant predictions learned nothing, so it is 0.
    return {name: {"pearson": pearson, "spearman": spearman}[name](predicted, gold) for name in names}


def is_far(mean: float, deviation: float) -> bool:
    """Whether numbers with this mean and standard deviation are far larger than 1."""
    return max(abs(mean), deviation) > FAR
