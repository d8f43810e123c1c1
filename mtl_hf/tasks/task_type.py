"""Base class of task types: YAML options, labels, metrics, and everything else that differs between types.

Notable: the head of a type is in `modeling/head_<type>.py`, which is saved with models. No other code branches on the
name of a type; whatever differs between types is a method here. A type is one object without state: its methods take
the task as an argument.
"""

import functools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ..config import RunConfig, Task, check_keys, key_of, nearest, typed
from ..statistics import Metric, Statistic
from .column import Candidate, Column, TaskColumns
from .name_column import NameColumn, ragged
from .source_data import SourceData

if TYPE_CHECKING:
    import datasets

    from ..modeling.head import Head

Labels = tuple[np.ndarray, np.ndarray]  # labels of a batch in the form that the head documents, and a mask of them
Measured = tuple[dict[str, Metric], dict[str, Any]]  # metrics by name, and details for `metrics.json`


@dataclass(kw_only=True)
class NoOptions:
    """Options of a type without options."""


@dataclass
class TaskData:
    """A task with its label vocabulary.

    Attributes:
        name: Name of the task in the config, and of its head.
        config: Its section of the config.
        labels: Label names in the order of the logits; empty if the type has no vocabulary.
        form: Form of the texts that its head reads, one of `modeling.encoding.FORMS`.
        spans: Whether its labels are tags of spans (BIO).
        declared: The labels that the config declares, by the names used here; None if it declares none.
    """

    name: str
    config: Task
    labels: list[str]
    form: str
    spans: bool = False
    declared: list[str] | None = None

    @property
    def type(self) -> str:
        """The name of its task type."""
        return self.config.type

    @property
    def kind(self) -> "TaskType":
        """Its task type."""
        return TASK_TYPES[self.config.type]

    @property
    def options(self) -> Any:
        """The options of its type from the config."""
        return self.kind.read_options(self.name, self.config)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Label → its position in `labels`."""
        return {label: index for index, label in enumerate(self.labels)}


@dataclass
class Answers:
    """Decoded predictions and labels of one task, without the rows that have no label.

    Attributes:
        rows: Numbers of the rows, (n,).
        predicted: Predictions in the form of the labels: names, lists of names, numbers, ...
        gold: Labels of the rows.
        losses: Cross-entropy of every item (row or word) whose label is in the vocabulary, in the order of the rows.
        num_losses: Number of these items in each row, (n,).
    """

    rows: np.ndarray
    predicted: Sequence[Any] = field(default_factory=list)
    gold: Sequence[Any] = field(default_factory=list)
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    num_losses: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))

    @property
    def correct(self) -> np.ndarray:
        """Whether a row is entirely right, (n,)."""
        return np.array([p == g for p, g in zip(self.predicted, self.gold, strict=True)], dtype=bool)

    @classmethod
    def join(cls, parts: Sequence["Answers"]) -> "Answers":
        """Concatenate the answers to several sets of rows."""
        if len(parts) < 2:
            return parts[0] if parts else cls(np.zeros(0, dtype=int))
        return cls(
            np.concatenate([part.rows for part in parts]),
            _join([part.predicted for part in parts]),
            _join([part.gold for part in parts]),
            _own_memory(np.concatenate([part.losses for part in parts])),
            np.concatenate([part.num_losses for part in parts]),
        )

    @classmethod
    def in_order(cls, parts: list["Answers"]) -> "Answers":
        """The same answers sorted by row, without duplicates."""
        if not parts:
            return cls(np.zeros(0, dtype=int))
        rows, first = np.unique(np.concatenate([part.rows for part in parts]), return_index=True)
        which = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])[first]
        place = np.concatenate([np.arange(len(part.rows)) for part in parts])[first]
        found = cls(
            rows,
            _join([part.predicted for part in parts], (which, place)),
            _join([part.gold for part in parts], (which, place)),
        )
        counts = [part.num_losses for part in parts]
        if any(map(len, counts)):
            found.num_losses = np.concatenate(counts)[first]
            starts = np.cumsum(found.num_losses) - found.num_losses
            found.losses = np.empty(found.num_losses.sum())
            for number in range(len(parts)):
                part, parts[number] = parts[number], cls(np.zeros(0, dtype=int))
                (here,) = np.nonzero(which == number)
                begins = (np.cumsum(part.num_losses) - part.num_losses)[place[here]]
                lengths = found.num_losses[here]
                found.losses[ragged(starts[here], lengths)] = part.losses[ragged(begins, lengths)]
        return found


def _own_memory(numbers: np.ndarray) -> np.ndarray:
    """The same array in pages of its own, which the system gets back as soon as it is dropped.

    What the C library frees it may keep; of the losses of a large split that would be another hundred megabytes.
    """
    pages = np.frombuffer(mmap.mmap(-1, max(1, numbers.nbytes)), dtype=numbers.dtype, count=len(numbers))
    pages[:] = numbers
    return pages


def _join(parts: list[Sequence[Any]], order: tuple[np.ndarray, np.ndarray] | None = None) -> Sequence[Any]:
    """Several sequences one after the other, or the items (which of them, which place in it) of these."""
    if all(isinstance(part, NameColumn) for part in parts):
        return NameColumn.join([part for part in parts if isinstance(part, NameColumn)], order)
    if order is None:
        return [item for part in parts for item in part]
    return [parts[number][place] for number, place in zip(*order, strict=True)]


class TaskType:
    """Base class of all task types. A subclass sets the attributes and overrides the methods that differ.

    Attributes:
        name: Name of the type in YAML, and of its head.
        label: Description of its label column, for messages and docs; None if it has no label column.
        metrics: Names of its metrics, the primary one first.
        has_vocabulary: Whether its labels are names.
        one_name_a_row: Whether a row has a single label name, by which splits can be stratified.
        several_columns: Whether its labels may be in several columns, one per label name.
        reads_spans: Whether its labels may be spans of the text (`tasks.<name>.spans`).
        numeric: Whether its labels are numbers with a meaningful mean.
        has_weights: Whether its head has weights; if so, predictions without training are random.
        alone: Whether it changes the input of the encoder, so that no other task can share its source.
        fewest_scored: Smallest number of labelled rows for which its score is defined.
        labels_every_split: Whether validation and test rows need encoded labels to make predictions.
        options: Dataclass of the keys of `tasks.<name>` that only this type has, declared with `config.option`.
        column_kinds: Kinds of columns that hold its labels (`column.Column.kind`).
        unit: What is counted in comments about labels.
        example_names: Label names for comments about numbers without names.
        rejects: Keys of `tasks.<name>` that it does not support.
        hub_task: Name of the task on the Hub, for tags.
        pipeline: Name of the Hub's pipeline, if it differs from `hub_task`.
        stock: Name of the class of transformers that can hold such a head, and its `problem_type`.
    """

    name: ClassVar[str]
    label: ClassVar[str | None]
    metrics: ClassVar[tuple[str, ...]]
    has_vocabulary: ClassVar[bool] = False
    one_name_a_row: ClassVar[bool] = False
    several_columns: ClassVar[bool] = False
    reads_spans: ClassVar[bool] = False
    numeric: ClassVar[bool] = False
    has_weights: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    fewest_scored: ClassVar[int] = 1
    labels_every_split: ClassVar[bool] = False
    options: ClassVar[Any] = NoOptions
    column_kinds: ClassVar[tuple[str, ...]] = ("number",)
    unit: ClassVar[str] = "rows"
    example_names: ClassVar[tuple[str, ...]] = ("NAME", "NAME", "NAME")
    rejects: ClassVar[tuple[str, ...]] = ()
    hub_task: ClassVar[str]
    pipeline: ClassVar[str | None] = None
    stock: ClassVar[tuple[str, str | None] | None] = None

    @property
    def head(self) -> "type[Head]":
        """The class of its head."""
        from ..modeling.heads import HEADS  # imported here: settings are checked before slow imports

        return HEADS[self.name]

    @property
    def form(self) -> str | None:
        """The form of the texts that its head reads; None for any form."""
        return self.head.form

    # ---- detection by `mtl-hf init` ----

    def find_columns(self, columns: Mapping[str, Column], rows: "datasets.Dataset") -> TaskColumns | None:
        """Detect whether the rows of a file are made for this type; if so, its other columns are left out.

        Args:
            columns: The columns of the file.
            rows: Its rows.
        """
        return None

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Detect whether a column holds labels of this type.

        Returns:
            None if it does not; otherwise whether the column is used, and a remark or the reason why it is not.
        """
        return None

    def takes(self, found: Candidate) -> bool:
        """Whether this is the default type of a column that the user named as a label column without a type."""
        return False

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """Keys of `tasks.<name>` for a column, and the comment on it (empty for the default, which lists its labels).

        Args:
            found: The column of the first file.
            rows: Its values there.
            bounds: Smallest and largest number of the column in all files.
        """
        return {}, ""

    def remark(self, found: Column) -> str:
        """An addition to the comment that counts the labels."""
        return ""

    # ---- settings, before any data are loaded ----

    def read_options(self, name: str, spec: Task) -> Any:
        """The typed options of a task.

        Raises:
            ValueError: A key is unknown, or a value has the wrong type.
        """
        own = [key_of(item) for item in fields(self.options)]
        for key in spec.options:
            if key not in own:
                for other in TASK_TYPES.values():
                    if key in [key_of(item) for item in fields(other.options)]:
                        raise ValueError(f"`tasks.{name}.{key}` is an option of {other.name}, not of {self.name}.")
        check_keys(
            spec.options, [*(key_of(item) for item in fields(Task) if item.name != "options"), *own], f"tasks.{name}"
        )
        return typed(self.options, spec.options, f"tasks.{name}")

    def needs_label(self, options: Any) -> bool:
        """Whether a task with these options has a label column."""
        return self.label is not None

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check the settings of a task that are specific to this type.

        Raises:
            ValueError: A setting is invalid.
        """

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """The options of a new head (`MultiTaskModel.add_head`), without its labels and form.

        Args:
            spec: The task's section of the config.
            options: Result of `read_options`.
            dropout: Dropout of the model, the default of heads.
        """
        chosen = {"dropout": dropout if spec.dropout is None else spec.dropout}
        keys = ("pooling", "window_pooling", "label_smoothing", "layers")
        return chosen | {key: found for key in keys if (found := getattr(spec, key))}

    def changed_options(self, spec: Task, options: Any) -> dict[str, Any]:
        """The options of a saved head that a run changes when it continues to train it; None removes an option."""
        keys = ("dropout", "label_smoothing", "layers")
        return {key: getattr(spec, key) for key in keys if getattr(spec, key) is not None}

    def kept_options(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a saved head that decide how its rows are encoded, by their keys in `tasks.<name>`.

        A run that continues with the head has them unless its config changes them; a run that scores it always.

        Args:
            head: Specification of the head.
        """
        return {}

    def resolved_options(self, task: TaskData, sources: Sequence[SourceData]) -> dict[str, Any]:
        """Options of a trained head that depend on its labels or on the training rows, such as weights of labels.

        They are added to those of `head_options` or, if the head is a saved one, of `changed_options`.

        Args:
            task: The task.
            sources: Its sources; their `gold` has its labels.

        Raises:
            ValueError: An option does not fit the labels.
        """
        return {}

    def tunes_thresholds(self, task: TaskData) -> bool:
        """Whether thresholds of its predictions are chosen on validation rows after training."""
        return False

    def tune_thresholds(self, task: TaskData, scores: np.ndarray, gold: Sequence[Any]) -> list[float]:
        """The thresholds that are best for some rows, in the order of the labels.

        Args:
            task: The task.
            scores: Probabilities of the labels, (n, labels).
            gold: Labels of the rows.
        """
        raise NotImplementedError

    def facts(self, task: TaskData) -> dict[str, Any]:
        """The options that affect how rows are read and scored: part of cache keys and checkpoints."""
        options = task.options
        return {key_of(item): getattr(options, item.name) for item in fields(self.options)}

    def needs_no_column(self, spec: Mapping[str, Any], found: Sequence[str]) -> bool:
        """Whether a saved head can be scored on a file without a label column.

        Args:
            spec: The specification of the head.
            found: Columns of the file that could hold its labels.
        """
        return self.label is None

    def options_of_file(
        self, trained: Task | None, column: str | None, rows: "datasets.Dataset"
    ) -> dict[str, Any] | None:
        """Options for scoring a saved head on a file, if they differ from those of its training; otherwise None.

        Args:
            trained: The task of its run, if known.
            column: Its label column in the file.
            rows: Rows of the file.
        """
        return None

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> Mapping[str, Sequence[Any]]:
        """Split → its labels, None for rows without a label.

        Args:
            name: Name of the task.
            spec: Its section of the config.
            source: The source.
            given: The labels of a trained model.

        Raises:
            ValueError: A value is not a label of this type. The message names its row.
        """
        raise NotImplementedError

    def build(
        self,
        name: str,
        spec: Task,
        sources: list[SourceData],
        form: str,
        run: RunConfig,
        given: list[str] | None,
    ) -> TaskData:
        """Create the task from the labels of its sources, with the vocabulary if the type has one.

        Args:
            name: Name of the task.
            spec: Its section of the config.
            sources: Its sources; their `gold` has its labels.
            form: Form of the texts that its head reads.
            run: Config of the run.
            given: The labels of a trained model.
        """
        check_trainable(name, spec, sources)
        return TaskData(name, spec, [], form)

    def of_head(self, name: str, spec: Task, head: Mapping[str, Any]) -> TaskData:
        """Create the task of a saved head, without data.

        Args:
            name: Name of the task.
            spec: Its section of the config.
            head: Specification of the head.
        """
        return TaskData(name, spec, list(head.get("labels") or []), head["text"])

    def warn(self, task: TaskData, sources: Sequence[SourceData]) -> None:
        """Warn about training labels that are likely to cause problems."""

    # ---- encoded rows ----

    def feature(self) -> Any:
        """The `datasets` feature of the encoded label column."""
        raise NotImplementedError

    def needs_word_ids(self, options: Any) -> bool:
        """Whether `encode_labels` needs `word_ids`."""
        return False

    def reads_word_ids(self, options: Any) -> bool:
        """Whether the head needs the word of each token."""
        return False

    def check_tokenizer(self, task: TaskData, tokenizer: Any) -> None:
        """Check that a tokenizer supports what the task needs.

        Raises:
            ValueError: It does not.
        """

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """Encode labels for the label column; names that are not in the vocabulary are encoded as missing.

        Args:
            task: The task.
            gold: Labels of some rows, None for missing ones.
            encoded: The encoded rows (`modeling.encoding.encode`).
            tokenizer: The tokenizer that encoded them.
        """
        raise NotImplementedError

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Collate an encoded label column for a batch.

        Args:
            labels: The column.
            columns: The encoded rows.
            shape: Shape of `input_ids`, (N, T).

        Returns:
            The labels in the form that the head documents; and a mask of the labels that are not missing, (B,), or
            (B, T) for items within rows.
        """
        raise NotImplementedError

    def hiding(self, task: TaskData, tokenizer: Any) -> Any:
        """The masking of tokens in a batch (`masking.Masking`), for types that predict masked tokens; else None."""
        return None

    def fewest_rows(self, options: Any) -> int:
        """Smallest number of rows of a batch on one process for which there is a loss to learn from."""
        return 1

    # ---- scores ----

    def evaluate_features(self) -> tuple[Any, Any]:
        """The `datasets` features of a prediction and a label, for metrics of `evaluate`."""
        raise NotImplementedError

    def metric_names(self, task: TaskData) -> tuple[str, ...]:
        """Names of the built-in metrics of a task, the default primary one first."""
        return self.metrics

    def read_answers(self, task: TaskData, rows: "ScoredRows") -> Answers:
        """Predictions and labels of the rows that have a label."""
        known = rows.known
        return Answers(
            rows.numbers[known], [rows.predictions[row].value for row in known], [rows.gold[row] for row in known]
        )

    def complete(self, task: TaskData, answers: Answers) -> Answers:
        """Complete the answers of a split, for types whose predictions depend on all of its rows."""
        return answers

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """The metrics of a task by name, and details for `metrics.json`, such as `per_label`."""
        raise NotImplementedError

    def raw_text_metric(self, task: TaskData) -> str | None:
        """Name of the metric by which tasks with lists of words are scored as raw texts too; None for none."""
        return None

    def measure_raw_text(self, task: TaskData, answers: Answers, others: Mapping[int, "RawRow"]) -> Statistic:
        """The metric `raw_text_metric`: that of the answers, with those of some rows replaced.

        Args:
            task: The task.
            answers: Its answers to lists of words.
            others: Row → its answer as a raw text, for the rows whose raw text is split into other words.
        """
        raise NotImplementedError

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The best constant prediction for these rows, which is the baseline; None if there is none."""
        return None

    def check_metric(self, task: TaskData, metric: Any) -> None:
        """Check that a metric of `evaluate` can score the task.

        Raises:
            ValueError: It cannot.
        """

    def for_evaluate(self, task: TaskData, answers: Answers) -> tuple[Sequence[Any], Sequence[Any]]:
        """Predictions and labels in the form that metrics of `evaluate` take."""
        return answers.predicted, answers.gold

    # ---- predictions.jsonl ----

    def to_lines(
        self,
        task: TaskData,
        source: SourceData,
        split: str,
        rows: Sequence[int],
        predicted: Sequence[Any],
        gold: Sequence[Any],
    ) -> list[dict[str, Any]]:
        """What `predictions.jsonl` has of some rows: `predicted` and `gold` in the form of the source's labels.

        Args:
            task: The task.
            source: The source of the rows.
            split: Their split.
            rows: Their numbers in the split.
            predicted: Predictions, as in `Answers`.
            gold: Labels, as in `Answers`.
        """
        return [{"predicted": own, "gold": label} for own, label in zip(predicted, gold, strict=True)]

    def from_line(self, line: Mapping[str, Any]) -> tuple[Any, Any]:
        """Prediction and label of a row, as in `Answers`, from what `to_lines` returned for it."""
        return line["predicted"], line["gold"]

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """Text for the model card: what a head predicts for a text, and the form of a prediction.

        Args:
            spec: Specification of the head.
            task: The task's section of the run's config, if known.
            code: Formats a label in Markdown.
        """
        raise NotImplementedError

    def occurrences(self, task: TaskData, label: Any) -> Sequence[str]:
        """The entries of a label in the label counts of the card; none for an empty label."""
        return [str(label)]

    def in_its_unit(self, task: TaskData, numbers: np.ndarray) -> np.ndarray:
        """Convert numeric labels to the unit of the data."""
        return numbers


