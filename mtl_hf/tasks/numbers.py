"""Labels that are numbers: reading them from a column."""

import logging

import numpy as np
import pyarrow as pa

from ..config import Task
from .arrow_columns import column_of, values_of
from .label_text import as_number
from .names import no_label
from .source_data import SourceData

logger = logging.getLogger(__name__)


def read_numbers(name: str, spec: Task, source: SourceData, split: str) -> np.ndarray:
    """Read a label column as numbers, (rows,), NaN for missing ones. A NaN in the data is missing, too, with a warning.

    Raises:
        ValueError: A value is not a number. The message names its row.
    """
    rows = source.splits[split]
    found = column_of(rows, str(spec.label))
    if pa.types.is_integer(found.type) or pa.types.is_floating(found.type) or pa.types.is_null(found.type):
        numbers = found.cast(pa.float64(), safe=False).to_numpy()  # missing values become NaN
        missing = found.is_null().to_numpy()
    else:
        column = values_of(rows, str(spec.label))
        column = [as_number(value) for value in column] if source.untyped else column
        for row, value in enumerate(column):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise no_label(name, spec, source, split, row, value)
        numbers = np.array([np.nan if value is None else float(value) for value in column])
        missing = np.array([value is None for value in column])
    if len(no_number := np.flatnonzero(np.isnan(numbers) & ~missing)):
        logger.warning("Task %s: %d labels of %s %s are NaN and count as missing (the first: %s).", name,
                       len(no_number), source.name, split, source.where(split, no_number[0]))  # fmt: skip
    return numbers


def as_labels(numbers: np.ndarray) -> list[float | None]:
    """Numbers as labels: None instead of NaN."""
    labels = numbers.astype(object)
    labels[np.isnan(numbers)] = None
    return labels.tolist()
