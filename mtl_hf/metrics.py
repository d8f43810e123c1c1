"""Rows and predictions → numbers: one pure function for training, `evaluate` and every comparison.

Notable: predictions become label *names* and are compared with the names in the rows, so a label that training never
saw, a word cut at `max_length` and a word that the tokenizer lost (predicted None) count as the errors they are. The
metrics of each task type are statistics over rows (`statistics.py`), from which both a number and its bootstrap
interval come; any metric of `evaluate` can be added by name. Numbers are fractions; every score can come with an
interval and a majority baseline.
"""

import collections
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import evaluate
import numpy as np
import scipy.special

from . import statistics
from .config import nearest
from .data.labels import TASK_TYPES, TaskData, are_numbers
from .modeling.answers import bio_spans
from .modeling.encoding import NO_TOKEN
from .statistics import LabelCounts

logger = logging.getLogger(__name__)

LOSS_LIKE = ("cross_entropy", "mse", "perplexity")  # smaller is better: no part of the score unless weighted
MAX_CONFUSION = 100  # labels of a confusion matrix that is written


# ---- the metrics ----


Measured = tuple[dict[str, statistics.Metric], dict[str, Any]]  # our metrics, and what else is told of a task


class _Metric(evaluate.Metric):
    """A metric of `evaluate` whose numbers are those of statistics over rows."""

    @staticmethod
    def measure(predicted: Any, gold: Any) -> Measured:
        """Predictions and labels of rows → the metrics of these rows, by name, and details for `metrics.json`."""
        raise NotImplementedError

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
        metrics, details = self.measure(predictions, references, **options)
        return {name: metric.number() for name, metric in metrics.items()} | details


