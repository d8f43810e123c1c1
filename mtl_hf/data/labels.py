"""Task types, and the labels of each task: read, checked, and their vocabulary found.

Notable: labels become *names* (strings) as soon as they are read; ids exist only inside encoded rows, so that scores
can compare what was predicted with what the rows really say, labels that training never had included.
"""

import collections
import functools
import itertools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..config import RunConfig, Task, nearest
from ..modeling.tags import is_span_scheme
from ..modeling.heads import check_head_name
from .label_text import as_number, find_name, report_similar_labels, tidy_labels
from .sources import SourceData
from .tag_schemes import BARE_TYPE, BIO, Scheme, bio_labels, recognise, to_bio

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
LARGEST = 1e18  # a number to predict: the squares of larger ones, summed over a batch, are beyond float32
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
        name: _build_task(name, spec, [sources[source] for source in spec.sources], config, vocabularies)
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
        if spec.label == "":
            raise ValueError(f"`tasks.{name}.label` is empty; it names the label column.")
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
    name: str,
    spec: Task,
    sources: list[SourceData],
    config: RunConfig,
    vocabularies: Mapping[str, list[str]] | None,
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
        one_hot = _one_hot_labels(name, spec, source, given) if spec.type == "multi_label_classification" else None
        for split, rows in source.splits.items():
            source.gold[split][name] = _read_labels(name, spec, source, split, rows, one_hot)
    if spec.type == "sequence_classification":
        _use_known_names(name, sources, given or (spec.labels if isinstance(spec.labels, list) else None))
    schemes: dict[str, Scheme] = {}
    if spec.type == "token_classification" and (given is None or is_span_scheme(given)):
        schemes = _read_schemes(name, sources, config, given)
    training = [label for source in sources for label in source.gold["train"].get(name, []) if label is not None]
    if "train" in sources[0].splits and not training and spec.train:
        raise ValueError(f"`tasks.{name}`: no training row has a label in the column {spec.label!r}.")
    if not task_type.has_vocabulary:
        return TaskData(name, spec, [], form)
    declared = None
    if spec.labels:
        declared = list(dict.fromkeys(spec.labels.values() if isinstance(spec.labels, dict) else spec.labels))
        for scheme in schemes.values():
            declared = declared if scheme.is_bio else bio_labels(declared, scheme)
    labels = given or _vocabulary(name, spec, sources, training, declared, schemes)
    if not given and not spec.labels and spec.type != "token_classification":
        report_similar_labels(name, labels)
    if schemes and "O" not in labels:  # every word is inside of a span
        labels = ["O", *labels]
    spans = spec.type == "token_classification" and is_span_scheme(labels)
    if schemes and not spans:
        others = [label for label in labels if BIO.split(label) is None]
        raise ValueError(f"`tasks.{name}.labels`: the tags are spans, and {', '.join(map(repr, others))} no tags of"
                         " spans: leave them out.")  # fmt: skip
    task = TaskData(name, spec, labels, form, spans, declared)
    if spec.type == "token_classification" and not spans and not given:
        _report_word_labels(task, training)
    for source in sources:
        for split in source.splits:
            if source.name in schemes:
                _check_bio(task, source, split, may_grow=split == "train" and not given)
            _report_unknown(task, source, split)
    return task


def _use_known_names(name: str, sources: Sequence[SourceData], names: Sequence[str] | None) -> None:
    """Give labels that one file writes otherwise than another (`1.0` and `1`, `TRUE` and `True`) one name, in place.

    Args:
        name: The task.
        sources: Its sources, with its labels.
        names: Those of the config or of a trained model; None for those of the training rows, of which each source
            keeps its own and takes those of the sources before it.
    """
    known = dict.fromkeys(names or ())
    training = [(source, "train") for source in sources if "train" in source.splits]
    others = [(source, split) for source in sources for split in source.splits if split != "train"]
    for source, split in [*training, *others]:
        labels = source.gold[split][name]
        found = {label: find_name(label, known) for label in labels if label is not None}
        if changed := {label: other for label, other in found.items() if label != other}:
            source.gold[split][name] = [changed.get(label, label) for label in labels]
            shown = ", ".join(f"{label} as {other}" for label, other in sorted(changed.items())[:5])
            logger.info("Task %s: labels of %s %s are read as those that they stand for: %s.",
                        name, source.name, split, shown)  # fmt: skip
        if names is None and split == "train":
            known |= dict.fromkeys(found.values())


