"""YAML ⇄ trees: mappings, lists and scalars that are still text; overrides and variables in them.

Notable: a repeated key is an error, and braces of `${name}` do not end an unquoted scalar. What is written reads as
what it was: text that could be taken for something else is quoted.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .secrets import masked_message, masked_overrides
from .values import FALSE, NONE, TRUE, Plain, nearest, plain, show

_VARIABLE = re.compile(r"\$\{([^}\n]*)\}")


class _Loader(yaml.SafeLoader):
    """YAML in which unquoted scalars stay text and a repeated key is an error."""

    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))]}

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
                raise ValueError(f"{node.start_mark.name}: line {line}: `{key}` is already given in line {seen[key]}.")
            seen[key] = line
        return node


# Braces end an unquoted scalar inside `{...}`, so those of `${name}` are hidden from the parser.
_HIDE, _UNHIDE = str.maketrans("{}", "\ue000\ue001"), str.maketrans("\ue000\ue001", "{}")


def _construct_scalar(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node)).translate(_UNHIDE)
    return Plain(text) if node.style is None else text


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_scalar)


class _Dumper(yaml.SafeDumper):
    """YAML in which text that `_Loader` and `typed` could take for something else is quoted."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
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
        ValueError: It is not YAML, or repeats a key.
    """
    try:
        loader = _Loader(_VARIABLE.sub(lambda match: match[0].translate(_HIDE), text))
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(f"{name} is not valid YAML: {masked_message(str(error))}") from error
    loader.name = name
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {masked_message(str(error).translate(_UNHIDE))}") from error
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ValueError: No such file, not UTF-8, not YAML, a repeated key, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"there is no config file {path}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}.") from None
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
        raise ValueError(f"{shown!r} is not an override: write key=value, as in training.learning_rate=1e-4.")
    target = tree
    for key in keys[:-1]:
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            raise ValueError(f"override {shown!r}: `{key}` holds {show(target)}, which has no keys.")
    try:
        target[keys[-1]] = parse_yaml(value, f"override {shown!r}") if value.strip() else Plain("")
    except ValueError:
        if shown == text:
            raise
        # The parser's message quotes the value.
        raise ValueError(f"override {shown!r}: the value is not valid YAML.") from None


def copy_tree(value: Any) -> Any:
    """A copy whose mappings and lists are new; paths become text, values of other kinds stay the same objects."""
    # DatasetDict and Features are mappings too, but values to us.
    if isinstance(value, Mapping) and not type(value).__module__.startswith("datasets"):
        return {key: copy_tree(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [copy_tree(item) for item in value] if isinstance(value, list | tuple) else value


def fill(value: Any, variables: Mapping[str, Any], used: set[str], inside: tuple[str, ...]) -> Any:
    """`value` with every `${name}` replaced.

    Args:
        value: A tree.
        variables: Name → what it stands for.
        used: The names that were replaced are added to it.
        inside: The variables that are being filled in, to find circles.

    Raises:
        ValueError: A variable that is not defined, or variables that refer to each other in a circle.
    """
    if isinstance(value, dict):
        return {key: fill(item, variables, used, inside) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, variables, used, inside) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replacement(name: str) -> Any:
        if name not in variables:
            raise ValueError(
                f"`${{{name}}}` is not defined.{nearest(name, variables)} Variables are top-level keys;"
                f" defined are: {', '.join(variables) or 'none'}."
            )
        if name in inside:
            raise ValueError(f"the variables {' -> '.join([*inside, name])} refer to each other in a circle.")
        used.add(name)
        return fill(variables[name], variables, used, (*inside, name))

    if whole := _VARIABLE.fullmatch(value):
        return replacement(whole[1])
    text = _VARIABLE.sub(lambda match: str(replacement(match[1])), value)
    return Plain(text) if isinstance(value, Plain) else text
