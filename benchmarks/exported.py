"""Speed and answers of exported graphs, in float32 and int8, against the model itself, on the test split of its run.

    python benchmarks/exported.py MODEL ONNX_FOLDER... [data=FOLDER]

Speed: passes with all heads and the embedding over real texts, 1 and 32 a batch, in turns in one process with as many
threads as OMP_NUM_THREADS, against torch in float32; medians of ratios. Answers: `judging.Judge` on the test split,
which chose nothing. Alone and in a batch: the largest difference of an output between a text alone and beside others.
Start: a process of its own, from its first import to its first answer, median of five.
"""

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mtl_hf.inference.onnx.export import load_float
from mtl_hf.inference.onnx.judging import Judge
from mtl_hf.inference.onnx.model import GRAPH, OnnxModel
from mtl_hf.modeling.texts import encode_texts, padded_batches
from mtl_hf.saved.models import find_checkpoint

BATCH_SIZE, NUM_BATCHES, NUM_SINGLE = 32, 6, 24


START = """
import re, sys, time
begin = time.perf_counter()
from mtl_hf.inference import OnnxModel
OnnxModel(sys.argv[1]).predict([sys.argv[2]])
seconds = time.perf_counter() - begin
memory = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(seconds, memory, *({"torch", "transformers"} & set(sys.modules)))
"""


def print_start(name: str, folder: Path, text: str) -> None:
    """Print what the start of an exported model takes."""
    command = [sys.executable, "-c", START, str(folder), text]
    starts = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(5)]
    seconds, memory = (median(float(found[place]) for found in starts) for place in (0, 1))
    imported = ", ".join(starts[0][2:]) or "neither torch nor transformers"
    print(f"{name}: start and first answer {seconds:.2f} s, {memory:.0f} MB, imports {imported}")


def batches_of(model: Any, texts: list[str], size: int) -> list[dict[str, np.ndarray]]:
    """Padded batches of texts in their order."""
    groups = [texts[begin : begin + size] for begin in range(0, len(texts), size)]
    return [batch for group in groups for _, batch in padded_batches(model, encode_texts(model, group, "string"), size)]


def speeds(passes: dict[str, Callable[[Any], Any]], batches: list[Any], rounds: int) -> dict[str, tuple[float, float]]:
    """Name → milliseconds a batch, and the ratio to the first."""
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name in list(passes)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            for batch in batches:
                passes[name](batch)
            taken[name].append((time.perf_counter() - began) / len(batches))
    first = taken[next(iter(passes))][1:]
    return {
        name: (1000 * median(own[1:]), median(one / two for one, two in zip(first, own[1:], strict=True)))
        for name, own in taken.items()
    }


def difference_in_batch(exported: OnnxModel, texts: list[str]) -> float:
    """The largest difference of an output between a text alone and beside others, without padding."""
    names: Any = [None, *exported.heads]
    largest = 0.0
    for begin in range(0, len(texts), BATCH_SIZE):
        group = sorted(texts[begin : begin + BATCH_SIZE], key=len)
        encoded = encode_texts(exported, group, "string")
        for positions, batch in padded_batches(exported, encoded, BATCH_SIZE):
            together = exported.outputs(batch, names)
            for place, position in enumerate(positions):
                alone = exported.outputs(batches_of(exported, [group[position]], 1)[0], names)
                for name in names:
                    own = alone[name][0]
                    beside = together[name][place]
                    beside = beside[: len(own)] if own.ndim > 1 else beside
                    largest = max(largest, float(np.abs(own - beside).max()))
    return largest


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a run folder")
    parser.add_argument("folders", nargs="+", help="exported models, and overrides such as data=FOLDER")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    overrides = [one for one in arguments.folders if "=" in one]
    exported = {Path(one).name: OnnxModel(one) for one in arguments.folders if "=" not in one}
    checkpoint = find_checkpoint(arguments.model)
    plain = checkpoint.load().eval().float()  # with its own attention kernel
    names: Any = [None, *next(iter(exported.values())).heads]
    judge = Judge(load_float(checkpoint), OnnxModel(next(iter(exported.values())).folder), checkpoint, overrides,
                  split="test")  # fmt: skip
    texts = [one if isinstance(one, str) else " ".join(one) for one in judge.texts["single texts"]]
    passes: dict[str, Callable[[Any], Any]] = {"torch": lambda batch: plain.outputs(batch, names)}
    passes |= {name: (lambda batch, own=own: own.outputs(batch, names)) for name, own in exported.items()}
    print(f"| {judge.num_rows} test rows | 1 text, ms | | {BATCH_SIZE} texts, ms | | points | rows alike |"
          " least cosine | alone and in a batch |\n" + "|---" * 9 + "|")  # fmt: skip
    spread = np.random.default_rng(13).permutation(len(texts))
    single = batches_of(plain, [texts[index] for index in spread[:NUM_SINGLE]], 1)
    several = batches_of(plain, [texts[index] for index in spread[: NUM_BATCHES * BATCH_SIZE]], BATCH_SIZE)
    found = [speeds(passes, single, arguments.rounds), speeds(passes, several, arguments.rounds)]
    for name in passes:
        cells = [f"{own[name][0]:.1f} | {own[name][1]:.2f} x" for own in found]
        if name != "torch":
            verdict = judge(exported[name].folder / GRAPH)
            cells += [
                ", ".join(f"{task} {0 - drop:+.2f}" for task, drop in verdict.drops.items()),
                ", ".join(f"{task} {share:.1%}" for task, share in verdict.alike.items()),
                f"{verdict.cosine:.4f}",
                f"{difference_in_batch(exported[name], [texts[index] for index in spread[:96]]):.1e}",
            ]
        print("| " + " | ".join([name, *cells, *[""] * (6 - len(cells))]) + " |", flush=True)
    print()
    for name, own in exported.items():
        print_start(name, own.folder, texts[0])


if __name__ == "__main__":
    main()
