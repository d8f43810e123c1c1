"""Score saved models on any split or file; write `metrics.json`, `predictions.jsonl` and a comparison of models.

Notable: the `run.yaml` in a model's folder (or in the folder of its run) names the data, so the folder alone is enough;
another config, overrides or a file of rows select other data. Several models are scored on the same rows and compared
by label names, so they may differ in encoder, heads and label order. With several processes, each row is still scored
exactly once.
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
from ..files import atomic_file, write_atomic
from ..metrics import add_intervals, interval, join_answers, round_numbers
from ..modeling.encoding import KINDS
from ..modeling.heads import answers_texts
from ..modeling.modeling_multitask import MultiTaskModel
from ..saved.data_file import config_of_file
from ..saved.models import RUN_FILE, Checkpoint, find_checkpoint
from ..saved.runs import check_saved_run, drop_metrics, log_data
from ..saved.start import with_kept_options
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
        models: One or several models: a run folder, one of its `checkpoint-N`, any folder written by
            `MultiTaskModel.save_pretrained`, or a Hub id (`me/model`, `me/model@revision`).
        split: `train`, `validation` or `test`; by default `test`, or `validation` if no source has a test split.
        config: The config that names the data; by default the `run.yaml` of the (first) model.
        overrides: `a.b=c` changes to the config, such as `data=FOLDER`.
        data: A file of rows (.jsonl, .json, .csv, .tsv, .parquet) to score instead of a split; needs no config.
        text: Text column of the file (for pairs two, separated by a comma). Only needed if it has neither the name in
            the config nor a usual name.
        labels: Head → its label column in the file. Only needed if it has neither the name in the config nor the name
            of the head.
        to: Folder for the results. The default is `evaluation/<split>` inside the model's folder; for a Hub model or
            several models it is inside the current folder, with a subfolder per model. With `data`, the file name
            takes the place of the split.
        batch_size: Rows per batch and process.
        precision: `bf16`, `fp16` or `fp32`; by default the precision of the training run.
        intervals: Whether to add 95 % intervals and majority baselines.
        overwrite: Whether existing results in `to` may be replaced.
        trust_remote_code: Whether to load metrics that are Python files or repositories, and data with any loader, if
            they are named by the `run.yaml` that came with the model. By default such metrics are left out with a
            warning. A `config` that you pass is always trusted.

    Returns:
        For one model the content of `metrics.json`. For several the content of `comparison.json`: `models` (name → its
        metrics) and `differences` (name → its scores minus those of the first model, with an interval by a paired
        bootstrap over rows; `score` is None if the two models have different primary metrics for a task).

    Raises:
        ValueError: No such model, config or split; a file whose columns are ambiguous; or tasks for which the model
            has no head (with several models: no task that all of them have).
    """
    names = [models] if isinstance(models, str | Path) else list(models)
    paths = [os.path.normpath(name) for name in names]
    if not names or len(set(paths)) < len(paths):
        twice = ", ".join(sorted({path for path in paths if paths.count(path) > 1}))
        raise ValueError(f"`models` names {twice} twice." if names else "`models` is empty; give one model or several.")
    if split not in (None, "train", "validation", "test"):
        raise ValueError(f"`split` is {split!r}; valid are train, validation and test.")
    if data is not None and split not in (None, "test"):
        raise ValueError(f"`split` is {split!r}, but all rows of a file (`data`) are scored, as its test split.")
    if data is None and (text or labels):
        raise ValueError("`text` and `labels` name columns of a file: set `data`, too.")
    to = None if to is None else _check_folder(Path(to), overwrite)
    checkpoints = [find_checkpoint(name) for name in names]
    owner = next((checkpoint for checkpoint in checkpoints if checkpoint.run), None) if config is None else None
    if config is None and owner is None and data is None:
        raise ValueError(
            f"{' and '.join(map(str, names))}: there is no {RUN_FILE} that names the data. Give a config (`--config`)"
            " or a file of rows (`--data`)."
        )
    run = load_run(config, owner, overrides)
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
            logger.info("Using the data of %s.", owner.name)
        # This config came with the model; the user may never have read it.
        foreign = owner.run if owner is not None and not trust_remote_code else None
        with arguments.main_process_first(desc="loading"):
            if data is not None:
                run = config_of_file(data, _common(checkpoints[0].heads, checkpoints), run, text, labels)
            assert run is not None
            narrow(run, checkpoints)
            if foreign is not None:
                check_saved_run(run, foreign)
            if data is None and owner is not None and owner.run is not None:
                log_data(run, owner.run)
            sources, split = load_data(run, split, checkpoints)
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
                | trainer.score(splits, keep_answers=answers, raw_texts=True)
            )
            folder = target if len(checkpoints) == 1 else target / own_folders[checkpoint.name]
            if trainer.is_world_process_zero():  # before the intervals, so that nothing is lost where these fail
                write_results(folder, scores, sources, split, answers, trainer.tasks)
            if intervals:
                add_intervals(scores, trainer.tasks, answers)
                if trainer.is_world_process_zero():
                    write_metrics(folder, scores)
            if first is None:
                first = (trainer.tasks, answers)
            else:
                reference = results[checkpoints[0].name]
                differences[checkpoint.name] = _compare(reference, scores, *first, trainer.tasks, answers)
            results[checkpoint.name] = scores
        comparison = {"split": split, "models": results, "differences": differences}
        if trainer.is_world_process_zero():
            if len(checkpoints) > 1:
                write_comparison(target, json_value(comparison))
            logger.info("Written to %s.", target)
        trainer.accelerator.wait_for_everyone()
    return comparison if len(checkpoints) > 1 else scores


