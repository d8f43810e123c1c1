"""Tests of `mtl_hf.data.schedule` as index arithmetic: what each policy promises, for 1 to 4 ranks."""

import collections
import hashlib
import itertools
import json
from typing import Any

import numpy as np
import pytest

from mtl_hf.data.schedule import (
    WINDOW,
    FixedBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    SourceBatchSampler,
    TemperatureBatchSampler,
    apportion,
)

POLICIES = ("all_exhausted", "first_exhausted", "proportional")
# Of 21 batches, by hand: 13, 4 and 4 to the power of 1/2 are 3.606, 2 and 2, so 9.956, 5.522 and 5.522.
SHARED = {
    "equal": {"temperature": np.inf},
    "square root": {"temperature": 2.0},
    "annealed": {"temperature": (np.inf, 1.0), "num_epochs": 3},
    "capped": {"examples_cap": 30},
    "fixed": {"probabilities": {"long": 0.1, "middle": 0.5, "short": 0.4}},
}
QUOTAS = {
    "equal": {"long": 7, "middle": 7, "short": 7},
    "square root": {"long": 10, "middle": 6, "short": 5},
    "annealed": {"long": 7, "middle": 7, "short": 7},
    "capped": {"long": 9, "middle": 4, "short": 8},  # sizes 4, 2 and 4: 8.4, 4.2 and 8.4, and of a tie the first
    "fixed": {"long": 2, "middle": 11, "short": 8},
}
SIZES = {"long": 103, "middle": 64, "short": 17}
BATCHES = {"long": 8, "middle": 16, "short": 5}  # 13, 4 and 4 batches


