"""Saved models by name: a run folder, a `checkpoint-N` in it, or a Hub id, optionally with `@revision`.

Notable: everything but the weights is read first, so errors in any of several models are found before one is loaded;
a name that can only be a mistyped folder is reported without a request to the Hub; code of a repository is never run.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils.hub import cached_file

from ..config import nearest, resolve_path
from ..modeling.checking import check_config, check_loaded, read_config
from ..modeling.configuration_multitask import MultiTaskConfig
from ..modeling.encoders import check_length
from ..modeling.modeling_multitask import MultiTaskModel
from ..modeling.windows import TRUNCATE

RUN_FILE = "run.yaml"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A saved model whose weights are not loaded yet.

    Attributes:
        name: The name as requested.
        path: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        heads: Head → its specification.
        run: The `run.yaml` of its training run, if available.
        adapters: Adapter → its specification.
        experts: `num` and `hidden` of the experts between encoder and heads, if it has experts.
        overflow: How long texts are read.
    """

    name: str
    path: str
    revision: str | None
    heads: dict[str, dict[str, Any]]
    run: Path | None
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    experts: dict[str, int] | None = None
    overflow: str = TRUNCATE

    @property
    def folder(self) -> Path | None:
        """Its local folder; None for a model on the Hub."""
        return Path(self.path) if os.path.isdir(self.path) else None

    @property
    def vocabularies(self) -> dict[str, list[str]]:
        """Head → its labels, for heads that have labels."""
        return vocabularies_of(self.heads)

    def load(self) -> MultiTaskModel:
        """Load the model.

        Raises:
            ValueError: See `load_saved`.
        """
        return load_saved(self.path, self.name, **({"revision": self.revision} if self.revision else {}))


def vocabularies_of(heads: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Head → its labels, for heads that have labels."""
    return {name: list(spec["labels"]) for name, spec in heads.items() if "labels" in spec}


def load_saved(path: str, name: str, **options: Any) -> MultiTaskModel:
    """Load a multi-task model with its tokenizer, and check that its files belong together.

    Args:
        path: Folder or Hub id.
        name: The name as requested, for messages.
        **options: Passed to `MultiTaskModel.from_pretrained`.

    Raises:
        ValueError: Weights or tokenizer are missing, damaged or not reachable; weights and configuration name different
            tensors; `max_length` is longer than the encoder supports.
    """
    try:
        model, info = MultiTaskModel.from_pretrained(path, output_loading_info=True, **options)
        tokenizer = model.tokenizer  # load it now, not at the first text
    except OSError as error:
        raise ValueError(f"{name} cannot be loaded: {' '.join(str(error).split())}") from error
    check_loaded(name, info["missing_keys"], info["unexpected_keys"])
    check_length(name, model.config.max_length, tokenizer, model.config.text_config)
    return model


def check_name(name: str, path: str, revision: str = "") -> None:
    """Report a mistyped folder at once, instead of looking for it on the Hub.

    Raises:
        ValueError: `path` does not exist and cannot be a Hub id.
    """
    # If there is a folder `outputs`, `outputs/snip` is a typo and not a model of a Hub user called outputs.
    if not _HUB_ID.fullmatch(path) or (not revision and Path(path).parent.is_dir()):
        parent = Path(path).parent
        hint = nearest(Path(path).name, os.listdir(parent) if parent.is_dir() else [])
        on_hub = f" (On the Hub it would be {path}@main.)" if _HUB_ID.fullmatch(path) else ""
        raise ValueError(f"{name} is not a saved model: there is no such folder.{hint}{on_hub}")


def check_folder(name: str, path: str) -> None:
    """Check that a path is a folder with a model; the error names likely candidates.

    Args:
        name: The name as requested, for messages.
        path: A path that exists.

    Raises:
        ValueError: It has no config.json.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return
    if not folder.is_dir():
        of_config = (
            " The model that a config trains is in its `output_dir`." if path.endswith((".yaml", ".yml")) else ""
        )
        raise ValueError(f"{name} is not a saved model: it is a file, and a model is a folder.{of_config}")
    models = sorted(str(held.parent.name) for held in folder.glob("*/config.json"))
    hint = (
        f" These folders in it have one: {', '.join(models[:5])}{', ...' if len(models) > 5 else ''}." if models else ""
    )
    raise ValueError(f"{name} is not a saved model: it has no config.json.{hint}")


def find_checkpoint(name: str | Path) -> Checkpoint:
    """Find a saved model and read its configuration.

    Args:
        name: A run folder, one of its `checkpoint-N`, any folder written by `MultiTaskModel.save_pretrained`,
            `package:<python package>/<folder>`, or a Hub id such as `me/model` or `me/model@revision`.

    Raises:
        ValueError: There is no such model, or it is not a multi-task model.
    """
    name = os.fspath(name)
    path, revision = resolve_path(name), None
    if not os.path.exists(path):
        path, _, revision = path.partition("@")
        check_name(name, path, revision)
    else:
        check_folder(name, path)
    options = {"revision": revision} if revision else {}
    try:
        # Not with `AutoConfig`, which needs our model type to be registered first.
        config = read_config(path, **options)
    except OSError as error:
        where = "" if os.path.isdir(path) else " (there is no such folder, so it was looked for on the Hub)"
        raise ValueError(f"{name} cannot be loaded{where}: {' '.join(str(error).split())}") from error
    if config.get("model_type") != MultiTaskConfig.model_type:
        raise ValueError(
            f"{name} is not a multi-task model: its config.json has the model_type {config.get('model_type')!r}."
        )
    check_config(config, name)
    heads, adapters = (config.get(key) or {} for key in ("heads", "adapters"))
    run = _find_run(path, options)
    return Checkpoint(
        name, path, revision or None, heads, run, adapters, config.get("experts"), config.get("overflow") or TRUNCATE
    )


def run_file(folder: Path) -> Path | None:
    """The `run.yaml` of the run that wrote this folder or this `checkpoint-N`."""
    folder = folder.resolve()
    path = (folder.parent if folder.name.startswith("checkpoint-") else folder) / RUN_FILE
    return path if path.is_file() else None


def _find_run(path: str, options: dict[str, str]) -> Path | None:
    if os.path.isdir(path):
        return run_file(Path(path))
    found = cached_file(
        path, RUN_FILE, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        **options,
    )  # fmt: skip
    return Path(found) if found else None


def num_parameters(folder: Path) -> int:
    """Number of parameters of the weights in a folder, read from the headers of the files."""
    total = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total
