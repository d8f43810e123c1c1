"""`multi_label_classification`: any number of labels per row."""

import collections
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..config import RunConfig, Task, option
from ..modeling.tags import IGNORE_INDEX
from ..statistics import LabelCounts, macro_f1, mean, micro_f1
from .arrow_columns import feature_of, values_of
from .column import Candidate, Column, one_hot_length
from .label_lists import is_text, lists_of_text, read_columns
from .label_text import tidy_labels
from .measures import equal, per_label, with_cross_entropy
from .name_column import NameColumn
from .names import find_class_label, label_column, listed, mapping_or_empty, most_common, name_reader, no_label
from .sequence_classification import build_labelled
from .source_data import SourceData
from .task_type import Answers, Measured, ScoredRows, TaskData, flat
from .thresholds import ThresholdedType, ThresholdOptions, best_thresholds
from .written_lists import are_lists

if TYPE_CHECKING:
    import datasets


logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class MultiLabelOptions(ThresholdOptions):
    """Keys of `tasks.<name>` for `multi_label_classification`."""

    label_separator: str | None = option(
        "what separates the names in a cell, such as ';'; an empty cell then has no labels (default: rows hold lists)",
        None,
    )


class MultiLabelClassification(ThresholdedType):
    """Micro and macro F1 over labels, and the share of rows whose set of labels is exactly right."""

    name = "multi_label_classification"
    label = "a list of labels per row, which may be empty"
    has_vocabulary = True
    several_columns = True
    exclusive = False
    options = MultiLabelOptions
    metrics = ("micro_f1", "macro_f1", "accuracy", "cross_entropy")
    column_kinds = ("words", "numbers")
    unit = "uses"
    hub_task = "text-classification"
    stock = ("AutoModelForSequenceClassification", "multi_label_classification")

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check that a separator is not empty, and that several label columns have no other keys for their names."""
        super().check(name, spec, run)
        separator = self.read_options(name, spec).label_separator
        if separator == "":
            raise ValueError(f"`tasks.{name}.label_separator` is empty; it should be text between names, such as ';'.")
        if isinstance(spec.label, list):
            for key, found in (("labels", spec.labels), ("label_separator", separator)):
                if found:
                    raise ValueError(
                        f"`tasks.{name}.{key}` only works with a single label column. With several, the names of the"
                        " columns are the labels. Remove it."
                    )

    def options_of_file(
        self, trained: Task | None, column: str | None, rows: "datasets.Dataset"
    ) -> dict[str, Any] | None:
        """Without the separator of the training file, if this file has lists, also written as text."""
        if trained is None or column is None:
            return None
        if is_text(feature_of(rows, column)) and not are_lists(values_of(rows, column)):
            return None
        return {key: value for key, value in trained.options.items() if key != "label_separator"}

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, Sequence[Any]]:
        """Sorted lists of names, None for rows without a list."""
        if isinstance(spec.label, list):
            return dict(read_columns(name, spec, source))
        separator = self.read_options(name, spec).label_separator
        read = lists_of_text(name, spec, source, separator, given is not None)
        one_hot = one_hot_labels(name, spec, source, given, read)
        if one_hot is not None and not spec.labels:
            logger.warning(
                "Task %s: the one-hot lists of source %s do not name their positions; they are read in the order of the"
                " trained head: %s. If theirs is another, list the names in it as `labels`, or write them into the"
                " rows.", name, source.name, ", ".join(one_hot),
            )  # fmt: skip
        labels: dict[str, Sequence[Any]] = {}
        for split in source.splits:
            where = _where(source, split)
            if one_hot is not None:
                values = read[split] if split in read else values_of(source.splits[split], str(spec.label))
                labels[split] = _read_one_hot(name, spec, values, one_hot, where)
                continue
            column = label_column(name, spec, source, split, lists=True, hint=_hint, read=read.get(split))
            column = tidy_labels(name, column, where, mapping_or_empty(spec))
            names = column.rename(name_reader(name, spec, source, split))
            if len(none := np.flatnonzero(names.codes < 0)):
                row, _ = names.place(none[0])
                raise no_label(name, spec, source, split, row, column[row])
            labels[split] = names.sets()
        return labels

    def build(
        self, name: str, spec: Task, sources: list[SourceData], form: str, run: RunConfig, given: list[str] | None
    ) -> TaskData:
        """Build the vocabulary."""
        return build_labelled(name, spec, sources, form, given)

    def tune_thresholds(self, task: TaskData, scores: np.ndarray, gold: Sequence[Any]) -> list[float]:
        """For each label the threshold with its highest F1."""
        hot = np.array([[label in names for label in task.labels] for names in gold], dtype=bool)
        return best_thresholds(scores, hot).tolist()

    # ---- encoded rows ----

    def feature(self) -> Any:
        """0 or 1 for each label."""
        import datasets

        return datasets.List(datasets.Value("int8"))

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """Multi-hot lists."""
        labels = gold if isinstance(gold, NameColumn) else NameColumn.of(gold)
        hot = np.zeros((len(labels), len(task.labels) + 1), dtype=np.int8)  # the last column: names without an id
        hot[np.repeat(np.arange(len(labels)), labels.lengths), labels.ids(task.ids, len(task.labels))] = 1
        hot[labels.missing] = IGNORE_INDEX
        offsets = np.arange(len(labels) + 1, dtype=np.int32) * len(task.labels)
        return pa.ListArray.from_arrays(offsets, hot[:, :-1].ravel())

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Multi-hot, (B, num_labels)."""
        values, lengths = flat(labels)
        hot = values.reshape(len(lengths), -1).astype(np.float32)
        return hot, hot[:, 0] != IGNORE_INDEX

    # ---- scores ----

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """Sets as sorted lists, with the cross-entropy of each row."""
        answers = super().read_answers(task, rows)
        answers.predicted = [sorted(names) for names in answers.predicted]
        num_rows = len(answers.rows)
        if num_rows:
            hot = np.array([[label in names for label in task.labels] for names in answers.gold])
            scores = rows.outputs[rows.known].astype(np.float64)
            answers.losses = (np.logaddexp(0, scores) - scores * hot).mean(1)
        answers.num_losses = np.ones(num_rows, dtype=int)
        return answers

    def evaluate_features(self) -> tuple[Any, Any]:
        """A list of names."""
        import datasets

        return datasets.List(datasets.Value("string")), datasets.List(datasets.Value("string"))

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """One list of names per row, in any order."""
        sets = [[{(name,) for name in row} for row in rows] for rows in (answers.predicted, answers.gold)]
        # Not with sklearn, which reads sets of a single label as two classes.
        counts = LabelCounts.of_sets(*sets)
        metrics = {"micro_f1": micro_f1(counts), "macro_f1": macro_f1(counts), "accuracy": mean(equal(*sets))}
        return with_cross_entropy(metrics, answers), per_label(counts)

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The most frequent set."""
        return [list(most_common(map(tuple, gold)))] * len(gold)

    # ---- detection by `mtl-hf init` ----

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Lists."""
        return (True, "") if found.column.kind in self.column_kinds and not found.aligned else None

    def takes(self, found: Candidate) -> bool:
        """Lists."""
        return found.column.kind in self.column_kinds

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """Names for the positions of one-hot lists."""
        if not (length := one_hot_length(found, rows)):
            return {}, ""
        names = [f"label_{number}" for number in range(length)]
        return {
            "labels": names
        }, f"one-hot lists of {length}. Their names are not in the file: replace those in `labels`"

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """The labels."""
        labels, thresholds = spec["labels"], spec.get("thresholds")
        bound, shown = "0.5", code
        if thresholds:
            numbers = dict(zip(labels, thresholds, strict=True))
            bound, shown = "their threshold", lambda label: f"{code(label)} {numbers[label]:.4g}"
        return (
            f"those of {len(labels)} labels with a probability of at least {bound}: {listed(labels, shown)}",
            '[{"label": ..., "score": ...}, ...]',
        )

    def occurrences(self, task: TaskData, label: Any) -> Sequence[str]:
        """Each label of the set."""
        return label


