"""`mtl-hf evaluate`: score one saved model, or several side by side."""

import argparse
import re

from ..command import print_masked

HELP = "score one saved model, or several side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf evaluate`."""
    parser.description = (
        "Score saved models. Prints a table and writes metrics.json and predictions.jsonl. For several models, the"
        " table shows differences to the first model, and comparison.json and comparison.csv are written, too."
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL | a.b=c",
        help="models: run folders, checkpoint-N folders in them, or Hub ids (me/model, me/model@revision); changes to"
        " the config, such as data=FOLDER (write ./a=b for a folder with such a name)",
    )
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        help="split to score (default: test, or validation if no source has a test split)",
    )
    parser.add_argument("--config", help="config that names the data (default: run.yaml of the first model)")
    parser.add_argument(
        "--data", metavar="FILE", help="file of rows to score: .jsonl, .json, .csv, .tsv, .parquet or .conll"
    )
    parser.add_argument("--text", metavar="COLUMN", help="text column of --data (FIRST,SECOND for pairs)")
    parser.add_argument(
        "--label", action="append", default=[], metavar="HEAD=COLUMN", help="label column of a head in --data"
    )
    parser.add_argument(
        "--to", metavar="FOLDER", help="results folder (default: evaluation/SPLIT, for one model inside its folder)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="rows per batch and process (default: 64)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results in --to")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="also load metrics and data loaders that run code and are named only by the model's own run.yaml",
    )
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], help="precision (default: as in training)")


def run(arguments: argparse.Namespace) -> None:
    """Score the models, and print a table."""
    from accelerate import PartialState

    from ..evaluation.evaluate import evaluate
    from ..evaluation.report import comparison_table, scores_table

    overrides = [text for text in arguments.models if re.match(r"[A-Za-z_][\w-]*(\.[\w-]+)*=", text)]
    models = [text for text in arguments.models if text not in overrides]
    if not models:
        raise ValueError(
            f"{', '.join(overrides)}: these are changes, and there is no model to score. Give a run folder first."
        )
    for text in arguments.label:
        if not all(text.partition("=")):
            raise ValueError(f"`--label` is {text!r}; it is HEAD=COLUMN, as in sentiment=stars.")
    results = evaluate(
        models,
        split=arguments.split,
        config=arguments.config,
        overrides=overrides,
        data=arguments.data,
        text=arguments.text,
        labels=dict(text.split("=", 1) for text in arguments.label),
        to=arguments.to,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        overwrite=arguments.overwrite,
        trust_remote_code=arguments.trust_remote_code,
    )
    if PartialState().is_main_process:
        print_masked(scores_table(results) if len(models) == 1 else comparison_table(results))
