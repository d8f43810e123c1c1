"""`mtl-hf tune`: hyperparameter search over the settings of a config."""

import argparse
import shlex

from ..command import add_overrides, print_masked
from ..config import describe_fields
from ..experiments.space import Search

HELP = "search for the settings of a config with the best validation score"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf tune`."""
    parser.description = (
        "Search a space of settings with Optuna. Each trial trains the config and is scored on the validation split.\n"
        "Writes the best config (best.yaml), a table of all trials (trials.csv) and a plot of parameter importance.\n"
        "Trials keep no weights: train best.yaml to get a model and its test scores. Run the same command again to\n"
        "continue a search that was stopped; run it several times at once to share the search between processes."
    )
    parser.epilog = "\n".join(["fields of the search file", "-------------------------", *describe_fields(Search)])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="the YAML file of a search")
    add_overrides(parser, "changes to the config of every trial, such as data=FOLDER")
    parser.add_argument(
        "--trials", type=int, metavar="N", help="total number of trials (default: from the file, else 20)"
    )
    parser.add_argument("--to", metavar="FOLDER", help="folder for trials and results (default: outputs/tune/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="check the search, the data and the config, then stop")
    parser.add_argument("--no-plot", action="store_true", help="do not draw the plot (it needs matplotlib)")


def run(arguments: argparse.Namespace) -> None:
    """Search and print the table of trials; with `--dry-run`, print what would be searched."""
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
        print_masked(f"{result['trials']} trials, compared by {result['metric']} on the validation split")
        print_masked(
            f"sampler: {result['sampler']}; pruning: {'on' if result['prune'] else 'off'}; into {result['folder']}"
        )
        for name, value in result["space"].items():
            print_masked(f"  {name}: {value}")
        return
    from ..experiments.search_report import search_table

    print_masked(search_table(result))
    if result["config"]:
        print_masked(f"\nmtl-hf train {shlex.quote(result['config'])}")
