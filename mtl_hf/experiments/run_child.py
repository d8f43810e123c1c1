"""What a training process does that another process has started: end when that one ends.

Notable: the parent holds the other end of the child's standard input open for as long as it lives. When it dies, even
by SIGKILL, the operating system closes the pipe, and the child sees the end of the file. No torch.
"""

import json
import os
import signal
import threading
import time
from typing import NoReturn

GRACE = 3  # seconds to end in order


def end_with_parent() -> list[str]:
    """Let this process, and all of its process group, end when its parent does.

    Returns:
        What the parent has written into the pipe: one line, a list of texts as JSON.
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
    # A Python that is ending stops this thread first, and may take long for the rest: the alarm ends it even then.
    signal.alarm(2 * GRACE)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)
    os._exit(128 + signal.SIGTERM)
