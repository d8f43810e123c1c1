"""How many inputs of each kind are tried, and what an answer to one may be."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

DEADLINE = 10_000  # milliseconds that one of many inputs may take, in the slow part
_NAMED = re.compile(r"`[^`]*`|\b(row|line|text|word) \d|\.(csv|tsv|jsonl|json|parquet|conll|gz|safetensors)\b")


@pytest.fixture(autouse=True)
def _all_floats() -> None:
    """A run on a CPU takes denormal numbers for zeros from then on, and hypothesis draws these too."""
    torch.set_flush_denormal(False)


def inputs(quick: int, slow: int) -> Any:
    """Parametrize a test by its number of inputs: some, the same in each run of the tests; many in the slow part."""
    many = pytest.param(slow, marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id="many")
    return pytest.mark.parametrize("number", [pytest.param(quick, id="some"), many])


def try_all(number: int, strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check a property on inputs that a strategy draws; the least that fails is shown."""
    quick = number < 100
    chosen = settings(
        max_examples=number,
        deadline=None if quick else DEADLINE,
        derandomize=quick,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(strategy)(lambda drawn: check(drawn)))()


def attempt(function: Callable[[], Any]) -> tuple[Any, str]:
    """What a function returns and no message; or, where it refuses with a `ValueError`, nothing and its message."""
    try:
        return function(), ""
    except ValueError as error:
        return None, str(error) or "an empty message"


def names_its_place(message: str) -> bool:
    """Whether a message to a user names a file, a row or a key, in a length that someone reads."""
    return bool(_NAMED.search(message)) and "Traceback" not in message and len(message) < 3000


@contextmanager
def lines_of_log() -> Iterator[list[str]]:
    """What the package logs inside."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("mtl_hf")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
