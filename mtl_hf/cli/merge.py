"""`mtl-hf merge`: merge adapters into the encoder's weights."""

import argparse

HELP = "merge adapters into the encoder's weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf merge`."""
    parser.description = (
        "Merge a model's adapters into its encoder and write the result, which no longer needs peft. Predictions are"
        " equal up to rounding (in bf16 the prediction of a row may change)."
    )
    parser.add_argument("model", help="a run folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--task", help="with one adapter per task: the task to merge; only its heads are kept")


def run(arguments: argparse.Namespace) -> None:
    """Write the merged model."""
    from ..inference.merge import merge_adapters

    merge_adapters(arguments.model, arguments.to, task=arguments.task)
