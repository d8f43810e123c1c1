"""Cached outputs of an encoder's frozen layers for the tokens of rows: a memory-mapped file, read by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RowStates:
    """Encoder states of the tokens of rows.

    Attributes:
        states: States of all tokens of all rows, concatenated, (N, H).
        starts: Index of the first token of each row, (R,).
        lengths: Number of tokens of each row, (R,).
    """

    states: Tensor
    starts: np.ndarray
    lengths: np.ndarray

    def select(self, rows: Sequence[int] | np.ndarray) -> "RowStates":
        """Select rows, in the given order, like `datasets.Dataset.select`."""
        return RowStates(self.states, self.starts[rows], self.lengths[rows])

    def places(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Indices into `states` of the tokens of the given rows, concatenated."""
        lengths = self.lengths[rows]
        before = np.cumsum(lengths) - lengths
        return torch.from_numpy(np.repeat(self.starts[rows] - before, lengths) + np.arange(lengths.sum()))

    def take(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """The states of the tokens of the given rows, concatenated, (n, H)."""
        return self.states[self.places(rows)]
