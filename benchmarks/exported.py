"""An exported model against the model in torch: speed, answers, and what it takes to start.

    mtl-hf export outputs/snips --to snips-onnx data=data
    mtl-hf export outputs/snips --to snips-int8 --quantize int8 data=data
    python benchmarks/exported.py --data data --model outputs/snips --exported snips-onnx snips-int8

Both answer SNIPS test sentences one by one and in batches of 32, with one thread, in blocks that alternate in one
process: medians of the ratios of neighbouring blocks. Then all test sentences are answered, alone and in batches, and
compared.
The start is a process of its own, from its first import to its first answer.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mtl_hf import MultiTaskModel
from mtl_hf.inference import OnnxModel
from mtl_hf.inference.onnx.parity import same_answer

START = """
import re, sys, time
begin = time.perf_counter()
from mtl_hf.inference import OnnxModel
OnnxModel(sys.argv[1], threads=1).predict([sys.argv[2]])
seconds = time.perf_counter() - begin
memory = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(seconds, memory, *({"torch", "transformers"} & set(sys.modules)))
"""


def speed(models: dict[str, Any], texts: list[str], batch_size: int, blocks: int) -> dict[str, list[float]]:
    """Seconds of each block of each model; the order of the models alternates."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for block in range(blocks + 1):
        some = [texts[(block * 64 + number) % len(texts)] for number in range(64)]
        for name in list(models)[:: 1 if block % 2 else -1]:
            started = time.perf_counter()
            for begin in range(0, len(some), batch_size):
                models[name].predict(some[begin : begin + batch_size], batch_size=batch_size)
            if block:  # the first one warms up
                taken[name].append(time.perf_counter() - started)
    return taken


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/test.jsonl")
    parser.add_argument("--model", default="outputs/snips")
    parser.add_argument("--exported", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--blocks", type=int, default=15)
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in (arguments.data / "snips" / "test.jsonl").read_text("utf-8").splitlines()]
    texts = [" ".join(row["tokens"]) for row in rows]
    model: Any = MultiTaskModel.from_pretrained(arguments.model).eval()
    models = {"torch": model} | {Path(folder).name: OnnxModel(folder, threads=1) for folder in arguments.exported}

    print("| answers a second | torch | " + " | ".join(f"{name} (ratio)" for name in list(models)[1:]) + " |")
    print("|---" * (len(models) + 1) + "|")
    for batch_size in (1, 32):
        taken = speed(models, texts, batch_size, arguments.blocks)
        cells = [f"{64 / median(taken['torch']):.0f}"]
        for name in list(models)[1:]:
            ratio = median(one / other for one, other in zip(taken["torch"], taken[name], strict=True))
            cells.append(f"{64 / median(taken[name]):.0f} ({ratio:.2f})")
        print(f"| {'one text' if batch_size == 1 else '32 texts'} | {' | '.join(cells)} |", flush=True)

    for name, exported in list(models.items())[1:]:
        compare(name, model, exported, texts)


def compare(name: str, model: MultiTaskModel, exported: OnnxModel, texts: list[str]) -> None:
    """Print how far the answers agree, and what the start takes."""
    ours, theirs, alone = model.predict(texts), exported.predict(texts), exported.predict(texts, batch_size=1)
    for task in ours[0]:
        alike = [_labels(one[task]) == _labels(other[task]) for one, other in zip(ours, theirs, strict=True)]
        same = [same_answer(one[task], other[task]) for one, other in zip(theirs, alone, strict=True)]
        print(f"{name}, {task}: {100 * np.mean(alike):.2f} % of {len(texts)} texts are answered as by torch, and"
              f" {100 * np.mean(same):.2f} % alone as in a batch")  # fmt: skip
    cosine = (exported.encode(texts, normalize=True) * model.encode(texts, normalize=True).numpy()).sum(1).min()
    apart = np.abs(exported.encode(texts[:100], batch_size=1) - exported.encode(texts[:100], batch_size=100)).max()
    print(f"{name}, embeddings: least cosine {cosine:.4f}; alone and in a batch they differ by {apart:.1e}")
    command = [sys.executable, "-c", START, str(exported.folder), texts[0]]
    starts = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(5)]
    seconds, memory = (median(float(found[place]) for found in starts) for place in (0, 1))
    imported = ", ".join(starts[0][2:]) or "neither torch nor transformers"
    print(f"{name}, start and first answer: {seconds:.2f} s, {memory:.0f} MB, imports {imported}")


def _labels(answer: Any) -> Any:
    """An answer without its numbers."""
    if isinstance(answer, list):
        return [_labels(one) for one in answer]
    return {key: value for key, value in answer.items() if key != "score"}


if __name__ == "__main__":
    main()
