"""Findings of checks: errors, which stop a run, and warnings, which are logged.

Notable: all errors are raised together, one per line.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger(__name__)

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Finding:
    """A finding of a check.

    Attributes:
        level: Level of `logging`; ERROR stops a run.
        where: Where it was found: a key of the config, or a source and its split.
        message: What is wrong. If it does not begin with `where`, that is put before it.
        remedy: What is valid, or what to do; may be empty.
        rows: The rows concerned, from 0, in the split as it was loaded.
    """

    level: int
    where: str
    message: str
    remedy: str = ""
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        text = self.message if self.message.startswith(self.where) else f"{self.where}: {self.message}"
        return (f"{text}: {self.remedy}" if self.remedy else text).removesuffix(".") + "."


def report(findings: Iterable[Finding]) -> None:
    """Log findings that are not errors, then raise all errors together.

    Raises:
        ValueError: There are errors. The message has one per line.
    """
    errors = []
    for finding in findings:
        if finding.level >= logging.ERROR:
            errors.append(ValueError(str(finding)))
        else:
            logger.log(finding.level, "%s", finding)
    _raise_all(errors)


def for_each(items: Iterable[_Key], work: Callable[[_Key], _Result]) -> dict[_Key, _Result]:
    """Call a function with each item, and continue with the other items after a `ValueError`.

    Returns:
        Item → result.

    Raises:
        ValueError: The function raised it. The message has the messages of all items, one per line.
    """
    results: dict[_Key, _Result] = {}
    errors = []
    for item in items:
        try:
            results[item] = work(item)
        except ValueError as error:
            errors.append(error)
    _raise_all(errors)
    return results


def _raise_all(errors: list[ValueError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ValueError("\n".join(dict.fromkeys(map(str, errors)))) from errors[0]
