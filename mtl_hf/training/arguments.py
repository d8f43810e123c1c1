"""Training arguments: all fields of transformers' `TrainingArguments`, our own, and defaults for several tasks.

Notable: `precision` sets `bf16`, `fp16` and `use_cpu` together, because transformers accepts bf16 on a CPU only with
`use_cpu`. Settings that would silently train something else here are errors, which name the setting to use.
"""

import dataclasses
import logging
import os
import re
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import DynamoBackend
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy

from ..config import OurTraining, Thawing, check_keys, nearest, option, plain, typed
from ..metrics import LOSS_LIKE, primary_metric, score_weight
from ..tasks import TaskData
from .balancing import check_balancing
from .choices import read_choice
from .frozen_states import check_cache
from .gradients import check_aggregation
from .optimizer import check_rates
from .processes import is_first_process
from .progress import shows_bars
from .ranges import check_numbers
from .sampling import check_sampling
from .thawing import check_thawing
from .wrappers import check_fsdp_device, check_single_gradients, requested_wrapper

logger = logging.getLogger(__name__)


@dataclass
class MultiTaskTrainingArguments(OurTraining, TrainingArguments):
    """transformers' `TrainingArguments` with other defaults and the fields of `config.OurTraining`."""

    eval_strategy: str = option("when to evaluate: no, steps or epoch (auto: like save_strategy, else epoch)", "auto")
    save_strategy: str = option("when to save: no, steps, epoch or best (auto: like eval_strategy, else epoch)", "auto")
    save_steps: float | None = option("steps between checkpoints (default: eval_steps, else 500)", None)  # type: ignore[assignment]
    save_total_limit: int | None = option("maximum number of checkpoints to keep", 2)
    load_best_model_at_end: bool | None = option(  # type: ignore[assignment]
        "whether to load the best checkpoint at the end (default: if every checkpoint is evaluated)",
        None,
    )
    metric_for_best_model: str | None = option("metric that selects the best checkpoint", "score")
    logging_steps: float = option("steps between two training logs", 50)
    per_device_eval_batch_size: int = option("batch size of evaluation, per process", 64)
    restore_callback_states_from_checkpoint: bool = option("whether --resume also restores callbacks", True)
    hub_strategy: HubStrategy | str = option("when to push if push_to_hub is set; only `end` is supported", "end")

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.output_dir == "":
            raise ValueError("`training.output_dir` is empty; set it to a folder.")
        if isinstance(self.freeze, str):
            raise ValueError(f"`freeze` is {self.freeze!r}; it should be a list, such as [{self.freeze}].")
        notes = self._derive_strategies()
        if self.unfreeze is not None:
            self.unfreeze = typed(Thawing, self.unfreeze, "training.unfreeze")
            check_thawing(self.unfreeze, self.freeze, self.eval_strategy, self.early_stopping_patience)
        if self.frozen_cache is not None:
            check_cache(
                self.frozen_cache,
                self.freeze,
                self.unfreeze,
                bool(self.gradient_checkpointing or self.activation_checkpointing),
            )
        check_rates(
            self.learning_rates,
            layerwise_lr_decay=self.layerwise_lr_decay,
            head_learning_rate=self.head_learning_rate,
        )
        check_sampling(self)
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError("`early_stopping_patience` needs evaluations: set `eval_strategy` to epoch or steps.")
        if self.keep_best_per_task and "no" in (self.eval_strategy, self.save_strategy):
            raise ValueError(
                "`keep_best_per_task` needs evaluations and checkpoints: `eval_strategy` or `save_strategy` is no."
            )
        check_balancing(self.loss_balancing)
        if self.gradient_aggregation is not None:
            check_aggregation(self.gradient_aggregation, self.policy, self.loss_balancing)
        self._refuse()
        self._set_precision()
        wrapper = requested_wrapper(self)
        check_single_gradients(wrapper, self.fp16, self._reads_gradients())
        if wrapper == "DeepSpeed":
            notes.append(
                "DeepSpeed sums gradients in another order: steps equal those of other runs only up to rounding."
            )
        self.remove_unused_columns = False  # it would remove columns that the collator needs
        self.label_names = ["labels"]
        self.logging_nan_inf_filter = False  # a NaN stops the run instead, with the task's name
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # in most steps some heads are not used
        if self.disable_tqdm is None and not shows_bars():
            self.disable_tqdm = True
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            # transformers assumes that higher is better for every name that does not end in "loss"
            self.greater_is_better = not self.metric_for_best_model.endswith(("loss", *LOSS_LIKE))
        check_fsdp_device(wrapper, self.use_cpu)
        super().__post_init__()
        backend, valid = self.torch_compile_backend, [one.value.lower() for one in DynamoBackend]
        if self.torch_compile and str(backend).lower() not in valid:
            raise ValueError(f"`training.torch_compile_backend` is {backend!r}; valid are {', '.join(valid)}.")
        if is_first_process():
            for note in notes:
                logger.info("%s", note)
        self._refuse_reentrant()
        if self.push_to_hub:
            self.hub_model_id = self.hub_model_id or Path(self.output_dir or ".").absolute().name
            check_repo(self.hub_model_id, "training.hub_model_id")
        requested = int(os.environ.get("WORLD_SIZE", "1"))
        # `accelerate launch` sets these variables for several processes but starts only one if it sees a single device:
        # without this check, one process would train silently.
        lone = "WORLD_SIZE" not in os.environ and "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ
        if requested != self.world_size or lone:
            raise ValueError(
                f"the launcher should start {requested if not lone else 'several'} processes but started"
                f" {self.world_size}: use `accelerate launch --config_file configs/accelerate/cpu.yaml` (or"
                " multi_gpu.yaml), or `accelerate launch --multi_gpu --num_processes N`, which also works on CPUs."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"this process sees {self.n_gpu} GPUs; each process must use one GPU: start with `accelerate launch"
                " --config_file configs/accelerate/multi_gpu.yaml`, or choose one with CUDA_VISIBLE_DEVICES=0."
            )

    def _derive_strategies(self) -> list[str]:
        """Set `eval_strategy`, `save_strategy`, `save_steps` and `load_best_model_at_end` if they are not given.

        Returns:
            Sentences about values that were derived from other settings.

        Raises:
            ValueError: An unknown strategy, or values that cannot be combined.
        """
        kinds: dict[str, Any] = {"eval_strategy": IntervalStrategy, "save_strategy": SaveStrategy}
        for name, kind in kinds.items():
            valid = [one.value for one in kind]
            value = getattr(self, name)
            value = value.value if isinstance(value, kind) else value
            if value not in ("auto", *valid):
                raise ValueError(f"`training.{name}` is {value!r}; valid are {', '.join(valid)}.")
            setattr(self, name, value)
        notes = []
        given = {"eval": self.eval_steps, "save": self.save_steps}
        if self.eval_strategy == "auto":
            # `no` and `best` are not copied: evaluation is useful without checkpoints, and `best` needs evaluation.
            self.eval_strategy = self.save_strategy if self.save_strategy in ("steps", "epoch") else "epoch"
            if self.save_strategy == "steps":
                self.eval_steps = self.eval_steps or self.save_steps or 500
                notes.append("`eval_strategy` is set to steps, like `save_strategy`.")
        if self.save_strategy == "auto":
            self.save_strategy = self.eval_strategy if self.eval_strategy != "no" else "epoch"
            if self.eval_strategy == "steps":
                notes.append("`save_strategy` is set to steps, like `eval_strategy`.")
        if self.save_steps is None:
            both_in_steps = self.eval_strategy == self.save_strategy == "steps"
            self.save_steps = (self.eval_steps or self.logging_steps) if both_in_steps else 500
        for name, strategy in (("eval", self.eval_strategy), ("save", self.save_strategy)):
            if given[name] is not None and strategy != "steps":
                notes.append(
                    f"`{name}_steps` has no effect because `{name}_strategy` is {strategy}: set"
                    f" `{name}_strategy: steps`."
                )
        meet = self.save_strategy in (self.eval_strategy, "best") and self.eval_strategy != "no"
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = meet
            if not meet:
                notes.append(
                    f"`load_best_model_at_end` is set to false because `eval_strategy` is {self.eval_strategy} and"
                    f" `save_strategy` is {self.save_strategy}: the run ends with its last weights."
                )
        elif self.load_best_model_at_end and not meet:
            raise ValueError(
                f"`eval_strategy` is {self.eval_strategy} and `save_strategy` is {self.save_strategy}; with"
                " `load_best_model_at_end` they must be the same: remove one of them, or set"
                " `load_best_model_at_end: false`."
            )
        return notes

    def _reads_gradients(self) -> dict[str, bool]:
        """Setting that reads the gradients of single tasks → whether it is used."""
        aggregation = self.gradient_aggregation
        return {
            "loss_balancing": read_choice("training.loss_balancing", self.loss_balancing)[0] != "static",
            "gradient_aggregation": aggregation is not None
            and read_choice("training.gradient_aggregation", aggregation)[0] != "Sum",
            "log_gradient_conflicts": bool(self.log_gradient_conflicts),
        }

    def to_dict(self) -> dict[str, Any]:
        """Like the stock method, with our sections as plain data."""
        fields = super().to_dict()
        return {name: plain(value) if dataclasses.is_dataclass(value) else value for name, value in fields.items()}

    def _refuse(self) -> None:
        refused = {
            "label_smoothing_factor": (self.label_smoothing_factor != 0, "set `tasks.<name>.label_smoothing`"),
            "dataloader_drop_last": (
                self.dataloader_drop_last,
                "no rows are dropped: batch sizes differ by at most one",
            ),
            "batch_eval_metrics": (self.batch_eval_metrics, "tasks are always scored over all rows"),
            "resume_from_checkpoint": (
                self.resume_from_checkpoint is not None,
                "use `--resume` (`resume=True` in Python) to continue from the newest checkpoint",
            ),
            "hub_strategy": (
                self.hub_strategy != "end",
                "a run is pushed only at its end; earlier pushes would include the optimiser state",
            ),
            "hub_always_push": (self.hub_always_push, "a run is pushed once, at its end"),
            "enable_jit_checkpoint": (
                self.enable_jit_checkpoint,
                "it saves within a step, from which a run cannot continue exactly; set `save_steps`",
            ),
            "auto_find_batch_size": (self.auto_find_batch_size, "set `sources.<name>.batch_size`"),
            "train_sampling_strategy": (
                self.train_sampling_strategy != "random",
                "batches always group rows of similar length; set `policy` for the order of sources",
            ),
        }
        for name, (given, instead) in refused.items():
            if given:
                raise ValueError(f"`training.{name}` is not supported: {instead}.")

    def _refuse_reentrant(self) -> None:
        """Refuse reentrant activation checkpointing (an option of transformers) if encoder gradients are read."""
        kwargs = self.activation_checkpointing_kwargs or {}
        if not (self.activation_checkpointing and isinstance(kwargs, dict) and kwargs.get("use_reentrant")):
            return
        readers = {
            "loss_balancing: gradnorm": read_choice("training.loss_balancing", self.loss_balancing)[0] == "gradnorm",
            "log_gradient_conflicts": bool(self.log_gradient_conflicts),
        }
        for setting, given in readers.items():
            if given:
                raise ValueError(
                    f"`{setting}` needs gradients of the encoder, which `activation_checkpointing_kwargs:"
                    " {use_reentrant: true}` does not provide: remove `use_reentrant`; the default is exact."
                )

    def _set_precision(self) -> None:
        given = [name for name in ("bf16", "fp16") if getattr(self, name)]
        if len(given) == 2:
            raise ValueError("`training.bf16` and `training.fp16` cannot both be set.")
        if given and self.precision == "auto":
            self.precision = "bf16" if self.bf16 else "fp16"
        elif given and given != [self.precision]:
            raise ValueError(f"`training.{given[0]}` and `training.precision: {self.precision}` contradict each other.")
        on_cpu = self.use_cpu or not torch.accelerator.is_available()
        if on_cpu:
            self.use_cpu = True
            self.dataloader_pin_memory = False
        if self.precision == "auto":
            self.precision = best_precision(on_cpu)
        if self.precision == "fp16" and on_cpu:
            raise ValueError("`training.precision` is fp16, which needs a GPU; valid here are bf16 and fp32.")
        self.bf16, self.fp16 = self.precision == "bf16", self.precision == "fp16"


