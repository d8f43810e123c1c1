"""Which source feeds each batch, and which rows are in it: index arithmetic only, no data and no torch state.

A schedule is a pure function of (token length of every row, policy, stopping rule, batch size of each source, seed,
epoch; of an annealed temperature also the number of epochs). Rows of all sources are numbered one after the other.
Notable: it yields *global* batches, and each rank takes its slice of each, so that all ranks train the same source at
the same step and any number of processes with the same global batch sees the same rows. Nothing has to be stored to
resume: skip what was done.

A new policy subclasses `SourceBatchSampler` and implements `Schedule`: the batches of an epoch, and their number.

The samplers have no `batch_size`, `drop_last` or `sampler` attribute on purpose: accelerate looks for these and would
deal the batches out a second time.
"""

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, Protocol

import numpy as np
from torch.utils.data import Sampler

from ..config import nearest

WINDOW = 50  # batches whose rows are sorted by length together: long enough to save padding, short enough to mix


class Batch(list[int]):
    """Row numbers of a batch, with what else decides what is drawn at random for each of them.

    Args:
        rows: The row numbers.
        draw: Seed, epoch, and lap: which time in the epoch the source is gone through.
    """

    def __init__(self, rows: Iterable[int], draw: tuple[int, int, int]) -> None:
        super().__init__(rows)
        self.draw = draw


class Schedule(Protocol):
    """Which source feeds each batch of an epoch, and which rows are in it: a pure function of the epoch."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, row numbers over all sources) of every global batch of an epoch, in time linear in them."""

    @abstractmethod
    def length(self, epoch: int) -> int:
        """Number of global batches of an epoch; the Trainer plans the steps of all epochs by that of the first."""


