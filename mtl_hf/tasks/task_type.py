"""What a task type is, in the half that stays: its options in YAML, labels, metrics, and what other rooms ask of it.

Notable: the other half, the head, travels with models (`modeling/head_<type>.py`). Nothing outside of these two files
of a type branches on its name; whatever differs between types is a method here. A type is one object without state: it
is handed the task.
"""

import functools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ..config import RunConfig, Task, check_keys, key_of, nearest, typed
from ..statistics import Metric
from .column import Candidate, Column
from .name_column import NameColumn, ragged
from .source_data import SourceData

if TYPE_CHECKING:
    import datasets

    from ..modeling.head import Head

Labels = tuple[np.ndarray, np.ndarray]  # of a batch: as the head documents them, and which of them are there
Measured = tuple[dict[str, Metric], dict[str, Any]]  # our metrics by name, and what else is known of a task's answers


@dataclass(kw_only=True)
class NoOptions:
    """The options of a type that has none of its own."""


@dataclass
class TaskData:
    """A task with its label vocabulary.

    Attributes:
        name: Its name in the config, and its head's.
        config: Its section of the config.
        labels: Names of its labels in the order of the logits; empty where the type has no vocabulary.
        form: How its head reads a text, one of `modeling.encoding.FORMS`.
        spans: Whether its labels are tags of spans (BIO).
        declared: The labels that the config names, as they are called here; None where it names none.
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
        """The options of its type, as the config has them."""
        return self.kind.read_options(self.name, self.config)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Label → its position in `labels`."""
        return {label: index for index, label in enumerate(self.labels)}


