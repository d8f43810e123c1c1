"""What every command shares: parsing of arguments, logging, signals, and one-line errors for mistakes of the user.

Notable: `run.py` and the verbs in `cli/` use it. Nothing heavy is imported here, so `--help` is fast.
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
    """Like `parse_args`, but items of a list may also come after flags, where argparse does not accept them.

    After a config only `a.b=c` is accepted; models, texts, files and names may be any words without a leading dash.
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
    # Without a default, argparse reports an optional list as required.
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help=meaning)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of training, and a help text that explains every field of the YAML."""
    parser.description = "Train one encoder with several task heads from one YAML file, then score and save the model."
    plain_help = parser.format_help

    def format_help() -> str:
        from .tasks import TASK_TYPES  # a slow import, only for the help of `train`

        options = {name: kind.options for name, kind in TASK_TYPES.items()}
        parser.epilog = f"fields of the YAML\n------------------\n{describe(options)}"
        return plain_help()

    parser.format_help = format_help  # type: ignore[method-assign]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="a YAML file")
    add_overrides(parser, "changes to the config, such as training.learning_rate=1e-4")
    parser.add_argument("--dry-run", action="store_true", help="check everything up to the first step, then stop")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in output_dir")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest complete checkpoint in output_dir"
    )


# ---- output ----


def print_masked(text: str) -> None:
    """Write text to standard output, without secrets."""
    sys.stdout.write(masked(text) + "\n")


# ---- what happens around the work ----


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command in the same way as a keyboard interrupt."""


def run_command(function: Callable[[], None]) -> None:
    """Run a command: log to standard error without secrets, and exit with the code that the shell expects.

    Raises:
        SystemExit: A mistake of the user, as a one-line message (code 1), or a signal (128 + its number).
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_MASK)
    logging.getLogger("mtl_hf").setLevel(logging.INFO)
    try:
        with ended_in_order():
            _hide_bars()
            function()
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        if os.environ.get("MTL_HF_TRACEBACK"):
            raise
        sys.exit(f"mtl-hf: {masked_message(str(error))}")
    except KeyboardInterrupt as stopped:
        sys.stderr.write("mtl-hf: stopped. (`train --resume` continues from the newest complete checkpoint; `compare`"
                         " and `tune` continue when you run the same command again.)\n")  # fmt: skip
        sys.exit(128 + (signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT))


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Let a logger, and those below it that have no level of their own, log errors only."""
    found = logging.getLogger(name)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)


def _hide_bars() -> None:
    """Hide transformers' progress bars over weights; outside a terminal, also those of downloads and encoding."""
    if not sys.stderr.isatty():
        hidden = os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if "datasets" in sys.modules and hidden == "1":  # it has read the variable already
            sys.modules["datasets"].disable_progress_bars()
        if "transformers" not in sys.modules:  # importing it takes a second; it will read the second variable
            return
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the Hub's, too
    if sys.stderr.isatty():
        enable_progress_bars()


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM raise an exception in the block, so that locks are released and child processes are ended.

    Does nothing in one of several processes of a launcher (`training/processes.py`) or outside the main thread.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a forked worker, which should exit at once
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
