"""`mtl-hf embed`: sentences as vectors, in a table, a file or a picture."""

import argparse
import sys

from ..command import say

HELP = "sentence embeddings: a cosine table, a file of them, a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf embed`."""
    parser.description = (
        "Turn sentences into vectors: shown as a table of cosines, written with --to, drawn with --plot."
    )
    parser.add_argument("model", help="a run's folder, a Hub id, or package:<python package>/<folder>")
    parser.add_argument("texts", nargs="*", default=[], help="sentences (default: --file, or lines of stdin)")
    parser.add_argument("--file", help="rows (.jsonl, .json, .csv, .tsv, .parquet), or a text file, one text a line")
    parser.add_argument("--samples", action="store_true", help="twelve sentences of four themes that come with us")
    parser.add_argument("--text", metavar="COLUMN", help="the texts of --file, if not called as usual")
    parser.add_argument("--to", metavar="FILE", help=".parquet (columns of --file and `embedding`) or .npy")
    parser.add_argument("--normalize", action="store_true", help="scale each embedding to length 1")
    parser.add_argument("--pooling", help="mean, cls, max, ... (default: the model's)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--plot", action="append", default=[], metavar="FILE", help="a picture: .png or .svg, or twice")
    parser.add_argument("--projection", choices=["pca", "tsne"], help="how vectors become points (default: pca)")
    parser.add_argument("--color", metavar="COLUMN", help="a label of each text, to colour points by")
    parser.add_argument("--sample", type=int, metavar="N", help="draw at most N texts (default: 5000)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(arguments: argparse.Namespace) -> None:
    """Embed the texts; print cosines where nothing is written."""
    import torch
    from datasets import Dataset

    from ..data.describe_file import TEXT_COLUMNS
    from ..data.files import has_rows, is_conll
    from ..data.sources import load_file
    from ..inference.embed import cosine_table, embed, sample_sentences, text_column

    drawing = {name: getattr(arguments, name) for name in ("projection", "color", "sample")}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if drawing and not arguments.plot:
        raise ValueError(f"`--{next(iter(drawing))}` is for a picture: say where with `--plot`.")
    if arguments.samples:
        if arguments.texts or arguments.file:
            raise ValueError("give texts, `--file` or `--samples`, not several.")
        rows = sample_sentences()
        drawing = {"color": "theme"} | drawing
    elif arguments.file and not arguments.texts and (has_rows(arguments.file) or is_conll(arguments.file)):
        rows = load_file(arguments.file, as_text=[arguments.text] if arguments.text else TEXT_COLUMNS)
    else:
        rows = Dataset.from_dict({"text": _texts(arguments)})
    written = arguments.to or arguments.plot
    if not written and len(rows) > 30:
        raise ValueError(
            f"there are {len(rows)} texts, too many for a table: say what to write with `--to` or `--plot`."
        )
    embeddings = embed(
        arguments.model,
        rows,
        text=arguments.text,
        to=arguments.to,
        plots=arguments.plot,
        overwrite=arguments.overwrite,
        batch_size=arguments.batch_size,
        normalize=arguments.normalize,
        pooling=arguments.pooling,
        show_progress=len(rows) > 256 and sys.stderr.isatty(),
        **drawing,
    )
    if not written:
        say(cosine_table(rows[text_column(rows, arguments.text)], torch.from_numpy(embeddings)))


def _texts(arguments: argparse.Namespace) -> list[str]:
    if arguments.texts and arguments.file:
        raise ValueError("give texts or `--file`, not both.")
    if arguments.texts:
        return list(arguments.texts)
    if not arguments.file and sys.stdin.isatty():
        raise ValueError("there is no text: give some, or `--file`, or pipe lines in.")
    from ..data.files import read_lines

    return list(read_lines(arguments.file))
