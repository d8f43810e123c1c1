"""Task types: the YAML options, labels and metrics of each type. The heads are in `modeling/`."""

from .registry import check_settings as check_settings
from .registry import load_installed
from .registry import register_task_type as register_task_type
from .source_data import SourceData as SourceData
from .task_type import TASK_TYPES as TASK_TYPES
from .task_type import Answers as Answers
from .task_type import TaskData as TaskData
from .task_type import TaskType as TaskType
from .task_type import task_type as task_type

load_installed()  # last, since they import the names above
