"""`mtl-hf plot`: draw a run's log over its steps."""

import argparse

HELP = "draw a run's learning rates, losses and validation metrics over its steps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf plot`."""
    parser.description = (
        "Draw what a run has logged into plots/ in its folder, as PNG and SVG: the learning rate of each"
        " part, each task's loss in training and on the validation split, its primary metric there, and loss weights"
        " where they move. A run that is not finished is drawn up to its newest checkpoint."
    )
    parser.add_argument("folder", help="a run's folder, or a checkpoint-N in it")


def run(arguments: argparse.Namespace) -> None:
    """Draw the plots."""
    from ..evaluation.run_plots import plot_run

    plot_run(arguments.folder)
