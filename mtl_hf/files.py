"""Output files and folders: written to a draft and renamed once complete.

Notable: a process that fails or is killed leaves nothing under the final name, and an existing file stays as it was.
Drafts are called `.<name>.draft` and are in the same folder, so the rename is atomic.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_file(path: str | Path, argument: str, *, overwrite: bool = False) -> None:
    """Check that a file may be written; call it before the work whose result the file will hold.

    Args:
        path: The file.
        argument: The argument that names it, for the message.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ValueError: The file exists and `overwrite` is false, or the path is a folder or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"`{argument}` is {path}, which is {'a folder' if path.is_dir() else 'no regular file'}.")
    if path.exists() and not overwrite:
        raise ValueError(f"`{argument}` is {path}, which exists: choose another name, or replace it with --overwrite.")


def check_folder(path: str | Path, argument: str) -> Path:
    """Check that a folder may be written: it does not exist, or is empty.

    Args:
        path: The folder.
        argument: The argument that names it, for the message.

    Returns:
        The folder.

    Raises:
        ValueError: The path is a file, or a folder that is not empty.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`{argument}` is {folder}, which is not empty: choose a new folder, or empty it.")
    return folder


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Write a file that gets its final name once it is complete.

    Args:
        path: The file; missing folders are created. A link is followed: its target is replaced.

    Yields:
        The draft to write to. It is renamed to `path` at the end of the block, and removed if the block raises.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder that gets its final name once it is complete.

    Args:
        path: A folder that passes `check_folder`; missing parent folders are created.

    Yields:
        The draft folder, empty. It is renamed to `path` at the end of the block, and removed if the block raises.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    if draft.exists():  # left by a process that was killed
        shutil.rmtree(draft)
    draft.mkdir()
    try:
        yield draft
        if path.is_dir():  # empty: Windows does not replace it
            path.rmdir()
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_atomic(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) atomically: a reader sees either the old content or all of the new one."""
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def draft_of(path: Path) -> Path:
    """The name that a file or folder has until it is complete."""
    return path.with_name(f".{path.name}.draft")
