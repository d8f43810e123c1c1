"""Seconds to compute the batches of an epoch: index arithmetic alone, without data and model.

    python benchmarks/schedule.py

For each policy, all batches of one epoch are computed, and then again as the rows of one process. The result is the
minimum of several repetitions, because other work on the machine only adds time. The bound applies to `proportional`
with 100 sources of 20,000 rows. The smaller shapes show that the time is linear in the number of batches.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mtl_hf.data.schedule import (
    FixedBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    TemperatureBatchSampler,
)

BOUND = 1.0  # seconds
SHAPES = ((1, 20_000), (10, 20_000), (100, 2_000), (100, 20_000))  # sources, rows of each


def policies(num_sources: int, num_rows: int, batch_size: int) -> dict[str, Any]:
    """Policy → its schedule of sources with random token lengths."""
    rng = np.random.default_rng(0)
    lengths = {f"source{number}": rng.integers(3, 60, num_rows) for number in range(num_sources)}
    batch_sizes = dict.fromkeys(lengths, batch_size)
    shares = rng.dirichlet(np.full(num_sources, 5.0))
    return {
        "round_robin": RoundRobinBatchSampler(lengths, batch_sizes),
        "proportional": ProportionalBatchSampler(lengths, batch_sizes),
        "temperature": TemperatureBatchSampler(lengths, batch_sizes, temperature=5.0, examples_cap=num_rows // 2),
        "fixed": FixedBatchSampler(lengths, batch_sizes, probabilities=dict(zip(lengths, shares, strict=True))),
    }


def seconds(iterate: Callable[[], Iterable[Any]], repeats: int) -> float:
    """The minimum time of an iteration over all batches."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in iterate():
            pass
        found.append(time.perf_counter() - started)
    return min(found)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a batch")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions, of which the fastest counts")
    arguments = parser.parse_args()
    print("| policy | sources | rows of each | batches | seconds | as rows of a process |\n|---|---|---|---|---|---|")
    for num_sources, num_rows in SHAPES:
        for name, schedule in policies(num_sources, num_rows, arguments.batch_size).items():
            batches = seconds(lambda schedule=schedule: schedule.batches(0), arguments.repeats)
            own = seconds(lambda schedule=schedule: schedule, arguments.repeats)
            print(f"| {name} | {num_sources} | {num_rows:,} | {schedule.length(0):,} | {batches:.3f} | {own:.3f} |")
            if name == "proportional":
                last = batches
    print(f"\nproportional, {SHAPES[-1][0]} sources of {SHAPES[-1][1]:,} rows: {last:.2f} s (bound {BOUND:g})")


if __name__ == "__main__":
    main()
