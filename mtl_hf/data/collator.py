"""Collate rows to one padded batch of tensors.

Notable: rows stay in memory-mapped Arrow files; a batch is one `take` and a few array operations, without a Python loop
over rows. A head without a labelled item in the batch gets no labels, so that it is not part of the graph.
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
from transformers import PreTrainedTokenizerBase

from ..modeling.tags import IGNORE_INDEX
from ..tasks import TaskData
from ..tasks.arrow_columns import column_of
from ..tasks.masking import FIXED_DRAW, Masking
from ..tasks.task_type import flat, task_type
from .row_states import RowStates

LABEL_PREFIX = "label:"  # prefix of the encoded label column of a task


@dataclass
class SourceRows:
    """Encoded rows of one source, passed from `EncodedRows` to `Collator`."""

    source: str
    columns: pa.Table
    with_labels: bool = True
    numbers: Sequence[int] = ()  # row numbers
    draw: tuple[int, ...] | None = None  # `schedule.Batch.draw`
    heads: tuple[str, ...] = ()  # heads that predict, in prediction
    states: torch.Tensor | None = None  # cached encoder states of the rows' tokens, concatenated


class EncodedRows(Dataset[SourceRows]):
    """The encoded rows of several sources, numbered consecutively in the order of the mapping.

    Args:
        sources: Source → its encoded rows (`data.rows.encode_rows`).
        with_labels: Whether batches have labels (training) or not (prediction).
        numbers: Number of each row for its random draws (default: its index).
        heads: Heads that predict, in prediction (default: those of all tasks of the source).

    Attributes:
        states: Source → cached outputs of the frozen layers for its rows, if there are any.
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
        """Rows of one source; torch's fetcher passes the result to `Collator` unchanged."""
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

    def labels(self, source: str, task: str) -> np.ndarray:
        """The encoded label of each row of a source, for a task with one label per row."""
        return column_of(self.sources[source], LABEL_PREFIX + task).to_numpy()