def _one_hot_labels(name: str, spec: Task, source: SourceData, given: Sequence[str] | None) -> list[str] | None:
    """The label that each place of one-hot lists stands for; None where the lists hold labels.

    Lists of 0 and 1 are one-hot where one of them has a value twice, or all are of one length of at least 2.

    Raises:
        ValueError: One-hot lists without a list of `labels` to name their places, or of another length than these.
    """
    first = next(iter(source.splits.values())).features[spec.label]
    if isinstance(getattr(first, "feature", None), datasets.ClassLabel):
        return None
    lists = [
        (split, row, value)
        for split, rows in source.splits.items()
        for row, value in enumerate(rows[spec.label])
        if isinstance(value, list) and value
    ]
    likely = [found for found in lists if all(item in (0, 1, "0", "1") for item in found[2])]
    widths = collections.Counter(len(value) for _, _, value in likely)
    twice = any(len({str(item) for item in value}) < len(value) for _, _, value in likely)
    if not likely or len(likely) < 0.9 * len(lists) or not (twice or (len(widths) == 1 and 1 not in widths)):
        return None
    width = widths.most_common(1)[0][0]
    split, row, value = next(found for found in likely if len(found[2]) == width)
    if isinstance(spec.labels, dict):  # of ids, which such lists may hold too
        if not twice and width != len(spec.labels):
            return None
        raise ValueError(
            f"`tasks.{name}.labels` names the values {', '.join(spec.labels)}, but the column {spec.label!r} holds"
            f" one-hot lists of {width} values, such as {value} in {source.where(split, row)}. Name what each place"
            f" stands for, in this order: `labels: [{', '.join(dict.fromkeys(spec.labels.values()))}]`."
        )
    labels = given or spec.labels
    if labels is None:
        example = ", ".join(f"name{place}" for place in range(1, min(width, 3) + 1)) + (", ..." if width > 3 else "")
        raise ValueError(
            f"`tasks.{name}`: the column {spec.label!r} holds one-hot lists of {width} values, such as {value} in"
            f" {source.where(split, row)}. Name what each place stands for, in this order: `labels: [{example}]`."
        )
    if len(labels) != width:
        raise ValueError(
            f"`tasks.{name}.labels` has {len(labels)} names, but the column {spec.label!r} holds one-hot lists of"
            f" {width} values, such as {value} in {source.where(split, row)}."
        )
    return list(labels)


def _read_labels(
    name: str,
    spec: Task,
    source: SourceData,
    split: str,
    rows: datasets.Dataset,
    one_hot: Sequence[str] | None = None,
) -> list[Any]:
    """A label column as names (or numbers, of scores as shares of their range), None where a row has no label.

    Args:
        name: The task.
        spec: Its section of the config.
        source: The source.
        split: Its split.
        rows: The rows of that split.
        one_hot: As `_one_hot_labels` returns it.
    """
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
        column = tidy_labels(name, column, lambda row: source.where(split, row), renamed or ())

    def problem(row: int, found: Any) -> ValueError:
        decimal = source.untyped and re.fullmatch(r"-?[0-9]+,[0-9]+", str(found))
        hint = ' `decimal: ","` of the source reads numbers with a decimal comma.' if decimal else ""
        if isinstance(found, list) and spec.type == "sequence_classification":
            hint = " `type: multi_label_classification` takes a list of labels a row."
        return ValueError(
            f"`tasks.{name}`: {source.where(split, row)} has {found!r} in the column {spec.label!r}; {spec.type}"
            f" takes {TASK_TYPES[spec.type].label}.{hint}"
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
        if no_number := [row for row, value in enumerate(column) if value is not None and np.isnan(value)]:
            logger.warning("Task %s: %d labels of %s %s are NaN and count as missing (the first: %s).", name,
                           len(no_number), source.name, split, source.where(split, no_number[0]))  # fmt: skip
        if spec.type == "regression":
            for row, number in enumerate(numbers):
                if number is not None and abs(number) > LARGEST:
                    raise ValueError(
                        f"`tasks.{name}`: {source.where(split, row)} has {number:g} in the column {spec.label!r};"
                        f" regression takes numbers from {-LARGEST:g} to {LARGEST:g}, whose squares float32 can hold."
                    )
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
    if one_hot is not None:
        for row, values in enumerate(column):
            fits = isinstance(values, list) and len(values) == len(one_hot)
            if values is not None and not (fits and all(item in (0, 1, "0", "1") for item in values)):
                raise ValueError(
                    f"`tasks.{name}`: {source.where(split, row)} has {values!r} in the column {spec.label!r}, whose"
                    f" other rows hold one-hot lists of {len(one_hot)} values, 0 or 1."
                )
        return [
            None
            if values is None
            else sorted({label for label, item in zip(one_hot, values, strict=True) if item in (1, "1")})
            for values in column
        ]
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


def check_scored(
    tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData], splits: Iterable[str], metric: str | None = None
) -> None:
    """Check that the rows on which a run scores its tasks have labels.

    Args:
        tasks: Task name → task. One with `score_weight: 0` may lack them, with a warning.
        sources: With the labels of their rows.
        splits: The splits that are scored.
        metric: What checkpoints are chosen by.

    Raises:
        ValueError: A task without a label in such a split, or with a single number, which correlates with nothing.
    """
    for split, (name, task) in itertools.product(splits, tasks.items()):
        own = [sources[source] for source in task.config.sources if split in sources[source].splits]
        if not own or task.config.label is None:
            continue
        num_rows = sum(len(source.splits[split]) for source in own)
        number = sum(is_labelled(label) for source in own for label in source.gold[split][name])
        if number >= (1 if TASK_TYPES[task.type].has_vocabulary else 2):
            continue
        problem = (
            f"{'only one' if number else 'none'} of the {num_rows} {split} rows of"
            f" {' and '.join(source.name for source in own)} has a label in the column {task.config.label!r}"
        )
        named = metric is not None and metric.removeprefix("eval_").startswith(f"{name}_")
        if task.config.score_weight != 0 or (named and split == "validation"):
            raise ValueError(
                f"`tasks.{name}`: {problem}, and its score there would be no number. Add labels, leave these rows out,"
                f" or set `tasks.{name}.score_weight: 0`."
            )
        logger.warning("Task %s: %s; it is not scored there.", name, problem)


