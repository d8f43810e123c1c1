"""Task types, and the labels of each task: read, checked, and their vocabulary found.

Notable: labels become *names* (strings) as soon as they are read; ids exist only inside encoded rows, so that scores
can compare what was predicted with what the rows really say, labels that training never had included.
"""

import collections
import functools
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..config import RunConfig, Task, nearest
from ..modeling.answers import is_span_scheme
from ..modeling.heads import check_head_name
from .label_text import as_number, find_name, report_similar_labels, tidy_labels
from .sources import SourceData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskType:
    """What a task type asks of the data.

    Attributes:
        form: Which form of text it needs, None where any will do.
        label: What its label column holds, for messages and docs; None where it has none.
        has_vocabulary: Whether its labels are names.
        metrics: Names of its metrics, the primary one first.
        alone: Whether it changes what the encoder sees, so that no other task can share its source.
    """

    form: str | None
    label: str | None
    has_vocabulary: bool
    metrics: tuple[str, ...]
    alone: bool = False


TASK_TYPES: dict[str, TaskType] = {
    "sequence_classification": TaskType(
        None,
        "one label a row: text, a whole number or true / false",
        True,
        ("accuracy", "macro_f1", "micro_f1", "matthews", "cross_entropy"),
    ),
    "multi_label_classification": TaskType(
        None,
        "a list of labels a row, which may be empty",
        True,
        ("micro_f1", "macro_f1", "accuracy", "cross_entropy"),
    ),
    "regression": TaskType(None, "a number a row", False, ("pearson", "spearman", "mse")),
    "token_classification": TaskType(
        "words",
        "a list with one label for each word",
        True,
        ("f1", "precision", "recall", "accuracy", "cross_entropy"),
    ),
    "sentence_similarity": TaskType(
        "apart", "a score a row, within `score_range`", False, ("spearman", "pearson"), alone=True
    ),
    "masked_lm": TaskType(None, None, False, ("perplexity", "accuracy", "cross_entropy"), alone=True),
}
FAR = 10  # a mean or a deviation of numbers above this makes squared errors that drown other losses
# Option of a task → the task type that has it.
_OPTIONS = {
    "loss": "sentence_similarity",
    "score_range": "sentence_similarity",
    "temperature": "sentence_similarity",
    "mlm_probability": "masked_lm",
    "whole_word_mask": "masked_lm",
}


