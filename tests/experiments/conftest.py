"""A search's file beside a run's YAML."""

from pathlib import Path
from typing import Any

import yaml


def write_search(folder: Path, **keys: Any) -> Path:
    """`search.yaml`, a search over the `run.yaml` of the same folder."""
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({"config": "run.yaml"} | keys, sort_keys=False), encoding="utf-8")
    return path
