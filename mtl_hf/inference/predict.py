"""Answers to a file, a stream or a few texts, as JSON lines that are written as they come.

Notable: what is wrong with a file (its encoding, its columns) is found before a text is answered. Standard input is
read as it comes; what is wrong in it is found when it comes.
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
from ..files import check_file, whole_file
from ..metrics import round_numbers
from ..modeling.encoding import PAIRED, check_text
from ..modeling.heads import answers_texts
from ..modeling.modeling_multitask import MultiTaskModel
from ..saved.data_file import find_text_columns, load_rows, text_columns
from ..saved.models import find_checkpoint
from .embed import load_model

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
    """Write one JSON line a text, in their order: its `id` if it has one, the text, and the answer of each head.

    Args:
        model: As `load_model` takes it.
        texts: Texts; where a head that is asked reads pairs, pairs with a tab between them. Without any and without
            `file` standard input is read.
        file: Rows (its ending one of `FILE_LOADERS`, or of CoNLL where the model's run has read such files), or else
            lines of text.
        text: The column of the text, or two for pairs with a comma between; by default that of training, or one called
            as texts usually are. On standard input it says that the lines are JSON objects.
        to: The file to write, which gets its name once all texts are answered; by default standard output.
        heads: Only these.
        overwrite: Whether `to` may be replaced.
        **options: `batch_size`, `top_k` and `embeddings`, as of `MultiTaskModel.predict_stream`.

    Raises:
        ValueError: No text, or more than one source of it; a file, line, column or head that is not as it has to be.
    """
    if texts and file:
        raise ValueError("give texts or `--file`, not both.")
    if not texts and not file and sys.stdin.isatty():
        raise ValueError("there is no text: give some, or `--file`, or pipe lines in.")
    of_rows = file is not None and (has_rows(file) or is_conll(file))
    if text and (texts or (file and not of_rows)):
        raise ValueError(f"`--text {text}`: {file or 'the command line'} has lines of text, and no columns.")
    if to and file and os.path.exists(to) and os.path.samefile(to, file):
        raise ValueError(f"`--to` is {to}, the file with the texts.")
    if to:
        check_file(to, "--to", overwrite=overwrite)
    run = _run_of(model) if file and is_conll(file) else None  # names the columns
    rows = load_rows(file, run) if file and of_rows else None
    if file and not of_rows:
        check_encoding(file, "utf-8")
    answerer = load_model(model)
    # Texts as (id, text), and the heads that answer them: one stream, or several where heads read different columns.
    streams: list[tuple[Iterable[tuple[Any, Any]], Sequence[str] | None]]
    columns: dict[tuple[str, ...], Sequence[str] | None] = {}
    if rows is not None:
        columns = _columns(answerer, model, str(file), rows, text, heads)
        chosen = [column for own in columns for column in own]
        if any(getattr(rows.features[column], "dtype", None) in ("int64", "float64") for column in chosen):
            rows = load_rows(str(file), run, chosen)  # a text of digits is a text
        streams = [(_of_rows(str(file), rows, own), names) for own, names in columns.items()]
    elif text:
        streams = [(_of_objects(text), heads)]
    else:
        lines = texts or read_lines(file)
        asked = [spec for name, spec in answerer.config.heads.items() if not heads or name in heads]
        pairs = any(spec["text"] in PAIRED for spec in asked)
        found = ((None, tuple(line.split("\t", 1)) if pairs and "\t" in line else line) for line in lines)
        streams = [(found, heads)]
    embeddings = options.pop("embeddings", False)
    answered = [
        _answers(answerer, found, names, embeddings=embeddings and not number, **options)
        for number, (found, names) in enumerate(streams)
    ]
    total = len(texts) or (None if rows is None else len(rows))
    # Where both are shown on one screen, a bar and the lines would write over each other.
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
        logger.info("%d texts in %.1f s, %.0f a second.%s", number, seconds, number / seconds, written)


def _answers(
    model: MultiTaskModel, texts: Iterable[tuple[Any, Any]], heads: Sequence[str] | None, **options: Any
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yield the id, the text and the answers of each text; wrong options are refused before the first is read."""
    checked = ((name, check_text(one, number)) for number, (name, one) in enumerate(texts, start=1))
    kept, given = itertools.tee(checked)
    answers = model.predict_stream((one for _, one in given), heads=heads, **options)
    return ((name, one, found) for (name, one), found in zip(kept, answers, strict=True))


def _line(parts: Sequence[tuple[Any, Any, dict[str, Any]]], columns: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """The line of a row: its id if it has one, its text (with several, by their columns) and all answers."""
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
    """The file to write, or standard output."""
    if to is None:
        yield sys.stdout
        return
    with whole_file(to) as draft, draft.open("w", encoding="utf-8") as file:
        yield file


def _of_objects(text: str) -> Iterator[tuple[Any, Any]]:
    """Ids and texts of standard input, a JSON object a line."""
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
    """A text with empty ones for what is missing: the text itself, or some of its words."""
    if isinstance(value, list):
        return ["" if word is None else word for word in value]
    return empty if value is None else value


def _report_missing(where: str, number: int, columns: Sequence[str]) -> None:
    if number:
        logger.warning("%s: %d texts in %s are missing; they are answered as empty ones.",
                       where, number, " and ".join(columns))  # fmt: skip


def _of_rows(path: str, rows: datasets.Dataset, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Ids and texts of a file's rows. An empty cell of a .csv is read as missing: both are the empty text."""
    features = [rows.features[column] for column in columns]
    words = [getattr(feature, "feature", None) is not None for feature in features]
    for column, feature in zip(columns, features, strict=True):
        held = getattr(getattr(feature, "feature", feature), "dtype", None)
        if held not in ("string", "large_string", "null") or (len(columns) > 1 and any(words)):
            raise ValueError(
                f"{path}: the column {column!r} holds {feature}; texts are strings or lists of words (pairs: strings)."
            )
    _report_missing(path, sum(rows.data.column(column).null_count for column in columns), columns)
    empty: Any = [] if words[0] else ""
    ids = ["id"] if "id" in rows.column_names else []

    def read() -> Iterator[tuple[Any, Any]]:
        for some in rows.select_columns([*dict.fromkeys((*columns, *ids))]).iter(batch_size=1000):
            texts = [[_present(one, empty) for one in some[column]] for column in columns]
            names = some["id"] if ids else [None] * len(texts[0])
            yield from zip(names, texts[0] if len(columns) == 1 else zip(*texts, strict=True), strict=True)

    return read()


def _columns(
    answerer: MultiTaskModel,
    model: str,
    path: str,
    rows: datasets.Dataset,
    text: str | None,
    heads: Sequence[str] | None,
) -> dict[tuple[str, ...], Sequence[str] | None]:
    """Columns of the text (two for pairs) → the heads that read them, None for all.

    Columns of the run come first, then those that are called as usual. Heads whose columns are not there are left out,
    which is logged, unless they are asked for by name.

    Raises:
        ValueError: No head has its columns, a head that is asked for has not, or several could be meant.
    """
    specs = {
        name: spec
        for name, spec in answerer.config.heads.items()
        if answers_texts(spec) and (not heads or name in heads)
    }
    if text or not specs or set(heads or ()) - set(specs):  # such heads are refused by `predict_stream`
        spec = next(iter(specs.values()), {"text": "string"})
        return {_several(text_columns(path, rows, "embedding", spec, text, None)): heads}
    run = _run_of(model)
    able = {name for name, spec in specs.items() if find_text_columns(rows, name, spec, run)[0]}
    wanted = [name for name in specs if name in able or heads or not able]
    found = {name: _several(text_columns(path, rows, name, specs[name], None, run)) for name in wanted}
    if silent := [name for name in specs if name not in wanted]:
        forms = {"two texts" if specs[name]["text"] in PAIRED else "one text" for name in silent}
        logger.warning("No answer from %s: %s has no columns of its texts (%s); name them with --text.",
                       ", ".join(silent), path, " and ".join(sorted(forms)))  # fmt: skip
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
    """The config that a multi-task model was trained with; None without its `run.yaml`."""
    path = find_checkpoint(model).run
    return RunConfig.load(path) if path else None
