"""YAML ⇄ trees: mappings, lists and scalars that are still text; overrides and variables in them.

Notable: a repeated key is an error, and braces of `${name}` do not end an unquoted scalar. What is written reads as
what it was: text that could be taken for something else is quoted. Reading is bounded: a file of a few lines can stand
for billions of values (aliases of aliases, variables of variables), and one that is its own part for endless ones.
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
    """What YAML allows and a config does not; the message is whole."""


class _Loader(yaml.SafeLoader):
    """YAML in which unquoted scalars stay text, a repeated key is an error, and so is what would grow without bound."""

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
                self._refuse(event, f"the alias `*{anchor}` is a part of what it stands for")
            self._count(event, self.sizes.get(anchor, 0))
            return super().compose_node(parent, index)
        quoted = event.tag == "tag:yaml.org,2002:str" and isinstance(event, yaml.ScalarEvent)
        if event.tag not in (None, "!") and not quoted:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"the tag `{shorten(tag)}` is not read; leave it out (a key decides what a value is)")
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
            self._refuse(event, f"more than {MOST_VALUES:,} values, those that aliases repeat included")

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
    """YAML in which text that `_Loader` and `typed` could take for something else is quoted."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if _BREAK.search(text):  # within single quotes it would be read as a space
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    style = "'" if plain(Plain(text)) != text or text.lower() in TRUE + FALSE + NONE else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_plain(dumper: _Dumper, text: Plain) -> yaml.ScalarNode:
    # The tag that YAML would read out of the text is the one that needs neither quotes nor a tag of its own.
    return dumper.represent_scalar(dumper.resolve(yaml.ScalarNode, str(text), (True, False)), str(text))


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(Plain, _represent_plain)


def dump(tree: dict[str, Any]) -> str:
    """A tree as YAML that `read_yaml` reads to the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def flow(value: Any) -> str:
    """Plain data as one line of YAML that `RunConfig.load` reads as what it is."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def parse_yaml(text: str, name: str) -> Any:
    """Read YAML, its unquoted scalars as `Plain`.

    Args:
        text: The YAML.
        name: What messages call it.

    Raises:
        ValueError: It is not YAML, repeats a key, has a tag, or has more text, values or levels than a config can
            need, those that aliases repeat included.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{name} has more than {MOST_CHARACTERS:,} characters, which is no config.")
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
        ValueError: No such file, not UTF-8, not YAML, a repeated key, what grows without bound, or no mapping.
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
    """Set `a.b=c` in place, making mappings on the way; the value is read as YAML.

    Raises:
        ValueError: It is not of that form, its value is not YAML, or something on the way is no mapping.
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
    """A copy whose mappings and lists are new and whose keys are text; paths become text, numbers Python's own.

    Values of other kinds stay the same objects.

    Args:
        value: A tree.
        path: Where it was found, for messages.
        level: How deep that is.

    Raises:
        ValueError: Values nested too deep (or in themselves), too many of them, a key that is no text, or text that no
            file can hold.
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
            raise ValueError(f"`{path}` has more than 18 digits; no number of a config has.")
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _copy_key(key: Any, path: str) -> str:
    if isinstance(key, bool):
        return str(key).lower()
    where = f"`{path}`" if path else "the config"
    if not isinstance(key, str | int | float):
        raise ValueError(f"{where} has the key `{shorten(repr(key))}`; keys are text.")
    if odd := _NOWHERE.search(str(key)):
        raise ValueError(f"{where} has the key `{show(key)}`; the character {odd[0]!r} is not allowed.")
    return key if isinstance(key, str) else str(key)


def fill(tree: Any, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any], set[str]]:
    """Replace every `${name}`, in a tree and in the variables, which may use each other.

    Args:
        tree: A tree.
        variables: Name → what it stands for, a plain value.

    Returns:
        The tree, the variables, and the names that were used.

    Raises:
        ValueError: A variable that is not defined, variables that refer to each other in a circle, or text that they
            make too long.
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
