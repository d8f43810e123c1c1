"""`MultiTaskTrainer`: transformers' Trainer with the overrides that training several tasks needs.

Notable: the loss of a task in a step is its mean over all labelled items of that step, over micro-batches and
processes, so one batch of 8, four of 2, and two processes with 4 take the same step. Batches are already split per
process, so accelerate must not shard the loader again. Evaluation iterates over sources, predicts each row once and
scores every task from these predictions.
"""

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import datasets
import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from transformers.trainer_pt_utils import get_model_param_count
from transformers.trainer_utils import seed_worker

from ..data.collator import Collator, EncodedRows, maskings, row_lengths
from ..data.rows import EncodedSplit, trainable_rows
from ..metrics import (
    flatten,
    load_metrics,
    logged_names,
    primary_metric,
    try_metrics,
)
from ..modeling.configuration_multitask import MultiTaskConfig
from ..modeling.modeling_multitask import MultiTaskModel
from ..tasks import TaskData
from .arguments import MultiTaskTrainingArguments, choose_best_metric
from .balancing import make_balancing
from .checkpoints import run_settings
from .clipping import clip, norm_groups, warn_of_clipping
from .conflicts import make_conflict_log
from .features import Feature, Step
from .freezing import make_freezing
from .frozen_states import make_frozen_states
from .gradients import make_aggregation, steps_of_a_round
from .optimizer import (
    check_frozen_rates,
    decayed_parameters,
    find_parts,
    parameter_groups,
    rates_now,
    set_learning_rates,
)
from .peaks import make_best_steps
from .processes import report_lost_process
from .progress import LogSums, ScoreProgressCallback
from .raw_text import RawTextScorer, score_raw_texts
from .resumable import ResumableTrainer
from .sampling import build_schedule, check_batches, rows_table
from .scoring import Scorer
from .thawing import Thaw, ThawingPlan, make_thaw
from .wrappers import check_wrapper, requested_wrapper, wrapper_of

logger = logging.getLogger(__name__)

# Functions that create the trainer's features, in the order in which these are created and their hooks are called.
# Freezing comes first, then unfreezing, because the others depend on which parts are trained.
FEATURES: tuple[Callable[["MultiTaskTrainer"], Feature | None], ...] = (
    make_freezing,
    make_thaw,
    make_frozen_states,
    make_balancing,
    make_aggregation,
    make_conflict_log,
    make_best_steps,
)


