"""The registry of task types, to which other packages can add types."""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ..config import RunConfig
from ..findings import for_each
from .extractive_qa import ExtractiveQA
from .masked_lm import MaskedLanguageModelling
from .multi_label_classification import MultiLabelClassification
from .multiple_choice import MultipleChoice
from .regression import Regression
from .sentence_similarity import SentenceSimilarity
from .sequence_classification import SequenceClassification
from .task_type import TASK_TYPES, TaskType, task_type
from .token_classification import TokenClassification

if TYPE_CHECKING:
    from ..modeling.head import Head

GROUP = "mtl_hf.task_types"  # of entry points: names of functions without arguments that register types


def register_task_type(kind: type[TaskType], head: "type[Head]") -> None:
    """Register a task type, so that configs can use it (chapter *A task type of your own*).

    Args:
        kind: Class with the options, labels and metrics of the type.
        head: Class of its head. Its file is saved with each model, so it may import only torch, transformers, numpy and
            `mtl_hf.modeling.<file>`.

    Raises:
        ValueError: The two classes have different names, the name is invalid or taken, or the file of the head cannot
            be saved with a model.
    """
    from ..modeling.foreign_heads import check_travels, is_foreign
    from ..modeling.heads import HEADS

    name = kind.name
    if head.kind != name:
        raise ValueError(
            f"{head.__name__} has the kind {head.kind!r}, but {kind.__name__} has the name {name!r}: both should be the"
            " same."
        )
    if not name.isidentifier():
        raise ValueError(f"a task type cannot be called {name!r}: use letters, digits and `_`.")
    known = HEADS.get(name)
    if known is not None and not is_foreign(known):
        raise ValueError(f"a task type cannot be called {name!r}: mtl_hf already has a type of this name.")
    if is_foreign(head):
        check_travels(head)
    HEADS[name] = head
    TASK_TYPES[name] = kind()


for _type in (
    SequenceClassification,
    MultiLabelClassification,
    Regression,
    TokenClassification,
    SentenceSimilarity,
    MultipleChoice,
    ExtractiveQA,
    MaskedLanguageModelling,
):
    TASK_TYPES[_type.name] = _type()


def check_settings(run: RunConfig) -> None:
    """Check the settings of every task, without data and without torch.

    Raises:
        ValueError: A type or option is unknown, a label column is missing or not supported, or a task shares a source
            that it needs for itself.
    """
    for_each(run.tasks, lambda name: _check_task(name, run))


def _check_task(name: str, run: RunConfig) -> None:
    spec = run.tasks[name]
    kind = task_type(spec.type, f"tasks.{name}.type")
    options = kind.read_options(name, spec)
    for key in kind.rejects:
        if (found := getattr(spec, key)) is not None:
            raise ValueError(f"`tasks.{name}.{key}` is {found!r}, but {kind.name} does not support it. Remove it.")
    kind.check(name, spec, run)
    if spec.label == [] or "" in spec.label_columns or "" in (spec.label, spec.spans):
        key = "label" if spec.spans is None else "spans"
        raise ValueError(f"`tasks.{name}.{key}` is empty; it should name the label column.")
    if isinstance(spec.label, list) and not kind.several_columns:
        several = [other for other, found in TASK_TYPES.items() if found.several_columns]
        raise ValueError(
            f"`tasks.{name}.label` is {spec.label!r}, but {spec.type} has one label column. Only"
            f" {' and '.join(several)} takes several."
        )
    if twice := [column for column in spec.label_columns if spec.label_columns.count(column) > 1]:
        raise ValueError(f"`tasks.{name}.label` names the column {twice[0]!r} twice.")
    if spec.spans is not None and not kind.reads_spans:
        raise ValueError(f"`tasks.{name}.spans` is {spec.spans!r}, but {spec.type} reads no spans. Remove it.")
    if spec.spans is not None and spec.label is not None:
        raise ValueError(f"`tasks.{name}` has both `label` and `spans`: keep `label` if its column holds one tag per"
                         " word, `spans` if it holds spans.")  # fmt: skip
    if spec.column is None and kind.needs_label(options):
        also = ", or with `spans` the column with spans" if kind.reads_spans else ""
        raise ValueError(f"`tasks.{name}.label` is missing: name the column with {kind.label}{also}.")
    if spec.label is not None and kind.label is None:
        raise ValueError(f"`tasks.{name}.label` is {spec.label!r}, but {spec.type} needs no label column. Remove it.")
    sharing = [other for other, task in run.tasks.items() if other != name and {*task.sources} & {*spec.sources}]
    if kind.alone and sharing:
        raise ValueError(
            f"`tasks.{name}` changes the inputs of the encoder, so it cannot share its source with"
            f" {', '.join(sharing)}: define a second source with the same files."
        )


def load_installed() -> None:
    """Register the types of installed packages."""
    for entry in entry_points(group=GROUP):
        entry.load()()
