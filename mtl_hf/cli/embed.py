"""`mtl-hf embed`: compute sentence embeddings and print, save or plot them."""

import argparse
import sys

from ..command import print_masked

HELP = "compute sentence embeddings: print cosines, write a file, draw a plot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf embed`."""
    parser.description = (
        "Compute sentence embeddings. Prints a table of cosine similarities, writes a file with --to, draws a plot"
        " with --plot."
    )
    parser.add_argument("model", help="a run folder, a Hub id, or package:<python package>/<folder>")
    parser.add_argument(
        "texts", nargs="*", default=[], help="sentences (default: --file, else lines of standard input)"
    )
    parser.add_argument("--file", help="rows (.jsonl, .json, .csv, .tsv, .parquet), or one text per line")
    parser.add_argument("--samples", action="store_true", help="use the 12 sample sentences of the package")
    parser.add_argument("--text", metavar="COLUMN", help="text column of --file (default: found by its name)")
    parser.add_argument("--to", metavar="FILE", help="write .parquet (all columns and `embedding`) or .npy")
    parser.add_argument("--normalize", action="store_true", help="scale each embedding to length 1")
    parser.add_argument("--pooling", help="mean, cls, max, ... (default: as the model was trained)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts per batch (default: 32)")
    parser.add_argument(
        "--plot", action="append", default=[], metavar="FILE", help="draw a scatter plot: .png or .svg; may be repeated"
    )
    parser.add_argument("--projection", choices=["pca", "tsne"], help="how to project to 2D (default: pca)")
    parser.add_argument("--color", metavar="COLUMN", help="column with labels to colour the points by")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="plot at most N texts, sampled at random (default: 5000)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(arguments: argparse.Namespace) -> None:
    """Embed the texts; print a table of cosines if no file is written."""
    import torch
    from datasets import Dataset

    from ..data.describe_file import TEXT_COLUMNS
    from ..data.files import has_rows, is_conll
    from ..data.sources import load_file
    from ..inference.embed import cosine_table, embed, sample_sentences, text_column

    drawing = {name: getattr(arguments, name) for name in ("projection", "color", "sample")}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if drawing and not arguments.plot:
        raise ValueError(f"`--{next(iter(drawing))}` only applies to a plot: add `--plot FILE`.")
    if arguments.samples:
        if arguments.texts or arguments.file:
            raise ValueError("give only one of: texts, `--file`, `--samples`.")
        rows = sample_sentences()
        drawing = {"color": "theme"} | drawing
    elif arguments.file and not arguments.texts and (has_rows(arguments.file) or is_conll(arguments.file)):
        rows = load_file(arguments.file, as_text=[arguments.text] if arguments.text else TEXT_COLUMNS)
    else:
        rows = Dataset.from_dict({"text": _texts(arguments)})
    written = arguments.to or arguments.plot
    if not written and len(rows) > 30:
        raise ValueError(
            f"{len(rows)} texts are too many for a table: write a file with `--to` or a plot with `--plot`."
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
        print_masked(cosine_table(rows[text_column(rows, arguments.text)], torch.from_numpy(embeddings)))


def _texts(arguments: argparse.Namespace) -> list[str]:
    if arguments.texts and arguments.file:
        raise ValueError("give texts or `--file`, not both.")
    if arguments.texts:
        return list(arguments.texts)
    if not arguments.file and sys.stdin.isatty():
        raise ValueError("there is no text: give texts or `--file`, or pipe lines to standard input.")
    from ..data.files import read_lines

    return list(read_lines(arguments.file))
