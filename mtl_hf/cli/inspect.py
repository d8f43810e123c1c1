"""`mtl-hf inspect`: print encoded rows of each source with their tokens and labels."""

import argparse
import os

from ..command import add_overrides, print_masked
from ..config import RunConfig

HELP = "print encoded rows of each source: tokens and labels as the model gets them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf inspect`."""
    parser.add_argument("config", help="a YAML file, a run folder, a checkpoint-N in it, or a Hub id")
    add_overrides(parser, "changes to the config, such as data=FOLDER")
    parser.add_argument("--rows", type=int, default=3, help="rows per source (default: 3)")
    parser.add_argument("--split", default="train", choices=["train", "validation", "test"])


def run(arguments: argparse.Namespace) -> None:
    """Print the rows."""
    config, overrides = arguments.config, arguments.overrides
    if os.path.isfile(config):
        from ..tasks import check_settings

        config, overrides = RunConfig.load(config, overrides), []  # report a mistake before the slow imports
        check_settings(config)
    from ..inference.inspect import inspect_rows

    print_masked(inspect_rows(config, overrides, num_rows=arguments.rows, split=arguments.split))
