"""`mtl-hf inspect`: show rows of each task as the model will see them."""

import argparse
import os

from ..command import add_overrides, say
from ..config import RunConfig

HELP = "show rows of each task as the model will see them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf inspect`."""
    parser.add_argument("config", help="a YAML file; or a run's folder, a checkpoint-N in it, or a Hub id")
    add_overrides(parser, "changes, as data=FOLDER")
    parser.add_argument("--rows", type=int, default=3, help="rows a source")
    parser.add_argument("--split", default="train", choices=["train", "validation", "test"])


def run(arguments: argparse.Namespace) -> None:
    """Print the rows."""
    config, overrides = arguments.config, arguments.overrides
    if os.path.isfile(config):
        config, overrides = RunConfig.load(config, overrides), []  # a mistake is answered before the slow imports
    from ..inference.inspect import inspect_rows

    say(inspect_rows(config, overrides, num_rows=arguments.rows, split=arguments.split))
