"""What surrounds the work of every command: its arguments, its log, its signals, and one line for a mistake.

Notable: `run.py` and the verbs in `cli/` share it. Nothing heavy is imported here, so that `--help` is quick.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .config import MaskSecrets, describe, masked, masked_message, masked_overrides

_MASK = MaskSecrets()


# ---- arguments ----


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As `parse_args`, but the items of a list may also come after flags, where argparse takes no more of them.

    A config is followed by `a.b=c` only; models, texts, files and names are any words that do not begin with a dash.
    """
    arguments, rest = parser.parse_known_args(argv)
    place = next(
        (name for name in ("models", "texts", "files", "names", "overrides") if hasattr(arguments, name)), None
    )
    unknown = [text for text in rest if text.startswith("-") or not place or (place == "overrides" and "=" not in text)]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(masked_overrides(unknown))}")
    if place:
        setattr(arguments, place, [*getattr(arguments, place), *rest])
    return arguments


def add_overrides(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add the argument `overrides`, a list of `a.b=c`."""
    # Without a default argparse says that a list which may be empty is required.
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help=meaning)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training takes, and a help that explains every field of the YAML."""
    parser.description = "Train one encoder with several task heads from one YAML, score it and save it."
    parser.epilog = f"fields of the YAML\n------------------\n{describe()}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="a YAML file")
    add_overrides(parser, "changes, as training.learning_rate=1e-4")
    parser.add_argument("--dry-run", action="store_true", help="do everything up to the first step, then stop")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that output_dir holds")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in output_dir")


# ---- output ----


def say(text: str) -> None:
    """Write text to standard output, without secrets."""
    sys.stdout.write(masked(text) + "\n")


# ---- what happens around the work ----


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command in order, as the keyboard's interrupt does."""


def run_command(function: Callable[[], None]) -> None:
    """Do the work of a command: log to standard error without secrets, and end the process as the shell expects.

    Raises:
        SystemExit: A mistake of the user, in one line (code 1), or a signal (128 + its number).
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_MASK)
    logging.getLogger("mtl_hf").setLevel(logging.INFO)
    try:
        with ended_in_order():
            _hide_bars()
            function()
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        if os.environ.get("MTL_HF_TRACEBACK"):
            raise
        sys.exit(f"mtl-hf: {masked_message(str(error))}")
    except KeyboardInterrupt as stopped:
        sys.stderr.write("mtl-hf: stopped. (`train` goes on from its newest whole checkpoint with --resume; `compare`"
                         " and `tune` go on when they are started again.)\n")  # fmt: skip
        sys.exit(128 + (signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT))


def _hide_bars() -> None:
    """Hide transformers' bars over weights; in a file, also those of downloads and of encoding."""
    if not sys.stderr.isatty():
        hidden = os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if "datasets" in sys.modules and hidden == "1":  # it has read the variable already
            sys.modules["datasets"].disable_progress_bars()
        if "transformers" not in sys.modules:  # whose import takes a second, and obeys the second variable
            return
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the Hub's, too
    if sys.stderr.isatty():
        enable_progress_bars()


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM raise an exception in the block, so that locks are released and started processes are ended.

    Not in one of several processes of a launcher (`training/processes.py`), nor outside of the main thread.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a worker that was forked, and is to end at once
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
