"""Seconds of a training step on SNIPS with a CRF, with a mix of layers and with the mean over sub-words.

    OMP_NUM_THREADS=2 python benchmarks/crf.py --data data

The models of `configs/snips.yaml` (intent and slots), without and with an option, train on the same batches in turn, in
one process. The result of an option is the median over batches of the ratio of its step to that of the plain model.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from statistics import median

import torch
from steps import take_step

from mtl_hf.run import build

CONFIG = Path(__file__).parent.parent / "configs" / "snips.yaml"
WARM_UP = 5  # batches
SIDES = {
    "softmax": [],
    "crf": ["tasks.slots.crf=true"],
    "layers: mix": ["tasks.slots.layers=mix"],
    "alignment: mean": ["tasks.slots.alignment=mean"],
}
BOUND = 1.35  # of crf


def measure(data: Path, batches: int, folder: str, changes: list[str]) -> dict[str, list[float]]:
    """Seconds of the steps of each side, one per batch."""
    trainers, optimizers = {}, {}
    for side, own in SIDES.items():
        overrides = [f"data={data}", f"training.output_dir={folder}/{len(trainers)}", *changes, *own]
        trainers[side] = build(CONFIG, overrides).trainer
        trainers[side].model.train()
        optimizers[side] = trainers[side].create_optimizer()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    loaders = [trainer.get_train_dataloader() for trainer in trainers.values()]  # the same rows, by the same seed
    for number, own_batches in enumerate(zip(*loaders, strict=True)):
        if number == batches + WARM_UP:
            break
        by_side = dict(zip(SIDES, own_batches, strict=True))
        for side in list(SIDES) if number % 2 else reversed(SIDES):
            inputs = {key: value for key, value in by_side[side].items() if not key.startswith("num_")}
            seconds[side].append(take_step(trainers[side], optimizers[side], inputs))
    return {side: found[WARM_UP:] for side, found in seconds.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/*.jsonl")
    parser.add_argument("--batches", type=int, default=100, help="batches of each model")
    parser.add_argument("overrides", nargs="*", help="changes to the config, such as training.precision=fp32")
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.data, arguments.batches, folder, arguments.overrides)
    print("| slots | ms a step | ratio to softmax |\n|---|---|---|")
    for side, seconds in found.items():
        ratio = median(one / other for one, other in zip(seconds, found["softmax"], strict=True))
        bound = f" (bound {BOUND})" if side == "crf" else ""
        print(f"| {side} | {1000 * median(seconds):.1f} | {ratio:.3f}{bound} |")


if __name__ == "__main__":
    main()
