"""What surrounds the work of every command: bars that are not shown, and how signals end it."""

import io
import multiprocessing
import re
import signal
import subprocess
import sys
import time

import datasets
import pytest

from mtl_hf.command import ended_in_order, run_command


@pytest.mark.parametrize(("chosen", "hidden"), [(None, True), ("0", False)])
def test_bars_of_datasets_are_hidden_in_a_file_unless_asked_for_though_it_was_imported_before(
    chosen, hidden, monkeypatch
):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for name in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, chosen or "")
        if chosen is None:
            monkeypatch.delenv(name)
    datasets.enable_progress_bars()
    seen = []
    run_command(lambda: seen.append(datasets.are_progress_bars_disabled()))
    assert seen == [hidden]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_a_signal_ends_a_command_in_order_with_its_code(number, code, tmp_path):
    command = (
        "import time; from mtl_hf.command import run_command; from mtl_hf.training.locks import lock_folder\n"
        "def run():\n"
        f"    with lock_folder(__import__('pathlib').Path({str(tmp_path / 'run')!r}), 'to'):\n"
        "        print('on', flush=True); time.sleep(60)\n"
        "run_command(run)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.fullmatch(r"mtl-hf: stopped\. \(`train --resume` continues from .*\)\n", told)
    assert not (tmp_path / "run").exists()


def rest(ready):
    ready.set()
    time.sleep(60)


def test_a_forked_worker_ends_at_sigterm_as_it_would_without_us():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with ended_in_order():
        worker = context.Process(target=rest, args=(ready,))
        worker.start()
    assert ready.wait(30)  # a signal that comes while Python begins in a fork is lost
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == -signal.SIGTERM
