"""What checks find: errors, which stop a run, and warnings, which are logged.

Notable: a run is stopped once, with all errors that were found, one a line.
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
    """Something that a check found.

    Attributes:
        level: As of `logging`: ERROR stops a run.
        where: What it was found in: a key of the config, or a source and its split.
        message: What is wrong. It may begin with `where`, which otherwise is put before it.
        remedy: What would be right, or what to do; may be empty.
        rows: The rows that it is about, from 0, in the split as it was loaded.
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
    """Log the findings that are no errors as they come, then raise all errors at once.

    Raises:
        ValueError: There are errors; one line each.
    """
    errors = []
    for finding in findings:
        if finding.level >= logging.ERROR:
            errors.append(ValueError(str(finding)))
        else:
            logger.log(finding.level, "%s", finding)
    _raise_all(errors)


def for_each(items: Iterable[_Key], work: Callable[[_Key], _Result]) -> dict[_Key, _Result]:
    """Call a function with each of some items, also after one of them was refused.

    Returns:
        Item → result.

    Raises:
        ValueError: The function raised it; with the messages of all items, one a line.
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
