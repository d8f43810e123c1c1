"""Entities in long documents: F1 on CoNLL-2003 sentence by sentence, and on the same sentences joined to documents.

    python benchmarks/long_documents.py --data data --model outputs/conll_sst2
    python benchmarks/long_documents.py --data data --epochs 3 --documents

The data have no document borders, so each document is a number of consecutive sentences (40, about 600 words). A model
that was trained on sentences is scored on sentences, on truncated documents, and on documents in windows of 128 tokens
that share 32. With `--documents`, a second model is trained on documents in windows, with the same recipe and about as
many words a batch. Without `--model`, the model of sentences is trained first, with the recipe of
`configs/conll_sst2.yaml` and only its task `ner`.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import datasets

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.modeling.modeling_multitask import MultiTaskModel

CONFIG = Path(__file__).parent.parent / "configs" / "conll_sst2.yaml"
MODES = {"truncated": {"overflow": "truncate"}, "windows": {"overflow": "window"}}


def read_rows(data: Path, split: str, joined: int = 1) -> datasets.Dataset:
    """The words and tags of a split of CoNLL-2003, with `joined` consecutive sentences in each row."""
    lines = (data / "conll2003" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return datasets.Dataset.from_list(
        [
            {
                key: [value for row in rows[begin : begin + joined] for value in row[key]]
                for key in ("tokens", "ner_tags")
            }
            for begin in range(0, len(rows), joined)
        ]
    )


def data_config(rows: dict[str, datasets.Dataset], task: str) -> dict[str, Any]:
    """The sections of a config that name the data."""
    return {
        "sources": {"conll": {"dataset": datasets.DatasetDict(rows), "text": "tokens"}},
        "tasks": {task: {"type": "token_classification", "source": "conll", "label": "ner_tags"}},
    }


def train(arguments: argparse.Namespace, joined: int, folder: Path) -> Path:
    """Train the recipe of `CONFIG` on rows of `joined` sentences, and return the folder of the run."""
    recipe = RunConfig.load(CONFIG, [f"data={arguments.data}"]).to_dict()
    rows = {split: read_rows(arguments.data, split, joined) for split in ("train", "validation")}
    config = data_config(rows, arguments.task) | {
        "model": recipe["model"] | {"max_length": arguments.max_length},
        "training": recipe["training"] | {"output_dir": str(folder), "num_train_epochs": arguments.epochs},
    }
    batch_size = int(recipe["sources"]["conll"]["batch_size"])
    config["sources"]["conll"]["batch_size"] = max(1, round(batch_size / joined))
    if joined > 1:
        config["model"] |= {"overflow": "window", "stride": arguments.stride}
    mtl_hf.train(config, arguments.overrides)
    return folder


def score(arguments: argparse.Namespace, model: Path, joined: int, mode: str, folder: Path) -> dict[str, float]:
    """Score a model on rows of `joined` sentences, read as `mode` says."""
    options: dict[str, Any] = MODES[mode] | ({"stride": arguments.stride} if mode == "windows" else {})
    MultiTaskModel.from_encoder(
        model, keep_heads=True, max_length=arguments.max_length, **options
    ).save_pretrained(folder / "model")  # fmt: skip
    rows = {arguments.split: read_rows(arguments.data, arguments.split, joined)}
    config = data_config(rows, arguments.task) | {"model": {"from": str(model)}}
    scores = mtl_hf.evaluate(
        folder / "model", split=arguments.split, config=config, to=folder / "scores", batch_size=8, intervals=False
    )
    found: dict[str, float] = scores["tasks"][arguments.task]
    return found


def main() -> None:
    """Score and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds conll2003")
    parser.add_argument("--model", type=Path, help="a model that was trained on sentences (default: it is trained)")
    parser.add_argument("--documents", action="store_true", help="also train a model on documents in windows")
    parser.add_argument("--task", default="ner", help="name of the task of named entities")
    parser.add_argument("--split", default="test")
    parser.add_argument("--sentences", type=int, default=40, help="sentences of a document")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--stride", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("overrides", nargs="*", help="a.b=c changes to the training runs, such as training.max_steps=9")
    arguments = parser.parse_args()
    logging.getLogger("mtl_hf").setLevel(logging.WARNING)
    print("| model | texts | F1 | precision | recall |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models = {"sentences": arguments.model or train(arguments, 1, folder / "sentences")}
        if arguments.documents:
            models["documents in windows"] = train(arguments, arguments.sentences, folder / "documents")
        for number, (name, model) in enumerate(models.items()):
            for joined, mode in (
                (1, "truncated"),
                (arguments.sentences, "truncated"),
                (arguments.sentences, "windows"),
            ):
                found = score(arguments, model, joined, mode, folder / f"{number}-{joined}-{mode}")
                texts = "sentences" if joined == 1 else f"documents, {mode}"
                shown = " | ".join(f"{100 * found[metric]:.2f}" for metric in ("f1", "precision", "recall"))
                print(f"| trained on {name} | {texts} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