class Classification(_Metric):
    """Accuracy, macro and micro F1 and Matthews' coefficient of label names."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Value("string"), "One label name a row.")

    @staticmethod
    def measure(predicted: Sequence[str], gold: Sequence[str]) -> Measured:
        """One name a row."""
        counts = LabelCounts.of_items([[name] for name in predicted], [[name] for name in gold])
        accuracy = statistics.mean(_equal(predicted, gold))
        return {
            "accuracy": accuracy,
            "macro_f1": statistics.macro_f1(counts),
            "micro_f1": accuracy,  # of one label a row
            "matthews": statistics.matthews(counts),
        }, _label_details(counts) | _confusion(counts, predicted, gold)


class MultiLabelClassification(_Metric):
    """Micro and macro F1 over labels, and the share of rows with exactly the right set, of sets of label names."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.List(datasets.Value("string")), "A list of label names a row.")

    @staticmethod
    def measure(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> Measured:
        """A list of names a row, in any order."""
        sets = [[{(name,) for name in row} for row in rows] for rows in (predicted, gold)]
        # Not by sklearn, which takes sets of a single label for two classes.
        counts = LabelCounts.of_sets(*sets)
        return {
            "micro_f1": statistics.micro_f1(counts),
            "macro_f1": statistics.macro_f1(counts),
            "accuracy": statistics.mean(_equal(*sets)),
        }, _label_details(counts)


class SequenceLabelling(_Metric):
    """Tags of words: precision, recall and F1 of entities, overall and per type, and accuracy over words.

    Entities are those of `bio_spans`, which reads tags as seqeval's default mode does. With `spans=False` (tags that
    are not BIO, such as parts of speech): accuracy and macro F1 over words. A prediction of None (a word that never
    reached the encoder) is wrong, and inside of no entity.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.List(datasets.Value("string")), "A list of tags a row.")

    @staticmethod
    def measure(
        predicted: Sequence[Sequence[str | None]], gold: Sequence[Sequence[str]], spans: bool = True
    ) -> Measured:
        """A list of tags a row."""
        if not any(gold):
            names = ("f1", "precision", "recall", "accuracy") if spans else ("accuracy", "macro_f1")
            return _undefined(names, len(gold)), {}
        right = [sum(_equal(*tags)) for tags in zip(predicted, gold, strict=True)]
        accuracy = statistics.ratio(right, [len(tags) for tags in gold])
        if not spans:
            counts = LabelCounts.of_items(predicted, gold)
            return {"accuracy": accuracy, "macro_f1": statistics.macro_f1(counts)}, _label_details(counts)
        counts = LabelCounts.of_sets(*([set(bio_spans(tags)) for tags in rows] for rows in (predicted, gold)))
        return {
            "f1": statistics.micro_f1(counts),
            "precision": statistics.precision(counts),
            "recall": statistics.recall(counts),
            "accuracy": accuracy,
        }, {"per_type": counts.by_label()}


class Regression(_Metric):
    """Pearson and Spearman correlation and the mean squared error."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Value("float64"), "One number a row.")

    @staticmethod
    def measure(predicted: Sequence[float], gold: Sequence[float]) -> Measured:
        """One number a row."""
        if len(gold) < 2:
            return _undefined(("pearson", "spearman", "mse"), len(gold)), {}
        return {
            # The correlation with a constant is not defined; a constant answer has learned nothing, so it counts 0.
            "pearson": statistics.pearson(predicted, gold),
            "spearman": statistics.spearman(predicted, gold),
            "mse": statistics.mean(np.square(np.subtract(predicted, gold))),
        }, {}


class SentenceSimilarity(_Metric):
    """Spearman and Pearson correlation of cosines with scores.

    With `ranks=True` (pairs without scores; a prediction is the rank of a first text's own second text among the
    different ones of all rows, 1 for the nearest): `accuracy`, the share of ranks 1, and `mrr`, the mean of 1 / rank.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(datasets.Value("float64"), "A cosine, or a rank, a row.")

    @staticmethod
    def measure(predicted: Sequence[float], gold: Sequence[float], ranks: bool = False) -> Measured:
        """A cosine, or a rank, a row."""
        if not ranks:
            metrics, _ = Regression.measure(predicted, gold)
            return {name: metrics[name] for name in ("spearman", "pearson")}, {}
        found = np.asarray(predicted, dtype=float)
        return {"accuracy": statistics.mean(found == 1), "mrr": statistics.mean(1 / found)}, {}


class MaskedLanguageModelling(_Metric):
    """Perplexity, accuracy and cross-entropy over masked tokens, of three numbers a row.

    A prediction is [sum of -log p over the row's masked tokens, how many of them are right], a reference their number.
    """

    def _info(self) -> evaluate.MetricInfo:
        found = _info(datasets.List(datasets.Value("float64")), "Sums over the masked tokens of a row.")
        found.features["references"] = datasets.Value("int64")
        return found

    @staticmethod
    def measure(predicted: Sequence[Sequence[float]], gold: Sequence[int]) -> Measured:
        """[sum of -log p, number right] and the number of masked tokens a row."""
        loss, right = np.array(predicted, dtype=float).reshape(-1, 2).T
        return {
            "perplexity": statistics.exp_ratio(loss, gold),
            "accuracy": statistics.ratio(right, gold),
            "cross_entropy": statistics.ratio(loss, gold),
        }, {}


def _equal(predicted: Sequence[Any], gold: Sequence[Any]) -> list[bool]:
    return [guess == label for guess, label in zip(predicted, gold, strict=True)]


def _undefined(names: Sequence[str], num_rows: int) -> dict[str, statistics.Metric]:
    """Metrics of rows with too little to score."""
    return dict.fromkeys(names, statistics.mean(np.full(num_rows, np.nan)))


def _label_details(counts: LabelCounts) -> dict[str, Any]:
    return {"per_label": counts.by_label()} if counts.names else {}


def _confusion(counts: LabelCounts, predicted: Sequence[str], gold: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix, of as many labels as a person can still read."""
    few = 0 < len(counts.names) <= MAX_CONFUSION
    return {"confusion": statistics.confusion(predicted, gold)} if few else {}


def _info(feature: Any, inputs: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description="",
        citation="",
        inputs_description=inputs,
        features=datasets.Features({"predictions": feature, "references": feature}),
    )


METRICS: dict[str, type[_Metric]] = {
    "sequence_classification": Classification,
    "multi_label_classification": MultiLabelClassification,
    "regression": Regression,
    "token_classification": SequenceLabelling,
    "sentence_similarity": SentenceSimilarity,
    "masked_lm": MaskedLanguageModelling,
}


def metric_names(task: TaskData) -> tuple[str, ...]:
    """Names of our own numbers for a task, the default primary one first."""
    if task.type == "token_classification" and not task.spans:
        # Numbers for tags are mostly those of spans, where nearly all words have one tag.
        first = ("macro_f1", "accuracy") if are_numbers(task.labels) else ("accuracy", "macro_f1")
        return (*first, "cross_entropy")
    if task.type == "sentence_similarity" and task.config.label is None:
        return ("accuracy", "mrr")
    return TASK_TYPES[task.type].metrics


def primary_metric(task: TaskData) -> str:
    """The name of the metric that stands for the task: the first of its `metrics`, else its type's."""
    return _metric_key(task.config.metrics[0]) if task.config.metrics else metric_names(task)[0]


def _metric_key(metric: Any) -> str:
    path = metric.get("path", "") if isinstance(metric, Mapping) else metric
    return str(path).rstrip("/").split("/")[-1].removesuffix(".py")


def load_metrics(tasks: Mapping[str, TaskData]) -> dict[str, dict[str, Callable[..., dict[str, Any]]]]:
    """Task → metrics of `evaluate` that its `metrics` ask for beyond our own, ready to be called.

    Raises:
        ValueError: A metric that neither we nor `evaluate` have (or that cannot be reached).
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
            if task.type == "token_classification" and metric in ("f1", "precision", "recall", "macro_f1"):
                shown = ", ".join(task.labels[:5]) + (", ..." if len(task.labels) > 5 else "")
                what, tags = ("labels of words", "spans") if task.spans else ("spans", "labels of words")
                raise ValueError(
                    f"`tasks.{name}.metrics`: {metric!r} scores {what}, and the tags of this task ({shown}) are {tags}:"
                    f" its metrics are {', '.join(metric_names(task))}."
                    + ("" if task.spans else " Tags as O, B-PER and I-PER are those of spans.")
                )
            try:
                module = evaluate.load(options.pop("path"), keep_in_memory=True)
            except (OSError, ValueError, ImportError) as error:
                raise ValueError(
                    f"`tasks.{name}.metrics`: {key!r} is none of ours ({', '.join(metric_names(task))}) and `evaluate`"
                    f" cannot load it: {' '.join(str(error).split())}{nearest(key, metric_names(task))}"
                ) from error
            loaded[name][key] = lambda module=module, options=options, **data: module.compute(**data, **options)
    return loaded


def try_metrics(
    tasks: Mapping[str, TaskData],
    extra: Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]],
    gold: Mapping[str, Mapping[str, Sequence[Any]]],
) -> None:
    """Call every metric that `load_metrics` loaded on some right answers: one that cannot be called says so now.

    Args:
        tasks: Task name → task.
        extra: As `load_metrics` returns it.
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
    """The name of the task's primary metric, which has to be among its numbers."""
    primary = primary_metric(task)
    if primary not in numbers:
        raise ValueError(f"`tasks.{task.name}.metrics`: {primary!r} is not among its results ({', '.join(numbers)}).")
    return primary


# ---- predictions ----


@dataclass
class Answers:
    """Decoded predictions of one task on some rows, beside what the rows say; rows without a label are left out.

    Attributes:
        rows: Which rows, (n,).
        predicted: Names, lists of names or numbers; of masked language modelling [sum of -log p, number right].
        gold: The same from the rows; of masked language modelling the number of masked tokens.
        losses: Cross-entropy of every labelled item with a known label (row or word), row after row.
        num_losses: How many of them each row has, (n,).
    """

    rows: np.ndarray
    predicted: list[Any] = field(default_factory=list)
    gold: list[Any] = field(default_factory=list)
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    num_losses: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))

    @property
    def correct(self) -> np.ndarray:
        """Whether a row is entirely right, (n,)."""
        return np.array([p == g for p, g in zip(self.predicted, self.gold, strict=True)], dtype=bool)

    def __add__(self, other: "Answers") -> "Answers":
        return Answers(
            np.concatenate([self.rows, other.rows]),
            self.predicted + other.predicted,
            self.gold + other.gold,
            np.concatenate([self.losses, other.losses]),
            np.concatenate([self.num_losses, other.num_losses]),
        )


