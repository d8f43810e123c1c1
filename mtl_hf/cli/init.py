"""`mtl-hf init`: write a config from data files."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import print_masked
from ..files import check_file, write_atomic

HELP = "write a config from data files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf init`."""
    parser.description = (
        "Read data files and write a commented config that trains on them. It groups the splits of a source (train,"
        " dev, test in the file name), finds text and label columns, chooses task types, and notes which columns are"
        " left out and why."
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".jsonl, .json, .csv, .tsv, .parquet or CoNLL; or a folder"
    )
    parser.add_argument("--to", default="config.yaml", metavar="YAML", help="config to write (default: config.yaml)")
    parser.add_argument("--text", metavar="COLUMN", help="text column (FIRST,SECOND for pairs), if it is ambiguous")
    parser.add_argument(
        "--label", action="append", default=[], metavar="COLUMN[=TYPE]",
        help="use this label column, with this task type if given; the file's other columns are left out",
    )  # fmt: skip
    parser.add_argument("--sep", metavar="CHARACTER", help="column separator of .csv (default: detected)")
    parser.add_argument("--encoder", help="pretrained encoder (default: all-MiniLM-L6-v2)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing config")


def run(arguments: argparse.Namespace) -> None:
    """Write the config and print it; on a terminal, ask about what the files leave open."""
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
    write_atomic(to, written)
    print_masked(f"{written}\nWritten to {to}. Next: mtl-hf train {shlex.quote(str(to))}")


def _ask(question: str, options: Sequence[str]) -> str:
    """Ask on the terminal until the answer is one of the options, or its number."""
    print_masked(question)
    for number, option in enumerate(options, start=1):
        print_masked(f"  {number}  {option}")
    while True:
        answer = input("> ").strip()
        if answer in options:
            return answer
        if answer.isdecimal() and 0 < int(answer) <= len(options):
            return options[int(answer) - 1]
