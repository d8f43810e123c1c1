"""Labels as people write them: spaces around them, numbers as text, names that differ in case only.

Notable: codes stay codes (`007`, `1.10`, `+1`), and a warning counts the labels that are changed.
"""

import collections
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from .name_column import NameColumn

logger = logging.getLogger(__name__)

_ZEROS = re.compile(r"(-?\d+)\.0+")


def tidy_labels(task: str, values: NameColumn, where: Callable[[int], str], names: Collection[str] = ()) -> NameColumn:
    """Strip the spaces around labels that are text. A label without any other character is None.

    Args:
        task: Name of the task, for messages.
        values: Its label column.
        where: Row → how messages name it.
        names: Labels that stay as they are, such as an empty one that the config gives a name.
    """
    found = [value for value in values.counts() if isinstance(value, str) and value not in names]
    stripped = values.items_with(value for value in found if value != value.strip())
    empty = values.items_with(value for value in found if not value)
    if len(stripped):
        row, position = values.place(stripped[0])
        logger.warning("Task %s: the spaces around %d labels are removed (the first: %r in %s).",
                       task, len(stripped), values[row][position], where(row))  # fmt: skip
    if len(empty):
        logger.warning("Task %s: %d labels are empty text and count as missing (the first: %s).",
                       task, len(empty), where(values.place(empty[0])[0]))  # fmt: skip
    if not len(stripped) and not len(empty):
        return values
    tidied = {value: value.strip() or None for value in found}
    return values.rename(lambda value, row: tidied.get(value, value) if isinstance(value, str) else value)


def report_similar_labels(task: str, labels: Iterable[str]) -> None:
    """Warn of labels that differ in case only: they are learned as different ones, which is seldom meant."""
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for label in sorted(set(labels)):
        groups[label.casefold()].append(label)
    if similar := [group for group in groups.values() if len(group) > 1]:
        logger.warning(
            "Task %s: labels that differ in case only are different labels: %s. `tasks.%s.labels` can map them to one"
            " name.",
            task, "; ".join(" / ".join(group) for group in similar[:5]), task,
        )  # fmt: skip


def as_number(value: Any) -> Any:
    """A label of a task that takes numbers: the number that a text holds, anything else as it is."""
    if not isinstance(value, str) or "_" in value:
        return value
    try:
        return float(value)
    except ValueError:
        return value


def find_name(value: Any, names: Collection[str] | Mapping[str, str]) -> Any:
    """The name among `names` that a label written in a file stands for, or the label as it is.

    Truth values in any case are the same one, and so are whole numbers with and without zeros after the point (pandas
    writes `1.0` where a cell of the column is empty), unless `names` tell them apart.
    """
    if not isinstance(value, str) or value in names:
        return value
    plain = _plain(value)
    alike = [name for name in names if _plain(name) == plain]
    return alike[0] if len(alike) == 1 else plain if plain in names else value


def _plain(label: str) -> str:
    """A label in the form in which JSON writes truth values and whole numbers."""
    if label.lower() in ("true", "false"):
        return label.lower()
    found = _ZEROS.fullmatch(label)
    return found[1] if found else label
