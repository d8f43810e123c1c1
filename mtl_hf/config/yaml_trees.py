"""YAML ⇄ trees: mappings, lists and scalars that are still text; overrides and variables in them.

Notable: a repeated key is an error, and braces of `${name}` do not end an unquoted scalar. Written YAML reads back to
the same values: text that could be read as another type is quoted. Reading is bounded, since a few lines can expand to
billions of values (aliases of aliases, variables of variables), and a recursive alias to infinitely many.
"""

import enum
import numbers
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .secrets import masked_message, masked_overrides
from .values import FALSE, NONE, TRUE, Plain, nearest, plain, shorten, show

# Far above what any config needs, and read in about a second.
MOST_CHARACTERS, MOST_VALUES, MOST_LEVELS = 2**20, 25_000, 50

_VARIABLE = re.compile(r"\$\{([^}\n]*)\}")
_NOWHERE = re.compile("[\0\ud800-\udfff]")  # characters that no path, column or UTF-8 file can have


_BREAK = re.compile("[\r\x85\u2028\u2029]")


class _RefusedError(yaml.YAMLError):
    """Raised for YAML that a config may not use, with the final message."""


class _Loader(yaml.SafeLoader):
    """YAML loader that keeps unquoted scalars as text, and raises errors for repeated keys and unbounded growth."""

    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))]}

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self.num_values, self.level = 0, 0
        self.open_anchors: set[str] = set()  # of values that are being read
        self.sizes: dict[str, int] = {}  # anchor → number of values

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value, or the one that an alias stands for, counted."""
        event = self.peek_event()
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor in self.open_anchors:
                self._refuse(event, f"the alias `*{anchor}` refers to a value that contains it")
            self._count(event, self.sizes.get(anchor, 0))
            return super().compose_node(parent, index)
        quoted = event.tag == "tag:yaml.org,2002:str" and isinstance(event, yaml.ScalarEvent)
        if event.tag not in (None, "!") and not quoted:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"the tag `{shorten(tag)}` is not supported; remove it (the key decides the type)")
        if self.level == MOST_LEVELS:
            self._refuse(event, f"values are nested more than {MOST_LEVELS} deep")
        before = self.num_values
        self._count(event, 1)
        self.level += 1
        self.open_anchors |= {anchor} - {None}
        node: Any = super().compose_node(parent, index)
        if quoted and node.style is None:  # `!!str 012` is text, whatever its key takes
            node.style = "'"
        self.level -= 1
        if anchor:
            self.open_anchors.remove(anchor)
            self.sizes[anchor] = self.num_values - before
        return node

    def _count(self, event: Any, number: int) -> None:
        self.num_values += number
        if self.num_values > MOST_VALUES:
            self._refuse(event, f"more than {MOST_VALUES:,} values, including those that aliases repeat")

    def _refuse(self, event: Any, why: str) -> None:
        raise _RefusedError(f"{self.name}: line {event.start_mark.line + 1}: {why}.")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not in `construct_mapping`, where merged keys (`<<`) may stand beside those that replace them.
        node = super().compose_mapping_node(anchor)
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            line = key_node.start_mark.line + 1
            if key in seen:
                raise _RefusedError(f"{self.name}: line {line}: `{shorten(key)}` is already given in line {seen[key]}.")
            seen[key] = line
        return node


# Braces end an unquoted scalar inside `{...}`, so those of `${name}` are hidden from the parser, as characters that
# Unicode keeps out of texts.
_HIDE, _UNHIDE = str.maketrans("{}", "\ufdd0\ufdd1"), str.maketrans("\ufdd0\ufdd1", "{}")
_HIDDEN = re.compile("[\ufdd0\ufdd1]")


def _construct_scalar(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node)).translate(_UNHIDE)
    return Plain(text) if node.style is None else text


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_scalar)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes text which `_Loader` and `typed` could read as another type."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if _BREAK.search(text):  # in single quotes it would be read as a space
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    style = "'" if plain(Plain(text)) != text or text.lower() in TRUE + FALSE + NONE else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_plain(dumper: _Dumper, text: Plain) -> yaml.ScalarNode:
    # With the tag that YAML resolves from the text, it needs neither quotes nor an explicit tag.
    return dumper.represent_scalar(dumper.resolve(yaml.ScalarNode, str(text), (True, False)), str(text))


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(Plain, _represent_plain)


def dump(tree: dict[str, Any]) -> str:
    """Write a tree as YAML from which `read_yaml` returns the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def flow(value: Any) -> str:
    """Write plain data as one line of YAML from which `RunConfig.load` reads the same data."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def parse_yaml(text: str, name: str) -> Any:
    """Read YAML, its unquoted scalars as `Plain`.

    Args:
        text: The YAML.
        name: Its name in messages.

    Raises:
        ValueError: It is not YAML, repeats a key, has a tag, or exceeds the limits of characters, values (including
            those that aliases repeat) or levels.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{name} has more than {MOST_CHARACTERS:,} characters, too many for a config.")
    if odd := _HIDDEN.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise ValueError(f"{name}: line {line}: the character {odd[0]!r} is not allowed.")
    try:
        loader = _Loader(_VARIABLE.sub(lambda match: match[0].translate(_HIDE), text), name)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{name}: line {line}: the character {text[error.position]!r} is not allowed.") from None
    try:
        return loader.get_single_data()
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: `\U` with a number too high
        raise ValueError(f"{name} is not valid YAML: {masked_message(str(error).translate(_UNHIDE))}") from error
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ValueError: There is no such file, it is not UTF-8 or not YAML, repeats a key, exceeds a limit, or is not a
            mapping.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MOST_CHARACTERS + 1)  # a device such as /dev/zero has no end
    except FileNotFoundError:
        raise ValueError(f"there is no config file {path}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}.") from None
    except (OSError, ValueError) as error:  # a folder, no permission, a name that no file can have
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"the config file {shorten(str(path))!r} cannot be read: {why}.") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: the top level is {show(tree)}; it should be a mapping (model, sources, tasks, ...).")
    return tree


