"""Commands of Python in forks of the test's process, where everything is imported; a new process takes 6 s to do so.

Notable: as a real process, a fork has its own memory, streams, environment, working directory and exit code. What
modules read from the environment when they were imported stays as it was, except the constants of huggingface_hub.
"""

import contextlib
import gc
import importlib
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from accelerate.state import AcceleratorState
from huggingface_hub import constants, hf_api
from tqdm import tqdm


class ForkedPopen(subprocess.Popen):
    """`subprocess.Popen`; where it would start our Python, a fork of this process runs the code."""

    def __init__(self, args: Sequence[Any], *, env: Mapping[str, str] | None = None, **options: Any) -> None:
        if args[0] == sys.executable:
            words = [str(word) for word in args[1:]]
            options["preexec_fn"] = lambda: _become(words, env)  # which never returns: no program is executed
        super().__init__(args, env=env, **options)


def _become(words: list[str], environment: Mapping[str, str] | None) -> NoReturn:
    """Run `-c CODE`, `-m MODULE` or a script, with its arguments, and end the process as the interpreter does."""
    code = 1
    try:
        os.closerange(3, 4096)  # of the test's process; `Popen` waits until one of them is closed
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as the interpreter does; `Popen` has restored the default
        sys.stdin, sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(number, mode, closefd=False), encoding="utf-8", line_buffering=mode == "wb")
            for number, mode in enumerate(("rb", "wb", "wb"))
        )
        gc.freeze()
        _forget_the_test(environment)
        code = _exit_code(words)
    except BaseException:  # noqa: BLE001  as the interpreter
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.flush()
        os._exit(code)


def _forget_the_test(environment: Mapping[str, str] | None) -> None:
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
        importlib.reload(constants)  # `HF_HOME` and its like
        hf_api.api.endpoint = constants.ENDPOINT
    logging.getLogger().handlers.clear()  # pytest's
    for logger in list(logging.root.manager.loggerDict.values()):
        for handler in logger.handlers if isinstance(logger, logging.Logger) else []:
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stderr
    warnings.resetwarnings()
    warnings.simplefilter("ignore", ResourceWarning)
    tqdm.set_lock(threading.RLock())  # another thread may have held the old one
    AcceleratorState._reset_state(reset_partial_state=True)


def _exit_code(words: list[str]) -> int:
    try:
        match [word for word in words if word not in ("-u", "-I")]:
            case ["-c", code, *rest]:
                sys.argv = ["-c", *rest]
                exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            case ["-m", module, *rest]:
                sys.argv = [module, *rest]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case [script, *rest]:
                sys.argv = [script, *rest]
                runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        sys.stderr.write(f"{error.code}\n")
        return 1
    return 0
