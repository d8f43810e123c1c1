"""`mtl-hf serve` as a process: it answers over a socket, and ends in order at a signal, without leaving anything."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from mtl_hf import cli
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import SENTENCES

TRAINING_TOKEN = "token-of-the-operator"


@pytest.fixture(scope="module")
def folder(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["booking", "music", "weather"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city"], text="words")
    path = tmp_path_factory.mktemp("serve") / "assistant"
    model.save_pretrained(path)
    return path


@contextmanager
def serving(folder: Path, log: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "mtl_hf", "serve", str(folder), "--port", "0", "--backend", "torch", *options]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"^Serving .* at http://127\.0\.0\.1:(\d+) ", log.read_text("utf-8"), re.M)):
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()


def ask(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"} | headers)
    response = connection.getresponse()
    found = json.loads(response.read())
    connection.close()
    return response.status, found


@pytest.mark.usefixtures("processes")
def test_requests_in_flight_are_answered_after_a_signal(folder: Path, tmp_path: Path) -> None:
    log, answers = tmp_path / "log", []
    with serving(folder, log, "--max-batch", "1") as (process, port):  # 600 passes, so that the signal meets some
        expected = MultiTaskModel.from_pretrained(folder).predict(SENTENCES)
        status, found = ask(port, "POST", "/predict", {"sentences": SENTENCES})
        assert status == 200
        assert [one["tasks"]["intent"]["label"] for one in found["predictions"]] == [
            one["intent"]["label"] for one in expected
        ]

        def client(number: int) -> None:
            sentences = [f"{SENTENCES[number % 8]} {number} {other}" for other in range(50)]
            answers.append(ask(port, "POST", "/predict", {"sentences": sentences})[0])

        threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while not re.search(r"^mtl_hf_waiting_sentences [1-9]", _metrics(port), re.M):
            assert time.monotonic() < end
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(60) == 0
        accepted = [status for status in answers if status]
        assert accepted == [200] * 12
    assert log.read_text("utf-8").splitlines()[-1] == "Stopped."


def _metrics(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.mark.usefixtures("processes")
def test_a_server_over_a_socket_takes_what_clients_do_wrong(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(folder, log, "--max-body", "2000", "--timeout", "2") as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            raw.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40000000\r\n\r\n")
            assert raw.recv(4000).startswith(b"HTTP/1.1 413 ")  # before any of it is sent
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            raw.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{")
            assert raw.recv(4000).startswith(b"HTTP/1.1 408 ")  # the rest never comes
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            raw.sendall(b"GET /tasks HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert raw.recv(4000).startswith(b"HTTP/1.1 400 ")
        for part in (
            b"\x00\x01garbage\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
                raw.sendall(part)  # and leave
        assert ask(port, "POST", "/predict", {"sentences": ["a secret text " * 200]})[0] == 413
        assert ask(port, "POST", "/predict", {"sentences": ["a secret text"], "tasks": ["nothing"]})[0] == 422
        assert ask(port, "GET", "/ready")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "secret" not in log.read_text("utf-8")


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_run_outlives_the_server(folder: Path, encoder_folder: str, tmp_path: Path, number: int) -> None:
    rows = [json.dumps({"text": f"{text} {at}", "label": "ab"[at % 2]}) + "\n" for at, text in enumerate(SENTENCES * 3)]
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    (tmp_path / "long.yaml").write_text(
        f"""
model: {{encoder: {encoder_folder}}}
sources: {{rows: {{path: json, data_files: {tmp_path}/rows.jsonl, text: text}}}}
tasks: {{label: {{type: sequence_classification, source: rows, label: label}}}}
training: {{max_steps: 100000, logging_steps: 1, precision: fp32, use_cpu: true, disable_tqdm: true}}
""",
        encoding="utf-8",
    )
    options = ["--allow-training", str(tmp_path / "long.yaml"), "--runs", str(tmp_path / "runs")]
    headers = {"Authorization": f"Bearer {TRAINING_TOKEN}"}
    log = tmp_path / "log"
    with serving(folder, log, *options, MTL_HF_TRAINING_TOKEN=TRAINING_TOKEN) as (process, port):
        assert ask(port, "POST", "/train", {"config": "long"}, **headers)[0] == 202
        end = time.monotonic() + 120
        while (run := ask(port, "GET", "/runs/long-1", **headers)[1])["step"] is None:
            assert run["state"] == "running", run
            assert time.monotonic() < end
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        assert all(TRAINING_TOKEN not in str(child.environ()) for child in children if sys.executable in child.exe())
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -number)
        assert psutil.wait_procs(children, 60)[1] == []


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (["--port", "70000"], {}, "`--port` is 70000"),
        (["--host", "nowhere.invalid"], {}, "cannot listen on nowhere.invalid"),
        (["--token", "short"], {}, "`--token` should have at least 8 characters"),
        ([], {"MTL_HF_TOKEN": ""}, "`MTL_HF_TOKEN` should have at least 8 characters"),
        (["--allow-training", "run.yaml"], {}, "`--allow-training` needs a token: set the environment variable"),
        (["--max-batch", "0"], {}, "the limit of `batch` is 0"),
        (["--max-queue", "10"], {}, "`--max-queue` is 10"),
    ],
)
def test_options_that_are_wrong_are_refused_before_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", str(folder), *options])
    assert expected in stopped.value.code
    assert "\n" not in stopped.value.code


def test_without_the_extra_the_error_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fastapi" else True)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", str(folder)])
    assert stopped.value.code == "mtl-hf: `serve` needs fastapi: pip install 'mtl_hf[serve]'"
