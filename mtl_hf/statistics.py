"""Metrics as functions of sums over rows, and their bootstrap intervals.

Notable: what each row adds is computed once. A resample is then how often each row was drawn, and all sums of many
resamples are one matrix product. Numbers and intervals come from the same object, so a metric is defined once. Rank
correlation is the exception: ranks depend on all rows, so each resample ranks its own, from counts of distinct values.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse

NUM_RESAMPLES = 1000


class Metric(Protocol):
    """A metric of some rows, and of any resample of them."""

    @property
    def num_rows(self) -> int:
        """How many rows there are, n."""

    def number(self) -> float:
        """The metric of all rows."""

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """The metric of resamples: how often each draws each row, (R, n) floats → (R,)."""


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of sums over rows.

    Attributes:
        columns: (n, k), what each row adds to each of k sums.
        value: Sums (..., k) → the metric, (...).
    """

    columns: np.ndarray | scipy.sparse.csr_array
    value: Callable[[np.ndarray], np.ndarray]

    @property
    def num_rows(self) -> int:
        """How many rows there are, n."""
        return int(self.columns.shape[0])

    def number(self) -> float:
        """The metric of all rows; not a number where there is none."""
        return float(self.value(np.asarray(self.columns.sum(0)))) if self.num_rows else float("nan")

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """The metric of resamples: how often each draws each row, (R, n) floats → (R,)."""
        return self.value(counts @ self.columns)


# ---- ratios ----


def ratio(top: Any, bottom: Any) -> Statistic:
    """The sum of `top` over the sum of `bottom`, each (n,); 0 where the latter is 0."""
    return Statistic(_columns(top, bottom), _divide)


def mean(values: Any) -> Statistic:
    """The mean of (n,) values."""
    return ratio(values, np.ones(len(values)))


def exp_ratio(top: Any, bottom: Any) -> Statistic:
    """The exponential of a `ratio`, such as perplexity."""
    return Statistic(_columns(top, bottom), lambda sums: np.exp(_divide(sums)))


def _columns(*columns: Any) -> np.ndarray:
    """(n,) each → (n, k), with each column contiguous, so that its sum is as exact as `np.mean` makes it."""
    return np.stack([np.asarray(column, dtype=float) for column in columns]).T


def _divide(sums: np.ndarray) -> np.ndarray:
    top, bottom = sums[..., 0], sums[..., 1]
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


# ---- counts of labels ----


@dataclass(frozen=True)
class LabelCounts:
    """How often each label is found, expected and both, in each row.

    A row may have one label, a set of labels or spans, or many words with a label each.

    Attributes:
        names: The C labels.
        right: (n, C), how often a label is predicted where it belongs.
        found: (n, C), how often it is predicted.
        expected: (n, C), how often it belongs.
    """

    names: list[str]
    right: scipy.sparse.csr_array
    found: scipy.sparse.csr_array
    expected: scipy.sparse.csr_array

    @classmethod
    def of_items(cls, predicted: Sequence[Sequence[str | None]], gold: Sequence[Sequence[str]]) -> "LabelCounts":
        """Count rows of items that each have one label; a prediction of None is no label."""
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
        names = [parts[0].names[place] for place in occur]
        return cls(names, right[:, occur], found[:, occur], expected[:, occur])

    @classmethod
    def of_sets(cls, predicted: Iterable[set[Any]], gold: Iterable[set[Any]]) -> "LabelCounts":
        """Count sets of tuples, the first of each its label and the rest where it is (a span's first and last word)."""
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
        """Label, by name → its F1, precision, recall (0 where one is not defined) and support."""
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
    """Mean F1 over the labels that occur, on either side; 0 where none does."""

    def value(sums: np.ndarray) -> np.ndarray:
        right, either = np.split(sums, 2, axis=-1)
        f1 = np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0)
        return f1.sum(-1) / np.maximum((either > 0).sum(-1), 1)

    return Statistic(scipy.sparse.hstack([counts.right, counts.found + counts.expected], format="csr"), value)


def matthews(counts: LabelCounts) -> Statistic:
    """Matthews' coefficient of rows with one label each; 0 where it is not defined."""
    right = scipy.sparse.csr_array(counts.right.sum(1)[:, None])

    def value(sums: np.ndarray) -> np.ndarray:
        found, expected = np.split(sums[..., 1:], 2, axis=-1)
        total = expected.sum(-1)
        covariance = sums[..., 0] * total - (expected * found).sum(-1)
        scale = np.sqrt((total**2 - (found**2).sum(-1)) * (total**2 - (expected**2).sum(-1)))
        return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    return Statistic(scipy.sparse.hstack([right, counts.found, counts.expected], format="csr"), value)