def read_answers(
    task: TaskData,
    gold: Sequence[Any],
    logits: np.ndarray,
    word_starts: Sequence[Sequence[int]] | None = None,
    second_texts: np.ndarray | None = None,
) -> Answers:
    """Decode one task's logits on one source.

    Args:
        task: The task.
        gold: Label of each row, None where it has none.
        logits: (rows, num_labels); (rows,) for regression; (rows, T, num_labels) for token classification; (rows, 2, H)
            vectors of length 1 for sentence similarity; (rows, 3) for masked language modelling: sum of -log p over the
            masked tokens, their number, and how many are right.
        word_starts: For token classification, the position of each word's first token, `NO_TOKEN` where it has none.
        second_texts: For sentence similarity without scores, a number for each row's second text, the same for equal
            ones; by default all differ.
    """
    rows = np.array([row for row, label in enumerate(gold) if label is not None], dtype=int)
    known = [gold[row] for row in rows]
    if task.type == "regression":
        return Answers(rows, [float(value) for value in logits[rows]], known)
    if task.type == "masked_lm":
        rows = rows[logits[rows, 1] > 0]  # a row of special and unknown tokens has nothing to mask
        return Answers(rows, logits[rows][:, [0, 2]].astype(float).tolist(), logits[rows, 1].astype(int).tolist())
    if task.type == "sentence_similarity":
        first, second = logits[rows].astype(np.float64).transpose(1, 0, 2)
        if task.config.label is None:
            texts = None if second_texts is None else second_texts[rows]
            return Answers(rows, own_ranks(first, second, texts).astype(float).tolist(), known)
        return Answers(rows, (first * second).sum(-1).tolist(), known)
    if task.type == "sequence_classification":
        predicted = [task.labels[index] for index in logits[rows].argmax(-1)] if len(rows) else []
        ids = np.array([task.ids.get(label, -1) for label in known], dtype=int)
        scored = ids >= 0
        return Answers(rows, predicted, known, _cross_entropy(logits[rows][scored], ids[scored]), scored.astype(int))
    if task.type == "multi_label_classification":
        positive = logits[rows] >= 0
        predicted_sets = [sorted(task.labels[index] for index in np.flatnonzero(row)) for row in positive]
        hot = np.array([[label in row for label in task.labels] for row in known]).reshape(len(rows), len(task.labels))
        scores = logits[rows].astype(np.float64)
        losses = (np.logaddexp(0, scores) - scores * hot).mean(1) if len(rows) else np.zeros(0)
        return Answers(rows, predicted_sets, known, losses, np.ones(len(rows), dtype=int))
    if word_starts is None:
        raise ValueError("token classification needs `word_starts`.")
    return _read_tags(task, rows, known, logits, [word_starts[row] for row in rows])