@dataclass
class Answers:
    """Decoded predictions of one task on some rows, beside their labels; rows without a label are left out.

    Attributes:
        rows: Which rows, (n,).
        predicted: In the form of the labels: names, lists of names, numbers, ...
        gold: The labels of the rows.
        losses: Cross-entropy of every labelled item with a known label (row or word), row after row.
        num_losses: How many of them each row has, (n,).
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
        """Answers to several sets of rows, one after the other."""
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
        """Answers to several sets of rows in the order of the rows, each of which counts once.

        `parts` is emptied meanwhile, since all their losses twice would be most of the memory.
        """
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
    """Base of all task types. A subclass fills in the attributes, and overrides the methods that differ.

    Attributes:
        name: In YAML, and of its head.
        label: What its label column holds, for messages and docs; None where it has none.
        metrics: Names of its metrics, the primary one first.
        has_vocabulary: Whether its labels are names.
        one_name_a_row: Whether a label is a single name, so that splits can be stratified by it.
        numeric: Whether its labels are numbers, of which a mean tells something.
        has_weights: Whether its head has weights of its own, without whose training answers are random.
        alone: Whether it changes what the encoder sees, so that no other task can share its source.
        fewest_scored: Labelled rows without which its score is no number.
        labels_every_split: Whether the encoded rows of validation and test need labels too, since without them nothing
            could be predicted.
        options: Dataclass of the keys that `tasks.<name>` takes for this type alone, made of `config.option`.
        column_kinds: What kinds of columns hold its labels (`column.Column.kind`).
        unit: What labels are counted in, for comments.
        example_names: Names of labels, for comments about numbers without names.
        rejects: Keys of `tasks.<name>` that it does not have.
        hub_task: What the Hub calls the task, by which models are found.
        pipeline: The Hub's pipeline where that is called otherwise.
        stock: transformers' class that can hold such a head, by its name, and what that calls the problem.
    """

    name: ClassVar[str]
    label: ClassVar[str | None]
    metrics: ClassVar[tuple[str, ...]]
    has_vocabulary: ClassVar[bool] = False
    one_name_a_row: ClassVar[bool] = False
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
        from ..modeling.heads import HEADS  # not above: settings are checked before the slow imports

        return HEADS[self.name]

    @property
    def form(self) -> str | None:
        """The form in which its head reads texts, None where any will do."""
        return self.head.form

    # ---- what `mtl-hf init` finds ----

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Whether a column teaches a task of this type.

        Returns:
            None where it does not; else whether it is taken, and what to say of it: a remark, or why it is left out.
        """
        return None

    def takes(self, found: Candidate) -> bool:
        """Whether a column that someone says holds labels is one of this type, where nothing else is said."""
        return False

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """Keys of `tasks.<name>` for a column, and what to say of it instead of its labels (empty to say those).

        Args:
            found: The column, of the first file.
            rows: Its values there.
            bounds: The least and the greatest of its numbers in all files.
        """
        return {}, ""

    def remark(self, found: Column) -> str:
        """What to add to the comment that counts the labels."""
        return ""

    # ---- settings, before any data are loaded ----

    def read_options(self, name: str, spec: Task) -> Any:
        """The options of a task, typed.

        Raises:
            ValueError: A key that neither a task nor this type has, or a value that does not fit.
        """
        own = [key_of(item) for item in fields(self.options)]
        for key in spec.options:
            if key not in own:
                for other in TASK_TYPES.values():
                    if key in [key_of(item) for item in fields(other.options)]:
                        raise ValueError(
                            f"`tasks.{name}.{key}` is an option of {other.name}; {self.name} has none such."
                        )
        check_keys(
            spec.options, [*(key_of(item) for item in fields(Task) if item.name != "options"), *own], f"tasks.{name}"
        )
        return typed(self.options, spec.options, f"tasks.{name}")

    def needs_label(self, options: Any) -> bool:
        """Whether a task with these options has a label column."""
        return self.label is not None

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check what is special about this type in the settings of a task.

        Raises:
            ValueError: A setting that does not fit.
        """

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """The options of a new head (`MultiTaskModel.add_head`), beside its labels and form.

        Args:
            spec: The task's section.
            options: As `read_options` returns it.
            dropout: The model's, for heads that name none.
        """
        chosen = {"dropout": dropout if spec.dropout is None else spec.dropout}
        return chosen | {key: found for key in ("pooling", "label_smoothing") if (found := getattr(spec, key))}

    def changed_options(self, spec: Task, options: Any) -> dict[str, Any]:
        """The options that a run changes of a saved head that it trains on."""
        keys = ("dropout", "label_smoothing")
        return {key: getattr(spec, key) for key in keys if getattr(spec, key) is not None}

    def facts(self, task: TaskData) -> dict[str, Any]:
        """What decides how its rows are read and scored, beside its labels: part of cache keys and checkpoints."""
        options = task.options
        return {key_of(item): getattr(options, item.name) for item in fields(self.options)}

    def needs_no_column(self, spec: Mapping[str, Any], found: Sequence[str]) -> bool:
        """Whether a saved head is scored on a file without a label column.

        Args:
            spec: The head's specification.
            found: Columns of the file that could hold its labels.
        """
        return self.label is None

    def options_of_file(
        self, trained: Task | None, column: str | None, rows: "datasets.Dataset"
    ) -> dict[str, Any] | None:
        """How a saved head is scored on a file of rows, where that is not as it was trained; None where it is.

        Args:
            trained: The task of its run, if that is known.
            column: Its label column in the file.
            rows: Of the file.
        """
        return None

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> Mapping[str, Sequence[Any]]:
        """The label column of each split of a source, None where a row has no label.

        Args:
            name: The task.
            spec: Its section of the config.
            source: The source.
            given: The labels of a trained model.

        Raises:
            ValueError: A value that is no label of this type, with its row.
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
        """Make the task of labels that were read: its vocabulary, where the type has one.

        Args:
            name: The task.
            spec: Its section of the config.
            sources: Its sources, whose `gold` holds its labels.
            form: How its head reads a text.
            run: The run.
            given: The labels of a trained model.
        """
        check_trainable(name, spec, sources)
        return TaskData(name, spec, [], form)

    def of_head(self, name: str, spec: Task, head: Mapping[str, Any]) -> TaskData:
        """The task of a saved head, without its data.

        Args:
            name: The task.
            spec: Its section of the config.
            head: The head's specification.
        """
        return TaskData(name, spec, list(head.get("labels") or []), head["text"])

    def warn(self, task: TaskData, sources: Sequence[SourceData]) -> None:
        """Warn of training labels that will make trouble."""

    # ---- encoded rows ----

    def feature(self) -> Any:
        """The type of the encoded label column, as `datasets` has it."""
        raise NotImplementedError

    def needs_word_ids(self, options: Any) -> bool:
        """Whether `encode_labels` reads of which word each token is."""
        return False

    def check_tokenizer(self, task: TaskData, tokenizer: Any) -> None:
        """Check that a tokenizer can do what the task needs.

        Raises:
            ValueError: It cannot.
        """

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """The labels of some rows as their column holds them; a name that a trained model does not know is absent.

        Args:
            task: The task.
            gold: The labels of these rows, None where there is none.
            encoded: These rows (`modeling.encoding.encode`).
            tokenizer: What encoded them.
        """
        raise NotImplementedError

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """An encoded label column as a batch has it.

        Args:
            labels: The column.
            columns: The encoded rows.
            shape: Of `input_ids`, (N, T).

        Returns:
            The labels as the head documents them; and which of them are there, (B,), or (B, T) for items within rows.
        """
        raise NotImplementedError

    def hiding(self, task: TaskData, tokenizer: Any) -> Any:
        """What hides tokens of a batch (`masking.Masking`), where the task learns from those; None for most."""
        return None

    def fewest_rows(self, options: Any) -> int:
        """Rows of a batch on one process without which there is nothing to learn."""
        return 1

    # ---- scores ----

    def evaluate_features(self) -> tuple[Any, Any]:
        """The types of a prediction and of a label in Arrow, for metrics of `evaluate`."""
        raise NotImplementedError

    def metric_names(self, task: TaskData) -> tuple[str, ...]:
        """Names of our own metrics for a task, the default primary one first."""
        return self.metrics

    def read_answers(self, task: TaskData, rows: "ScoredRows") -> Answers:
        """Predictions and labels of some rows, of those that have a label."""
        known = rows.known
        return Answers(
            rows.numbers[known], [rows.predictions[row].value for row in known], [rows.gold[row] for row in known]
        )

    def complete(self, task: TaskData, answers: Answers) -> Answers:
        """The answers to all rows of a split, where what is scored depends on the other rows too."""
        return answers

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """The metrics of a task by name, and details for `metrics.json`, such as `per_label`."""
        raise NotImplementedError

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The best constant answer to these rows: the baseline; None where there is none."""
        return None

    def check_metric(self, task: TaskData, metric: Any) -> None:
        """Check that a metric of `evaluate` can score the task.

        Raises:
            ValueError: It cannot.
        """

    def for_evaluate(self, task: TaskData, answers: Answers) -> tuple[Sequence[Any], Sequence[Any]]:
        """Predictions and labels in the form in which metrics of `evaluate` take them."""
        return answers.predicted, answers.gold

    # ---- what people read ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """For the model card: what a head answers a text with, and the form of an answer.

        Args:
            spec: The head's specification.
            task: The task's section of the run's config, where that is known.
            code: How a label is written in Markdown.
        """
        raise NotImplementedError

    def occurrences(self, task: TaskData, label: Any) -> Sequence[str]:
        """What is counted of a label in the card's table of labels; nothing for an empty one."""
        return [str(label)]

    def in_its_unit(self, task: TaskData, numbers: np.ndarray) -> np.ndarray:
        """Labels that are numbers, in the unit of the data."""
        return numbers


