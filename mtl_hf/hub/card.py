"""The model card: what each head predicts and how to call it, scores, data, training, limits, how to reproduce.

Notable: every run writes a card at its end, pushed or not, from its folder and from facts that only the run has
(labels, schedule, learning rates, hardware); the card of any other folder is made of its files alone. Local paths are
left out.
"""

import collections
import json
import math
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .. import __version__
from ..config import Card, RunConfig, Source, Task, typed
from ..data.rows import EncodedSplit
from ..data.sources import SPLITS, packaged_loaders
from ..evaluation.report import show_number
from ..files import write_atomic
from ..modeling.checking import check_config
from ..modeling.configuration_multitask import MultiTaskConfig
from ..modeling.windows import TRUNCATE, window_stride
from ..saved.models import RUN_FILE, check_folder, check_name, num_parameters, run_file
from ..tasks import SourceData, TaskData, task_type
from ..training.checkpoints import checkpoint_step
from ..training.optimizer import parts_table, trained_share
from ..training.sampling import describe_policy
from ..training.trainer import MultiTaskTrainer
from .markdown import Markdown, code, literal, quoted, table

CARD = "README.md"

# Our metric → its name in the `evaluate` library, if they differ.
_HUB_METRICS = {
    "macro_f1": "f1", "micro_f1": "f1", "matthews": "matthews_correlation", "pearson": "pearsonr",
    "spearman": "spearmanr",
}  # fmt: skip

Scores = dict[str, dict[str, dict[str, Any]]]  # split → task → metric → number


def write_card(
    folder: Path,
    name: str,
    run: RunConfig,
    sources: Mapping[str, SourceData],
    splits: Mapping[str, Mapping[str, EncodedSplit]],
    trainer: MultiTaskTrainer,
    seconds: float,
) -> None:
    """Write the card of a finished run into its folder.

    Args:
        folder: The run folder, with all other files of the run.
        name: Name of the model in the code snippets.
        run: The config of the run.
        sources: Source → its rows and labels.
        splits: Split → source → encoded rows.
        trainer: The trainer of the run.
        seconds: Training time.
    """
    cut = []
    for split, encoded in splits.items():
        num_rows = sum(len(one.rows) for one in encoded.values())
        num_cut = sum(int(np.sum(one.rows["cut"])) for one in encoded.values())
        cut += [f"{num_cut:,} of {num_rows:,} {split} rows"] if num_rows else []
    text = card(
        folder,
        name,
        run,
        data=_data_section(run, sources, trainer.tasks),
        training=_training_section(run, trainer, seconds),
        cut=", ".join(cut),
    )
    write_atomic(folder / CARD, text)


