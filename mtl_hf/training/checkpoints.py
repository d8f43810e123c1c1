"""Checkpoints that are used only if they are complete, and the settings that must not change in a resumed run.

Notable: transformers writes a checkpoint in place, so an interrupted one looks like any other. Here `complete.json` is
written last, when every process has written its part; it contains the size of every file and all settings that affect
further training. A folder without it, or with a file of another size, is skipped.
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
from ..files import draft_of, write_atomic
from ..metrics import score_weight
from ..modeling.configuration_multitask import MultiTaskConfig
from ..modeling.windows import TRUNCATE
from ..tasks import TaskData

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"
_REMOVED = ".removed-"  # name prefix of a checkpoint that is being removed

# Name prefixes of training arguments that a resumed run may change, because they do not affect the weights.
# (The global batch size is compared instead of `per_device_train_batch_size`.)
_FREE = (
    "output_dir", "run_name", "project", "trackio_", "report_to", "disable_tqdm", "log", "debug", "skip_memory_metrics",
    "save_", "load_best_model_at_end", "keep_best_per_task", "eval_", "per_device_", "include_", "do_", "local_rank",
    "push_to_hub", "hub_", "dataloader_", "ddp_", "use_cpu", "resume_from_checkpoint",
)  # fmt: skip

# Sections of the settings with fields of transformers.
_LIBRARY = ("training.", "encoder.")


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders `checkpoint-<step>` in `folder`, complete or not, sorted by step."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=checkpoint_step)


def checkpoint_step(checkpoint: str | Path) -> int:
    """The step in the name of a folder `checkpoint-<step>`."""
    return int(Path(checkpoint).name.rpartition("-")[2])


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint is not complete; None if it is complete."""
    try:
        files = dict(json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["files"])
    except FileNotFoundError:
        return f"it has no {COMPLETE}, which is written last"
    except (ValueError, TypeError, KeyError):  # not text, not JSON, or other content
        return f"its {COMPLETE} cannot be read"
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes and should have {size:,}"
    return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None; warns about newer incomplete ones."""
    for checkpoint in reversed(list_checkpoints(folder)):
        if (reason := fault(checkpoint)) is None:
            return checkpoint
        logger.warning("%s is not complete and is skipped: %s.", checkpoint, reason)
    return None


def check_checkpoint(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Check that a run can continue exactly from a checkpoint.

    Args:
        checkpoint: Its folder.
        facts: Facts of the run (`MultiTaskTrainer.checkpoint_facts`).

    Raises:
        ValueError: It is not complete, was saved without optimiser state, is not the newest one, or settings differ.
    """
    where = f"`resume_from_checkpoint`: {checkpoint}"
    if reason := fault(checkpoint):
        raise ValueError(f"{where} is not a complete checkpoint: {reason}.")
    then = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    if "optimizer.pt" not in then["files"]:
        raise ValueError(f"{where} was saved with `save_only_model`: it has no optimiser state to continue with.")
    whole = [path for path in list_checkpoints(checkpoint.parent) if fault(path) is None]
    if whole and whole[-1].name != checkpoint.name:
        raise ValueError(
            f"{where} is not the newest checkpoint, which is {whole[-1].name}; to go back, remove the newer ones."
        )
    changed = differences(then["settings"], facts["settings"])
    if (
        changed
        and then["world_size"] != facts["world_size"]
        and any(line.startswith("batch_sizes.") for line in changed)
    ):
        changed.append(
            f"(The checkpoint was saved with {then['world_size']} processes, this run has {facts['world_size']}:"
            " choose `per_device_train_batch_size` so that the global batch sizes are the same.)"
        )
    if any(line.startswith(("training.num_train_epochs:", "training.max_steps:")) for line in changed):
        changed.append(f"({more_training(checkpoint.parent)})")
    if changed:
        raise ValueError(
            f"{where} was saved with other settings. Undo these changes, or start a new run:\n  " + "\n  ".join(changed)
        )


def more_training(folder: Path) -> str:
    """A sentence on how to train the model of a finished run further."""
    return (
        f"To train its model for longer, start a new run with `model: {{from: {folder}}}` (without `encoder`) and"
        " another `training.output_dir`; its learning rate schedule starts anew."
    )


