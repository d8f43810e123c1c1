"""`mtl-hf push`: push a saved model to the Hub."""

import argparse

HELP = "push a saved model to the Hub, with its code, model card and metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf push`."""
    parser.add_argument("model", help="a run folder, or a checkpoint-N in it")
    parser.add_argument("repo", help="owner/name, or a name in your own account; created if missing")
    parser.add_argument("--private", action="store_true", default=None, help="create a new repository as private")
    parser.add_argument("--revision", help="branch, created if missing (default: main)")
    parser.add_argument("--dry-run", action="store_true", help="list the files that would be uploaded, then stop")


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
