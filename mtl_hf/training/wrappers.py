"""The wrapper of the model (DDP, FSDP, DeepSpeed, or none): check that accelerate used the requested one.

Notable: if FSDP is requested on a CPU, accelerate uses DDP without a warning. So the actual wrapper is compared with
the requested one before the first step.
"""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel


def requested_wrapper(args: Any) -> str:
    """The wrapper that training arguments and launcher request: `DeepSpeed`, `FSDP`, `DDP` or `none`.

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
    """The wrapper of a model: `DeepSpeed`, `FSDP`, `DDP` or `none`."""
    model = getattr(model, "_orig_mod", model)  # unwrap `torch.compile`
    if isinstance(model, FSDPModule | FullyShardedDataParallel):
        return "FSDP"
    if isinstance(model, DistributedDataParallel):
        return "DDP"
    # By its name, because DeepSpeed may not be installed.
    return "DeepSpeed" if "DeepSpeedEngine" in (kind.__name__ for kind in type(model).__mro__) else "none"


def check_wrapper(requested: str, found: str) -> None:
    """Raise `ValueError` if a model is not wrapped as requested: processes would train separately, or not be sharded.

    Args:
        requested: Result of `requested_wrapper`.
        found: Result of `wrapper_of`.
    """
    if requested != found and (requested, found) != ("none", "DDP"):  # a single process in DDP trains the same
        raise ValueError(
            f"{requested if requested != 'none' else 'one process without a wrapper'} was requested (by the launcher or"
            f" the training arguments), but the model is wrapped in {found if found != 'none' else 'nothing'}, which"
            " would train something else: start with one of the files in configs/accelerate."
        )


def check_fsdp_device(requested: str, on_cpu: bool) -> None:
    """Raise `ValueError` for FSDP on a CPU, where accelerate would use DDP."""
    if requested == "FSDP" and on_cpu:
        raise ValueError(
            "FSDP was requested, but this run is on a CPU, where accelerate trains with DDP instead: start with"
            " `accelerate launch --config_file configs/accelerate/cpu.yaml`, or on GPUs."
        )


def check_single_gradients(requested: str, fp16: bool, used: Mapping[str, bool]) -> None:
    """Check that settings which read the gradients of single tasks are supported by the wrapper and the precision.

    Args:
        requested: Result of `requested_wrapper`.
        fp16: Whether gradients are scaled.
        used: `loss_balancing`, `gradient_aggregation`, `log_gradient_conflicts` → whether it is used.

    Raises:
        ValueError: One of these is used with DeepSpeed, FSDP or fp16.
    """
    reasons = {"DeepSpeed": "DeepSpeed, which sums them", "FSDP": "FSDP, which shards them"}
    reason = reasons.get(requested) or ("fp16, which scales them" if fp16 else "")
    for setting, given in used.items():
        if given and reason:
            raise ValueError(
                f"`training.{setting}` reads the gradients of single tasks and cannot be used with {reason}: use"
                " configs/accelerate/multi_gpu.yaml, and `precision: bf16` or fp32."
            )