def card(
    folder: Path, name: str, run: RunConfig | None = None, *, data: str = "", training: str = "", cut: str = ""
) -> str:
    """The card of a saved model.

    Args:
        folder: The model's folder, perhaps with `metrics.json` and `trainer_state.json`.
        name: Name of the model in the code snippets.
        run: The config of the run; by default read from `run_file(folder)`.
        data: Markdown about the training data.
        training: Markdown about the training.
        cut: How many of the scored rows were truncated at `max_length`, as text.
    """
    config = read_config(folder)
    yaml = run_file(folder)
    run = run or (RunConfig.load(yaml) if yaml else None)
    sources = run.sources if run else {}
    tasks = dict.fromkeys([name for name in (run.tasks if run else ()) if name in config["heads"]])
    # JSON sorts the heads; the run has them in their original order.
    heads: dict[str, dict[str, Any]] = {name: config["heads"][name] for name in tasks | config["heads"]}
    scores = _read_scores(folder, run, heads)
    origin = _origin(run) if run else ""
    encoder = _hub_id(origin) if origin else None
    named = config["text_config"]["model_type"]
    if run and not run.model.pretrained:
        encoder, named = None, f"{named}, trained from scratch"
    elif encoder:
        named = f"[{encoder}](https://huggingface.co/{encoder})"
    elif origin.startswith("package:"):
        named = f"{code(origin)}, {named}"
    if run and run.model.from_:
        named += ", further trained in another multi-task model"
    title = name.split("/")[-1]
    own = run.card if run else Card()
    card_data = ModelCardData(
        base_model=encoder,
        language=own.language,
        license=own.license,
        pipeline_tag=_pipeline_tag(spec["type"] for spec in heads.values()),
        datasets=sorted({found for source in sources.values() if (found := _dataset_id(source))}) or None,
        library_name="transformers",
        tags=["mtl_hf", "multi-task-learning"],
        model_name=title,
        eval_results=_eval_results(run, heads, scores) or None,
    )
    packages = ("torch", "transformers", "tokenizers", "datasets", "accelerate")
    made = ModelCard.from_template(
        card_data,
        template_path=str(Path(__file__).with_name("model_card.md")),
        title=literal(title),
        name=quoted(name),
        encoder=named,
        num_parameters=f"{num_parameters(folder):,}",
        tasks={task: _task_section(task, spec, run.tasks.get(task) if run else None) for task, spec in heads.items()},
        results=_results_table(heads, scores) + _layer_mixes(folder),
        data=data,
        training=training,
        max_length=config["max_length"],
        stride=window_stride(config.get("overflow", TRUNCATE), config.get("stride"), config["max_length"]),
        cut=cut,
        languages=", ".join([own.language] if isinstance(own.language, str) else own.language or []),
        license=own.license or "",
        needs_peft=any(spec["type"] != "BottleneckConfig" for spec in (config.get("adapters") or {}).values()),
        has_labels=any(spec.get("labels") for spec in heads.values()),
        in_python=any(source.path is None for source in sources.values()),
        pushes=run is not None and "push_to_hub" in run.training,
        run_file=RUN_FILE if run else "",
        versions=", ".join(
            [f"mtl_hf {__version__}", f"Python {platform.python_version()}"]
            + [f"{package} {metadata.version(package)}" for package in packages]
        ),
    )
    return str(made)


def _origin(run: RunConfig) -> str:
    """The public model that a run's encoder comes from, traced back through local models.

    Empty if it is not known.
    """
    seen: set[str] = set()
    while run.model.from_ and run.model.from_ not in seen:
        seen.add(run.model.from_)
        on_hub = run.model.from_.partition("@")[0]
        if run.model.from_.startswith("package:") or _hub_id(on_hub):
            return on_hub
        yaml = run_file(Path(run.model.from_))
        if yaml is None:
            return ""
        run = RunConfig.load(yaml)
    return run.model.encoder or ""


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a saved multi-task model.

    Raises:
        ValueError: There is no such model in the folder.
    """
    path = folder / "config.json"
    if not folder.exists():
        check_name(str(folder), str(folder.resolve()))
    check_folder(str(folder), str(folder))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, not UTF-8
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} does not contain a mapping.")
    if config.get("model_type") != MultiTaskConfig.model_type:
        raise ValueError(f"{folder} is not a saved multi-task model: its type is {config.get('model_type')!r}.")
    check_config(config, str(folder))
    return config


def _pipeline_tag(types: Iterable[str]) -> str | None:
    """The Hub's pipeline tag of the first head; heads that do not predict for raw texts come last."""
    kinds = sorted(map(task_type, types), key=lambda kind: not kind.head.answers_texts)
    return next((kind.pipeline or kind.hub_task for kind in kinds), None)


def _task_section(name: str, spec: Mapping[str, Any], task: Task | None = None) -> str:
    """What a task predicts, and a code snippet that calls it.

    Args:
        name: Name of the task.
        spec: Specification of its head.
        task: Its section of the run's config.
    """
    kind = task_type(spec["type"])
    what, shown = kind.describe(spec, task, code)
    if not kind.head.answers_texts:
        return f"{what}\n\n```python\n{shown.format(name=name)}\n```"
    text, example = _EXAMPLES[spec["text"]]
    # A head without weights uses the encoder's outputs directly.
    untrained = (
        ""
        if spec.get("num_steps") or not kind.has_weights
        else " **It has not been trained: its predictions are random.**"
    )
    snippet = f'model.predict([{example}], heads="{name}")\n# [{{"{name}": {shown}}}]'
    return f"Input: {text}. Output: {what}.{untrained}\n\n```python\n{snippet}\n```"


