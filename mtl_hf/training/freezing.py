"""Freeze parts of a model by name. Frozen parameters get no gradient and are in no optimiser group."""

import re
from collections.abc import Iterable

from ..config import nearest
from .optimizer import Part


def freeze(parts: Iterable[Part], patterns: Iterable[str], only_scored: Iterable[str] = ()) -> list[str]:
    """Freeze the parts that the patterns name, in place.

    Args:
        parts: As `find_parts` returns them.
        patterns: `embeddings`, `encoder` (all of it, embeddings too), `encoder.layers.<k>`, `encoder.layers.<a>-<b>`
            (from 0, both ends in), `encoder.top`, `adapters` (all of them), `adapters.<task>`, `heads.<task>`.
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
        matched = [part for part in parts if _matches(pattern, part.name)]
        if not matched:
            names = ["encoder", *(part.name for part in parts)]
            raise ValueError(
                f"`freeze`: {pattern!r} matches no part.{nearest(pattern, names)} The parts are: {', '.join(names)}."
            )
        for part in matched:
            frozen.add(part.name)
            for parameter in part.parameters.values():
                parameter.requires_grad_(False)
    if all(part.frozen for part in parts):
        raise ValueError(
            "`freeze` leaves nothing to train: use `mtl-hf embed` for the features of a frozen encoder, or"
            " `mtl-hf evaluate` to score a model as it is."
        )
    return [part.name for part in parts if part.name in frozen]


def _matches(pattern: str, name: str) -> bool:
    if pattern == "encoder":
        return not name.startswith(("heads.", "adapters"))
    if pattern == "adapters":
        return name.startswith(pattern)
    if span := re.fullmatch(r"encoder\.layers\.(\d+)-(\d+)", pattern):
        layer = re.fullmatch(r"encoder\.layers\.(\d+)", name)
        return layer is not None and int(span[1]) <= int(layer[1]) <= int(span[2])
    return pattern == name