def own_ranks(first: np.ndarray, second: np.ndarray, texts: np.ndarray | None = None, chunk: int = 1000) -> np.ndarray:
    """How near each first vector's own second text is among all different second texts: 1 where it is the nearest.

    Equal cosines (within what rounding does to them) count against it, so that a model to which all texts are the same
    ranks nothing first.

    Args:
        first: (n, H), of length 1.
        second: (n, H), of length 1; row i belongs to row i.
        texts: (n,), the same number for equal second texts; by default all differ.
        chunk: First vectors compared at once.

    Returns:
        (n,) whole numbers from 1 to the number of different second texts.
    """
    _, places, own_text = np.unique(
        np.arange(len(first)) if texts is None else texts, return_index=True, return_inverse=True
    )
    different = second[places]
    ranks = np.zeros(len(first), dtype=int)
    for begin in range(0, len(first), chunk):
        cosines = first[begin : begin + chunk] @ different.T
        own = cosines[np.arange(len(cosines)), own_text[begin : begin + chunk]]
        ranks[begin : begin + chunk] = (cosines >= own[:, None] - 1e-6).sum(1)
    return ranks


def _read_tags(
    task: TaskData, rows: np.ndarray, gold: list[list[str | None]], logits: np.ndarray, starts: list[Sequence[int]]
) -> Answers:
    """Tags of the words that have a label; None of a word without a token, which has no cross-entropy either."""
    lengths = [len(row) for row in starts]
    position = np.array([start for row in starts for start in row], dtype=int)
    row_of = np.repeat(rows, lengths)
    scores = logits[row_of, np.maximum(position, 0)] if len(position) else np.zeros((0, len(task.labels)))
    best = scores.argmax(-1) if len(position) else position
    flat_gold = [tag for row in gold for tag in row]
    ids = np.array([task.ids.get(tag, -1) if tag is not None else -1 for tag in flat_gold], dtype=int)
    scored = (ids >= 0) & (position != NO_TOKEN)
    num_losses = np.bincount(np.repeat(np.arange(len(rows)), lengths)[scored], minlength=len(rows))
    result = Answers(rows, losses=_cross_entropy(scores[scored], ids[scored]), num_losses=num_losses)
    ends = np.cumsum(lengths)
    for row, tags in enumerate(gold):
        words = slice(ends[row] - lengths[row], ends[row])
        lost = position[words] == NO_TOKEN
        names = [None if gone else task.labels[index] for index, gone in zip(best[words], lost, strict=True)]
        pairs = [(name, tag) for name, tag in zip(names, tags, strict=True) if tag is not None]
        result.predicted.append([name for name, _ in pairs])
        result.gold.append([tag for _, tag in pairs])
    return result


