"""Rows → one padded batch of tensors.

Notable: rows stay in Arrow, memory-mapped; a batch is one `take` and a few array operations, with no Python loop over
rows. A head without a labelled item in the batch gets no labels at all, so that it stays out of the graph.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from ..modeling.encoding import NO_TOKEN
from ..modeling.head import IGNORE_INDEX
from .masking import FIXED_DRAW, Masking
from .row_states import RowStates

LABEL_PREFIX = "label:"  # of the encoded label column of a task


@dataclass
class SourceRows:
    """Some encoded rows of one source, as `EncodedRows` hands them to `Collator`."""

    source: str
    columns: pa.Table
    with_labels: bool = True
    numbers: Sequence[int] = ()  # of the rows
    draw: tuple[int, ...] | None = None  # `schedule.Batch.draw`
    heads: tuple[str, ...] = ()  # those that are asked in prediction
    states: torch.Tensor | None = None  # of their tokens, one row after the other, where they are known already


class EncodedRows(Dataset[SourceRows]):
    """The encoded rows of several sources under one numbering, in the order of the mapping.

    Args:
        sources: Source → its encoded rows (`data.rows.encode_rows`).
        with_labels: Whether batches carry labels (training) or ask heads of the source (prediction).
        numbers: By which number of each row what is random about it is drawn; by default its place.
        heads: Those that are asked in prediction; by default those of all tasks that the collator knows of the source.

    Attributes:
        states: Source → what frozen layers say of its rows, where that is known.
    """

    def __init__(
        self,
        sources: Mapping[str, datasets.Dataset],
        *,
        with_labels: bool = True,
        numbers: Sequence[int] | np.ndarray | None = None,
        heads: Sequence[str] = (),
    ) -> None:
        self.with_labels = with_labels
        self.numbers = numbers
        self.heads = tuple(heads)
        self.states: dict[str, RowStates] = {}
        self.sources = {name: rows.with_format("arrow") for name, rows in sources.items()}
        self.names = list(sources)
        self.ends = np.cumsum([len(rows) for rows in sources.values()])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> SourceRows:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> SourceRows:
        """Rows of one source; torch's fetcher hands the result to `Collator` as it is."""
        position = int(np.searchsorted(self.ends, indices[0], side="right"))
        name = self.names[position]
        first = int(self.ends[position]) - len(self.sources[name])
        places = [int(index) - first for index in indices]
        columns = self.sources[name][places]
        numbers = [int(index if self.numbers is None else self.numbers[index]) for index in indices]
        states = self.states[name].take(places) if name in self.states else None
        return SourceRows(name, columns, self.with_labels, numbers, getattr(indices, "draw", None), self.heads, states)

    def lengths(self) -> dict[str, np.ndarray]:
        """Source → token length of each of its rows."""
        return {name: row_lengths(rows) for name, rows in self.sources.items()}


