"""Labels that are names: reading them from a column, and the vocabulary.

Notable: labels become *names* (strings) as soon as they are read, and ids exist only in encoded rows. So scores compare
predictions with the labels in the data, also with labels that are not in the training data.
"""

import collections
import logging
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import Task
from .arrow_columns import feature_of, values_of
from .label_text import find_name
from .name_column import NameColumn
from .source_data import SourceData
from .task_type import TASK_TYPES, TaskData, training_labels

logger = logging.getLogger(__name__)


def no_label(name: str, spec: Task, source: SourceData, split: str, row: int, found: Any, hint: str = "") -> ValueError:
    """The error for a value that is not a label of the task's type."""
    if source.untyped and re.fullmatch(r"-?[0-9]+,[0-9]+", str(found)):
        hint = ' `decimal: ","` of the source reads numbers with a decimal comma.' + hint
    return ValueError(
        f"`tasks.{name}`: {source.where(split, row)} has {found!r} in the column {spec.column!r}; {spec.type}"
        f" takes {TASK_TYPES[spec.type].label}.{hint}"
    )


def name_reader(
    name: str, spec: Task, source: SourceData, split: str, hint: Callable[[Any], str] = lambda found: ""
) -> Callable[[Any, int], str | None]:
    """A function (value of a label column, row) → name of the label, None for a missing label.

    Args:
        name: Name of the task.
        spec: Its section of the config.
        source: The source.
        split: The split.
        hint: Value that is not a label → hint for the error message.
    """
    class_label = find_class_label(feature_of(source.splits[split], str(spec.column)))
    renamed = spec.labels if isinstance(spec.labels, dict) else None

    def to_name(value: Any, row: int) -> str | None:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return None
        if class_label is not None:
            return None if value == -1 else str(class_label.int2str(value))
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, float) and value.is_integer():  # a whole number in a CSV column with empty cells
            value = int(value)
        if not isinstance(value, str | int):
            raise no_label(name, spec, source, split, row, value, hint(value))
        if renamed is None:
            return str(value)
        value = find_name(value, renamed)
        if str(value) not in renamed:
            raise ValueError(
                f"`tasks.{name}.labels` has no name for {value!r} ({source.where(split, row)}); it has names for"
                f" {', '.join(renamed)}."
            )
        return renamed[str(value)]

    return to_name


def label_column(
    name: str,
    spec: Task,
    source: SourceData,
    split: str,
    *,
    lists: bool,
    hint: Callable[[Any], str] = lambda found: "",
    read: Sequence[Any] | None = None,
) -> NameColumn:
    """Read the values of a label column, or of the lists in it, without changing them.

    Args:
        name: Name of the task.
        spec: Its section of the config.
        source: The source.
        split: The split.
        lists: Whether rows hold lists.
        hint: Value that is not a label → hint for the error message.
        read: The values, if they were read from text.

    Raises:
        ValueError: A row has a list but `lists` is false or the other way round, or a value is not a plain one.
    """
    rows = source.splits[split]
    if read is None and (column := NameColumn.read(rows, str(spec.column), lists=lists)) is not None:
        return column
    values = values_of(rows, str(spec.column)) if read is None else read
    for row, value in enumerate(values):
        if value is not None and isinstance(value, list) != lists:
            raise no_label(name, spec, source, split, row, value, hint(value))
        for item in (value or ()) if lists else (value,):
            if not isinstance(item, Hashable):
                raise no_label(name, spec, source, split, row, item, hint(item))
    return NameColumn.of(values if lists else [[value] for value in values])


def declared_labels(spec: Task) -> list[str] | None:
    """The labels that a config declares, in its order: with several label columns, these; None if it declares none."""
    if isinstance(spec.label, list):
        return list(spec.label)
    if not spec.labels:
        return None
    return list(dict.fromkeys(spec.labels.values() if isinstance(spec.labels, dict) else spec.labels))


def feature_names(source: SourceData, column: str | list[str] | None) -> list[str]:
    """The label names in the `ClassLabel` features of a source's label column; none for several columns."""
    if isinstance(column, list):
        return []
    found = [find_class_label(feature_of(rows, str(column))) for rows in source.splits.values()]
    return list(dict.fromkeys(name for class_label in found if class_label is not None for name in class_label.names))


def find_class_label(feature: Any) -> Any:
    """The `ClassLabel` of a feature or of the items of a list feature; None for other features."""
    return next((item for item in (feature, getattr(feature, "feature", None)) if hasattr(item, "int2str")), None)


