"""Merge adapters into the encoder: the result is a plain model, which needs no peft and runs as fast as any other.

Notable: the outputs before and after merging are compared on random batches; unless they are equal up to rounding,
nothing is written. The run's YAML is left out, because it would train a different model.
"""

import logging
from pathlib import Path

import torch

from ..config import nearest
from ..files import atomic_folder, check_folder
from ..modeling.adapters import SHARED
from ..saved.models import find_checkpoint
from .export import agree, random_batches

logger = logging.getLogger(__name__)


def merge_adapters(model: str | Path, to: str | Path, *, task: str | None = None) -> Path:
    """Merge a model's adapters into the encoder's weights and write the result.

    Args:
        model: A run folder, one of its `checkpoint-N`, or a Hub id.
        to: A new or empty folder.
        task: For a model with one adapter per task, the task to merge: only heads that use its adapter are kept.

    Returns:
        The folder.

    Raises:
        ValueError: No such model or head, the folder is not empty, the model has no adapters, `task` is missing for
            adapters of several tasks or given for a shared adapter, or the type of adapter cannot be merged.
    """
    folder = check_folder(to, "to")
    checkpoint = find_checkpoint(model)
    if task is not None and task not in checkpoint.heads:
        raise ValueError(
            f"{checkpoint.name} has no head {task!r}.{nearest(task, checkpoint.heads)} It has:"
            f" {', '.join(checkpoint.heads) or 'none'}."
        )
    loaded = checkpoint.load().eval()
    if task is not None and list(loaded.config.adapters or ()) == [SHARED]:
        raise ValueError(
            f"{checkpoint.name}: `task` is {task!r}, but all heads share one adapter, and all of them are kept: remove"
            " `--task`."
        )
    saved_in = loaded.dtype
    loaded.float()  # half precision is too coarse for the comparison
    batches = list(random_batches(loaded))
    adapter = loaded.adapter_of(task)
    with torch.no_grad():
        wanted = [loaded.adapted_states(adapter, **batch) for batch in batches]
    try:
        loaded.merge_adapters(task)
    except ValueError as error:
        raise ValueError(f"{checkpoint.name}: {error}") from error
    with torch.no_grad():
        found = [loaded.adapted_states(None, **batch) for batch in batches]
    if not all(map(agree, found, wanted)):
        raise ValueError(f"{checkpoint.name}: adapters of this type cannot be merged, the outputs would change.")
    with atomic_folder(folder) as draft:
        loaded.to(saved_in).save_pretrained(draft)
    logger.info("%s, with its adapters merged: written to %s (heads: %s).",
                checkpoint.name, folder, ", ".join(loaded.heads) or "none")  # fmt: skip
    return folder