def log_start(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Log the checkpoint from which a run continues, and warn about differences in the environment.

    Args:
        checkpoint: Its folder.
        facts: Facts of the run (`MultiTaskTrainer.checkpoint_facts`).
    """
    logger.info("Resuming from %s.", checkpoint)
    then = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    if then["world_size"] != facts["world_size"]:
        logger.warning(
            "The checkpoint was saved with %d processes, this run has %d: each step has the same rows, but other"
            " dropout masks from here on.", then["world_size"], facts["world_size"],
        )  # fmt: skip
    for name in ("threads", "machine", "versions"):
        if then["world_size"] == facts["world_size"] and then[name] != facts[name]:
            logger.warning("%s: %s in the checkpoint, %s now: results may differ in their last bits.",
                           name.capitalize(), then[name], facts[name])  # fmt: skip


def begin(checkpoint: Path) -> None:
    """Create the folder of a checkpoint before it is written; an existing one is replaced."""
    if checkpoint.exists():
        remove_checkpoint(checkpoint)
    checkpoint.mkdir(parents=True)
    draft_of(checkpoint / COMPLETE).touch()  # renamed as the last action of a save: an interrupted one still has it


def mark_complete(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Write `complete.json`: the facts, and the size of every file in the folder. For arguments see `log_start`."""
    files = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path not in (checkpoint / COMPLETE, draft_of(checkpoint / COMPLETE))
    }
    write_atomic(checkpoint / COMPLETE, json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Remove leftovers of a killed run: drafts of files (ours and safetensors'), half-removed checkpoints."""
    for path in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(path)
    for pattern in (".tmp??????", ".*.draft"):
        for path in folder.glob(pattern):
            path.unlink()


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint; it stops being complete before its first file is removed."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
        return
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(_REMOVED + checkpoint.name)))


def rotate_checkpoints(folder: Path, limit: int | None, keep: Collection[Path]) -> None:
    """Remove the oldest checkpoints beyond `limit` (None or 0 for no limit), and all whose save was interrupted.

    Other incomplete checkpoints (changed later, or not written by us) are kept and do not count.

    Args:
        folder: The folder of the checkpoints.
        limit: How many to keep.
        keep: Checkpoints that are never removed; they count.
    """
    remove_leftovers(folder)
    whole = []
    for checkpoint in list_checkpoints(folder):
        if draft_of(checkpoint / COMPLETE).exists():
            logger.warning("%s was interrupted and is removed.", checkpoint)
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
    balance: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All settings that affect further training, as JSON values.

    Args:
        config: Configuration of the model.
        tasks: Task name → task.
        train_rows: Source → encoded training rows.
        eval_splits: Source → encoded validation rows, by which checkpoints are chosen.
        batch_sizes: Source → global batch size.
        schedule: Class name of the batch sampler.
        arguments: Training arguments (`TrainingArguments.to_dict`); only those that affect the weights are used.
        balance: Source → the task by whose labels its rows are drawn.
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
        "order": {"sources": list(train_rows), "tasks": list(tasks)},  # of turns and optimiser groups
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
        | ({"adapters": config.adapters} if config.adapters else {})
        | ({} if config.overflow == TRUNCATE else {"overflow": config.overflow, "stride": config.window_stride}),
        "training": deciding_arguments(arguments),
        "encoder": {
            key: value
            for key, value in config.text_config.to_dict().items()  # type: ignore[union-attr]
            if key not in ("transformers_version", "_name_or_path", "dtype", "architectures")
        },
    }
    if balance:
        settings["balance"] = dict(balance)
    return json.loads(json.dumps(settings, default=str))


def _options(task: TaskData) -> dict[str, Any]:
    """The options of a task. `mlm_probability` stays where checkpoints of earlier versions have it."""
    found = task.kind.facts(task)
    return {"mlm_probability": found.pop("mlm_probability", None), "options": found}


def deciding_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The training arguments (of `TrainingArguments.to_dict`) that affect the weights."""
    free: tuple[str, ...] = _FREE
    if (arguments.get("unfreeze") or {}).get("when") == "plateau":  # then evaluations affect what is trained
        free = tuple(beginning for beginning in _FREE if beginning != "eval_")
    found = {name: value for name, value in arguments.items() if not name.startswith(free)}
    if "frozen_cache" in found:  # only whether there is one; its size limit has no effect
        found["frozen_cache"] = found["frozen_cache"] is not None
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between the settings of a checkpoint and those of a run, one line each.

    Fields of transformers' arguments and configurations count only if both have them, so that a new field in another
    version of transformers is not a difference. Options of a task do not count if the checkpoint is of a version that
    did not note them.
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
        if isinstance(value, Mapping) and prefix not in _LIBRARY:  # a library's field is compared as a whole
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(values: Mapping[str, Any], others: Mapping[str, Any], key: str) -> str:
    """Format a value; for a long list, only the items that the other side does not have."""
    if key not in values:
        return "absent"
    value, other = values[key], others.get(key)
    if isinstance(value, list) and isinstance(other, list) and len(value) > 5:
        own = [str(item) for item in value if item not in other]
        if not own and all(item in value for item in other):  # only their order differs
            return json.dumps(value, ensure_ascii=False)
        return f"{len(value)} of them{', also ' + ', '.join(own[:5]) if own else ''}{' ...' if len(own) > 5 else ''}"
    return json.dumps(value, ensure_ascii=False)
