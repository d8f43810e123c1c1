"""Freeze parts of a model by name. Frozen parameters get no gradient and are in no optimiser group."""

from collections.abc import Iterable

from .optimizer import Part, matching


def freeze(parts: Iterable[Part], patterns: Iterable[str], only_scored: Iterable[str] = ()) -> list[str]:
    """Freeze the parts that the patterns name, in place.

    Args:
        parts: As `find_parts` returns them.
        patterns: As `optimizer.matching` reads them.
        only_scored: Tasks with `train: false`, whose heads are frozen too.

    Returns:
        Names of the frozen parts.

    Raises:
        ValueError: A pattern that matches nothing, or nothing left to train.
    """
    parts = list(parts)
    patterns = [*patterns, *(part.name for part in parts if part.name in {f"heads.{name}" for name in only_scored})]
    frozen = set()
    for pattern in patterns:
        for part in matching(parts, pattern, "freeze"):
            frozen.add(part.name)
            for parameter in part.parameters.values():
                parameter.requires_grad_(False)
    if all(part.frozen for part in parts):
        raise ValueError(
            "`freeze` leaves nothing to train: use `mtl-hf embed` for the features of a frozen encoder, or"
            " `mtl-hf evaluate` to score a model as it is."
        )
    return [part.name for part in parts if part.name in frozen]
