"""Cost of gradient aggregation and of the conflict log on SNIPS, measured in alternating blocks.

    python benchmarks/aggregation.py --data data

1. Seconds per step of UPGrad compared with the plain sum over the same rounds: two and eight tasks, each on its own
   source, and two tasks on one source.
2. Seconds of training with a conflict log every 50 steps compared with none; two tasks, one source per step.

For each pair, two trainers run in separate processes and take turns in blocks of steps (`throughput.TakeTurns`). The
results are medians of the ratios of neighbouring blocks.
"""

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from throughput import CONFIG, make_trainer, race

from mtl_hf.config import RunConfig

EVERY = 50  # steps between two lines of the log
BOUNDS = {"2 tasks, 2 sources": 1.3, "8 tasks, 8 sources": 1.5, "2 tasks, 1 source": 1.8}


def on_own_sources(config: dict[str, Any], copies: int) -> dict[str, Any]:
    """Copy each task a number of times, each on its own source with the same rows."""
    source = config["sources"]["snips"]
    names = {f"{name}_{copy}": name for copy in range(copies) for name in config["tasks"]}
    return {
        "sources": {f"snips_{one}": source for one in names},
        "tasks": {one: config["tasks"][name] | {"source": f"snips_{one}"} for one, name in names.items()},
    }


def ratio(
    data: Path, blocks: int, block: int, folder: str, changes: dict[str, Any], *training: dict[str, Any]
) -> float:
    """Ratio of the seconds of two runs, the second over the first.

    Args:
        data: Folder that holds `snips/*.jsonl`.
        blocks: Blocks of each run.
        block: Steps a block.
        folder: Folder for the output of both.
        changes: Changes to the config of both.
        *training: Changes to the training section of the first and of the second.
    """
    base = RunConfig.load(CONFIG, [f"data={data}"]).to_dict()["training"]
    plain, measured = race(
        [partial(make_trainer, data, blocks * block, folder, changes | {"training": base | own}) for own in training],
        block,
    )
    return median(b / a for a, b in zip(plain, measured, strict=True))


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/*.jsonl")
    parser.add_argument("--blocks", type=int, default=11, help="blocks, the first of which is not counted")
    parser.add_argument("--block", type=int, default=10, help="steps a block")
    parser.add_argument("--only", choices=[*BOUNDS, "log"])
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    config = RunConfig.load(CONFIG, [f"data={arguments.data}"]).to_dict()
    two = on_own_sources(config, 1)
    cases = dict(zip(BOUNDS, (two, on_own_sources(config, 4), {}), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in cases.items():
            if arguments.only not in (None, name):
                continue
            found = ratio(
                arguments.data, arguments.blocks, arguments.block, folder, changes,
                {"gradient_aggregation": "Sum"}, {"gradient_aggregation": "UPGrad"},
            )  # fmt: skip
            print(f"| UPGrad against the sum, {name} | {found:.2f} times the time (bound {BOUNDS[name]}) |")
        if arguments.only in (None, "log"):
            found = ratio(
                arguments.data, arguments.blocks, EVERY, folder, two, {}, {"log_gradient_conflicts": EVERY}
            )  # fmt: skip
            print(f"| log of conflicts every {EVERY} steps | {100 * (found - 1):+.1f} % (bound 3 %) |")


if __name__ == "__main__":
    main()
