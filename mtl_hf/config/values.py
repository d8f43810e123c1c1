"""Convert values of a config to the types of their fields, and raise errors for values that do not fit.

Notable: unquoted YAML scalars are kept as text (`Plain`) until the type of their field is known, so that `no`, `on`,
`012` and `5e-5` are converted to this type (YAML 1.1 would read false, true, 10 and a string). `training/arguments.py`
uses these functions for the fields of transformers' arguments.
"""

import dataclasses
import difflib
import enum
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal


class Plain(str):
    """The text of an unquoted YAML scalar, whose type is not known yet."""


TRUE, FALSE, NONE = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null", "none")


def typed(hint: Any, value: Any, path: str) -> Any:
    """Convert plain data, in which YAML scalars may be `Plain`, to a type.

    Args:
        hint: A type: dataclass, `Literal`, union, `list[...]`, `dict[str, ...]`, `int`, `float`, `bool`, `str`, `Any`.
        value: The value.
        path: Its key in the config, for messages.

    Raises:
        ValueError: The value does not fit the type, or a mapping has a key that the dataclass does not have.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _typed_dataclass(hint, value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return plain(value)
    if origin is typing.Annotated:
        return typed(args[0], value, path)
    if origin is Literal:
        if str(value) in args:
            return str(value)
        raise ValueError(f"`{path}` is {show(value)}; valid are {', '.join(map(str, args))}.")
    if origin in (types.UnionType, typing.Union):
        return _typed_union(args, value, path)
    if (origin or hint) in (list, Sequence, Iterable, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"`{path}` is {show(value)}; it should be a list.")
        items = [typed(args[0] if args else Any, item, f"{path}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if (origin or hint) is tuple else items
    if (origin or hint) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"`{path}` is {show(value)}; it should be a mapping.")
        inner = args[1] if args else Any
        named = {str(key).lower() if isinstance(key, bool) else str(key): item for key, item in value.items()}
        return {key: typed(inner, item, f"{path}.{key}" if path else key) for key, item in named.items()}
    return _typed_scalar(hint, value, path)


def _typed_dataclass(hint: Any, value: Any, path: str) -> Any:
    if isinstance(value, hint):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            f"`{path}` is {show(value)}; it should be a mapping with the keys of a {hint.__name__.lower()}."
        )
    hints = typing.get_type_hints(hint)
    names = {key_of(item): item.name for item in dataclasses.fields(hint) if item.init}
    check_keys(value, names, path)
    prefix = f"{path}." if path else ""
    for item in dataclasses.fields(hint):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and key_of(item) not in value:
            raise ValueError(f"`{prefix}{key_of(item)}` is missing: {item.metadata.get('help', 'it has no default')}.")
    return hint(**{names[key]: typed(hints[names[key]], item, f"{prefix}{key}") for key, item in value.items()})


def key_of(item: dataclasses.Field[Any]) -> str:
    """The key of a field in YAML: its name without the trailing `_` of names such as `from_`, a keyword in Python."""
    return item.name.removesuffix("_")


def check_keys(found: Iterable[str], known: Iterable[str], path: str) -> None:
    """Raise `ValueError` for the first unknown key, and suggest the nearest known one."""
    known = list(known)
    for key in found:
        if key not in known:
            where = f" in `{path}`" if path else ""
            shown = f" Known are: {', '.join(known)}." if len(known) <= 20 else ""
            raise ValueError(f"unknown key `{shorten(str(key))}`{where}.{nearest(key, known)}{shown}")


def _typed_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    """Convert to the first type that fits: None and containers by their form, then scalars from narrow to str."""
    nothing = NONE[:-1] if str in options else NONE  # `report_to: none` is a word
    if value is None or (isinstance(value, Plain) and str(value).lower() in nothing):
        if type(None) in options:
            return None
        raise ValueError(f"`{path}` is empty; it needs a value.")
    order = {bool: 0, int: 1, float: 2, str: 4}
    problems = []
    for member in sorted((item for item in options if item is not type(None)), key=lambda item: order.get(item, 3)):
        try:
            return typed(member, value, path)
        except ValueError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise ValueError(problems[0])
    wanted = " or ".join(_type_name(item) for item in options if item is not type(None))
    raise ValueError(f"`{path}` is {show(value)}; it should be {wanted}.")


def _typed_scalar(hint: Any, value: Any, path: str) -> Any:
    unquoted = isinstance(value, Plain)
    if hint is str:
        if isinstance(value, str) and not (unquoted and str(value).lower() in ("", "~")):
            return str(value)
    elif hint is bool:
        if isinstance(value, bool):
            return value
        if unquoted and str(value).lower() in TRUE + FALSE:
            return str(value).lower() in TRUE
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if unquoted and re.fullmatch(r"[-+]?[0-9][0-9_]*", value):
            if len(value) > 18:
                raise ValueError(f"`{path}` is {show(value)}; it should be a whole number of at most 18 digits.")
            return int(value)
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if unquoted and (number := _as_float(value)) is not None:
            return number
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    elif isinstance(hint, type) and isinstance(value, str):  # enumerations and the like, by their value
        try:
            return hint(str(value))
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{path}` is {show(value)}: {error}") from None
    raise ValueError(f"`{path}` is {show(value)}; it should be {_type_name(hint)}.")


def plain(value: Any) -> Any:
    """Plain data with every unquoted scalar converted as in YAML 1.2: null, true, false, numbers, else text.

    Members of enumerations become their values, and sections their fields that are not at their default.
    """
    if dataclasses.is_dataclass(value):
        return without_defaults(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if not isinstance(value, Plain):
        return value
    text = str(value)
    if text.lower() in ("", "~", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = _as_number(text)
    return text if number is None else number


def _as_number(text: str) -> int | float | None:
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text) if len(text) < 20 else None  # longer ones are codes
    return _as_float(text)


def _as_float(text: str) -> float | None:
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return {".inf": float("inf"), "-.inf": -float("inf"), "inf": float("inf"), ".nan": float("nan")}.get(text.lower())


def _type_name(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if (origin or hint) is list:
        return "a list"
    if (origin or hint) is dict:
        return "a mapping"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def show(value: Any) -> str:
    """Format a value for a message."""
    if isinstance(value, dict):
        return f"a mapping ({shorten(', '.join(map(str, list(value)[:5])))})"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or (isinstance(value, Plain) and not value):
        return "empty"
    if isinstance(value, str | bytes):
        return shorten(str(value) if isinstance(value, Plain) else repr(value))
    return shorten(repr(value))


def shorten(text: str, most: int = 200) -> str:
    """Shorten long text for a message."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def nearest(key: Any, known: Iterable[str]) -> str:
    """A hint at the most similar known name, with a leading space; empty if none is similar."""
    match = difflib.get_close_matches(str(key)[:200], list(known), n=1)
    return f" Did you mean `{match[0]}`?" if match else ""


def without_defaults(section: Any) -> dict[str, Any]:
    """YAML key → value, for the fields of a section that are not at their default."""
    keys = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if value != default:
            keys[key_of(item)] = value
    return keys
