"""A process that dies: what the others raise and say, and which errors are left alone."""

import os
import signal
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from accelerate.utils import PrepareForLaunch, patch_environment
from transformers import TrainerCallback

from mtl_hf.command import run_command
from mtl_hf.training.processes import report_lost_process
from tests.conftest import two_source_config
from tests.training.conftest import build, make_trainer


class Dies(TrainerCallback):
    """Kills rank 1 as the system would, in mid-training."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == 1 and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_the_others_stop_with_one_line_when_a_process_is_killed(encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))

    def train() -> None:
        torch.set_num_threads(1)
        trainer = make_trainer(built, tmp_path, callbacks=[Dies()], num_train_epochs=1000)
        try:
            run_command(trainer.train)
        except SystemExit as end:
            (tmp_path / "said").write_text(str(end), encoding="utf-8")
            raise

    # As `accelerate.debug_launcher`, which would itself end the process that is left.
    ranks = {"world_size": "2", "master_addr": "127.0.0.1", "master_port": "29500", "omp_num_threads": "1"}
    with patch_environment(accelerate_debug_rdv_file=str(tmp_path / "meet"), accelerate_use_cpu="yes", **ranks):
        processes = [get_context("fork").Process(target=PrepareForLaunch(train, debug=True), args=(rank,))
                     for rank in range(2)]  # fmt: skip
        for process in processes:
            process.start()
        processes[1].join(120)
        processes[0].join(120)
        for process in processes:
            process.kill()  # nothing, unless the test fails
    assert [process.exitcode for process in processes] == [1, -signal.SIGKILL]
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert said.startswith("mtl-hf: rank 0 lost the connection to another of the 2 processes (")
    assert "died or was killed" in said
    assert "\n" not in said
    assert "gloo" not in said


class Group:
    """A process group that is up."""

    DistError = torch.distributed.DistError

    def __init__(self, initialized: bool) -> None:
        self.initialized = initialized

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self.initialized

    def get_rank(self) -> int:
        return 3

    def get_world_size(self) -> int:
        return 4


CLOSED = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2731."
    " This is typically caused by a remote worker crashing. Check the logs of the remote worker before reporting."
)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError(CLOSED), "Connection closed by peer [127.0.0.1]:2731"),
        (torch.distributed.DistBackendError("NCCL watchdog thread\nmore"), "NCCL watchdog thread"),
    ],
)
def test_a_lost_connection_is_said_in_one_line(error, cause, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mtl_hf.training.processes.distributed", Group(True))
    with pytest.raises(ConnectionError) as raised, report_lost_process():
        raise error
    assert str(raised.value).startswith(f"rank 3 lost the connection to another of the 4 processes ({cause}): the run")
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    ("initialized", "error"),
    [
        (True, RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
        (True, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")),
        (False, RuntimeError(CLOSED)),
        (True, ValueError(CLOSED)),
    ],
)
def test_other_errors_are_left_alone(initialized, error, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mtl_hf.training.processes.distributed", Group(initialized))
    with pytest.raises(type(error)) as raised, report_lost_process():
        raise error
    assert raised.value is error


def test_a_lost_process_is_reported_wherever_the_run_talks_to_it(encoder_folder, tmp_path, monkeypatch):
    built = build(two_source_config(encoder_folder, tmp_path))
    trainer = make_trainer(built, tmp_path)
    monkeypatch.setattr("mtl_hf.training.processes.distributed", Group(True))

    def lose(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(CLOSED)

    monkeypatch.setattr(trainer, "evaluation_loop", lose)
    with pytest.raises(ConnectionError, match="rank 3"):
        trainer.score()
    monkeypatch.setattr(trainer, "get_batch_samples", lose)
    with pytest.raises(ConnectionError, match="rank 3"):
        trainer.train()
