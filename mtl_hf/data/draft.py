"""Draft a commented YAML for data files, as `mtl-hf init` writes it.

Notable: files are grouped to splits of a source by their names, and the task of a column is detected from its values.
If something is ambiguous, the user is prompted on a terminal, or an error names the flag that resolves it. Comments
name everything that is left out, with the reason.
"""

import importlib.util
import logging
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..config import flow, nearest
from ..tasks import TASK_TYPES
from ..tasks.column import TaskColumns
from .describe_file import FileDescription, describe_file
from .draft_columns import Ask, check_type, choose_text, find_shapes, forced_type, name_shapes, task_type_of
from .draft_source import DraftSource, of_columns
from .draft_yaml import SMALL_ENCODER, write_config
from .file_groups import expand_folders, find_loaders, group_files
from .headers import header_problem
from .joined_labels import find_joined, with_lists
from .shapes import Shape, one_hot_columns
from .token_layout import apply_layout, find_layout, not_applied

logger = logging.getLogger(__name__)


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
    return write_config(used, command, notes, name, encoder or _default_encoder())


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
    shapes = find_shapes(source.first, given)
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
            chosen[column.name] = given[column.name] or found or forced_type(column)
            check_type(column, chosen[column.name], file)
        elif found is None:
            left_out.append((column.name, why))
        else:
            chosen[column.name] = found
            if why:
                source.notes.append(f"{column.name} {why}")
    if not chosen and shapes:
        raise ValueError(name_shapes(file, shapes))
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
        chosen[answer] = forced_type(file.columns[answer])
        left_out = [item for item in left_out if item[0] != answer]
    source.notes += [f"left out: {name}, {why}" for name, why in left_out]
    one_hot = [] if given else [name for name in one_hot_columns(file) if name in chosen]
    if len(one_hot) > 2:
        source.together = one_hot
    elif len(one_hot) == 2:
        source.notes.append(
            f"{' and '.join(one_hot)} hold 0 or 1 in every row: each is a task with two classes. For one task with"
            f" several labels per row, write `type: {of_columns()}, label: {flow(one_hot)}`"
        )
    return {column: kind for column, kind in chosen.items() if column not in source.together}


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


def _default_encoder() -> str:
    package, inside, on_the_hub = SMALL_ENCODER
    return inside if importlib.util.find_spec(package) else on_the_hub