# Text form → description of the input, and an example.
_EXAMPLES = {
    "string": ("a text", '"The text."'),
    "words": ("a text (a string, or a list of words)", '"The text."'),
    "pair": ("a pair of texts", '("The first text.", "The second text.")'),
    "apart": ("two texts", '("The first text.", "The second text.")'),
    "choices": ("a text with choices", '("The text.", ["One choice.", "Another."])'),
}


# ---- scores ----


def _layer_mixes(folder: Path) -> str:
    """The weights of layers that heads have learnt, by `metrics.json`, as Markdown; empty if there are none."""
    path = folder / "metrics.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("layer_mix", {}) if path.is_file() else {}
    return "".join(
        f"\n\n{code(name)} reads a mix of all layers. Their weights, from the output of the embeddings on:"
        f" {', '.join(f'{weight:.3f}' for weight in weights)}."
        for name, weights in found.items()
    )


def _read_scores(folder: Path, run: RunConfig | None, heads: Iterable[str]) -> Scores:
    """The scores of `metrics.json`, and the validation scores at the step of the saved weights."""
    scores: Scores = {}
    if (folder / "metrics.json").is_file():
        results = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        scores[results["split"]] = results["tasks"]
    if "validation" in scores or not (folder / "trainer_state.json").is_file():
        return scores
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    step = state["global_step"]
    # A run folder, unlike a checkpoint, may contain the weights of an earlier step.
    best = run is not None and typed(bool, run.training.get("load_best_model_at_end", True), "load_best_model_at_end")
    if best and (folder / RUN_FILE).is_file() and state.get("best_model_checkpoint"):
        step = checkpoint_step(state["best_model_checkpoint"])  # the best step may have had no checkpoint
    logged: dict[str, Any] = next(
        (entry for entry in state["log_history"] if entry["step"] == step and "eval_score" in entry), {}
    )
    for key, value in logged.items():
        # If one task's name is a prefix of another's, the longer name matches.
        name = max((name for name in heads if key.startswith(f"eval_{name}_")), key=len, default=None)
        if name is not None:
            scores.setdefault("validation", {}).setdefault(name, {})[key.removeprefix(f"eval_{name}_")] = value
    return scores