@dataclass
class ScoredRows:
    """Rows of a source with the outputs of one task, to be scored.

    Attributes:
        numbers: Numbers of the rows in the split, (n,).
        gold: Label of each row, None if missing.
        outputs: Outputs of the head, (n, ...).
        predictions: The decoded outputs.
        columns: The encoded rows.
        texts: The raw texts.
        tokenizer: The tokenizer that encoded them.
        max_length: Length to which segments were truncated, in tokens.
    """

    numbers: np.ndarray
    gold: Sequence[Any]
    outputs: np.ndarray
    predictions: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]
    texts: Sequence[Any] = ()
    tokenizer: Any = None
    max_length: int = 0

    @functools.cached_property
    def known(self) -> list[int]:
        """Positions of the rows with a label."""
        return [place for place, label in enumerate(self.gold) if label is not None]


@dataclass
class RawRow:
    """A row of words as a raw text: its words joined by spaces and split as the model splits strings.

    Attributes:
        words: Character span of each of its own words.
        gold: Label of the row.
        found: Character span of each word of the raw text.
        predicted: Prediction for these words.
    """

    words: Sequence[tuple[int, int]]
    gold: Any
    found: Sequence[tuple[int, int]]
    predicted: Any


TASK_TYPES: dict[str, TaskType] = {}


def task_type(name: str, where: str = "type") -> TaskType:
    """Look up a task type by name.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in TASK_TYPES:
        raise ValueError(f"`{where}` is {name!r}.{nearest(name, TASK_TYPES)} Valid are {', '.join(TASK_TYPES)}.")
    return TASK_TYPES[name]


def check_trainable(name: str, spec: Task, sources: Sequence[SourceData]) -> None:
    """Raise `ValueError` if the task is trained and no training row has a label."""
    if "train" in sources[0].splits and spec.train and not any(map(has_labels, training_labels(name, sources))):
        raise ValueError(f"`tasks.{name}`: no training row has a label in {spec.label_place}.")


def training_labels(name: str, sources: Sequence[SourceData]) -> list[Sequence[Any]]:
    """The labels of the training rows of each source."""
    return [source.gold["train"].get(name, ()) for source in sources]


def has_labels(labels: Sequence[Any]) -> bool:
    """Whether any row has a label."""
    return not labels.missing.all() if isinstance(labels, NameColumn) else any(label is not None for label in labels)


def flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Flatten a list column to (all values, number of values in each row)."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    return array.flatten().to_numpy(zero_copy_only=False), np.diff(array.offsets.to_numpy())
