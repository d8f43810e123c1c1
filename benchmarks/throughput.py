"""Training speed on SNIPS, measured in alternating blocks.

    python benchmarks/throughput.py --data data

1. Rows per second of the package and of a hand-written loop with the same recipe (one forward for both losses, length
   buckets, bf16 autocast, fused AdamW, the same encoder, dropout and batch size). Blocks of steps alternate: the
   Trainer's callback runs the same number of steps of the loop after each block, outside the Trainer's time.
2. Labelled rows ((row, task) pairs) per second: two tasks on one source, and the same rows declared as two sources of
   one task each. Each trainer runs in its own process, as users run them, and they take turns in blocks of steps.

The results are medians over blocks and medians of the ratios of neighbouring blocks.
"""

import argparse
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from statistics import median
from typing import Any

import torch
from handwritten import Recipe, prepare, step_iterator
from transformers import TrainerCallback

from mtl_hf.config import RunConfig
from mtl_hf.run import build
from mtl_hf.training.trainer import MultiTaskTrainer

CONFIG = Path(__file__).parent.parent / "configs" / "snips.yaml"
WARM_UP = 1  # blocks


class Alternate(TrainerCallback):
    """Runs a block of another side after every block of the Trainer's steps; records the seconds of both.

    Args:
        other: Takes a block of steps and returns its rows.
        block: Steps a block.
    """

    def __init__(self, other: Callable[[], int], block: int) -> None:
        self.other, self.block = other, block
        self.own_seconds: list[float] = []
        self.other_seconds: list[float] = []
        self.other_rows: list[int] = []
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End of a step, perhaps of a block."""
        if state.global_step % self.block:
            return
        now = time.perf_counter()
        self.own_seconds.append(now - self._started)
        self.other_rows.append(self.other())
        self._started = time.perf_counter()
        self.other_seconds.append(self._started - now)


def make_trainer(data: Path, steps: int, folder: str, changes: dict[str, Any]) -> MultiTaskTrainer:
    """The trainer of `configs/snips.yaml`, for a number of steps and without evaluation."""
    config = RunConfig.load(CONFIG, [f"data={data}"]).to_dict() | changes
    config["training"] |= {
        "output_dir": folder, "max_steps": steps, "eval_strategy": "no", "save_strategy": "no",
        "load_best_model_at_end": False, "disable_tqdm": True,
    }  # fmt: skip
    return build(config).trainer


def against_loop(data: Path, blocks: int, block: int, folder: str) -> tuple[float, float, float]:
    """Rows per second of the package and of the loop, and the ratio."""
    steps = blocks * block
    run = RunConfig.load(CONFIG, [f"data={data}"])
    training = run.training
    batch_size = int(run.sources["snips"].batch_size or 0)
    recipe = Recipe(
        learning_rate=float(training["learning_rate"]),
        head_learning_rate=float(training["head_learning_rate"]),
        layerwise_lr_decay=float(training["layerwise_lr_decay"]),
        weight_decay=float(training["weight_decay"]),
        warmup_steps=float(training["warmup_steps"]),
        batch_size=batch_size,
        max_length=run.model.max_length or 512,
        attention=run.model.attn_implementation or "sdpa",
    )
    loop = step_iterator(prepare(data / "snips", recipe, seed=13, max_steps=steps))
    alternate = Alternate(lambda: sum(next(loop).rows for _ in range(block)), block)
    trainer = make_trainer(data, steps, folder, {})
    trainer.add_callback(alternate)
    trainer.train()
    own = [block * batch_size / seconds for seconds in alternate.own_seconds[WARM_UP:]]
    other = [
        rows / seconds
        for rows, seconds in zip(alternate.other_rows[WARM_UP:], alternate.other_seconds[WARM_UP:], strict=True)
    ]
    return median(own), median(other), median(a / b for a, b in zip(own, other, strict=True))


class TakeTurns(TrainerCallback):
    """Lets two trainers in separate processes take turns: one takes a block of steps while the other waits.

    Args:
        own: Released when this side may continue.
        other: Released when the other side may continue.
        block: Steps a block.
    """

    def __init__(self, own: Semaphore, other: Semaphore, block: int) -> None:
        self.own, self.other, self.block = own, other, block
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the first turn."""
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At the end of a block, record its seconds and let the other side continue."""
        if state.global_step % self.block == 0:
            self.seconds.append(time.perf_counter() - self._started)
            self.other.release()
            if state.global_step < state.max_steps:
                self._wait()

    def _wait(self) -> None:
        if not self.own.acquire(timeout=600):
            raise TimeoutError("the other trainer has not finished its block.")
        self._started = time.perf_counter()


def race(makers: Sequence[Callable[[], MultiTaskTrainer]], block: int) -> list[list[float]]:
    """Let two trainers take turns in blocks; return the seconds of each block of each trainer, without the first.

    Args:
        makers: Functions that create the trainers; each is called in the process of its trainer.
        block: Steps a block.
    """
    context = multiprocessing.get_context("spawn")
    turns = context.Semaphore(1), context.Semaphore(0)
    ends = []
    for make, (own, other) in zip(makers, (turns, turns[::-1]), strict=True):
        receive, send = context.Pipe(duplex=False)
        context.Process(target=_take_turns, args=(make, own, other, block, send), daemon=True).start()
        send.close()  # so that the failure of a process is noticed here
        ends.append(receive)
    return [end.recv() for end in ends]


def _take_turns(
    make: Callable[[], MultiTaskTrainer], own: Semaphore, other: Semaphore, block: int, send: Connection
) -> None:
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_flush_denormal(True)  # for both sides
    side = TakeTurns(own, other, block)
    trainer = make()
    trainer.add_callback(side)
    trainer.train()
    send.send(side.seconds[WARM_UP:])


def one_source_against_two(data: Path, blocks: int, block: int, folder: str) -> tuple[float, float, float]:
    """Labelled rows per second with two tasks on one source, with the same rows as two sources, and the ratio."""
    config = RunConfig.load(CONFIG, [f"data={data}"]).to_dict()
    source, tasks = config["sources"]["snips"], config["tasks"]
    apart = {
        "sources": {f"snips_{name}": source for name in tasks},
        "tasks": {name: spec | {"source": f"snips_{name}"} for name, spec in tasks.items()},
    }
    makers = [partial(make_trainer, data, blocks * block, folder, changes) for changes in ({}, apart)]
    rows = block * source["batch_size"]
    together, single = (
        [labels * rows / value for value in seconds]
        for labels, seconds in zip((2, 1), race(makers, block), strict=True)
    )
    return median(together), median(single), median(a / b for a, b in zip(together, single, strict=True))


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/*.jsonl")
    parser.add_argument("--blocks", type=int, default=11, help="blocks, the first of which is not counted")
    parser.add_argument("--block", type=int, default=30, help="steps a block")
    parser.add_argument("--only", choices=["loop", "sources"])
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_flush_denormal(True)  # for both sides
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "sources":
            own, other, ratio = against_loop(arguments.data, arguments.blocks, arguments.block, folder)
            print(f"| rows/s | mtl_hf {own:.0f} | hand-written loop {other:.0f} | ratio {ratio:.3f} (bound 0.97) |")
        if arguments.only != "loop":
            own, other, ratio = one_source_against_two(arguments.data, arguments.blocks, arguments.block, folder)
            print(
                f"| labelled rows/s | one source {own:.0f} | two sources {other:.0f} | ratio {ratio:.2f} (bound 1.8) |"
            )


if __name__ == "__main__":
    main()