def apply_override(tree: dict[str, Any], text: str) -> None:
    """Apply an override `a.b=c` in place, creating missing mappings; the value is parsed as YAML.

    Raises:
        ValueError: It does not have this form, its value is not YAML, or a parent is not a mapping.
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    (shown,) = masked_overrides([text])
    if not equals or not all(keys):
        raise ValueError(f"{show(shown)} is not an override: write key=value, as in training.learning_rate=1e-4.")
    target = tree
    for key in keys[:-1]:
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            raise ValueError(f"override {show(shown)}: `{key}` holds {show(target)}, which has no keys.")
    try:
        target[keys[-1]] = parse_yaml(value, f"override {show(shown)}") if value.strip() else Plain("")
    except ValueError:
        if shown == text:
            raise
        # The parser's message quotes the value.
        raise ValueError(f"override {show(shown)}: the value is not valid YAML.") from None


def copy_tree(value: Any, path: str = "", level: int = 0) -> Any:
    """Copy a tree: new mappings and lists, keys and paths as text, numbers as Python's own types.

    Values of other types are not copied.

    Args:
        value: A tree.
        path: Its key in the config, for messages.
        level: Its nesting level.

    Raises:
        ValueError: Values are nested too deep (or in themselves) or too many, a key is not text, or text has a
            character that no file can hold.
    """
    return _copy(value, path, level, [0])


def _copy(value: Any, path: str, level: int, count: list[int]) -> Any:
    count[0] += 1
    if level > MOST_LEVELS:
        raise ValueError(f"`{path[:60]}...`: values are nested more than {MOST_LEVELS} deep, or in themselves.")
    if count[0] > MOST_VALUES:
        raise ValueError(f"`{path}`: the config has more than {MOST_VALUES:,} values.")
    # DatasetDict and Features are mappings too, but values to us.
    if isinstance(value, Mapping) and not type(value).__module__.startswith("datasets"):
        copied: dict[str, Any] = {}
        for key, item in value.items():
            name = _copy_key(key, path)
            if name in copied:
                raise ValueError(f"`{path}` has the key `{name}` twice.")
            copied[name] = _copy(item, f"{path}.{name}" if path else name, level + 1, count)
        return copied
    if isinstance(value, list | tuple):
        return [_copy(item, f"{path}[{index}]", level + 1, count) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and (odd := _NOWHERE.search(value)):
        raise ValueError(f"`{path}` is {show(value)}; the character {odd[0]!r} is not allowed.")
    if isinstance(value, bool | enum.Enum):
        return value
    if isinstance(value, numbers.Integral):  # numpy's, too
        if abs(int(value)) >= 10**18:
            raise ValueError(f"`{path}` has more than 18 digits, too many for a number.")
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _copy_key(key: Any, path: str) -> str:
    if isinstance(key, bool):
        return str(key).lower()
    where = f"`{path}`" if path else "the config"
    if not isinstance(key, str | int | float):
        raise ValueError(f"{where} has the key `{shorten(repr(key))}`; keys should be text.")
    if odd := _NOWHERE.search(str(key)):
        raise ValueError(f"{where} has the key `{show(key)}`; the character {odd[0]!r} is not allowed.")
    return key if isinstance(key, str) else str(key)


def fill(tree: Any, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any], set[str]]:
    """Replace every `${name}` in a tree and in the variables, which may use each other.

    Args:
        tree: A tree.
        variables: Name → its plain value.

    Returns:
        The tree, the variables, and the names that were used.

    Raises:
        ValueError: A variable is not defined, variables refer to each other in a circle, or the text becomes too long.
    """
    filled: dict[str, Any] = {}
    used: set[str] = set()
    length = 0

    def fill_variable(name: str, inside: tuple[str, ...]) -> Any:
        if name not in filled:
            if name in inside:
                raise ValueError(f"the variables {' -> '.join([*inside, name])} refer to each other in a circle.")
            if len(inside) == MOST_LEVELS:
                raise ValueError(f"`{inside[0]}`: variables refer to each other more than {MOST_LEVELS} deep.")
            filled[name] = replace(variables[name], (*inside, name))
        return filled[name]

    def replacement(name: str, inside: tuple[str, ...]) -> Any:
        if name not in variables:
            raise ValueError(
                f"`${{{shorten(name)}}}` is not defined.{nearest(name, variables)} Variables are top-level keys;"
                f" defined are: {shorten(', '.join(variables) or 'none', 500)}."
            )
        used.add(name)
        return fill_variable(name, inside)

    def replace(value: Any, inside: tuple[str, ...] = ()) -> Any:
        nonlocal length
        if isinstance(value, dict):
            return {key: replace(item, inside) for key, item in value.items()}
        if isinstance(value, list):
            return [replace(item, inside) for item in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if whole := _VARIABLE.fullmatch(value):
            return replacement(whole[1], inside)
        parts, end = [], 0
        for match in _VARIABLE.finditer(value):
            parts += [value[end : match.start()], str(replacement(match[1], inside))]
            end = match.end()
            length += len(parts[-1])
            if length > MOST_CHARACTERS:
                raise ValueError(
                    f"`${{{match[1]}}}`: variables make more than {MOST_CHARACTERS:,} characters of the config."
                )
        text = "".join([*parts, value[end:]])
        return Plain(text) if isinstance(value, Plain) else text

    for name in variables:
        fill_variable(name, ())
    return replace(tree), filled, used
