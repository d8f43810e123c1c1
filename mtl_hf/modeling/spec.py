"""The options of heads, as `config.json` stores them under `heads.<name>`. No torch.

Each head type has a dataclass of options, which checks itself: a subclass of `HeadSpec` in the file of its type.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class HeadSpec:
    """Options of a head: `to_dict()` is what `config.json` stores as `heads.<name>`.

    Attributes:
        type: Task type of the head.
        text: Form of the texts that it reads, one of `encoding.FORMS`.
        num_steps: Number of optimizer steps in which it had labels.
        adapter: Name of its adapter, if not the one of all heads.
        layers: `last` for the encoder's output, or `mix` for a learnt mix of all layers (`LayerMix`).
    """

    type: str
    text: str = "string"
    num_steps: int = 0
    adapter: str | None = None
    layers: str = "last"

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> typing.Self:
        """Read a specification. A key with the value None keeps its default.

        Raises:
            ValueError: An option is unknown, or a value has the wrong type.
        """
        values = {key: value for key, value in found.items() if value is not None}
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := [key for key in values if key not in known]:
            raise ValueError(
                f"a {found['type']} head does not take these options: {', '.join(unknown)}; valid are"
                f" {', '.join(sorted(known - {'type'}))}."
            )
        hints = typing.get_type_hints(cls)
        for key, value in values.items():
            _check_type(found["type"], key, value, hints[key])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain data, without values that are None."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(kw_only=True)
class LabelledSpec(HeadSpec):
    """A specification with a label vocabulary.

    Attributes:
        labels: Label names in the order of the logits.
        dropout: Dropout rate of the states.
        label_smoothing: Label smoothing of the loss.
    """

    labels: list[str] = dataclasses.field(default_factory=list)
    dropout: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError(f"a {self.type} head needs `labels`, a list of names.")


@dataclass(kw_only=True)
class PooledSpec(HeadSpec):
    """Options of a head that pools.

    Attributes:
        pooling: How the tokens of a segment are pooled; None for the pooling of the model.
        window_pooling: How the windows of a long text are pooled: `mean` or `attention`.
        dropout: Dropout rate of the pooled states.
    """

    pooling: str | None = None
    window_pooling: str = "mean"
    dropout: float = 0.1


@dataclass(kw_only=True)
class ImbalanceSpec(LabelledSpec):
    """A specification with a label vocabulary and the options of its loss.

    Attributes:
        class_weights: Weight of each label, at least 0; for several labels per text, that of its positives.
        focal_loss: Exponent gamma of the focal loss, at least 0; 0 is off.
        logit_adjustment: Factor tau of the logit adjustment, at least 0; 0 is off.
        label_priors: Share of each label in the training rows, above 0; needed for the logit adjustment.
    """

    class_weights: list[float] | None = None
    focal_loss: float = 0.0
    logit_adjustment: float = 0.0
    label_priors: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "class_weights")
        check_numbers(self, "label_priors", above=True, most=1.0)
        for key in ("focal_loss", "logit_adjustment"):
            if not 0 <= (value := getattr(self, key)) < math.inf:
                raise ValueError(f"a {self.type} head takes a finite number of at least 0 as `{key}`, not {value}.")
        if self.logit_adjustment and self.label_priors is None:
            raise ValueError(f"a {self.type} head with `logit_adjustment` needs `label_priors`, one for each label.")
        if self.focal_loss and self.label_smoothing:
            raise ValueError(f"a {self.type} head takes either `focal_loss` or `label_smoothing`, not both.")


def check_numbers(spec: LabelledSpec, key: str, above: bool = False, most: float = math.inf) -> None:
    """Raise `ValueError` unless an option is None, or a list with a finite number for each label.

    Args:
        spec: The specification.
        key: The option.
        above: Whether 0 is invalid.
        most: The largest valid number.
    """
    numbers = getattr(spec, key)
    if numbers is None:
        return
    if len(numbers) != len(spec.labels):
        raise ValueError(f"a {spec.type} head with {len(spec.labels)} labels has {len(numbers)} numbers in `{key}`.")
    for number in numbers:
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        if not plain or not 0 <= number <= most or not math.isfinite(number) or (above and number == 0):
            bounds = f"{'above' if above else 'at least'} 0" + (f" and at most {most:g}" if most < math.inf else "")
            raise ValueError(f"a {spec.type} head takes numbers {bounds} in `{key}`, not {number!r:.60}.")


def _check_type(kind: str, key: str, value: Any, hint: Any) -> None:
    """Raise `ValueError` if a value does not have the type of its field: a plain type, a list, or an optional one."""
    parts = [hint] if typing.get_origin(hint) is list else typing.get_args(hint) or [hint]
    accepted = tuple(typing.get_origin(part) or part for part in parts)
    accepted += (int,) if float in accepted else ()
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        names = " or ".join(one.__name__ for one in accepted if one is not type(None))
        raise ValueError(f"a {kind} head takes {names} as `{key}`, not {value!r:.60}.")
