"""`masked_lm`: masked language modelling, to train the encoder on texts of a domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import RunConfig, Task, option
from ..modeling.tags import IGNORE_INDEX
from ..statistics import exp_ratio, ratio
from .masking import Masking, mask_units, masking_of
from .source_data import SourceData
from .task_type import Answers, Measured, ScoredRows, TaskData, TaskType, flat


@dataclass(kw_only=True)
class MaskingOptions:
    """Keys of `tasks.<name>` for `masked_lm`."""

    mlm_probability: float | None = option("share of the tokens that are masked (default: 0.15)", None)
    whole_word_mask: bool | None = option("mask all tokens of a word together (default: false)", None)


class MaskedLanguageModelling(TaskType):
    """Perplexity, accuracy and cross-entropy over masked tokens.

    A prediction is [sum of -log p over the row's masked tokens, how many of them are predicted right], a label their
    number.
    """

    name = "masked_lm"
    label = None
    metrics = ("perplexity", "accuracy", "cross_entropy")
    alone = True
    labels_every_split = True
    options = MaskingOptions
    rejects = ("pooling", "dropout", "labels", "label_smoothing", "layers")
    hub_task = "fill-mask"

    # ---- settings ----

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check the share of masked tokens, and the metrics."""
        share = self.read_options(name, spec).mlm_probability
        if share is not None and not 0 < share < 1:
            raise ValueError(
                f"`tasks.{name}.mlm_probability` is {share}; it should be a share of the tokens, above 0 and below 1"
                " (0.15 in BERT)."
            )
        if others := [metric for metric in spec.metrics if metric not in self.metrics]:
            raise ValueError(
                f"`tasks.{name}.metrics`: {others[0]!r} cannot score masked_lm; valid are {', '.join(self.metrics)}."
            )

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """The head has no options."""
        return {}

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """1 for every row: labels are the masked tokens."""
        return {split: [1.0] * len(rows) for split, rows in source.splits.items()}

    # ---- encoded rows ----

    def feature(self) -> Any:
        """For each token: whether it begins a unit that is masked together, is inside one, or is never masked."""
        import datasets

        return datasets.List(datasets.Value("int8"))

    def needs_word_ids(self, options: Any) -> bool:
        """Only to mask whole words."""
        return bool(options.whole_word_mask)

    def check_tokenizer(self, task: TaskData, tokenizer: Any) -> None:
        """The tokenizer needs a mask token."""
        masking_of(task, tokenizer)

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """The units of each row that can be masked."""
        special = frozenset(tokenizer.all_special_ids)
        words = encoded.get("word_ids") if self.needs_word_ids(task.options) else None
        return [
            mask_units(ids, None if words is None else words[row], special)
            for row, ids in enumerate(encoded["input_ids"])
        ]

    def hiding(self, task: TaskData, tokenizer: Any) -> Masking:
        """The masking of its tokens."""
        return masking_of(task, tokenizer)

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The units that can be masked, (B, T); `hiding` turns them into labels."""
        values, lengths = flat(labels)
        if "segments" in columns.column_names:
            lengths, _ = flat(columns["segments"])
        units = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        units[np.arange(shape[1]) < lengths[:, None]] = values
        return units, units != IGNORE_INDEX

    # ---- scores ----

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """Answers of rows with masked tokens; rows of only special and unknown tokens have none."""
        kept = [place for place in rows.known if rows.predictions[place].value[1] > 0]
        values = [rows.predictions[place].value for place in kept]
        return Answers(
            rows.numbers[kept], [[loss, right] for loss, _, right in values], [int(number) for _, number, _ in values]
        )

    def evaluate_features(self) -> tuple[Any, Any]:
        """Two sums over the masked tokens of a row, and the number of these tokens."""
        import datasets

        return datasets.List(datasets.Value("float64")), datasets.Value("int64")

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """[sum of -log p, number right] and the number of masked tokens per row."""
        loss, right = np.array(answers.predicted, dtype=float).reshape(-1, 2).T
        return {
            "perplexity": exp_ratio(loss, answers.gold),
            "accuracy": ratio(right, answers.gold),
            "cross_entropy": ratio(loss, answers.gold),
        }, {}

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """A description, and how to get its logits."""
        return (
            "Predicts masked tokens, which has trained the encoder; it makes no predictions for raw texts. Its logits"
            " over the vocabulary:",
            'batch = model.tokenizer(["One word is " + model.tokenizer.mask_token], return_tensors="pt")\n'
            'model(**batch, heads="{name}").logits["{name}"]',
        )
