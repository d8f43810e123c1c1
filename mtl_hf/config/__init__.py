"""One YAML → typed dataclasses, and back. No torch, no transformers, only PyYAML.

The names that other rooms use are those below.
"""

from .run_config import RunConfig, check_name
from .sections import Card, Model, OurTraining, Source, Task, Thawing, describe, describe_fields, option
from .values import Plain, check_keys, nearest, plain, resolve_path, typed
from .yaml_trees import flow, parse_yaml, read_yaml

__all__ = [
    "Card",
    "Model",
    "OurTraining",
    "Plain",
    "RunConfig",
    "Source",
    "Task",
    "Thawing",
    "check_keys",
    "check_name",
    "describe",
    "describe_fields",
    "flow",
    "nearest",
    "option",
    "parse_yaml",
    "plain",
    "read_yaml",
    "resolve_path",
    "typed",
]
