"""`mtl-hf compare`: train variants of a config with several seeds and compare their scores."""

import argparse

from ..command import add_overrides, print_masked

HELP = "compare one model for all tasks with one model per task, or any other variants, over several seeds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf compare`."""
    parser.description = (
        "Train each variant of a config with several seeds, score all of them on the same test rows, and write a"
        " table (comparison.md, comparison.json) and plots. The default variants are one model per task (alone) and"
        " one model for all tasks (together); a comparison file can define others as lists of a.b=c changes"
        " (configs/compare/). Run the same command again to continue a comparison that was stopped."
    )
    parser.add_argument("config", help="the YAML file of a run or of a comparison")
    add_overrides(parser, "changes to the config of every run, such as data=FOLDER")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="use N seeds: 13, 14, ... (default: from the file, else 3)"
    )
    parser.add_argument("--variants", metavar="FILE", help="a YAML file with more variants: name -> list of a.b=c")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs in parallel, which share the CPU threads"
    )
    parser.add_argument("--to", metavar="FOLDER", help="folder for runs and report (default: outputs/compare/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="check every run up to its first step, then stop")
    parser.add_argument("--no-plot", action="store_true", help="do not draw plots (they need matplotlib)")


def run(arguments: argparse.Namespace) -> None:
    """Train and score the variants and print the comparison; with `--dry-run`, print the steps of each run."""
    from ..experiments.compare import compare
    from ..experiments.compare_report import comparison_markdown

    result = compare(
        arguments.config,
        arguments.overrides,
        seeds=arguments.seeds,
        variants=arguments.variants,
        to=arguments.to,
        jobs=arguments.jobs,
        dry_run=arguments.dry_run,
        plot=not arguments.no_plot,
    )
    if arguments.dry_run:
        for name, steps in result["steps"].items():
            print_masked(f"{name:<40}{steps:>10,} steps")
    else:
        print_masked(comparison_markdown(result))
