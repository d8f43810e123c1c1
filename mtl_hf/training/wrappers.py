"""What wraps the model in a run (DDP, FSDP, DeepSpeed, or nothing): what was requested, and what accelerate made of it.

Notable: accelerate wraps a model in DDP where FSDP was requested on a CPU, and says nothing. A run is compared with its
request before its first step.
"""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel


def requested_wrapper(args: Any) -> str:
    """`DeepSpeed`, `FSDP`, `DDP` or `none`, as training arguments and the launcher's environment request it.

    Args:
        args: Training arguments; their fields `deepspeed` and `fsdp` are enough.
    """
    for name, field, variable in (
        ("DeepSpeed", args.deepspeed, "ACCELERATE_USE_DEEPSPEED"),
        ("FSDP", args.fsdp, "ACCELERATE_USE_FSDP"),
    ):
        if field or os.environ.get(variable, "false").lower() in ("true", "1"):
            return name
    return "DDP" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"


def wrapper_of(model: nn.Module) -> str:
    """What a model is wrapped in: `DeepSpeed`, `FSDP`, `DDP` or `none`."""
    model = getattr(model, "_orig_mod", model)  # of `torch.compile`
    if isinstance(model, FSDPModule | FullyShardedDataParallel):
        return "FSDP"
    if isinstance(model, DistributedDataParallel):
        return "DDP"
    # By its name: DeepSpeed need not be installed.
    return "DeepSpeed" if "DeepSpeedEngine" in (kind.__name__ for kind in type(model).__mro__) else "none"


def check_wrapper(requested: str, found: str) -> None:
    """Raise `ValueError` if a model is not wrapped as requested: processes would train separately, or hold all of it.

    Args:
        requested: As of `requested_wrapper`.
        found: As of `wrapper_of`.
    """
    if requested != found and (requested, found) != ("none", "DDP"):  # one process in DDP trains the same
        raise ValueError(
            f"{requested if requested != 'none' else 'one process without a wrapper'} was requested (by the launcher or"
            f" the training arguments), but the model is wrapped in {found if found != 'none' else 'nothing'}, which"
            " would train something else: start with one of the files in configs/accelerate."
        )


def check_fsdp_device(requested: str, on_cpu: bool) -> None:
    """Raise `ValueError` for FSDP on a CPU, where accelerate would make DDP of it."""
    if requested == "FSDP" and on_cpu:
        raise ValueError(
            "FSDP was requested, but this run is on a CPU, where accelerate trains with DDP instead: start with"
            " `accelerate launch --config_file configs/accelerate/cpu.yaml`, or on GPUs."
        )


def check_deepspeed(requested: str, used: Mapping[str, bool]) -> str:
    """Refuse what DeepSpeed cannot do.

    Args:
        requested: As of `requested_wrapper`.
        used: `loss_balancing`, `gradient_aggregation`, `log_gradient_conflicts` → whether it is used.

    Returns:
        What to tell about a run with DeepSpeed, "" without.

    Raises:
        ValueError: One of these is used with DeepSpeed.
    """
    if requested != "DeepSpeed":
        return ""
    for setting, given in used.items():
        if given:
            raise ValueError(
                f"`training.{setting}` reads the gradients of single tasks, which DeepSpeed does not give: use"
                " configs/accelerate/multi_gpu.yaml, or remove it."
            )
    return "DeepSpeed adds up gradients in another order: the steps equal those of other runs to rounding only."
