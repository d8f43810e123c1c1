"""`mtl-hf compare`: train variants of a config with several seeds, and show what differs."""

import argparse

from ..command import add_overrides, say

HELP = "one model for all tasks against one for each, and any other variants, over several seeds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf compare`."""
    parser.description = (
        "Train each variant of a config with several seeds, score all on the same test rows, and write a"
        " table (comparison.md, comparison.json) and plots. Variants are each task alone and all together, or sets of"
        " a.b=c changes that a comparison's file names (configs/compare/). A comparison that was stopped goes on."
    )
    parser.add_argument("config", help="a run's YAML, or a comparison's file")
    add_overrides(parser, "changes for every run, as data=FOLDER")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 13, 14, ... 12 + N (default: the file's, or 3)")
    parser.add_argument("--variants", metavar="FILE", help="a YAML with more variants: name -> list of a.b=c")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, which share the threads")
    parser.add_argument("--to", metavar="FOLDER", help="for runs and report (default: outputs/compare/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="check every run up to its first step, then stop")
    parser.add_argument("--no-plot", action="store_true", help="write no plots, which need matplotlib")


def run(arguments: argparse.Namespace) -> None:
    """Train and score the variants, and print the comparison; with `--dry-run` the steps of each run."""
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
            say(f"{name:<40}{steps:>10,} steps")
    else:
        say(comparison_markdown(result))