def is_labelled(label: Any) -> bool:
    """Whether a row has a label; of tags, whether a word has one."""
    if isinstance(label, list):
        return not label or any(tag is not None for tag in label)
    return label is not None


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


def _vocabulary(
    name: str,
    spec: Task,
    sources: list[SourceData],
    training: list[Any],
    given: list[str] | None,
    schemes: Mapping[str, Scheme],
) -> list[str]:
    """The labels of a task in the order of its logits: those `given` in the config, else those of features and rows."""
    found = label_names(training)
    if not found:  # empty lists, or lists of nothing
        for source in sources:
            if "train" not in source.splits:
                raise ValueError(f"`sources.{source.name}` has no training rows; it has {', '.join(source.splits)}.")
        raise ValueError(f"`tasks.{name}`: no training row has a label in the column {spec.label!r}.")
    if given is not None:
        labels = given
        if missing := sorted(found - set(labels)):
            raise ValueError(
                f"`tasks.{name}.labels` lacks {', '.join(map(repr, missing))}, which the training rows have."
            )
    else:
        declared: list[str] = []
        for source in sources:
            scheme = schemes.get(source.name)
            for rows in source.splits.values():
                feature = rows.features[spec.label]
                class_label = getattr(feature, "feature", feature)
                if isinstance(class_label, datasets.ClassLabel):
                    declared += class_label.names if scheme is None else _span_names(name, class_label.names, scheme)
        # 01 and 1 are one number: without the inner sort their order would change from process to process.
        order = int if are_numbers(found) else _tag_order
        labels = list(dict.fromkeys([*declared, *sorted(sorted(found), key=order)]))
    if len(labels) < 2 and spec.type == "sequence_classification":
        raise ValueError(f"`tasks.{name}`: there is only one label, {labels[0]!r}; nothing can be learned from that.")
    return labels


def _span_names(name: str, declared: Sequence[str], scheme: Scheme) -> list[str]:
    """The names of a feature in BIO, without those that are no tags of spans, which no row has."""
    if others := [label for label in declared if scheme.split(label) is None]:
        logger.warning("Task %s: names of its feature that no row has and that are no tags of spans are left out: %s.",
                       name, ", ".join(map(repr, others)))  # fmt: skip
    fitting = [label for label in declared if label not in others]
    return fitting if scheme.is_bio else bio_labels(fitting, scheme)


def _tag_order(label: str) -> tuple[bool, str, str]:
    """O first, then B- and I- of each type together; other labels by name."""
    return (label != "O", label[2:], label[:2]) if label[1:2] == "-" else (label != "O", label, "")


