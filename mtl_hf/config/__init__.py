"""One YAML → typed dataclasses, and back. No torch, no transformers, only PyYAML.

The names that other rooms use are those below.
"""

from ..modeling.package_path import resolve_path
from .run_config import RunConfig, check_name, secret_overrides
from .secrets import MaskSecrets, is_secret, masked, masked_message, masked_overrides
from .sections import Card, Model, OurTraining, Source, Task, Thawing, describe, describe_fields, option
from .values import Plain, check_keys, key_of, nearest, plain, typed
from .yaml_trees import flow, parse_yaml, read_yaml

__all__ = [
    "Card",
    "MaskSecrets",
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
    "is_secret",
    "key_of",
    "masked",
    "masked_message",
    "masked_overrides",
    "nearest",
    "option",
    "parse_yaml",
    "plain",
    "read_yaml",
    "resolve_path",
    "secret_overrides",
    "typed",
]
