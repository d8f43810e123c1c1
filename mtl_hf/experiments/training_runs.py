"""Runs that a server starts on demand: configs that its operator allows, each run in a process and a folder of its own.

Notable: nothing of a request but the name of a config gets here. The processes end with this one, also if it is killed
(`run_processes.py`).
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import RunConfig, masked
from ..inference.serve.training_routes import RunBusyError
from ..tasks import check_settings
from .run_processes import RunProcesses
from .variants import output_override

logger = logging.getLogger(__name__)

_CODE = "import os\nos.nice(5)\nfrom mtl_hf.run import main\nmain([*sys.argv[1:], *more])"  # answers come first
_LINES = 100  # of the log
_SECRETS = ("MTL_HF_TOKEN", "MTL_HF_TRAINING_TOKEN")  # which a run does not need


@dataclass
class _Run:
    id: str
    config: str
    folder: Path
    state: str = "running"
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    processes: RunProcesses = field(default_factory=RunProcesses)
    thread: threading.Thread | None = None

    @property
    def log(self) -> Path:
        """Its whole output, beside its folder."""
        return self.folder.with_name(f"{self.id}.log")


class TrainingRuns:
    """Runs of allowed configs, one at a time.

    Args:
        configs: The config files. Their names without ending are what requests use.
        folder: Where runs are written: a folder and a log each.
        reserved: An id that no run gets: that of the model of the server.

    Raises:
        ValueError: A config is not valid, or two have the same name.
    """

    def __init__(self, configs: Sequence[str], folder: str | Path, reserved: str = "") -> None:
        self._paths: dict[str, str] = {}
        for path in configs:
            check_settings(RunConfig.load(path))
            name = Path(path).stem
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(
                    f"`--allow-training {path}`: name the file with letters, digits, `_`, `-` and `.` only."
                )
            if name in self._paths:
                raise ValueError(f"`--allow-training`: {self._paths[name]} and {path} have the same name.")
            self._paths[name] = path
        self.configs = tuple(self._paths)
        self._folder = Path(folder)
        self._reserved = reserved
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(self, config: str) -> dict[str, Any]:
        """Start a run in a process of its own.

        Raises:
            RunBusyError: Another run is not over yet, or the server ends.
        """
        with self._lock:
            if busy := [run.id for run in self._runs.values() if run.state == "running"]:
                raise RunBusyError(f"{busy[0]} is running: wait for its end, or stop it.")
            if self._closed:
                raise RunBusyError("the server is ending.")
            self._folder.mkdir(parents=True, exist_ok=True)
            number = 1
            while self._is_taken(f"{config}-{number}"):
                number += 1
            run = _Run(f"{config}-{number}", config, self._folder / f"{config}-{number}")
            run.log.touch()
            run.thread = threading.Thread(target=self._train, args=(run,), daemon=True)
            self._runs[run.id] = run
            run.thread.start()
        logger.info("Run %s starts.", run.id)
        return self._describe(run)

    def _is_taken(self, id: str) -> bool:
        return id == self._reserved or any((self._folder / f"{id}{end}").exists() for end in ("", ".log"))

    def _train(self, run: _Run) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        code = 1
        try:
            with run.log.open("w", encoding="utf-8") as output:
                code, _ = run.processes.run(
                    _CODE,
                    [self._paths[run.config], output_override(run.folder)],
                    stdout=output,
                    stderr=output,
                    environment=environment,
                )
        finally:
            run.seconds = time.monotonic() - run.began
            complete = code == 0 and (run.folder / "metrics.json").is_file()
            run.state = "finished" if complete else "stopped" if run.processes.stopping else "failed"
            logger.info("Run %s has %s after %.0f s.", run.id, run.state, run.seconds)

    def list(self) -> list[dict[str, Any]]:
        """All runs, without their logs."""
        return [self._describe(run) for run in [*self._runs.values()]]

    def show(self, id: str) -> dict[str, Any] | None:
        """A run, with the end of its log; None if there is none of this id."""
        run = self._runs.get(id)
        return None if run is None else self._describe(run, log=True)

    def stop(self, id: str) -> dict[str, Any] | None:
        """Stop a run and wait for its end; None if there is none of this id.

        Raises:
            RunBusyError: It is over.
        """
        run = self._runs.get(id)
        if run is None:
            return None
        if run.state != "running":
            raise RunBusyError(f"{id} has {run.state} already.")
        self._stop(run)
        return self._describe(run)

    def models(self) -> dict[str, str]:
        """Run → its folder, for finished runs."""
        return {run.id: str(run.folder) for run in [*self._runs.values()] if run.state == "finished"}

    def close(self) -> None:
        """Stop all runs, wait for their end, and start no more."""
        with self._lock:
            self._closed = True
        for run in [*self._runs.values()]:
            if run.state == "running":
                self._stop(run)

    def _stop(self, run: _Run) -> None:
        run.processes.stop()
        assert run.thread is not None
        run.thread.join()

    def _describe(self, run: _Run, *, log: bool = False) -> dict[str, Any]:
        text = masked(run.log.read_text(encoding="utf-8", errors="replace"))
        steps = re.findall(r"^epoch .*?step +(\d+)", text, re.MULTILINE)
        planned = re.findall(r"^(\d+) optimiser steps\.$", text, re.MULTILINE)
        seconds = time.monotonic() - run.began if run.state == "running" else run.seconds
        return {
            "id": run.id,
            "config": run.config,
            "state": run.state,
            "step": int(steps[-1]) if steps else None,
            "num_steps": int(planned[-1]) if planned else None,
            "seconds": round(seconds, 1),
            "scores": _scores(run.folder / "metrics.json") if run.state == "finished" else None,
            "log": text.splitlines()[-_LINES:] if log else None,
        }


def _scores(path: Path) -> dict[str, dict[str, float]]:
    """Task → metric → score, of a finished run."""
    tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    return {
        name: {key: value for key, value in found.items() if isinstance(value, float)} for name, found in tasks.items()
    }
