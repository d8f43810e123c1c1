"""What wraps the model in a run (DDP, FSDP, DeepSpeed, or nothing): what was requested, and what accelerate made of it.

Notable: accelerate wraps a model in DDP where FSDP was requested on a CPU, without a warning. A run is compared with
its request before its first step.
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


def check_single_gradients(requested: str, fp16: bool, used: Mapping[str, bool]) -> None:
    """Refuse settings that read the gradients of single tasks where nothing gives them.

    Args:
        requested: As of `requested_wrapper`.
        fp16: Whether gradients are scaled.
        used: `loss_balancing`, `gradient_aggregation`, `log_gradient_conflicts` → whether it is used.

    Raises:
        ValueError: One of these is used with DeepSpeed, FSDP or fp16.
    """
    reasons = {"DeepSpeed": "DeepSpeed, which adds them up", "FSDP": "FSDP, which keeps parts of them"}
    reason = reasons.get(requested) or ("fp16, which scales them" if fp16 else "")
    for setting, given in used.items():
        if given and reason:
            raise ValueError(
                f"`training.{setting}` reads the gradients of single tasks and cannot be used with {reason}: use"
                " configs/accelerate/multi_gpu.yaml, and `precision: bf16` or fp32."
            )
