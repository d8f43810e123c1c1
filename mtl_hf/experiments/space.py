"""A search's file, and what it may change: settings with a range or a choice each. No torch, no Optuna.

Notable: a choice is kept as the text of its overrides, since a study holds plain values only; so a trial is given just
what a person would write on the command line.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import flow, nearest, option, parse_yaml, plain

# Expression → whether it takes whole numbers only, and whether equal ratios are equally likely.
RANGES = {"uniform": (False, False), "loguniform": (False, True), "int": (True, False), "logint": (True, True)}
CHOICE = "choice"
TRIALS = 20
_EXPRESSION = re.compile(r"\s*([A-Za-z_]+)\s*\((.*)\)\s*", re.DOTALL)
_FORMS = "uniform(0, 0.3), loguniform(1e-5, 1e-3), int(1, 4), logint(16, 256) or choice(16, 32, 64)"


@dataclass(kw_only=True)
class Search:
    """A search's file."""

    config: str = option("a run's YAML, relative to this file")
    overrides: list[str] = option("a.b=c changes for every trial, and so for the best config", [])
    space: dict[str, Any] = option(
        "what trials differ in: setting -> uniform(a, b), loguniform(a, b), int(a, b), logint(a, b) or choice(a, b,"
        " ...); or any name -> {name: list of overrides}, for settings that belong together"
    )
    trials: int | None = option(
        f"trials in all, of all processes and calls (default: {TRIALS}; of a grid all its points)", None
    )
    sampler: Literal["tpe", "random", "grid"] = option(
        "how values are chosen: tpe, after 10 random trials, near those of good ones; random; grid, all of them", "tpe"
    )
    seed: int = option("of the sampler (training.seed is a setting of the config, the same for all trials)", 13)
    prune: bool = option(
        "stop a trial whose best score so far is below the median that complete trials had after as many evaluations;"
        " from the second evaluation on, and once five trials are complete",
        True,
    )


@dataclass(frozen=True)
class Dimension:
    """One thing that trials differ in.

    Attributes:
        name: The setting, such as `training.learning_rate`; of named lists of overrides any name.
        low: The least value of a range.
        high: The greatest one.
        whole: Whether a range has whole numbers only.
        log: Whether equal ratios of a range are equally likely.
        choices: What can be chosen → its overrides; empty for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def suggest(self, trial: Any) -> Any:
        """A trial's value: a number, or a key of `choices`."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def overrides(self, value: Any) -> list[str]:
        """What a value changes, as `a.b=c`."""
        return list(self.choices[value]) if self.choices else [f"{self.name}={value!r}"]

    @property
    def keys(self) -> set[str]:
        """The settings that some value changes."""
        texts = [text for given in self.choices.values() for text in given] or [self.name]
        return {text.partition("=")[0].strip() for text in texts}

    @property
    def ends(self) -> list[Any]:
        """Values to check before a search begins: all choices, or both ends of a range."""
        if self.choices:
            return list(self.choices)
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]

    def points(self) -> list[Any]:
        """All values, for a grid.

        Raises:
            ValueError: There are no end of them.
        """
        if not self.choices and not self.whole:
            raise ValueError(
                f"`space.{self.name}` is a range without steps, which a grid cannot visit: name values of it, as in"
                f" choice({self.low!r}, {self.high!r}), or use another `sampler`."
            )
        return list(self.choices) or list(range(int(self.low), int(self.high) + 1))


def read_space(declared: Mapping[str, Any]) -> list[Dimension]:
    """The `space` of a search's file.

    Args:
        declared: Setting → expression, or any name → {name: list of overrides}.

    Raises:
        ValueError: Nothing is declared, an expression cannot be read, or a setting is searched twice.
    """
    if not declared:
        raise ValueError(f"`space` is empty; it says what trials differ in: setting -> {_FORMS}.")
    space = [_read_dimension(name, value) for name, value in declared.items()]
    for place, one in enumerate(space):
        for other in space[:place]:
            if both := one.keys & other.keys:
                raise ValueError(
                    f"`space.{one.name}` and `space.{other.name}` both set {sorted(both)[0]}: leave it to one of them."
                )
    return space


def show_declared(value: Any) -> str:
    """A value of a `space` that can be read, in a line."""
    if not isinstance(value, Mapping):
        return str(value)
    return "; ".join(f"{label}: {' '.join(texts) or 'the config as it is'}" for label, texts in value.items())


def _read_dimension(name: str, value: Any) -> Dimension:
    where = f"space.{name}"
    if isinstance(value, Mapping):
        return _read_sets(name, value)
    match = _EXPRESSION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(
            f"`{where}` is {value!r}; it should be {_FORMS}, in quotes where it has `: ` or, within"
            " braces, a comma; or a mapping from names to lists of overrides."
        )
    kind = match[1]
    if kind != CHOICE and kind not in RANGES:
        raise ValueError(f"`{where}`: there is no {kind}(...).{nearest(kind, [*RANGES, CHOICE])} Valid are {_FORMS}.")
    given = parse_yaml(f"[{match[2]}]", f"`{where}`")
    if kind == CHOICE:
        return _read_choice(name, given)
    whole, log = RANGES[kind]
    ends = [plain(item) for item in given]
    if len(ends) != 2 or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ValueError(f"`{where}` is {value}; {kind} takes two numbers, the least and the greatest.")
    low, high = ends
    if not low < high or abs(low) == float("inf") or high == float("inf"):
        raise ValueError(f"`{where}` is {value}; the first number is less than the second, and both are finite.")
    if whole and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"`{where}` is {value}; {kind} takes whole numbers.")
    if log and low <= 0:
        raise ValueError(f"`{where}` is {value}; {kind} goes by ratios, so it begins above 0.")
    return Dimension(name, float(low), float(high), whole, log)


def _read_choice(name: str, given: Sequence[Any]) -> Dimension:
    texts = [flow(item) for item in given]
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise ValueError(
            f"`space.{name}` is choice({', '.join(texts)}); it takes two values or more, and none of them twice."
        )
    return Dimension(name, choices={text: [f"{name}={text}"] for text in texts})


def _read_sets(name: str, given: Mapping[str, Any]) -> Dimension:
    sets: dict[str, list[str]] = {}
    for label, texts in given.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
            raise ValueError(
                f"`space.{name}.{label}` should be a list of overrides, such as [training.policy=round_robin]; [] is"
                " the config as it is."
            )
        sets[str(label)] = texts
    if len(sets) < 2 or not any(sets.values()):
        raise ValueError(f"`space.{name}` has {', '.join(sets) or 'nothing'}; it needs two lists of overrides or more.")
    return Dimension(name, choices=sets)
