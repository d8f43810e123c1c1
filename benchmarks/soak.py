"""`mtl-hf serve` under mixed load: right, wrong and abandoned requests, swaps of the model, training runs, SIGTERM.

    python benchmarks/soak.py --minutes 10

A server of a small model may train a config of the quickstart's data. Meanwhile some clients send texts and compare
every answer with that of the model it names, others send what has to be refused, or leave before the answer; another
one activates the models in turn. At the end a training run is under way and requests are in flight when SIGTERM comes.
Shown are wrong answers, accepted requests without an answer, memory in the first and in the last half, and processes
that are left; the exit code is 1 if any of these is not as it should be.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import torch
from serving import ENCODER, Server

from mtl_hf import MultiTaskModel
from mtl_hf.config import resolve_path

TOKEN = "token-of-the-operator"
BAD = [
    (b'{"sentences": ["cut', 400), (b'{"sentences": []}', 422), (b'{"sentences": [""]}', 422),
    (b'{"sentences": [NaN]}', 422),
    (b'{"sentences": ["a"], "tasks": ["nothing"]}', 422), (b'{"sentences": ["a"], "top_k": 0}', 422),
    (b'{"sentences": ["\\ud800"]}', 422), (b'{"sentences": ["' + b"a" * 20_000 + b'"]}', 422),
    (b'{"sentences": ["' + b"a" * 2**21 + b'"]}', 413), (b"[" * 100_000, 400),
]  # fmt: skip
CONFIG = """
model: {{encoder: {encoder}, max_length: 64}}
sources:
  assistant: {{path: json, data_files: {{train: {data}/train.jsonl, test: {data}/test.jsonl}}, text: tokens}}
tasks:
  intent: {{type: sequence_classification, source: assistant, label: intent}}
  slots: {{type: token_classification, source: assistant, label: slots}}
training: {{max_steps: {steps}, logging_steps: 1, save_strategy: "no", eval_strategy: "no",
  load_best_model_at_end: false, disable_tqdm: true, use_cpu: true}}
"""


async def ask(port: int, method: str, path: str, body: bytes = b"", host: str = "localhost") -> tuple[int, Any]:
    """One request over a connection of its own: status and JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        if len(body) < 2**20:
            writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(await reader.read())
    finally:
        writer.close()


class Soak:
    """The clients.

    Args:
        server: The server.
        texts: Texts of right requests.
        expected: Id of a model → its answer to each text.
        folder: Where runs are.
    """

    def __init__(self, server: Server, texts: list[str], expected: dict[str, list[Any]], folder: Path) -> None:
        self.port = server.port
        self.pid = server.process.pid
        self.texts, self.expected, self.folder = texts, expected, folder
        self.counts: Counter[str] = Counter()
        self.memory: list[float] = []
        self.open = True

    async def right(self) -> None:
        """Texts, whose answers have to be those of the model that they name."""
        while self.open:
            chosen = random.sample(range(len(self.texts)), random.choice((1, 1, 1, 5, 40)))
            body = json.dumps({"sentences": [self.texts[number] for number in chosen]}).encode()
            self.counts["sent"] += 1
            try:
                status, found = await ask(self.port, "POST", "/predict", body)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.counts["lost"] += 1
                print(f"lost: {type(error).__name__}", flush=True)
                continue
            if status == 503:
                self.counts["refused, queue full"] += 1
                await asyncio.sleep(1)
                continue
            expected = self.expected[found["model"]] if status == 200 else None
            right = status == 200 and all(
                same(one["tasks"], expected[number]) for number, one in zip(chosen, found["predictions"], strict=True)
            )
            self.counts["right" if right else "wrong"] += 1

    async def bad(self) -> None:
        """Requests that have to be refused."""
        while self.open:
            body, expected = random.choice(BAD)
            status, _ = await ask(self.port, "POST", "/predict", body)
            self.counts["refused" if status == expected else "wrong"] += 1
            if self.open:
                status, _ = await ask(self.port, "GET", "/tasks", host="evil.example")
                self.counts["refused" if status == 400 else "wrong"] += 1
            await asyncio.sleep(0.2)

    async def leaving(self) -> None:
        """Clients that leave before the answer."""
        while self.open:
            request = asyncio.create_task(
                ask(self.port, "POST", "/predict", json.dumps({"sentences": self.texts}).encode())
            )
            await asyncio.sleep(random.random() * 0.1)
            request.cancel()
            await asyncio.wait([request])
            self.counts["left"] += 1
            await asyncio.sleep(0.2)

    async def operator(self) -> None:
        """Train a model, then serve it and the first one in turn, and train on."""
        await ask(self.port, "POST", "/train", b'{"config": "short"}')
        while self.open:
            await asyncio.sleep(1)
            if not self.open:
                return
            _, run = await ask(self.port, "GET", "/runs/short-1")
            assert run["state"] in ("running", "finished"), run
            if run["state"] == "finished":
                break
        self.expected["short-1"] = await asyncio.to_thread(answers, self.folder / "short-1", self.texts)
        if self.open:
            await ask(self.port, "POST", "/train", b'{"config": "long"}')
        while self.open:
            for name in ("short-1", "first"):
                if not self.open:
                    return
                status, _ = await ask(self.port, "POST", f"/models/{name}/activate")
                self.counts["swaps" if status == 200 else "wrong"] += 1
                await asyncio.sleep(2)

    async def watch(self) -> None:
        """The memory of the server."""
        while self.open:
            self.memory.append(psutil.Process(self.pid).memory_info().rss / 2**20)
            await asyncio.sleep(1)

    async def run(self, seconds: float) -> None:
        """All clients for some time; then SIGTERM while requests are in flight."""
        clients = [self.right() for _ in range(6)] + [self.bad(), self.leaving(), self.operator(), self.watch()]
        tasks = [asyncio.create_task(client) for client in clients]
        await asyncio.sleep(seconds)
        self.open = False  # what has been sent is in flight now; nothing more is sent
        await asyncio.sleep(0.02)
        os.kill(self.pid, signal.SIGTERM)
        await asyncio.gather(*tasks)


