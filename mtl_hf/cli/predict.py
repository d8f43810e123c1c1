"""`mtl-hf predict`: answer raw text, as JSON lines."""

import argparse

HELP = "answer raw text from every head, as JSON lines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf predict`."""
    parser.description = "Answer raw text from every head: a JSON line a text, in their order, written as they come."
    parser.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument(
        "texts",
        nargs="*",
        default=[],
        help="texts, or pairs with a tab between them (default: --file, or lines of standard input)",
    )
    parser.add_argument(
        "--file", help="rows (.jsonl, .json, .csv, .tsv, .parquet; .conll as in training), or else lines of text"
    )
    parser.add_argument(
        "--text",
        metavar="COLUMN",
        help="the text of rows (FIRST,SECOND for pairs), if not called as usual; without --file the lines of standard"
        " input are then JSON objects",
    )
    parser.add_argument("--to", metavar="FILE", help="default: standard output")
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --to")
    parser.add_argument("--heads", nargs="+", help="only these heads")
    parser.add_argument(
        "--top-k", type=_top_k, default=1, metavar="K", help="labels a text: a number, or all (default: the best)"
    )
    parser.add_argument("--embeddings", action="store_true", help="the text's embedding, too")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="1 answers each line as it comes, without waiting for others"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write what the heads answer."""
    from ..inference.predict import predict

    names = ("texts", "file", "text", "to", "heads", "top_k", "embeddings", "batch_size", "overwrite")
    predict(arguments.model, **{name: getattr(arguments, name) for name in names})


def _top_k(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor `all`")
    return int(text)
