"""Cost of computing heads in float32 under bf16 autocast: seconds of a training step with and without it.

    python benchmarks/head_precision.py --data data

Each batch is trained on twice in one process, once with the heads as they are and once with their linear layers under
autocast, in alternating order. The results are medians over batches, and the median of the ratio of the two.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from statistics import median

import torch
from steps import take_step
from torch.nn import functional as F

from mtl_hf.modeling import head
from mtl_hf.run import build

CONFIGS = Path(__file__).parent.parent / "configs"
WARM_UP = 5  # batches
LINEAR = {"float32": head.wide_linear, "autocast": F.linear}


def measure(config: Path, data: Path, batches: int, folder: str, changes: list[str]) -> dict[str, list[float]]:
    """Seconds of the steps of each side, one per batch."""
    overrides = [f"data={data}", f"training.output_dir={folder}", "training.precision=bf16", *changes]
    trainer = build(config, overrides).trainer
    optimizer = trainer.create_optimizer()
    trainer.model.train()
    seconds: dict[str, list[float]] = {side: [] for side in LINEAR}
    for number, inputs in enumerate(trainer.get_train_dataloader()):
        if number == batches + WARM_UP:
            break
        inputs = {key: value for key, value in inputs.items() if key not in ("num_items", "num_labelled_rows")}
        for side in list(LINEAR) if number % 2 else reversed(LINEAR):
            head.wide_linear = LINEAR[side]
            seconds[side].append(take_step(trainer, optimizer, inputs))
    return {side: found[WARM_UP:] for side, found in seconds.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips, sst2, ...")
    parser.add_argument("--batches", type=int, default=200, help="batches of each config")
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    torch.set_flush_denormal(True)
    cases = {
        "classification and token classification (snips.yaml)": ("snips.yaml", []),
        "masked_lm, MiniLM (pretrain_mlm.yaml)": (
            "pretrain_mlm.yaml",
            ["model.pretrained=true", "model.encoder_config={}", "training.per_device_train_batch_size=32"],
        ),
    }
    print("| heads | float32, ms a step | bf16, ms a step | ratio |\n|---|---|---|---|")
    for name, (config, changes) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            found = measure(CONFIGS / config, arguments.data, arguments.batches, folder, changes)
        ratio = median(one / other for one, other in zip(found["float32"], found["autocast"], strict=True))
        times = " | ".join(f"{1000 * median(found[side]):.1f}" for side in LINEAR)
        print(f"| {name} | {times} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
