"""Choose a method by the name of its class in torchjd, with or without options: `UPGrad`, `{type: CAGrad, c: 0.5}`.

torchjd is the extra `balancing`, imported only if a setting names one of its classes.
"""

import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..config import nearest

# Arguments of classes that are set here, or that a config cannot express.
_NO_OPTIONS = ("shape", "projector", "f", "leak", "pref_vector")


def read_choice(setting: str, value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of a method.

    Args:
        setting: Name of the setting, for messages.
        value: A name, or a mapping with the name as `type` and its options.

    Raises:
        ValueError: A mapping without `type`.
    """
    if isinstance(value, str):
        return value, {}
    options = dict(value)
    name = options.pop("type", None)
    if not isinstance(name, str):
        raise ValueError(f"`{setting}` is a mapping without `type`; write {{type: NAME, option: value}}.")
    return name, options


def find_class(
    setting: str, name: str, module: str, base: str, refused: Mapping[str, str], own: tuple[str, ...] = ()
) -> Any:
    """Find a class of torchjd by its name.

    Args:
        setting: Name of the setting, for messages.
        name: Name of the class.
        module: `scalarization` or `aggregation`.
        base: Name of its base class.
        refused: Class → why it cannot be used here.
        own: Other valid names, for messages.

    Raises:
        ValueError: torchjd is not installed, has no such class, or the class is one of those refused.
    """
    try:
        found = importlib.import_module(f"torchjd.{module}")
    except ImportError as error:
        raise ValueError(f"`{setting}` {name!r} needs torchjd: pip install 'mtl_hf[balancing]'") from error
    if name in refused:
        raise ValueError(f"`{setting}` is {name!r}, which cannot be used here: {refused[name]}.")
    kind = getattr(found, base)
    classes = {item: getattr(found, item) for item in found.__all__}
    valid = [
        item
        for item, one in classes.items()
        if issubclass(one, kind) and not inspect.isabstract(one) and not item.endswith(base) and item not in refused
    ]
    if name not in valid:
        names = [*own, *valid]
        raise ValueError(f"`{setting}` is {name!r}.{nearest(name, names)} Valid are: {', '.join(names)}.")
    return classes[name]


def make(setting: str, kind: Any, options: Mapping[str, Any], besides: Sequence[str] = ()) -> Any:
    """Create an instance of a class of torchjd; a list of numbers becomes a tensor.

    Args:
        setting: Name of the setting, for messages.
        kind: The class.
        options: Options of the class.
        besides: Our own options beside them, for messages.

    Raises:
        ValueError: The class does not accept these options, lacks one, or needs a package that is not installed; an
            option is not finite.
    """
    for key, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{setting}.{key}` is {value}; it is a finite number.")
    given = {
        key: torch.tensor(value, dtype=torch.get_default_dtype()) if isinstance(value, list) else value
        for key, value in options.items()
    }
    try:
        inspect.signature(kind).bind(**given)
        return kind(**given)
    except ImportError as error:  # its message names the package to install
        raise ValueError(f"`{setting}`: {error}") from error
    except (TypeError, ValueError) as error:
        names = [*(key for key in inspect.signature(kind).parameters if key not in _NO_OPTIONS), *besides]
        known = (
            f"Set its options as {{type: {kind.__name__}, option: value}}; they are {', '.join(names)}."
            if names
            else "It has no options."
        )
        raise ValueError(f"`{setting}`: {kind.__name__}: {error}. {known}") from error