@dataclass
class TaskData:
    """A task with its label vocabulary.

    Attributes:
        name: Its name in the config, and its head's.
        config: Its section of the config.
        labels: Names of its labels in the order of the logits; empty where the type has no vocabulary.
        form: Form of the texts it reads.
        spans: Whether its labels are tags of spans (BIO).
    """

    name: str
    config: Task
    labels: list[str]
    form: str
    spans: bool = False

    @property
    def type(self) -> str:
        """Its task type."""
        return self.config.type

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Label → its position in `labels`."""
        return {label: index for index, label in enumerate(self.labels)}


def build_tasks(
    config: RunConfig, sources: Mapping[str, SourceData], vocabularies: Mapping[str, list[str]] | None = None
) -> dict[str, TaskData]:
    """Read and check the labels of every task, fill in `SourceData.gold`, and find each task's vocabulary.

    Args:
        config: The run.
        sources: As `load_sources` returns them.
        vocabularies: Task → its labels, where a trained model has them already.

    Raises:
        ValueError: Labels that do not suit the task's type, with the row.
    """
    check_tasks(config)
    return {
        name: _build_task(name, spec, [sources[source] for source in spec.sources], vocabularies)
        for name, spec in config.tasks.items()
    }


def check_tasks(config: RunConfig) -> None:
    """Check what can be said of tasks before any data are loaded.

    Raises:
        ValueError: A name that a head cannot have, an unknown type, no label column where the type needs one (or one
            where it has none), a source that a task has to have alone.
    """
    for name, spec in config.tasks.items():
        check_head_name(name)
        if spec.type not in TASK_TYPES:
            raise ValueError(
                f"`tasks.{name}.type` is {spec.type!r}.{nearest(spec.type, TASK_TYPES)} Valid are"
                f" {', '.join(TASK_TYPES)}."
            )
        task_type = TASK_TYPES[spec.type]
        for key, owner in _OPTIONS.items():
            if getattr(spec, key) is not None and spec.type != owner:
                raise ValueError(f"`tasks.{name}.{key}` is an option of {owner}; {spec.type} has none such.")
        if spec.type == "sentence_similarity":
            known = spec.pooling or config.model.pooling or (None if config.model.from_ else "mean")
            _check_similarity(name, spec, known)
        if spec.type == "masked_lm":
            _check_masked_lm(name, spec)
        if spec.label is None and task_type.label is not None and spec.loss != "ranking":
            raise ValueError(f"`tasks.{name}.label` is missing: the column with {task_type.label}.")
        if spec.label is not None and task_type.label is None:
            raise ValueError(f"`tasks.{name}.label` is {spec.label!r}, but {spec.type} makes its labels itself.")
        sharing = [other for other, task in config.tasks.items() if other != name and {*task.sources} & {*spec.sources}]
        if task_type.alone and sharing:
            raise ValueError(
                f"`tasks.{name}` changes what the encoder sees of its source, so {', '.join(sharing)} cannot read that"
                " source too: name the same files as a second source."
            )


def _check_similarity(name: str, spec: Task, pooling: str | None) -> None:
    """Check what only a task of sentence similarity has; its pooling is None where a saved model decides."""
    if spec.loss == "ranking":
        for key in ("label", "score_range"):
            if (found := getattr(spec, key)) is not None:
                raise ValueError(
                    f"`tasks.{name}.{key}` is {found!r}, but `loss: ranking` reads no scores: the two texts of a row"
                    " belong together."
                )
    elif spec.temperature is not None:
        raise ValueError(f"`tasks.{name}.temperature` is {spec.temperature}, which only `loss: ranking` has.")
    if spec.temperature is not None and spec.temperature <= 0:
        raise ValueError(f"`tasks.{name}.temperature` is {spec.temperature}; it is above 0.")
    if spec.score_range is not None and not (len(spec.score_range) == 2 and spec.score_range[0] < spec.score_range[1]):
        raise ValueError(
            f"`tasks.{name}.score_range` is {spec.score_range}; it is the least and the greatest score, as in [0, 5]."
        )
    if spec.learning_rate is not None and pooling not in (None, "attention"):
        raise ValueError(
            f"`tasks.{name}.learning_rate` is {spec.learning_rate}, but this head has no weights of its own: only"
            " `pooling: attention` gives it some."
        )


def _check_masked_lm(name: str, spec: Task) -> None:
    """Check what only a task of masked language modelling has, and what it has not."""
    if spec.mlm_probability is not None and not 0 < spec.mlm_probability < 1:
        raise ValueError(
            f"`tasks.{name}.mlm_probability` is {spec.mlm_probability}; it is a share of the tokens: above 0 and below"
            " 1 (0.15 in BERT)."
        )
    for key in ("pooling", "dropout", "labels", "label_smoothing"):
        if (found := getattr(spec, key)) is not None:
            raise ValueError(f"`tasks.{name}.{key}` is {found!r}, which a masked_lm head does not have.")
    own = TASK_TYPES["masked_lm"].metrics
    if others := [metric for metric in spec.metrics if metric not in own]:
        raise ValueError(
            f"`tasks.{name}.metrics`: masked_lm has no answers that {others[0]!r} could score; its metrics are"
            f" {', '.join(own)}."
        )


def _build_task(
    name: str, spec: Task, sources: list[SourceData], vocabularies: Mapping[str, list[str]] | None
) -> TaskData:
    task_type = TASK_TYPES[spec.type]
    forms = {source.form for source in sources}
    if task_type.alone and task_type.form is None:  # it reads each text as it comes
        forms = {"words" if "words" in forms else max(forms)}
    if len(forms) > 1:
        raise ValueError(f"`tasks.{name}`: the texts of its sources differ in form ({', '.join(sorted(forms))}).")
    form = forms.pop()
    if task_type.form == "apart" and form == "pair":  # the same two columns, read one by one
        form = "apart"
    if task_type.form and form != task_type.form:
        needed = {"words": "lists of words", "apart": "pairs ([first, second])"}[task_type.form]
        found = {"string": "a string", "words": "a list of words", "pair": "a pair"}[form]
        raise ValueError(
            f"`tasks.{name}`: {spec.type} needs texts that are {needed}, but the text of source {sources[0].name!r} is"
            f" {found}."
        )
    if not task_type.has_vocabulary and (spec.labels or spec.label_smoothing):
        raise ValueError(f"`tasks.{name}`: {spec.type} takes neither `labels` nor `label_smoothing`.")
    given = (vocabularies or {}).get(name)
    for source in sources:
        for split, rows in source.splits.items():
            source.gold[split][name] = _read_labels(name, spec, source, split, rows)
            if given and spec.type == "sequence_classification":
                source.gold[split][name] = [find_name(label, given) for label in source.gold[split][name]]
    training = [label for source in sources for label in source.gold["train"].get(name, []) if label is not None]
    if "train" in sources[0].splits and not training and spec.train:
        raise ValueError(f"`tasks.{name}`: no training row has a label in the column {spec.label!r}.")
    if not task_type.has_vocabulary:
        return TaskData(name, spec, [], form)
    labels = given or _vocabulary(name, spec, sources, training)
    if not given and not spec.labels and spec.type != "token_classification":
        report_similar_labels(name, labels)
    task = TaskData(name, spec, labels, form, spans=spec.type == "token_classification" and is_span_scheme(labels))
    for source in sources:
        for split in source.splits:
            if task.spans:
                _check_bio(task, source, split, may_grow=split == "train" and not given)
            _report_unknown(task, source, split)
    return task


def _read_labels(name: str, spec: Task, source: SourceData, split: str, rows: datasets.Dataset) -> list[Any]:
    """A label column as names (or numbers, of scores as shares of their range), None where a row has no label."""
    if spec.loss == "ranking" or TASK_TYPES[spec.type].label is None:
        return [1.0] * len(rows)
    feature = rows.features[spec.label]
    inner = getattr(feature, "feature", None)
    class_label = next((item for item in (feature, inner) if isinstance(item, datasets.ClassLabel)), None)
    renamed = spec.labels if isinstance(spec.labels, dict) else None
    column = list(rows[spec.label])
    if not TASK_TYPES[spec.type].has_vocabulary:
        column = [as_number(value) for value in column] if source.untyped else column
    elif spec.type != "token_classification":
        column = tidy_labels(name, column, lambda row: source.where(split, row))

    def problem(row: int, found: Any) -> ValueError:
        decimal = source.untyped and re.fullmatch(r"-?[0-9]+,[0-9]+", str(found))
        comma = ' `decimal: ","` of the source reads numbers with a decimal comma.' if decimal else ""
        return ValueError(
            f"`tasks.{name}`: {source.where(split, row)} has {found!r} in the column {spec.label!r}; {spec.type}"
            f" takes {TASK_TYPES[spec.type].label}.{comma}"
        )

    def to_name(value: Any, row: int) -> str | None:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return None
        if class_label is not None:
            return None if value == -1 else str(class_label.int2str(value))
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, float) and value.is_integer():  # what CSV makes of whole numbers beside empty cells
            value = int(value)
        if not isinstance(value, str | int):
            raise problem(row, value)
        if renamed is None:
            return str(value)
        value = find_name(value, renamed)
        if str(value) not in renamed:
            raise ValueError(
                f"`tasks.{name}.labels` has no name for {value!r} ({source.where(split, row)}); it names"
                f" {', '.join(renamed)}."
            )
        return renamed[str(value)]

    if not TASK_TYPES[spec.type].has_vocabulary:
        for row, value in enumerate(column):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise problem(row, value)
        numbers = [None if value is None or np.isnan(value) else float(value) for value in column]
        if spec.type == "regression":
            return numbers
        least, greatest = spec.score_range or (0.0, 1.0)
        for row, number in enumerate(numbers):
            if number is not None and not least <= number <= greatest:
                raise ValueError(
                    f"`tasks.{name}`: {source.where(split, row)} has the score {number:g} in the column {spec.label!r},"
                    f" which is not within {least:g} and {greatest:g}: mend it, or set `score_range`."
                )
        return [None if number is None else (number - least) / (greatest - least) for number in numbers]
    if spec.type == "sequence_classification":
        return [to_name(value, row) for row, value in enumerate(column)]
    names: list[Any] = []
    for row, values in enumerate(column):
        if values is not None and not isinstance(values, list):
            raise problem(row, values)
        names.append(None if values is None else [to_name(value, row) for value in values])
    if spec.type == "multi_label_classification":
        for row, values in enumerate(names):
            if values is not None and None in values:
                raise problem(row, column[row])
        return [None if values is None else sorted(set(values)) for values in names]
    for row, (words, tags) in enumerate(zip(rows[source.columns[0]], names, strict=True)):
        if tags is not None and len(tags) != len(words):
            raise ValueError(
                f"`tasks.{name}`: {source.where(split, row)} has {len(words)} words in {source.columns[0]!r} but"
                f" {len(tags)} labels in {spec.label!r}."
            )
    return names


def report_far_numbers(tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData]) -> None:
    """Warn of numbers whose squared error drowns the losses of other tasks, with what mends it.

    Args:
        tasks: Task name → task. A `loss_weight` that makes the error small enough is an answer already.
        sources: With the labels of their training rows.
    """
    for name, task in tasks.items():
        if task.type != "regression" or not task.config.train:
            continue
        labels = [label for source in task.config.sources for label in sources[source].gold["train"][name]]
        numbers = np.array([label for label in labels if label is not None])
        mean, deviation = float(numbers.mean()), float(numbers.std())
        if not is_far(mean * task.config.loss_weight**0.5, deviation * task.config.loss_weight**0.5):
            continue
        scaled = f"(label - {mean:.4g}) / {deviation:.4g}" if deviation else f"label - ({mean:.4g})"
        weight = (
            f", or set `tasks.{name}.loss_weight: {1 / deviation**2:.2g}` (1 / variance), which clipping undoes unless"
            " a step is a whole round or `max_grad_norm` is 0"
            if deviation > FAR
            else ""
        )
        logger.warning(
            "Task %s: its training labels have mean %.4g and standard deviation %.4g. The squared error of such numbers"
            " drowns the losses of other tasks and takes up the gradient norm that all share: scale the labels in the"
            " data, as %s%s.", name, mean, deviation, scaled, weight,
        )  # fmt: skip


def is_far(mean: float, deviation: float) -> bool:
    """Whether numbers with this mean and standard deviation are far from unit size."""
    return max(abs(mean), deviation) > FAR


def label_names(labels: Iterable[Any]) -> set[str]:
    """The names that occur in labels: in strings, and in lists of them."""
    return {tag for label in labels for tag in ([label] if isinstance(label, str) else label or ()) if tag is not None}


def _vocabulary(name: str, spec: Task, sources: list[SourceData], training: list[Any]) -> list[str]:
    found = label_names(training)
    if not found:  # empty lists, or lists of nothing
        for source in sources:
            if "train" not in source.splits:
                raise ValueError(f"`sources.{source.name}` has no training rows; it has {', '.join(source.splits)}.")
        raise ValueError(f"`tasks.{name}`: no training row has a label in the column {spec.label!r}.")
    if spec.labels:
        labels = list(dict.fromkeys(spec.labels.values() if isinstance(spec.labels, dict) else spec.labels))
        if missing := sorted(found - set(labels)):
            raise ValueError(
                f"`tasks.{name}.labels` lacks {', '.join(map(repr, missing))}, which the training rows have."
            )
    else:
        declared: list[str] = []
        for source in sources:
            for rows in source.splits.values():
                feature = rows.features[spec.label]
                class_label = getattr(feature, "feature", feature)
                if isinstance(class_label, datasets.ClassLabel):
                    declared += class_label.names
        # 01 and 1 are one number: without the inner sort their order would change from process to process.
        numbers = all(re.fullmatch(r"-?\d+", label) for label in found)
        labels = list(dict.fromkeys([*declared, *sorted(sorted(found), key=int if numbers else _tag_order)]))
    if len(labels) < 2 and spec.type == "sequence_classification":
        raise ValueError(f"`tasks.{name}`: there is only one label, {labels[0]!r}; nothing can be learned from that.")
    return labels


def _tag_order(label: str) -> tuple[bool, str, str]:
    """O first, then B- and I- of each type together; other labels by name."""
    return (label != "O", label[2:], label[:2]) if label[1:2] == "-" else (label != "O", label, "")


def _check_bio(task: TaskData, source: SourceData, split: str, *, may_grow: bool) -> None:
    """Find I- tags that continue nothing; repair or refuse them as the task says.

    A B- tag that only a repair makes joins the vocabulary where that `may_grow`; a trained model's may not.
    """
    broken, first = 0, None
    for row, tags in enumerate(source.gold[split][task.name]):
        previous = "O"
        for index, tag in enumerate(tags or ()):
            if tag is not None and tag.startswith("I-") and previous[2:] != tag[2:]:
                broken += 1
                first = first if first is not None else (row, index, tag)
                if task.config.bio == "repair":
                    tags[index] = f"B-{tag[2:]}"
                    if may_grow and tags[index] not in task.labels:
                        task.labels.append(tags[index])
            previous = tags[index] or "O"
    if not broken or first is None:
        return
    where = f"{source.where(split, first[0])}, word {first[1] + 1}: {first[2]}"
    if task.config.bio == "refuse":
        raise ValueError(
            f"`tasks.{task.name}`: {broken} I- tags continue nothing (the first: {where}); mend them, or set"
            " `bio: repair` to read them as B-."
        )
    logger.warning("Task %s: %d I- tags of %s %s continue nothing and are read as B- (the first: %s).",
                   task.name, broken, source.name, split, where)  # fmt: skip


def _report_unknown(task: TaskData, source: SourceData, split: str) -> None:
    known = set(task.labels)
    unknown = collections.Counter(
        tag
        for label in source.gold[split][task.name]
        for tag in ([label] if isinstance(label, str) else label or ())
        if tag is not None and tag not in known
    )
    if unknown:
        shown = ", ".join(f"{tag} ({count})" for tag, count in unknown.most_common(10))
        logger.warning("Task %s: %s %s has labels that training does not have; they count as errors: %s.",
                       task.name, source.name, split, shown)  # fmt: skip
