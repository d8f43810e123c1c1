"""Score a model: decode its outputs batch by batch for each source, then score every task.

Notable: each row is predicted once for all its tasks, and only the decoded answers are kept, because the logits of a
whole split may not fit in memory. Each process decodes its own batches; the answers of all processes are gathered in
the order of the rows at the end of each source. The forward pass itself is in the trainer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from ..data.rows import EncodedSplit
from ..metrics import score
from ..modeling.decoding import Prediction
from ..modeling.head import HeadInputs
from ..tasks import Answers, TaskData
from ..tasks.task_type import ScoredRows

_JOINED = 64  # batches whose answers are joined into one piece
Gather = Callable[[list[Any]], list[Any]]  # gathers items of all processes, in the order of the processes


class Scorer:
    """Decodes model outputs batch by batch, and scores every task over all sources.

    Args:
        tasks: Task name → task.
        extra_metrics: The result of `metrics.load_metrics`.
        tokenizer: The tokenizer of the rows.
        max_length: Maximum number of tokens per segment.
        keep_outputs: Heads whose outputs are kept as well.

    Attributes:
        answers: Source → task → its answers.
        outputs: Source → task in `keep_outputs` → its outputs, one array per row.
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
            split: The rows of its source with their gold labels.
            rows: Indices of the rows in the batch, (B,).
            outputs: Outputs of the model (`MultiTaskOutput`).
            heads: Heads of the model.
            inputs: The batch.
        """
        columns = Columns(split.rows.with_format("arrow")[list(rows)])
        texts = split.texts(rows) if split.texts is not None else ()
        numbers = np.array(rows, dtype=int)
        num_segments = inputs.get("num_segments")
        for name, found, predictions in decoded(columns, outputs, heads, inputs):
            scored = ScoredRows(
                numbers=numbers,
                gold=[split.gold[name][row] for row in rows],
                outputs=found,
                predictions=predictions,
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
        """Gather the decoded answers of a source from all processes."""
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
            _, order = np.unique(rows, return_index=True)  # count a row once if two processes had it
            self._gates.setdefault(name, []).append(gates[order])
        self._begin()

    def results(self, intervals: bool = False) -> dict[str, Any]:
        """The scores.

        Args:
            intervals: Whether to add intervals and baselines.

        Returns:
            The result of `metrics.score`; for a model with experts also `experts`: task → mean weight of each expert
            over all rows.
        """
        results = score(self.tasks, self.answers, self._num_rows, self.extra_metrics, intervals)
        if self._gates:
            results["experts"] = {
                name: np.concatenate(found).mean(0, dtype=float).tolist() for name, found in self._gates.items()
            }
        return results


def decoded(
    columns: Mapping[str, Sequence[Any]], outputs: Any, heads: nn.ModuleDict, inputs: Mapping[str, Tensor]
) -> Iterator[tuple[str, np.ndarray, list[Prediction]]]:
    """Decode the outputs of a batch: yield the name of each head, its outputs by row, (B, ...), and its predictions.

    Args:
        columns: The encoded rows of the batch.
        outputs: Outputs of the model (`MultiTaskOutput`).
        heads: Heads of the model.
        inputs: The batch.
    """
    labels: Any = inputs.get("labels") or {}
    for name, logits in outputs.logits.items():
        head: Any = heads[name]
        read = HeadInputs(
            attention_mask=inputs.get("attention_mask"),
            labels=labels.get(name),
            num_segments=inputs.get("num_segments"),
        )
        by_row = head.by_row(logits, read).float().cpu().numpy()
        yield name, by_row, head.decode(by_row, columns)


class Columns(Mapping[str, list[Any]]):
    """The columns of encoded rows as lists, converted on first access."""

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
