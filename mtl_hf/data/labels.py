"""The tasks of a run, with the labels of their sources.

Notable: what is particular to a task type is its own (`tasks/`); here is what all of them have in common: which texts
a task can read, and whether there is anything to train on and to score.
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
    """Check what can be said of tasks before any data are loaded.

    Raises:
        ValueError: A name that a head cannot have, or as of `tasks.check_settings`.
    """
    checks = (lambda: for_each(config.tasks, check_head_name), lambda: check_settings(config))
    for_each(checks, lambda check: check())


def build_tasks(
    config: RunConfig, sources: Mapping[str, SourceData], vocabularies: Mapping[str, list[str]] | None = None
) -> dict[str, TaskData]:
    """Read and check the labels of every task, fill in `SourceData.gold`, and find each task's vocabulary.

    Args:
        config: The run.
        sources: As `load_sources` returns them.
        vocabularies: Task → its labels, where a trained model has them already.

    Raises:
        ValueError: Labels that do not suit the task's type, with the row.
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
    """How the head of a task reads its texts, which all sources of it have to allow."""
    forms = {source.form for source in sources}
    if kind.alone and kind.form is None:  # it reads each text as it comes
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
    """Find tasks whose rows have no labels on a split on which a run scores them; or a single number, which correlates
    with nothing.

    Args:
        tasks: Task name → task. One with `score_weight: 0` may lack them, with a warning.
        sources: With the labels of their rows.
        splits: The splits that are scored.
        metric: What checkpoints are chosen by.
    """
    for split, (name, task) in itertools.product(splits, tasks.items()):
        own = [sources[source] for source in task.config.sources if split in sources[source].splits]
        if not own or task.config.label is None:
            continue
        num_rows = sum(len(source.splits[split]) for source in own)
        number = sum(count_labelled(source.gold[split][name]) for source in own)
        if number >= task.kind.fewest_scored:
            continue
        problem = (
            f"{'only one' if number else 'none'} of the {num_rows} {split} rows of"
            f" {' and '.join(source.name for source in own)} has a label in the column {task.config.label!r}"
        )
        named = metric is not None and metric.removeprefix("eval_").startswith(f"{name}_")
        if task.config.score_weight != 0 or (named and split == "validation"):
            yield Finding(
                logging.ERROR,
                f"`tasks.{name}`",
                f"{problem}, and its score there would be no number. Add labels, leave these rows out, or set"
                f" `tasks.{name}.score_weight: 0`",
            )
        else:
            yield Finding(logging.WARNING, f"Task {name}", f"{problem}; it is not scored there")


def count_labelled(labels: Sequence[Any]) -> int:
    """How many rows have a label."""
    return int(labels.labelled().sum()) if isinstance(labels, NameColumn) else sum(map(is_labelled, labels))


def is_labelled(label: Any) -> bool:
    """Whether a row has a label; of tags, whether a word has one."""
    if isinstance(label, list):
        return not label or any(tag is not None for tag in label)
    return label is not None


def warn_of_labels(tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData]) -> None:
    """Warn of training labels that will make trouble, as numbers far from unit size."""
    for task in tasks.values():
        if task.config.train:
            task.kind.warn(task, [sources[source] for source in task.config.sources])
