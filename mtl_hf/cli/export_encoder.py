"""`mtl-hf export-encoder`: export the encoder for AutoModel and sentence-transformers."""

import argparse

HELP = "export the encoder for AutoModel and sentence-transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf export-encoder`."""
    parser.description = (
        "Write the encoder, its tokenizer and its pooling to a folder that AutoModel, SentenceTransformer and"
        " `model.encoder` of a config can load. The embeddings equal those of `mtl-hf embed`."
    )
    parser.add_argument("model", help="a run folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--pooling", choices=["mean", "cls", "max"], help="default: as the model was trained")
    parser.add_argument(
        "--normalize", action="store_true", help="SentenceTransformer normalizes embeddings to length 1"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the encoder."""
    from ..inference.export_encoder import export_encoder

    export_encoder(arguments.model, arguments.to, pooling=arguments.pooling, normalize=arguments.normalize)