def _read_schemes(
    name: str, sources: Sequence[SourceData], config: RunConfig, given: Sequence[str] | None
) -> dict[str, Scheme]:
    """Find the scheme of the tags of each source, and convert them to BIO in place.

    Args:
        name: The task.
        sources: Its sources, with its labels.
        config: The run.
        given: Labels of a trained model, whose names of types are kept where they differ in case only, or where tags
            have no types.

    Returns:
        Source → its scheme, of those whose tags are of spans.

    Raises:
        ValueError: Most tags of a source fit a scheme and some do not, with their rows.
    """
    found: dict[str, Scheme] = {}
    others: dict[str, list[str]] = {}  # source → tags of no scheme
    for source in sources:
        _strip_tags(name, source)
        rows = [tags for split in source.splits for tags in source.gold[split][name] if tags is not None]
        scheme = recognise(rows, {label[2:] for label in given or () if label != "O"})
        if scheme is None:
            _leave_out_empty_tags(name, source)
            if unlike := sorted(label_names(rows) - {"O"}):
                others[source.name] = unlike
            continue
        found[source.name] = scheme
        for split in source.splits:
            _check_fit(name, source, split, scheme, drop=config.sources[source.name].drop_bad_rows)
        types = _model_types(scheme, rows, given)
        if scheme.is_bio and not types:
            continue
        if not scheme.is_bio:
            logger.info("Task %s: %s tags in source %s, read as BIO.", name, scheme, source.name)
        for split in source.splits:
            strays = []
            for row, tags in enumerate(source.gold[split][name]):
                if tags is not None:
                    source.gold[split][name][row], where = to_bio(tags, scheme, types)
                    strays += [(row, position, tags[position]) for position in where]
            _report_strays(name, config.tasks[name].bio, source, split, strays)
    if found and others and given is None:
        other, tags = next(iter(others.items()))
        spans = " and ".join(f"{source} ({scheme})" for source, scheme in found.items())
        raise ValueError(f"`tasks.{name}`: the tags of source {other!r} ({', '.join(map(repr, tags[:10]))}) are in no"
                         f" scheme of spans, and those of {spans} are: write all of them in one.")  # fmt: skip
    return found


def _strip_tags(name: str, source: SourceData) -> None:
    """Remove the spaces around tags, with a warning."""
    for split in source.splits:
        if all(tag == tag.strip() for tag in label_names(source.gold[split][name])):
            continue
        stripped, first = 0, None
        for row, tags in enumerate(source.gold[split][name]):
            for position, tag in enumerate(tags or ()):
                if tag is not None and tag != tag.strip():
                    stripped += 1
                    first = first or f"{tag!r} in {source.where(split, row)}, word {position + 1}"
                    tags[position] = tag.strip()
        logger.warning("Task %s: spaces around %d tags of %s %s are removed (the first: %s).",
                       name, stripped, source.name, split, first)  # fmt: skip


def _leave_out_empty_tags(name: str, source: SourceData) -> None:
    """Replace empty tags by None where tags are labels of words, with a warning."""
    for split in source.splits:
        empty = [
            (row, position, tags)
            for row, tags in enumerate(source.gold[split][name])
            for position, tag in enumerate(tags or ())
            if tag == ""
        ]
        for _, position, tags in empty:
            tags[position] = None
        if empty:
            row, position, _ = empty[0]
            logger.warning("Task %s: %d words of %s %s have an empty tag and count as words without a label (the first:"
                           " %s, word %d).", name, len(empty), source.name, split, source.where(split, row),
                           position + 1)  # fmt: skip


def _check_fit(name: str, source: SourceData, split: str, scheme: Scheme, *, drop: bool) -> None:
    """Refuse tags that do not fit the scheme of the others, or drop their rows."""
    gold = source.gold[split][name]
    if all(scheme.split(tag) for tag in label_names(gold)):
        return
    misfits = {
        row: bad
        for row, tags in enumerate(gold)
        if (bad := [place for place, tag in enumerate(tags or ()) if tag is not None and scheme.split(tag) is None])
    }
    loaded, numbers = source.origin(split)
    shown = ", ".join(
        f"{gold[row][place]!r} (row {numbers[row] + 1}, word {place + 1})"
        for row, place in itertools.islice(((row, place) for row, bad in misfits.items() for place in bad), 10)
    )
    number = sum(map(len, misfits.values()))
    total = sum(tag is not None for tags in gold for tag in tags or ())
    shown += f" and {number - 10} more" if number > 10 else ""
    if not drop:
        raise ValueError(
            f"`tasks.{name}`: {number} of {total} tags of the split {loaded!r} of source {source.name!r} do not fit the"
            f" scheme of the others, {scheme}: {shown}. Correct them, or set"
            f" `sources.{source.name}.drop_bad_rows: true` to leave out such rows ({len(misfits)})."
        )
    kept = [row for row in range(len(gold)) if row not in misfits]
    if not kept:
        raise ValueError(f"`tasks.{name}`: no row of the split {split!r} of source {source.name!r} has only tags that"
                         f" fit {scheme}: {shown}.")  # fmt: skip
    logger.warning("Source %s, %s: %d of %d rows have tags of %s that do not fit %s and are dropped: %s.",
                   source.name, split, len(misfits), len(gold), name, scheme, shown)  # fmt: skip
    source.keep(split, kept)
    source.gold[split] = {task: [labels[row] for row in kept] for task, labels in source.gold[split].items()}


