"""Clean up label text: spaces around labels, numbers as text, names that differ only in case.

Notable: codes are not changed (`007`, `1.10`, `+1`), and a warning counts the labels that are.
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
    """Strip the spaces around labels that are text. A label of only spaces becomes None.

    Args:
        task: Name of the task, for messages.
        values: Its label column.
        where: Row → its description in messages.
        names: Labels that are not changed, such as an empty one that the config maps to a name.
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
    """Warn about labels that differ only in case: they are different labels, which is rarely intended."""
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for label in sorted(set(labels)):
        groups[label.casefold()].append(label)
    if similar := [group for group in groups.values() if len(group) > 1]:
        logger.warning(
            "Task %s: labels that differ only in case are different labels: %s. To merge them, map them to one name in"
            " `tasks.%s.labels`.",
            task, "; ".join(" / ".join(group) for group in similar[:5]), task,
        )  # fmt: skip


def as_number(value: Any) -> Any:
    """Convert a label that is a number written as text to this number; return any other value unchanged."""
    if not isinstance(value, str) or "_" in value:
        return value
    try:
        return float(value)
    except ValueError:
        return value


def find_name(value: Any, names: Collection[str] | Mapping[str, str]) -> Any:
    """The name in `names` that a label of a file stands for, or the unchanged label if there is none.

    Booleans match in any case, and whole numbers with and without `.0` (pandas writes `1.0` if the column has empty
    cells), unless `names` has both.
    """
    if not isinstance(value, str) or value in names:
        return value
    plain = _plain(value)
    alike = [name for name in names if _plain(name) == plain]
    return alike[0] if len(alike) == 1 else plain if plain in names else value


def _plain(label: str) -> str:
    """A label with booleans and whole numbers written as in JSON."""
    if label.lower() in ("true", "false"):
        return label.lower()
    found = _ZEROS.fullmatch(label)
    return found[1] if found else label
