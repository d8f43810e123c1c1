"""A training step, timed; for the benchmarks that compare two kinds of steps in one process."""

import time
from typing import Any

import torch

from mtl_hf.training.trainer import MultiTaskTrainer


def take_step(trainer: MultiTaskTrainer, optimizer: torch.optim.Optimizer, inputs: dict[str, Any]) -> float:
    """Take one optimiser step on a batch and return its seconds."""
    started = time.perf_counter()
    with trainer.accelerator.autocast():
        loss = trainer.model(**inputs, heads=tuple(inputs["labels"])).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started