class SourceBatchSampler(Sampler[list[int]], Schedule):
    """What all policies share: the shuffled batches of one source, and a rank's slice of each batch of an epoch.

    A policy adds the methods of `Schedule`. `set_epoch` chooses the epoch that iterating yields.

    Args:
        lengths: Source → token length of each of its rows, in the order in which sources take turns.
        batch_sizes: Source → rows of its global batch.
        seed: With the epoch it decides every shuffle.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: A source without rows, or one with a batch that cannot give every process a row.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        batch_sizes: Mapping[str, int],
        *,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths = {name: np.asarray(rows) for name, rows in lengths.items()}
        self.batch_sizes = dict(batch_sizes)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        self.offsets: dict[str, int] = {}
        first = 0
        for name, rows in self.lengths.items():
            self.offsets[name] = first
            first += len(rows)
            if not len(rows):
                raise ValueError(f"source {name!r} has no training rows.")
            smallest = len(rows) // self.num_batches(name)
            if smallest < world_size:
                raise ValueError(
                    f"source {name!r}: {len(rows)} rows in global batches of {batch_sizes[name]} leave a batch with"
                    f" {smallest}, fewer than the {world_size} processes: use a larger batch size or fewer processes."
                )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def num_batches(self, source: str) -> int:
        """Global batches that hold every row of a source once."""
        return -(-len(self.lengths[source]) // self.batch_sizes[source])

    def source_batches(self, source: str, epoch: int, lap: int = 0) -> list[np.ndarray]:
        """One shuffled lap through a source: ⌈n/B⌉ global batches of like length, sizes differing by at most one.

        Args:
            source: Its name.
            epoch: The epoch.
            lap: Which time in the epoch the source is gone through.

        Returns:
            Row numbers over all sources, an array a batch.
        """
        lengths = self.lengths[source]
        position = list(self.lengths).index(source)
        rng = np.random.default_rng([self.seed, epoch, position, lap])
        order = rng.permutation(len(lengths))
        window = WINDOW * self.batch_sizes[source]
        for number, begin in enumerate(range(0, len(order), window)):
            rows = order[begin : begin + window]
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            # Up and down in turn, so that a batch over the edge of two windows holds like lengths too.
            order[begin : begin + window] = rows if number % 2 == 0 else rows[::-1]
        batches = np.array_split(order + self.offsets[source], self.num_batches(source))
        return [batches[index] for index in rng.permutation(len(batches))]

    def turns(self, epoch: int) -> Mapping[str, int]:
        """Source → its batches in an epoch."""
        return Counter(source for source, _ in self.batches(epoch))

    def epoch_laps(self, epoch: int = 0) -> dict[str, float]:
        """Source → how many times an epoch goes through it."""
        turns = self.turns(epoch)
        return {name: turns[name] / self.num_batches(name) for name in self.lengths}

    def __len__(self) -> int:
        return self.length(self.epoch)

    def __iter__(self) -> Iterator[list[int]]:
        num_seen = dict.fromkeys(self.lengths, 0)
        for source, batch in self.batches(self.epoch):
            lap = num_seen[source] // self.num_batches(source)
            num_seen[source] += 1
            # Every n-th row, so that ranks get like lengths.
            yield Batch(batch[self.rank :: self.world_size].tolist(), (self.seed, self.epoch, lap))


class RoundRobinBatchSampler(SourceBatchSampler):
    """Sources take turns in whole rounds, one batch of each.

    With the stopping rule `all_exhausted` an epoch ends when the longest source has been gone through; shorter ones
    start over, reshuffled, so their rows are repeated (the last lap of a source may be cut short: which rows are left
    out of it changes each epoch). With `first_exhausted` it ends with the shortest source; a longer one contributes
    other rows each epoch, and some of its rows not at all in this one.

    Args:
        lengths: Source → token length of each of its rows, in the order in which sources take turns.
        batch_sizes: Source → rows of its global batch.
        stopping_rule: `all_exhausted` or `first_exhausted`.
        seed: With the epoch it decides every shuffle.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        batch_sizes: Mapping[str, int],
        *,
        stopping_rule: Literal["all_exhausted", "first_exhausted"] = "all_exhausted",
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(lengths, batch_sizes, seed=seed, rank=rank, world_size=world_size)
        if stopping_rule not in ("all_exhausted", "first_exhausted"):
            raise ValueError(f"`stopping_rule` is {stopping_rule!r}; valid are all_exhausted and first_exhausted.")
        self.stopping_rule = stopping_rule

    @property
    def num_rounds(self) -> int:
        """Rounds in an epoch."""
        choose = max if self.stopping_rule == "all_exhausted" else min
        return choose(self.num_batches(name) for name in self.lengths)

    def length(self, epoch: int) -> int:
        """Number of global batches of an epoch, the same for all epochs."""
        return self.num_rounds * len(self.lengths)

    def turns(self, epoch: int) -> Mapping[str, int]:
        """Source → its batches in an epoch: one a round."""
        return dict.fromkeys(self.lengths, self.num_rounds)

    def batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, row numbers) of every global batch of an epoch, round by round."""
        laps = {name: self._laps(name, epoch) for name in self.lengths}
        for _ in range(self.num_rounds):
            for name, batches in laps.items():
                yield name, next(batches)

    def _laps(self, source: str, epoch: int) -> Iterator[np.ndarray]:
        lap = 0
        while True:
            yield from self.source_batches(source, epoch, lap)
            lap += 1


class _SharedEpochBatchSampler(SourceBatchSampler):
    """An epoch of as many batches as all sources have together, shared out among them and shuffled.

    Notable: nothing is drawn by chance but the order. A source gets its share of the epoch's batches to within one
    batch (`apportion`), so that epochs differ in which of its rows they show, not in how many. Where its share is more
    than it has, it starts over, reshuffled, once all its rows have been shown; where it is less, it shows other rows
    each epoch.
    """

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → what its share of an epoch is in proportion to."""
        raise NotImplementedError

    def turns(self, epoch: int) -> Mapping[str, int]:
        """Source → its batches in an epoch: its share."""
        return self.quotas(epoch)

    def quotas(self, epoch: int) -> dict[str, int]:
        """Source → its batches in an epoch."""
        return apportion(self.weights(epoch), self.length(epoch))

    def length(self, epoch: int) -> int:
        """Number of global batches of an epoch, the same for all epochs."""
        return sum(self.num_batches(name) for name in self.lengths)

    def batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, row numbers) of every global batch of an epoch, shuffled over sources."""
        quotas = self.quotas(epoch)
        turns = [name for name, quota in quotas.items() for _ in range(quota)]
        first = dict(zip(quotas, accumulate(quotas.values(), initial=0), strict=False))  # turn of each source
        shuffled = np.random.default_rng([self.seed, epoch, len(self.lengths)]).permutation(len(turns)).tolist()
        num_batches = {name: self.num_batches(name) for name in quotas}
        # Source → lap → which of the lap's batches are shown, in the shuffled order.
        places: dict[str, list[list[int]]] = {
            name: [[] for _ in range(-(-quota // num_batches[name]))] for name, quota in quotas.items()
        }
        for turn in shuffled:
            name = turns[turn]
            lap, place = divmod(turn - first[name], num_batches[name])
            places[name][lap].append(place)
        own = {name: self._lap_by_lap(name, epoch, laps) for name, laps in places.items()}
        for turn in shuffled:
            yield turns[turn], next(own[turns[turn]])

    def _lap_by_lap(self, source: str, epoch: int, laps: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        for lap, places in enumerate(laps):
            batches = self.source_batches(source, epoch, lap)
            yield from (batches[place] for place in places)


class ProportionalBatchSampler(_SharedEpochBatchSampler):
    """Every batch of every source exactly once an epoch, in one shuffled order: turns in proportion to size.

    Takes the arguments of `RoundRobinBatchSampler`, without a stopping rule.
    """

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → its number of batches, which is also its quota."""
        return {name: float(self.num_batches(name)) for name in self.lengths}


