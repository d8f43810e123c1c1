"""Score saved models on any split or file: `metrics.json`, `predictions.jsonl`, and of several models a comparison.

Notable: the folder's `run.yaml` (or that of the run a checkpoint belongs to) says which data it was trained on, so a
folder alone is enough; another config, overrides or a file of rows point it at other data. Several models are scored
on the same rows and their answers compared by the names of labels, so they may differ in encoder, heads and the order
of labels. On several processes every row is still scored once.
"""

import copy
import functools
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RunConfig, masked_overrides, resolve_path
from ..data.labels import build_tasks, is_labelled
from ..data.rows import EncodedSplit, encode_rows, report_cut
from ..data.sources import load_sources
from ..files import whole_file, write_whole
from ..metrics import interval, join_answers, round_numbers
from ..modeling.encoding import KINDS
from ..modeling.heads import answers_texts
from ..modeling.modeling_multitask import MultiTaskModel
from ..saved.data_file import config_of_file
from ..saved.models import RUN_FILE, Checkpoint, find_checkpoint
from ..saved.runs import check_saved_run, drop_metrics, log_data
from ..tasks import Answers, SourceData, TaskData
from ..training.arguments import MultiTaskTrainingArguments
from ..training.trainer import MultiTaskTrainer
from .report import folder_names, json_text, json_value, write_comparison

logger = logging.getLogger(__name__)

