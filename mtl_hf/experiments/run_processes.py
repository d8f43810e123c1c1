"""Child processes that train runs and never outlive this process.

Notable: each child leads its own session, so a keyboard interrupt reaches only this process, which then ends all
children with their own child processes and waits for them. If this process is killed, the children notice it by
themselves (`run_child.py`).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

GRACE = 20  # seconds for an orderly exit
_CODE = """
from mtl_hf.experiments.run_child import end_with_parent
more = end_with_parent()
import sys
{}
"""


class RunProcesses:
    """Child processes that end with this process.

    Attributes:
        stopping: Whether `stop` was called: no further process starts.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._change = threading.Condition()

    def run(
        self,
        code: str,
        arguments: Sequence[str],
        *,
        stdout: Any,
        stderr: Any,
        environment: Mapping[str, str],
        overrides: Sequence[str] = (),
    ) -> tuple[int, Any]:
        """Run Python code in a separate process and wait for it.

        Args:
            code: Python code; `sys.argv` has the arguments and `more` the overrides.
            arguments: Command-line arguments, visible to every user of the machine.
            stdout: File for its output.
            stderr: File for its messages.
            environment: Environment variables.
            overrides: Overrides, sent through a pipe that no other process can read.

        Returns:
            The exit code (negative for a signal) and the resource usage (`resource.getrusage`; None if not started).
        """
        with self._change:
            if self.stopping:
                return -signal.SIGTERM, None
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE.format(code), *arguments], stdin=subprocess.PIPE, stdout=stdout,
                stderr=stderr, env=environment, start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has already died; the exit code shows it
            process.stdin.write(json.dumps(list(overrides)).encode() + b"\n")
            process.stdin.flush()
        _, status, usage = os.wait4(process.pid, 0)  # unlike `wait`, this returns the resource usage
        with self._change:
            self._running.discard(process)
            self._change.notify_all()
        process.returncode = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return process.returncode, usage

    def stop(self) -> None:
        """End all processes, orderly if possible, and wait for them."""
        with self._change:
            self.stopping = True
        try:
            self._signal(signal.SIGTERM)
            with self._change:
                self._change.wait_for(lambda: not self._running, GRACE)
        finally:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._change:
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
