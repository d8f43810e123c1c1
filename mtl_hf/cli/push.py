"""`mtl-hf push`: send a saved model to the Hub."""

import argparse

HELP = "send a saved model to the Hub, with its code, card and scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf push`."""
    parser.add_argument("model", help="a run's folder, or a checkpoint-N in it")
    parser.add_argument("repo", help="owner/name, or a name of your own; made if there is none")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch, made if there is none (default: main)")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, then stop")


def run(arguments: argparse.Namespace) -> None:
    """Push the model."""
    from ..hub.push import push

    push(
        arguments.model,
        arguments.repo,
        private=arguments.private,
        revision=arguments.revision,
        dry_run=arguments.dry_run,
    )