def _check_folder(to: Path, overwrite: bool) -> Path:
    """Check the results folder: it may not contain a model, nor other results unless they may be replaced."""
    if (to / "config.json").exists() or (to / RUN_FILE).exists():
        raise ValueError(
            f"`to` is {to}, which contains a model, whose own scores would be replaced: choose another folder."
        )
    if to.exists() and not to.is_dir():
        raise ValueError(f"`to` is {to}, which is a file; it should be a folder.")
    if found := [name for name in ("metrics.json", "comparison.json") if (to / name).exists() and not overwrite]:
        raise ValueError(
            f"`to` is {to}, which contains results ({found[0]}): choose another folder, or use --overwrite."
        )
    return to


def _file_name(data: str | Path) -> str:
    """Name of the results of a file: its own name, preceded by its folder's name if it is called like a split.

    So results of `reviews/test.jsonl`, `tickets/test.jsonl` and the test split of the run do not overwrite each other.
    """
    path = Path(resolve_path(str(data))).resolve()
    return f"{path.parent.name}-{path.stem}" if path.stem in ("train", "validation", "test") else path.stem


def _folder(checkpoints: Sequence[Checkpoint], split: str) -> Path:
    """The default results folder; `split` is the scored split, or the name of a scored file."""
    if len(checkpoints) > 1:
        return Path("evaluation") / split
    own = checkpoints[0]
    return own.folder / "evaluation" / split if own.folder else Path("evaluation") / split / own.name.replace("/", "-")


def load_run(config: Any, owner: Checkpoint | None, overrides: Sequence[str]) -> RunConfig | None:
    """The config that names the data: the given one, else that of the first model that has one."""
    given = owner.run if owner is not None else config
    if given is None:
        if overrides:
            raise ValueError(
                f"{', '.join(masked_overrides(overrides))}: there is no config that these overrides could change."
            )
        return None
    run = RunConfig.load(given, overrides)
    return copy.deepcopy(run) if config is run else run  # a copy, because it is narrowed in place


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


def narrow(run: RunConfig, checkpoints: Sequence[Checkpoint]) -> None:
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


def load_data(
    run: RunConfig, split: str | None, checkpoints: Sequence[Checkpoint]
) -> tuple[dict[str, SourceData], str]:
    """Load the sources; return them with the scored split. Tasks without that split are removed from `run`."""
    wanted = [split] if split else ["test", "validation"]
    loaded = load_sources(run, wanted)
    split = next((name for name in wanted if any(name in source.splits for source in loaded.values())), None)
    if split is None:
        raise ValueError(f"no source of this config has a {wanted[0]} split; choose another with `--split`.")
    if split != wanted[0]:
        logger.info("No source has a %s split: the %s split is scored.", wanted[0], split)
    sources = {name: source for name, source in loaded.items() if split in source.splits}
    for data in sources.values():  # or labels of the other split would be checked, although they are not needed
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
    """Load the model, build the tasks with its labels, and encode the rows with its tokenizer."""
    with arguments.main_process_first(desc="loading and encoding"):
        model = checkpoint.load()
        run = with_kept_options(run, checkpoint.heads, always=True)
        tasks = build_tasks(run, sources, checkpoint.vocabularies)
        _check_labelled(data, run, sources, split)
        splits = {name: encode_split(source, split, tasks, model) for name, source in sources.items()}
    return model, tasks, splits


