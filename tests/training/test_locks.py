"""Tests of `mtl_hf.training.locks`: a run has its folder to itself."""

import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

import mtl_hf
from mtl_hf.training import locks
from mtl_hf.training.locks import LOCK, lock_folder
from tests.conftest import two_source_config

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0)


def hold(folder: Path, held: Any, end: Any) -> None:
    with lock_folder(folder, "here"):
        (folder / "weights").write_text("mine", encoding="utf-8")
        held.set()
        end.wait(240)


def test_a_folder_in_use_is_refused_with_who_has_it_and_a_dead_owner_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    held, end = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(folder, held, end))
    process.start()
    assert held.wait(120)
    expected = rf"`here`: {folder} is in use by process {process.pid} on {socket.gethostname()} \(since \d{{4}}-"
    with pytest.raises(ValueError, match=expected), lock_folder(folder, "here"):
        pytest.fail("two have it")
    os.kill(int(process.pid or 0), signal.SIGKILL)
    process.join()
    assert (folder / LOCK).is_file()
    with lock_folder(folder, "here"):
        assert f"{folder} was locked by process {process.pid} on" in caplog.text
        assert str(os.getpid()) in (folder / LOCK).read_text(encoding="utf-8")
    assert [path.name for path in folder.iterdir()] == ["weights"]


def test_a_lock_that_was_cut_short_or_left_empty_is_taken_over(tmp_path: Path) -> None:
    for content in ("", '{"host": "a', "null\n"):
        (tmp_path / LOCK).write_text(content, encoding="utf-8")
        with lock_folder(tmp_path, "here"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_made_for_nothing_go_again_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("a/b", "there"):
        with lock_folder(tmp_path / name, "here"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_second_run_is_refused_before_it_has_changed_anything(
    options: dict[str, bool], encoder_folder: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoint-2").mkdir(parents=True)
    for name in ("run.yaml", "model.safetensors", "checkpoint-2/model.safetensors"):
        (folder / name).write_text("theirs", encoding="utf-8")
    with lock_folder(folder, "here"):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=r"`training\.output_dir`: .*run is in use by process"):
            mtl_hf.train(two_source_config(encoder_folder, folder), **options)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_dry_run_and_a_rank_that_is_not_the_first_take_no_lock(
    encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*args: Any, **options: Any) -> dict[str, bool]:
        return {"locked": (tmp_path / "run" / LOCK).exists()}

    monkeypatch.setattr("mtl_hf.run._train", train)
    config = two_source_config(encoder_folder, tmp_path / "run")
    assert mtl_hf.train(config) == {"locked": True}
    assert mtl_hf.train(config, dry_run=True) == {"locked": False}
    monkeypatch.setenv("RANK", "1")
    assert mtl_hf.train(config) == {"locked": False}
    assert not (tmp_path / "run").exists()
