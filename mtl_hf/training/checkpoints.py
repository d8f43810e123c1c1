"""Checkpoints that count only once they are whole, and what a run must have kept to go on from one exactly.

Notable: transformers writes a checkpoint in place, so one that was cut short looks like any other. Here `complete.json`
is written last, when every process has written its part; it holds the size of every file and the settings that decide
what training does next. A folder without it, or with a file of another size, is passed over.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from ..data.collator import fingerprint
from ..data.rows import EncodedSplit
from ..files import draft_of, write_whole
from ..metrics import score_weight
from ..modeling.configuration_multitask import MultiTaskConfig
from ..tasks import TaskData

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"
_REMOVED = ".removed-"  # begins the name of a checkpoint that is being removed

# Beginnings of the names of training arguments that a resumed run may change: none decides what the weights become.
# (The global batch is compared instead of `per_device_train_batch_size`.)
_FREE = (
    "output_dir", "run_name", "project", "trackio_", "report_to", "disable_tqdm", "log", "debug", "skip_memory_metrics",
    "save_", "load_best_model_at_end", "keep_best_per_task", "eval_", "per_device_", "include_", "do_", "local_rank",
    "push_to_hub", "hub_", "dataloader_", "ddp_", "use_cpu", "resume_from_checkpoint",
)  # fmt: skip

# Sections of the settings that hold fields of transformers.
_LIBRARY = ("training.", "encoder.")


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders `checkpoint-<step>` in `folder`, whole or not, by step."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=checkpoint_step)


def checkpoint_step(checkpoint: str | Path) -> int:
    """The step that a folder `checkpoint-<step>` is named by."""
    return int(Path(checkpoint).name.rpartition("-")[2])


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint does not count; None if it is whole."""
    try:
        files = dict(json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["files"])
    except FileNotFoundError:
        return f"it has no {COMPLETE}, which is written last"
    except (ValueError, TypeError, KeyError):  # not text, not JSON, or not what was written
        return f"its {COMPLETE} cannot be read"
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes and should have {size:,}"
    return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, or None; says which newer ones it passes over."""
    for checkpoint in reversed(list_checkpoints(folder)):
        if (reason := fault(checkpoint)) is None:
            return checkpoint
        logger.warning("%s is not whole and is passed over: %s.", checkpoint, reason)
    return None


def check_checkpoint(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that a run cannot go on from exactly.

    Args:
        checkpoint: Its folder.
        facts: Of the run (`MultiTaskTrainer.checkpoint_facts`).

    Raises:
        ValueError: It is not whole, was saved without its optimiser, is not the newest one, or settings differ.
    """
    where = f"`resume_from_checkpoint`: {checkpoint}"
    if reason := fault(checkpoint):
        raise ValueError(f"{where} is no whole checkpoint: {reason}.")
    then = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    if "optimizer.pt" not in then["files"]:
        raise ValueError(f"{where} was saved with `save_only_model`: there is no optimiser state to go on with.")
    whole = [path for path in list_checkpoints(checkpoint.parent) if fault(path) is None]
    if whole and whole[-1].name != checkpoint.name:
        raise ValueError(f"{where} is not the newest: {whole[-1].name} is; remove what came later to go back.")
    changed = differences(then["settings"], facts["settings"])
    if (
        changed
        and then["world_size"] != facts["world_size"]
        and any(line.startswith("batch_sizes.") for line in changed)
    ):
        changed.append(
            f"(The checkpoint is of {then['world_size']} processes, now there are {facts['world_size']}: choose"
            " `per_device_train_batch_size` so that the global batches stay as they were.)"
        )
    if any(line.startswith(("training.num_train_epochs:", "training.max_steps:")) for line in changed):
        changed.append(f"({more_training(checkpoint.parent)})")
    if changed:
        raise ValueError(
            f"{where} is of a run that trains differently. Set back what was changed, or start a new run:\n  "
            + "\n  ".join(changed)
        )


def more_training(folder: Path) -> str:
    """How a model is trained for longer than its run, whose learning rates have run out, in words."""
    return (
        f"To train its model for longer, start a new run with `model: {{from: {folder}}}`, without `encoder`, and"
        " another `training.output_dir`: learning rates then start anew."
    )


def log_start(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Say which checkpoint a run goes on from, and what will be only nearly the same.

    Args:
        checkpoint: Its folder.
        facts: Of the run (`MultiTaskTrainer.checkpoint_facts`).
    """
    logger.info("Going on from %s.", checkpoint)
    then = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    if then["world_size"] != facts["world_size"]:
        logger.warning(
            "The checkpoint is of %d processes, now there are %d: every step has the same rows as before, but from here"
            " on other dropout masks.", then["world_size"], facts["world_size"],
        )  # fmt: skip
    for name in ("threads", "machine", "versions"):
        if then["world_size"] == facts["world_size"] and then[name] != facts[name]:
            logger.warning("%s: %s in the checkpoint, %s now: results may differ in their last bits.",
                           name.capitalize(), then[name], facts[name])  # fmt: skip


def begin(checkpoint: Path) -> None:
    """Make the folder of a checkpoint that is about to be written; one that is there already is replaced."""
    if checkpoint.exists():
        remove_checkpoint(checkpoint)
    checkpoint.mkdir(parents=True)
    draft_of(checkpoint / COMPLETE).touch()  # renamed in the save's last moment: what was cut short has it still


def mark_complete(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Write `complete.json`: the facts, and the size of every file that is there now. Arguments as of `log_start`."""
    files = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path not in (checkpoint / COMPLETE, draft_of(checkpoint / COMPLETE))
    }
    write_whole(checkpoint / COMPLETE, json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run has left half done: drafts of files (ours, safetensors'), checkpoints half removed."""
    for path in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(path)
    for pattern in (".tmp??????", ".*.draft"):
        for path in folder.glob(pattern):
            path.unlink()


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint; from the first moment on it does not count."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
        return
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(_REMOVED + checkpoint.name)))


