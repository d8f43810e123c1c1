"""Score any saved model on any split: `metrics.json` and `predictions.jsonl`.

Notable: the folder's `run.yaml` (or that of the run a checkpoint belongs to) says which data it was trained on, so a
folder alone is enough; another config or overrides point it at other data.
"""

import copy
import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..data.labels import TaskData, build_tasks
from ..data.rows import EncodedSplit, encode_rows, report_cut
from ..data.sources import SourceData, load_sources
from ..metrics import Answers
from ..modeling.modeling_multitask import MultiTaskModel
from ..training.arguments import MultiTaskTrainingArguments
from ..training.trainer import MultiTaskTrainer
from .report import scores_table

logger = logging.getLogger(__name__)

RUN_FILE = "run.yaml"


def evaluate(
    model: str | Path,
    *,
    split: str = "test",
    config: str | Path | Mapping[str, Any] | RunConfig | None = None,
    overrides: Sequence[str] = (),
    to: str | Path | None = None,
    batch_size: int = 64,
    precision: str | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """Score a saved model.

    Args:
        model: A run's folder, one of its `checkpoint-N`, or any folder of `MultiTaskModel.save_pretrained`.
        split: `train`, `validation` or `test`.
        config: What to score on; by default the config that the folder's run was started with.
        overrides: `a.b=c` changes to it, such as `data=FOLDER`.
        to: Folder for `metrics.json` and `predictions.jsonl`; by default `evaluation/<split>` in the model's.
        batch_size: Rows predicted at once.
        precision: `bf16`, `fp16` or `fp32`; by default what the run was trained in.
        intervals: Whether to add 95 % intervals and majority baselines.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: No such model, no config, no such split, or tasks that the model has no head for.
    """
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a saved model: it has no config.json.")
    if split not in ("train", "validation", "test"):
        raise ValueError(f"`split` is {split!r}; valid are train, validation and test.")
    run = RunConfig.load(config if config is not None else _find_run(folder), overrides)
    run = copy.deepcopy(run) if config is run else run  # it is narrowed below to what the split has
    loaded = MultiTaskModel.from_pretrained(folder)
    if missing := [name for name in run.tasks if name not in loaded.heads]:
        raise ValueError(f"{folder} has no head for {', '.join(missing)}; it has {', '.join(loaded.heads)}.")
    sources = load_sources(run, [split])
    sources = {name: source for name, source in sources.items() if split in source.splits}
    if not sources:
        raise ValueError(f"no source of this config has a {split} split; choose another with `--split`.")
    for name, spec in list(run.tasks.items()):
        kept = [source for source in spec.sources if source in sources]
        if not kept:
            logger.warning("Task %s: none of its sources has a %s split; it is not scored.", name, split)
            del run.tasks[name]
        spec.source = kept
    labels = {name: spec["labels"] for name, spec in loaded.config.heads.items() if "labels" in spec}
    tasks = build_tasks(run, sources, labels)
    for name, task in tasks.items():
        if task.type != loaded.config.heads[name]["type"]:
            raise ValueError(f"`tasks.{name}` is {task.type}; the model's head is {loaded.config.heads[name]['type']}.")
    splits = {name: encode_split(source, split, tasks, loaded) for name, source in sources.items()}
    chosen = precision or str(run.training.get("precision", "auto"))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = MultiTaskTrainingArguments(
            output_dir=scratch,
            precision=chosen,  # type: ignore[arg-type]
            use_cpu=str(run.training.get("use_cpu", False)).lower() == "true",
            per_device_eval_batch_size=batch_size,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        trainer = MultiTaskTrainer(loaded, arguments, tasks=tasks, processing_class=loaded.tokenizer)
        answers: dict[str, dict[str, Answers]] = {}
        results = {"split": split} | trainer.score(splits, intervals=intervals, keep_answers=answers)
        if trainer.is_world_process_zero():
            target = Path(to) if to is not None else folder / "evaluation" / split
            write_results(target, results, sources, split, answers)
            logger.info("%s\nWritten to %s.", scores_table(results), target)
        trainer.accelerator.wait_for_everyone()
    return results


def _find_run(folder: Path) -> Path:
    for place in (folder, folder.parent):
        if (place / RUN_FILE).is_file():
            return place / RUN_FILE
    raise ValueError(f"{folder} has no {RUN_FILE} that says which data to score: give a config.")


def encode_split(source: SourceData, split: str, tasks: Mapping[str, TaskData], model: MultiTaskModel) -> EncodedSplit:
    """Encode a split for scoring, and report what `max_length` cut."""
    rows = encode_rows(source, split, tasks, model.tokenizer, model.config.max_length)
    report_cut(source, split, rows, tasks)
    return EncodedSplit(rows, source.gold[split])


def write_results(
    folder: Path,
    results: Mapping[str, Any],
    sources: Mapping[str, SourceData],
    split: str,
    answers: Mapping[str, Mapping[str, Answers]],
) -> None:
    """Write `metrics.json` and `predictions.jsonl` (a line a row: text, and what each task said and should have)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_json_value(results), indent=2, ensure_ascii=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for name, by_task in answers.items():
            lines: list[dict[str, Any]] = [
                {"source": name, "row": row, "text": text, "tasks": {}}
                for row, text in enumerate(sources[name].texts(split))
            ]
            for task, found in by_task.items():
                for row, predicted, gold in zip(found.rows.tolist(), found.predicted, found.gold, strict=True):
                    lines[row]["tasks"][task] = {"predicted": predicted, "gold": gold}
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _json_value(value: Any) -> Any:
    """The value as JSON has it: arrays as lists, and null for what is not a number."""
    if isinstance(value, Mapping):
        return {key: _json_value(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
