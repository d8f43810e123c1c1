"""Metrics of decoded predictions, for training, `evaluate` and comparisons.

Notable: predicted label *names* are compared with the names in the data. So a label that is not in the training data, a
truncated word and a word without tokens (predicted None) count as errors. The metrics of each task type are statistics
over rows (`tasks/`, `statistics.py`), which give both the value and its bootstrap interval; any metric of `evaluate`
can be added by name. Metrics are fractions; scores can have an interval and a majority baseline.
"""

import collections
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from . import statistics
from .config import Task, nearest
from .tasks import TASK_TYPES, Answers, TaskData

logger = logging.getLogger(__name__)

LOSS_LIKE = ("cross_entropy", "mse", "perplexity")  # smaller is better: in the score only with a `score_weight`


# ---- the metrics ----


class TaskMetric(evaluate.Metric):
    """The metrics of a task type as one metric of `evaluate`.

    Args:
        kind: Name of the type.
        spans: Whether labels are tags of spans.
        label: The label column; None for pairs without scores.
    """

    def __init__(self, kind: str, *, spans: bool = True, label: str | None = "label", **options: Any) -> None:
        self.task = TaskData("task", Task(type=kind, source="source", label=label), [], "string", spans=spans)
        super().__init__(**options)

    def _info(self) -> evaluate.MetricInfo:
        predictions, references = self.task.kind.evaluate_features()
        return evaluate.MetricInfo(
            description=" ".join(str(type(self.task.kind).__doc__).split()),
            citation="",
            features=datasets.Features({"predictions": predictions, "references": references}),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        numbers = task_metrics(self.task, Answers(np.arange(len(references)), predictions, references))
        return {name: value for name, value in numbers.items() if name != "cross_entropy" or value == value}


METRICS = {kind: functools.partial(TaskMetric, kind) for kind in TASK_TYPES}


def metric_names(task: TaskData) -> tuple[str, ...]:
    """Names of the built-in metrics of a task, the default primary one first."""
    return task.kind.metric_names(task)


def primary_metric(task: TaskData) -> str:
    """Name of the primary metric: the first of the task's `metrics`, else of its type's."""
    return _metric_key(task.config.metrics[0]) if task.config.metrics else metric_names(task)[0]


def _metric_key(metric: Any) -> str:
    path = metric.get("path", "") if isinstance(metric, Mapping) else metric
    return str(path).rstrip("/").split("/")[-1].removesuffix(".py")


def load_metrics(tasks: Mapping[str, TaskData]) -> dict[str, dict[str, Callable[..., dict[str, Any]]]]:
    """Task → functions of the `evaluate` metrics in its `metrics`, besides the built-in ones.

    Raises:
        ValueError: A metric is neither built in nor in `evaluate`, or cannot be downloaded.
    """
    loaded: dict[str, dict[str, Callable[..., dict[str, Any]]]] = {}
    for name, task in tasks.items():
        loaded[name] = {}
        for metric in task.config.metrics:
            key = _metric_key(metric)
            if metric in metric_names(task):
                continue
            options = dict(metric) if isinstance(metric, Mapping) else {"path": metric}
            if "path" not in options:
                raise ValueError(f"`tasks.{name}.metrics`: {metric!r} needs a `path`.")
            task.kind.check_metric(task, metric)
            try:
                module = evaluate.load(options.pop("path"), keep_in_memory=True)
            except (OSError, ValueError, ImportError) as error:
                raise ValueError(
                    f"`tasks.{name}.metrics`: {key!r} is not built in ({', '.join(metric_names(task))}), and `evaluate`"
                    f" cannot load it: {' '.join(str(error).split())}{nearest(key, metric_names(task))}"
                ) from error
            loaded[name][key] = lambda module=module, options=options, **data: module.compute(**data, **options)
    return loaded


def try_metrics(
    tasks: Mapping[str, TaskData],
    extra: Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]],
    gold: Mapping[str, Mapping[str, Sequence[Any]]],
) -> None:
    """Call every metric of `load_metrics` on some right answers, so that errors are raised before training.

    Args:
        tasks: Task name → task.
        extra: Result of `load_metrics`.
        gold: Source → task → labels.

    Raises:
        ValueError: A metric fails on the task's labels.
    """
    for name, task in tasks.items():
        labels = [label for found in gold.values() for label in found.get(name, ()) if label is not None][:100]
        if not extra[name] or not labels:
            continue
        try:
            numbers = task_metrics(task, Answers(np.arange(len(labels)), labels, labels), extra[name])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"`tasks.{name}.metrics`: {', '.join(extra[name])} cannot score these labels: {error}"
            ) from error
        _check_primary(task, numbers)


