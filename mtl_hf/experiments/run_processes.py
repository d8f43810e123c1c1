"""Processes that train runs for this one, and never outlive it.

Notable: each is the leader of a session of its own, so that the keyboard's interrupt reaches this process alone, which
then ends them all, with whatever they have started, and waits for them. If this process is killed, they notice by
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

GRACE = 20  # seconds to end in order
_CODE = """
from mtl_hf.experiments.run_child import end_with_parent
more = end_with_parent()
import sys
{}
"""


class RunProcesses:
    """Processes that end with this one.

    Attributes:
        stopping: Whether `stop` was called: nothing is started any more.
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
        """Run Python code in a process of its own and wait for its end.

        Args:
            code: Python, in which `sys.argv` has the arguments and `more` the overrides.
            arguments: Visible to every user of the machine.
            stdout: File for its output.
            stderr: File for its messages.
            environment: Its environment.
            overrides: Sent through a pipe, which no other process can read.

        Returns:
            Its exit code, negative for a signal, and what it took (`resource.getrusage`), None if it was not started.
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
        with contextlib.suppress(BrokenPipeError):  # it has died already, which its exit code shows
            process.stdin.write(json.dumps(list(overrides)).encode() + b"\n")
            process.stdin.flush()
        _, status, usage = os.wait4(process.pid, 0)  # not `wait`, which does not tell what the process took
        with self._change:
            self._running.discard(process)
            self._change.notify_all()
        process.returncode = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return process.returncode, usage

    def stop(self) -> None:
        """End all processes, in order where they can, and wait for them."""
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
