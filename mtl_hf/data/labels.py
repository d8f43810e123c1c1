"""Build the tasks of a run from the labels of their sources.

Notable: code for a single task type is in `tasks/`. This file has the checks that all types share: whether a task can
read the texts of its sources, and whether there are labels to train and to score with.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..config import RunConfig, Task
from ..findings import Finding, for_each
from ..modeling.encoding import KINDS
from ..modeling.heads import check_head_name
from ..tasks import SourceData, TaskData, TaskType, check_settings, task_type
from ..tasks.name_column import NameColumn

_FOUND = {"string": "a string", "words": "a list of words", "pair": "a pair", "choices": "a text with choices"}
_NEEDED = {
    "any": "strings, lists of words or pairs",
    "words": "lists of words",
    "apart": "pairs ([first, second])",
    "pair": "pairs ([first, second])",
    "choices": "a string and a list of strings each ([text, choices])",
}


def check_tasks(config: RunConfig) -> None:
    """Check the names and settings of tasks, before data are loaded.

    Raises:
        ValueError: The name of a task is invalid for a head, or as in `tasks.check_settings`.
    """
    checks = (lambda: for_each(config.tasks, check_head_name), lambda: check_settings(config))
    for_each(checks, lambda check: check())


def build_tasks(
    config: RunConfig, sources: Mapping[str, SourceData], vocabularies: Mapping[str, list[str]] | None = None
) -> dict[str, TaskData]:
    """Read and check the labels of every task, fill in `SourceData.gold`, and build the vocabularies.

    Args:
        config: Config of the run.
        sources: Result of `load_sources`.
        vocabularies: Task → its labels in a trained model.

    Raises:
        ValueError: A label is invalid for the task's type. The message names its row.
    """
    check_tasks(config)

    def build(name: str) -> TaskData:
        spec = config.tasks[name]
        own = [sources[source] for source in spec.sources]
        kind, given = task_type(spec.type), (vocabularies or {}).get(name)
        form = _form(name, spec, kind, own)
        for source in own:
            for split, labels in kind.read_labels(name, spec, source, given).items():
                source.gold[split][name] = labels
        return kind.build(name, spec, own, form, config, given)

    return for_each(config.tasks, build)


def _form(name: str, spec: Task, kind: TaskType, sources: Sequence[SourceData]) -> str:
    """The form in which the head of a task reads the texts of all its sources."""
    forms = {source.form for source in sources}
    if kind.alone and kind.form is None:  # it reads any form
        forms = {"words" if "words" in forms else max(forms)}
    if len(forms) > 1:
        raise ValueError(f"`tasks.{name}`: the texts of its sources differ in form ({', '.join(sorted(forms))}).")
    form = forms.pop()
    needed = kind.form or ("any" if form == "choices" else form)
    if KINDS[form] != KINDS.get(needed) or (needed == "words" and form != "words"):
        raise ValueError(
            f"`tasks.{name}`: {spec.type} needs texts that are {_NEEDED[needed]}, but the text of source"
            f" {sources[0].name!r} is {_FOUND[form]}."
        )
    return needed


def check_scored(
    tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData], splits: Iterable[str], metric: str | None = None
) -> Iterator[Finding]:
    """Report tasks with too few labels in a split to be scored: none, or for a correlation only one.

    Args:
        tasks: Task name → task. For a task with `score_weight: 0` it is only a warning.
        sources: Sources with the labels of their rows.
        splits: The splits that are scored.
        metric: The metric that checkpoints are chosen by.
    """
    for split, (name, task) in itertools.product(splits, tasks.items()):
        own = [sources[source] for source in task.config.sources if split in sources[source].splits]
        if not own or task.config.column is None:
            continue
        num_rows = sum(len(source.splits[split]) for source in own)
        number = sum(count_labelled(source.gold[split][name]) for source in own)
        if number >= task.kind.fewest_scored:
            continue
        problem = (
            f"{'only one' if number else 'none'} of the {num_rows} {split} rows of"
            f" {' and '.join(source.name for source in own)} has a label in {task.config.label_place}"
        )
        named = metric is not None and metric.removeprefix("eval_").startswith(f"{name}_")
        if task.config.score_weight != 0 or (named and split == "validation"):
            yield Finding(
                logging.ERROR,
                f"`tasks.{name}`",
                f"{problem}, so its score is not defined there. Add labels, remove these rows, or set"
                f" `tasks.{name}.score_weight: 0`",
            )
        else:
            yield Finding(logging.WARNING, f"Task {name}", f"{problem}; it is not scored there")


def count_labelled(labels: Sequence[Any]) -> int:
    """Number of rows with a label."""
    return int(labels.labelled().sum()) if isinstance(labels, NameColumn) else sum(map(is_labelled, labels))


def is_labelled(label: Any) -> bool:
    """Whether a row has a label; for lists of tags, whether any word has one."""
    if isinstance(label, list):
        return not label or any(tag is not None for tag in label)
    return label is not None


def warn_of_labels(tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData]) -> None:
    """Warn about training labels that are likely to cause problems, such as very large numbers."""
    for task in tasks.values():
        if task.config.train:
            task.kind.warn(task, [sources[source] for source in task.config.sources])
