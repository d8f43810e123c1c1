"""What an encoder's frozen layers say of every token of some rows: a memory-mapped file, read by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RowStates:
    """States of rows' tokens.

    Attributes:
        states: Of all tokens of all rows, one row after the other, (N, H).
        starts: Where each row begins in it, (R,).
        lengths: How many tokens each row has, (R,).
    """

    states: Tensor
    starts: np.ndarray
    lengths: np.ndarray

    def select(self, rows: Sequence[int] | np.ndarray) -> "RowStates":
        """Those of some rows, in that order, as `datasets.Dataset.select`."""
        return RowStates(self.states, self.starts[rows], self.lengths[rows])

    def places(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Where the tokens of some rows are in `states`, one row after the other."""
        lengths = self.lengths[rows]
        before = np.cumsum(lengths) - lengths
        return torch.from_numpy(np.repeat(self.starts[rows] - before, lengths) + np.arange(lengths.sum()))

    def take(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """The states of the tokens of some rows, one row after the other, (n, H)."""
        return self.states[self.places(rows)]
