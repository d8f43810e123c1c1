"""Tests of `mtl_hf.experiments.run_processes`: processes that never outlive the one that started them."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from mtl_hf.experiments import run_processes
from mtl_hf.experiments.compare import _each
from mtl_hf.experiments.run_processes import RunProcesses

# A run that launches one more process, and notes both.
RUN = """
import os, subprocess, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {other.pid}")
time.sleep(60)
"""
PARENT = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from mtl_hf.experiments.run_processes import RunProcesses
processes = RunProcesses()
def run(path):
    return processes.run(%r, [path], stdout=sys.stderr, stderr=sys.stderr, environment=os.environ)
with ThreadPoolExecutor(2) as pool:
    list(pool.map(run, sys.argv[1:]))
"""


def started(path: Path) -> list[psutil.Process]:
    """A run and what it has launched, once they are there."""
    end = time.monotonic() + 120
    while not (path.exists() and len(path.read_text().split()) == 2):
        assert time.monotonic() < end
        time.sleep(0.05)
    return [psutil.Process(int(number)) for number in path.read_text().split()]


def test_runs_and_what_they_launch_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    parent = subprocess.Popen([sys.executable, "-c", PARENT % RUN, *map(str, files)])
    found = [process for path in files for process in started(path)]
    assert len(found) == 4
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(found, 50)[1] == []


def test_a_run_that_takes_long_to_end_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    slow = (
        "import atexit, signal, time, mtl_hf.experiments.run_child as child\nchild.GRACE = 1\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\natexit.register(time.sleep, 60)\n" + RUN
    )
    parent = subprocess.Popen([sys.executable, "-c", PARENT % slow, str(tmp_path / "one")])
    found = started(tmp_path / "one")
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(found, 50)[1] == []


def test_stopping_ends_all_in_order_waits_for_them_and_starts_nothing_more(tmp_path: Path) -> None:
    processes, codes = RunProcesses(), []

    def run() -> None:
        code = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n" + textwrap.dedent(RUN)
        codes.append(processes.run(code, [str(tmp_path / "one")], stdout=None, stderr=None, environment=os.environ)[0])

    thread = threading.Thread(target=run)
    thread.start()
    found = started(tmp_path / "one")
    processes.stop()
    thread.join(120)
    assert codes == [7], "the run could end in order"
    assert psutil.wait_procs(found, 50)[1] == []
    run()
    assert codes == [7, -signal.SIGTERM]


def test_a_run_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_processes, "GRACE", 0.2)
    processes, codes = RunProcesses(), []
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + RUN
    options = {"stdout": None, "stderr": None, "environment": os.environ}
    thread = threading.Thread(
        target=lambda: codes.append(processes.run(code, [str(tmp_path / "one")], **options)[0])  # type: ignore[arg-type]
    )
    thread.start()
    started(tmp_path / "one")
    processes.stop()
    thread.join(120)
    assert codes == [-signal.SIGKILL]


def test_overrides_arrive_without_being_seen_and_what_a_run_took_is_known(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as output:
        code, usage = RunProcesses().run(
            "print(sys.argv[1:], more, sys.stdin.read())", ["train"], stdout=output, stderr=output,
            environment=os.environ, overrides=["training.hub_token=ü\n"],
        )  # fmt: skip
    assert (code, out.read_text()) == (0, "['train'] ['training.hub_token=ü\\n'] \n")
    assert usage.ru_maxrss > 1000


def test_an_interrupt_ends_the_runs_that_are_under_way_and_begins_no_other(tmp_path: Path) -> None:
    processes, begun = RunProcesses(), []

    def run(name: str) -> int:
        begun.append(name)
        return processes.run(RUN, [str(tmp_path / name)], stdout=None, stderr=None, environment=os.environ)[0]

    found: list[psutil.Process] = []

    def interrupt() -> None:
        found.extend(process for name in ("one", "two") for process in started(tmp_path / name))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), closing(_each(run, ["one", "two", "three"], 2, "", processes)) as results:
        list(results)
    thread.join()
    assert len(found) == 4
    assert psutil.wait_procs(found, 50)[1] == []
    assert sorted(begun) == ["one", "two"]
