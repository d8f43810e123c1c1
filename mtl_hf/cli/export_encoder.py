"""`mtl-hf export-encoder`: the encoder alone, for AutoModel and sentence-transformers."""

import argparse

HELP = "the encoder alone, for AutoModel and sentence-transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf export-encoder`."""
    parser.description = (
        "Write the encoder with its tokenizer and pooling as a folder that AutoModel, SentenceTransformer"
        " and `model.encoder` of a config load, with the embeddings of `mtl-hf embed`."
    )
    parser.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, or an empty one")
    parser.add_argument("--pooling", choices=["mean", "cls", "max"], help="default: the model's")
    parser.add_argument("--normalize", action="store_true", help="SentenceTransformer gives vectors of length 1")


def run(arguments: argparse.Namespace) -> None:
    """Write the encoder."""
    from ..inference.export_encoder import export_encoder

    export_encoder(arguments.model, arguments.to, pooling=arguments.pooling, normalize=arguments.normalize)
