"""Detect formats of token tasks, for `mtl-hf init`: spans, lists as text, items between spaces, rows of one word.

Notable: a file is then described as `formats.py` reads it, with lists of words and of tags, so that the rest of the
draft knows only these.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..config import Source
from ..tasks import TASK_TYPES
from ..tasks.column import Column
from ..tasks.written_lists import parse_list, split_at_blanks
from .describe_file import TEXT_COLUMNS, FileDescription, describe_rows
from .formats import WordTasks, read_formats
from .shapes import MAX_NAMES, MOST, are_tags, is_written, word_rows
from .spans import looks_like_spans, read_items

_SAMPLE = 1000  # rows from which a format is detected


@dataclass
class TokenLayout:
    """The format of words and tags in a file.

    Attributes:
        text: Column of the words, or of the strings that they come from.
        labels: Columns of tags.
        spans: Columns of spans.
        group_by: Column with the number of the sentence of a word.
        taken_for: What the file was taken for, for a comment.
        dropped: Rows with bad spans, over all files.
    """

    text: str
    labels: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)
    group_by: str | None = None
    taken_for: str = ""
    dropped: int = 0


def find_layout(file: FileDescription, choose_text: Callable[[Sequence[str]], str | None]) -> TokenLayout | None:
    """The format of words and tags in a file; None if it has none, or lists of both, which are read as they are.

    Args:
        file: The file.
        choose_text: Columns that are no text → the text column; None if it is a pair.
    """
    if (found := word_rows(file)) is not None:
        if found.group is None:
            return None
        taken = f"one word per row: words in {found.word}, tags in {' and '.join(found.labels)}, and the number of the"
        return TokenLayout(
            found.word, found.labels, group_by=found.group, taken_for=f"{taken} sentence in {found.group}"
        )
    spans = [column.name for column in file.columns.values() if _holds_spans(column, file)]
    if spans:
        text = choose_text(spans)
        return None if text is None else TokenLayout(text, spans=spans, taken_for=_taken_for_spans(file, text, spans))
    return _written_lists(file) or _between_spaces(file)


def apply_layout(file: FileDescription, layout: TokenLayout) -> FileDescription:
    """Describe a file as a run reads it; count the rows with bad spans.

    Raises:
        ValueError: A row is not of the format of the others.
    """
    if missing := {layout.text, *layout.labels, *layout.spans, *filter(None, [layout.group_by])} - file.columns.keys():
        if layout.text in missing or layout.group_by in missing:
            raise ValueError(f"{file.path} has no column {min(missing)!r}, which the first file of its source has.")
        layout = dataclasses.replace(  # a test file without labels
            layout,
            labels=[name for name in layout.labels if name not in missing],
            spans=[name for name in layout.spans if name not in missing],
        )
    tasks = WordTasks({name: name for name in layout.labels}, layout.spans)
    source = Source(text=layout.text, group_by=layout.group_by, drop_bad_rows=True)
    read = read_formats(file.path, source, tasks, {"train": file.rows})
    rows = read.splits["train"]
    (words,) = read.columns
    if words != layout.text:
        rows = rows.remove_columns([layout.text]).rename_column(words, layout.text)
    if read.offsets is not None:
        rows = rows.remove_columns([read.offsets])
    if layout.spans:
        layout.dropped += len(file.rows) - len(rows)
    return describe_rows(file.path, file.loader, rows)


def _holds_spans(column: Column, file: FileDescription) -> bool:
    """Whether a column holds spans, also as text."""
    if column.kind not in ("other", "string"):
        return False
    values = file.rows[:_SAMPLE][column.name]
    if column.kind == "string" and not is_written(column, file):
        return False
    return looks_like_spans(values)


def _taken_for_spans(file: FileDescription, text: str, spans: Sequence[str]) -> str:
    words = file.columns[text].kind == "words"
    shown = next(items[0] for name in spans for value in file.rows[name] if value and (items := read_items(value)))
    unit = f"words of {text}, whose ends are the first and the last word" if words else f"characters of {text}"
    return f"{' and '.join(spans)}: spans of {unit}, such as {shown}"


def _written_lists(file: FileDescription) -> TokenLayout | None:
    """Lists of words and of tags as text: `['Ana', 'flew']` and `['B-PER', 'O']`."""
    lengths: dict[str, list[int]] = {}
    for column in file.columns.values():
        if not is_written(column, file):
            continue
        lists = [parse_list(cell or "") for cell in file.rows[:_SAMPLE][column.name]]
        if sum(items is not None for items in lists) >= MOST * sum(length > 0 for length in column.lengths[:_SAMPLE]):
            lengths[column.name] = [-1 if items is None else len(items) for items in lists]
    if len(lengths) < 2 or max(map(max, lengths.values())) < 2:
        return None
    usual = [name for name in lengths if name in TEXT_COLUMNS]
    text = usual[0] if len(usual) == 1 else max(lengths, key=lambda name: file.columns[name].num_distinct)
    labels = [name for name in lengths if name != text and _agree(lengths[name], lengths[text])]
    if not labels:
        return None
    return TokenLayout(
        text, labels, taken_for=f"lists written as text: words in {text}, tags in {' and '.join(labels)}"
    )


def _between_spaces(file: FileDescription) -> TokenLayout | None:
    """Words and tags with spaces between: `Ana flew` and `B-PER O`, or strings beside lists of tags."""
    strings = [column for column in file.columns.values() if is_written(column, file)]
    lists = [column for column in file.columns.values() if column.kind == "words"]
    for words, tags in itertools.permutations((*strings, *lists), 2):
        if words not in strings or not _agree(words.lengths.tolist(), tags.lengths.tolist()):
            continue
        held = [value for value in file.rows[tags.name] if value]
        kinds = [tag for value in held for tag in (split_at_blanks(value) if isinstance(value, str) else value)]
        vocabulary = " ".join(filter(None, file.rows[words.name])).split()
        few = len({*kinds}) <= MAX_NAMES and 2 * len({*kinds}) < len({*vocabulary})
        if float(tags.lengths[tags.lengths > 0].mean()) < 2 or not (few or are_tags(kinds)):
            continue
        form = "with spaces between" if tags in strings else "in a list"
        taken = f"words in {words.name} with spaces between, and one tag for each of them in {tags.name}, {form}"
        return TokenLayout(words.name, [tags.name], taken_for=taken)
    return None


def _agree(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether the lengths of two columns are equal in nearly every row that has both."""
    both = [(one, other) for one, other in zip(first, second, strict=True) if one > 0 and other > 0]
    return bool(both) and sum(one == other for one, other in both) >= MOST * len(both)


def span_key(layout: TokenLayout | None, column: str) -> str:
    """The key of a task that names this column: `spans` or `label`."""
    return "spans" if layout is not None and column in layout.spans else "label"


def not_applied(given: Mapping[str, str | None]) -> bool:
    """Whether the user gave a label column another type than that of tags, so that columns are read as they are."""
    return any(kind is not None and not TASK_TYPES[kind].reads_spans for kind in given.values())
