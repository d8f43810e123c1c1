"""Print rows as the model gets them: words, sub-words and the label of each sub-word."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig, resolve_path
from ..data.labels import build_tasks
from ..data.rows import encode_rows
from ..data.sources import load_sources
from ..modeling.configuration_multitask import own_config
from ..modeling.tags import NO_TOKEN
from ..modeling.tokenizing import add_tokens, default_length, load_tokenizer, longest_input
from ..modeling.windows import TRUNCATE, window_stride
from ..saved.models import RUN_FILE, Checkpoint, find_checkpoint
from ..saved.runs import check_saved_run, log_data
from ..saved.start import find_start
from ..tasks import SourceData, TaskData


def inspect_rows(config: Any, overrides: Sequence[str] = (), *, num_rows: int = 3, split: str = "train") -> str:
    """Show the first rows of every source.

    Args:
        config: A config as for `train`; or a run folder, one of its `checkpoint-N` or a Hub id, whose `run.yaml`,
            labels and tokenizer are used.
        overrides: `a.b=c` changes to the config.
        num_rows: Rows per source.
        split: `train`, `validation` or `test`.

    Returns:
        Text: the labels of each task, then the tokens of each row beside its word labels, below its other labels.

    Raises:
        ValueError: No such config or model, a model without a `run.yaml`, or data that are not valid.
    """
    from transformers import AutoConfig

    saved = find_checkpoint(config) if _names_model(config) else None
    run = RunConfig.load(config, overrides) if saved is None else _run_of(saved, overrides)
    start = find_start(run) if saved is None else None
    checkpoint = start.checkpoint if start else saved
    sources = load_sources(run)
    given = start or saved
    tasks = build_tasks(run, sources, given.vocabularies if given else None)
    words = any(task.form == "words" for task in tasks.values())
    options: dict[str, Any] = {"revision": run.model.revision or "main"}
    if checkpoint:
        encoder, options["revision"] = checkpoint.path, checkpoint.revision or "main"
    else:
        encoder, options["trust_remote_code"] = resolve_path(str(run.model.encoder)), run.model.trust_remote_code
    own = own_config(encoder, **options)
    if own is not None:
        tokenizer = load_tokenizer(encoder, words=words, config=own, **options)
        max_length = own.max_length if saved else run.model.max_length or own.max_length
        overflow, stride = own.overflow, own.stride
    else:
        tokenizer = load_tokenizer(encoder, words=words, **options)
        limit = longest_input(tokenizer, AutoConfig.from_pretrained(encoder, **run.model.encoder_config, **options))
        max_length = run.model.max_length or default_length(encoder, limit, **options)
        overflow, stride = TRUNCATE, None
    if saved is None:
        overflow, stride = run.model.overflow or overflow, stride if run.model.stride is None else run.model.stride
        add_tokens(tokenizer, run.model.add_tokens)
        if run.model.truncation_side is not None:
            tokenizer.truncation_side = run.model.truncation_side
    shared = window_stride(overflow, stride, max_length)
    lines = []
    for name, task in tasks.items():
        shown = ", ".join(task.labels[:20]) + (f", ... ({len(task.labels)})" if len(task.labels) > 20 else "")
        lines.append(f"task {name}: {task.type}{', labels: ' + shown if task.labels else ''}")
    for name, source in sources.items():
        sizes = ", ".join(f"{part} {len(rows):,}" for part, rows in source.splits.items())
        lines += ["", f"source {name}: {sizes} rows, text: {source.form}"]
        if split in source.splits:
            few = source.splits[split].select(range(min(num_rows, len(source.splits[split]))))
            head = SourceData(name, source.form, source.columns, {split: few}, {split: source.gold[split]})
            encoded = encode_rows(head, split, tasks, tokenizer, max_length, shared)
            for row in range(len(few)):
                lines += ["", *_show_row(head, split, row, encoded[row], tasks, tokenizer)]
    return "\n".join(lines)


def _names_model(config: Any) -> bool:
    """Whether `config` is the name of a saved model, not a config."""
    if not isinstance(config, str | Path):
        return False
    return not Path(config).is_file() and Path(config).suffix not in (".yaml", ".yml")


def _run_of(saved: Checkpoint, overrides: Sequence[str]) -> RunConfig:
    """The config of a saved model's training run."""
    if saved.run is None:
        raise ValueError(f"{saved.name} has no {RUN_FILE} that names its data: give a config instead.")
    run = RunConfig.load(saved.run, overrides)
    check_saved_run(run, saved.run)
    log_data(run, saved.run)
    return run


def _show_row(
    source: SourceData, split: str, row: int, encoded: dict[str, Any], tasks: dict[str, TaskData], tokenizer: Any
) -> list[str]:
    gold = {name: labels[row] for name, labels in source.gold[split].items() if tasks[name].config.column is not None}
    lines = [f"  row {row + 1}" + ("  (truncated at max_length)" if encoded["cut"] else "")]
    tags = {name: label for name, label in gold.items() if tasks[name].kind.form == "words"}
    lines += [f"  {name}: {label}" for name, label in gold.items() if name not in tags]
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    if "segments" in encoded and not tags:
        ends = list(itertools.accumulate(encoded["segments"]))
        segments = (tokens[begin:end] for begin, end in zip([0, *ends], ends, strict=False))
        return [*lines, *("  " + " ".join(segment) for segment in segments)]
    if not tags:
        return [*lines, "  " + " ".join(tokens)]
    words = source.splits[split][source.columns[0]][row]
    word_at = {start: word for word, start in enumerate(encoded["word_starts"]) if start != NO_TOKEN}
    lines.append(f"  {'word':<20}{'token':<20}" + "".join(f"{name:<20}" for name in tags))
    for position, token in enumerate(tokens):
        word = word_at.get(position)
        labels = "".join(f"{'' if word is None or tag is None else str(tag[word]):<20}" for tag in tags.values())
        lines.append(f"  {'' if word is None else words[word]:<20}{token:<20}{labels}".rstrip())
    lost = [words[word] for word, start in enumerate(encoded["word_starts"]) if start == NO_TOKEN]
    return [*lines, f"  without a token: {' '.join(lost)}"] if lost else lines
