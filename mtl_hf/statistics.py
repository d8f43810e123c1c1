"""Metrics as functions of sums over rows, and their bootstrap intervals.

Notable: the contribution of each row is computed once. A resample is the number of times each row is drawn, so the sums
of many resamples are one matrix product. Value and interval come from the same object, so a metric is defined once.
Rank correlation is an exception: ranks depend on all rows, so each resample is ranked, from counts of distinct values.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse

NUM_RESAMPLES = 1000


class Metric(Protocol):
    """A metric of rows, and of resamples of these rows."""

    @property
    def num_rows(self) -> int:
        """Number of rows, n."""

    def number(self) -> float:
        """The metric of all rows."""

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """The metric of resamples: number of draws of each row, (R, n) floats → (R,)."""


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of sums over rows.

    Attributes:
        columns: (n, k), the contribution of each row to each of k sums.
        value: Sums (..., k) → the metric, (...).
    """

    columns: np.ndarray | scipy.sparse.csr_array
    value: Callable[[np.ndarray], np.ndarray]

    @property
    def num_rows(self) -> int:
        """Number of rows, n."""
        return int(self.columns.shape[0])

    def number(self) -> float:
        """The metric of all rows; NaN without rows."""
        return float(self.value(np.asarray(self.columns.sum(0)))) if self.num_rows else float("nan")

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """The metric of resamples: number of draws of each row, (R, n) floats → (R,)."""
        return self.value(counts @ self.columns)


# ---- ratios ----


def ratio(top: Any, bottom: Any) -> Statistic:
    """The sum of `top` divided by the sum of `bottom`, each (n,); 0 if the latter is 0."""
    return Statistic(_columns(top, bottom), _divide)


def mean(values: Any) -> Statistic:
    """The mean of (n,) values."""
    return ratio(values, np.ones(len(values)))


def exp_ratio(top: Any, bottom: Any) -> Statistic:
    """The exponential of a `ratio`, such as perplexity."""
    return Statistic(_columns(top, bottom), lambda sums: np.exp(_divide(sums)))


def _columns(*columns: Any) -> np.ndarray:
    """(n,) each → (n, k), with contiguous columns, so that sums are as exact as those of `np.mean`."""
    return np.stack([np.asarray(column, dtype=float) for column in columns]).T


def _divide(sums: np.ndarray) -> np.ndarray:
    top, bottom = sums[..., 0], sums[..., 1]
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


# ---- counts of labels ----


