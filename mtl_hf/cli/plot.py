"""`mtl-hf plot`: plot the training log of a run."""

import argparse

HELP = "plot a run's learning rates, losses and validation metrics by step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf plot`."""
    parser.description = (
        "Plot the log of a run into plots/ in its folder, as PNG and SVG: the learning rate of each part, the"
        " training and validation loss and the primary validation metric of each task, and loss weights that change"
        " in training. An unfinished run is plotted up to its newest checkpoint."
    )
    parser.add_argument("folder", help="a run folder, or a checkpoint-N in it")


def run(arguments: argparse.Namespace) -> None:
    """Draw the plots."""
    from ..evaluation.run_plots import plot_run

    plot_run(arguments.folder)
