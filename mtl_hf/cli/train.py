"""`mtl-hf train`: train, score and save one model. Its arguments are also those of `python -m mtl_hf.run`."""

import argparse

from ..command import add_train_arguments
from ..config import RunConfig

HELP = "train, score and save one model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf train`."""
    add_train_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train, score and save the model."""
    # Report a mistake in the config before the slow imports.
    arguments.config, arguments.overrides = RunConfig.load(arguments.config, arguments.overrides), []
    from ..tasks import check_settings

    check_settings(arguments.config)
    from ..run import train_command

    train_command(arguments)