@dataclass(frozen=True)
class LabelCounts:
    """Counts of true positives, predictions and gold labels, per row and label.

    A row may have one label, a set of labels or spans, or many words with one label each.

    Attributes:
        names: The C labels.
        right: (n, C), number of right predictions of each label.
        found: (n, C), number of predictions of each label.
        expected: (n, C), number of gold labels.
    """

    names: list[str]
    right: scipy.sparse.csr_array
    found: scipy.sparse.csr_array
    expected: scipy.sparse.csr_array

    @classmethod
    def of_items(cls, predicted: Sequence[Sequence[str | None]], gold: Sequence[Sequence[str]]) -> "LabelCounts":
        """Count rows of items with one label each; a prediction of None is not counted."""
        names = dict.fromkeys(label for labels in gold for label in labels)
        names |= dict.fromkeys(label for labels in predicted for label in labels if label is not None)
        ids: dict[str | None, int] = {name: place for place, name in enumerate(names)} | {None: -1}
        rows = np.repeat(np.arange(len(gold)), [len(labels) for labels in gold])
        found = np.array([ids[label] for labels in predicted for label in labels], dtype=int)
        expected = np.array([ids[label] for labels in gold for label in labels], dtype=int)
        return cls.of_codes(list(names), rows, found, expected, len(gold))

    @classmethod
    def of_codes(
        cls, names: list[str], rows: np.ndarray, found: np.ndarray, expected: np.ndarray, num_rows: int
    ) -> "LabelCounts":
        """The same of the row, the predicted and the expected label of each item, -1 for none, (items,) each."""
        right, predicted, labelled = found == expected, found >= 0, expected >= 0
        return cls.of_labels(
            names,
            (rows[right], expected[right]),
            (rows[predicted], found[predicted]),
            (rows[labelled], expected[labelled]),
            num_rows,
        )

    @classmethod
    def of_labels(cls, names: list[str], right: Any, found: Any, expected: Any, num_rows: int) -> "LabelCounts":
        """From (row, label) of all that is right, found and expected, as pairs of arrays."""
        tables = [_table(rows, labels, (num_rows, len(names))) for rows, labels in (right, found, expected)]
        return cls(names, *tables)

    @classmethod
    def join(cls, parts: Sequence["LabelCounts"]) -> "LabelCounts":
        """Those of several sets of rows with the same labels, one after the other, without labels that do not occur."""
        right, found, expected = (
            scipy.sparse.vstack([getattr(part, side) for part in parts], format="csr")
            for side in ("right", "found", "expected")
        )
        (occur,) = np.nonzero(found.sum(0) + expected.sum(0))
        if len(occur) == len(parts[0].names):
            return cls(parts[0].names, right, found, expected)
        names = [parts[0].names[place] for place in occur]
        return cls(names, right[:, occur], found[:, occur], expected[:, occur])

    @classmethod
    def of_sets(cls, predicted: Iterable[set[Any]], gold: Iterable[set[Any]]) -> "LabelCounts":
        """Count sets of tuples: a label and, for spans, their position (first and last word)."""
        sides = list(zip(predicted, gold, strict=True))
        names = sorted({item[0] for pair in sides for items in pair for item in items})
        ids = {name: place for place, name in enumerate(names)}

        def table(sets: Sequence[set[Any]]) -> scipy.sparse.csr_array:
            rows = np.repeat(np.arange(len(sets)), [len(items) for items in sets])
            labels = np.fromiter((ids[item[0]] for items in sets for item in items), dtype=int, count=len(rows))
            return _table(rows, labels, (len(sets), len(names)))

        return cls(
            names,
            table([found & expected for found, expected in sides]),
            table([found for found, _ in sides]),
            table([expected for _, expected in sides]),
        )

    def by_label(self) -> dict[str, dict[str, float]]:
        """Label → its F1, precision, recall (0 if not defined) and support, sorted by label."""
        right, found, expected = (table.sum(0) for table in (self.right, self.found, self.expected))
        return {
            name: {
                "f1": float(2 * right[place] / max(1, found[place] + expected[place])),
                "precision": float(right[place] / max(1, found[place])),
                "recall": float(right[place] / max(1, expected[place])),
                "support": int(expected[place]),
            }
            for name, place in sorted((name, place) for place, name in enumerate(self.names))
        }


def _table(rows: np.ndarray, labels: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """How often each pair of a row and a label occurs."""
    return scipy.sparse.csr_array((np.ones(len(rows)), (rows, labels)), shape=shape)


def micro_f1(counts: LabelCounts) -> Statistic:
    """F1 over all labels together."""
    return ratio(2 * counts.right.sum(1), counts.found.sum(1) + counts.expected.sum(1))


def precision(counts: LabelCounts) -> Statistic:
    """The share of predicted labels that are right."""
    return ratio(counts.right.sum(1), counts.found.sum(1))


def recall(counts: LabelCounts) -> Statistic:
    """The share of expected labels that are predicted."""
    return ratio(counts.right.sum(1), counts.expected.sum(1))


def macro_f1(counts: LabelCounts) -> Statistic:
    """Mean F1 over the labels that occur in gold labels or predictions; 0 if there are none."""

    def value(sums: np.ndarray) -> np.ndarray:
        right, either = np.split(sums, 2, axis=-1)
        f1 = np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0)
        return f1.sum(-1) / np.maximum((either > 0).sum(-1), 1)

    return Statistic(scipy.sparse.hstack([counts.right, counts.found + counts.expected], format="csr"), value)


def matthews(counts: LabelCounts) -> Statistic:
    """Matthews' coefficient of rows with one label each; 0 if it is not defined."""
    right = scipy.sparse.csr_array(counts.right.sum(1)[:, None])

    def value(sums: np.ndarray) -> np.ndarray:
        found, expected = np.split(sums[..., 1:], 2, axis=-1)
        total = expected.sum(-1)
        covariance = sums[..., 0] * total - (expected * found).sum(-1)
        scale = np.sqrt((total**2 - (found**2).sum(-1)) * (total**2 - (expected**2).sum(-1)))
        return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    return Statistic(scipy.sparse.hstack([right, counts.found, counts.expected], format="csr"), value)