def lengths_of(sizes: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Source → token lengths of as many rows."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(3, 60, number) for name, number in sizes.items()}


def sampler(policy: str, sizes: dict[str, int] = SIZES, batches: dict[str, int] = BATCHES, **options: Any) -> Any:
    """The schedule of a policy or stopping rule."""
    if policy in SHARED:
        kind = FixedBatchSampler if policy == "fixed" else TemperatureBatchSampler
        return kind(lengths_of(sizes), batches, **SHARED[policy], **options)
    if policy == "proportional":
        return ProportionalBatchSampler(lengths_of(sizes), batches, **options)
    return RoundRobinBatchSampler(lengths_of(sizes), batches, stopping_rule=policy, **options)


def epoch_of(policy: str, epoch: int = 0, **options: Any) -> list[tuple[str, list[int]]]:
    """(source, rows) of every global batch."""
    return [(source, rows.tolist()) for source, rows in sampler(policy, **options).batches(epoch)]


def source_of(row: int, sizes: dict[str, int] = SIZES) -> str:
    """The source of a row under the common numbering."""
    for name, number in sizes.items():
        if row < number:
            return name
        row -= number
    raise AssertionError(row)


def rows_of(source: str, sizes: dict[str, int] = SIZES) -> set[int]:
    """All rows of a source."""
    return {row for row in range(sum(sizes.values())) if source_of(row, sizes) == source}


# Batches


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9, 15, 16, 17, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 200])
def test_lap_holds_every_row_once_in_even_batches(num_rows: int, batch_size: int) -> None:
    schedule = sampler("proportional", {"other": 5, "it": num_rows}, {"other": 2, "it": batch_size})
    batches = schedule.source_batches("it", epoch=0)
    assert len(batches) == schedule.num_batches("it") == -(-num_rows // batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(5, 5 + num_rows))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_laps_and_epochs_and_seeds_shuffle_anew() -> None:
    batches = {
        (seed, epoch, lap): [
            sorted(rows.tolist()) for rows in sampler("proportional", seed=seed).source_batches("long", epoch, lap)
        ]
        for seed, epoch, lap in itertools.product((1, 2), (0, 1), (0, 1))
    }
    for one, other in itertools.combinations(batches.values(), 2):
        assert one != other
        assert sorted(one) != sorted(other)  # not only the order of the batches, also what is in them


def test_rows_of_like_length_share_batches() -> None:
    rng = np.random.default_rng(0)
    lengths = {"a": rng.integers(3, 60, 2000)}
    schedule = ProportionalBatchSampler(lengths, {"a": 16})

    def padding(batches: list[np.ndarray]) -> int:
        return sum(int(lengths["a"][rows].max() * len(rows) - lengths["a"][rows].sum()) for rows in batches)

    shuffled = np.array_split(rng.permutation(2000), 125)
    assert padding(schedule.source_batches("a", 0)) < 0.1 * padding(shuffled)
    # Still shuffled: short batches do not all come first.
    means = [lengths["a"][rows].mean() for rows in schedule.source_batches("a", 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_no_batch_mixes_the_shortest_and_the_longest() -> None:
    # 1,794 rows in 113 batches, of which one lies over the edge of two windows of rows that are sorted together.
    lengths = {"a": np.random.default_rng(0).integers(3, 60, 1794)}
    for epoch in range(3):
        batches = ProportionalBatchSampler(lengths, {"a": 16}).source_batches("a", epoch)
        assert max(np.ptp(lengths["a"][rows]) for rows in batches) <= 8


def test_neighbours_in_length_change_between_epochs() -> None:
    lengths = {"a": np.full(400, 7)}
    schedule = ProportionalBatchSampler(lengths, {"a": 8})
    together = [
        {
            frozenset(pair)
            for rows in schedule.source_batches("a", epoch)
            for pair in itertools.combinations(rows.tolist(), 2)
        }
        for epoch in (0, 1)
    ]
    assert len(together[0] & together[1]) < 0.1 * len(together[0])


# Ranks


@pytest.mark.parametrize("policy", [*POLICIES, *SHARED])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_slices_of_all_ranks_are_the_global_batch(policy: str, world_size: int) -> None:
    ranks = [sampler(policy, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in (0, 3):
        for rank in ranks:
            rank.set_epoch(epoch)
        steps = list(zip(*ranks, strict=True))
        expected = epoch_of(policy, epoch)
        assert len(steps) == len(expected) == len(ranks[0])
        for slices, (source, rows) in zip(steps, expected, strict=True):
            assert sorted(itertools.chain(*slices)) == sorted(rows)
            assert {source_of(row) for part in slices for row in part} == {source}
            assert max(map(len, slices)) - min(map(len, slices)) <= 1
            assert min(map(len, slices)) >= 1


@pytest.mark.parametrize("policy", POLICIES)
def test_ranks_get_like_lengths(policy: str) -> None:
    lengths = np.concatenate(list(lengths_of(SIZES).values()))
    ranks = [list(sampler(policy, rank=rank, world_size=2)) for rank in range(2)]
    for one, other in zip(*ranks, strict=True):
        batch = lengths[one + other]
        assert abs(lengths[one].mean() - lengths[other].mean()) <= max(batch.max() - batch.min(), 1)


def test_samplers_show_nothing_that_accelerate_would_deal_out_again() -> None:
    for policy in (*POLICIES, *SHARED):
        for name in ("batch_size", "drop_last", "sampler"):
            assert not hasattr(sampler(policy), name)


# Policies


@pytest.mark.parametrize("policy", [*POLICIES, *SHARED])
def test_schedule_is_a_function_of_seed_and_epoch(policy: str) -> None:
    assert epoch_of(policy, 2) == epoch_of(policy, 2)
    assert epoch_of(policy, 2) != epoch_of(policy, 3)
    assert epoch_of(policy, 2) != epoch_of(policy, 2, seed=43)
    schedule = sampler(policy)
    schedule.set_epoch(2)
    assert list(schedule) == [rows for _, rows in epoch_of(policy, 2)]
    assert list(schedule) == list(schedule)  # iterating leaves nothing behind


@pytest.mark.parametrize("policy", POLICIES)
def test_length_is_the_number_of_batches_yielded(policy: str) -> None:
    for sizes in (SIZES, {"a": 1, "b": 1}, {"a": 50, "b": 3}, {"b": 3, "a": 50}):
        batches = BATCHES if sizes is SIZES else {"a": 7, "b": 2}
        schedule = sampler(policy, sizes, batches)
        assert len(list(schedule)) == len(schedule)


@pytest.mark.parametrize("policy", ["all_exhausted", "first_exhausted"])
def test_round_robin_goes_in_whole_rounds_in_the_order_given(policy: str) -> None:
    sources = [source for source, _ in epoch_of(policy)]
    assert sources == list(SIZES) * (13 if policy == "all_exhausted" else 4)
    backwards = dict(reversed(SIZES.items()))
    sources = [source for source, _ in epoch_of(policy, sizes=backwards)]
    assert sources[:3] == ["short", "middle", "long"]


def laps_of(batches: list[tuple[str, list[int]]], source: str, a_lap: int) -> list[list[int]]:
    """The rows of a source in each of its laps, the last perhaps cut short."""
    own = [rows for name, rows in batches if name == source]
    return [list(itertools.chain(*own[start : start + a_lap])) for start in range(0, len(own), a_lap)]


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_all_exhausted_shows_the_longest_once_and_starts_the_others_over(epoch: int) -> None:
    batches = epoch_of("all_exhausted", epoch)
    assert sorted(laps_of(batches, "long", 13)[0]) == sorted(rows_of("long"))
    for source in ("middle", "short"):
        laps = laps_of(batches, source, 4)
        assert len(laps) == 4  # 13 batches of 4 a lap
        for lap in laps[:3]:
            assert sorted(lap) == sorted(rows_of(source))
        assert len(set(laps[3])) == len(laps[3])
        assert set(laps[3]) < rows_of(source)
        assert len({tuple(lap) for lap in laps}) == 4  # reshuffled


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_first_exhausted_ends_with_the_shortest(epoch: int) -> None:
    batches = epoch_of("first_exhausted", epoch)
    counts = collections.Counter(row for _, rows in batches for row in rows)
    assert set(counts.values()) == {1}
    assert rows_of("middle") | rows_of("short") < set(counts)
    assert len(set(counts) & rows_of("long")) in range(4 * 7, 4 * 8 + 1)


def test_what_an_epoch_leaves_out_changes() -> None:
    shown = [
        {row for source, rows in epoch_of("first_exhausted", epoch) if source == "long" for row in rows}
        for epoch in range(12)
    ]
    assert shown[0] != shown[1]
    assert set.union(*shown) == rows_of("long")


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_proportional_shows_every_batch_of_every_source_once(epoch: int) -> None:
    batches = epoch_of("proportional", epoch)
    assert collections.Counter(source for source, _ in batches) == {"long": 13, "middle": 4, "short": 4}
    assert sorted(row for _, rows in batches for row in rows) == list(range(sum(SIZES.values())))


def test_proportional_mixes_the_sources() -> None:
    orders = {tuple(source for source, _ in epoch_of("proportional", epoch)) for epoch in range(5)}
    assert len(orders) == 5
    for order in orders:
        assert len(list(itertools.groupby(order))) > 5  # not one source after the other


def test_laps_of_an_epoch_are_those_that_the_batches_make() -> None:
    for policy in POLICIES:
        counts = collections.Counter(source for source, _ in epoch_of(policy))
        expected = {source: counts[source] / {"long": 13, "middle": 4, "short": 4}[source] for source in SIZES}
        assert sampler(policy).epoch_laps() == expected


# Shares of an epoch


@pytest.mark.parametrize("policy", SHARED)
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_each_source_has_its_share_of_an_epoch_counted_by_hand(policy: str, epoch: int) -> None:
    quotas = QUOTAS[policy]
    if policy == "annealed":  # exponents 0, 1/2 and 1
        quotas = [QUOTAS["equal"], QUOTAS["square root"], {"long": 13, "middle": 4, "short": 4}][epoch]
    schedule = sampler(policy)
    batches = epoch_of(policy, epoch)
    assert schedule.quotas(epoch) == quotas
    assert collections.Counter(source for source, _ in batches) == quotas
    assert len(batches) == len(schedule) == 21
    assert schedule.epoch_laps(epoch) == {
        name: quota / {"long": 13, "middle": 4, "short": 4}[name] for name, quota in quotas.items()
    }


@pytest.mark.parametrize("policy", SHARED)
def test_a_share_goes_through_a_source_lap_by_lap(policy: str) -> None:
    for epoch in (0, 1):
        batches = epoch_of(policy, epoch)
        for source, a_lap in {"long": 13, "middle": 4, "short": 4}.items():
            laps = laps_of(batches, source, a_lap)
            for lap in laps[:-1]:
                assert sorted(lap) == sorted(rows_of(source)), "all rows before any is shown again"
            assert len(set(laps[-1])) == len(laps[-1])
            assert set(laps[-1]) <= rows_of(source)
            assert len({tuple(lap) for lap in laps}) == len(laps), "reshuffled"


def test_a_share_of_less_than_the_source_shows_other_rows_each_epoch() -> None:
    shown = [
        {row for source, rows in epoch_of("fixed", epoch) if source == "long" for row in rows} for epoch in range(40)
    ]
    assert shown[0] != shown[1]
    assert set.union(*shown) == rows_of("long")


def test_batches_know_the_lap_that_they_are_of() -> None:
    schedule = sampler("fixed")
    seen: collections.Counter[int] = collections.Counter()
    for batch in schedule:
        assert {seen[row] for row in batch} == {batch.draw[2]}
        seen.update(batch)


def proportional_order(sizes: dict[str, int], batches: dict[str, int], epoch: int) -> list[tuple[str, list[int]]]:
    """What `proportional` has always been: all batches of all sources, permuted."""
    schedule = sampler("proportional", sizes, batches)
    listed = [(name, batch.tolist()) for name in sizes for batch in schedule.source_batches(name, epoch)]
    return [listed[index] for index in np.random.default_rng([42, epoch, len(sizes)]).permutation(len(listed))]


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"temperature": 1.0}, 4),
        ({"examples_cap": 103}, 4),
        ({"temperature": (1.0, 1.0)}, 4),
        ({"temperature": (1.0, 5.0)}, 1),  # of which only the first epoch is neutral
    ],
)
def test_neutral_settings_are_proportional_bit_for_bit(options: dict[str, Any], epochs: int) -> None:
    schedule = TemperatureBatchSampler(lengths_of(SIZES), BATCHES, **options, num_epochs=4)
    for epoch in range(epochs):
        expected = proportional_order(SIZES, BATCHES, epoch)
        assert epoch_of("proportional", epoch) == expected
        assert [(name, rows.tolist()) for name, rows in schedule.batches(epoch)] == expected


def test_neutral_settings_are_proportional_whatever_the_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        names = [f"s{place}" for place in range(rng.integers(1, 9))]
        sizes = {name: int(rng.integers(1, 10**6)) for name in names}
        schedule = TemperatureBatchSampler(
            {name: np.zeros(size) for name, size in sizes.items()}, dict.fromkeys(names, 7)
        )
        assert schedule.quotas(0) == {name: -(-size // 7) for name, size in sizes.items()}


def test_a_temperature_is_annealed_in_equal_steps_of_its_inverse() -> None:
    schedule = TemperatureBatchSampler({"a": [3], "b": [3]}, {"a": 1, "b": 1}, temperature=(5.0, 1.0), num_epochs=3)
    assert [schedule.temperature(epoch) for epoch in range(4)] == pytest.approx([5, 1 / 0.6, 1, 1])
    with pytest.raises(
        ValueError, match="over the epochs of a run, but this run has only one epoch: train for at least 2"
    ):
        TemperatureBatchSampler({"a": [3], "b": [3]}, {"a": 1, "b": 1}, temperature=(5.0, 1.0))


def test_extreme_temperatures_neither_overflow_nor_leave_a_source_out() -> None:
    lengths = {"big": np.zeros(10**6), "small": np.zeros(10)}
    cold = TemperatureBatchSampler(lengths, {"big": 10, "small": 10}, temperature=1e-3)
    assert cold.quotas(0) == {"big": 100_000, "small": 1}
    hot = TemperatureBatchSampler(lengths, {"big": 10, "small": 10}, temperature=1e9)
    assert hot.quotas(0) == {"big": 50_001, "small": 50_000}


def test_apportioning_is_to_within_one_and_leaves_nobody_out() -> None:
    assert apportion({"a": 0.7, "b": 0.2, "c": 0.1}, 10) == {"a": 7, "b": 2, "c": 1}
    assert apportion({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert apportion({"a": 0.98, "b": 0.01, "c": 0.01}, 10) == {"a": 8, "b": 1, "c": 1}
    assert apportion({"a": 0.98, "b": 0.01, "c": 0.01}, 3) == {"a": 1, "b": 1, "c": 1}
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = dict(enumerate(rng.random(rng.integers(1, 8)) + 0.2))
        total = int(rng.integers(50, 500))
        numbers = apportion(weights, total)
        assert sum(numbers.values()) == total
        assert all(abs(numbers[name] - weight * total / sum(weights.values())) < 1 for name, weight in weights.items())


# Every batch, compared with frozen values and with a slow second implementation

SHAPES = {
    "small": (SIZES, BATCHES),
    "windows": ({"big": 1794, "one": 1, "odd": 505}, {"big": 16, "one": 4, "odd": 3}),
}
DRAWN = {
    "all_exhausted": {},
    "first_exhausted": {},
    "proportional": {},
    "temperature": {"temperature": 3.0},
    "annealed": {"temperature": (np.inf, 1.0), "num_epochs": 3},
    "capped": {"examples_cap": 30},
    "fixed": {},  # with the probabilities 0.1, 0.5 and 0.4
}
DIGESTS = {
    ("small", "all_exhausted"): "38c436f50fc7c157",
    ("small", "first_exhausted"): "8293eb27c9459171",
    ("small", "proportional"): "684514ac61bf02de",
    ("small", "temperature"): "4f763f3341572731",
    ("small", "annealed"): "ca14a138442650f3",
    ("small", "capped"): "e6ce11cc5acce51f",
    ("small", "fixed"): "d7a3ea93bf99ac78",
    ("windows", "all_exhausted"): "e82a4fb0db0fe398",
    ("windows", "first_exhausted"): "c1850df52c9fd23e",
    ("windows", "proportional"): "d110b3fcf027f752",
    ("windows", "temperature"): "2611893088ff956d",
    ("windows", "annealed"): "a21b248d497e22b1",
    ("windows", "capped"): "beec47cf2a5ec400",
    ("windows", "fixed"): "383b7bf616c77454",
}


def schedule_of(policy: str, sizes: dict[str, int], batches: dict[str, int], **options: Any) -> Any:
    """The schedule of a policy in `DRAWN`."""
    if policy == "fixed":
        shares = dict(zip(sizes, [0.1, 0.5, 0.4] if len(sizes) == 3 else [1 / len(sizes)] * len(sizes), strict=True))
        return FixedBatchSampler(lengths_of(sizes), batches, probabilities=shares, **options)
    if DRAWN[policy]:
        return TemperatureBatchSampler(lengths_of(sizes), batches, **DRAWN[policy], **options)
    return sampler(policy, sizes, batches, **options)


@pytest.mark.parametrize(("shape", "policy"), DIGESTS)
def test_batches_rows_and_draws_are_those_of_runs_before(shape: str, policy: str) -> None:
    # A resumed run replays the schedule: these digests may never change.
    digest = hashlib.sha256()
    for seed in (13, 42):
        schedule = schedule_of(policy, *SHAPES[shape], seed=seed)
        for epoch in (0, 1, 2, 5):
            schedule.set_epoch(epoch)
            batches = [(name, rows.tolist()) for name, rows in schedule.batches(epoch)]
            own = [[list(batch), list(batch.draw)] for batch in schedule]
            digest.update(json.dumps([batches, own]).encode())
    assert digest.hexdigest()[:16] == DIGESTS[shape, policy]


def slow_lap(schedule: Any, source: str, epoch: int, lap: int) -> list[list[int]]:
    """The batches of one lap through a source, row by row."""
    lengths, first = schedule.lengths[source].tolist(), 0
    position = [*schedule.lengths].index(source)
    for before in [*schedule.lengths][:position]:
        first += len(schedule.lengths[before])
    rng = np.random.default_rng([schedule.seed, epoch, position, lap])
    shuffled = rng.permutation(len(lengths)).tolist()
    ordered: list[int] = []
    window = WINDOW * schedule.batch_sizes[source]
    while shuffled:
        taken, shuffled = shuffled[:window], shuffled[window:]
        backwards = len(ordered) // window % 2 == 1
        taken.sort(key=lambda row: lengths[row])
        ordered += reversed(taken) if backwards else taken
    number = -(-len(lengths) // schedule.batch_sizes[source])
    batches = []
    for place in range(number):
        size = len(lengths) // number + (place < len(lengths) % number)
        batches.append([first + row for row in ordered[:size]])
        del ordered[:size]
    return [batches[place] for place in rng.permutation(number)]


def slow_epoch(schedule: Any, epoch: int) -> list[tuple[str, list[int]]]:
    """Every batch of an epoch, each found by going through all that came before it."""
    a_lap = {name: -(-len(rows) // schedule.batch_sizes[name]) for name, rows in schedule.lengths.items()}
    if isinstance(schedule, RoundRobinBatchSampler):
        rounds = (max if schedule.stopping_rule == "all_exhausted" else min)(a_lap.values())
        turns = [(name, turn) for turn in range(rounds) for name in a_lap]
    else:
        quotas = schedule.quotas(epoch)
        in_order = [(name, place) for name, quota in quotas.items() for place in range(quota)]
        shuffled = np.random.default_rng([schedule.seed, epoch, len(a_lap)]).permutation(len(in_order))
        mixed = [in_order[index] for index in shuffled]
        turns = []
        for index, (name, _) in enumerate(mixed):
            own = sorted((place for other, place in mixed if other == name), key=lambda place: place // a_lap[name])
            turns.append((name, own[sum(other == name for other, _ in mixed[:index])]))
    return [(name, slow_lap(schedule, name, epoch, place // a_lap[name])[place % a_lap[name]]) for name, place in turns]


@pytest.mark.parametrize("policy", DRAWN)
def test_every_batch_is_that_of_a_slow_second_implementation(policy: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        names = [f"s{place}" for place in range(rng.integers(1, 5))]
        sizes = {name: int(rng.integers(1, 120)) for name in names}
        batches = {name: int(rng.choice([1, 2, 7, 16])) for name in names}
        schedule = schedule_of(policy, sizes, batches, seed=int(rng.integers(100)))
        epoch = int(rng.integers(4))
        expected = slow_epoch(schedule, epoch)
        assert [(name, rows.tolist()) for name, rows in schedule.batches(epoch)] == expected
        assert schedule.length(epoch) == len(expected)


class LongestFirst(SourceBatchSampler):
    """A policy of somebody else: sources one after the other, in epochs that grow."""

    def batches(self, epoch: int) -> Any:
        """All batches of the first epoch + 1 sources."""
        for name in [*self.lengths][: epoch + 1]:
            for rows in self.source_batches(name, epoch):
                yield name, rows

    def length(self, epoch: int) -> int:
        """Their number."""
        return sum(self.num_batches(name) for name in [*self.lengths][: epoch + 1])


def test_a_policy_is_two_methods() -> None:
    schedule = LongestFirst(lengths_of(SIZES), BATCHES, rank=1, world_size=2)
    assert len(schedule) == 13
    schedule.set_epoch(1)
    assert len(schedule) == len(list(schedule)) == 17
    assert [list(batch) for batch in schedule] == [rows.tolist()[1::2] for _, rows in schedule.batches(1)]
    assert schedule.epoch_laps(1) == {"long": 1, "middle": 1, "short": 0}
    with pytest.raises(TypeError, match="abstract"):
        SourceBatchSampler(lengths_of(SIZES), BATCHES)


# What an epoch promises, counted by hand. Per source (rows in batches): each of its rows is shown `times` times, and as
# many rows as `extra` says once more, which differ between epochs.
PROMISES = {
    # 13, 4 and 4 batches, so 13 rounds, or 4: 13 = 3 laps of 4 batches and one batch
    "uneven": (
        {"long": (103, 8), "middle": (64, 16), "short": (17, 5)},
        {
            "all_exhausted": {"long": (1, {0}), "middle": (3, {16}), "short": (3, {4, 5})},
            "first_exhausted": {"long": (0, {31, 32}), "middle": (1, {0}), "short": (1, {0})},
            "proportional": {"long": (1, {0}), "middle": (1, {0}), "short": (1, {0})},
        },
    ),
    # 6 and 3 batches: whole laps only
    "even": (
        {"one": (24, 4), "two": (24, 8)},
        {
            "all_exhausted": {"one": (1, {0}), "two": (2, {0})},
            "first_exhausted": {"one": (0, {12}), "two": (1, {0})},
            "proportional": {"one": (1, {0}), "two": (1, {0})},
        },
    ),
    # one batch of 4, and 6 batches of 6 or 7
    "tiny": (
        {"tiny": (4, 64), "big": (40, 7)},
        {
            "all_exhausted": {"tiny": (6, {0}), "big": (1, {0})},
            "first_exhausted": {"tiny": (1, {0}), "big": (0, {6, 7})},
            "proportional": {"tiny": (1, {0}), "big": (1, {0})},
        },
    ),
    "alone": ({"only": (25, 6)}, {policy: {"only": (1, {0})} for policy in POLICIES}),
}


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", PROMISES)
def test_all_ranks_together_show_each_row_as_often_as_the_policy_promises(case, policy, world_size):
    sources, promises = PROMISES[case]
    sizes, batches = ({name: pair[k] for name, pair in sources.items()} for k in (0, 1))
    ranks = [sampler(policy, sizes, batches, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(3):
        shown = collections.Counter()
        for rank in ranks:
            rank.set_epoch(epoch)
            shown.update(itertools.chain(*rank))
        first = 0
        for name, number in sizes.items():
            times, extra = promises[policy][name]
            counts = [shown.pop(row, 0) for row in range(first, first + number)]
            assert set(counts) <= {times, times + 1}, name
            assert counts.count(times + 1) in extra, name
            first += number
        assert not shown, "a row that no source has"


def test_one_source_is_the_same_under_every_policy() -> None:
    shown = [
        sorted(tuple(sorted(rows)) for _, rows in epoch_of(policy, sizes={"a": 50}, batches={"a": 8}))
        for policy in POLICIES
    ]
    assert shown[0] == shown[1] == shown[2]


# What is refused


@pytest.mark.parametrize("policy", POLICIES)
def test_source_without_rows_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="source 'b' has no training rows"):
        sampler(policy, {"a": 3, "b": 0}, {"a": 2, "b": 2})


def test_batch_that_cannot_give_every_process_a_row_is_refused() -> None:
    sampler("proportional", {"a": 9}, {"a": 4}, world_size=3)  # three batches of three
    with pytest.raises(
        ValueError, match=r"source 'a': with 9 rows and a global batch size of 4, a batch has 3 rows, fewer than the 4"
    ):
        sampler("proportional", {"a": 9}, {"a": 4}, world_size=4)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (
            {"ner": 0.5, "reviws": 0.5},
            r"has 'reviws', which is not a source .* Did you mean `reviews`\? .*: ner, reviews\.",
        ),
        ({"ner": 1.0}, "has no share for the source 'reviews'"),
    ],
)
def test_probabilities_of_other_sources_are_refused(probabilities: dict[str, float], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        FixedBatchSampler({"ner": [3], "reviews": [3]}, {"ner": 1, "reviews": 1}, probabilities=probabilities)


def test_unknown_stopping_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="`stopping_rule` is 'never'; valid are all_exhausted and first_exhausted"):
        sampler("never")
