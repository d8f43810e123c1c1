"""Code of a child process that trains a run: end when the parent process ends.

Notable: the parent keeps the other end of the child's standard input open while it lives. When it dies, even by
SIGKILL, the operating system closes the pipe and the child reads the end of the file. Does not import torch.
"""

import json
import os
import signal
import threading
import time
from typing import NoReturn

GRACE = 3  # seconds for an orderly exit


def end_with_parent() -> list[str]:
    """End this process and its process group when the parent process ends.

    Returns:
        The list of texts that the parent wrote to the pipe, as one line of JSON.
    """
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # so that nothing else reads from the pipe
    os.close(nothing)
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(pipe, 1)):
            os._exit(128 + signal.SIGTERM)
        line += byte
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    return [str(text) for text in json.loads(line)]


def _watch(pipe: int) -> NoReturn:
    while os.read(pipe, 1):
        pass
    # While Python exits, this thread is stopped first, and the rest may take long: the alarm ends the process anyway.
    signal.alarm(2 * GRACE)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)
    os._exit(128 + signal.SIGTERM)
