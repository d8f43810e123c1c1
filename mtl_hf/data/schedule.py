"""Which source feeds each batch, and which rows are in it: index arithmetic only, no data and no torch state.

A schedule is a pure function of (token length of every row, policy, stopping rule, batch size of each source, seed,
epoch). Rows of all sources are numbered one after the other. Notable: it yields *global* batches, and each rank takes
its slice of each, so that all ranks train the same source at the same step and any number of processes with the same
global batch sees the same rows. Nothing has to be stored to resume: skip what was done.

The samplers have no `batch_size`, `drop_last` or `sampler` attribute on purpose: accelerate looks for these and would
deal the batches out a second time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from torch.utils.data import Sampler

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


class _SourceBatchSampler(Sampler[list[int]]):
    """What both policies share: the batches of one source, and a rank's slice of them.

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

    def global_batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, row numbers over all sources) of every global batch of an epoch."""
        raise NotImplementedError

    def epoch_laps(self) -> dict[str, float]:
        """Source → how many times an epoch goes through it."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        num_seen = dict.fromkeys(self.lengths, 0)
        for source, batch in self.global_batches(self.epoch):
            lap = num_seen[source] // self.num_batches(source)
            num_seen[source] += 1
            # Every n-th row, so that ranks get like lengths.
            yield Batch(batch[self.rank :: self.world_size].tolist(), (self.seed, self.epoch, lap))


class RoundRobinBatchSampler(_SourceBatchSampler):
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

    def __len__(self) -> int:
        return self.num_rounds * len(self.lengths)

    def epoch_laps(self) -> dict[str, float]:
        """Source → how many times an epoch goes through it."""
        return {name: self.num_rounds / self.num_batches(name) for name in self.lengths}

    def global_batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
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


class ProportionalBatchSampler(_SourceBatchSampler):
    """Every batch of every source exactly once an epoch, in one shuffled order: turns in proportion to size.

    Takes the arguments of `RoundRobinBatchSampler`, without a stopping rule.
    """

    def __len__(self) -> int:
        return sum(self.num_batches(name) for name in self.lengths)

    def epoch_laps(self) -> dict[str, float]:
        """Source → how many times an epoch goes through it: once."""
        return dict.fromkeys(self.lengths, 1.0)

    def global_batches(self, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, row numbers) of every global batch of an epoch, shuffled over sources."""
        batches = [(name, batch) for name in self.lengths for batch in self.source_batches(name, epoch)]
        rng = np.random.default_rng([self.seed, epoch, len(self.lengths)])
        for index in rng.permutation(len(batches)):
            yield batches[index]