def confusion(predicted: Sequence[str], gold: Sequence[str]) -> dict[str, Any]:
    """Confusion matrix: sorted `labels`, and `matrix` with gold labels as rows and predictions as columns."""
    labels = sorted({*predicted, *gold})
    ids = {label: place for place, label in enumerate(labels)}
    cells = [ids[label] * len(labels) + ids[guess] for guess, label in zip(predicted, gold, strict=True)]
    counts = np.bincount(np.array(cells, dtype=int), minlength=len(labels) ** 2)
    return {"labels": labels, "matrix": counts.reshape(len(labels), len(labels)).tolist()}


# ---- correlations ----


def pearson(first: Any, second: Any) -> Statistic:
    """Pearson's correlation of (n,) and (n,) from their moments; 0 if a side is constant."""
    # Centred at the median, so that outliers do not cause cancellation in the sums of squares.
    x, y = (np.asarray(side, dtype=float) - np.median(side) for side in (first, second))

    def value(sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread_x, spread_y = n * xx - x**2, n * yy - y**2
        constant = (spread_x <= 1e-12 * n * xx) | (spread_y <= 1e-12 * n * yy)  # up to rounding
        scale = np.sqrt(np.where(constant, 1, spread_x * spread_y))
        return np.clip(np.where(constant, 0, n * xy - x * y) / scale, -1, 1)

    return Statistic(_columns(np.ones(len(x)), x, y, x * x, y * y, x * y), value)


@dataclass(frozen=True)
class Spearman:
    """Spearman's correlation with mean ranks for ties; 0 if a side is constant.

    Attributes:
        first: (n,), index of each row's value among the sorted distinct values of this side.
        second: The same for the other side.
    """

    first: np.ndarray
    second: np.ndarray

    @property
    def num_rows(self) -> int:
        """Number of rows, n."""
        return len(self.first)

    def number(self) -> float:
        """The correlation of all rows."""
        return self._correlate(np.ones(len(self.first)))

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """The correlation of resamples: number of draws of each row, (R, n) floats → (R,)."""
        return np.array([self._correlate(times) for times in counts])  # one at a time fits the processor's cache

    def _correlate(self, times: np.ndarray) -> float:
        """The correlation of rows drawn `times` times; all sums are whole numbers, and so exact."""
        (x, xx), (y, yy) = (_ranks(side, times) for side in (self.first, self.second))
        scale = np.sqrt(xx * yy)
        return float((times * x) @ y / scale) if scale else 0.0


def spearman(first: Any, second: Any) -> Metric:
    """Spearman's correlation of (n,) and (n,); NaN if a value is NaN."""
    if np.isnan([first, second]).any():
        return mean(np.full(len(first), np.nan))
    return Spearman(*(np.unique(np.asarray(side, dtype=float), return_inverse=True)[1] for side in (first, second)))


def _ranks(places: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, float]:
    """Twice the centred mean rank of each row, and the sum of squares of it over all drawn rows."""
    ties = np.bincount(places, weights=times)
    ranks = 2 * np.cumsum(ties) - ties - ties.sum()
    return ranks[places], float(ties @ ranks**2)


# ---- intervals ----


def interval(metrics: Sequence[Metric], against: Sequence[Metric] = (), confidence: float = 0.95) -> list[float]:
    """Bootstrap interval (percentile, rows resampled) of the mean of metrics over the same rows.

    Args:
        metrics: The metric of one model, or of several.
        against: The metric of other models: the interval is then that of the difference of the two means, with the same
            rows drawn for all.
        confidence: Confidence level.
    """
    weights = [(metric, 1 / len(metrics)) for metric in metrics] + [(metric, -1 / len(against)) for metric in against]
    num_rows = metrics[0].num_rows

    def resampled(drawn: np.ndarray, axis: int) -> np.ndarray:  # (R, n) rows → (R,)
        counts = np.array([np.bincount(rows, minlength=num_rows) for rows in drawn], dtype=float)
        return sum((weight * metric.resampled(counts) for metric, weight in weights), start=np.zeros(len(drawn)))

    from scipy.stats import bootstrap  # imported here, because it takes half a second

    found = bootstrap(
        (np.arange(num_rows),), resampled, n_resamples=NUM_RESAMPLES, vectorized=True,
        batch=max(1, min(100, 2_000_000 // num_rows)),  # at most 16 MB of counts; does not affect the draws
        confidence_level=confidence, method="percentile", rng=np.random.default_rng(13),
    ).confidence_interval  # fmt: skip
    return [float(found.low), float(found.high)]