@dataclass
class ScoredRows:
    """Some rows of a source as one task scores them.

    Attributes:
        numbers: Which rows of the split, (n,).
        gold: Label of each row, None where it has none.
        outputs: Of the head for each row, (n, ...).
        predictions: Decoded from these.
        columns: The encoded rows.
        texts: The raw texts.
        tokenizer: What encoded them.
        max_length: Where segments were cut, in tokens.
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
        """Places of the rows with a label."""
        return [place for place, label in enumerate(self.gold) if label is not None]


TASK_TYPES: dict[str, TaskType] = {}


def task_type(name: str, where: str = "type") -> TaskType:
    """The task type of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in TASK_TYPES:
        raise ValueError(f"`{where}` is {name!r}.{nearest(name, TASK_TYPES)} Valid are {', '.join(TASK_TYPES)}.")
    return TASK_TYPES[name]


def check_trainable(name: str, spec: Task, sources: Sequence[SourceData]) -> None:
    """Raise `ValueError` if a task is to be trained and no training row has a label."""
    if "train" in sources[0].splits and spec.train and not any(map(has_labels, training_labels(name, sources))):
        raise ValueError(f"`tasks.{name}`: no training row has a label in the column {spec.label!r}.")


def training_labels(name: str, sources: Sequence[SourceData]) -> list[Sequence[Any]]:
    """The labels of the training rows of each source."""
    return [source.gold["train"].get(name, ()) for source in sources]


def has_labels(labels: Sequence[Any]) -> bool:
    """Whether a row has a label."""
    return not labels.missing.all() if isinstance(labels, NameColumn) else any(label is not None for label in labels)


def flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (all values one after the other, number of values in each row)."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    return array.flatten().to_numpy(zero_copy_only=False), np.diff(array.offsets.to_numpy())
