"""`mtl-hf evaluate`: score one saved model, or several side by side."""

import argparse
import re

from ..command import say

HELP = "score one saved model, or several side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf evaluate`."""
    parser.description = (
        "Score saved models: a table, metrics.json and predictions.jsonl; of several models one table with"
        " differences to the first, comparison.json and comparison.csv."
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL | a.b=c",
        help="runs' folders, checkpoint-N in them or Hub ids (me/model, me/model@revision); changes to the config, as"
        " data=FOLDER (a folder with such a name: ./a=b)",
    )
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        help="default: test, or validation where no source has a test split",
    )
    parser.add_argument("--config", help="what to score on (default: the config of the first model's run)")
    parser.add_argument("--data", metavar="FILE", help="rows to score on: .jsonl, .json, .csv, .tsv or .parquet")
    parser.add_argument("--text", metavar="COLUMN", help="its text (FIRST,SECOND for pairs), if not called as usual")
    parser.add_argument(
        "--label", action="append", default=[], metavar="HEAD=COLUMN", help="a head's labels in it, if not called so"
    )
    parser.add_argument(
        "--to", metavar="FOLDER", help="for the results (default: evaluation/SPLIT, of one model in its folder)"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--overwrite", action="store_true", help="replace results that are in --to")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="also load metrics that are Python files or repositories and that only the model's own config names",
    )
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], help="default: as trained")


def run(arguments: argparse.Namespace) -> None:
    """Score the models, and print a table."""
    from accelerate import PartialState

    from ..evaluation.evaluate import evaluate
    from ..evaluation.report import comparison_table, scores_table

    overrides = [text for text in arguments.models if re.match(r"[A-Za-z_][\w-]*(\.[\w-]+)*=", text)]
    models = [text for text in arguments.models if text not in overrides]
    if not models:
        raise ValueError(f"there is no model to score among {', '.join(overrides)}: name a run's folder first.")
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
        say(scores_table(results) if len(models) == 1 else comparison_table(results))
