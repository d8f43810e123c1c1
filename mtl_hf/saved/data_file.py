"""A config out of a model's heads and one file of rows, for a model that came without data.

Notable: nothing is guessed that could be two things. Columns that the model was trained on come first, then those that
are called as the head is (labels) or as texts usually are; what stays open is an error that names the argument.
"""

import dataclasses
import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import datasets

from ..config import Model, RunConfig, Source, Task, nearest
from ..data.describe_file import PAIR_COLUMNS, TEXT_COLUMNS
from ..data.files import is_conll, loader_of
from ..data.label_text import as_number
from ..data.labels import TASK_TYPES
from ..data.sources import load_file
from ..modeling.encoding import PAIRED

logger = logging.getLogger(__name__)


def config_of_file(
    path: str | Path,
    heads: Mapping[str, Mapping[str, Any]],
    run: RunConfig | None = None,
    text: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> RunConfig:
    """The config that scores heads on a file, whose rows become its split `test`.

    Args:
        path: A file of `data.files.FILE_LOADERS`, or a CoNLL file where the run has read one.
        heads: Head → its specification.
        run: What the model was trained by: where the file has its columns they are read as there.
        text: The column with the text, or two for pairs with a comma between.
        labels: Head → its label column, where that is not called as in `run` or as the head.

    Raises:
        ValueError: The file cannot be read, or which column is what cannot be told.
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
            logger.warning("Head %s is not scored: %s", name, error)  # it needs no labels, so nobody asked for it
            continue
        alone = name if TASK_TYPES[heads[name]["type"]].alone else ""
        source = texts.setdefault((columns, alone), f"data-{len(texts) + 1}" if texts else "data")
        if trained is None:
            scored[name] = Task(type=heads[name]["type"], source=source, label=column)
        else:
            scored[name] = dataclasses.replace(trained, source=source, label=column, train=True)
        if heads[name]["type"] == "sentence_similarity":
            scored[name] = dataclasses.replace(scored[name], **_similarity(rows, trained, column))
    logger.info("%s: %s.", path, "; ".join(
        f"text {' and '.join([columns] if isinstance(columns, str) else columns)}, labels "
        + ", ".join(f"{task.label or 'none'} of {name}" for name, task in scored.items() if task.source == source)
        for (columns, _), source in texts.items()
    ))  # fmt: skip
    if not scored:
        raise ValueError(f"{path}: no head finds its text there ({', '.join(chosen)}).")
    kind, arguments = _loader(path, run)
    return RunConfig(
        model=Model(encoder="") if run is None else run.model,
        sources={
            source: Source(
                path=kind,
                data_files={"test": str(path)},
                text=columns if isinstance(columns, str) else list(columns),
                loader=arguments,
            )
            for (columns, _), source in texts.items()
        },
        tasks=scored,
        training={} if run is None else run.training,
    )


def load_rows(path: str | Path, run: RunConfig | None, as_text: Collection[str] = ()) -> datasets.Dataset:
    """The rows of a file; CoNLL files have the columns that the run's own have.

    Args:
        path: The file.
        run: What the model was trained by.
        as_text: As of `load_file`.

    Raises:
        ValueError: The file cannot be read, or it is a CoNLL file and the run has read none.
    """
    return load_file(path, as_text, _loader(path, run) if is_conll(path) else None)


def _loader(path: str | Path, run: RunConfig | None) -> tuple[str, dict[str, Any]]:
    """What reads a file, and the arguments of that."""
    if not is_conll(path):
        return loader_of(path)
    own = [source.loader for source in run.sources.values() if source.path == "conll"] if run is not None else []
    if not own:
        raise ValueError(
            f"{path} is a CoNLL file, and no source of the model's run has `path: conll`, which would name its columns:"
            ' convert it to .jsonl, a sentence a row: {"tokens": ["Ana", "flew", "to", "Riga"]}.'
        )
    return "conll", own[0]


def _label_columns(
    path: str, columns: list[str], heads: Mapping[str, Any], tasks: Mapping[str, Task], given: Mapping[str, str]
) -> dict[str, str | None]:
    """Head → its label column, None where it needs none; heads that lack one are left out, and the log says so."""
    for name, column in given.items():
        if name not in heads:
            raise ValueError(f"`--label {name}={column}`: the heads are {', '.join(heads)}.{nearest(name, heads)}")
        _check_column(path, columns, f"--label {name}={column}", column)
    chosen: dict[str, str | None] = {}
    for name in heads:
        trained = (tasks[name].label if name in tasks else None) or name
        found = [column for column in (trained, name) if column in columns and column not in given.values()]
        if name in given:
            chosen[name] = given[name]
        elif heads[name]["type"] == "masked_lm" or (not found and heads[name].get("loss") == "ranking"):
            chosen[name] = None
        elif not found:
            logger.warning("Head %s is not scored: %s has no column %s (`--label %s=COLUMN` names another).",
                           name, path, " or ".join(dict.fromkeys((trained, name))), name)  # fmt: skip
        elif found[0] in chosen.values():
            other = next(other for other, column in chosen.items() if column == found[0])
            raise ValueError(
                f"{path}: the column {found[0]!r} could hold the labels of {other} or of {name}: say whose with"
                f" `--label {name}={found[0]}` or `--label {other}={found[0]}`."
            )
        else:
            chosen[name] = found[0]
    if not chosen:
        raise ValueError(
            f"{path} has the columns {', '.join(columns)}, and no head is called like one of them (the heads are"
            f" {', '.join(heads)}): say which labels are whose with `--label HEAD=COLUMN`."
        )
    return chosen


def _similarity(rows: datasets.Dataset, trained: Task | None, column: str | None) -> dict[str, Any]:
    """How the pairs of a file are read: by their scores where there is a column of them, else as belonging together.

    Where no config says what range scores have, it is that of the column: correlations do not depend on it.
    """
    if column is None:
        return {"loss": "ranking", "score_range": None, "temperature": None}
    if trained is not None and trained.label is not None:
        return {}
    numbers = map(as_number, rows[column])  # CSV holds text where one is written as no program would (`+1`)
    scores = [score for score in numbers if isinstance(score, int | float) and not math.isnan(score)]
    known = [float(min(scores)), float(max(scores))] if len(set(scores)) > 1 else None
    return {"loss": None, "score_range": known, "temperature": None}


def text_columns(
    path: str, rows: datasets.Dataset, name: str, spec: Mapping[str, Any], given: str | None, run: RunConfig | None
) -> str | tuple[str, ...]:
    """The column with the text of a head, or two for pairs.

    Columns of the head's own sources come first, then names that are usual and those of the run's other sources.

    Args:
        path: Of the file, for messages.
        rows: Of the file.
        name: The head.
        spec: Its specification.
        given: The argument `--text`.
        run: What the model was trained by.

    Raises:
        ValueError: There is none, or more than one that could be it.
    """
    if given is not None:
        columns = tuple(column.strip() for column in given.split(","))
        for column in columns:
            _check_column(path, rows.column_names, f"--text {given}", column)
        return columns if len(columns) > 1 else columns[0]
    found, known = find_text_columns(rows, name, spec, run)
    if len(found) != 1:
        problem = f"{' and '.join(map(str, found))} could all be" if found else f"none is called as usual ({known}) for"
        raise ValueError(
            f"{path} has the columns {', '.join(rows.column_names)}: {problem} the text of the head {name}. Say which"
            f" it is with `--text {'FIRST,SECOND' if spec['text'] in PAIRED else 'COLUMN'}`."
        )
    return found[0]


def find_text_columns(
    rows: datasets.Dataset, name: str, spec: Mapping[str, Any], run: RunConfig | None
) -> tuple[list[Any], str]:
    """The columns that could hold the text of a head, or pairs of columns; and the names that were looked for.

    Arguments as of `text_columns`.
    """
    for source in run.tasks[name].sources if run is not None and name in run.tasks else ():
        text = run.sources[source].text  # type: ignore[union-attr]
        columns = (text,) if isinstance(text, str) else tuple(text)
        if set(columns) <= set(rows.column_names):
            return [columns if len(columns) > 1 else columns[0]], ""
    # What other sources of the run are read from is as good a name as those that are usual.
    texts = [source.text for source in run.sources.values()] if run is not None else []
    if spec["text"] in PAIRED:
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