def _cross_entropy(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Logits (n, C), ids (n,) → −log softmax at the ids, in float64."""
    if not len(ids):
        return np.zeros(0)
    scores = logits.astype(np.float64)
    return scipy.special.logsumexp(scores, axis=-1) - scores[np.arange(len(ids)), ids]


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
        answers: Source → task → `read_answers` of it.
        num_rows: Source → number of rows predicted.
        extra: As `load_metrics` returns it.
        intervals: Whether to add to each task `interval` (95 %, bootstrap over rows) and `baseline` (majority) of its
            primary metric.

    Returns:
        `score` (weighted mean of the primary metrics, with a minus for losses), `tasks`, `joint` (source with several
        label tasks → share of rows on which all of them are right) and `rows`.
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
        ours = primary in metric_names(task) and not np.isnan(numbers[primary])
        if intervals and len(together.rows) > 1 and ours:
            numbers["interval"] = interval(task, together)
            # The most frequent token stands for a share of all tokens, and a constant answer has no cross-entropy.
            if task.type != "masked_lm" and primary != "cross_entropy":
                numbers["baseline"] = baseline(task, together)
        results["tasks"][name] = numbers
        weight = score_weight(task)
        if weight and not np.isnan(numbers[primary]):
            sign = -1.0 if primary in LOSS_LIKE else 1.0  # of a score more is better
            weighted, weights = weighted + weight * sign * numbers[primary], weights + weight
    if weights:
        results["score"] = weighted / weights
    for source, found in answers.items():
        labelled = {name: item for name, item in found.items() if TASK_TYPES[tasks[name].type].has_vocabulary}
        if len(labelled) > 1:
            results["joint"][source] = _joint(list(labelled.values()), num_rows[source])
    return results


def join_answers(answers: Mapping[str, Mapping[str, Answers]], name: str) -> Answers:
    """A task's answers of all its sources, one source after the other."""
    first, *others = [found[name] for found in answers.values() if name in found]
    return sum(others, start=first)


def score_weight(task: TaskData) -> float:
    """Weight of a task's primary metric in the score."""
    if task.config.score_weight is not None:
        return task.config.score_weight
    return 0.0 if primary_metric(task) in LOSS_LIKE or not task.config.train else 1.0


def measure(task: TaskData, answers: Answers) -> Measured:
    """Our own metrics of a task, by name, as statistics over its rows; and the details that its type has.

    Not by `compute` of `METRICS`, which writes everything into Arrow tables first.
    """
    metrics, details = METRICS[task.type].measure(answers.predicted, answers.gold, **_options(task))
    if "cross_entropy" in metric_names(task) and "cross_entropy" not in metrics:
        metrics["cross_entropy"] = _cross_entropy_of(answers)
    return metrics, details


def _cross_entropy_of(answers: Answers) -> statistics.Metric:
    """The mean over all items that have one; not a number where answers come without (such as from a file)."""
    num_rows = len(answers.rows)
    if not len(answers.losses):
        return _undefined(["cross_entropy"], num_rows)["cross_entropy"]
    rows = np.repeat(np.arange(num_rows), answers.num_losses)
    return statistics.ratio(np.bincount(rows, answers.losses, num_rows), answers.num_losses)


def task_metrics(
    task: TaskData, answers: Answers, extra: Mapping[str, Callable[..., dict[str, Any]]] | None = None
) -> dict[str, Any]:
    """Every number of one task."""
    predicted, gold = answers.predicted, answers.gold
    metrics, details = measure(task, answers)
    numbers: dict[str, Any] = {name: metric.number() for name, metric in metrics.items()} | details
    if "cross_entropy" in metrics and len(answers.losses):  # the same mean, but summed over items and not by row
        numbers["cross_entropy"] = float(answers.losses.mean())
    if extra and task.type == "sequence_classification":  # metrics of `evaluate` want ids
        predicted, gold = ([task.ids.get(name, -1) for name in names] for names in (predicted, gold))
    elif extra and task.type == "token_classification":  # and have no place for a word without an answer
        predicted = [["O" if tag is None else tag for tag in row] for row in predicted]
    for key, compute in (extra or {}).items():
        found = compute(predictions=predicted, references=gold)
        numbers |= {name if name != key or len(found) == 1 else key: value for name, value in found.items()}
        if key not in numbers:  # what a metric calls its number need not be what the metric is called
            plain = (value for value in found.values() if isinstance(value, int | float | np.number))
            numbers[key] = next(plain, float("nan"))
    return numbers


def _options(task: TaskData) -> dict[str, Any]:
    """What the metric of a task's type is told beside predictions and labels."""
    if task.type == "sentence_similarity":
        return {"ranks": task.config.label is None}
    return {"spans": task.spans} if task.type == "token_classification" else {}


def _joint(answers: list[Answers], num_rows: int) -> float:
    """Share of the rows labelled for every task on which all are right."""
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
        answers: Its answers; of several models (such as those of several seeds) the interval is that of their mean.
        confidence: Share of the resamples inside.
        against: Other answers to the same rows: the interval is then that of how much more `answers` score, with the
            same rows drawn for all, so that rows that are hard for all do not widen it. It speaks of other rows, not of
            other seeds.
    """
    sides = [[side] if isinstance(side, Answers) else list(side) for side in (answers, against)]
    if any(not np.array_equal(found.rows, sides[0][0].rows) for found in sides[0] + sides[1]):
        raise ValueError("`against` holds answers to other rows.")
    primary = primary_metric(task)
    own, other = ([measure(task, found)[0][primary] for found in side] for side in sides)
    return statistics.interval(own, other, confidence)


def baseline(task: TaskData, answers: Answers) -> float:
    """The primary metric of the best constant answer: the most frequent label (set, tag) of these rows, or the mean."""
    gold = answers.gold
    if task.type in ("regression", "sentence_similarity"):
        ranks = task.type == "sentence_similarity" and task.config.label is None  # where all are equal, the last one
        constant: list[Any] = [float(len(gold)) if ranks else float(np.mean(gold))] * len(gold)
    elif task.type == "token_classification":
        tag = collections.Counter(tag for row in gold for tag in row).most_common(1)[0][0]
        constant = [[tag] * len(row) for row in gold]
    elif task.type == "multi_label_classification":
        most = collections.Counter(map(tuple, gold)).most_common(1)[0][0]
        constant = [list(most)] * len(gold)
    else:
        constant = [collections.Counter(gold).most_common(1)[0][0]] * len(gold)
    return measure(task, Answers(answers.rows, constant, gold))[0][primary_metric(task)].number()


def show_number(metric: str, value: float, sign: str = "", digits: int = 2) -> str:
    """A metric's value as a person reads it: a loss as it is, all else times 100 with so many digits."""
    if metric == "perplexity":  # which may have thousands before the point
        return f"{value:{sign}.{digits}f}"
    return f"{value:{sign}.4f}" if metric in LOSS_LIKE else f"{100 * value:{sign}.{digits}f}"


def round_numbers(value: Any) -> Any:
    """The value with its floats, also those in its mappings and lists, at 6 significant digits, for lines of JSON."""
    if isinstance(value, Mapping):
        return {key: round_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_numbers(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def loss_of(name: str) -> str | None:
    """Of a logged number's name, which may have a task's before it, the loss that it is; None if it is none."""
    return next((loss for loss in LOSS_LIKE if name.endswith(loss)), None)


def show_logged(name: str, value: float) -> str:
    """As `show_number`, of a logged number, whose name may have a task's before it."""
    return show_number(loss_of(name) or name, value)


def logged_names(tasks: Mapping[str, TaskData], extra: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What `flatten` can name, without its prefix: what a checkpoint can be chosen by.

    Raises:
        ValueError: Two tasks whose numbers would have the same name.
    """
    sources = dict.fromkeys(source for task in tasks.values() for source in task.config.sources)
    names = ["score", *(f"joint_{source}" for source in sources)]
    for name, task in tasks.items():
        names += [f"{name}_{metric}" for metric in dict.fromkeys([*metric_names(task), *extra.get(name, ())])]
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise ValueError(f"two tasks would both log {twice[0]!r}: rename one of them.")
    return names


def flatten(results: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """`score` and `<task>_<metric>` of every plain number, for the Trainer's log."""
    flat = {f"{prefix}_score": results["score"]}
    for name, numbers in results["tasks"].items():
        flat |= {f"{prefix}_{name}_{key}": value for key, value in numbers.items() if isinstance(value, float)}
    flat |= {f"{prefix}_joint_{source}": value for source, value in results["joint"].items()}
    return flat
