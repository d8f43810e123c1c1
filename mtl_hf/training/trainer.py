"""`MultiTaskTrainer`: the seams of transformers' Trainer that several tasks need, nothing else.

Notable, each at its place below: the loss of a task in a step is its mean over all labelled items of that step, over
micro-batches and processes, so that one batch of 8, four of 2, and two processes with 4 take the same step; the
schedule reaches the loader without accelerate dealing it out a second time; evaluation goes over sources, predicts each
row once and scores every task from that.
"""

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import datasets
import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
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

from ..data.collator import Collator, EncodedRows, row_lengths
from ..data.labels import TaskData
from ..data.masking import maskings
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
from .resumable import ResumableTrainer
from .sampling import build_schedule, check_ranked_batches, rows_table
from .scoring import Scorer, said_of_rows
from .thawing import Thaw, ThawingPlan, make_thaw
from .wrappers import check_wrapper, requested_wrapper, wrapper_of

logger = logging.getLogger(__name__)

# What makes the trainer's features, in the order in which they are made and in which their hooks are called. What is
# frozen comes first, then what opens later, since the others ask which parts are trained.
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
    """Train a `MultiTaskModel` on several sources that take turns, and score every task.

    Args:
        model: With a head for each task.
        args: Its arguments.
        tasks: Task name → task (`data.labels.build_tasks`).
        train_dataset: Source → encoded training rows (`data.rows.encode_rows`), in the order of their turns. Rows
            without a label of any task are left out, unless there is a `batch_sampler`, which numbers them.
        eval_dataset: Source → encoded rows with what they are scored against.
        batch_sizes: Source → rows of its global batch; by default `per_device_train_batch_size` × processes.
        batch_sampler: Instead of the schedule that `args.policy` names: yields this rank's row numbers over all
            sources, a batch of one source at a time (for `masked_lm` as `data.schedule.Batch`), of which a row at least
            has a label; has `set_epoch` and `__len__`. A resumed run knows it by the name of its class only.
        processing_class: The tokenizer, saved with every checkpoint.
        callbacks: More callbacks; those that are a `features.Feature` take part in every step.

    Raises:
        ValueError: `args.freeze` matches nothing or everything, or leaves a task nothing to train; no task counts for
            the score; an unknown metric; `args.loss_balancing` or `args.gradient_aggregation` does not fit the tasks;
            an adapter that cannot be trained.
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
            # Only for the check that there is one: `evaluate` goes over `eval_splits`.
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
        check_ranked_batches(tasks, self.batch_sizes, args.world_size)
        self.batch_sampler = batch_sampler
        if batch_sampler is None and train_dataset:
            self.batch_sampler = build_schedule(args, cast(EncodedRows, self.train_dataset).lengths(), self.batch_sizes)
        self.loss_weights = {name: task.config.loss_weight for name, task in tasks.items()}
        for make in FEATURES:
            if feature := make(self):
                self.add_callback(feature)
        # By now what opens later counts as trained.
        check_frozen_rates(self.parts, args.learning_rates, own_rates if train_dataset else {})
        if train_dataset and any(part.shared and not part.frozen for part in self.parts):
            warn_of_clipping(args, tasks, len(train_dataset))
        self.step: Step | None = None  # whose batches were taken last
        self._step_began = False
        self._since_log = LogSums(list(tasks))
        self._step_started = 0.0

    # ---- the schedule ----

    @property
    def train_rows(self) -> dict[str, datasets.Dataset]:
        """Source → the encoded rows that are trained on; empty where nothing is trained."""
        return self.train_dataset.sources if isinstance(self.train_dataset, EncodedRows) else {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The schedule's batches, of which each rank already yields its slice.

        `num_processes=1` keeps accelerate from sharding them once more; its own loader is still used, because through
        it `set_epoch` reaches the schedule both fresh and resumed in mid-epoch.
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
        """Log the parts that were opened, and let early stopping wait for what they do."""
        self.log({f"opened_{name}": 1.0 for name in opened})
        for callback in self._early_stopping():
            callback.early_stopping_patience_counter = 0

    def _forward(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        """One pass through the model, inside the contexts of all features."""
        with ExitStack() as contexts:
            for feature in self.features:
                contexts.enter_context(feature.around_forward(inputs))
            return model(**inputs)

    # ---- checkpoints ----

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides what training does next (`checkpoints.run_settings`)."""
        return run_settings(
            cast(MultiTaskConfig, self.model.config),
            self.tasks,
            self.train_rows,
            self.eval_splits,
            self.batch_sizes,
            type(self.batch_sampler).__name__,
            self.args.to_dict(),
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Weights, what features have saved, and how many steps each head has had."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, spec in (MultiTaskConfig.from_pretrained(resume_from_checkpoint).heads or {}).items():
            self.model.config.heads[name]["num_steps"] = spec["num_steps"]

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether to save under `save_strategy: best`: the aggregate is at its best or, where asked for, some task."""
        is_best = super()._determine_best_metric(metrics, trial)
        if self.state.global_step in self.steps_to_keep():
            self.control.should_save = is_best = True
        return is_best

    # ---- the wrapper ----

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock one; two backward passes, and a model that is not wrapped as requested, are refused."""
        own_backward = [type(feature).__name__ for feature in self.features if feature.own_backward]
        if len(own_backward) > 1:
            raise ValueError(f"{' and '.join(own_backward)} both take the place of the backward pass: leave one out.")
        prepared = super()._prepare_for_training(*args, **kwargs)
        check_wrapper(requested_wrapper(self.args), wrapper_of(self.model_wrapped))
        return prepared

    # ---- the loss ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Take one step's micro-batches and give each the step's number of labelled items a task.

        DDP averages gradients over processes, so a sum over `items / processes` becomes the mean over all items.
        """
        self._step_started = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = dict.fromkeys(self.tasks, 0.0)
        for batch in batches:
            if not batch["labels"]:
                raise ValueError(
                    f"a batch of step {self.state.global_step + 1} has no label of any task on rank"
                    f" {self.args.process_index}: `batch_sampler` has to leave out rows without labels"
                    " (`data.rows.trainable_rows` does)."
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
                # FSDP reduces the gradients that a rank has, in one piece: pieces of different sizes hang or mix up.
                raise ValueError(
                    f"task {name!r} has labels in step {self.state.global_step + 1}, but none on rank"
                    f" {self.args.process_index}, which FSDP cannot train: use configs/accelerate/multi_gpu.yaml, a"
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
        """Weighted sum of the losses of the tasks with a label in this micro-batch; other heads are not run."""
        assert self.step is not None
        own_backward = [feature for feature in self.features if feature.own_backward]
        if own_backward:
            model = self.model  # outside of DDP, which knows one gradient a parameter
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
            total = total.detach().requires_grad_()  # from which nothing is left to backpropagate
        return (total, outputs) if return_outputs else total

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One micro-batch, forward and backward; after the last one of a step, what looks at all of it."""
        assert self.step is not None
        if not self._step_began:  # not before: callbacks open frozen parts after a step's batches are taken
            for feature in self.features:
                feature.begin_step(self.step)
            self._step_began = True
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            for feature in self.features:
                feature.end_step(self.step)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 × tokens × parameters that take part, embeddings left out; counted once, not at every micro-batch."""
        if not hasattr(self, "_flops_a_token"):
            self._flops_a_token = 6 * self.model.encoder.num_parameters(exclude_embeddings=True)
        return int(inputs["input_ids"].numel() * self._flops_a_token)

    # ---- the optimiser ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW (or what `optim` says) with a group for each part of the model."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(self.parts, decayed_parameters(self.model), self.args.weight_decay)
            learned = [group for feature in self.features for group in feature.parameter_groups()]
            self.optimizer = optimizer_class([*groups, *learned], **options)
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """As the stock one, but parameters that share nothing do not share a norm (`clipping`)."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        groups = norm_groups(self.model)
        if len(groups) == 1 and self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return clip(groups, self.args.max_grad_norm)

    @property
    def frozen_heads(self) -> list[str]:
        """Tasks whose head stays as it is: with `train: false`, or frozen."""
        frozen = {part.name for part in self.parts if part.frozen}
        return [name for name, task in self.tasks.items() if not task.config.train or f"heads.{name}" in frozen]

    def learning_rates(self) -> dict[str, float]:
        """Part that is trained now → its learning rate now."""
        return rates_now(self.parts, self.optimizer)

    # ---- the log ----

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._since_log.seconds += time.perf_counter() - self._step_started  # of training alone
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add tasks' unweighted losses, parts' rates, our labelled rows a second, what losses are multiplied by.

        To the log of a run's end, how many parameters were trained.
        """
        if "loss" in logs:
            rates = self.learning_rates()
            logs["learning_rate"] = max(rates.values())  # transformers logs the first group's, here the embeddings'
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
        """Score every task; logged once, with all sources, so that callbacks see the aggregate score.

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
        """As the stock one, by the number of the evaluation: trials of other batch sizes share no steps."""
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
        keep_logits: dict[str, dict[str, np.ndarray]] | None = None,
    ) -> dict[str, Any]:
        """Predict every source once and score every task from that.

        Args:
            splits: Source → rows; by default those given for evaluation.
            intervals: Whether to add intervals and baselines.
            metric_key_prefix: Of the Trainer's own numbers.
            keep_answers: If given, filled with source → task → `metrics.Answers`.
            keep_logits: If given, filled with source → task in `frozen_heads` → its logits, an entry a row.

        Returns:
            As `Scorer.results`.
        """
        splits = self.eval_splits if splits is None else splits
        if not splits:
            raise ValueError("there are no rows to score: give `eval_dataset`.")
        scorer = Scorer(self.tasks, self.extra_metrics)
        # Loaders draw a seed when they start: evaluating must not change what training draws.
        with torch.random.fork_rng(devices=[]):
            for source, split in splits.items():
                predictions = self._predictions(source, split, metric_key_prefix)
                scorer.add(source, split, predictions)
                if keep_logits is not None:
                    keep_logits[source] = {name: predictions[name] for name in self.frozen_heads if name in split.gold}
        if keep_answers is not None:
            keep_answers.update(scorer.answers)
        return scorer.results(intervals)

    def _predictions(self, source: str, split: EncodedSplit, prefix: str) -> dict[str, np.ndarray]:
        """Task → what its head says of each row, in the order of the rows, as `said_of_rows` names it."""
        # Longest first: hardly any padding, and what does not fit in memory fails at once.
        order = np.argsort(-row_lengths(split.rows), kind="stable")
        rows = EncodedRows({source: split.rows.select(order)}, with_labels=False, numbers=order, heads=[*split.gold])
        if self.is_in_train and split is self.eval_splits.get(source):
            for feature in self.features:
                feature.before_evaluation(source, rows, order)
        loader = self.get_eval_dataloader(rows)
        output = self.evaluation_loop(loader, "Evaluation", prediction_loss_only=False, metric_key_prefix=prefix)
        self.callback_handler.on_predict(self.args, self.state, self.control, output.metrics)  # closes the bar
        predictions = cast(dict[str, np.ndarray], output.predictions)
        back = np.argsort(order)
        return {name: found[back] for name, found in predictions.items()}

    def prediction_step(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, dict[str, Tensor], None]:
        """What each head of the batch's source says of each row, and its mixture of experts there."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels") or {}
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self._forward(model, inputs)
        return None, said_of_rows(self.model.heads, outputs, labels), None


def train_rows_table(trainer: MultiTaskTrainer) -> str:
    """What each source contributes to the run (`sampling.rows_table`)."""
    rows = {name: len(own) for name, own in trainer.train_rows.items()}
    accumulation = trainer.args.gradient_accumulation_steps
    return rows_table(trainer.batch_sampler, rows, trainer.batch_sizes, trainer.num_steps(), accumulation)
