"""Predictions for a file, a stream or a few texts, written as JSON lines as soon as they are ready.

Notable: errors in a file (its encoding, its columns) are found before the first prediction. Standard input is read line
by line, and an error in it is found when that line is read.
"""

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import datasets
from tqdm.auto import tqdm

from ..config import RunConfig
from ..data.files import check_encoding, has_rows, is_conll, read_lines
from ..files import atomic_file, check_file
from ..metrics import round_numbers
from ..modeling.encoding import CHOICES, KINDS, PAIRS, SINGLE, check_text
from ..modeling.heads import answers_texts
from ..modeling.texts import TextModel
from ..saved.data_file import find_text_columns, load_rows, read_words, text_columns
from ..saved.models import find_checkpoint
from ..tasks.source_data import join_columns
from .embed import load_model
from .onnx.model import OnnxModel, is_exported

logger = logging.getLogger(__name__)


def predict(
    model: str,
    texts: Sequence[str] = (),
    *,
    file: str | None = None,
    text: str | None = None,
    to: str | None = None,
    heads: Sequence[str] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Write one JSON line per text, in input order: its `id` if it has one, the text, and the prediction of each head.

    Args:
        model: See `load_model`; or a folder that `mtl-hf export` wrote.
        texts: Texts; pairs separated by a tab if a head reads pairs. Without `texts` and `file`, standard input is
            read.
        file: A file of rows (a type in `FILE_LOADERS`, or CoNLL), or of lines of text.
        text: The text column, or two for pairs, separated by a comma; by default the column of training, or one with a
            usual name. Without `file`, it is the key of the text in JSON objects on standard input.
        to: Output file, which gets its name once it is complete; by default standard output.
        heads: The heads to use; by default all.
        overwrite: Whether `to` may be replaced.
        **options: `batch_size`, `top_k` and `embeddings`, see `MultiTaskModel.predict_stream`.

    Raises:
        ValueError: There is no text, or more than one source of texts; a file, line, column or head is not valid.
    """
    if texts and file:
        raise ValueError("give texts or `--file`, not both.")
    if not texts and not file and sys.stdin.isatty():
        raise ValueError("there is no text: give texts or `--file`, or pipe lines to standard input.")
    of_rows = file is not None and (has_rows(file) or is_conll(file))
    if text and (texts or (file and not of_rows)):
        raise ValueError(
            f"`--text {text}`: {file or 'the command line'} has lines of text, not columns. Remove `--text`."
        )
    if to and file and os.path.exists(to) and os.path.samefile(to, file):
        raise ValueError(f"`--to` is {to}, which is also the input file: choose another name.")
    if to:
        check_file(to, "--to", overwrite=overwrite)
    run = _run_of(model) if file and is_conll(file) else None  # it names the columns
    rows = load_rows(file, run) if file and of_rows else None
    if file and not of_rows:
        check_encoding(file, "utf-8")
    answerer: TextModel = OnnxModel(model) if is_exported(model) else load_model(model)
    # Texts as (id, text), and the heads that read them: one stream, or several if heads read different columns.
    streams: list[tuple[Iterable[tuple[Any, Any]], Sequence[str] | None]]
    columns: dict[tuple[str, ...], Sequence[str] | None] = {}
    if rows is not None:
        columns = _columns(answerer, model, str(file), rows, text, heads)
        chosen = [column for own in columns for column in own]
        if any(getattr(rows.features[column], "dtype", None) in ("int64", "float64") for column in chosen):
            rows = load_rows(str(file), run, chosen)  # so that texts made of digits stay strings
        for own, names in columns.items():
            specs = [spec for name, spec in answerer.config.heads.items() if not names or name in names]
            if len(own) == 1 and any(spec["text"] == "words" for spec in specs):
                rows = read_words(str(file), rows, own[0], run or _run_of(model))
        streams = [(_of_rows(str(file), rows, own), names) for own, names in columns.items()]
    elif text:
        streams = [(_of_objects(text), heads)]
    else:
        lines = texts or read_lines(file)
        requested = [spec for name, spec in answerer.config.heads.items() if not heads or name in heads]
        pairs = any(KINDS[spec["text"]] == PAIRS for spec in requested)
        found = ((None, tuple(line.split("\t", 1)) if pairs and "\t" in line else line) for line in lines)
        streams = [(found, heads)]
    embeddings = options.pop("embeddings", False)
    answered = [
        _answers(answerer, found, names, embeddings=embeddings and not number, **options)
        for number, (found, names) in enumerate(streams)
    ]
    total = len(texts) or (None if rows is None else len(rows))
    # On a terminal, a progress bar and the lines would overwrite each other.
    no_bar = bool(texts) or not sys.stderr.isatty() or (not to and sys.stdout.isatty())
    started, number = time.perf_counter(), 0
    with _output(to) as output:
        for parts in tqdm(zip(*answered, strict=True), total=total, unit="text", disable=no_bar):
            row = _line(parts, list(columns))
            output.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            output.flush()
            number += 1
    if not texts:
        seconds = time.perf_counter() - started
        written = f" Written to {to}." if to else ""
        logger.info("%d texts in %.1f s, %.0f texts/s.%s", number, seconds, number / seconds, written)


_TEXTS = {SINGLE: "one text", PAIRS: "two texts", CHOICES: "a text and its choices"}


def _answers(
    model: TextModel, texts: Iterable[tuple[Any, Any]], heads: Sequence[str] | None, **options: Any
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yield the id, text and predictions of each text; options are checked before the first text is read."""
    checked = ((name, check_text(one, number)) for number, (name, one) in enumerate(texts, start=1))
    kept, given = itertools.tee(checked)
    answers = model.predict_stream((one for _, one in given), heads=heads, **options)
    return ((name, one, found) for (name, one), found in zip(kept, answers, strict=True))


def _line(parts: Sequence[tuple[Any, Any, dict[str, Any]]], columns: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """The line of a row: its id if it has one, its text (for several columns a mapping) and all predictions."""
    name, text, _ = parts[0]
    if len(parts) > 1:
        text = {}
        for own, (_, one, _) in zip(columns, parts, strict=True):
            text |= dict(zip(own, one if len(own) > 1 else [one], strict=True))
    row = ({} if name is None else {"id": name}) | {"text": text}
    for _, _, found in parts:
        row |= round_numbers(found)
    return row


@contextmanager
def _output(to: str | None) -> Iterator[TextIO]:
    """The output file, or standard output."""
    if to is None:
        yield sys.stdout
        return
    with atomic_file(to) as draft, draft.open("w", encoding="utf-8") as file:
        yield file


def _of_objects(text: str) -> Iterator[tuple[Any, Any]]:
    """Ids and texts from standard input, with one JSON object per line."""
    columns, missing = [column.strip() for column in text.split(",")], 0
    for number, line in enumerate(read_lines(None), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"standard input, line {number}: not JSON ({error.msg} at column {error.colno})."
            ) from None
        if not isinstance(row, dict) or not set(columns) <= row.keys():
            raise ValueError(f"standard input, line {number}: no object with {' and '.join(columns)}: {line[:100]}")
        values = [row[column] for column in columns]
        missing += values.count(None)
        found = tuple(_present(value, "") for value in values)
        yield row.get("id"), found[0] if len(found) == 1 else found
    _report_missing("standard input", missing, columns)


def _present(value: Any, empty: Any) -> Any:
    """A text in which missing values (the text itself, or some of its words) are replaced by empty ones."""
    if isinstance(value, list):
        return ["" if word is None else word for word in value]
    return empty if value is None else value


def _report_missing(where: str, number: int, columns: Sequence[str]) -> None:
    if number:
        logger.warning("%s: %d texts in %s are missing; they are treated as empty texts.",
                       where, number, " and ".join(columns))  # fmt: skip


def _of_rows(path: str, rows: datasets.Dataset, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Ids and texts of a file's rows. An empty cell of a .csv is read as missing: both are the empty text."""
    features = [rows.features[column] for column in columns]
    words = [getattr(feature, "feature", None) is not None for feature in features]
    choices = len(columns) > 2 or words == [False, True]
    for column, feature in zip(columns, features, strict=True):
        held = getattr(getattr(feature, "feature", feature), "dtype", None)
        if held not in ("string", "large_string", "null") or (len(columns) > 1 and any(words) and not choices):
            raise ValueError(
                f"{path}: the column {column!r} holds {feature}; it should hold strings or lists of words (for pairs:"
                " strings)."
            )
    _report_missing(path, sum(rows.data.column(column).null_count for column in columns), columns)
    empty: Any = [] if words[0] else ""
    ids = ["id"] if "id" in rows.column_names else []

    def read() -> Iterator[tuple[Any, Any]]:
        for some in rows.select_columns([*dict.fromkeys((*columns, *ids))]).iter(batch_size=1000):
            texts = [[_present(one, empty if len(columns) == 1 else "") for one in some[column]] for column in columns]
            names = some["id"] if ids else [None] * len(texts[0])
            form = "choices" if choices else "pair" if len(columns) > 1 else "string"
            yield from zip(names, join_columns(form, texts), strict=True)

    return read()


def _columns(
    answerer: TextModel,
    model: str,
    path: str,
    rows: datasets.Dataset,
    text: str | None,
    heads: Sequence[str] | None,
) -> dict[tuple[str, ...], Sequence[str] | None]:
    """Text columns (two for pairs) → the heads that read them, None for all heads.

    Columns of the run come first, then usual names. Heads whose columns are missing are left out with a warning, unless
    they are requested by name.

    Raises:
        ValueError: No head has its columns, a requested head lacks its columns, or several columns are possible.
    """
    specs = {
        name: spec
        for name, spec in answerer.config.heads.items()
        if answers_texts(spec) and (not heads or name in heads)
    }
    if text or not specs or set(heads or ()) - set(specs):  # `predict_stream` raises an error for such heads
        spec = next(iter(specs.values()), {"text": "string"})
        return {_several(text_columns(path, rows, "embedding", spec, text, None)): heads}
    run = _run_of(model)
    able = {name for name, spec in specs.items() if find_text_columns(rows, name, spec, run)[0]}
    wanted = [name for name in specs if name in able or heads or not able]
    found = {name: _several(text_columns(path, rows, name, specs[name], None, run)) for name in wanted}
    if left_out := [name for name in specs if name not in wanted]:
        forms = {_TEXTS[KINDS[specs[name]["text"]]] for name in left_out}
        logger.warning("No predictions of %s: %s has no columns with its texts (%s); name them with --text.",
                       ", ".join(left_out), path, " and ".join(sorted(forms)))  # fmt: skip
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, columns in found.items():
        groups.setdefault(columns, []).append(name)
    if len(groups) > 1:
        shown = "; ".join(f"{', '.join(names)}: {' and '.join(columns)}" for columns, names in groups.items())
        logger.info("%s: the heads read different columns (%s).", path, shown)
    return dict(groups)


def _several(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _run_of(model: str) -> RunConfig | None:
    """The config of a multi-task model's training run; None without its `run.yaml`."""
    if is_exported(model):
        return None
    path = find_checkpoint(model).run
    return RunConfig.load(path) if path else None