def _model_types(scheme: Scheme, rows: Sequence[Sequence[str | None]], given: Sequence[str] | None) -> dict[str, str]:
    """What a trained model calls the types of tags, where that is not as they are written."""
    known = {label[2:] for label in given or () if label != "O"}
    if scheme.form == "B":
        return {BARE_TYPE: known.pop()} if len(known) == 1 else {}
    written = {parts[1] for row in rows for tag in row if tag is not None and (parts := scheme.split(tag))} - {""}
    by_fold = collections.Counter(kind.casefold() for kind in known)
    return {
        kind: other
        for kind in written - known
        for other in known
        if other.casefold() == kind.casefold() and by_fold[kind.casefold()] == 1
    }


def _report_word_labels(task: TaskData, training: Sequence[Any]) -> None:
    """Warn of word labels that may have been meant as spans, and of numbers without names."""
    counts = collections.Counter(tag for tags in training for tag in tags or () if tag is not None)
    shown = [tag for tag, _ in counts.most_common(10)]
    if are_numbers(task.labels):
        names = "{" + ", ".join(f"{tag}: NAME" for tag in sorted(shown, key=int)[:3]) + ", ...}"
        logger.warning(
            "Task %s: its tags are numbers without names (%s) and are scored as labels of words, by macro F1 first."
            " `tasks.%s.labels: %s` names them; with names as O, B-PER and I-PER they are scored as spans.",
            task.name, ", ".join(sorted(shown, key=int)), task.name, names,
        )  # fmt: skip
    elif {"O", "o"} & counts.keys():
        names = ", ".join(f"{tag}: {'O' if tag in 'Oo' else f'I-{tag}'}" for tag in shown)
        logger.warning(
            "Task %s: its tags (%s) are scored as labels of words, not as spans. If words outside of spans are O and"
            " the others types of spans, set `tasks.%s.labels: {%s%s}`.",
            task.name, ", ".join(shown), task.name, names, ", ..." if len(counts) > 10 else "",
        )  # fmt: skip


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether all labels are whole numbers, so that they name nothing."""
    return all(re.fullmatch(r"-?\d+", label) for label in labels)


def _check_bio(task: TaskData, source: SourceData, split: str, *, may_grow: bool) -> None:
    """Find I- tags that continue nothing; repair or refuse them as the task says.

    A B- tag that only a repair makes joins the vocabulary where that `may_grow`; a trained model's may not.
    """
    strays = []
    for row, tags in enumerate(source.gold[split][task.name]):
        if tags is None:
            continue
        source.gold[split][task.name][row], where = to_bio(tags, BIO)
        strays += [(row, position, tags[position]) for position in where]
    _report_strays(task.name, task.config.bio, source, split, strays)
    if may_grow:
        needed = dict.fromkeys(f"B-{tag[2:]}" for _, _, tag in strays)
        task.labels += [tag for tag in needed if tag not in task.labels]


def _report_strays(
    name: str, choice: str, source: SourceData, split: str, strays: Sequence[tuple[int, int, Any]]
) -> None:
    """Refuse tags that should continue a span and do not, or warn that they begin one.

    Args:
        name: The task.
        choice: Its `bio`.
        source: The source.
        split: Its split.
        strays: (row, position, tag) of each of them.
    """
    if not strays:
        return
    row, position, tag = strays[0]
    where = f"{source.where(split, row)}, word {position + 1}: {tag}"
    kinds = "I- tags" if tag.startswith("I-") else "inner tags"
    if choice == "refuse":
        raise ValueError(
            f"`tasks.{name}`: {len(strays)} {kinds} continue nothing (the first: {where}); mend them, or set"
            " `bio: repair` to read them as B-."
        )
    logger.warning("Task %s: %d %s of %s %s continue nothing and are read as B- (the first: %s).",
                   name, len(strays), kinds, source.name, split, where)  # fmt: skip


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
