"""One run, from its config to a scored model. `run_multitask.py`, `mtl-hf train` and `mtl_hf.train` all use it.

Notable: config and data are checked completely before the first step; `dry_run` stops there.
"""

import argparse
import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import set_seed

from .command import add_train_arguments, parse, run_command
from .config import Model, RunConfig, resolve_path, typed
from .data.labels import build_tasks, check_scored, check_tasks, warn_of_labels
from .data.rows import EncodedSplit, encode_rows, report_cut
from .data.sources import load_sources
from .data.words import learn_word_rules
from .evaluation.evaluate import encode_split, write_metrics, write_results
from .evaluation.report import scores_table
from .evaluation.untrained import Answered, add_before, score_before, warn_of_drift
from .files import write_atomic
from .findings import for_each, report
from .hub.card import CARD, write_card
from .hub.push import CODE, push, reserve
from .metrics import add_intervals
from .modeling.adapters import adapter_config
from .modeling.modeling_multitask import MultiTaskModel
from .modeling.windows import WINDOW
from .modeling.words import split_words
from .saved.models import RUN_FILE
from .saved.start import Start, check_start, check_tokens, find_start, load_start, with_kept_options
from .tasks import Answers, SourceData, TaskData
from .tasks.arrow_columns import values_of
from .tasks.imbalance import balanced_tasks
from .training.arguments import MultiTaskTrainingArguments, read_arguments
from .training.checkpoints import (
    check_checkpoint,
    list_checkpoints,
    more_training,
    newest_checkpoint,
    remove_checkpoint,
    remove_leftovers,
)
from .training.conflict_report import CONFLICTS_FILE
from .training.locks import lock_folder
from .training.optimizer import parts_table, trained_share
from .training.processes import is_first_process, report_lost_process
from .training.progress import LOG, kept_log
from .training.sampling import balance_lines
from .training.thawing import thawing_table, warn_of_unreached
from .training.thresholds import check_thresholds, tune_thresholds
from .training.trainer import MultiTaskTrainer, train_rows_table

logger = logging.getLogger("mtl_hf.run")  # whose name would be `__main__` under `python -m`

# All files that a run writes into its folder; `overwrite` removes exactly these.
WRITTEN = (
    RUN_FILE, "metrics.json", "predictions.jsonl", "config.json", "model*.safetensors", "model.safetensors.index.json",
    "tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt",
    "training_args.bin", "trainer_state.json", "checkpoint-*", CARD, *CODE, CONFLICTS_FILE, LOG,
    "plots", "plots/*.png", "plots/*.svg",
    "evaluation/**/", "evaluation/**/metrics.json", "evaluation/**/predictions.jsonl", "evaluation/**/comparison.*",
)  # fmt: skip


@dataclass
class Run:
    """A run that is checked and ready to train.

    Attributes:
        config: The config, with typed training values.
        sources: Source → its rows and labels.
        train_rows: Source → encoded training rows, without rows that have no label.
        splits: `validation` and `test` → source → encoded rows with their gold labels.
        trainer: The trainer, with model, tasks and training rows.
    """

    config: RunConfig
    sources: dict[str, SourceData]
    train_rows: dict[str, datasets.Dataset]
    splits: dict[str, dict[str, EncodedSplit]]
    trainer: MultiTaskTrainer


