"""`mtl-hf merge`: a plain model of one with adapters."""

import argparse

HELP = "a plain model of one with adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf merge`."""
    parser.description = (
        "Write a model whose adapters are part of the encoder's weights: no peft needed, the same"
        " answers to rounding (under bf16 a score may move by a row)."
    )
    parser.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, or an empty one")
    parser.add_argument("--task", help="with an adapter a task: whose; only heads that read with it are kept")


def run(arguments: argparse.Namespace) -> None:
    """Write the merged model."""
    from ..inference.merge import merge_adapters

    merge_adapters(arguments.model, arguments.to, task=arguments.task)
