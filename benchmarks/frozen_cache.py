"""Head-only training on SNIPS with cached outputs of the frozen encoder, compared with computing them in every epoch.

    python benchmarks/frozen_cache.py --data data

Both runs use `configs/strategies/frozen_cache.yaml`, the second without the cache, one after the other in one process,
for a few epochs without evaluation; each is scored on the validation split at its end. The results are the seconds per
epoch (the median from the second epoch on), the seconds before the first epoch, in which the cache is computed, and the
scores.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import torch
from transformers import TrainerCallback

from mtl_hf.run import build
from mtl_hf.training.trainer import MultiTaskTrainer

CONFIG = Path(__file__).parent.parent / "configs" / "strategies" / "frozen_cache.yaml"


class EpochClock(TrainerCallback):
    """Records the seconds of each epoch and the start of the first one."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.seconds: list[float] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.begun.append(time.perf_counter())

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self.begun[-1])


def measure(data: Path, epochs: int, rows: int | None, folder: str, changes: list[str]) -> dict[str, Any]:
    """Train, and return seconds per epoch, seconds before the first epoch, and scores."""
    overrides = [
        f"data={data}", f"training.output_dir={folder}", f"training.num_train_epochs={epochs}",
        "training.eval_strategy=no", "training.save_strategy=no", "training.load_best_model_at_end=false",
        "training.disable_tqdm=true", *([f"sources.snips.max_train_rows={rows}"] if rows else []), *changes,
    ]  # fmt: skip
    clock = EpochClock()
    trainer: MultiTaskTrainer = build(CONFIG, overrides).trainer
    trainer.add_callback(clock)
    started = time.perf_counter()
    trainer.train()
    scores = trainer.score()
    return {
        "epoch": median(clock.seconds[1:]),
        "before": clock.begun[0] - started,
        "scores": {name: found[found["primary"]] for name, found in scores["tasks"].items()},
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/*.jsonl")
    parser.add_argument("--epochs", type=int, default=4, help="epochs, the first of which is not counted")
    parser.add_argument("--rows", type=int, help="training rows (default: all)")
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"  # an empty cache
        found = {
            name: measure(arguments.data, arguments.epochs, arguments.rows, f"{folder}/{name}", changes)
            for name, changes in {"with": [], "without": ["training.frozen_cache=null"]}.items()
        }
    print("| frozen cache | seconds an epoch | before the first | scores |\n|---|---|---|---|")
    for name, numbers in found.items():
        scores = ", ".join(f"{task} {100 * value:.2f}" for task, value in numbers["scores"].items())
        print(f"| {name} | {numbers['epoch']:.2f} | {numbers['before']:.2f} | {scores} |")
    print(
        f"\nfrom the second epoch on {found['without']['epoch'] / found['with']['epoch']:.1f} times as fast (bound 5)"
    )


if __name__ == "__main__":
    main()
