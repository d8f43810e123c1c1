"""`mtl-hf tune`: search for the settings with which a config scores best."""

import argparse
import shlex

from ..command import add_overrides, say
from ..config import describe_fields
from ..experiments.space import Search

HELP = "search for the settings with which a config scores best on its validation split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf tune`."""
    parser.description = (
        "Train a config with one set of settings after another, chosen by Optuna from a declared space, and"
        " write the best as a config (best.yaml), every trial in a table (trials.csv), and a plot of which settings"
        " mattered. Trials are scored on the validation split and keep no weights: train best.yaml to have a model and"
        " its test scores. A search that was stopped goes on; started several times at once, the processes share it."
    )
    parser.epilog = "\n".join(["fields of the search's file", "---------------------------", *describe_fields(Search)])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="a search's file")
    add_overrides(parser, "changes for every trial, as data=FOLDER")
    parser.add_argument("--trials", type=int, metavar="N", help="trials in all (default: the file's, or 20)")
    parser.add_argument("--to", metavar="FOLDER", help="for trials and results (default: outputs/tune/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="check the file, the data and the config, then stop")
    parser.add_argument("--no-plot", action="store_true", help="draw nothing, which needs matplotlib")


def run(arguments: argparse.Namespace) -> None:
    """Search, and print the table of trials; with `--dry-run` what would be searched."""
    from ..experiments.tune import tune

    result = tune(
        arguments.config,
        arguments.overrides,
        trials=arguments.trials,
        to=arguments.to,
        dry_run=arguments.dry_run,
        plot=not arguments.no_plot,
    )
    if arguments.dry_run:
        say(f"{result['trials']} trials, compared by {result['metric']} on the validation split")
        say(f"sampler: {result['sampler']}; pruning: {'on' if result['prune'] else 'off'}; into {result['folder']}")
        for name, value in result["space"].items():
            say(f"  {name}: {value}")
        return
    from ..experiments.search_report import search_table

    say(search_table(result))
    if result["config"]:
        say(f"\nmtl-hf train {shlex.quote(result['config'])}")
