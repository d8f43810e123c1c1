"""`mtl-hf init`: look at data files and write a config that trains on them."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import say
from ..files import check_file, write_whole

HELP = "look at data files and write a config that trains on them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf init`."""
    parser.description = (
        "Look at files of rows and write a commented YAML: which are splits of one source (train, dev, test"
        " in the name), what is text, what are labels and of which task type, what is left out and why."
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".jsonl, .json, .csv, .tsv, .parquet or CoNLL; or a folder of such"
    )
    parser.add_argument("--to", default="config.yaml", metavar="YAML", help="the file to write (default: config.yaml)")
    parser.add_argument("--text", metavar="COLUMN", help="the text (FIRST,SECOND for pairs), if that is not clear")
    parser.add_argument(
        "--label", action="append", default=[], metavar="COLUMN[=TYPE]",
        help="a label column, and perhaps its task type; the others of its file are then left out",
    )  # fmt: skip
    parser.add_argument("--sep", metavar="CHARACTER", help="what separates columns of .csv (default: what is found)")
    parser.add_argument("--encoder", help="default: all-MiniLM-L6-v2")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> None:
    """Write the config and print it; on a terminal ask what the files leave open."""
    to = Path(arguments.to)
    check_file(to, "--to", overwrite=arguments.overwrite)
    import datasets

    from ..data.draft import draft_config

    datasets.disable_progress_bars()
    written = draft_config(
        arguments.files,
        name=to.stem,
        text=arguments.text,
        labels=arguments.label,
        sep=arguments.sep,
        encoder=arguments.encoder,
        ask=_ask if sys.stdin.isatty() else None,
    )
    write_whole(to, written)
    say(f"{written}\nWritten to {to}. Next: mtl-hf train {shlex.quote(str(to))}")


def _ask(question: str, options: Sequence[str]) -> str:
    """Ask on the terminal until the answer is one of the options, or its number."""
    say(question)
    for number, option in enumerate(options, start=1):
        say(f"  {number}  {option}")
    while True:
        answer = input("> ").strip()
        if answer in options:
            return answer
        if answer.isdecimal() and 0 < int(answer) <= len(options):
            return options[int(answer) - 1]