class Collator:
    """Collate rows of one source to one padded batch.

    Args:
        tasks: Source → task → task type, of the tasks that are trained on the source.
        pad_token_id: Padding of `input_ids`.
        maskings: Source → masking of its tokens, for tasks that predict masked tokens (`maskings`).

    Returns (when called):
        `input_ids`, `attention_mask` and, if the encoder uses them, `token_type_ids`, (B, T), padded on the right. If
        rows have several segments, each segment is a row of these, (N, T), and `num_segments`, (B,), is their number.
        `word_ids`, -1 at special tokens and padding, if a head needs the word of each token.
        In training also `labels`: task → tensor in the form its head documents, only for tasks with a labelled item in
        these rows; `num_items`: task → number of labelled items; `num_labelled_rows`: number of (row, task) pairs with
        a label. In prediction also `heads`: the heads that predict; `rows`, (B,): the row numbers; and for masked rows
        `labels`, which their predictions need. With cached states also `encoder_states`, (N, T, H), 0 at padding.
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
        """Collate rows; see the class."""
        if isinstance(rows, list):  # from a loader without __getitems__
            states = [row.states for row in rows if row.states is not None]
            rows = replace(
                rows[0],
                columns=pa.concat_tables([row.columns for row in rows]),
                numbers=[number for row in rows for number in row.numbers],
                states=torch.cat(states) if states else None,
            )
        columns = rows.columns
        names = rows.heads or tuple(self.tasks[rows.source])
        segments = flat(columns["segments"]) if "segments" in columns.column_names else None
        lengths = None if segments is None else segments[0]
        input_ids, attention_mask = _pad(columns["input_ids"], self.pad_token_id, lengths)
        masked: dict[str, np.ndarray] = {}  # task → the original ids of masked tokens
        if rows.source in self.maskings:
            (task,) = names
            units, _ = _pad(columns[LABEL_PREFIX + task], IGNORE_INDEX, lengths)
            numbers, windows = rows.numbers, None
            if segments is not None:
                numbers = np.repeat(rows.numbers, segments[1]).tolist()
                windows = [window for number in segments[1].tolist() for window in range(number)]
            masking = self.maskings[rows.source]
            input_ids, masked[task] = masking(input_ids, units, self._draw(rows), numbers, windows)
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(input_ids.astype(np.int64)),
            "attention_mask": torch.from_numpy(attention_mask.astype(np.int64)),
        }
        if "token_type_ids" in columns.column_names:
            batch["token_type_ids"] = torch.from_numpy(_pad(columns["token_type_ids"], 0, lengths)[0].astype(np.int64))
        if "word_ids" in columns.column_names:
            batch["word_ids"] = torch.from_numpy(_pad(columns["word_ids"], -1, lengths)[0].astype(np.int64))
        if segments is not None:
            batch["num_segments"] = torch.from_numpy(segments[1].astype(np.int64))
        if rows.states is not None:
            real = torch.from_numpy(attention_mask)
            batch["encoder_states"] = rows.states.new_zeros(*real.shape, rows.states.shape[-1])
            batch["encoder_states"][real] = rows.states
        if not rows.with_labels:
            hidden = {task: torch.from_numpy(ids) for task, ids in masked.items()}
            batch |= {"heads": names, "rows": torch.tensor(rows.numbers, dtype=torch.long)}
            return batch | ({"labels": hidden} if hidden else {})
        batch |= {"labels": {}, "num_items": {}, "num_labelled_rows": 0}
        for task, kind in self.tasks[rows.source].items():
            if task in masked:
                labels, known = masked[task], masked[task] != IGNORE_INDEX
            else:
                labels, known = task_type(kind).collate(columns[LABEL_PREFIX + task], columns, input_ids.shape)
            if known.any():
                batch["labels"][task] = torch.from_numpy(labels)
                batch["num_items"][task] = int(known.sum())
                batch["num_labelled_rows"] += int(labelled_rows(known, segments and segments[1]).sum())
        return batch

    def _draw(self, rows: SourceRows) -> tuple[int, ...]:
        if not rows.with_labels:
            return FIXED_DRAW
        if rows.draw is None:
            raise ValueError(
                f"the masks of source {rows.source!r} depend on the epoch: your batch sampler should yield"
                " `mtl_hf.data.schedule.Batch` instead of a list."
            )
        return rows.draw


def labelled_rows(known: np.ndarray, num_segments: np.ndarray | None) -> np.ndarray:
    """Which rows have a label.

    Args:
        known: The mask of labels that are not missing, (B,), or (N, T) for items within rows (`TaskType.collate`).
        num_segments: Number of segments of each row, (B,); None if each row has one.

    Returns:
        A boolean for each row, (B,).
    """
    if known.ndim == 1:
        return known
    by_segment: np.ndarray = np.logical_or.reduce(known, axis=1)
    if num_segments is None:
        return by_segment
    labelled: np.ndarray = np.logical_or.reduceat(by_segment, np.cumsum(num_segments) - num_segments)
    return labelled


def row_lengths(rows: datasets.Dataset) -> np.ndarray:
    """Token length of each encoded row, read from Arrow's offsets."""
    return pc.list_value_length(column_of(rows, "input_ids")).to_numpy()


def fingerprint(rows: datasets.Dataset) -> str:
    """A hash of the content and order of encoded rows, independent of their files."""
    digest = hashlib.sha256()
    table = rows.with_format("arrow")[:]
    for name in sorted(table.column_names):
        column = table[name]
        parts = flat(column) if pa.types.is_list(column.type) else (column.to_numpy(),)
        digest.update(f"{name}:{column.type}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:32]


def _pad(column: pa.ChunkedArray, fill: int, lengths: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pad a list column on the right to (B, T), or (N, T) for N segments; also return the mask of real values.

    Args:
        column: The lists.
        fill: Value of the padding.
        lengths: Lengths of all segments in the order of the rows, (N,); None if each row has one segment.
    """
    values, of_rows = flat(column)
    lengths = of_rows if lengths is None else lengths  # values of a row's segments are already consecutive
    mask = np.arange(lengths.max(initial=0))[None, :] < lengths[:, None]
    padded = np.full(mask.shape, fill, dtype=values.dtype)
    padded[mask] = values
    return padded, mask


def maskings(tasks: Mapping[str, TaskData], tokenizer: PreTrainedTokenizerBase) -> dict[str, Masking]:
    """Source → masking of its tokens, for the sources of tasks that predict masked tokens."""
    found = {task.name: task.kind.hiding(task, tokenizer) for task in tasks.values()}
    return {source: found[task.name] for task in tasks.values() if found[task.name] for source in task.config.sources}