def _check_primary(task: TaskData, numbers: Mapping[str, Any]) -> str:
    """The name of the task's primary metric, which has to be in `numbers`."""
    primary = primary_metric(task)
    if primary not in numbers:
        raise ValueError(f"`tasks.{task.name}.metrics`: {primary!r} is not among its results ({', '.join(numbers)}).")
    return primary


# ---- scoring ----


def score(
    tasks: Mapping[str, TaskData],
    answers: Mapping[str, Mapping[str, Answers]],
    num_rows: Mapping[str, int],
    extra: Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]] | None = None,
    intervals: bool = False,
) -> dict[str, Any]:
    """Score every task of every source from decoded predictions.

    Args:
        tasks: Task name → task.
        answers: Source → task → result of `read_answers`.
        num_rows: Source → number of predicted rows.
        extra: Result of `load_metrics`.
        intervals: Whether to add `interval` (95 %, bootstrap over rows) and `baseline` (majority) of the primary metric
            to each task.

    Returns:
        `score` (weighted mean of the primary metrics, with a minus for losses), `tasks`, `joint` (source with several
        tasks with label names → share of rows for which all are right) and `rows`.
    """
    results: dict[str, Any] = {"score": float("nan"), "tasks": {}, "joint": {}, "rows": dict(num_rows)}
    weighted, weights = 0.0, 0.0
    for name, task in tasks.items():
        by_source = {source: found[name] for source, found in answers.items() if name in found}
        if not by_source:
            continue
        together = join_answers(answers, name)
        numbers = task_metrics(task, together, (extra or {}).get(name, {}))
        if len(by_source) > 1:
            numbers["per_source"] = {
                source: task_metrics(task, found, (extra or {}).get(name, {})) for source, found in by_source.items()
            }
        primary = _check_primary(task, numbers)
        numbers["primary"] = primary
        results["tasks"][name] = numbers
        weight = score_weight(task)
        if weight and not np.isnan(numbers[primary]):
            sign = -1.0 if primary in LOSS_LIKE else 1.0  # a larger score is better
            weighted, weights = weighted + weight * sign * numbers[primary], weights + weight
    if weights:
        results["score"] = weighted / weights
    for source, found in answers.items():
        labelled = {name: item for name, item in found.items() if tasks[name].kind.has_vocabulary}
        if len(labelled) > 1:
            results["joint"][source] = _joint(list(labelled.values()), num_rows[source])
    if intervals:
        add_intervals(results, tasks, answers)
    return results


def add_intervals(
    results: Mapping[str, Any], tasks: Mapping[str, TaskData], answers: Mapping[str, Mapping[str, Answers]]
) -> None:
    """Add `interval` (95 %, bootstrap over rows) and `baseline` (majority) of each primary metric to `results`.

    Args:
        results: Result of `score`.
        tasks: Task name → task.
        answers: Source → task → its answers, as `score` got them.
    """
    for name, numbers in results["tasks"].items():
        task, primary, together = tasks[name], numbers["primary"], join_answers(answers, name)
        if len(together.rows) < 2 or primary not in metric_names(task) or np.isnan(numbers[primary]):
            continue
        numbers["interval"] = interval(task, together)
        if primary != "cross_entropy" and (constant := baseline(task, together)) is not None:
            numbers["baseline"] = constant


def join_answers(answers: Mapping[str, Mapping[str, Answers]], name: str) -> Answers:
    """A task's answers of all its sources, concatenated."""
    return Answers.join([found[name] for found in answers.values() if name in found])


def score_weight(task: TaskData) -> float:
    """Weight of a task's primary metric in the score."""
    if task.config.score_weight is not None:
        return task.config.score_weight
    return 0.0 if primary_metric(task) in LOSS_LIKE or not task.config.train else 1.0


def task_metrics(
    task: TaskData, answers: Answers, extra: Mapping[str, Callable[..., dict[str, Any]]] | None = None
) -> dict[str, Any]:
    """All metrics and details of one task."""
    metrics, details = task.kind.measure(task, answers)
    numbers: dict[str, Any] = {name: metric.number() for name, metric in metrics.items()} | details
    if len(answers.losses):  # the same mean, but summed over items, so that rounding does not depend on rows
        numbers["cross_entropy"] = float(answers.losses.mean())
    predicted, gold = task.kind.for_evaluate(task, answers) if extra else ([], [])
    for key, compute in (extra or {}).items():
        found = compute(predictions=predicted, references=gold)
        numbers |= {name if name != key or len(found) == 1 else key: value for name, value in found.items()}
        if key not in numbers:  # a metric may return its value under another name
            plain = (value for value in found.values() if isinstance(value, int | float | np.number))
            numbers[key] = next(plain, float("nan"))
    return numbers


