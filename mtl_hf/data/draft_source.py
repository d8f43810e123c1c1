"""A source of a drafted config, and how its values are shown in comments."""

from dataclasses import dataclass, field

from ..tasks import TASK_TYPES
from ..tasks.column import Column
from .describe_file import FileDescription
from .token_layout import TokenLayout


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


def of_columns() -> str:
    """The task type whose labels can be in several columns."""
    return next(name for name, kind in TASK_TYPES.items() if kind.several_columns)


def quoted(value: str) -> str:
    """A value for comments: on one line, and shortened."""
    line = printable(value)
    return repr(line if len(line) <= 40 else line[:37] + "...")


def printable(text: str) -> str:
    """Text on one line, without the characters that YAML does not allow even in comments."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