def _check_labelled(data: str | Path | None, run: RunConfig, sources: Mapping[str, SourceData], split: str) -> None:
    """Raise an error if a file lacks labels of a task or a split has no labels; warn about tasks without labels."""
    lacking = []
    for name, spec in run.tasks.items():
        if any(is_labelled(label) for source in spec.sources for label in sources[source].gold[split][name]):
            continue
        if data is not None:
            raise ValueError(
                f"{data}: no row has a label for {name} in {spec.label_place}, so there is nothing to score."
                f" Name another column with `--label {name}=COLUMN`, or remove this column."
            )
        lacking.append(name)
    if len(lacking) == len(run.tasks):
        raise ValueError(f"no row of the {split} split has a label for {', '.join(lacking)}, so there is nothing to"
                         " score: choose another split with `--split`.")  # fmt: skip
    for name in lacking:
        logger.warning("Task %s: no row of the %s split has a label in %s; it is not scored.",
                       name, split, run.tasks[name].label_place)  # fmt: skip


def _compare(
    reference: Mapping[str, Any],
    scores: Mapping[str, Any],
    reference_tasks: Mapping[str, TaskData],
    reference_answers: Mapping[str, Mapping[str, Answers]],
    tasks: Mapping[str, TaskData],
    answers: Mapping[str, Mapping[str, Answers]],
) -> dict[str, Any]:
    """Differences of a model to the reference: aggregate score, joint accuracy, and each task's primary metric.

    The difference of the aggregate scores is None if they are means of different metrics.
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
        if metric in numbers:  # a task may have span tags in one model and plain tags in the other
            found["difference"] = numbers[metric] - reference["tasks"][name][metric]
        if "interval" in numbers and numbers["primary"] == metric:
            own, other = join_answers(answers, name), join_answers(reference_answers, name)
            if np.array_equal(own.rows, other.rows):  # with another tokenizer, other rows may have no token to mask
                found["interval"] = interval(tasks[name], own, against=other)
        difference["tasks"][name] = found
    return difference


def encode_split(source: SourceData, split: str, tasks: Mapping[str, TaskData], model: MultiTaskModel) -> EncodedSplit:
    """Encode a split for scoring, and report rows that were truncated at `max_length`."""
    config = model.config
    rows = encode_rows(source, split, tasks, model.tokenizer, config.max_length, config.window_stride)
    report_cut(source, split, rows, tasks)
    texts = functools.partial(source.texts, split)
    strings = None if source.offsets is None else functools.partial(source.strings_of, split)
    return EncodedSplit(rows, source.gold[split], texts, strings)


def write_metrics(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `metrics.json`."""
    write_atomic(folder / "metrics.json", json_text(json_value(results)) + "\n")


def write_results(
    folder: Path,
    results: Mapping[str, Any],
    sources: Mapping[str, SourceData],
    split: str,
    answers: Mapping[str, Mapping[str, Answers]],
    tasks: Mapping[str, TaskData],
) -> None:
    """Write `metrics.json`, and `predictions.jsonl` with one line per row: its text, predictions and labels.

    Predictions and labels are written in the form of their source's labels (`TaskType.to_lines`). The prediction of a
    word without tokens (truncated, or empty) is null.
    """
    write_metrics(folder, results)
    with atomic_file(folder / "predictions.jsonl") as draft, draft.open("w", encoding="utf-8") as file:
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
                    written = tasks[task].kind.to_lines(tasks[task], sources[name], split, *answered)
                    for row, line in zip(answered[0], written, strict=True):
                        lines[row - begin]["tasks"][task] = line | {"predicted": round_numbers(line["predicted"])}
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