def rotate_checkpoints(folder: Path, limit: int | None, keep: Collection[Path]) -> None:
    """Remove the oldest checkpoints beyond `limit` (None or 0 for no limit), and all whose save was cut short.

    Others that are not whole, changed since or never written by us, are left alone and do not count.

    Args:
        folder: Where they are.
        limit: How many to keep.
        keep: Those never to remove, which count.
    """
    remove_leftovers(folder)
    whole = []
    for checkpoint in list_checkpoints(folder):
        if draft_of(checkpoint / COMPLETE).exists():
            logger.warning("%s was cut short and is removed.", checkpoint)
            remove_checkpoint(checkpoint)
        elif fault(checkpoint) is None:
            whole.append(checkpoint)
    if not limit or limit < 0:
        return
    removable = [checkpoint for checkpoint in whole if checkpoint not in keep]
    for checkpoint in removable[: max(0, len(whole) - limit)]:
        remove_checkpoint(checkpoint)


def run_settings(
    config: MultiTaskConfig,
    tasks: Mapping[str, TaskData],
    train_rows: Mapping[str, datasets.Dataset],
    eval_splits: Mapping[str, EncodedSplit],
    batch_sizes: Mapping[str, int],
    schedule: str,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """All that decides what training does next, as JSON has it.

    Args:
        config: Of the model.
        tasks: Task name → task.
        train_rows: Source → encoded training rows.
        eval_splits: Source → encoded rows that checkpoints are chosen by.
        batch_sizes: Source → rows of its global batch.
        schedule: Name of the batch sampler's class.
        arguments: Training arguments (`TrainingArguments.to_dict`), of which those count that decide.
    """
    settings = {
        "tasks": {
            name: {key: value for key, value in (config.heads or {})[name].items() if key != "num_steps"}
            | {"sources": task.config.sources, "loss_weight": task.config.loss_weight}
            | {"learning_rate": task.config.learning_rate, "score_weight": score_weight(task)}
            | {"metrics": task.config.metrics}
            | _options(task)
            | ({} if task.config.train else {"train": False})
            for name, task in tasks.items()
        },
        "order": {"sources": list(train_rows), "tasks": list(tasks)},  # of turns, and of the optimiser's groups
        "data": {name: {"rows": len(rows), "fingerprint": fingerprint(rows)} for name, rows in train_rows.items()},
        "validation": {
            name: {
                "rows": len(split.rows),
                "fingerprint": fingerprint(split.rows),
                "labels": hashlib.sha256(json.dumps(split.gold, default=list, sort_keys=True).encode()).hexdigest()[
                    :32
                ],
            }
            for name, split in eval_splits.items()
        },
        "schedule": schedule,
        "batch_sizes": batch_sizes,
        "model": {
            "pooling": config.pooling,
            "max_length": config.max_length,
            "attn_implementation": config.encoder_attn_implementation,
            "experts": config.experts,
        }
        | ({"adapters": config.adapters} if config.adapters else {}),
        "training": deciding_arguments(arguments),
        "encoder": {
            key: value
            for key, value in config.text_config.to_dict().items()  # type: ignore[union-attr]
            if key not in ("transformers_version", "_name_or_path", "dtype", "architectures")
        },
    }
    return json.loads(json.dumps(settings, default=str))


def _options(task: TaskData) -> dict[str, Any]:
    """Options of a task; the one that checkpoints of earlier versions note has the place that it has there."""
    found = task.kind.facts(task)
    return {"mlm_probability": found.pop("mlm_probability", None), "options": found}


def deciding_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of training arguments (`TrainingArguments.to_dict`) those that decide what the weights become."""
    free: tuple[str, ...] = _FREE
    if (arguments.get("unfreeze") or {}).get("when") == "plateau":  # then evaluations decide what is trained
        free = tuple(beginning for beginning in _FREE if beginning != "eval_")
    found = {name: value for name, value in arguments.items() if not name.startswith(free)}
    if "frozen_cache" in found:  # whether there is one; its cap decides nothing
        found["frozen_cache"] = found["frozen_cache"] is not None
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the settings of a checkpoint and those of a run, a line each.

    Fields of transformers' arguments and configurations count only where both have them, so that another version of it
    with a new field does not. Options of a task do not count where the checkpoint is of a version that did not note
    them.
    """
    before, after = dict(_flatten(then)), dict(_flatten(now))
    lines = []
    for key in dict.fromkeys([*before, *after]):
        if key.startswith(_LIBRARY) and not (key in before and key in after):
            continue
        if ".options." in key and key not in before:
            continue
        if before.get(key) != after.get(key):
            lines.append(f"{key}: {_show(before, after, key)} in the checkpoint, {_show(after, before, key)} now")
    return lines


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and prefix not in _LIBRARY:  # of a library's field the whole value counts
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(values: Mapping[str, Any], others: Mapping[str, Any], key: str) -> str:
    """A value; of a long list, what the other side does not have."""
    if key not in values:
        return "absent"
    value, other = values[key], others.get(key)
    if isinstance(value, list) and isinstance(other, list) and len(value) > 5:
        own = [str(item) for item in value if item not in other]
        if not own and all(item in value for item in other):  # only their order differs
            return json.dumps(value, ensure_ascii=False)
        return f"{len(value)} of them{', also ' + ', '.join(own[:5]) if own else ''}{' ...' if len(own) > 5 else ''}"
    return json.dumps(value, ensure_ascii=False)