def _joint(answers: list[Answers], num_rows: int) -> float:
    """Share of the rows with labels of all tasks for which all predictions are right."""
    labelled, right = np.ones(num_rows, dtype=bool), np.ones(num_rows, dtype=bool)
    for found in answers:
        here = np.zeros(num_rows, dtype=bool)
        here[found.rows] = True
        labelled &= here
        correct = np.zeros(num_rows, dtype=bool)
        correct[found.rows] = found.correct
        right &= correct
    return float(right[labelled].mean()) if labelled.any() else float("nan")


def interval(
    task: TaskData,
    answers: Answers | Sequence[Answers],
    confidence: float = 0.95,
    *,
    against: Answers | Sequence[Answers] = (),
) -> list[float]:
    """Bootstrap interval (percentile, rows resampled) of a task's primary metric.

    Args:
        task: The task.
        answers: Its answers, or those of several models (such as several seeds), whose mean is resampled.
        confidence: Confidence level.
        against: Other answers to the same rows: the interval is then that of the difference of `answers` to these, with
            the same rows drawn for all, so that rows that are hard for all do not widen it. It covers the variation of
            rows, not of seeds.
    """
    sides = [[side] if isinstance(side, Answers) else list(side) for side in (answers, against)]
    if any(not np.array_equal(found.rows, sides[0][0].rows) for found in sides[0] + sides[1]):
        raise ValueError("`answers` and `against` should be answers to the same rows.")
    primary = primary_metric(task)
    own, other = ([task.kind.measure(task, found)[0][primary] for found in side] for side in sides)
    return statistics.interval(own, other, confidence)


def baseline(task: TaskData, answers: Answers) -> float | None:
    """The primary metric of the best constant prediction (the most frequent label, or the mean); None without one."""
    constant = task.kind.constant(task, answers.gold)
    if constant is None:
        return None
    return task.kind.measure(task, Answers(answers.rows, constant, answers.gold))[0][primary_metric(task)].number()


def show_number(metric: str, value: float, sign: str = "", digits: int = 2) -> str:
    """Format a metric: losses unchanged with 4 digits, all others times 100 with `digits` digits."""
    if metric == "perplexity":  # may be in the thousands
        return f"{value:{sign}.{digits}f}"
    return f"{value:{sign}.4f}" if metric in LOSS_LIKE else f"{100 * value:{sign}.{digits}f}"


def round_numbers(value: Any) -> Any:
    """Round all floats in a value, also in mappings and lists, to 6 significant digits, for JSON lines."""
    if isinstance(value, Mapping):
        return {key: round_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_numbers(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def loss_of(name: str) -> str | None:
    """The loss in `LOSS_LIKE` that a logged name (with or without a task's name) ends with, or None."""
    return next((loss for loss in LOSS_LIKE if name.endswith(loss)), None)


def show_logged(name: str, value: float) -> str:
    """`show_number` for a logged name, with or without a task's name."""
    return show_number(loss_of(name) or name, value)


def logged_names(tasks: Mapping[str, TaskData], extra: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names that `flatten` returns, without prefix: the metrics that a checkpoint can be chosen by.

    Raises:
        ValueError: The metrics of two tasks have the same name.
    """
    sources = dict.fromkeys(source for task in tasks.values() for source in task.config.sources)
    names = ["score", *(f"joint_{source}" for source in sources)]
    for name, task in tasks.items():
        names += [f"{name}_{metric}" for metric in dict.fromkeys([*metric_names(task), *extra.get(name, ())])]
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise ValueError(f"two tasks would both log {twice[0]!r}: rename one of them.")
    return names


def flatten(results: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """`score` and `<task>_<metric>` of every metric, for the Trainer's log."""
    flat = {f"{prefix}_score": results["score"]}
    for name, numbers in results["tasks"].items():
        flat |= {f"{prefix}_{name}_{key}": value for key, value in numbers.items() if isinstance(value, float)}
    flat |= {f"{prefix}_joint_{source}": value for source, value in results["joint"].items()}
    return flat