def _numbers(own: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Metric → number, the primary one first."""
    names = dict.fromkeys([*([own["primary"]] if "primary" in own else []), *task_type(kind).metrics, *own])
    found = {name: own[name] for name in names if name in own and name != "baseline"}
    return {key: value for key, value in found.items() if isinstance(value, float) and math.isfinite(value)}


def _eval_results(run: RunConfig | None, heads: Mapping[str, Mapping[str, Any]], scores: Scores) -> list[EvalResult]:
    results = []
    seen = set()
    for name, spec in heads.items():
        kind = task_type(spec["type"]).hub_task
        sources = {one: run.sources[one] for one in run.tasks[name].sources} if run and name in run.tasks else {}
        dataset = " + ".join(_dataset_id(source) or own for own, source in sources.items()) or name
        config = " + ".join(str(source.loader["name"]) for source in sources.values() if "name" in source.loader)
        if (kind, dataset, config) in seen:  # results that agree in all of these would be merged into one task
            config = f"{config} {name}".strip()
        seen.add((kind, dataset, config))
        for split, tasks in scores.items():
            for metric, value in _numbers(tasks.get(name, {}), spec["type"]).items():
                results.append(
                    EvalResult(
                        task_type=kind,
                        task_name=name,
                        dataset_type=dataset,
                        dataset_name=" + ".join(sources) or name,
                        dataset_config=config or None,
                        dataset_split=split,
                        metric_type=_HUB_METRICS.get(metric, metric),
                        metric_name=metric,
                        metric_value=round(value, 6),
                    )
                )
    return results


def _results_table(heads: Mapping[str, Mapping[str, Any]], scores: Scores) -> str:
    lines = []
    for split, tasks in sorted(scores.items()):
        for name in [name for name in heads if name in tasks]:
            own = tasks[name]
            for index, (metric, value) in enumerate(_numbers(own, heads[name]["type"]).items()):
                interval = baseline = ""
                if index == 0 and None not in own.get("interval", [None]):  # null: no number
                    interval = " to ".join(show_number(metric, bound, digits=1) for bound in own["interval"])
                if interval and own.get("baseline") is not None:
                    baseline = show_number(metric, own["baseline"], digits=1)
                lines.append(
                    [split, name if index == 0 else "", metric, show_number(metric, value), interval, baseline]
                )
    if not lines:
        return ""
    found = table(["split", "task", "metric", "score", "95 % interval", "majority"], lines)
    return "\n\n".join([found, *_before_training(heads, scores), *_chosen_thresholds(heads, scores)])


def _before_training(heads: Mapping[str, Mapping[str, Any]], scores: Scores) -> Iterator[str]:
    """Scores of the encoder before training, for tasks whose head has no weights."""
    for split, tasks in sorted(scores.items()):
        for name in [name for name in heads if name in tasks]:
            own = tasks[name]
            metric = str(own.get("primary"))
            if "unchanged" not in own and own.get("before", {}).get(metric) is not None:
                yield (
                    f"Before training the encoder scored {show_number(metric, own['before'][metric])} ({metric}) on"
                    f" {literal(name)} ({split})."
                )


def _chosen_thresholds(heads: Mapping[str, Mapping[str, Any]], scores: Scores) -> Iterator[str]:
    """Notes on the validation scores of tasks whose thresholds were chosen on the validation rows."""
    for split, tasks in sorted(scores.items()):
        chosen = ", ".join(literal(name) for name in heads if tasks.get(name, {}).get("thresholds_from"))
        if chosen and split == "validation":
            yield f"The thresholds of {chosen} were chosen on the validation rows, so these scores are optimistic."
        elif chosen and "validation" in scores:
            yield f"The validation scores of {chosen} are those before the thresholds were chosen."


# ---- facts that only the run has ----


def _data_section(run: RunConfig, sources: Mapping[str, SourceData], tasks: Mapping[str, TaskData]) -> str:
    forms = {
        "string": "a string",
        "words": "a list of words",
        "pair": "a pair of strings",
        "choices": "a text with choices",
    }
    rows = []
    for name, source in sources.items():
        sizes = [f"{len(source.splits[split]):,}" if split in source.splits else "" for split in SPLITS]
        rows.append([name, _where(run.sources[name]), forms[source.form], *sizes])
    parts = [table(["source", "from", "text", *SPLITS], rows)]
    for name, task in tasks.items():
        gold: dict[str, list[Any]] = {}
        for split in SPLITS:
            own = [sources[source].gold[split] for source in task.config.sources if split in sources[source].splits]
            if own:
                gold[split] = [label for found in own for label in found[name]]
        title = f"**{name}** ({', '.join(task.config.sources)})"
        if task.config.column is None:
            parts.append(f"{title}, without a label column.")
            continue
        parts.append(f"{title}, {task.kind.label}:")
        parts.append(_label_table(task, gold))
    return "\n\n".join(parts)


def _label_table(task: TaskData, gold: Mapping[str, list[Any]], most: int = 30) -> str:
    """How often each label occurs in each split; for numbers, their distribution."""
    if task.kind.numeric:
        lines = []
        for split, labels in gold.items():
            known = task.kind.in_its_unit(task, np.array([label for label in labels if label is not None]))
            figures = [known.mean(), known.std(), known.min(), known.max()] if len(known) else [math.nan] * 4
            lines.append([split, f"{len(known):,}", *(f"{figure:.4g}" for figure in figures)])
        return table(["split", "rows", "mean", "deviation", "least", "most"], lines)
    counts = {split: collections.Counter(_occurrences(task, labels)) for split, labels in gold.items()}
    order = [label for label, _ in sum(counts.values(), start=collections.Counter()).most_common()]
    lines = [[_label(label), *(f"{count[label]:,}" for count in counts.values())] for label in order[:most]]
    if others := order[most:]:
        rest = [f"{sum(count[label] for label in others):,}" for count in counts.values()]
        lines.append([f"({len(others)} others)", *rest])
    return table(["entities" if task.spans else "label", *counts], lines)


def _occurrences(task: TaskData, labels: Iterable[Any]) -> Iterable[str]:
    """Every label of these rows, with repetitions; for span tags, the types of the spans."""
    for label in labels:
        if label is None:
            yield _UNLABELLED
        else:
            yield from task.kind.occurrences(task, label) or [_NONE]


def _training_section(run: RunConfig, trainer: MultiTaskTrainer, seconds: float) -> str:
    args, state = trainer.args, trainer.state
    plain = args.to_dict()
    batches = ", ".join(f"{size} of {source}" for source, size in trainer.batch_sizes.items())
    chosen = f"of step {state.global_step:,}, the last"
    if args.load_best_model_at_end and state.best_model_checkpoint:
        step = checkpoint_step(state.best_model_checkpoint)
        chosen = f"of step {step:,}, the best checkpoint on validation by {args.metric_for_best_model}"
    resumed = f", counted from step {trainer.resumed_at:,}, where the run was resumed" if trainer.resumed_at else ""
    device = f"{args.device.type} ({platform.machine()}, threads: {torch.get_num_threads()})"
    if args.device.type == "cuda":
        device = torch.cuda.get_device_name()
    scored = [name for name, task in trainer.tasks.items() if not task.config.train]
    lines = {"Started from": _started_from(run)} if run.model.from_ else {}
    lines |= {"Heads that were scored but not trained": ", ".join(scored)} if scored else {}
    lines |= {
        "Schedule of sources": f"{describe_policy(args)}; each batch has rows of one source"
        + "".join(f"; rows of {source} balanced by the labels of {name}" for source, name in trainer.balance.items()),
        "Batch size": f"{batches} (over all processes); batches per step: {args.gradient_accumulation_steps}",
        "Length": f"{state.global_step:,} optimiser steps, {state.epoch or 0:.2f} epochs",
        "Weights": chosen,
        "Optimiser": f"{plain['optim']}, schedule {plain['lr_scheduler_type']}, warm-up {args.warmup_steps:g},"
        f" max. gradient norm {args.max_grad_norm:g}, seed {args.seed}",
        "Hardware": f"{device}, processes: {args.world_size}",
        "Precision and time": f"{args.precision}, {seconds:,.0f} s{resumed}",
    }
    listed = "\n".join(f"- {key}: {value}" for key, value in lines.items())
    return f"{listed}\n\n```\n{parts_table(trainer.parts, args.weight_decay)}\n{trained_share(trainer.parts)}\n```"


def _started_from(run: RunConfig) -> str:
    """The model that a run started from, without local paths."""
    name = str(run.model.from_)
    kept = "its encoder and the heads of the same tasks" if run.model.keeps_heads else "its encoder"
    if found := _hub_id(name.partition("@")[0]):
        return f"{code(name)}, https://huggingface.co/{found}: {kept}"
    return f"{code(name if name.startswith('package:') else Path(name).name)}: {kept}"


# ---- names ----

# Entries in tables of labels that are not labels.
_UNLABELLED, _NONE = Markdown("(row without a label)"), Markdown("(none of them)")


def _label(text: str) -> Markdown:
    """A label as a cell of a table."""
    return text if isinstance(text, Markdown) else Markdown(code(text))


def _hub_id(name: str) -> str | None:
    """`name` if it is a Hub id and not a path, else None."""
    return name if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) and not Path(name).exists() else None


def _dataset_id(source: Source) -> str | None:
    """The Hub id of a source's data set; None for files and for data sets passed in Python."""
    return None if source.path is None or source.path in packaged_loaders() else _hub_id(source.path)


def _where(source: Source) -> Markdown:
    """Where a source's rows come from, without local paths."""
    if source.path is None:
        return Markdown("a data set passed in Python")
    if found := _dataset_id(source):
        name = f", {literal(str(source.loader['name']))}" if "name" in source.loader else ""
        return Markdown(f"[{found}](https://huggingface.co/datasets/{found}){name}")
    packages = sorted(set(re.findall(r"package:(\w+)", f"{source.path} {source.data_files}")))
    kind = source.path if re.fullmatch(r"\w+", source.path) else "a folder"
    return Markdown(f"files of the Python package {', '.join(packages)}" if packages else f"files ({kind})")
