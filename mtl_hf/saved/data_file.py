"""Build a config from a model's heads and one file of rows, to score a model whose data are not here.

Notable: ambiguous columns are an error that names the argument to set, never a guess. Columns that the model was
trained on come first, then a column with the name of the head (labels) or a usual name (text).
"""

import dataclasses
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import datasets

from ..config import Model, RunConfig, Source, Task, nearest
from ..data.describe_file import PAIR_COLUMNS, TEXT_COLUMNS
from ..data.files import is_conll, loader_of
from ..data.formats import WordTasks, holds_spans, read_formats
from ..data.shapes import conll_columns
from ..data.sources import load_file
from ..modeling.encoding import CHOICES, KINDS, PAIRS, SINGLE
from ..tasks import task_type
from ..tasks.arrow_columns import values_of
from ..tasks.written_lists import are_lists

logger = logging.getLogger(__name__)


_COLUMNS = {SINGLE: "COLUMN", PAIRS: "FIRST,SECOND", CHOICES: "TEXT,CHOICES"}  # for messages


def config_of_file(
    path: str | Path,
    heads: Mapping[str, Mapping[str, Any]],
    run: RunConfig | None = None,
    text: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> RunConfig:
    """The config that scores heads on a file; its rows become the split `test`.

    Args:
        path: A file of a type in `data.files.FILE_LOADERS`, or a CoNLL file.
        heads: Head → its specification.
        run: The config of the model's training run; columns with the same names are read in the same way.
        text: The text column, or two for pairs, separated by a comma.
        labels: Head → its label column, if it has neither the name in `run` nor the name of the head.

    Raises:
        ValueError: The file cannot be read, or its columns are ambiguous.
    """
    rows = load_rows(path, run)
    tasks = {} if run is None else run.tasks
    chosen = _label_columns(str(path), rows.column_names, heads, tasks, labels or {})
    texts: dict[tuple[str | tuple[str, ...], str], str] = {}  # text columns, and the task that has them alone
    scored = {}
    for name, column in chosen.items():
        trained = tasks.get(name)
        try:
            columns = text_columns(str(path), rows, name, heads[name], text, run)
        except ValueError as error:
            if column is not None or len(chosen) == 1:
                raise
            logger.warning("Head %s is not scored: %s", name, error)  # it needs no labels, so it was not requested
            continue
        kind = task_type(heads[name]["type"])
        alone = name if kind.alone else ""
        source = texts.setdefault((columns, alone), f"data-{len(texts) + 1}" if texts else "data")
        single = column if isinstance(column, str) else None
        spans = single if single is not None and kind.reads_spans and holds_spans(rows, single) else None
        label = None if spans else column
        if trained is None:
            scored[name] = Task(type=heads[name]["type"], source=source, label=label, spans=spans)
        else:
            scored[name] = dataclasses.replace(trained, source=source, label=label, spans=spans, train=True)
        if (options := kind.options_of_file(trained, single, rows)) is not None:
            scored[name] = dataclasses.replace(scored[name], options=options)
    logger.info("%s: %s.", path, "; ".join(
        f"text {' and '.join([columns] if isinstance(columns, str) else columns)}, labels "
        + ", ".join(f"{' and '.join(task.label_columns) or 'none'} of {name}"
                    for name, task in scored.items() if task.source == source)
        for (columns, _), source in texts.items()
    ))  # fmt: skip
    if not scored:
        raise ValueError(f"{path}: there is no text column for any head ({', '.join(chosen)}).")
    loader, arguments = _loader(path, run)
    return RunConfig(
        model=Model(encoder="") if run is None else run.model,
        sources={
            source: Source(
                path=loader,
                data_files={"test": str(path)},
                text=columns if isinstance(columns, str) else list(columns),
                group_by=_group_by(columns, rows.column_names, run),
                loader=arguments,
            )
            for (columns, _), source in texts.items()
        },
        tasks=scored,
        training={} if run is None else run.training,
    )


def _group_by(text: str | tuple[str, ...], columns: list[str], run: RunConfig | None) -> str | list[str] | None:
    """`group_by` of the run's source with this text column, if the file has one word per row, too."""
    own = [source.group_by for source in run.sources.values() if source.text == text] if run is not None else []
    for found in own:
        names = [found] if isinstance(found, str) else found
        if names and set(names) <= set(columns):
            return found
    return None


def load_rows(path: str | Path, run: RunConfig | None, as_text: Collection[str] = ()) -> datasets.Dataset:
    """Load the rows of a file; CoNLL files get the columns of the run's own CoNLL source, else those that `init` names.

    Args:
        path: The file.
        run: The config of the model's training run.
        as_text: See `load_file`.

    Raises:
        ValueError: The file cannot be read, or it is a CoNLL file whose columns are not known.
    """
    if run is not None and is_conll(path):  # columns that are numbers from the end have no other name
        texts = [[source.text] if isinstance(source.text, str) else source.text for source in run.sources.values()]
        labels = [column for task in run.tasks.values() for column in task.label_columns]
        as_text = {*as_text, *(column for held in texts for column in held), *labels}
    rows = load_file(path, as_text, _loader(path, run) if is_conll(path) else None)
    if is_conll(path):
        logger.info("%s: CoNLL with the columns %s.", path, ", ".join(rows.column_names))
    return rows


def read_words(path: str, rows: datasets.Dataset, column: str, run: RunConfig | None) -> datasets.Dataset:
    """The rows of a file with lists of words in a column that holds them as text, or one word per row as in training.

    Other rows are returned as they are: their strings are raw text.

    Args:
        path: The file, for messages.
        rows: The rows of the file.
        column: The text column of a head that reads words.
        run: The config of the model's training run, whose `group_by` tells which rows are a sentence.

    Raises:
        ValueError: A cell is not a list, as most are, or the rows of a sentence do not follow each other.
    """
    if getattr(rows.features[column], "dtype", None) not in ("string", "large_string"):
        return rows
    group = _group_by(column, rows.column_names, run)
    if group is None and not are_lists(values_of(rows.select(range(min(len(rows), 1000))), column)):
        return rows
    return read_formats(path, Source(text=column, group_by=group), WordTasks(), {"test": rows}).splits["test"]


def _loader(path: str | Path, run: RunConfig | None) -> tuple[str, dict[str, Any]]:
    """The loader of a file, and its arguments."""
    if not is_conll(path):
        return loader_of(path)
    own = [source.loader for source in run.sources.values() if source.path == "conll"] if run is not None else []
    if own:
        return "conll", own[0]
    if not (names := conll_columns(path)):
        raise ValueError(
            f"{path} is a CoNLL file, but its columns were not recognised (a word and its tags in each line, a blank"
            " line after each sentence), and no source of the model's run has `path: conll` to name them. Convert the"
            ' file to .jsonl, one sentence per row: {"tokens": ["Ana", "flew", "to", "Riga"]}.'
        )
    return "conll", {"column_names": names}


def _label_columns(
    path: str, columns: list[str], heads: Mapping[str, Any], tasks: Mapping[str, Task], given: Mapping[str, str]
) -> dict[str, str | list[str] | None]:
    """Head → its label column (None if it needs none); heads without one are left out with a warning."""
    for name, column in given.items():
        if name not in heads:
            raise ValueError(f"`--label {name}={column}`: the heads are {', '.join(heads)}.{nearest(name, heads)}")
        _check_column(path, columns, f"--label {name}={column}", column)
    chosen: dict[str, str | list[str] | None] = {}
    for name in heads:
        label = tasks[name].column if name in tasks else None
        if isinstance(label, list) and name not in given and {*label} <= {*columns}:
            chosen[name] = label
            continue
        trained = label if isinstance(label, str) else name
        wanted = [*(label if isinstance(label, list) else [trained]), name]
        found = [column for column in (trained, name) if column in columns and column not in given.values()]
        if name in given:
            chosen[name] = given[name]
        elif task_type(heads[name]["type"]).needs_no_column(heads[name], found):
            chosen[name] = None
        elif not found:
            logger.warning("Head %s is not scored: %s has no column %s (`--label %s=COLUMN` names another).",
                           name, path, " or ".join(dict.fromkeys(wanted)), name)  # fmt: skip
        elif found[0] in chosen.values():
            other = next(other for other, column in chosen.items() if column == found[0])
            raise ValueError(
                f"{path}: the column {found[0]!r} could contain the labels of {other} or of {name}. Choose with"
                f" `--label {name}={found[0]}` or `--label {other}={found[0]}`."
            )
        else:
            chosen[name] = found[0]
    if not chosen:
        raise ValueError(
            f"{path} has the columns {', '.join(columns)}, and none has the name of a head (the heads are"
            f" {', '.join(heads)}). Name the label columns with `--label HEAD=COLUMN`."
        )
    return chosen


def text_columns(
    path: str, rows: datasets.Dataset, name: str, spec: Mapping[str, Any], given: str | None, run: RunConfig | None
) -> str | tuple[str, ...]:
    """The text column of a head, or two columns for pairs.

    The columns of the head's own sources come first, then usual names and the columns of the run's other sources.

    Args:
        path: The file, for messages.
        rows: The rows of the file.
        name: The head.
        spec: Its specification.
        given: The argument `--text`.
        run: The config of the model's training run.

    Raises:
        ValueError: There is no such column, or several are possible.
    """
    if given is not None:
        columns = tuple(column.strip() for column in given.split(","))
        for column in columns:
            _check_column(path, rows.column_names, f"--text {given}", column)
        return columns if len(columns) > 1 else columns[0]
    found, known = find_text_columns(rows, name, spec, run)
    if len(found) != 1:
        problem = f"{' and '.join(map(str, found))} could all be" if found else f"none has a usual name ({known}) for"
        raise ValueError(
            f"{path} has the columns {', '.join(rows.column_names)}: {problem} the text of the head {name}. Name"
            f" it with `--text {_COLUMNS[KINDS[spec['text']]]}`."
        )
    return found[0]


def find_text_columns(
    rows: datasets.Dataset, name: str, spec: Mapping[str, Any], run: RunConfig | None
) -> tuple[list[Any], str]:
    """The columns (or pairs of columns) that may contain the text of a head, and the names that were searched for.

    For the arguments see `text_columns`.
    """
    for source in run.tasks[name].sources if run is not None and name in run.tasks else ():
        text = run.sources[source].text  # type: ignore[union-attr]
        columns = (text,) if isinstance(text, str) else tuple(text)
        if set(columns) <= set(rows.column_names):
            return [columns if len(columns) > 1 else columns[0]], ""
    # Text columns of the run's other sources count like the usual names.
    texts = [source.text for source in run.sources.values()] if run is not None else []
    if KINDS[spec["text"]] == CHOICES:
        return [], "those of its run"
    if KINDS[spec["text"]] == PAIRS:
        pairs = dict.fromkeys((*PAIR_COLUMNS, *(tuple(text) for text in texts if not isinstance(text, str))))
        return [pair for pair in pairs if set(pair) <= set(rows.column_names)], ", ".join(map(" and ".join, pairs))
    names = dict.fromkeys((*TEXT_COLUMNS, *(text for text in texts if isinstance(text, str))))
    usual = {column: _form(rows.features[column]) for column in names if column in rows.column_names}
    return [column for column, form in usual.items() if form == spec["text"]] or [*usual], ", ".join(names)


def _form(feature: Any) -> str:
    return "words" if hasattr(feature, "feature") else "string"


def _check_column(path: str, columns: list[str], argument: str, column: str) -> None:
    if column not in columns:
        raise ValueError(
            f"`{argument}`: {path} has no column {column!r}.{nearest(column, columns)} It has: {', '.join(columns)}."
        )
