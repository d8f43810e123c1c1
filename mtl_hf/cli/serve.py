"""`mtl-hf serve`: serve a model over HTTP, with a page to try it."""

import argparse
import importlib.util
import os
from pathlib import Path

from ..inference.serve.limits import Limits

HELP = "serve a model over HTTP, with a page to try it"
# Option → the field of `Limits`, and its meaning.
LIMITS = {
    "--max-body": ("body", "bytes of a request"),
    "--max-sentences": ("sentences", "sentences of a request"),
    "--max-characters": ("characters", "characters of a sentence"),
    "--max-queue": ("queue", "sentences that wait for the model"),
    "--max-batch": ("batch", "sentences in an encoder pass"),
    "--timeout": ("seconds", "seconds to answer a request"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf serve`."""
    parser.description = (
        "Serve a model over HTTP: predictions, embeddings, a page to try it at /, and the API at /docs. SIGTERM ends"
        " the server after the requests in flight are answered."
    )
    parser.epilog = (
        "environment variables: MTL_HF_TOKEN is the token that every request needs (a bearer token; default: none);"
        " MTL_HF_TRAINING_TOKEN the one to train, stop and swap models, which --allow-training needs."
    )
    parser.add_argument("model", help="a run folder, a checkpoint-N in it, a Hub id, or an exported folder")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for any that is free (default: 8000)")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME",
        help="a name by which clients reach the server, besides localhost and addresses; may be repeated",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: an accelerator if there is one)")
    parser.add_argument(
        "--backend", choices=["onnx", "torch"],
        help="onnx (the graph, exported beside the model at its first use) or torch (default: onnx on a CPU, if"
        " mtl_hf[onnx] is installed)",
    )  # fmt: skip
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help="token of every request; shows in the list of processes, so prefer MTL_HF_TOKEN",
    )
    parser.add_argument(
        "--allow-training", nargs="+", default=[], metavar="CONFIG", help="configs that clients may train, by file name"
    )
    parser.add_argument(
        "--runs", default="outputs/served", metavar="FOLDER", help="folder of these runs (default: outputs/served)"
    )
    for option, (name, meaning) in LIMITS.items():
        default = getattr(Limits, name)
        parser.add_argument(
            option,
            dest=name,
            type=type(default),
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default:,.15g})",
        )


def run(arguments: argparse.Namespace) -> None:
    """Serve the model."""
    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if not importlib.util.find_spec(name)]:
        raise ImportError(f"`serve` needs {', '.join(missing)}: pip install 'mtl_hf[serve]'")
    from ..inference.serve.access import Access, check_token_value
    from ..inference.serve.server import serve

    token = check_token_value("--token", arguments.token)
    training_token = check_token_value("MTL_HF_TRAINING_TOKEN", os.environ.get("MTL_HF_TRAINING_TOKEN"))
    if arguments.allow_training and training_token is None:
        raise ValueError("`--allow-training` needs a token: set the environment variable MTL_HF_TRAINING_TOKEN.")
    runs = None
    if arguments.allow_training:
        from ..experiments.training_runs import TrainingRuns  # needs what training needs; an exported model does not

        runs = TrainingRuns(arguments.allow_training, arguments.runs, reserved=Path(arguments.model).name)
    serve(
        arguments.model,
        host=arguments.host,
        port=arguments.port,
        device=arguments.device,
        backend=arguments.backend,
        limits=Limits(**{name: getattr(arguments, name) for name, _ in LIMITS.values()}),
        access=Access(
            hosts=frozenset(name.lower() for name in arguments.allowed_host),
            token=token or check_token_value("MTL_HF_TOKEN", os.environ.get("MTL_HF_TOKEN")),
            training_token=training_token,
        ),
        runs=runs,
    )
