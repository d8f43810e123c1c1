"""`mtl-hf data`: download public data sets."""

import argparse

from ..command import print_masked

HELP = "download public data sets from pinned origins and check them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf data`."""
    parser.add_argument("names", nargs="*", help="data sets to download (default: list all)")
    parser.add_argument("--to", default="data", help="target folder (default: data)")


def run(arguments: argparse.Namespace) -> None:
    """Download the named data sets; without names, list all data sets."""
    from ..data.catalog import CATALOG, download

    if not arguments.names:
        for name, data_set in CATALOG.items():
            print_masked(f"{name:<20}{data_set.license}")
    for name in arguments.names:
        download(name, arguments.to)