class Collator:
    """Make one padded batch of one source's rows.

    Args:
        tasks: Source → task → task type, of the tasks that are trained on the source.
        pad_token_id: What pads `input_ids`.
        maskings: Source → how its rows are masked, for those of `masked_lm` tasks.

    Returns (when called):
        `input_ids`, `attention_mask` and perhaps `token_type_ids`, (B, T), padded on the right; (2B, T) of texts that
        the encoder reads apart, where rows 2i and 2i + 1 are the two texts of row i. In training also `labels`: task →
        tensor in the form its head documents, only for tasks with a labelled item in these rows;
        `num_items`: task → the number of those; `num_labelled_rows`: (row, task) pairs. In prediction `heads`:
        those that are asked; of masked rows also `labels`, without which nothing could be predicted. Where they are
        known, `encoder_states`, (B, T, H) or (2B, T, H), 0 at padding.
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, str]],
        pad_token_id: int,
        maskings: Mapping[str, Masking] | None = None,
    ) -> None:
        self.tasks = tasks
        self.pad_token_id = pad_token_id
        self.maskings = maskings or {}

    def __call__(self, rows: SourceRows | list[SourceRows]) -> dict[str, Any]:
        """See the class."""
        if isinstance(rows, list):  # a loader without __getitems__
            states = [row.states for row in rows if row.states is not None]
            rows = replace(
                rows[0],
                columns=pa.concat_tables([row.columns for row in rows]),
                numbers=[number for row in rows for number in row.numbers],
                states=torch.cat(states) if states else None,
            )
        columns = rows.columns
        names = rows.heads or tuple(self.tasks[rows.source])
        second = columns["second"] if "second" in columns.column_names else None
        input_ids, attention_mask = _pad(columns["input_ids"], self.pad_token_id, second)
        masked: dict[str, np.ndarray] = {}  # task → the ids that are hidden
        if rows.source in self.maskings:
            (task,) = names
            units, _ = _pad(columns[LABEL_PREFIX + task], IGNORE_INDEX)
            input_ids, masked[task] = self.maskings[rows.source](input_ids, units, self._draw(rows), rows.numbers)
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(input_ids.astype(np.int64)),
            "attention_mask": torch.from_numpy(attention_mask.astype(np.int64)),
        }
        if "token_type_ids" in columns.column_names:
            batch["token_type_ids"] = torch.from_numpy(_pad(columns["token_type_ids"], 0, second)[0].astype(np.int64))
        if rows.states is not None:
            real = torch.from_numpy(attention_mask)
            batch["encoder_states"] = rows.states.new_zeros(*real.shape, rows.states.shape[-1])
            batch["encoder_states"][real] = rows.states
        if not rows.with_labels:
            hidden = {task: torch.from_numpy(ids) for task, ids in masked.items()}
            return batch | {"heads": names} | ({"labels": hidden} if hidden else {})
        batch |= {"labels": {}, "num_items": {}, "num_labelled_rows": 0}
        for task, task_type in self.tasks[rows.source].items():
            if task in masked:
                labels, known = masked[task], masked[task] != IGNORE_INDEX
            else:
                labels, known = _LABELS[task_type](columns, columns[LABEL_PREFIX + task], input_ids.shape)
            if known.any():
                batch["labels"][task] = torch.from_numpy(labels)
                batch["num_items"][task] = int(known.sum())
                batch["num_labelled_rows"] += int((known if known.ndim == 1 else known.any(1)).sum())
        return batch

    def _draw(self, rows: SourceRows) -> tuple[int, ...]:
        if not rows.with_labels:
            return FIXED_DRAW
        if rows.draw is None:
            raise ValueError(
                f"source {rows.source!r} is masked, and its masks are drawn by epoch: a batch sampler of your own has"
                " to yield `mtl_hf.data.schedule.Batch`, not a plain list."
            )
        return rows.draw


def row_lengths(rows: datasets.Dataset) -> np.ndarray:
    """Token length of each encoded row, read from Arrow's offsets."""
    return pc.list_value_length(rows.with_format("arrow")[:]["input_ids"]).to_numpy()


def fingerprint(rows: datasets.Dataset) -> str:
    """A hash of encoded rows: of what they hold and in which order, not of where they came from."""
    digest = hashlib.sha256()
    table = rows.with_format("arrow")[:]
    for name in sorted(table.column_names):
        column = table[name]
        parts = _flat(column) if pa.types.is_list(column.type) else (column.to_numpy(),)
        digest.update(f"{name}:{column.type}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:32]


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (all values one after the other, number of values in each row)."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    return array.flatten().to_numpy(zero_copy_only=False), np.diff(array.offsets.to_numpy())


def _pad(column: pa.ChunkedArray, fill: int, second: pa.ChunkedArray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (B, T) padded on the right, with the mask of what is real.

    Where `second` says at which place a row's second text begins, (2B, T): the two texts are rows one after the other.
    """
    values, lengths = _flat(column)
    if second is not None:  # the values are in order already
        first = second.to_numpy()
        lengths = np.stack([first, lengths - first], axis=1).ravel()
    mask = np.arange(lengths.max(initial=0))[None, :] < lengths[:, None]
    padded = np.full(mask.shape, fill, dtype=values.dtype)
    padded[mask] = values
    return padded, mask


# Each reads a label column: (labels as the head documents them, which of them are there). `shape` is (B, T).


def _class_labels(columns: pa.Table, labels: pa.ChunkedArray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    ids = labels.to_numpy().astype(np.int64)
    return ids, ids != IGNORE_INDEX


def _number_labels(columns: pa.Table, labels: pa.ChunkedArray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    numbers = labels.to_numpy().astype(np.float32)
    return numbers, ~np.isnan(numbers)


def _multi_hot(columns: pa.Table, labels: pa.ChunkedArray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    values, lengths = _flat(labels)
    hot = values.reshape(len(lengths), -1).astype(np.float32)
    return hot, hot[:, 0] != IGNORE_INDEX


def _word_labels(columns: pa.Table, labels: pa.ChunkedArray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of words, put where each word's first token is."""
    ids, lengths = _flat(labels)
    starts, _ = _flat(columns["word_starts"])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    by_token = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    kept = starts != NO_TOKEN
    by_token[rows[kept], starts[kept]] = ids[kept]
    return by_token, by_token != IGNORE_INDEX


_LABELS = {
    "sequence_classification": _class_labels,
    "multi_label_classification": _multi_hot,
    "regression": _number_labels,
    "token_classification": _word_labels,
    "sentence_similarity": _number_labels,
}
