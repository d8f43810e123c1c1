"""Labels that are numbers, read from their column."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import Task
from .label_text import as_number
from .names import no_label
from .source_data import SourceData

logger = logging.getLogger(__name__)


def read_numbers(name: str, spec: Task, source: SourceData, split: str) -> list[float | None]:
    """A label column as numbers, None where a row has none; NaN counts as none, with a warning.

    Raises:
        ValueError: A value that is no number, with its row.
    """
    column: Sequence[Any] = source.splits[split][spec.label]
    column = [as_number(value) for value in column] if source.untyped else list(column)
    for row, value in enumerate(column):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise no_label(name, spec, source, split, row, value)
    if no_number := [row for row, value in enumerate(column) if value is not None and np.isnan(value)]:
        logger.warning("Task %s: %d labels of %s %s are NaN and count as missing (the first: %s).", name,
                       len(no_number), source.name, split, source.where(split, no_number[0]))  # fmt: skip
    return [None if value is None or np.isnan(value) else float(value) for value in column]
