"""Scores of a model: batch by batch decoded, source after source, and every task scored from that.

Notable: each row is predicted once, for all its tasks, and only what was decoded of it is kept: the logits of a whole
split would not fit in memory. Each process decodes its own batches; what they found is put together, in the order of
the rows, once a source is through. How a batch is predicted is the trainer's own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from ..data.rows import EncodedSplit
from ..metrics import score
from ..modeling.head import HeadInputs
from ..tasks import Answers, TaskData
from ..tasks.task_type import ScoredRows

_JOINED = 64  # batches whose answers become one piece
Gather = Callable[[list[Any]], list[Any]]  # the items of all processes, in the order of these


class Scorer:
    """Takes the outputs of one batch after the other, and scores every task of all sources.

    Args:
        tasks: Task name → task.
        extra_metrics: As `metrics.load_metrics` returns them.
        tokenizer: What encoded the rows.
        max_length: Where segments were cut, in tokens.
        keep_outputs: Heads whose outputs are kept too.

    Attributes:
        answers: Source → task → its answers.
        outputs: Source → task in `keep_outputs` → its outputs, an array a row.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskData],
        extra_metrics: Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]],
        tokenizer: Any = None,
        max_length: int = 0,
        keep_outputs: Sequence[str] = (),
    ) -> None:
        self.tasks = tasks
        self.extra_metrics = extra_metrics
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.keep_outputs = keep_outputs
        self.answers: dict[str, dict[str, Answers]] = {}
        self.outputs: dict[str, dict[str, list[np.ndarray]]] = {}
        self._num_rows: dict[str, int] = {}
        self._gates: dict[str, list[np.ndarray]] = {}
        self._begin()

    def _begin(self) -> None:
        self._pieces: dict[str, list[Answers]] = {}
        self._joined: dict[str, list[Answers]] = {}
        self._kept: dict[str, list[tuple[int, np.ndarray]]] = {}
        self._mixed: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(
        self, split: EncodedSplit, rows: Sequence[int], outputs: Any, heads: nn.ModuleDict, inputs: Mapping[str, Tensor]
    ) -> None:
        """Decode a batch.

        Args:
            split: The rows of its source, and what they are scored against.
            rows: Which of them it holds, (B,).
            outputs: Of the model (`MultiTaskOutput`).
            heads: The model's.
            inputs: The batch.
        """
        columns = _Columns(split.rows.with_format("arrow")[list(rows)])
        texts = split.texts(rows) if split.texts is not None else ()
        numbers = np.array(rows, dtype=int)
        labels: Any = inputs.get("labels") or {}
        num_segments = inputs.get("num_segments")
        for name, logits in outputs.logits.items():
            read = HeadInputs(labels=labels.get(name), num_segments=num_segments)
            head: Any = heads[name]
            found = head.by_row(logits, read).float().cpu().numpy()
            scored = ScoredRows(
                numbers=numbers,
                gold=[split.gold[name][row] for row in rows],
                outputs=found,
                predictions=head.decode(found, columns),
                columns=columns,
                texts=texts,
                tokenizer=self.tokenizer,
                max_length=self.max_length,
            )
            pieces = self._pieces.setdefault(name, [])
            pieces.append(self.tasks[name].kind.read_answers(self.tasks[name], scored))
            if len(pieces) == _JOINED:  # few large arrays give their memory back, many small ones do not
                self._joined.setdefault(name, []).append(Answers.join(pieces))
                pieces.clear()
            if name in self.keep_outputs:
                self._kept.setdefault(name, []).extend(zip(rows, found, strict=True))
        for name, gates in (outputs.gates or {}).items():
            mixed = gates.float().cpu().numpy()
            if num_segments is not None:  # the mean over the segments of a row
                counts = num_segments.cpu().numpy()
                mixed = np.add.reduceat(mixed, np.cumsum(counts) - counts) / counts[:, None]
            self._mixed.setdefault(name, []).append((numbers, mixed))

    def finish(self, source: str, split: EncodedSplit, gather: Gather = list) -> None:
        """Put together what was decoded of a source, by all processes."""
        self.answers[source] = {}
        self._num_rows[source] = len(split.rows)
        for name in split.gold:
            task = self.tasks[name]
            parts = gather(self._joined.pop(name, []) + self._pieces.pop(name, []))
            self.answers[source][name] = task.kind.complete(task, Answers.in_order(parts))
            if name in self.keep_outputs:
                kept = dict(gather(self._kept.get(name, [])))
                self.outputs.setdefault(source, {})[name] = [kept[row] for row in sorted(kept)]
        for name in sorted(self._mixed):
            rows, gates = (np.concatenate(column) for column in zip(*gather(self._mixed[name]), strict=True))
            _, order = np.unique(rows, return_index=True)  # a row that two processes had counts once
            self._gates.setdefault(name, []).append(gates[order])
        self._begin()

    def results(self, intervals: bool = False) -> dict[str, Any]:
        """The scores.

        Args:
            intervals: Whether to add intervals and baselines.

        Returns:
            As `metrics.score`; of a model with experts also `experts`: task → the mean weight of each expert in its
            mixtures, over all rows.
        """
        results = score(self.tasks, self.answers, self._num_rows, self.extra_metrics, intervals)
        if self._gates:
            results["experts"] = {
                name: np.concatenate(found).mean(0, dtype=float).tolist() for name, found in self._gates.items()
            }
        return results


class _Columns(Mapping[str, list[Any]]):
    """The columns of encoded rows as lists, each made when it is first read."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._lists: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._lists:
            self._lists[name] = self._table[name].to_pylist()
        return self._lists[name]

    def __iter__(self) -> Any:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return int(self._table.num_columns)