def confusion(predicted: Sequence[str], gold: Sequence[str]) -> dict[str, Any]:
    """How often each label (`labels`, by name) was predicted as each: `matrix`, rows gold, columns predicted."""
    labels = sorted({*predicted, *gold})
    ids = {label: place for place, label in enumerate(labels)}
    cells = [ids[label] * len(labels) + ids[guess] for guess, label in zip(predicted, gold, strict=True)]
    counts = np.bincount(np.array(cells, dtype=int), minlength=len(labels) ** 2)
    return {"labels": labels, "matrix": counts.reshape(len(labels), len(labels)).tolist()}


# ---- correlations ----


def pearson(first: Any, second: Any) -> Statistic:
    """Pearson's correlation of (n,) and (n,) from their moments; 0 where a side is constant."""
    # Around the median no outlier, drawn or not, leaves sums of squares that cancel out.
    x, y = (np.asarray(side, dtype=float) - np.median(side) for side in (first, second))

    def value(sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread_x, spread_y = n * xx - x**2, n * yy - y**2
        constant = (spread_x <= 1e-12 * n * xx) | (spread_y <= 1e-12 * n * yy)  # but for what rounding leaves
        scale = np.sqrt(np.where(constant, 1, spread_x * spread_y))
        return np.clip(np.where(constant, 0, n * xy - x * y) / scale, -1, 1)

    return Statistic(_columns(np.ones(len(x)), x, y, x * x, y * y, x * y), value)


@dataclass(frozen=True)
class Spearman:
    """Spearman's correlation, ties at their mean rank; 0 where a side is constant.

    Attributes:
        first: (n,), the place of each row's value among the distinct ones of its side.
        second: The same of the other side.
    """

    first: np.ndarray
    second: np.ndarray

    @property
    def num_rows(self) -> int:
        """How many rows there are, n."""
        return len(self.first)

    def number(self) -> float:
        """The correlation of all rows."""
        return self._correlate(np.ones(len(self.first)))

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """The correlation of resamples: how often each draws each row, (R, n) floats → (R,)."""
        return np.array([self._correlate(times) for times in counts])  # one at a time stays in the processor's cache

    def _correlate(self, times: np.ndarray) -> float:
        """The correlation of rows that count so many times each; all sums are whole numbers, hence exact."""
        (x, xx), (y, yy) = (_ranks(side, times) for side in (self.first, self.second))
        scale = np.sqrt(xx * yy)
        return float((times * x) @ y / scale) if scale else 0.0


def spearman(first: Any, second: Any) -> Metric:
    """Spearman's correlation of (n,) and (n,); not a number where one of these is none."""
    if np.isnan([first, second]).any():
        return mean(np.full(len(first), np.nan))
    return Spearman(*(np.unique(np.asarray(side, dtype=float), return_inverse=True)[1] for side in (first, second)))


def _ranks(places: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, float]:
    """Twice the mean rank of each row, less its mean; and the sum of the squares of that over all drawn rows."""
    ties = np.bincount(places, weights=times)
    ranks = 2 * np.cumsum(ties) - ties - ties.sum()
    return ranks[places], float(ties @ ranks**2)


# ---- intervals ----


def interval(metrics: Sequence[Metric], against: Sequence[Metric] = (), confidence: float = 0.95) -> list[float]:
    """Bootstrap interval (percentile, rows resampled) of the mean of some metrics over the same rows.

    Args:
        metrics: One, or that of several models.
        against: The same of other models: the interval is then that of the difference of the two means, with the same
            rows drawn for all.
        confidence: Share of the resamples inside.
    """
    weights = [(metric, 1 / len(metrics)) for metric in metrics] + [(metric, -1 / len(against)) for metric in against]
    num_rows = metrics[0].num_rows

    def resampled(drawn: np.ndarray, axis: int) -> np.ndarray:  # (R, n) rows → (R,)
        counts = np.array([np.bincount(rows, minlength=num_rows) for rows in drawn], dtype=float)
        return sum((weight * metric.resampled(counts) for metric, weight in weights), start=np.zeros(len(drawn)))

    from scipy.stats import bootstrap  # not above: it takes half a second

    found = bootstrap(
        (np.arange(num_rows),), resampled, n_resamples=NUM_RESAMPLES, vectorized=True,
        batch=max(1, min(100, 2_000_000 // num_rows)),  # at most 16 MB of counts; draws do not depend on it
        confidence_level=confidence, method="percentile", rng=np.random.default_rng(13),
    ).confidence_interval  # fmt: skip
    return [float(found.low), float(found.high)]
