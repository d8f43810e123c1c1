"""Tests of `mtl_hf.data.balanced` and of schedules with balanced sources, as index arithmetic."""

import collections
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_hf.data.balanced import Balanced
from mtl_hf.data.schedule import ProportionalBatchSampler, RoundRobinBatchSampler, TemperatureBatchSampler

label_lists = st.lists(st.integers(-1, 4), min_size=1, max_size=60).filter(lambda labels: max(labels) >= 0)


def laps_of(labels: list[int], number: int, seed: int = 7) -> list[list[int]]:
    """The rows of some laps; each from an object of its own, as in a resumed run."""
    return [
        Balanced(np.array(labels)).rows(lap, [seed, 0], np.random.default_rng(lap)).tolist() for lap in range(number)
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(label_lists)
def test_each_lap_has_every_label_equally_often_and_passes_are_complete(labels: list[int]) -> None:
    laps = laps_of(labels, 5)
    kinds = sorted({label for label in labels if label >= 0})
    for lap in laps:
        assert len(lap) == len(labels)
        counts = collections.Counter(labels[row] for row in lap)
        assert max(counts[kind] for kind in kinds) - min(counts[kind] for kind in kinds) <= 1
        assert [row for row in sorted(lap) if labels[row] < 0] == [row for row, one in enumerate(labels) if one < 0]
    in_all = collections.Counter(labels[row] for lap in laps for row in lap)
    assert max(in_all[kind] for kind in kinds) - min(in_all[kind] for kind in kinds) <= 1, "also over all laps"
    for kind in kinds:
        own = [row for row, label in enumerate(labels) if label == kind]
        taken = [row for lap in laps for row in lap if labels[row] == kind]
        for begin in range(0, len(taken), len(own)):
            part = taken[begin : begin + len(own)]
            assert len(set(part)) == len(part), "a row again before all rows of its label had their turn"


def schedule(policy: str, rows: np.ndarray, **options: Any) -> Any:
    rng = np.random.default_rng(0)
    lengths = {"other": rng.integers(3, 60, 60), "rare": rng.integers(3, 60, len(rows))}
    batches = {"other": 8, "rare": 8}
    more: dict[str, Any] = {"labels": {"rare": rows}, "seed": 5} | options
    if policy == "proportional":
        return ProportionalBatchSampler(lengths, batches, **more)
    if policy == "temperature":
        return TemperatureBatchSampler(lengths, batches, temperature=(np.inf, 1.0), num_epochs=3, **more)
    return RoundRobinBatchSampler(lengths, batches, stopping_rule=policy, **more)


LABELS = np.array([0] * 70 + [1] * 24 + [2] * 5 + [-1] * 3)
POLICIES = ("proportional", "temperature", "all_exhausted", "first_exhausted")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_balanced_source_keeps_the_length_of_epochs_and_the_batches_of_others(policy: str) -> None:
    plain, balanced = schedule(policy, LABELS, labels=None), schedule(policy, LABELS)
    for epoch in range(3):
        before, after = ([*one.batches(epoch)] for one in (plain, balanced))
        assert [name for name, _ in before] == [name for name, _ in after]
        sizes = [[len(rows) for name, rows in found if name == "rare"] for found in (before, after)]
        assert {*sizes[0]} == {*sizes[1]} == {7, 8}
        for (name, old), (_, new) in zip(before, after, strict=True):
            assert name == "rare" or np.array_equal(old, new)
            assert all((new >= 60) & (new < 162)) or name == "other"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_schedule_is_a_pure_function_of_the_epoch_and_the_same_for_all_ranks(policy: str) -> None:
    for epoch in (2, 0, 1):  # in another order than that of a run
        whole = [(name, rows.tolist()) for name, rows in schedule(policy, LABELS).batches(epoch)]
        used = schedule(policy, LABELS)
        [*used.batches(1)]
        assert [(name, rows.tolist()) for name, rows in used.batches(epoch)] == whole
        ranks = [schedule(policy, LABELS, rank=rank, world_size=2) for rank in range(2)]
        for sampler in ranks:
            sampler.set_epoch(epoch)
        for (_, rows), *parts in zip(whole, *ranks, strict=True):
            assert sorted(itertools.chain(*parts)) == sorted(rows)


def test_passes_go_on_through_epochs_and_labels_are_equally_frequent() -> None:
    sampler = schedule("proportional", LABELS)
    seen: collections.Counter[int] = collections.Counter()
    for epoch in range(4):
        rows = [row - 60 for name, batch in sampler.batches(epoch) for row in batch.tolist() if name == "rare"]
        counts = collections.Counter(LABELS[rows].tolist())
        assert [counts[label] for label in (0, 1, 2, -1)] == [33, 33, 33, 3]
        seen.update(rows)
    for label in range(3):
        times = [seen[row] for row, own in enumerate(LABELS.tolist()) if own == label]
        assert max(times) - min(times) <= 1


def test_a_batch_rarely_has_a_row_twice() -> None:
    labels = np.array([0] * 1400 + [1] * 855 + [2] * 140 + [3] * 70)
    sampler = ProportionalBatchSampler(
        {"rare": np.random.default_rng(1).integers(5, 40, len(labels))}, {"rare": 16}, labels={"rare": labels}
    )
    batches = [rows for _, rows in sampler.batches(0)]
    twice = sum(len(set(rows.tolist())) < len(rows) for rows in batches)
    assert twice <= 0.15 * len(batches)
