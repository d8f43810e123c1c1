"""Valid ranges of the numbers in the training arguments.

Notable: transformers checks few of them. Invalid values would cause an error of numpy or torch in the first step, train
nothing, or never end.
"""

import math
from typing import Any

_COUNT, _STEPS = 10**6, 10**9
# Field → minimum and maximum; the minimum is excluded for `_ABOVE`, the maximum for `_BELOW`.
_RANGES: dict[str, tuple[float, float]] = {
    "num_train_epochs": (0, _COUNT),
    "per_device_train_batch_size": (1, _COUNT),
    "per_device_eval_batch_size": (1, _COUNT),
    "gradient_accumulation_steps": (1, _COUNT),
    "eval_accumulation_steps": (1, _COUNT),
    "learning_rate": (0, 1000),
    "head_learning_rate": (0, 1000),
    "weight_decay": (0, 1000),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, 1),
    "max_grad_norm": (0, math.inf),
    "neftune_noise_alpha": (0, 1000),
    "warmup_steps": (0, _STEPS),
    "logging_steps": (0, _STEPS),
    "eval_steps": (0, _STEPS),
    "save_steps": (0, _STEPS),
    "eval_delay": (0, _STEPS),
    "torch_empty_cache_steps": (1, _STEPS),
    "log_gradient_conflicts": (0, _STEPS),
    "early_stopping_patience": (1, _STEPS),
    "save_total_limit": (1, _COUNT),
    "seed": (0, 2**32 - 1),  # numpy's
    "data_seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, 1024),
    "dataloader_prefetch_factor": (1, _COUNT),
    "ddp_timeout": (1, 10**7),  # seconds
    "ddp_bucket_cap_mb": (1, _COUNT),
}
_ABOVE = ("num_train_epochs", "logging_steps", "eval_steps", "save_steps")
_BELOW = ("adam_beta1", "adam_beta2")
_SHARE_OR_STEPS = ("warmup_steps", "logging_steps", "eval_steps", "save_steps")


def check_numbers(arguments: Any) -> None:
    """Check the numbers of training arguments; fields that are None are left out.

    Args:
        arguments: A `MultiTaskTrainingArguments`.

    Raises:
        ValueError: A number is outside its range.
    """
    for name, (least, greatest) in _RANGES.items():
        value = getattr(arguments, name)
        if value is None:
            continue
        above, below = name in _ABOVE, name in _BELOW
        # A NaN is in no range.
        fits = (least < value if above else least <= value) and (value < greatest if below else value <= greatest)
        if not fits or math.isinf(value):
            low = f"above {least:,}" if above else f"at least {least:,}"
            high = f"below {greatest:,}" if below else f"at most {greatest:,}" if greatest < math.inf else "finite"
            raise ValueError(f"`training.{name}` is {value}; it is {low} and {high}.")
        if name in _SHARE_OR_STEPS and value > 1 and value != int(value):
            raise ValueError(f"`training.{name}` is {value}; it is a fraction below 1, or an integer number of steps.")
    if arguments.max_steps != -1 and not 1 <= arguments.max_steps <= _STEPS:
        raise ValueError(
            f"`training.max_steps` is {arguments.max_steps}; it is at least 1 and at most {_STEPS:,}, or -1 to train"
            " for `num_train_epochs`."
        )