class MultiTaskTrainer(ResumableTrainer):
    """Train a `MultiTaskModel` on one or several sources, and score every task.

    Args:
        model: The model, with a head for each task.
        args: The training arguments.
        tasks: Task name → task (`data.labels.build_tasks`).
        train_dataset: Source → encoded training rows (`data.rows.encode_rows`), in the order of turns. Rows without any
            label are left out, unless there is a `batch_sampler`, which refers to rows by number.
        eval_dataset: Source → encoded rows with their gold labels.
        batch_sizes: Source → global batch size; by default `per_device_train_batch_size` × processes.
        balance: Source → task with one label per row, each of whose labels gives the same number of rows per epoch.
        batch_sampler: Replaces the schedule of `args.policy`. Yields this rank's row numbers over all sources, one
            batch of one source at a time (for `masked_lm` as `data.schedule.Batch`), in which at least one row has a
            label; has `set_epoch` and `__len__`. A resumed run compares only the name of its class.
        processing_class: The tokenizer, saved with every checkpoint.
        callbacks: Additional callbacks; those that are a `features.Feature` get all hooks of a feature.

    Raises:
        ValueError: `args.freeze` matches nothing or everything, or leaves a task nothing to train; no task counts for
            the score; a metric is unknown; `args.loss_balancing` or `args.gradient_aggregation` does not fit the tasks;
            or an adapter cannot be trained.
    """

    # Losses arrive as means over the whole step, so that nothing is left to divide.
    loss_is_scaled_for_ga = True

    args: MultiTaskTrainingArguments
    model: MultiTaskModel

    def __init__(
        self,
        model: MultiTaskModel,
        args: MultiTaskTrainingArguments,
        *,
        tasks: Mapping[str, TaskData],
        train_dataset: Mapping[str, datasets.Dataset] | None = None,
        eval_dataset: Mapping[str, EncodedSplit] | None = None,
        batch_sizes: Mapping[str, int] | None = None,
        balance: Mapping[str, str] | None = None,
        batch_sampler: Sampler[list[int]] | None = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.tasks = dict(tasks)
        self.extra_metrics = load_metrics(tasks)
        try_metrics(tasks, self.extra_metrics, {name: split.gold for name, split in (eval_dataset or {}).items()})
        choose_best_metric(args, tasks, logged_names(tasks, self.extra_metrics), trains=bool(train_dataset))
        self.parts = find_parts(model)
        own_rates = {name: task.config.learning_rate for name, task in tasks.items()}
        set_learning_rates(
            self.parts,
            learning_rate=args.learning_rate,
            layerwise_lr_decay=args.layerwise_lr_decay,
            head_learning_rate=args.head_learning_rate,
            task_learning_rates=own_rates,
            learning_rates=args.learning_rates,
        )
        sources: dict[str, dict[str, str]] = {}
        for name, task in tasks.items():
            for source in task.config.sources if task.config.train else ():
                sources.setdefault(source, {})[name] = task.type
        if train_dataset and batch_sampler is None:
            trained_tasks = {name: task for name, task in tasks.items() if task.config.train}
            train_dataset = {name: trainable_rows(name, rows, trained_tasks) for name, rows in train_dataset.items()}
        if args.gradient_aggregation is not None and train_dataset:
            args.gradient_accumulation_steps = steps_of_a_round(len(train_dataset), args.gradient_accumulation_steps)
        tokenizer = processing_class if processing_class is not None else model.tokenizer
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(sources, tokenizer.pad_token_id, maskings(tasks, tokenizer)),
            train_dataset=EncodedRows(train_dataset) if train_dataset else None,
            # Only for the stock check that there is one: `evaluate` uses `eval_splits`.
            eval_dataset=dict(eval_dataset) if eval_dataset else None,
            processing_class=tokenizer,
            callbacks=[
                *([EarlyStoppingCallback(args.early_stopping_patience)] if args.early_stopping_patience else []),
                *(callbacks or []),
            ],
        )
        self.eval_splits = dict(eval_dataset or {})
        for stock in (ProgressCallback, PrinterCallback):
            self.remove_callback(stock)
        self.add_callback(ScoreProgressCallback({name: primary_metric(task) for name, task in tasks.items()}))
        self.batch_sizes = {
            source: (batch_sizes or {}).get(source) or args.per_device_train_batch_size * args.world_size
            for source in train_dataset or {}
        }
        check_batches(tasks, self.batch_sizes, args.world_size)
        self.batch_sampler = batch_sampler
        self.balance = dict(balance or {})
        if batch_sampler is not None and self.balance:
            raise ValueError("`balance` needs the schedule of `args.policy`: leave out `batch_sampler`.")
        if batch_sampler is None and train_dataset:
            rows = cast(EncodedRows, self.train_dataset)
            labels = {source: rows.labels(source, task) for source, task in self.balance.items()}
            self.batch_sampler = build_schedule(args, rows.lengths(), self.batch_sizes, labels)
        self.loss_weights = {name: task.config.loss_weight for name, task in tasks.items()}
        for make in FEATURES:
            if feature := make(self):
                self.add_callback(feature)
        # At this point, parts that are unfrozen later count as trained.
        check_frozen_rates(self.parts, args.learning_rates, own_rates if train_dataset else {})
        if train_dataset and any(part.shared and not part.frozen for part in self.parts):
            warn_of_clipping(args, tasks, len(train_dataset))
        self.step: Step | None = None  # the current step
        self._step_began = False
        self._since_log = LogSums(list(tasks))
        self._step_started = 0.0
        self._scored: Callable[..., None] | None = None  # called with each predicted batch

    # ---- the schedule ----

    @property
    def train_rows(self) -> dict[str, datasets.Dataset]:
        """Source → its encoded training rows; empty if nothing is trained."""
        return self.train_dataset.sources if isinstance(self.train_dataset, EncodedRows) else {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of the schedule's batches.

        Batches are already split per process, so `num_processes=1` keeps accelerate from sharding the loader again.
        accelerate's loader is still used because it passes `set_epoch` to the schedule, also when resuming mid-epoch.
        """
        if self.train_dataset is None:
            raise ValueError("training needs a `train_dataset`.")
        for feature in self.features:
            feature.before_training(cast(EncodedRows, self.train_dataset))
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.steps_an_epoch() * self.args.num_train_epochs)

    def steps_an_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        assert self.batch_sampler is not None
        batches = len(self.batch_sampler)  # type: ignore[arg-type]
        return math.ceil(batches / self.args.gradient_accumulation_steps)

    # ---- features ----

    @property
    def thawing(self) -> ThawingPlan | None:
        """The plan of `args.unfreeze`."""
        return next((feature.plan for feature in self.features if isinstance(feature, Thaw)), None)

    def note_opened(self, opened: list[str]) -> None:
        """Log the parts that were unfrozen, and reset early stopping."""
        self.log({f"opened_{name}": 1.0 for name in opened})
        for callback in self._early_stopping():
            callback.early_stopping_patience_counter = 0

    def _forward(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        """Run the forward pass, inside the contexts of all features."""
        with ExitStack() as contexts:
            for feature in self.features:
                contexts.enter_context(feature.around_forward(inputs))
            return model(**inputs)

    # ---- checkpoints ----

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All settings that affect further training (`checkpoints.run_settings`)."""
        return run_settings(
            cast(MultiTaskConfig, self.model.config),
            self.tasks,
            self.train_rows,
            self.eval_splits,
            self.batch_sizes,
            type(self.batch_sampler).__name__,
            self.args.to_dict(),
            self.balance,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights, the saved state of features, and the number of steps of each head."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, spec in (MultiTaskConfig.from_pretrained(resume_from_checkpoint).heads or {}).items():
            self.model.config.heads[name]["num_steps"] = spec["num_steps"]

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether to save with `save_strategy: best`: if the score is at its best or, if requested, that of a task."""
        is_best = super()._determine_best_metric(metrics, trial)
        if self.state.global_step in self.steps_to_keep():
            self.control.should_save = is_best = True
        return is_best

    # ---- the wrapper ----

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Like the stock method; also checks that one feature at most replaces the backward pass, and the wrapper."""
        own_backward = [type(feature).__name__ for feature in self.features if feature.own_backward]
        if len(own_backward) > 1:
            raise ValueError(f"{' and '.join(own_backward)} both replace the backward pass: remove one of them.")
        prepared = super()._prepare_for_training(*args, **kwargs)
        check_wrapper(requested_wrapper(self.args), wrapper_of(self.model_wrapped))
        return prepared

    # ---- the loss ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Fetch the micro-batches of a step, and add the step's number of labelled items per task to each.

        DDP averages gradients over processes, so dividing by `items / processes` gives the mean over all items.
        """
        self._step_started = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = dict.fromkeys(self.tasks, 0.0)
        for batch in batches:
            if not batch["labels"]:
                raise ValueError(
                    f"a batch of step {self.state.global_step + 1} has no label of any task on rank"
                    f" {self.args.process_index}: `batch_sampler` must leave out rows without labels"
                    " (see `data.rows.trainable_rows`)."
                )
            for name, number in batch.pop("num_items").items():
                counts[name] += number
            self._since_log.labelled_rows += batch.pop("num_labelled_rows")
        num_items = counts
        if self.accelerator.num_processes > 1:
            vector = torch.tensor(list(counts.values()), dtype=torch.float64, device=device)
            mean = self.accelerator.reduce(vector, "sum").cpu() / self.accelerator.num_processes
            num_items = dict(zip(counts, mean.tolist(), strict=True))
        for name, number in num_items.items():
            if number and not counts[name] and self.is_fsdp_enabled:
                # FSDP reduces all gradients of a rank at once: gradients of different sizes hang or get mixed up.
                raise ValueError(
                    f"task {name!r} has labels in step {self.state.global_step + 1}, but none on rank"
                    f" {self.args.process_index}, which FSDP does not support: use configs/accelerate/multi_gpu.yaml, a"
                    " larger batch, or rows that all have a label."
                )
            if number:
                self._since_log.add_step(name)
                self.model.config.heads[name]["num_steps"] += 1
        for batch in batches:
            batch["num_items"] = num_items
        self.step = Step(
            number=self.state.global_step + 1,
            epoch=int(self.state.epoch or 0),
            tasks=[name for name, number in num_items.items() if number],
            loss_weights=dict(self.loss_weights),
        )
        self._step_began = False
        return batches, None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The weighted sum of the losses of the tasks with a label in this micro-batch; other heads do not run."""
        assert self.step is not None
        own_backward = [feature for feature in self.features if feature.own_backward]
        if own_backward:
            model = self.model  # outside DDP, which averages one gradient per parameter
        outputs = self._forward(model, {**inputs, "heads": tuple(inputs["labels"])})
        weighted = {}
        for name, loss in outputs.losses.items():
            if not torch.isfinite(loss):
                self.stop(f"the loss of task {name!r} is {loss.item()} in step {self.step.number}")
            self._since_log.add_loss(name, loss)
            for feature in self.features:
                feature.add_loss(name, loss)
            weighted[name] = self.step.loss_weights[name] * loss
        total = torch.stack(list(weighted.values())).sum()
        for feature in own_backward:
            feature.backward(weighted, self.accelerator.backward)
            total = total.detach().requires_grad_()  # its backward pass is already done
        return (total, outputs) if return_outputs else total

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run forward and backward of a micro-batch; after the last one of a step, call the features' `end_step`."""
        assert self.step is not None
        if not self._step_began:  # not earlier: callbacks unfreeze parts after a step's batches are fetched
            for feature in self.features:
                feature.begin_step(self.step)
            self._step_began = True
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            for feature in self.features:
                feature.end_step(self.step)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 × tokens × parameters in use, without embeddings; parameters are counted once, not per micro-batch."""
        if not hasattr(self, "_flops_a_token"):
            self._flops_a_token = 6 * self.model.encoder.num_parameters(exclude_embeddings=True)
        return int(inputs["input_ids"].numel() * self._flops_a_token)

    # ---- the optimiser ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimiser of `optim`, with parameter groups for each part of the model."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(self.parts, decayed_parameters(self.model), self.args.weight_decay)
            learned = [group for feature in self.features for group in feature.parameter_groups()]
            self.optimizer = optimizer_class([*groups, *learned], **options)
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Like the stock method, but independent groups of parameters are clipped separately (see `clipping`)."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        groups = norm_groups(self.model)
        if len(groups) == 1 and self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return clip(groups, self.args.max_grad_norm)

    @property
    def frozen_heads(self) -> list[str]:
        """Tasks whose head is not trained: with `train: false`, or frozen."""
        frozen = {part.name for part in self.parts if part.frozen}
        return [name for name, task in self.tasks.items() if not task.config.train or f"heads.{name}" in frozen]

    def learning_rates(self) -> dict[str, float]:
        """Currently trained part → its current learning rate."""
        return rates_now(self.parts, self.optimizer)

    # ---- the log ----

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._since_log.seconds += time.perf_counter() - self._step_started  # without evaluation
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add unweighted task losses, learning rates of parts, labelled rows per second and loss weights to a log.

        The final log also gets the number of trained parameters.
        """
        if "loss" in logs:
            rates = self.learning_rates()
            logs["learning_rate"] = max(rates.values())  # transformers logs that of the first group, the embeddings
            logs |= {f"lr_{name}": rate for name, rate in rates.items()}
            logs |= self._since_log.take(self.accelerator)
            for feature in self.features:
                logs |= feature.logs()
        elif "train_runtime" in logs:
            logs["trained_parameters"] = get_model_param_count(self.model, trainable_only=True)
        super().log(logs, start_time)

    # ---- evaluation ----

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: Mapping[str, EncodedSplit] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score every task; logs once for all sources, so that callbacks see the aggregate score.

        Returns:
            `<prefix>_score`, `<prefix>_<task>_<metric>` and `<prefix>_joint_<source>`.
        """
        started = time.perf_counter()
        results = self.score(eval_dataset, metric_key_prefix=metric_key_prefix)
        metrics = flatten(results, metric_key_prefix)
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - started, 4)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        """Like the stock method, with the number of the evaluation as step: other batch sizes have other steps."""
        number = sum("eval_runtime" in entry for entry in self.state.log_history)
        super()._report_to_hp_search(trial, number, metrics)

    @report_lost_process()
    def score(
        self,
        splits: Mapping[str, EncodedSplit] | None = None,
        *,
        intervals: bool = False,
        metric_key_prefix: str = "eval",
        keep_answers: dict[str, Any] | None = None,
        keep_logits: dict[str, dict[str, list[np.ndarray]]] | None = None,
        keep_heads: Sequence[str] | None = None,
        raw_texts: bool = False,
    ) -> dict[str, Any]:
        """Predict every source once and score every task.

        Args:
            splits: Source → rows; by default the evaluation rows.
            intervals: Whether to add intervals and baselines.
            metric_key_prefix: Prefix of the Trainer's own metrics.
            keep_answers: If given, filled with source → task → `metrics.Answers`.
            keep_logits: If given, filled with source → task in `keep_heads` → its outputs, one array per row.
            keep_heads: By default `frozen_heads`.
            raw_texts: Whether to score tasks of words as raw texts as well (`raw_text.score_raw_texts`).

        Returns:
            See `Scorer.results`; for heads with `layers: mix` also `layer_mix`: task → weight of the embeddings' output
            and of each layer.
        """
        splits = self.eval_splits if splits is None else splits
        if not splits:
            raise ValueError("there are no rows to score: give `eval_dataset`.")
        keep = () if keep_logits is None else self.frozen_heads if keep_heads is None else keep_heads
        length = self.model.config.max_length
        scorer = Scorer(self.tasks, self.extra_metrics, self.processing_class, length, keep)
        # Loaders draw a random seed when they start: evaluation must not change the random state of training.
        with torch.random.fork_rng(devices=[]):
            for source, split in splits.items():
                self.predict_source(scorer, source, split, metric_key_prefix)
                scorer.finish(source, split, gather_object if self.accelerator.num_processes > 1 else list)
        if keep_answers is not None:
            keep_answers.update(scorer.answers)
        if keep_logits is not None:
            keep_logits.update(scorer.outputs)
        results = scorer.results(intervals)
        if raw_texts:
            with torch.random.fork_rng(devices=[]):
                score_raw_texts(results, splits, scorer.answers, self)
        heads: Any = self.model.heads
        mixes = {name: heads[name].layer_mix for name in self.tasks}
        if found := {name: mix.weights().tolist() for name, mix in mixes.items() if mix is not None}:
            results["layer_mix"] = found
        for name, numbers in results["tasks"].items():
            if thresholds := self.model.config.heads[name].get("thresholds"):
                numbers["thresholds"] = dict(zip(self.tasks[name].labels, thresholds, strict=True))
        return results

    def predict_source(self, scorer: Scorer | RawTextScorer, source: str, split: EncodedSplit, prefix: str) -> None:
        """Predict the rows of a source; the scorer decodes each batch (its method `add`)."""
        # Longest first: little padding, and an out-of-memory error happens at once.
        order = np.argsort(-row_lengths(split.rows), kind="stable")
        rows = EncodedRows({source: split.rows.select(order)}, with_labels=False, numbers=order, heads=[*split.gold])
        if self.is_in_train and split is self.eval_splits.get(source):
            for feature in self.features:
                feature.before_evaluation(source, rows, order)
        loader = self.get_eval_dataloader(rows)
        self._scored = partial(scorer.add, split)
        try:
            output = self.evaluation_loop(loader, "Evaluation", prediction_loss_only=True, metric_key_prefix=prefix)
        finally:
            self._scored = None
        self.callback_handler.on_predict(self.args, self.state, self.control, output.metrics)  # closes the bar

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Predict a batch with each head of its source, and pass the outputs to the scorer."""
        inputs = self._prepare_inputs(inputs)
        rows = inputs.pop("rows").tolist()
        assert self._scored is not None
        with torch.no_grad():
            with self.compute_loss_context_manager():
                outputs = self._forward(model, dict(inputs))
            self._scored(rows, outputs, self.model.heads, inputs)
        return None, None, None


def train_rows_table(trainer: MultiTaskTrainer) -> str:
    """A table of the contribution of each source to the run (`sampling.rows_table`)."""
    rows = {name: len(own) for name, own in trainer.train_rows.items()}
    accumulation = trainer.args.gradient_accumulation_steps
    return rows_table(trainer.batch_sampler, rows, trainer.batch_sizes, trainer.num_steps(), accumulation)
