"""Start from a saved multi-task model (`model.from`): which of its heads a run keeps.

Notable: heads and tasks are matched before any data are loaded, labels as soon as they are known. The labels of a saved
head keep their order, which is the order of its logits.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..config import RunConfig, nearest
from ..modeling.heads import answers_texts, build_head
from ..modeling.modeling_multitask import MultiTaskModel
from ..tasks import SourceData, TaskData, task_type
from ..tasks.names import label_names
from .models import Checkpoint, find_checkpoint, vocabularies_of

logger = logging.getLogger(__name__)

_OPTIONAL = ("crf.", "layer_mix.")  # weights that only heads with certain options have


@dataclass(frozen=True)
class Start:
    """The model that a run starts from.

    Attributes:
        checkpoint: The saved model.
        heads: Task → the specification of the head that is kept for it.
    """

    checkpoint: Checkpoint
    heads: dict[str, dict[str, Any]]

    @property
    def vocabularies(self) -> dict[str, list[str]]:
        """Task → the labels of its head, for heads that have labels."""
        return vocabularies_of(self.heads)


def find_start(run: RunConfig) -> Start | None:
    """Find the model in `model.from` and match its heads with the tasks by name and type; None without `from`.

    Raises:
        ValueError: There is no such multi-task model; `rename` or `train: false` refers to a head that it does not
            have; a head and its task have different types.
    """
    if run.model.from_ is None:
        return None
    try:
        checkpoint = find_checkpoint(run.model.from_)
    except ValueError as error:
        raise ValueError(
            f"`model.from`: {error} (`from` takes a model saved by `mtl-hf train`; for any other encoder use"
            " `model.encoder`.)"
        ) from error
    _check_place(checkpoint, run)
    if not run.model.keeps_heads:
        return Start(checkpoint, {})
    renaming = run.model.rename or {}
    for old, new in renaming.items():
        if old not in checkpoint.heads:
            raise ValueError(
                f"`model.rename`: {checkpoint.name} has no head {old!r}.{nearest(old, checkpoint.heads)} It has"
                f" {', '.join(checkpoint.heads) or 'none'}."
            )
        if new not in run.tasks:
            raise ValueError(f"`model.rename.{old}` is {new!r}, which is not a task.{nearest(new, run.tasks)}")
        if new in checkpoint.heads or list(renaming.values()).count(new) > 1:
            raise ValueError(f"`model.rename.{old}` is {new!r}, but {checkpoint.name} has another head with that name.")
    renamed = {renaming.get(name, name): spec for name, spec in checkpoint.heads.items()}
    if left := [name for name in renamed if name not in run.tasks]:
        logger.info("Heads of %s that match no task are not kept: %s.", checkpoint.name, ", ".join(left))
    heads = {name: spec for name, spec in renamed.items() if name in run.tasks}
    for name, task in run.tasks.items():
        if name not in heads and not task.train:
            raise ValueError(
                f"`tasks.{name}.train` is false, but {checkpoint.name} has no head {name!r}.{nearest(name, renamed)} It"
                f" has {', '.join(checkpoint.heads) or 'none'} (`model.rename` can rename a head)."
            )
        if name in heads and heads[name]["type"] != task.type:
            raise ValueError(
                f"`tasks.{name}` is {task.type}; the head of {checkpoint.name} is {heads[name]['type']}. {_WAYS_OUT}"
            )
    logger.info("Starting from %s, with %s.", checkpoint.name, listed("head", heads) if heads else "none of its heads")
    return Start(checkpoint, heads)


_WAYS_OUT = "Rename the task to get a new head, or set `model.keep: encoder`."


def listed(noun: str, names: Any) -> str:
    """Format names with their noun, in the plural for several names: `the heads a, b`."""
    names = list(names)
    return f"the {noun}{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _check_place(checkpoint: Checkpoint, run: RunConfig) -> None:
    folder = checkpoint.folder
    output = Path(str(run.training.get("output_dir") or "trainer_output"))
    if folder is not None and folder.resolve().is_relative_to(output.resolve()):
        raise ValueError(
            f"`model.from` is {checkpoint.name}, which is inside `training.output_dir` ({output}): the run would"
            " overwrite the model that it starts from. Choose another output_dir."
        )


def check_start(start: Start, tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData]) -> None:
    """Check that the kept heads have the labels and the text form of their tasks.

    A head may have more labels than occur in the training rows. For a task that is only scored, unknown labels count as
    errors, as in `evaluate`.

    Args:
        start: The result of `find_start`.
        tasks: Tasks, built with the heads' vocabularies.
        sources: Sources, with the labels of their rows.

    Raises:
        ValueError: Labels or text form differ; the message shows the difference.
    """
    for name, spec in start.heads.items():
        task, where = tasks[name], f"`tasks.{name}`: the head {name} of {start.checkpoint.name}"
        if task.form != spec["text"] and answers_texts(spec):  # masked_lm reads texts of any form
            raise ValueError(f"{where} was trained on texts of form {spec['text']!r}; its source has {task.form!r}."
                             f" {_WAYS_OUT}")  # fmt: skip
        own, declared = spec.get("labels"), task.declared
        if not own:
            continue
        if declared:
            here = set(declared)
        else:
            gold = [sources[source].gold["train"].get(name, []) for source in task.config.sources if task.config.train]
            here = set().union(*map(label_names, gold))
        only_here = sorted(here - set(own))
        only_there = [label for label in own if declared and label not in here]
        if only_here or only_there:
            other = "`labels`" if declared else "the training rows"
            raise ValueError(
                f"{where} has other labels than {other}."
                + (f" Only the head has {_shown(only_there)}." if only_there else "")
                + (f" Only {other} have {_shown(only_here)}; the head has {_shown(own)}." if only_here else "")
                + f" {_WAYS_OUT}"
            )


def _shown(labels: list[str]) -> str:
    return ", ".join(map(repr, labels[:10])) + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")


def load_start(start: Start, run: RunConfig, resolved: Mapping[str, Mapping[str, Any]] | None = None) -> MultiTaskModel:
    """Load the saved model with the kept heads, named by their tasks; the tasks' own options replace saved ones.

    Args:
        start: The result of `find_start`.
        run: The config.
        resolved: Task → options of its head that were found in the data (`TaskType.resolved_options`).

    Raises:
        ValueError: It cannot be loaded; `max_length` or `encoder_config` do not fit its encoder; a task sets another
            `pooling` than its head was trained with.
    """
    checkpoint, spec = start.checkpoint, run.model
    where: dict[str, Any] = {"revision": checkpoint.revision} if checkpoint.revision else {}
    try:
        model = MultiTaskModel.from_encoder(
            checkpoint.path,
            keep_heads=spec.keeps_heads,
            pooling=spec.pooling,
            max_length=spec.max_length,
            overflow=spec.overflow,
            stride=spec.stride,
            truncation_side=spec.truncation_side,
            add_tokens=spec.add_tokens,
            attn_implementation=spec.attn_implementation,
            encoder_config=spec.encoder_config,
            experts=spec.experts,
            **where,
        )
    except (OSError, ImportError) as error:
        raise ValueError(f"`model.from`: {checkpoint.name} cannot be loaded: {' '.join(str(error).split())}") from error
    for old, new in (spec.rename or {}).items():
        model.rename_head(old, new)
    for name in list(model.heads):
        if name not in start.heads:
            model.remove_head(name)
    for name in start.heads:
        task = run.tasks[name]
        was = model.config.heads[name].get("pooling") or model.config.pooling
        if task.pooling and task.pooling != was:
            raise ValueError(
                f"`tasks.{name}.pooling` is {task.pooling}; the head of {checkpoint.name} was trained with {was}."
            )
        pooled = model.config.heads[name].get("window_pooling", "mean")
        if task.window_pooling and task.window_pooling != pooled:
            raise ValueError(
                f"`tasks.{name}.window_pooling` is {task.window_pooling}; the head of {checkpoint.name} was trained"
                f" with {pooled}."
            )
        kind = task_type(task.type)
        changed = kind.changed_options(task, kind.read_options(name, task)) | dict((resolved or {}).get(name, {}))
        if changed:
            own = {key: value for key, value in (model.config.heads[name] | changed).items() if value is not None}
            head = build_head(own, model.encoder_shape, model.config.num_experts)
            _copy_weights(name, model.heads[name], head)
            model.heads[name], model.config.heads[name] = head.train(model.training), own
    return model


def _copy_weights(name: str, saved: nn.Module, head: nn.Module) -> None:
    """Copy the weights of a saved head to one with other options, and log those that only one of them has."""
    found = head.load_state_dict(saved.state_dict(), strict=False)
    if new := [key for key in found.missing_keys if key.startswith(_OPTIONAL)]:
        logger.info("Head %s: %s are new and start from zero.", name, ", ".join(new))
    if left := [key for key in found.unexpected_keys if key.startswith(_OPTIONAL)]:
        logger.info("Head %s: %s are left out, because the config turns them off.", name, ", ".join(left))
    if other := {*found.missing_keys, *found.unexpected_keys} - {*new, *left}:
        raise RuntimeError(f"head {name!r}: the weights do not match in {', '.join(sorted(other))}.")


def with_kept_options(run: RunConfig, heads: Mapping[str, Mapping[str, Any]], *, always: bool = False) -> RunConfig:
    """A config with the options of saved heads (`TaskType.kept_options`).

    Args:
        run: The config, which is not changed.
        heads: Task → the specification of its head.
        always: Whether saved options replace those of the config (to score a head), or only fill in absent ones.
    """
    tasks = dict(run.tasks)
    for name, head in heads.items():
        if name not in tasks:
            continue
        task = tasks[name]
        kept = task_type(task.type).kept_options(head)
        absent = {key: value for key, value in kept.items() if key in head and key not in task.options}
        tasks[name] = replace(task, options=task.options | (kept if always else absent))
    return replace(run, tasks=tasks)


def check_tokens(start: Start, run: RunConfig, was: list[int], now: list[int]) -> None:
    """Warn about kept heads whose tokenization changes, because a new task reads lists of words.

    Byte-level tokenizers then add a space before the first word of a text.

    Args:
        start: The result of `find_start`.
        run: The config.
        was: The tokens of a text as the saved model tokenizes it.
        now: The tokens of the same text with the heads of all tasks.

    Raises:
        ValueError: Such a head is only scored, and its predictions would differ from those of the saved model.
    """
    strings = [name for name, spec in start.heads.items() if spec["text"] != "words"]
    if now == was or not strings:
        return
    what = (f"{listed('head', strings)} of {start.checkpoint.name} read texts without a space before the first word;"
            " a new task reads lists of words, which need a tokenizer that adds one")  # fmt: skip
    if scored := [name for name in strings if not run.tasks[name].train]:
        raise ValueError(f"`tasks.{scored[0]}.train` is false, but {what}, so its predictions would change.")
    logger.warning("%s.", what[0].upper() + what[1:])
