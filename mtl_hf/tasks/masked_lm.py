"""`masked_lm`: masked tokens filled in, to train the encoder on texts of a domain."""

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

    A prediction is [sum of -log p over the row's masked tokens, how many of them are right], a label their number.
    """

    name = "masked_lm"
    label = None
    metrics = ("perplexity", "accuracy", "cross_entropy")
    alone = True
    labels_every_split = True
    options = MaskingOptions
    rejects = ("pooling", "dropout", "labels", "label_smoothing")
    hub_task = "fill-mask"

    # ---- settings ----

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check the share of masked tokens, and that nothing else is to be scored."""
        share = self.read_options(name, spec).mlm_probability
        if share is not None and not 0 < share < 1:
            raise ValueError(
                f"`tasks.{name}.mlm_probability` is {share}; it is a share of the tokens: above 0 and below"
                " 1 (0.15 in BERT)."
            )
        if others := [metric for metric in spec.metrics if metric not in self.metrics]:
            raise ValueError(
                f"`tasks.{name}.metrics`: masked_lm has no answers that {others[0]!r} could score; its metrics are"
                f" {', '.join(self.metrics)}."
            )

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """It has no dropout of its own."""
        return {}

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """1 for every row: it makes its labels itself."""
        return {split: [1.0] * len(rows) for split, rows in source.splits.items()}

    # ---- encoded rows ----

    def feature(self) -> Any:
        """For each token whether it begins a unit that is masked as a whole, is inside one, or is never masked."""
        import datasets

        return datasets.List(datasets.Value("int8"))

    def needs_word_ids(self, options: Any) -> bool:
        """Where whole words are masked."""
        return bool(options.whole_word_mask)

    def check_tokenizer(self, task: TaskData, tokenizer: Any) -> None:
        """It needs a mask token."""
        masking_of(task, tokenizer)

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """Where a row can be masked."""
        special = frozenset(tokenizer.all_special_ids)
        words = encoded.get("word_ids") if self.needs_word_ids(task.options) else None
        return [
            mask_units(ids, None if words is None else words[row], special)
            for row, ids in enumerate(encoded["input_ids"])
        ]

    def hiding(self, task: TaskData, tokenizer: Any) -> Masking:
        """How its tokens are masked."""
        return masking_of(task, tokenizer)

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where a row can be masked, (B, T); the labels themselves are what `hiding` hides."""
        values, lengths = flat(labels)
        units = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        units[np.arange(shape[1]) < lengths[:, None]] = values
        return units, units != IGNORE_INDEX

    # ---- scores ----

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """Of the rows that had something to mask; not those of special and unknown tokens."""
        kept = [place for place in rows.known if rows.predictions[place].value[1] > 0]
        values = [rows.predictions[place].value for place in kept]
        return Answers(
            rows.numbers[kept], [[loss, right] for loss, _, right in values], [int(number) for _, number, _ in values]
        )

    def evaluate_features(self) -> tuple[Any, Any]:
        """Two sums over the masked tokens of a row, and their number."""
        import datasets

        return datasets.List(datasets.Value("float64")), datasets.Value("int64")

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """[sum of -log p, number right] and the number of masked tokens a row."""
        loss, right = np.array(answers.predicted, dtype=float).reshape(-1, 2).T
        return {
            "perplexity": exp_ratio(loss, answers.gold),
            "accuracy": ratio(right, answers.gold),
            "cross_entropy": ratio(loss, answers.gold),
        }, {}

    # ---- what people read ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """What it has learned, and how its logits are had."""
        return (
            "Has learned to fill in masked tokens, and the encoder with it; it answers no texts. Its logits over the"
            " vocabulary:",
            'batch = model.tokenizer(["One word is " + model.tokenizer.mask_token], return_tensors="pt")\n'
            'model(**batch, heads="{name}").logits["{name}"]',
        )