def build(config: str | Path | Mapping[str, Any] | RunConfig, overrides: Sequence[str] = ()) -> Run:
    """Prepare a run up to the first step: load, check and encode the data, create the model and the trainer.

    Args:
        config: A YAML file, or a dict of the same form (whose sources may hold a `dataset`).
        overrides: `a.b=c` changes to the config.

    Raises:
        ValueError: The config or the data are not valid.
    """
    run = RunConfig.load(config, overrides)
    arguments, training = _check_settings(run)
    run = dataclasses.replace(run, training=training)
    if arguments.process_index:
        logging.getLogger("mtl_hf").setLevel(logging.ERROR)
    logger.info("World size %d, %s, %s.", arguments.world_size, arguments.device, arguments.precision)
    set_seed(arguments.seed)
    with arguments.main_process_first(desc="loading and encoding"):
        start = find_start(run)
        run = with_kept_options(run, start.heads) if start else run
        sources = load_sources(run)
        tasks = build_tasks(run, sources, start.vocabularies if start else None)
        if start:
            check_start(start, tasks, sources)
        model = build_model(run, tasks, start, resolve_options(tasks, sources))
        trained = {name: task for name, task in tasks.items() if task.config.train}
        _set_word_rules(model, learn_word_rules(trained, sources), start)
        train_rows = {
            name: _encode_training(source, trained, model)
            for name, source in sources.items()
            if any(name in task.config.sources for task in trained.values())
        }
        warn_of_labels(tasks, sources)
        splits = {
            split: {
                name: encode_split(source, split, tasks, model)
                for name, source in sources.items()
                if split in source.splits
            }
            for split in ("validation", "test")
        }
        final = final_split(splits)
        check_thresholds(tasks, splits["validation"])
        scored = {final} | ({"validation"} if arguments.eval_strategy != "no" else set())
        report(check_scored(tasks, sources, sorted(scored), arguments.metric_for_best_model))
        for name, task in tasks.items():
            if name not in trained and not any(source in splits[final] for source in task.config.sources):
                raise ValueError(f"`tasks.{name}.train` is false, but none of its sources has a {final} split to score"
                                 " it on: add one to a source, or remove the task.")  # fmt: skip
    try:
        trainer = MultiTaskTrainer(
            model,
            arguments,
            tasks=tasks,
            train_dataset=train_rows,
            eval_dataset=splits["validation"],
            batch_sizes={name: source.batch_size for name, source in run.sources.items() if source.batch_size},
            balance=balanced_tasks(run),
            processing_class=model.tokenizer,
        )
    except (ImportError, RuntimeError) as error:  # a field that needs a package which is not installed
        raise ValueError(f"`training`: {error}") from error
    trainer.publish = push
    later = {part.name for part in trainer.thawing.parts} if trainer.thawing else set()
    logger.info("%s\n%s\n", parts_table(trainer.parts, arguments.weight_decay, later), trained_share(trainer.parts))
    logger.info("%s\n%d optimiser steps.\n", train_rows_table(trainer), trainer.num_steps())
    for line in balance_lines(trainer.batch_sampler, trainer.balance, tasks):
        logger.info("%s", line)
    if trainer.thawing:
        logger.info("%s\n", thawing_table(trainer.thawing, trainer.num_steps()))
        warn_of_unreached(trainer.thawing, trainer.num_steps())
    _warn_of_frozen_tokens(run.model, model, later)
    _warn_of_cut_tokens(run.model, sources)
    warn_of_drift(trainer)
    return Run(run, sources, trainer.train_rows, splits, trainer)


def _check_settings(run: RunConfig) -> tuple[MultiTaskTrainingArguments, dict[str, Any]]:
    """Check everything that needs no data; return the training arguments, and their section with typed values."""
    peft = {key: value for key, value in (run.model.peft or {}).items() if key != "per_task"}
    checks: dict[str, Callable[[], Any]] = {
        "tasks": lambda: check_tasks(run),
        "sources": lambda: balanced_tasks(run),
        "training": lambda: read_arguments(run.training),
        "model.encoder": lambda: _check_encoder(run.model),
        "model.peft": lambda: None if run.model.peft is None else adapter_config(peft),
    }
    return for_each(checks, lambda name: checks[name]())["training"]