def check_repo(repo: str, where: str) -> None:
    """Raise `ValueError` if `repo`, the value of the parameter `where`, is not a valid repository name."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"`{where}` is {repo!r}; it is owner/name, or a name in your own account. {error}") from None


def best_precision(on_cpu: bool) -> Literal["bf16", "fp16", "fp32"]:
    """bf16 if the hardware supports it, else fp16 on a CUDA GPU and fp32 on other devices."""
    if on_cpu:
        units = torch.cpu.get_capabilities()
        return "bf16" if units.get("avx512_bf16") or units.get("amx_bf16") or units.get("bf16") else "fp32"
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def choose_best_metric(
    args: MultiTaskTrainingArguments, tasks: Mapping[str, TaskData], names: Collection[str], *, trains: bool
) -> None:
    """Check `metric_for_best_model`; for a single task that only has a loss, set it to that loss, in place.

    Args:
        args: The arguments.
        tasks: Task name → task.
        names: Metrics that evaluations log, without `eval_`.
        trains: Whether anything is trained, so that there is a checkpoint to choose.

    Raises:
        ValueError: The metric is not logged, or there are several tasks and none counts for the score.
    """
    best = (args.metric_for_best_model or "score").removeprefix("eval_")
    if best not in names:
        raise ValueError(
            f"`training.metric_for_best_model` is {best!r}.{nearest(best, names)} Valid are: {', '.join(names)}."
        )
    counted = any(score_weight(task) for task in tasks.values())
    if args.metric_for_best_model != "score" or counted or not trains:
        return
    if len(tasks) > 1:
        raise ValueError(
            "the primary metric of every trained task is a loss, so there is no score to choose a checkpoint by: set"
            " a `score_weight`, another first metric, or `training.metric_for_best_model`."
        )
    (only,) = tasks.values()
    args.metric_for_best_model, args.greater_is_better = f"{only.name}_{primary_metric(only)}", False


def type_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of the `training:` section to their types, without checking combinations.

    Raises:
        ValueError: Unknown key, or wrong type.
    """
    names = [item.name for item in dataclasses.fields(MultiTaskTrainingArguments) if item.init]
    check_keys(section, names, "training")
    hints = typing.get_type_hints(MultiTaskTrainingArguments)
    return {key: typed(hints[key], value, f"training.{key}") for key, value in section.items()}