def same(found: Any, expected: Any) -> bool:
    """Whether two answers are equal, numbers up to 1e-3: batches pad differently."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return abs(found - expected) < 1e-3 if isinstance(expected, float) else found == expected


def answers(folder: Path, texts: list[str]) -> list[Any]:
    """The answers of a saved model."""
    torch.set_num_threads(1)
    return MultiTaskModel.from_pretrained(folder).eval().predict(texts)


def main() -> None:
    """Run, print the counts, and exit with 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    data = Path(resolve_path("package:mtl_hf/data/samples/assistant"))
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text("utf-8").splitlines()]
    texts = [" ".join(row["tokens"]) for row in rows][:100]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.manual_seed(13)
        model = MultiTaskModel.from_encoder(resolve_path(ENCODER), max_length=64)
        model.add_head("intent", type="sequence_classification", labels=sorted({row["intent"] for row in rows}))
        model.save_pretrained(folder / "first")
        configs = []
        for name, steps in (("short", 3), ("long", 100_000)):
            configs.append(str(folder / f"{name}.yaml"))
            Path(configs[-1]).write_text(CONFIG.format(encoder=ENCODER, data=data, steps=steps), encoding="utf-8")
        options = ["--allow-training", *configs, "--runs", str(folder / "runs")]
        server = Server(folder / "first", folder / "log", *options, MTL_HF_TRAINING_TOKEN=TOKEN)
        soak = Soak(server, texts, {"first": answers(folder / "first", texts)}, folder / "runs")
        began = time.monotonic()
        children: list[psutil.Process] = []

        async def run() -> None:
            seconds = 60 * arguments.minutes
            running = asyncio.create_task(soak.run(seconds))
            await asyncio.sleep(max(0.0, seconds - 1))
            children.extend(psutil.Process(server.process.pid).children(recursive=True))
            await running

        asyncio.run(run())
        code = server.process.wait(60)
        _, left = psutil.wait_procs(children, 30)
        log = (folder / "log").read_text(encoding="utf-8")
    later = soak.memory[len(soak.memory) // 2 :]
    earlier = soak.memory[len(soak.memory) // 4 : len(soak.memory) // 2]
    print(f"{time.monotonic() - began:.0f} s", dict(soak.counts))
    print(f"memory, MB: at most {max(earlier):.0f} in the second quarter, {max(later):.0f} in the last half")
    print(f"exit code {code}; children at the end: {len(children)}, left: {len(left)}")
    texts_in_log = [text for text in texts if text in log]
    flat = max(later) < 1.1 * max(earlier)
    if soak.counts["wrong"] or soak.counts["lost"] or left or code or texts_in_log or not flat or not children:
        print(re.sub(r"(?m)^", "  ", log[-3000:]))
        sys.exit(1)


if __name__ == "__main__":
    main()
