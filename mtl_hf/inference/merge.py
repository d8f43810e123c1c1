"""Adapters merged into the encoder: a plain model, which needs no peft and runs as fast as any other.

Notable: what is written has been asked before and after, on random batches, and answers the same to rounding; else
nothing is written. The run's YAML stays behind, since it would train another model.
"""

import logging
from pathlib import Path

import torch

from ..config import nearest
from ..files import check_folder, whole_folder
from ..modeling.adapters import SHARED
from ..saved.models import find_checkpoint
from .export import agree, random_batches

logger = logging.getLogger(__name__)


def merge_adapters(model: str | Path, to: str | Path, *, task: str | None = None) -> Path:
    """Write a model whose adapters are part of the encoder's weights.

    Args:
        model: A run's folder, one of its `checkpoint-N`, or a Hub id.
        to: A new folder, or an empty one.
        task: Of a model with an adapter a task, the head whose adapter is merged: only heads that read with it stay.

    Returns:
        The folder.

    Raises:
        ValueError: No such model or head, the folder holds something, no adapters, adapters of several tasks and no
            `task`, a `task` where all heads share the adapter, or a type of adapter that no encoder can take in.
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
            f"{checkpoint.name}: `task` is {task!r}, but the adapter is of all heads, and all of them are kept: leave"
            " `--task` out."
        )
    saved_in = loaded.dtype
    loaded.float()  # in half precision nothing agrees
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
        raise ValueError(f"{checkpoint.name}: merged, the adapters of this type do not answer as before.")
    with whole_folder(folder) as draft:
        loaded.to(saved_in).save_pretrained(draft)
    logger.info("%s, with its adapters merged: written to %s (heads: %s).",
                checkpoint.name, folder, ", ".join(loaded.heads) or "none")  # fmt: skip
    return folder
