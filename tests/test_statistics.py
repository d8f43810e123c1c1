"""Tests of `mtl_hf.statistics` against sklearn, scipy and resampling by hand."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mtl_hf.statistics import (
    LabelCounts,
    Metric,
    confusion,
    interval,
    macro_f1,
    matthews,
    mean,
    micro_f1,
    pearson,
    precision,
    ratio,
    recall,
    spearman,
)


def counts_of(predicted: Sequence[int], gold: Sequence[int]) -> LabelCounts:
    return LabelCounts.of_items([[str(label)] for label in predicted], [[str(label)] for label in gold])


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_numbers_from_counts_of_labels_are_those_of_sklearn(labels: int) -> None:
    rng = np.random.default_rng(labels)
    for size in (1, 5, 200):
        gold, predicted = rng.integers(labels, size=size), rng.integers(labels, size=size)
        counts = counts_of(predicted, gold)
        assert macro_f1(counts).number() == pytest.approx(
            sklearn.metrics.f1_score(gold, predicted, average="macro", zero_division=0)
        )
        if len({*gold, *predicted}) > 1:
            assert matthews(counts).number() == pytest.approx(sklearn.metrics.matthews_corrcoef(gold, predicted))
        found = confusion([str(label) for label in predicted], [str(label) for label in gold])
        names = [int(label) for label in found["labels"]]
        assert found["matrix"] == sklearn.metrics.confusion_matrix(gold, predicted, labels=names).tolist()
        report = sklearn.metrics.classification_report(gold, predicted, output_dict=True, zero_division=0)
        own = counts.by_label()
        assert own.keys() == report.keys() - {"accuracy", "macro avg", "weighted avg", "micro avg"}
        for label, numbers in own.items():
            assert numbers["f1"] == pytest.approx(report[label]["f1-score"])
            for name in ("precision", "recall", "support"):
                assert numbers[name] == pytest.approx(report[label][name]), name


def drawn(number: int, seed: int) -> np.ndarray:
    """(60, number), how often each row is drawn in each of 60 resamples, in which some rows are never drawn."""
    rows = np.random.default_rng(seed).integers(number, size=(60, number))
    return np.array([np.bincount(row, minlength=number) for row in rows], dtype=float)


@pytest.mark.parametrize(
    ("own", "theirs"),
    [(macro_f1, partial(sklearn.metrics.f1_score, average="macro", zero_division=0)),
     (micro_f1, partial(sklearn.metrics.f1_score, average="micro", zero_division=0)),
     (matthews, sklearn.metrics.matthews_corrcoef)],
    ids=["macro_f1", "micro_f1", "matthews"],
)  # fmt: skip
def test_resampled_counts_of_labels_are_those_of_sklearn(
    own: Callable[..., Metric], theirs: Callable[..., float]
) -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(5, size=30)
    predicted = np.where(rng.random(30) < 0.5, gold, rng.integers(6, size=30))  # of one label there is no gold
    counts = drawn(30, 3)
    resamples = [np.repeat(np.arange(30), times.astype(int)) for times in counts]
    expected = [theirs(gold[rows], predicted[rows]) for rows in resamples]
    np.testing.assert_allclose(own(counts_of(predicted, gold)).resampled(counts), expected, rtol=0, atol=1e-12)


def correlation(of: Callable[..., object], first: np.ndarray, second: np.ndarray) -> float:
    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return float(of(first, second).statistic)


@pytest.mark.parametrize("number", [2, 3, 8, 60])
@pytest.mark.parametrize("digits", [0, 1, 9])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e15])
@pytest.mark.parametrize("shift", [0.0, 1e3])
@pytest.mark.parametrize(
    ("own", "theirs"), [(pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)], ids=["pearson", "spearman"]
)
def test_correlations_of_resamples_are_those_of_scipy(
    own: Callable[..., Metric], theirs: Callable[..., object], shift: float, scale: float, digits: int, number: int
) -> None:
    rng = np.random.default_rng(number)
    first = rng.normal(size=number)
    second = first + rng.normal(size=number)
    first, second = (scale * (np.round(side, digits) + shift) for side in (first, second))
    metric = own(first, second)
    assert metric.number() == pytest.approx(correlation(theirs, first, second), abs=1e-9)
    counts = drawn(number, 1)
    resamples = [np.repeat(np.arange(number), times.astype(int)) for times in counts]
    expected = [correlation(theirs, first[rows], second[rows]) for rows in resamples]
    np.testing.assert_allclose(metric.resampled(counts), expected, rtol=0, atol=1e-9)


def test_an_outlier_does_not_cost_the_digits_of_resamples_without_it() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 30))
    first[7] = 1e8
    counts = drawn(30, 2)
    without = counts[counts[:, 7] == 0]
    assert len(without) > 10
    resamples = [np.repeat(np.arange(30), times.astype(int)) for times in without]
    expected = [scipy.stats.pearsonr(first[rows], second[rows]).statistic for rows in resamples]
    np.testing.assert_allclose(pearson(first, second).resampled(without), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("correlate", [pearson, spearman])
def test_correlations_with_constants_and_with_what_is_no_number(correlate: Callable[..., Metric]) -> None:
    values = np.random.default_rng(0).normal(size=20)
    assert correlate(np.full(20, 0.1), values).number() == 0
    assert correlate(values, np.full(20, 1e15 / 3)).number() == 0
    assert correlate(values, 2 * values + 1).number() == pytest.approx(1, abs=1e-12)
    assert correlate(values, -values).number() == pytest.approx(-1, abs=1e-12)
    values[3] = np.nan  # a model that diverged has not merely learned nothing
    assert math.isnan(correlate(values, np.arange(20.0)).number())


def test_ratios_of_nothing() -> None:
    assert ratio([0, 0], [0, 0]).number() == 0
    assert math.isnan(mean([]).number())
    empty = LabelCounts.of_sets([set(), set()], [set(), set()])
    for metric in (micro_f1, precision, recall, macro_f1):
        assert metric(empty).number() == 0
        assert metric(empty).resampled(np.ones((3, 2))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("number", [10, 30_000])
def test_an_interval_draws_the_rows_that_it_always_drew(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_hf.statistics.NUM_RESAMPLES", 150)
    values = np.random.default_rng(0).normal(size=number)
    found = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=150, batch=100, method="percentile", rng=np.random.default_rng(13)
    ).confidence_interval
    assert interval([mean(values)]) == pytest.approx([found.low, found.high], rel=1e-12)


def test_several_metrics_share_their_draws() -> None:
    values = np.random.default_rng(0).normal(size=50)
    one, other = mean(values), mean(values + 3)
    assert interval([one], against=[one]) == [0, 0]
    assert interval([other], against=[one]) == pytest.approx([3, 3])
    assert interval([one, other], against=[one]) == pytest.approx([1.5, 1.5])
    low, high = interval([one])
    assert interval([one, other]) == pytest.approx([low + 1.5, high + 1.5])
    narrow = interval([one], confidence=0.5)
    assert low < narrow[0] < narrow[1] < high
