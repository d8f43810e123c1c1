"""The `run.yaml` that comes with a saved model: the data it names, and the parts of it that are never run.

Notable: the file comes from the author of the model, so nothing in it may run code: metrics that are Python files or
repositories are left out, and data are read only with loaders that parse plain formats. A config that the user gives
(`--config`), overrides on the command line and `--trust-remote-code` are trusted.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig, resolve_path
from ..data.files import list_paths
from ..data.sources import packaged_loaders
from ..metrics import metric_names
from ..tasks import TaskData

logger = logging.getLogger(__name__)

# Loaders of `datasets` that only parse files. Others connect to databases, or use a library that may run code.
_LOADERS = {"json", "csv", "parquet", "text", "conll", "arrow", "xml"}


def check_saved_run(run: RunConfig, path: Path) -> None:
    """Check that the sources of a model's own `run.yaml` run no code.

    Args:
        run: The content of the file; `trust_remote_code` is removed from its sources.
        path: The file, for messages.

    Raises:
        ValueError: A source uses a script, or a loader that does more than parse files.
    """
    for name, source in run.sources.items():
        if source.loader.pop("trust_remote_code", None) is not None:
            logger.warning("%s: `sources.%s.trust_remote_code` is ignored.", path, name)
        kind = str(source.path)
        if kind.endswith(".py") or kind in packaged_loaders() - _LOADERS:
            raise ValueError(
                f"{path}: `sources.{name}.path` is {kind!r}, which may run code and is not allowed in a config that"
                f" came with a model. If you trust it, pass {path} as the config (or use `evaluate`"
                " --trust-remote-code)."
            )


def log_data(run: RunConfig, path: Path) -> None:
    """Log which data outside the model's folder a `run.yaml` names, before they are read.

    Args:
        run: The content of the file, narrowed to the sources that are read.
        path: The file.
    """
    folder = path.parent.resolve()
    named: dict[str, None] = {}
    for source in run.sources.values():
        if str(source.path) not in _LOADERS:
            named[str(source.path)] = None
        for file in [*list_paths(source.data_files), *list_paths(source.loader.get("data_dir"))]:
            if not Path(resolve_path(file)).resolve().is_relative_to(folder):
                named[file] = None
    if named:
        logger.info("%s names data outside its folder, which will be read: %s.", path, ", ".join(named))


def drop_metrics(tasks: Mapping[str, TaskData], path: Path, overrides: Sequence[str] = ()) -> None:
    """Remove metrics that run code and are named by a `run.yaml`.

    Args:
        tasks: The tasks, changed in place.
        path: The `run.yaml`, for the warning.
        overrides: `a.b=c` changes of the user; metrics in them are kept.
    """
    given = {text.partition("=")[0].strip() for text in overrides}
    dropped: dict[str, list[Any]] = {}
    for name, task in tasks.items():
        if not given & {f"tasks.{name}.metrics", f"tasks.{name}", "tasks"}:
            known = [metric for metric in task.config.metrics if metric in metric_names(task)]
            dropped[name] = [metric for metric in task.config.metrics if metric not in known]
            task.config.metrics = known
    if any(dropped.values()):
        logger.warning(
            "%s names metrics that run code; they are left out: %s. To use them: --config %s, or --trust-remote-code.",
            path, "; ".join(f"{name}: {', '.join(map(str, metrics))}" for name, metrics in dropped.items() if metrics),
            path,
        )  # fmt: skip
