"""Lock a run's folder: a second run in the same folder is an error, before it writes anything.

Notable: the lock is one of the operating system (`flock`), which releases it when the process ends, for any reason. The
locked file names the process, for messages, and is removed at the end.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK = ".run.lock"
PATIENCE = 1  # seconds to wait for a process that is just ending


@contextmanager
def lock_folder(folder: Path, parameter: str) -> Iterator[None]:
    """Lock a folder during the block. The folder is created, and removed if it is empty at the end.

    Args:
        folder: The folder.
        parameter: The parameter that names it, for messages.

    Raises:
        ValueError: Another run uses the folder, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`{parameter}`: {folder} is a file.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise ValueError(
            f"`{parameter}`: {folder} is in use by {_owner(path)}. Wait until it has ended, or choose another folder."
        ) from None
    try:
        if path.stat().st_size:
            logger.warning("%s was locked by %s, which no longer runs: taking over the lock.", folder, _owner(path))
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        path.write_text(
            json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": now}) + "\n", encoding="utf-8"
        )
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that a process that waits for this file tries a new one
        lock.release()
        for place in made:
            if not place.is_dir() or any(place.iterdir()):
                break
            place.rmdir()


def _owner(path: Path) -> str:
    """Describe the process that holds, or held, a lock."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return f"process {known['process']} on {known['host']} (since {known['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # not written yet, incomplete, or just removed
        return "another process"
