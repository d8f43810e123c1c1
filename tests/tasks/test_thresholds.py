"""Tests of `mtl_hf.tasks.thresholds`: the best thresholds against a search over all of them."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_hf.tasks.thresholds import best_threshold, best_thresholds


def f1(found: list[bool], gold: list[bool]) -> float:
    right = sum(a and b for a, b in zip(found, gold, strict=True))
    return 2 * right / (sum(found) + sum(gold)) if any(found) or any(gold) else 0.0


def macro_f1(found: list[bool], gold: list[bool]) -> float:
    sides = [(found, gold), ([not one for one in found], [not one for one in gold])]
    return sum(f1(*side) for side in sides) / 2


def search(scores: list[float], gold: list[bool], measure: Callable[..., float]) -> tuple[float, float]:
    """The best value of any threshold, and the smallest distance to 0.5 of the thresholds that reach it.

    Tries 0.5 and the middle between each two neighbours of the scores, 0 and 1.
    """
    distinct = sorted({0.0, *scores})
    middles = [(low + high) / 2 for low, high in zip(distinct, [*distinct[1:], 1.0], strict=True)]
    tried = {0.5: None} | dict.fromkeys(middles) | ({0.0: None} if 0.0 in scores else {})
    values = {threshold: measure([score >= threshold for score in scores], gold) for threshold in tried}
    best = max(values.values())
    return best, min(abs(threshold - 0.5) for threshold, value in values.items() if value == best)


rows = st.lists(st.tuples(st.integers(0, 20).map(lambda number: number / 20), st.booleans()), min_size=1, max_size=14)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rows)
def test_the_best_thresholds_are_those_of_a_search(drawn: list[tuple[float, bool]]) -> None:
    scores, gold = [score for score, _ in drawn], [label for _, label in drawn]
    for measure in (f1, macro_f1):
        array, labels = np.array(scores), np.array(gold)
        found = best_threshold(array, labels) if measure is macro_f1 else best_thresholds(
            array[:, None], labels[:, None])[0]  # fmt: skip
        if not any(gold) or (measure is macro_f1 and all(gold)):
            assert found == 0.5
            continue
        best, distance = search(scores, gold, measure)
        assert measure([score >= found for score in scores], gold) == pytest.approx(best, abs=1e-12)
        assert abs(found - 0.5) <= distance + 1e-12
        assert 0 <= found <= 1


def test_of_equal_thresholds_the_nearest_to_one_half_is_taken() -> None:
    scores = np.array([[0.9, 0.2, 0.3], [0.1, 0.1, 0.2], [0.2, 0.05, 0.1]])
    gold = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
    assert best_thresholds(scores, gold).tolist() == [0.5, pytest.approx(0.15), 0.5]
    assert best_threshold(np.array([0.1, 0.2, 0.3]), np.array([False, False, True])) == pytest.approx(0.25)


def test_neighbouring_floats_are_told_apart() -> None:
    low = 0.3
    high = float(np.nextafter(low, 1))
    found = best_threshold(np.array([low, high]), np.array([False, True]))
    assert (low >= found, high >= found) == (False, True)
    assert best_threshold(np.array([1.0, 1.0, 0.0]), np.array([True, True, False])) == 0.5