class TemperatureBatchSampler(_SharedEpochBatchSampler):
    """Shares in proportion to size^(1/T): 1 is proportional, 5 is nearer to equal, infinite is equal.

    A source's size is its number of batches, ⌈min(n, K)/B⌉ of its n rows: shares are of batches, as turns are, and rows
    come with them. With T = 1 and a cap K that no source reaches, every batch is that of `ProportionalBatchSampler`,
    bit for bit.

    Sources: Raffel et al., arXiv 1910.10683, section 3.5.2 (T5: the cap K is on the size that the share is computed
    from, and T is applied to the capped sizes; rows beyond the cap are shown like any others); Stickland and Murray,
    arXiv 1902.02671 (annealing: the exponent 1/T goes from one value to the other in equal steps, an epoch a step).

    Takes the arguments of `RoundRobinBatchSampler`, without a stopping rule, and

    Args:
        temperature: T, above 0; or (from, to) for the first and the last epoch.
        examples_cap: K, in rows; none by default.
        num_epochs: Of the run; needed for (from, to). Epochs after the last are like it.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        batch_sizes: Mapping[str, int],
        *,
        temperature: float | tuple[float, float] = 1.0,
        examples_cap: int | None = None,
        num_epochs: int = 1,
        **shared: Any,
    ) -> None:
        super().__init__(lengths, batch_sizes, **shared)
        self.first, self.last = temperature if isinstance(temperature, tuple) else (temperature, temperature)
        self.examples_cap, self.num_epochs = examples_cap, num_epochs
        if self.first != self.last and num_epochs < 2:
            raise ValueError(
                "`sampling_temperature` goes from one value to another over the epochs of a run, and this run has one:"
                " train for at least 2 epochs, or give one number."
            )

    def temperature(self, epoch: int) -> float:
        """T in an epoch, counted from 0."""
        done = min(epoch / (self.num_epochs - 1), 1.0) if self.num_epochs > 1 else 0.0
        exponent = (1 - done) / self.first + done / self.last
        return 1 / exponent if exponent else math.inf

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → size^(1/T), that of the largest 1."""
        exponent = 1 / self.temperature(epoch)
        rows = {name: min(len(own), self.examples_cap or len(own)) for name, own in self.lengths.items()}
        sizes = {name: -(-number // self.batch_sizes[name]) for name, number in rows.items()}
        largest = max(sizes.values())  # by which all are divided, so that no power overflows
        return {name: (size / largest) ** exponent for name, size in sizes.items()}


class FixedBatchSampler(_SharedEpochBatchSampler):
    """Shares of an epoch's batches as they are given, whatever the sources' sizes.

    Takes the arguments of `RoundRobinBatchSampler`, without a stopping rule, and

    Args:
        probabilities: Source → its share, above 0; they sum to 1.

    Raises:
        ValueError: A share of what is no source, or a source without a share.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        batch_sizes: Mapping[str, int],
        *,
        probabilities: Mapping[str, float],
        **shared: Any,
    ) -> None:
        super().__init__(lengths, batch_sizes, **shared)
        self.probabilities = dict(probabilities)
        for source in probabilities:
            if source not in self.lengths:
                raise ValueError(
                    f"`sampling_probabilities` has {source!r}, which is no source with training rows of this run."
                    f"{nearest(source, self.lengths)} The sources are: {', '.join(self.lengths)}."
                )
        if missing := [source for source in self.lengths if source not in probabilities]:
            raise ValueError(f"`sampling_probabilities` has no share for the source {missing[0]!r}: give it one.")

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → its probability."""
        return {name: self.probabilities[name] for name in self.lengths}


def apportion(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that sum to `total`, in proportion to weights to within 1 (largest remainder), but never 0.

    Whoever asks for a source to be trained has it trained: a share that comes to less than one batch an epoch is one.

    Args:
        weights: Name → weight, above 0.
        total: At least as much as there are names.

    Returns:
        Name → number; of equal remainders the first gets more.
    """
    whole = sum(weights.values())
    exact = {name: weight * total / whole for name, weight in weights.items()}
    numbers = {name: max(1, int(value)) for name, value in exact.items()}
    by_remainder = sorted(weights, key=lambda name: numbers[name] - exact[name])
    for name in by_remainder[: max(0, total - sum(numbers.values()))]:
        numbers[name] += 1
    while sum(numbers.values()) > total:  # some got 1 for less: at the cost of those with the most
        numbers[max(numbers, key=lambda name: numbers[name])] -= 1
    return numbers
