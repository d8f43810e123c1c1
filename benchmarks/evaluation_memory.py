"""Peak memory of evaluation: 100,000 rows of 128 tokens with 20 tags, compared with 10,000 rows.

Each size is evaluated in a separate process by `mtl_hf.evaluate`, from its rows on disk to predictions.jsonl, with
intervals. The result is the peak of the process's anonymous memory; pages of memory-mapped files do not count, because
the operating system can reclaim them. The encoder is tiny, so the benchmark takes minutes.

    python benchmarks/evaluation_memory.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

BOUND = 200  # MB
NUM_TOKENS, NUM_TAGS, NUM_WORDS = 128, 20, 500
TAGS = ["O", *(f"{letter}-{kind}" for kind in "abcdefghij" for letter in "BI")][: NUM_TAGS + 1]


def make_rows(folder: Path, num_rows: int) -> None:
    """Write rows of `NUM_TOKENS` words of one token each, with a tag for each word, mostly O."""
    import datasets
    import pyarrow as pa

    generator = np.random.default_rng(0)
    length = NUM_TOKENS - 2  # beside [CLS] and [SEP]
    words, tags = pa.array([f"w{number}" for number in range(NUM_WORDS)]), pa.array(TAGS)

    def lists(values: pa.Array, chances: np.ndarray | None) -> pa.Array:
        drawn = generator.choice(len(values), size=num_rows * length, p=chances).astype(np.int32)
        return pa.ListArray.from_arrays(np.arange(num_rows + 1, dtype=np.int32) * length, values.take(pa.array(drawn)))

    chances = np.array([0.8, *[0.2 / (len(TAGS) - 1)] * (len(TAGS) - 1)])
    table = pa.table({"words": lists(words, None), "tags": lists(tags, chances)})
    datasets.Dataset(table).save_to_disk(str(folder))


def make_model(folder: Path) -> None:
    """Create a tiny encoder with a head for the tags."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from mtl_hf import MultiTaskModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(NUM_WORDS))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=NUM_TOKENS,
    )  # fmt: skip
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    encoder = BertModel(BertConfig(**sizes, vocab_size=len(vocabulary), max_position_embeddings=NUM_TOKENS))
    encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    model = MultiTaskModel.from_encoder(folder / "encoder")
    model.add_head("tags", type="token_classification", labels=TAGS)
    model.save_pretrained(folder / "model")


def own_memory() -> float:
    """Anonymous memory of this process, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def evaluate(model: Path, rows: Path, to: Path) -> None:
    """Evaluate, and print peak memory and seconds."""
    import datasets

    import mtl_hf

    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, own_memory())

    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    mtl_hf.evaluate(
        str(model),
        config={
            "model": {"encoder": "unused"},
            "sources": {"rows": {"dataset": {"test": datasets.load_from_disk(str(rows))}, "text": "words"}},
            "tasks": {"tags": {"type": "token_classification", "source": "rows", "label": "tags"}},
            "training": {"use_cpu": True, "precision": "fp32", "per_device_eval_batch_size": 64, "disable_tqdm": True},
        },
        split="test",
        to=str(to),
    )
    done.set()
    print(peak, time.perf_counter() - started)


def main() -> None:
    """Measure both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the larger split; the other has a tenth")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        evaluate(*map(Path, arguments.child))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        peaks = []
        for number in (arguments.rows // 10, arguments.rows):
            rows = folder / f"rows{number}"
            subprocess.run(  # in a process of its own, so that this one stays small
                [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
                 f"from evaluation_memory import *\nmake_rows(Path({str(rows)!r}), {number})"], check=True,
            )  # fmt: skip
            command = [
                sys.executable,
                __file__,
                "--child",
                str(folder / "model"),
                str(rows),
                str(folder / f"to{number}"),
            ]
            environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache")}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            peak, seconds = map(float, done.stdout.split()[-2:])
            peaks.append(peak)
            print(f"{number:>9,} rows: {peak:7.0f} MB at most, {seconds:.0f} s", flush=True)
    more = peaks[1] - peaks[0]
    print(f"{arguments.rows:,} rows take {more:.0f} MB more (bound {BOUND})")


if __name__ == "__main__":
    main()
