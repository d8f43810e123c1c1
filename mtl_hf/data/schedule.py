"""The schedule: the source and the rows of each batch. It is pure index arithmetic, without data or torch state.

A schedule is a pure function of the token length of every row, policy, stopping rule, batch sizes, seed and epoch (and,
if the temperature changes, of the number of epochs; in a balanced source, of the rows' labels). Rows of all sources are
numbered consecutively. Notable: it yields *global* batches, and each rank takes its slice of each, so that all ranks
train the same source at the same step, and any number of processes with the same global batch size sees the same rows.
To resume, batches that are done are skipped; no state has to be stored.

A new policy subclasses `SourceBatchSampler` and implements `Schedule`: the batches of an epoch, and their number.

The samplers have no attributes `batch_size`, `drop_last` or `sampler`: batches are already split per process, and with
these attributes accelerate would shard them again.
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
from .balanced import Balanced

WINDOW = 50  # batches whose rows are sorted by length together: long enough to save padding, short enough to mix


class Batch(list[int]):
    """Row numbers of a batch, and the seed of random draws for its rows.

    Args:
        rows: The row numbers.
        draw: Seed, epoch and lap (the number of the pass over the source in this epoch).
    """

    def __init__(self, rows: Iterable[int], draw: tuple[int, int, int]) -> None:
        super().__init__(rows)
        self.draw = draw


class Schedule(Protocol):
    """The source and the rows of each batch of an epoch: a pure function of the epoch."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, row numbers over all sources) of every global batch of an epoch, in time linear in them."""

    @abstractmethod
    def length(self, epoch: int) -> int:
        """Number of global batches of an epoch; the Trainer uses that of the first epoch for all epochs."""


