"""`mtl-hf predict`: predict raw text with every head, as JSON lines."""

import argparse

HELP = "predict raw text with every head, as JSON lines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf predict`."""
    parser.description = (
        "Predict raw text with every head. Writes one JSON line per text, in input order, as soon as it is ready."
    )
    parser.add_argument("model", help="a run folder, a checkpoint-N in it, a Hub id, or an exported folder")
    parser.add_argument(
        "texts",
        nargs="*",
        default=[],
        help="texts, or pairs separated by a tab (default: --file, else lines of standard input)",
    )
    parser.add_argument("--file", help="rows (.jsonl, .json, .csv, .tsv, .parquet, .conll) or lines of text")
    parser.add_argument(
        "--text",
        metavar="COLUMN",
        help="text column of --file (FIRST,SECOND for pairs; default: found by its name); without --file, standard"
        " input is read as JSON objects with this key",
    )
    parser.add_argument("--to", metavar="FILE", help="output file (default: standard output)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file in --to")
    parser.add_argument("--heads", nargs="+", help="heads to predict with (default: all)")
    parser.add_argument(
        "--top-k", type=_top_k, default=1, metavar="K", help="labels per text: a number, or all (default: 1)"
    )
    parser.add_argument("--embeddings", action="store_true", help="add the embedding of each text")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="1 predicts each line as soon as it is read (default: 32)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the predictions."""
    from ..inference.predict import predict

    names = ("texts", "file", "text", "to", "heads", "top_k", "embeddings", "batch_size", "overwrite")
    predict(arguments.model, **{name: getattr(arguments, name) for name in names})


def _top_k(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor `all`")
    return int(text)
