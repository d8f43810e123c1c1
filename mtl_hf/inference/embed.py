"""Embeddings for the command line: a cosine table, a file of vectors, a scatter plot.

Notable: a file is read through Arrow, encoded and written in chunks, so it may be larger than memory. All arguments are
checked before the first text is encoded, and an output file gets its name only once it is complete.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from pyarrow import parquet
from torch import Tensor
from torch.nn.functional import normalize as unit_length
from tqdm.auto import tqdm

from ..config import nearest, resolve_path
from ..data.describe_file import TEXT_COLUMNS
from ..data.sources import load_file
from ..files import atomic_file, check_file
from ..modeling.configuration_multitask import own_config
from ..modeling.modeling_multitask import MultiTaskModel
from ..modeling.texts import MOST_CHARACTERS, report_cut
from ..saved.models import check_folder, check_name, load_saved
from .projection import ENDINGS, PROJECTIONS, check_plots, label_column, plot, project, sample_rows

logger = logging.getLogger(__name__)

COLUMN = "embedding"  # column of a parquet file
_STORED = 8192  # rows per chunk that is read, encoded and written: a row group of parquet
_ENCODED = 512  # texts between two updates of the progress bar


def load_model(name_or_path: str) -> MultiTaskModel:
    """Load a trained multi-task model, or any encoder as a model without heads.

    Raises:
        ValueError: There is no such model.
    """
    path = resolve_path(name_or_path)
    if "/" in path and not os.path.exists(path):  # a bare name may be an encoder on the Hub, such as bert-base-uncased
        check_name(name_or_path, path)
    if os.path.exists(path):
        check_folder(name_or_path, path)
    try:
        if own_config(path) is not None:
            return load_saved(path, name_or_path)
        return MultiTaskModel.from_encoder(path)
    except OSError as error:
        raise ValueError(f"no model can be loaded from {name_or_path!r}: {' '.join(str(error).split())}") from error


def sample_sentences() -> datasets.Dataset:
    """Twelve sentences of four themes that ship with the package: columns `text` and `theme`."""
    return load_file("package:mtl_hf/data/samples/themes/themes.jsonl")


def embed(
    name: str,
    rows: datasets.Dataset,
    *,
    text: str | None = None,
    to: str | Path | None = None,
    plots: Sequence[str | Path] = (),
    projection: str = "pca",
    color: str | None = None,
    sample: int = 5000,
    overwrite: bool = False,
    **options: Any,
) -> np.ndarray:
    """Embed rows, write the vectors and plot them.

    Args:
        name: A run folder, the folder of an encoder, or a Hub id.
        rows: The rows.
        text: The text column, if it has no usual name.
        to: Output file, see `embed_rows`.
        plots: `.png` and `.svg` files for a scatter plot of the embeddings.
        projection: One of `PROJECTIONS`.
        color: A column with a label for each row.
        sample: Maximum number of rows in the plot, sampled at random.
        overwrite: Whether existing files may be replaced.
        **options: Passed to `embed_rows`: `batch_size`, `normalize`, `pooling`, `show_progress`.

    Returns:
        The embeddings (float32) of the plotted rows; of all rows if nothing is plotted or written.

    Raises:
        ValueError: An argument is not valid; raised before the first text is encoded.
        ImportError: `plots` is set and matplotlib is not installed.
    """
    pictures = [Path(path) for path in plots]
    if to is not None:
        _check_output(Path(to), "--to", (".parquet", ".npy"), overwrite)
    for path in pictures:
        _check_output(path, "--plot", ENDINGS, overwrite)
    if plots:
        check_plots()
    if projection not in PROJECTIONS:
        raise ValueError(f"`--projection` is {projection!r}; valid are {', '.join(PROJECTIONS)}.")
    if sample < 3:
        raise ValueError(f"`--sample` is {sample}; a plot needs at least 3 texts.")
    if not len(rows) or (plots and len(rows) < 3):
        raise ValueError(
            f"there are {len(rows) or 'no'} texts to embed{', and a plot needs at least 3' * bool(plots)}."
        )
    column = text_column(rows, text)
    if to is not None and Path(to).suffix == ".parquet" and COLUMN in rows.column_names:
        raise ValueError(f"the rows already have a column {COLUMN!r}: rename it, or write a .npy file.")
    keep = sample_rows(len(rows), sample) if plots else np.arange(0 if to is not None else len(rows))
    labels = None if color is None else label_column(rows, color)
    embeddings = embed_rows(load_model(name), rows, column, to=to, keep=keep, **options)
    if to is not None:
        logger.info("Written to %s.", to)
    if plots:
        if len(keep) < len(rows):
            logger.info("Plotting %d of %d texts, sampled at random (`--sample`).", len(keep), len(rows))
        plot(*project(embeddings, projection), labels and [labels[row] for row in keep], pictures)
        logger.info("Plot written to %s.", " and ".join(map(str, plots)))
    return embeddings


def text_column(rows: datasets.Dataset, given: str | None = None) -> str:
    """The text column: the given one, else the one with a usual name, else the only column of strings.

    Raises:
        ValueError: There is no such column, it does not contain texts, or several are possible.
    """
    columns = ", ".join(rows.column_names)
    if given is not None:
        if given not in rows.column_names:
            hint = nearest(given, rows.column_names)
            raise ValueError(f"`--text {given}`: there is no such column.{hint} There are: {columns}.")
        if not _holds_text(rows.features[given]):
            raise ValueError(
                f"`--text {given}`: it contains {rows.features[given]}; it should contain strings or lists of words."
            )
        return given
    texts = [column for column in rows.column_names if _holds_text(rows.features[column])]
    found = [column for column in texts if column in TEXT_COLUMNS] or texts
    if len(found) != 1:
        raise ValueError(
            f"the file has the columns {columns}, and {' and '.join(found) or 'none of them'} could be the texts: name"
            " the text column with `--text COLUMN`."
        )
    return found[0]


def embed_rows(
    model: MultiTaskModel,
    rows: datasets.Dataset,
    text: str,
    *,
    to: str | Path | None = None,
    keep: Sequence[int] | np.ndarray = (),
    batch_size: int = 32,
    normalize: bool = False,
    pooling: str | None = None,
    show_progress: bool = False,
) -> np.ndarray:
    """Encode a column of texts and write the embeddings chunk by chunk, in the order of the rows.

    Args:
        model: The model.
        rows: The rows.
        text: The text column: strings or lists of words.
        to: `.parquet` for all columns and a column `embedding` (fixed-size list of float32), or `.npy` for an array
            (num_rows, hidden_size) of float32; None to write nothing.
        keep: Indices of the rows whose embeddings are returned, ascending.
        batch_size: Texts per batch; texts of similar length share a batch.
        normalize: Whether to scale each embedding to length 1.
        pooling: Pooling to use instead of the model's own.
        show_progress: Whether to show a progress bar.

    Returns:
        (len(keep), hidden_size) float32.
    """
    column, empty, cut = rows.select_columns([text]), 0, [0]
    wanted = np.asarray(keep, dtype=int)
    kept = np.empty((len(wanted), model.config.hidden_size), dtype=np.float32)
    started = time.perf_counter()
    with (
        _writer(to, rows, model.config.hidden_size) as write,
        tqdm(total=len(rows), unit="text", disable=not show_progress) as progress,
    ):
        for begin in range(0, len(rows), _STORED):
            texts = [_text(value) for value in column[begin : begin + _STORED][text]]
            empty += texts.count("")
            embeddings = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
            by_length = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
            for chosen in _chunks(by_length, [len(text) for text in texts]):
                embeddings[chosen] = model.encode(
                    [texts[row] for row in chosen],
                    batch_size=batch_size,
                    normalize=normalize,
                    pooling=pooling,
                    report=cut.append,
                ).numpy()
                progress.update(len(chosen))
            write(begin, embeddings)
            here = (wanted >= begin) & (wanted < begin + len(texts))
            kept[here] = embeddings[wanted[here] - begin]
    if empty:
        logger.warning("%d of %d texts are empty: they all get the embedding of the empty text.", empty, len(rows))
    report_cut(sum(cut), len(rows), model.config.max_length)
    seconds = time.perf_counter() - started
    logger.info("%d texts x %d dimensions in %.1f s: %.0f texts/s.",
                len(rows), model.config.hidden_size, seconds, len(rows) / seconds)  # fmt: skip
    return kept


def _chunks(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Split rows into chunks of `_ENCODED`, smaller if the texts are very long.

    Args:
        order: Row numbers, longest text first.
        lengths: Number of characters of each row.
    """
    start = 0
    while start < len(order):
        number = max(1, min(_ENCODED, MOST_CHARACTERS // max(1, lengths[order[start]])))
        yield list(order[start : start + number])
        start += number


@contextmanager
def _writer(
    to: str | Path | None, rows: datasets.Dataset, hidden_size: int
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Yield a function that writes embeddings from a given row number on; the file gets its name at the end."""
    if to is None:
        yield lambda begin, embeddings: None
        return
    with atomic_file(to) as part:
        if Path(to).suffix == ".npy":
            array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(len(rows), hidden_size))

            def write(begin: int, embeddings: np.ndarray) -> None:
                array[begin : begin + len(embeddings)] = embeddings

            yield write
            array.flush()
        else:
            arrow = rows.with_format("arrow")
            vector = datasets.List(datasets.Value("float32"), length=hidden_size)
            schema = datasets.Features(rows.features | {COLUMN: vector}).arrow_schema  # with the names of class labels
            with parquet.ParquetWriter(part, schema) as file:

                def write(begin: int, embeddings: np.ndarray) -> None:
                    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), hidden_size)
                    file.write_table(arrow[begin : begin + len(embeddings)].append_column(COLUMN, column).cast(schema))

                yield write


def cosine_table(texts: list[str], embeddings: Tensor) -> str:
    """Format the cosine similarity of each two texts as a table."""
    unit = unit_length(embeddings, dim=-1)
    cosines = (unit @ unit.T).tolist()
    lines = ["     " + "".join(f"{number:>7}" for number in range(1, len(texts) + 1))]
    for number, (text, row) in enumerate(zip(texts, cosines, strict=True), start=1):
        shown = text if len(text) <= 60 else text[:57] + "..."
        lines.append(f"{number:>4} " + "".join(f"{value:>7.3f}" for value in row) + f"  {shown}")
    return "\n".join(lines)


def _holds_text(feature: Any) -> bool:
    return getattr(getattr(feature, "feature", feature), "dtype", None) in ("string", "large_string")


def _text(value: str | Sequence[str | None] | None) -> str:
    return value if isinstance(value, str) else " ".join(word for word in value or () if word)


def _check_output(path: Path, argument: str, endings: Sequence[str], overwrite: bool) -> None:
    if path.suffix not in endings:
        raise ValueError(f"`{argument}` is {path}; its ending should be {' or '.join(endings)}.")
    check_file(path, argument, overwrite=overwrite)
