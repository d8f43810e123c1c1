"""`sequence_classification`: one label per row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import RunConfig, Task
from ..modeling.tags import IGNORE_INDEX
from ..statistics import LabelCounts, confusion, macro_f1, matthews, mean
from .column import MAX_NUMBERS, Candidate, Column
from .label_text import report_similar_labels, tidy_labels
from .measures import cross_entropies, equal, per_label, with_cross_entropy
from .names import (
    declared_labels,
    feature_names,
    label_column,
    listed,
    mapping_or_empty,
    most_common,
    name_reader,
    report_unknown,
    report_unnamed,
    use_known_names,
    vocabulary,
)
from .source_data import SourceData
from .task_type import Answers, Measured, ScoredRows, TaskData, check_trainable
from .thresholds import ThresholdedType, best_threshold

MAX_CONFUSION = 100  # largest number of labels for which a confusion matrix is written: more are hard to read


class SequenceClassification(ThresholdedType):
    """Accuracy, macro and micro F1 and Matthews' coefficient of label names."""

    name = "sequence_classification"
    label = "one label per row: text, a whole number or true / false"
    has_vocabulary = True
    one_name_a_row = True
    metrics = ("accuracy", "macro_f1", "micro_f1", "matthews", "cross_entropy")
    column_kinds = ("string", "number", "truth")
    hub_task = "text-classification"
    stock = ("AutoModelForSequenceClassification", "single_label_classification")

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """Names, None for rows without a label."""

        def hint(found: Any) -> str:
            several = isinstance(found, list)
            return " `type: multi_label_classification` takes a list of labels per row." if several else ""

        labels = {}
        for split in source.splits:
            where = _where(source, split)
            column = label_column(name, spec, source, split, lists=False, hint=hint)
            column = tidy_labels(name, column, where, mapping_or_empty(spec))
            labels[split] = column.rename(name_reader(name, spec, source, split, hint)).items
        return labels

    def build(
        self, name: str, spec: Task, sources: list[SourceData], form: str, run: RunConfig, given: list[str] | None
    ) -> TaskData:
        """Build the vocabulary."""
        use_known_names(name, sources, given or (spec.labels if isinstance(spec.labels, list) else None))
        task = build_labelled(name, spec, sources, form, given)
        if len(task.labels) < 2 and not given:
            raise ValueError(
                f"`tasks.{name}`: there is only one label, {task.labels[0]!r}; at least two are needed to learn from."
            )
        return task

    def fixed_thresholds(self, task: TaskData, threshold: float | dict[str, float]) -> list[float]:
        """The threshold of one label, and what it leaves to the other."""
        assert isinstance(threshold, dict)  # as `resolved_options` checked
        return [threshold[label] if label in threshold else 1 - sum(threshold.values()) for label in task.labels]

    def tune_thresholds(self, task: TaskData, scores: np.ndarray, gold: Sequence[Any]) -> list[float]:
        """The threshold of the second label with the highest macro F1, and what it leaves to the first."""
        known = [row for row, label in enumerate(gold) if label in task.ids]
        second = np.array([gold[row] == task.labels[1] for row in known], dtype=bool)
        best = best_threshold(scores[known, 1], second)
        return [1 - best, best]

    # ---- encoded rows ----

    def feature(self) -> Any:
        """A class id."""
        import datasets

        return datasets.Value("int32")

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """The id of each name."""
        ids = task.ids
        return [IGNORE_INDEX if label is None else ids.get(label, IGNORE_INDEX) for label in gold]

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Class ids, (B,)."""
        ids = labels.to_numpy().astype(np.int64)
        return ids, ids != IGNORE_INDEX

    # ---- scores ----

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """The answers, with the cross-entropy of the rows whose label is in the vocabulary."""
        answers = super().read_answers(task, rows)
        ids = np.array([task.ids.get(label, -1) for label in answers.gold], dtype=int)
        scored = ids >= 0
        answers.losses = cross_entropies(rows.outputs[rows.known][scored], ids[scored])
        answers.num_losses = scored.astype(int)
        return answers

    def evaluate_features(self) -> tuple[Any, Any]:
        """A name."""
        import datasets

        return datasets.Value("string"), datasets.Value("string")

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """One name per row."""
        predicted, gold = answers.predicted, answers.gold
        counts = LabelCounts.of_items([[name] for name in predicted], [[name] for name in gold])
        accuracy = mean(equal(predicted, gold))
        metrics = {
            "accuracy": accuracy,
            "macro_f1": macro_f1(counts),
            "micro_f1": accuracy,  # equal with one label per row
            "matthews": matthews(counts),
        }
        details = per_label(counts)
        if 0 < len(counts.names) <= MAX_CONFUSION:
            details["confusion"] = confusion(predicted, gold)
        return with_cross_entropy(metrics, answers), details

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The most frequent label."""
        return [most_common(gold)] * len(gold)

    def for_evaluate(self, task: TaskData, answers: Answers) -> tuple[Sequence[Any], Sequence[Any]]:
        """Ids of the labels."""
        predicted, gold = ([task.ids.get(name, -1) for name in names] for names in (answers.predicted, answers.gold))
        return predicted, gold

    # ---- detection by `mtl-hf init` ----

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Booleans, few distinct whole numbers, or few distinct short strings."""
        column = found.column
        if column.kind == "number" and not found.quantity:
            scale = found.code or column.num_distinct > 2
            return True, "could be `regression`, if its numbers are a scale" if scale else ""
        return (True, "") if column.kind == "truth" or found.few_names else None

    def takes(self, found: Candidate) -> bool:
        """Anything but lists and quantities."""
        column = found.column
        few = column.whole and column.num_distinct <= MAX_NUMBERS
        return column.kind not in ("words", "numbers") and (column.kind != "number" or few)

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """Macro F1 as the primary metric if one label is more frequent than 60 %."""
        most = found.common[0][1] > 0.6 * found.num_values
        return ({"metrics": ["macro_f1", "accuracy"]} if most else {}), ""

    def remark(self, found: Column) -> str:
        """The reason for macro F1 as the primary metric."""
        most = found.common[0][1] > 0.6 * found.num_values
        return "; one label dominates, so macro F1 is the primary metric" if most else ""

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """The labels."""
        labels, thresholds = spec["labels"], spec.get("thresholds")
        rule = f" ({code(labels[1])} if its probability is at least {thresholds[1]:.4g})" if thresholds else ""
        return f"one of {len(labels)} labels: {listed(labels, code)}{rule}", '{"label": ..., "score": ...}'


def build_labelled(name: str, spec: Task, sources: list[SourceData], form: str, given: list[str] | None) -> TaskData:
    """Create a task whose labels are names, with its vocabulary; warn about suspicious labels."""
    check_trainable(name, spec, sources)
    declared = declared_labels(spec)
    features = [label for source in sources for label in feature_names(source, spec.label)]
    labels = given or vocabulary(name, spec, sources, declared, features)
    if not given and not spec.labels:
        report_similar_labels(name, labels)
        if not features:
            report_unnamed(name, labels)
    task = TaskData(name, spec, labels, form, declared=declared)
    report_unknown(task, sources)
    return task


def _where(source: SourceData, split: str) -> Any:
    return lambda row: source.where(split, row)