class SourceBatchSampler(Sampler[list[int]], Schedule):
    """Base class of all policies: the shuffled batches of one source, and the rank's slice of each batch of an epoch.

    A policy adds the methods of `Schedule`. `set_epoch` sets the epoch that iterating yields.

    Args:
        lengths: Source → token length of each of its rows, in the order in which sources alternate.
        batch_sizes: Source → global batch size.
        labels: Source → label of each of its rows as a number, below 0 for none; of the sources in which each label
            gives the same number of rows (`balanced.Balanced`).
        seed: Seed of the shuffles, together with the epoch.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        ValueError: A source has no rows, or a batch with fewer rows than there are processes.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        batch_sizes: Mapping[str, int],
        *,
        labels: Mapping[str, np.ndarray] | None = None,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.balanced = {name: Balanced(own) for name, own in (labels or {}).items()}
        self._laps_before: dict[str, list[int]] = {name: [0] for name in self.balanced}
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
                    f"source {name!r}: with {len(rows)} rows and a global batch size of {batch_sizes[name]}, a batch"
                    f" has {smallest} rows, fewer than the {world_size} processes: use a larger batch size or fewer"
                    " processes."
                )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration yields."""
        self.epoch = epoch

    def num_batches(self, source: str) -> int:
        """Number of global batches in one pass over a source."""
        return -(-len(self.lengths[source]) // self.batch_sizes[source])

    def source_batches(self, source: str, epoch: int, lap: int = 0) -> list[np.ndarray]:
        """One shuffled pass over a source: ⌈n/B⌉ global batches of rows of similar length, with sizes within one.

        A pass over a balanced source has as many rows, drawn by label.

        Args:
            source: Name of the source.
            epoch: The epoch.
            lap: Number of the pass over the source in this epoch.

        Returns:
            For each batch, an array of row numbers over all sources.
        """
        lengths = self.lengths[source]
        position = list(self.lengths).index(source)
        rng = np.random.default_rng([self.seed, epoch, position, lap])
        window = WINDOW * self.batch_sizes[source]
        if source in self.balanced:
            balanced = self.balanced[source]
            order = balanced.rows(self.laps_before(source, epoch) + lap, [self.seed, position], rng)
            window = max(self.batch_sizes[source], min(window, balanced.longest_window))
        else:
            order = rng.permutation(len(lengths))
        for number, begin in enumerate(range(0, len(order), window)):
            rows = order[begin : begin + window]
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            # Alternately ascending and descending, so that a batch across two windows has similar lengths, too.
            order[begin : begin + window] = rows if number % 2 == 0 else rows[::-1]
        batches = np.array_split(order + self.offsets[source], self.num_batches(source))
        return [batches[index] for index in rng.permutation(len(batches))]

    def laps_before(self, source: str, epoch: int) -> int:
        """Number of passes over a source, complete or not, in all epochs before this one."""
        found = self._laps_before[source]
        while len(found) <= epoch:
            found.append(found[-1] + -(-self.turns(len(found) - 1)[source] // self.num_batches(source)))
        return found[epoch]

    def turns(self, epoch: int) -> Mapping[str, int]:
        """Source → number of its batches in an epoch."""
        return Counter(source for source, _ in self.batches(epoch))

    def epoch_laps(self, epoch: int = 0) -> dict[str, float]:
        """Source → number of passes over it in an epoch."""
        turns = self.turns(epoch)
        return {name: turns[name] / self.num_batches(name) for name in self.lengths}

    def __len__(self) -> int:
        return self.length(self.epoch)

    def __iter__(self) -> Iterator[list[int]]:
        num_seen = dict.fromkeys(self.lengths, 0)
        for source, batch in self.batches(self.epoch):
            lap = num_seen[source] // self.num_batches(source)
            num_seen[source] += 1
            # Every n-th row, so that ranks get similar lengths.
            yield Batch(batch[self.rank :: self.world_size].tolist(), (self.seed, self.epoch, lap))


class RoundRobinBatchSampler(SourceBatchSampler):
    """Round-robin: sources alternate, one batch each per round.

    With the stopping rule `all_exhausted` an epoch ends after all batches of the longest source. Shorter sources start
    over, reshuffled, so their rows repeat; their last pass may be incomplete, with other rows missing in each epoch.
    With `first_exhausted` an epoch ends after all batches of the shortest source; of longer ones it uses only some
    rows, other ones in each epoch.

    Args:
        lengths: Source → token length of each of its rows, in the order in which sources alternate.
        batch_sizes: Source → global batch size.
        stopping_rule: `all_exhausted` or `first_exhausted`.
        labels: Source → label of each of its rows, of balanced sources.
        seed: Seed of the shuffles, together with the epoch.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        batch_sizes: Mapping[str, int],
        *,
        stopping_rule: Literal["all_exhausted", "first_exhausted"] = "all_exhausted",
        labels: Mapping[str, np.ndarray] | None = None,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(lengths, batch_sizes, labels=labels, seed=seed, rank=rank, world_size=world_size)
        if stopping_rule not in ("all_exhausted", "first_exhausted"):
            raise ValueError(f"`stopping_rule` is {stopping_rule!r}; valid are all_exhausted and first_exhausted.")
        self.stopping_rule = stopping_rule

    @property
    def num_rounds(self) -> int:
        """Number of rounds in an epoch."""
        choose = max if self.stopping_rule == "all_exhausted" else min
        return choose(self.num_batches(name) for name in self.lengths)

    def length(self, epoch: int) -> int:
        """Number of global batches of an epoch, the same for all epochs."""
        return self.num_rounds * len(self.lengths)

    def turns(self, epoch: int) -> Mapping[str, int]:
        """Source → number of its batches in an epoch: one per round."""
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
    """Epochs with as many batches as all sources have together, divided among the sources and shuffled.

    Notable: only the order is random. A source gets its share of the epoch's batches to within one batch (`apportion`),
    so epochs differ in the rows of a source, not in their number. If the share is larger than the source, it starts
    over, reshuffled, after all its rows; if it is smaller, each epoch uses other rows.
    """

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → weight; its share of an epoch is proportional to it."""
        raise NotImplementedError

    def turns(self, epoch: int) -> Mapping[str, int]:
        """Source → number of its batches in an epoch."""
        return self.quotas(epoch)

    def quotas(self, epoch: int) -> dict[str, int]:
        """Source → number of its batches in an epoch, from its weight."""
        return apportion(self.weights(epoch), self.length(epoch))

    def length(self, epoch: int) -> int:
        """Number of global batches of an epoch, the same for all epochs."""
        return sum(self.num_batches(name) for name in self.lengths)

    def batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, row numbers) of every global batch of an epoch, shuffled over sources."""
        quotas = self.quotas(epoch)
        turns = [name for name, quota in quotas.items() for _ in range(quota)]
        first = dict(zip(quotas, accumulate(quotas.values(), initial=0), strict=False))  # index of its first turn
        shuffled = np.random.default_rng([self.seed, epoch, len(self.lengths)]).permutation(len(turns)).tolist()
        num_batches = {name: self.num_batches(name) for name in quotas}
        # Source → lap → indices of the batches of this lap, in the shuffled order.
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
    """Proportional: every batch of every source exactly once per epoch, all shuffled together.

    Takes the arguments of `RoundRobinBatchSampler`, without a stopping rule.
    """

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → number of its batches, which is also its quota."""
        return {name: float(self.num_batches(name)) for name in self.lengths}


class TemperatureBatchSampler(_SharedEpochBatchSampler):
    """Temperature sampling: shares proportional to size^(1/T). T = 1 is proportional, infinite T is uniform.

    The size of a source is its number of batches, ⌈min(n, K)/B⌉ for its n rows. With T = 1 and a cap K that no source
    reaches, batches are exactly those of `ProportionalBatchSampler`.

    References: Raffel et al., arXiv 1910.10683, section 3.5.2 (T5: the cap K limits the size from which the share is
    computed, and T applies to capped sizes; rows beyond the cap are used like all others); Stickland and Murray, arXiv
    1902.02671 (annealing: the exponent 1/T changes in equal steps per epoch).

    Takes the arguments of `RoundRobinBatchSampler`, without a stopping rule, and

    Args:
        temperature: T, above 0; or (from, to) for the first and the last epoch.
        examples_cap: K, in rows (default: no cap).
        num_epochs: Number of epochs of the run; needed for (from, to). Later epochs are like the last one.
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
                "`sampling_temperature: {from, to}` changes over the epochs of a run, but this run has only one epoch:"
                " train for at least 2 epochs, or set a number."
            )

    def temperature(self, epoch: int) -> float:
        """T in an epoch, counted from 0."""
        done = min(epoch / (self.num_epochs - 1), 1.0) if self.num_epochs > 1 else 0.0
        exponent = (1 - done) / self.first + done / self.last
        return 1 / exponent if exponent else math.inf

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → size^(1/T), relative to the largest source."""
        exponent = 1 / self.temperature(epoch)
        rows = {name: min(len(own), self.examples_cap or len(own)) for name, own in self.lengths.items()}
        sizes = {name: -(-number // self.batch_sizes[name]) for name, number in rows.items()}
        largest = max(sizes.values())  # divide by it, so that no power overflows
        return {name: (size / largest) ** exponent for name, size in sizes.items()}


class FixedBatchSampler(_SharedEpochBatchSampler):
    """Fixed shares of an epoch's batches, independent of the sources' sizes.

    Takes the arguments of `RoundRobinBatchSampler`, without a stopping rule, and

    Args:
        probabilities: Source → its share, above 0; they sum to 1.

    Raises:
        ValueError: A share is for an unknown source, or a source has no share.
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
                    f"`sampling_probabilities` has {source!r}, which is not a source with training rows."
                    f"{nearest(source, self.lengths)} The sources are: {', '.join(self.lengths)}."
                )
        if missing := [source for source in self.lengths if source not in probabilities]:
            raise ValueError(f"`sampling_probabilities` has no share for the source {missing[0]!r}: add one.")

    def weights(self, epoch: int) -> dict[str, float]:
        """Source → its probability."""
        return {name: self.probabilities[name] for name in self.lengths}


def apportion(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Divide `total` into whole numbers proportional to weights, to within 1 (largest remainder), and at least 1.

    At least 1, so that every source is trained, also with a share of less than one batch per epoch.

    Args:
        weights: Name → weight, above 0.
        total: At least the number of names.

    Returns:
        Name → number; of equal remainders the first gets more.
    """
    whole = sum(weights.values())
    exact = {name: weight * total / whole for name, weight in weights.items()}
    numbers = {name: max(1, int(value)) for name, value in exact.items()}
    by_remainder = sorted(weights, key=lambda name: numbers[name] - exact[name])
    for name in by_remainder[: max(0, total - sum(numbers.values()))]:
        numbers[name] += 1
    while sum(numbers.values()) > total:  # some were raised to 1: take it from the largest
        numbers[max(numbers, key=lambda name: numbers[name])] -= 1
    return numbers
