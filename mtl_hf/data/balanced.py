"""Rows of a source drawn by label, so that every label gives the same number of them: index arithmetic only.

Notable: a label's rows are taken in shuffled passes, one after the other through all laps of a run, so that no row is
taken a second time before all rows of its label had their turn. Which rows a lap has follows from its number alone: the
sequence of each label is a function of seed, label and pass, and a lap begins where the laps before it ended.
"""

from collections.abc import Sequence

import numpy as np


class Balanced:
    """The rows of one source by label. A lap has as many rows as the source.

    The rows with a label are divided among the labels to within one; which labels get one more changes from lap to lap.
    Rows without a label are in every lap once.

    Args:
        labels: The label of each row as a number, (n,); below 0 for none.

    Attributes:
        labels: The labels that occur, in order.
        sizes: How many rows each of them has.
        longest_window: Number of neighbouring rows of a lap in which about every row of the rarest label occurs once.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self._groups = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
        self._rest = np.flatnonzero(labels < 0)
        self.labels = np.unique(labels[labels >= 0]).tolist()
        self.sizes = np.array([len(group) for group in self._groups])
        per_lap = self.sizes.sum() / max(1, len(self.sizes))
        self.longest_window = int(len(labels) * min([1.0, *(self.sizes / per_lap)]))

    def counts(self, lap: int) -> np.ndarray:
        """How many rows each label has in a lap, (labels,)."""
        return self._begins(lap + 1) - self._begins(lap)

    def _begins(self, lap: int) -> np.ndarray:
        """How many rows each label had in all laps before this one, (labels,)."""
        number = max(1, len(self.sizes))
        each, left = divmod(int(self.sizes.sum()), number)
        # The rows that are left over go to the labels in turn, from lap to lap.
        return lap * each + (lap * left + number - 1 - np.arange(len(self.sizes))) // number

    def rows(self, lap: int, seed: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """The rows of a lap, (n,): any stretch of them has about equally many rows of each label.

        Args:
            lap: Number of the lap, over all epochs.
            seed: Seed of the passes.
            rng: Mixes the labels.
        """
        begins, ends = self._begins(lap), self._begins(lap + 1)
        drawn = [self._stretch(place, int(begins[place]), int(ends[place]), seed) for place in range(len(self.sizes))]
        drawn.append(rng.permutation(self._rest))
        # Each label's rows keep their order and are spread evenly over the lap.
        places = [(np.arange(len(rows)) + rng.random(len(rows))) / max(1, len(rows)) for rows in drawn]
        return np.concatenate(drawn)[np.argsort(np.concatenate(places), kind="stable")]

    def _stretch(self, place: int, begin: int, end: int, seed: Sequence[int]) -> np.ndarray:
        """Items `begin` to `end` of the sequence of shuffled passes over the rows of a label."""
        rows = self._groups[place]
        first, last = begin // len(rows), -(-end // len(rows))
        passes = [
            np.random.default_rng([*seed, self.labels[place], number, 1]).permutation(rows)
            for number in range(first, last)
        ]
        whole = np.concatenate([*passes, rows[:0]])
        return whole[begin - first * len(rows) : end - first * len(rows)]