@report_lost_process()
def train(
    config: str | Path | Mapping[str, Any] | RunConfig,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Train, score and save one multi-task model; with `training.push_to_hub`, push it to the Hub as well.

    Args:
        config: A YAML file, or a dict of the same form (whose sources may hold a `dataset`).
        overrides: `a.b=c` changes to the config.
        dry_run: Check everything up to the first step, then stop.
        overwrite: Remove what an earlier run wrote into `output_dir`.
        resume: Continue from the newest complete checkpoint in `output_dir`, exactly as if the run had not been
            stopped. Starts from the beginning if there is no checkpoint yet.

    Returns:
        The content of `metrics.json`: the scores on the test split (on validation if no source has a test split).
        With `push_to_hub` also `pushed`: the URL, or None if the push failed (the reason is logged, the saved model is
        complete). With `dry_run`, the number of rows of each source and the number of steps.

    Raises:
        ValueError: The config or the data are not valid, the checkpoint was trained differently, or another run uses
            the folder.
        FloatingPointError: A loss is not finite.
        ConnectionError: Another process of the run has died.
    """
    config = RunConfig.load(config, overrides)
    folder = Path(typed(str | None, config.training.get("output_dir"), "training.output_dir") or "trainer_output")
    if overwrite and resume:
        raise ValueError("`overwrite` and `resume` cannot be combined: one removes the run that the other continues.")
    with kept_log() as log_to, contextlib.ExitStack() as held:
        if not dry_run and is_first_process():
            held.enter_context(lock_folder(folder, "training.output_dir"))
        return _train(config, folder, log_to, dry_run=dry_run, overwrite=overwrite, resume=resume)


def _train(
    config: RunConfig, folder: Path, log_to: Callable[[Path], None], *, dry_run: bool, overwrite: bool, resume: bool
) -> dict[str, Any]:
    """Like `train`; the caller holds the lock on the folder."""
    _check_folder(folder, overwrite or resume)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    run = build(config)
    trainer = run.trainer
    checkpoint = newest_checkpoint(folder) if resume else None
    if checkpoint:
        check_checkpoint(checkpoint, trainer.checkpoint_facts())
    elif resume and (folder / "metrics.json").exists():
        raise ValueError(
            f"`resume`: the run in {folder} is finished and has no checkpoint to continue from. Choose another folder,"
            f" or replace the run with --overwrite. {more_training(folder)}"
        )
    elif resume:
        logger.info("There is no complete checkpoint in %s yet: training starts from the beginning.", folder)
    if dry_run:
        if trainer.is_world_process_zero():
            for path in missing:  # transformers' Trainer created them
                if any(path.iterdir()):
                    break
                path.rmdir()
        logger.info("Dry run: config and data are valid. Nothing was trained or written.")
        return {"rows": {name: len(rows) for name, rows in run.train_rows.items()}, "steps": trainer.num_steps()}

    if trainer.is_world_process_zero():
        if overwrite:
            _clear(folder)
        if overwrite or resume:
            remove_leftovers(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RUN_FILE, run.config.to_yaml())
        log_to(folder / LOG)
    flush_denormals(trainer.args.device)
    hub = trainer.args if trainer.args.push_to_hub and trainer.is_world_process_zero() else None
    if hub:
        try:
            reserve(str(hub.hub_model_id), private=hub.hub_private_repo, token=hub.hub_token)
        except OSError as error:
            logger.warning("%s Training continues; the push is tried again at the end.", error)
    before = score_before(trainer, run.splits[final_split(run.splits)])  # before a checkpoint is loaded
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    logger.info("Trained in %.0f s.", seconds)
    tune_thresholds(trainer)
    trainer.save_model()
    trainer.save_state()
    name = trainer.args.hub_model_id or folder.absolute().name
    results = _score_and_write(run, folder, name, seconds, before)
    # Otherwise a process may exit while another still communicates with it.
    trainer.accelerator.wait_for_everyone()
    if hub:  # after the wait, because a slow upload could exceed the timeout of the other processes
        try:
            results["pushed"] = push(
                folder, name, private=hub.hub_private_repo, token=hub.hub_token, revision=hub.hub_revision
            )
        except (OSError, ValueError) as error:
            logger.error("%s", error)
            results["pushed"] = None
    return results


def flush_denormals(device: torch.device) -> None:
    """On a CPU, treat denormal numbers as zero, in all of this process.

    Adam's averages for embeddings of words that no longer occur decay to denormal numbers, which are slow on CPUs.
    """
    if device.type == "cpu":
        torch.set_flush_denormal(True)


def final_split(splits: Mapping[str, Mapping[str, EncodedSplit]]) -> str:
    """The split that the final model is scored on: `test` if a source has one, else `validation`."""
    return "test" if splits["test"] else "validation"


def _score_and_write(
    run: Run, folder: Path, name: str, seconds: float, before: Answered | None = None
) -> dict[str, Any]:
    """Score the trained model on its final split, and write metrics, predictions and the model card."""
    trainer = run.trainer
    split = final_split(run.splits)
    for task_name, task in trainer.tasks.items():
        if not any(source in run.splits[split] for source in task.config.sources):
            logger.warning("Task %s: none of its sources has a %s split; it is not scored.", task_name, split)
    answers: dict[str, dict[str, Answers]] = {}
    logits: dict[str, dict[str, Any]] | None = {} if before else None
    scores = trainer.score(run.splits[split], keep_answers=answers, keep_logits=logits, raw_texts=True)
    results = {"split": split} | scores
    for task_name, task in trainer.tasks.items():
        if task.kind.tunes_thresholds(task) and task_name in results["tasks"]:
            results["tasks"][task_name]["thresholds_from"] = "validation"
    if before and logits is not None:
        add_before(results, before, Answered(results, answers, logits))
    first = trainer.is_world_process_zero()
    if first:  # before the intervals, so that nothing is lost where these fail
        write_results(folder, results, run.sources, split, answers, trainer.tasks)
        write_card(folder, name, run.config, run.sources, run.splits, trainer, seconds)
    add_intervals(results, trainer.tasks, answers)
    if first:
        write_metrics(folder, results)
        write_card(folder, name, run.config, run.sources, run.splits, trainer, seconds)
        logger.info("\n%s\nWritten to %s.", scores_table(results), folder)
    return results


def resolve_options(tasks: Mapping[str, TaskData], sources: Mapping[str, SourceData]) -> dict[str, dict[str, Any]]:
    """Task → the options of its head that depend on labels and training rows; of the tasks that are trained."""
    trained = [name for name, task in tasks.items() if task.config.train]

    def resolve(name: str) -> dict[str, Any]:
        task = tasks[name]
        return task.kind.resolved_options(task, [sources[source] for source in task.config.sources])

    return for_each(trained, resolve)


def build_model(
    run: RunConfig,
    tasks: Mapping[str, TaskData],
    start: Start | None = None,
    resolved: Mapping[str, Mapping[str, Any]] | None = None,
) -> MultiTaskModel:
    """Create the model: the configured encoder, or the model in `model.from`, with new heads for the other tasks.

    Args:
        run: The config.
        tasks: Task name → task.
        start: The model in `model.from`.
        resolved: The result of `resolve_options`.
    """
    resolved = resolved or {}
    model = load_start(start, run, resolved) if start else _load_encoder(run.model)
    tokens = model.tokenizer("to be")["input_ids"]
    for name, task in tasks.items():
        if task.config.window_pooling and model.config.overflow != WINDOW:
            raise ValueError(f"`tasks.{name}.window_pooling` is {task.config.window_pooling}, but long texts are"
                             " truncated: add `model.overflow: window`, or remove it.")  # fmt: skip
        if name in model.heads:
            continue
        options = task.kind.head_options(task.config, task.options, run.model.dropout) | dict(resolved.get(name, {}))
        model.add_head(name, type=task.type, labels=task.labels or None, text=task.form, **options)
    if start:
        check_tokens(start, run, tokens, model.tokenizer("to be")["input_ids"])
    if run.model.peft is not None:
        model.adapt(**run.model.peft)
    return model


def _set_word_rules(model: MultiTaskModel, rules: dict[str, list[str]] | None, start: Start | None) -> None:
    """Set how the model splits strings into words; None keeps how it did."""
    if rules is None or (rules or None) == model.config.word_rules:
        return
    if start and start.heads:
        logger.warning("Strings are split into words as the training words of this run; %s split them otherwise.",
                       start.checkpoint.name)  # fmt: skip
    model.config.word_rules = rules or None


def _warn_of_frozen_tokens(spec: Model, model: MultiTaskModel, later: set[str]) -> None:
    """Warn if the tokens of `add_tokens` keep random embeddings; `later` are the parts that are unfrozen later."""
    embeddings: Any = model.get_input_embeddings()
    if spec.add_tokens and not embeddings.weight.requires_grad and "embeddings" not in later:
        logger.warning(
            "`model.add_tokens`: the embeddings are frozen, so those of new tokens keep their initial values."
        )


def _warn_of_cut_tokens(spec: Model, sources: Mapping[str, SourceData]) -> None:
    """Warn about tokens of `add_tokens` in strings that are split into words, which cuts them into several words."""
    cut = [token for token in spec.add_tokens if len(split_words(token)) > 1]
    for name, source in sources.items():
        if source.strings is None or not cut:
            continue
        texts = [text for rows in source.splits.values() for text in values_of(rows, source.strings)]
        found = {token: number for token in cut if (number := sum(token in text for text in texts))}
        if found:
            shown = ", ".join(f"{token} (in {number} texts)" for token, number in found.items())
            logger.warning(
                "Source %s: its strings are split into words, which cuts these tokens of `model.add_tokens` so that"
                " they are not used: %s. Give lists of words, in which each token is a word.", name, shown,
            )  # fmt: skip


def _check_encoder(spec: Model) -> None:
    if spec.encoder is None:  # it starts from a multi-task model
        return
    encoder = resolve_path(spec.encoder)
    if Path(encoder).is_dir() and not (Path(encoder) / "config.json").is_file():
        raise ValueError(f"`model.encoder` {spec.encoder!r}: there is no model in that folder (no config.json).")


def _load_encoder(spec: Model) -> MultiTaskModel:
    encoder = resolve_path(str(spec.encoder))
    try:
        return MultiTaskModel.from_encoder(
            encoder,
            pooling=spec.pooling,
            max_length=spec.max_length,
            overflow=spec.overflow,
            stride=spec.stride,
            truncation_side=spec.truncation_side,
            add_tokens=spec.add_tokens,
            attn_implementation=spec.attn_implementation,
            encoder_config=spec.encoder_config,
            pretrained=spec.pretrained,
            experts=spec.experts,
            revision=spec.revision or "main",
            trust_remote_code=spec.trust_remote_code,
        )
    except (OSError, ImportError) as error:
        raise ValueError(
            f"`model.encoder` {spec.encoder!r} cannot be loaded: {' '.join(str(error).split())}"
        ) from error


def _encode_training(source: SourceData, tasks: Mapping[str, TaskData], model: MultiTaskModel) -> datasets.Dataset:
    if "train" not in source.splits:
        raise ValueError(f"`sources.{source.name}` has no training rows; it has {', '.join(source.splits)}.")
    config = model.config
    rows = encode_rows(source, "train", tasks, model.tokenizer, config.max_length, config.window_stride)
    report_cut(source, "train", rows, tasks)
    return rows


def _check_folder(folder: Path, reuse: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`training.output_dir`: {folder} is a file.")
    held = sorted({path.name for pattern in WRITTEN for path in folder.glob(pattern)})
    if held and RUN_FILE not in held:
        raise ValueError(
            f"`training.output_dir`: {folder} contains files that a run would replace and that were not written by"
            f" mtl_hf ({', '.join(held[:5])}): choose another folder."
        )
    if held and not reuse:
        finished = f" {more_training(folder)}" if "metrics.json" in held else ""
        raise ValueError(
            f"`training.output_dir`: {folder} already contains a run. Choose another folder, continue the run with"
            " --resume (`resume=True` in Python), or replace it with --overwrite (`overwrite=True`), which removes only"
            f" the files that the run wrote.{finished}"
        )


def _clear(folder: Path) -> None:
    """Remove the files that a run wrote; keep the files of users, also inside folders that a run created."""
    checkpoints = list_checkpoints(folder)
    for pattern in reversed(WRITTEN):  # the file that marks the folder as a run goes last
        for path in sorted(folder.glob(pattern), reverse=True):  # files before their folder
            if path in checkpoints:
                remove_checkpoint(path)
            elif pattern == "checkpoint-*":
                continue
            elif not path.is_dir() or path.is_symlink():
                path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of `run_multitask.py` and `python -m mtl_hf.run`; same arguments as `mtl-hf train`."""
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    arguments = parse(parser, argv)
    run_command(lambda: train_command(arguments))


def train_command(arguments: argparse.Namespace) -> None:
    """Train with the parsed arguments of `add_train_arguments`.

    Raises:
        SystemExit: The push failed (code 1); the reason has been logged.
    """
    options = {name: getattr(arguments, name) for name in ("dry_run", "overwrite", "resume")}
    results = train(arguments.config, arguments.overrides, **options)
    if results.get("pushed", "") is None:
        sys.exit(1)


if __name__ == "__main__":
    main()