def vocabulary(
    name: str, spec: Task, sources: Sequence[SourceData], declared: list[str] | None, features: Sequence[str]
) -> list[str]:
    """The labels of a task in the order of its logits: those declared in the config, else of features and rows.

    Args:
        name: Name of the task.
        spec: Its section of the config.
        sources: Its sources; their `gold` has its labels.
        declared: Result of `declared_labels`.
        features: Label names in the features of its label column.

    Raises:
        ValueError: No training row has a label, or one has a label that is not declared.
    """
    found = set().union(*map(label_names, training_labels(name, sources)))
    if not found:  # no labels, or only empty lists
        for source in sources:
            if "train" not in source.splits:
                raise ValueError(f"`sources.{source.name}` has no training rows; it has {', '.join(source.splits)}.")
        raise ValueError(f"`tasks.{name}`: no training row has a label in {spec.label_place}.")
    if declared is None:
        # 01 and 1 are equal as numbers: without the inner sort their order would differ between processes.
        order: Any = int if are_numbers(found) else _tag_order
        return list(dict.fromkeys([*features, *sorted(sorted(found), key=order)]))
    if missing := sorted(found - set(declared)):
        pairs = ", ".join(f"{number}: {label}" for number, label in enumerate(declared[:3]))
        hint = f" To name numbers, write a mapping: `labels: {{{pairs}, ...}}`." if are_numbers(missing) else ""
        raise ValueError(f"`tasks.{name}.labels` does not have {', '.join(map(repr, missing))}, which occurs in the"
                         f" training rows.{hint}")  # fmt: skip
    return declared


def report_unknown(task: TaskData, sources: Sequence[SourceData]) -> None:
    """Warn about labels that are not in the vocabulary, for each split."""
    known = set(task.labels)
    for source in sources:
        for split in source.splits:
            unknown = collections.Counter(
                {tag: count for tag, count in count_names(source.gold[split][task.name]).items() if tag not in known}
            )
            if unknown:
                shown = ", ".join(f"{tag} ({count})" for tag, count in unknown.most_common(10))
                logger.warning("Task %s: %s %s has labels that do not occur in training; they count as errors: %s.",
                               task.name, source.name, split, shown)  # fmt: skip


def report_unnamed(task: str, labels: Sequence[str]) -> None:
    """Warn if all labels are numbers, which predictions then show instead of names. Codes such as `007` are names."""
    if labels and all(re.fullmatch(r"-?(0|[1-9]\d*)", label) for label in labels):
        logger.warning(
            "Task %s: its labels are numbers without names (%s). `tasks.%s.labels: {%s}` names them.",
            task, ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else ""), task,
            ", ".join(f"{label}: NAME" for label in labels[:3]) + (", ..." if len(labels) > 3 else ""),
        )  # fmt: skip


def use_known_names(name: str, sources: Sequence[SourceData], names: Sequence[str] | None) -> None:
    """Unify labels that files write differently (`1.0` and `1`, `TRUE` and `True`), in place.

    Args:
        name: Name of the task.
        sources: Its sources, with its labels.
        names: Label names of the config or of a trained model; None for those of the training rows of this source and
            the sources before it.
    """
    known = dict.fromkeys(names or ())
    training = [(source, "train") for source in sources if "train" in source.splits]
    others = [(source, split) for source in sources for split in source.splits if split != "train"]
    for source, split in [*training, *others]:
        labels = source.gold[split][name]
        found = {label: find_name(label, known) for label in count_names(labels)}
        if changed := {label: other for label, other in found.items() if label != other}:
            source.gold[split][name] = [changed.get(label, label) for label in labels]
            shown = ", ".join(f"{label} as {other}" for label, other in sorted(changed.items())[:5])
            logger.info("Task %s: labels of %s %s are read under another name: %s.",
                        name, source.name, split, shown)  # fmt: skip
        if names is None and split == "train":
            known |= dict.fromkeys(found.values())


def label_names(labels: Iterable[Any]) -> set[str]:
    """The distinct names in labels that are strings or lists of strings."""
    return set(count_names(labels))


def count_names(labels: Iterable[Any]) -> Mapping[str, int]:
    """Name → number of occurrences in labels, in the order of first occurrence."""
    if isinstance(labels, NameColumn):
        return labels.counts()
    labels = list(labels)
    try:
        counts = collections.Counter(labels)
    except TypeError:  # lists
        return NameColumn.of(labels).counts()
    del counts[None]
    return counts


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether all labels are whole numbers, and so are no meaningful names."""
    return all(re.fullmatch(r"-?\d+", label) for label in labels)


def _tag_order(label: str) -> tuple[bool, str, str]:
    """O first, then B- and I- of each type together; other labels by name."""
    return (label != "O", label[2:], label[:2]) if label[1:2] == "-" else (label != "O", label, "")


def listed(labels: Sequence[str], code: Callable[[str], str]) -> str:
    """A list of labels for the model card, at most 50."""
    shown = ", ".join(map(code, labels[:50]))
    return shown + (f" and {len(labels) - 50} more" if len(labels) > 50 else "")


def most_common(found: Iterable[Any]) -> Any:
    """The most frequent value."""
    return collections.Counter(found).most_common(1)[0][0]


def mapping_or_empty(spec: Task) -> Mapping[str, str]:
    """The mapping from values of the label column to names in the config, or an empty one."""
    return spec.labels if isinstance(spec.labels, dict) else {}
