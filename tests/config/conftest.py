"""The smallest config there can be, and others made of it."""

from pathlib import Path
from typing import Any

import yaml

from mtl_hf.config import RunConfig

MINIMAL = """
model: {encoder: some/encoder}
sources:
  reviews: {path: json, data_files: {train: a.jsonl}, text: text}
tasks:
  sentiment: {type: sequence_classification, source: reviews, label: sentiment}
"""


def load_text(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The config that a YAML file with `text` is."""
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return RunConfig.load(file, overrides)


def minimal(**changes: Any) -> dict[str, Any]:
    """`MINIMAL` as plain data, with other sections."""
    return yaml.safe_load(MINIMAL) | changes
