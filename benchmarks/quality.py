"""Quality on SNIPS: the package compared with a hand-written loop with the same recipe and seeds, on the test split.

    python benchmarks/quality.py --data data [--seeds 13 14 15] [--to benchmarks/results]

Each run is a separate process; runs that already have a result are skipped. The epoch is chosen on validation
(`load_best_model_at_end`; the loop keeps the best epoch by the same mean of intent accuracy and slot F1). The recipe is
that of `configs/snips.yaml`; the loop gets the same numbers.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mtl_hf.config import RunConfig

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "snips.yaml"
COLUMNS = ("intent accuracy", "slot F1", "joint")
BOUNDS = (98.0, 94.5, 88.5)


def recipe() -> list[str]:
    """The hand-written loop's arguments for the recipe of `configs/snips.yaml`."""
    run = RunConfig.load(CONFIG)
    training = run.training
    return [
        f"--learning-rate={float(training['learning_rate'])}",
        f"--head-learning-rate={float(training['head_learning_rate'])}",
        f"--layerwise-lr-decay={float(training['layerwise_lr_decay'])}",
        f"--weight-decay={float(training['weight_decay'])}",
        f"--warmup-steps={float(training['warmup_steps'])}",
        f"--batch-size={run.sources['snips'].batch_size}",
        f"--epochs={int(training['num_train_epochs'])}",
        f"--max-length={run.model.max_length or 512}",
        f"--attention={run.model.attn_implementation or 'sdpa'}",
    ]


def run_package(data: Path, seed: int, folder: Path, overrides: list[str]) -> list[float]:
    """Train `configs/snips.yaml` with the package; intent accuracy, slot F1 and joint accuracy on test, × 100."""
    result = folder / "metrics.json"
    if not result.exists():
        changes = [f"data={data}", f"training.seed={seed}", f"training.output_dir={folder}", *overrides]
        subprocess.run([sys.executable, "-m", "mtl_hf.run", str(CONFIG), "--overwrite", *changes], check=True)
    found = json.loads(result.read_text(encoding="utf-8"))
    tasks = found["tasks"]
    return [100 * tasks["intent"]["accuracy"], 100 * tasks["slots"]["f1"], 100 * found["joint"]["snips"]]


def raw_text_f1(folder: Path) -> float:
    """Slot F1 of a run of the package on test texts that are joined to strings, × 100."""
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return 100 * float(found["tasks"]["slots"]["f1_raw_text"])


def run_loop(data: Path, seed: int, folder: Path) -> list[float]:
    """The same with `handwritten.py`."""
    result = folder / "result.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(HERE / "handwritten.py"), str(data / "snips"), f"--seed={seed}", *recipe()]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result.write_text(output, encoding="utf-8")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["test"]
    return [found["intent_accuracy"], found["slot_f1"], found["joint_accuracy"]]


def main() -> None:
    """Run missing runs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds snips/*.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    parser.add_argument("--to", type=Path, default=Path("outputs/quality"), help="folder of the runs")
    parser.add_argument("--only", choices=["package", "loop"], help="run one side only")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes to the package's config")
    arguments = parser.parse_args()

    rows: dict[str, list[list[float]]] = {}
    for seed in arguments.seeds:
        if arguments.only != "loop":
            folder = arguments.to / f"package-{seed}"
            rows.setdefault("mtl_hf", []).append(run_package(arguments.data, seed, folder, arguments.overrides))
        if arguments.only != "package":
            rows.setdefault("hand-written loop", []).append(
                run_loop(arguments.data, seed, arguments.to / f"loop-{seed}")
            )
    print(f"| SNIPS test, seeds {arguments.seeds} | " + " | ".join(COLUMNS) + " |\n|---|---|---|---|")
    for name, runs in rows.items():
        cells = [
            f"{mean(column):.2f} ± {stdev(column) if len(column) > 1 else 0:.2f}" for column in zip(*runs, strict=True)
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
        for seed, run in zip(arguments.seeds, runs, strict=True):
            print(f"| &nbsp;&nbsp;seed {seed} | " + " | ".join(f"{value:.2f}" for value in run) + " |")
    if "mtl_hf" in rows:
        raw = [raw_text_f1(arguments.to / f"package-{seed}") for seed in arguments.seeds]
        print("| mtl_hf, words joined to strings | | " + " ".join(f"{value:.2f}" for value in raw) + " | |")
    print("| bound | " + " | ".join(f"≥ {bound}" for bound in BOUNDS) + " |")


if __name__ == "__main__":
    main()