def _hint(found: Any) -> str:
    several = isinstance(found, str)
    return ' `label_separator: ";"` reads names that are joined by a semicolon.' if several else ""


def one_hot_labels(
    name: str, spec: Task, source: SourceData, given: Sequence[str] | None, read: Mapping[str, list[Any]]
) -> list[str] | None:
    """The label of each position of one-hot lists; None if the lists hold labels.

    Lists of 0 and 1 are one-hot if one of them repeats a value, or all have the same length of at least 2.

    Args:
        name: Name of the task.
        spec: Its section of the config.
        source: The source.
        given: The labels of a trained model.
        read: Split → its lists, for splits whose column holds text.

    Raises:
        ValueError: The lists are one-hot and `labels` does not name their positions, or has another length.
    """
    first = next(iter(source.splits.values())).features[spec.label]
    if find_class_label(first) is not None:
        return None
    lists = [
        (split, row, value)
        for split, rows in source.splits.items()
        for row, value in enumerate(read[split] if split in read else values_of(rows, str(spec.label)))
        if isinstance(value, list) and value
    ]
    likely = [found for found in lists if all(item in (0, 1, "0", "1") for item in found[2])]
    widths = collections.Counter(len(value) for _, _, value in likely)
    twice = any(len({str(item) for item in value}) < len(value) for _, _, value in likely)
    if not likely or len(likely) < 0.9 * len(lists) or not (twice or (len(widths) == 1 and 1 not in widths)):
        return None
    width = widths.most_common(1)[0][0]
    split, row, value = next(found for found in likely if len(found[2]) == width)
    if isinstance(spec.labels, dict):  # maps ids to names; such lists may also hold ids
        if not twice and width != len(spec.labels):
            return None
        raise ValueError(
            f"`tasks.{name}.labels` names the values {', '.join(spec.labels)}, but the column {spec.label!r} holds"
            f" one-hot lists of {width} values, such as {value} in {source.where(split, row)}. Name the label of each"
            f" position, in this order: `labels: [{', '.join(dict.fromkeys(spec.labels.values()))}]`."
        )
    labels = given or spec.labels
    if labels is None:
        example = ", ".join(f"name{place}" for place in range(1, min(width, 3) + 1)) + (", ..." if width > 3 else "")
        raise ValueError(
            f"`tasks.{name}`: the column {spec.label!r} holds one-hot lists of {width} values, such as {value} in"
            f" {source.where(split, row)}. Name the label of each position, in this order: `labels: [{example}]`."
        )
    if len(labels) != width:
        raise ValueError(
            f"`tasks.{name}.labels` has {len(labels)} names, but the column {spec.label!r} holds one-hot lists of"
            f" {width} values, such as {value} in {source.where(split, row)}."
        )
    return list(labels)


def _read_one_hot(name: str, spec: Task, column: Sequence[Any], labels: Sequence[str], where: Any) -> list[Any]:
    for row, values in enumerate(column):
        fits = isinstance(values, list) and len(values) == len(labels)
        if values is not None and not (fits and all(item in (0, 1, "0", "1") for item in values)):
            raise ValueError(
                f"`tasks.{name}`: {where(row)} has {values!r} in the column {spec.label!r}; it should be a one-hot list"
                f" of {len(labels)} values, 0 or 1, as in the other rows."
            )
    return [
        None
        if values is None
        else sorted({label for label, item in zip(labels, values, strict=True) if item in (1, "1")})
        for values in column
    ]


def _where(source: SourceData, split: str) -> Any:
    return lambda row: source.where(split, row)