_BLOCK = 1000  # rows of predictions.jsonl that are written at once


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    config: str | Path | Mapping[str, Any] | RunConfig | None = None,
    overrides: Sequence[str] = (),
    data: str | Path | None = None,
    text: str | None = None,
    labels: Mapping[str, str] | None = None,
    to: str | Path | None = None,
    batch_size: int = 64,
    precision: str | None = None,
    intervals: bool = True,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Score saved models.

    Args:
        models: One or several: a run's folder, one of its `checkpoint-N`, any folder of
            `MultiTaskModel.save_pretrained`, or a Hub id (`me/model`, `me/model@revision`).
        split: `train`, `validation` or `test`; by default `test`, or `validation` where no source has a test split.
        config: What to score on; by default the config that the (first) model's run was started with.
        overrides: `a.b=c` changes to it, such as `data=FOLDER`.
        data: A file of rows (.jsonl, .json, .csv, .tsv, .parquet) to score on instead, which needs no config.
        text: Its text column (two for pairs, with a comma between), where that is neither that of the config nor
            called as usual.
        labels: Head → its label column in the file, where that is not called as in the config or as the head.
        to: Folder for the results. By default `evaluation/<split>` (of a file its name, after that of its folder where
            the file is called as a split) in the model's folder, and in the current one for a model of the Hub and for
            several models, each of which gets a folder in it.
        batch_size: Rows that a process predicts at once.
        precision: `bf16`, `fp16` or `fp32`; by default what the run of the config was trained in.
        intervals: Whether to add 95 % intervals and majority baselines.
        overwrite: Whether results that are in the folder `to` may be replaced.
        trust_remote_code: Whether to load metrics that are Python files or repositories, and data by any loader, where
            the config is the `run.yaml` that came with the model. By default such metrics are left out with a warning.
            A `config` that is given is trusted.

    Returns:
        Of one model what `metrics.json` holds; of several what `comparison.json` holds: `models` (name → its metrics)
        and `differences` (name → what it scores more than the first model, with an interval of the difference by a
        paired bootstrap over rows; `score` is None there where a task's primary metric is not the same for both).

    Raises:
        ValueError: No such model, no config, no such split, a file whose columns cannot be told, or tasks that the
            model has no head for (with several models: that no task is common to all).
    """
    names = [models] if isinstance(models, str | Path) else list(models)
    paths = [os.path.normpath(name) for name in names]
    if not names or len(set(paths)) < len(paths):
        twice = ", ".join(sorted({path for path in paths if paths.count(path) > 1}))
        raise ValueError(f"`models` names {twice} twice." if names else "`models` is empty; it names one, or several.")
    if split not in (None, "train", "validation", "test"):
        raise ValueError(f"`split` is {split!r}; valid are train, validation and test.")
    if data is not None and split not in (None, "test"):
        raise ValueError(f"`split` is {split!r}, but all rows of a file (`data`) are scored, as its test split.")
    if data is None and (text or labels):
        raise ValueError("`text` and `labels` name columns of a file: give it by `data`.")
    to = None if to is None else _check_folder(Path(to), overwrite)
    checkpoints = [find_checkpoint(name) for name in names]
    owner = next((checkpoint for checkpoint in checkpoints if checkpoint.run), None) if config is None else None
    if config is None and owner is None and data is None:
        raise ValueError(
            f"{' and '.join(map(str, names))}: no {RUN_FILE} says which data to score: give a config (`--config`), or a"
            " file of rows (`--data`)."
        )
    run = _load_run(config, owner, overrides)
    training = {} if run is None else run.training
    with tempfile.TemporaryDirectory() as scratch:
        arguments = MultiTaskTrainingArguments(
            output_dir=scratch,
            precision=precision or str(training.get("precision", "auto")),  # type: ignore[arg-type]
            use_cpu=str(training.get("use_cpu", False)).lower() == "true",
            per_device_eval_batch_size=batch_size,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        if arguments.process_index:
            logging.getLogger("mtl_hf").setLevel(logging.ERROR)
        logger.info("World size %d, %s, %s.", arguments.world_size, arguments.device, arguments.precision)
        if owner is not None and len(checkpoints) > 1 and data is None:
            logger.info("The data are those of %s.", owner.name)
        # The config that came with a model, which its user may never have read.
        foreign = owner.run if owner is not None and not trust_remote_code else None
        with arguments.main_process_first(desc="loading"):
            if data is not None:
                run = config_of_file(data, _common(checkpoints[0].heads, checkpoints), run, text, labels)
            assert run is not None
            _narrow(run, checkpoints)
            if foreign is not None:
                check_saved_run(run, foreign)
            if data is None and owner is not None and owner.run is not None:
                log_data(run, owner.run)
            sources, split = _load_data(run, split, checkpoints)
        target = to or _folder(checkpoints, split if data is None else _file_name(data))
        own_folders = folder_names([checkpoint.name for checkpoint in checkpoints])
        results: dict[str, Any] = {}
        differences: dict[str, Any] = {}
        first: tuple[dict[str, TaskData], dict[str, dict[str, Answers]]] | None = None
        for checkpoint in checkpoints:
            if len(checkpoints) > 1:
                logger.info("Scoring %s.", checkpoint.name)
            model, tasks, splits = _prepare(checkpoint, run, sources, split, arguments, data)
            if foreign is not None:
                drop_metrics(tasks, foreign, overrides)
            trainer = MultiTaskTrainer(model, arguments, tasks=tasks, processing_class=model.tokenizer)
            answers: dict[str, dict[str, Answers]] = {}
            scores = (
                {"split": split}
                | ({} if data is None else {"data": str(data)})
                | trainer.score(splits, intervals=intervals, keep_answers=answers)
            )
            if first is None:
                first = (trainer.tasks, answers)
            else:
                reference = results[checkpoints[0].name]
                differences[checkpoint.name] = _compare(reference, scores, *first, trainer.tasks, answers)
            results[checkpoint.name] = scores
            if trainer.is_world_process_zero():
                folder = target if len(checkpoints) == 1 else target / own_folders[checkpoint.name]
                write_results(folder, scores, sources, split, answers)
        comparison = {"split": split, "models": results, "differences": differences}
        if trainer.is_world_process_zero():
            if len(checkpoints) > 1:
                write_comparison(target, json_value(comparison))
            logger.info("Written to %s.", target)
        trainer.accelerator.wait_for_everyone()
    return comparison if len(checkpoints) > 1 else scores


def _check_folder(to: Path, overwrite: bool) -> Path:
    """The folder for results, which may hold neither a model nor, unless they may be replaced, other results."""
    if (to / "config.json").exists() or (to / RUN_FILE).exists():
        raise ValueError(f"`to` is {to}, which holds a model, whose own scores would be replaced: choose another.")
    if to.exists() and not to.is_dir():
        raise ValueError(f"`to` is {to}, which is a file; the results are a folder.")
    if found := [name for name in ("metrics.json", "comparison.json") if (to / name).exists() and not overwrite]:
        raise ValueError(
            f"`to` is {to}, which holds results ({found[0]}): choose another folder, or replace them with --overwrite."
        )
    return to


def _file_name(data: str | Path) -> str:
    """What results of a file are called: its name, with that of its folder where it is called as a split.

    So `reviews/test.jsonl`, `tickets/test.jsonl` and the test split of the run do not replace each other's results.
    """
    path = Path(resolve_path(str(data))).resolve()
    return f"{path.parent.name}-{path.stem}" if path.stem in ("train", "validation", "test") else path.stem


def _folder(checkpoints: Sequence[Checkpoint], split: str) -> Path:
    """Where results go by default; `split` is what they are of: a split, or a file's name."""
    if len(checkpoints) > 1:
        return Path("evaluation") / split
    own = checkpoints[0]
    return own.folder / "evaluation" / split if own.folder else Path("evaluation") / split / own.name.replace("/", "-")


def _load_run(config: Any, owner: Checkpoint | None, overrides: Sequence[str]) -> RunConfig | None:
    """The config to score on: the given one, else that of the first model that has one."""
    given = owner.run if owner is not None else config
    if given is None:
        if overrides:
            raise ValueError(f"{', '.join(masked_overrides(overrides))}: overrides change a config, and there is none.")
        return None
    run = RunConfig.load(given, overrides)
    return copy.deepcopy(run) if config is run else run  # it is narrowed to what there is


def _common(tasks: Mapping[str, Any], checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """The tasks that every model has a head for.

    Raises:
        ValueError: There is none, or only one model, which should have all.
    """
    common = {}
    for name, task in tasks.items():
        lacking = [checkpoint.name for checkpoint in checkpoints if name not in checkpoint.heads]
        if not lacking:
            common[name] = task
        elif len(checkpoints) > 1:
            logger.warning("Task %s is not compared: %s has no head for it.", name, " nor ".join(lacking))
    missing = [name for name in tasks if name not in common]
    if missing and (len(checkpoints) == 1 or not common):
        raise ValueError("; ".join(
            f"{checkpoint.name} has no head for {', '.join(name for name in tasks if name not in checkpoint.heads)}; it"
            f" has {', '.join(checkpoint.heads) or 'none'}" for checkpoint in checkpoints
            if any(name not in checkpoint.heads for name in tasks)
        ) + ".")  # fmt: skip
    return common


def _narrow(run: RunConfig, checkpoints: Sequence[Checkpoint]) -> None:
    """Narrow the config, in place, to the tasks that every model has a head for, and to their sources."""
    run.tasks = _common(run.tasks, checkpoints)
    run.sources = {
        name: source for name, source in run.sources.items() if any(name in task.sources for task in run.tasks.values())
    }
    for name, task in run.tasks.items():
        for checkpoint in checkpoints:
            if task.type != checkpoint.heads[name]["type"]:
                raise ValueError(
                    f"`tasks.{name}` is {task.type}; the head of {checkpoint.name} is {checkpoint.heads[name]['type']}."
                )


def _load_data(
    run: RunConfig, split: str | None, checkpoints: Sequence[Checkpoint]
) -> tuple[dict[str, SourceData], str]:
    """The sources with the split that is scored, and which one that is; tasks without it are taken out of `run`."""
    wanted = [split] if split else ["test", "validation"]
    loaded = load_sources(run, wanted)
    split = next((name for name in wanted if any(name in source.splits for source in loaded.values())), None)
    if split is None:
        raise ValueError(f"no source of this config has a {wanted[0]} split; choose another with `--split`.")
    if split != wanted[0]:
        logger.info("No source has a %s split: the %s split is scored.", wanted[0], split)
    sources = {name: source for name, source in loaded.items() if split in source.splits}
    for data in sources.values():  # labels of the other split would be checked, and are not asked for
        data.splits = {split: data.splits[split]}
    for name, spec in list(run.tasks.items()):
        kept = [source for source in spec.sources if source in sources]
        if not kept:
            logger.warning("Task %s: none of its sources has a %s split; it is not scored.", name, split)
            del run.tasks[name]
        spec.source = kept
        for checkpoint in checkpoints:
            trained_on = KINDS[checkpoint.heads[name]["text"]]
            for source in kept:
                found = KINDS[sources[source].form]
                if answers_texts(checkpoint.heads[name]) and found != trained_on:
                    raise ValueError(
                        f"the head {name} of {checkpoint.name} was trained on {trained_on}; the texts of {source}"
                        f" ({' and '.join(sources[source].columns)}) are {found.removesuffix(' texts')}."
                    )
    return sources, split


def _prepare(
    checkpoint: Checkpoint,
    run: RunConfig,
    sources: Mapping[str, SourceData],
    split: str,
    arguments: MultiTaskTrainingArguments,
    data: str | Path | None,
) -> tuple[MultiTaskModel, dict[str, TaskData], dict[str, EncodedSplit]]:
    """The model, the tasks with its labels, and the rows as it reads them."""
    with arguments.main_process_first(desc="loading and encoding"):
        model = checkpoint.load()
        tasks = build_tasks(run, sources, checkpoint.vocabularies)
        _check_labelled(data, run, sources, split)
        splits = {name: encode_split(source, split, tasks, model) for name, source in sources.items()}
    return model, tasks, splits


def _check_labelled(data: str | Path | None, run: RunConfig, sources: Mapping[str, SourceData], split: str) -> None:
    """Refuse a file without labels of a task, and a split without any; warn of a task without labels there."""
    lacking = []
    for name, spec in run.tasks.items():
        if any(is_labelled(label) for source in spec.sources for label in sources[source].gold[split][name]):
            continue
        if data is not None:
            raise ValueError(
                f"{data}: no row has a label of {name} in the column {spec.label!r}: there is nothing to score. Name"
                f" another with `--label {name}=COLUMN`, or take the column out."
            )
        lacking.append(name)
    if len(lacking) == len(run.tasks):
        raise ValueError(f"no row of the {split} split has a label of {', '.join(lacking)}: there is nothing to score."
                         " Choose another with `--split`.")  # fmt: skip
    for name in lacking:
        logger.warning("Task %s: no row of the %s split has a label in the column %r; it is not scored.",
                       name, split, run.tasks[name].label)  # fmt: skip


def _compare(
    reference: Mapping[str, Any],
    scores: Mapping[str, Any],
    reference_tasks: Mapping[str, TaskData],
    reference_answers: Mapping[str, Mapping[str, Answers]],
    tasks: Mapping[str, TaskData],
    answers: Mapping[str, Mapping[str, Answers]],
) -> dict[str, Any]:
    """What a model scores more than the reference: in all, on all tasks at once, and by each task's primary metric.

    In all is None where the two scores are not means of the same metrics.
    """
    alike = all(
        numbers["primary"] == other["primary"]
        and math.isnan(numbers[numbers["primary"]]) == math.isnan(other[other["primary"]])
        for numbers, other in ((numbers, reference["tasks"][name]) for name, numbers in scores["tasks"].items())
    )
    difference: dict[str, Any] = {
        "score": scores["score"] - reference["score"] if alike else None,
        "tasks": {},
        "joint": {source: value - reference["joint"][source] for source, value in scores["joint"].items()},
    }
    for name, numbers in scores["tasks"].items():
        metric = reference["tasks"][name]["primary"]
        found: dict[str, Any] = {"metric": metric}
        if metric in numbers:  # tags that are spans for one model and not for another are not counted alike
            found["difference"] = numbers[metric] - reference["tasks"][name][metric]
        if "interval" in numbers and numbers["primary"] == metric:
            own, other = join_answers(answers, name), join_answers(reference_answers, name)
            if np.array_equal(own.rows, other.rows):  # another tokenizer has other rows with nothing to mask
                found["interval"] = interval(tasks[name], own, against=other)
        difference["tasks"][name] = found
    return difference


def encode_split(source: SourceData, split: str, tasks: Mapping[str, TaskData], model: MultiTaskModel) -> EncodedSplit:
    """Encode a split for scoring, and report what `max_length` cut."""
    rows = encode_rows(source, split, tasks, model.tokenizer, model.config.max_length)
    report_cut(source, split, rows, tasks)
    return EncodedSplit(rows, source.gold[split], functools.partial(source.texts, split))


def write_results(
    folder: Path,
    results: Mapping[str, Any],
    sources: Mapping[str, SourceData],
    split: str,
    answers: Mapping[str, Mapping[str, Answers]],
) -> None:
    """Write `metrics.json` and `predictions.jsonl`: a line a row with its text, and each task's prediction and label.

    A word that never reached the encoder has null for its prediction.
    """
    write_whole(folder / "metrics.json", json_text(json_value(results)) + "\n")
    with whole_file(folder / "predictions.jsonl") as draft, draft.open("w", encoding="utf-8") as file:
        for name, by_task in answers.items():
            for begin in range(0, len(sources[name].splits[split]), _BLOCK):
                rows = range(begin, min(begin + _BLOCK, len(sources[name].splits[split])))
                lines: list[dict[str, Any]] = [
                    {"source": name, "row": row, "text": text, "tasks": {}}
                    for row, text in zip(rows, sources[name].texts(split, rows), strict=True)
                ]
                for task, found in by_task.items():
                    first, last = np.searchsorted(found.rows, [rows.start, rows.stop])
                    answered = found.rows[first:last].tolist(), found.predicted[first:last], found.gold[first:last]
                    for row, predicted, gold in zip(*answered, strict=True):
                        lines[row - begin]["tasks"][task] = {"predicted": round_numbers(predicted), "gold": gold}
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
