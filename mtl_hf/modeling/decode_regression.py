"""`regression`: the number of each text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .decoding import Decoder, Prediction, mean_by_row
from .spec import PooledSpec


class RegressionDecoder(Decoder):
    """A prediction is a number."""

    kind = "regression"
    spec_class = PooledSpec

    def by_row(self, outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean number over the windows of each row, (B,): the layer after pooling is linear."""
        return mean_by_row(outputs, batch)

    def decode(self, outputs: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """(B,) → one number per row."""
        return [Prediction(float(number)) for number in outputs]
