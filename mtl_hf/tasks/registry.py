"""All task types by name, and how another package adds one."""

from importlib.metadata import entry_points

from ..modeling.foreign_heads import check_travels, is_foreign
from ..modeling.head import Head
from ..modeling.heads import HEADS
from .masked_lm import MaskedLanguageModelling
from .multi_label_classification import MultiLabelClassification
from .regression import Regression
from .sentence_similarity import SentenceSimilarity
from .sequence_classification import SequenceClassification
from .task_type import TASK_TYPES, TaskType
from .token_classification import TokenClassification

GROUP = "mtl_hf.task_types"  # of entry points: names of functions without arguments that register types


def register_task_type(task_type: type[TaskType], head: type[Head]) -> None:
    """Make a task type known, so that configs can name it (chapter *A task type of your own*).

    Args:
        task_type: The half that stays: options, labels, metrics.
        head: The half that travels. Its file is saved with each model, so it may import only torch, transformers, numpy
            and `mtl_hf.modeling.<file>`.

    Raises:
        ValueError: Halves of different names, a name that is no word or is taken, or a file that cannot travel.
    """
    name = task_type.name
    if head.kind != name:
        raise ValueError(f"{head.__name__} is of the type {head.kind!r}, and {task_type.__name__} of {name!r}.")
    if not name.isidentifier():
        raise ValueError(f"a task type cannot be called {name!r}: use letters, digits and `_`.")
    known = HEADS.get(name)
    if known is not None and not is_foreign(known):
        raise ValueError(f"a task type cannot be called {name!r}: mtl_hf has one of that name.")
    if is_foreign(head):
        check_travels(head)
    HEADS[name] = head
    TASK_TYPES[name] = task_type()


for _type in (
    SequenceClassification,
    MultiLabelClassification,
    Regression,
    TokenClassification,
    SentenceSimilarity,
    MaskedLanguageModelling,
):
    TASK_TYPES[_type.name] = _type()

for _entry in entry_points(group=GROUP):
    _entry.load()()