def read_arguments(section: Mapping[str, Any]) -> tuple[MultiTaskTrainingArguments, dict[str, Any]]:
    """Parse and check the `training:` section.

    Returns:
        The arguments, and the section with typed values.

    Raises:
        ValueError: Unknown key, wrong type, or a value that transformers refuses.
    """
    values = type_arguments(section)
    try:
        arguments = MultiTaskTrainingArguments(**values)
    except _REFUSALS as error:
        message = " ".join(str(error).split())
        if isinstance(error, ValueError) and any(re.search(rf"`(training\.)?{name}\b", message) for name in values):
            raise
        try:
            MultiTaskTrainingArguments()
        except ValueError as other:
            if str(other) == str(error):  # caused by how the run was launched
                raise error from None
        raise ValueError(f"`training{_culprit(values)}`: {message}") from error
    return arguments, {key: plain(value) for key, value in values.items()}


# Errors of transformers and its dependencies for invalid values.
_REFUSALS = (ValueError, TypeError, AttributeError, LookupError, OSError, ImportError, RuntimeError)


def _culprit(values: dict[str, Any]) -> str:
    """`.<name>` of the value without which the arguments are valid; empty if there is no such value."""
    for name in values:
        try:
            MultiTaskTrainingArguments(**{key: value for key, value in values.items() if key != name})
        except _REFUSALS:
            continue
        return f".{name}"
    return ""
