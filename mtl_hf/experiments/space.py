"""The fields of a search, and its space: settings with a range or choices. Imports neither torch nor Optuna.

Notable: a choice is stored as the text of its overrides, because a study stores only plain values; a trial gets exactly
the overrides that one would write on the command line.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import flow, nearest, option, parse_yaml, plain

# Expression → whether it has integer values only, and whether its scale is logarithmic.
RANGES = {"uniform": (False, False), "loguniform": (False, True), "int": (True, False), "logint": (True, True)}
CHOICE = "choice"
TRIALS = 20
_EXPRESSION = re.compile(r"\s*([A-Za-z_]+)\s*\((.*)\)\s*", re.DOTALL)
_FORMS = "uniform(0, 0.3), loguniform(1e-5, 1e-3), int(1, 4), logint(16, 256) or choice(16, 32, 64)"


@dataclass(kw_only=True)
class Search:
    """The YAML of a search."""

    config: str = option("a run's YAML, relative to this file")
    overrides: list[str] = option("a.b=c changes for every trial and the best config", [])
    space: dict[str, Any] = option(
        "settings to search: setting -> uniform(a, b), loguniform(a, b), int(a, b), logint(a, b) or choice(a, b, ...);"
        " or any name -> {name: list of overrides}, to change several settings together"
    )
    trials: int | None = option(
        f"total number of trials, over all processes and calls (default: {TRIALS}; grid: all points)", None
    )
    sampler: Literal["tpe", "random", "grid"] = option(
        "tpe: 10 random trials, then values near those of good trials · random · grid: all combinations", "tpe"
    )
    seed: int = option("seed of the sampler (all trials use the config's training.seed)", 13)
    prune: bool = option(
        "stop a trial early if its best score so far is below the median of the complete trials at the same evaluation"
        " (from the second evaluation on, once five trials are complete)",
        True,
    )


@dataclass(frozen=True)
class Dimension:
    """One dimension of the search space.

    Attributes:
        name: The setting, such as `training.learning_rate`; any name for named lists of overrides.
        low: Minimum of a range.
        high: Maximum of a range.
        whole: Whether a range has integer values only.
        log: Whether a range has a logarithmic scale.
        choices: Choice → its overrides; empty for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def suggest(self, trial: Any) -> Any:
        """Suggest a trial's value: a number, or a key of `choices`."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def overrides(self, value: Any) -> list[str]:
        """The overrides (`a.b=c`) of a value."""
        return list(self.choices[value]) if self.choices else [f"{self.name}={value!r}"]

    @property
    def keys(self) -> set[str]:
        """All settings that a value of this dimension can change."""
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
            ValueError: The range is continuous.
        """
        if not self.choices and not self.whole:
            raise ValueError(
                f"`space.{self.name}` is a continuous range, which a grid cannot search: list values, such as"
                f" choice({self.low!r}, {self.high!r}), or use another `sampler`."
            )
        return list(self.choices) or list(range(int(self.low), int(self.high) + 1))


def read_space(declared: Mapping[str, Any]) -> list[Dimension]:
    """Parse the `space` of a search.

    Args:
        declared: Setting → expression, or any name → {name: list of overrides}.

    Raises:
        ValueError: Nothing is declared, an expression cannot be read, or a setting is searched twice.
    """
    if not declared:
        raise ValueError(f"`space` is empty; add settings to search: setting -> {_FORMS}.")
    space = [_read_dimension(name, value) for name, value in declared.items()]
    for place, one in enumerate(space):
        for other in space[:place]:
            if both := one.keys & other.keys:
                raise ValueError(
                    f"`space.{one.name}` and `space.{other.name}` both set {sorted(both)[0]}: remove it from one."
                )
    return space


def show_declared(value: Any) -> str:
    """Format a valid value of a `space` on one line."""
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
            f"`{where}` is {value!r}; it should be {_FORMS} (in quotes if it has `: ` or, within"
            " braces, a comma), or a mapping from names to lists of overrides."
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
        raise ValueError(f"`{where}` is {value}; {kind} takes two numbers, minimum and maximum.")
    low, high = ends
    if not low < high or abs(low) == float("inf") or high == float("inf"):
        raise ValueError(f"`{where}` is {value}; the first number is less than the second, and both are finite.")
    if whole and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"`{where}` is {value}; {kind} takes integers.")
    if log and low <= 0:
        raise ValueError(f"`{where}` is {value}; {kind} has a logarithmic scale, so its minimum is above 0.")
    return Dimension(name, float(low), float(high), whole, log)


def _read_choice(name: str, given: Sequence[Any]) -> Dimension:
    texts = [flow(item) for item in given]
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise ValueError(f"`space.{name}` is choice({', '.join(texts)}); it needs at least two values, all different.")
    return Dimension(name, choices={text: [f"{name}={text}"] for text in texts})


def _read_sets(name: str, given: Mapping[str, Any]) -> Dimension:
    sets: dict[str, list[str]] = {}
    for label, texts in given.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
            raise ValueError(
                f"`space.{name}.{label}` should be a list of overrides, such as [training.policy=round_robin]; [] keeps"
                " the config unchanged."
            )
        sets[str(label)] = texts
    if len(sets) < 2 or not any(sets.values()):
        raise ValueError(
            f"`space.{name}` has {', '.join(sets) or 'nothing'}; it needs at least two lists of overrides."
        )
    return Dimension(name, choices=sets)
