"""`mtl-hf compare`: does one model for all tasks beat one for each, and what does a setting change?

Notable: every run is a process of its own (`mtl-hf train` on a YAML that is kept), so runs do not disturb each other,
several can go side by side, and a comparison that was stopped goes on where it was. Differences are paired: a bootstrap
draws the same test rows for both variants and all seeds. Time and memory to answer are measured on the saved models.
"""

import dataclasses
import difflib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..config import Task
from ..data.labels import TASK_TYPES, TaskData
from ..metrics import LOSS_LIKE, Answers, interval
from ..modeling.answers import is_span_scheme
from ..training.checkpoints import list_checkpoints, remove_checkpoint, write_whole
from .compare_report import comparison_markdown, plot_curves, plot_scores
from .report import json_value
from .saved_models import find_checkpoint, num_parameters
from .variants import ALONE, TOGETHER, Comparison, PlannedRun, plan_runs, read_comparison

logger = logging.getLogger(__name__)

NUM_TEXTS, BATCH_SIZE, ROUNDS = 512, 32, 3  # of the measurement of answering


def compare(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    seeds: int | Sequence[int] | None = None,
    variants: str | Path | None = None,
    to: str | Path | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    plot: bool = True,
) -> dict[str, Any]:
    """Train each variant with several seeds, score all on the same rows, and say what differs.

    Args:
        config: A comparison's file (`configs/compare/`), or a run's YAML, of which each task alone is compared with
            all together.
        overrides: `a.b=c` changes for every run.
        seeds: Instead of those of the file; a number n means 13, 14, ... 12 + n.
        variants: A YAML with (more) variants.
        to: Folder for runs and report; by default `outputs/compare/<name of the file>`. Finished runs in it are kept,
            unfinished ones go on.
        jobs: Runs at a time, which share the machine's threads.
        dry_run: Check every run up to its first step, then stop.
        plot: Whether to draw `scores` and `curves` (PNG and SVG), which needs matplotlib.

    Returns:
        What `comparison.json` holds (see `collect`); with `dry_run` the steps of each model.

    Raises:
        ValueError: Anything wrong with a file or a run's config, or a folder with runs of other settings.
        ChildProcessError: A run failed; the others are finished and kept.
    """
    if plot and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install 'mtl_hf[plots]', or leave them out with --no-plot.")
    if jobs < 1:
        raise ValueError(f"`jobs` is {jobs}; it is at least 1.")
    comparison = read_comparison(config, variants, seeds)
    folder = Path(to) if to is not None else Path("outputs") / "compare" / Path(config).stem
    first, runs = plan_runs(comparison, folder, overrides)
    for run in [*first, *runs]:
        _check_plan(run)
    steps = _check_runs([*first, *runs], jobs)
    if dry_run:
        return {"steps": steps}
    for run in [*first, *runs]:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        write_whole(run.beside(".yaml"), run.config.to_yaml())
    _train_all(first, jobs)
    _train_all(runs, jobs)
    result = collect(comparison, first, runs, Path(config).stem, overrides)
    write_whole(folder / "comparison.json", json.dumps(json_value(result), indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / "comparison.md", comparison_markdown(result))
    if plot:
        plot_scores(result, folder)
        plot_curves(result, folder)
    logger.info("Written to %s.", folder)
    return result


# ---- running ----


def _finished(run: PlannedRun) -> bool:
    return run.beside(".json").is_file()


def _check_plan(run: PlannedRun) -> None:
    """Refuse a folder in which this run was trained otherwise."""
    path = run.beside(".yaml")
    if not path.is_file():
        return
    then, now = path.read_text(encoding="utf-8"), run.config.to_yaml()
    changed = [line for line in difflib.ndiff(then.splitlines(), now.splitlines()) if line[0] in "-+"]
    if changed:
        raise ValueError(
            f"{path.parent.parent.parent} holds a comparison of other settings ({run.name}: {'; '.join(changed[:4])}):"
            " choose another folder with --to, or remove that one."
        )


def _check_runs(runs: Sequence[PlannedRun], jobs: int) -> dict[str, int]:
    """Check one run of each model up to its first step (but for what has to wait for `first`); model → its steps."""
    chosen: dict[str, PlannedRun] = {}
    for run in runs:
        if not run.needs and not _finished(run):
            chosen.setdefault(run.folder.parent.name if run.variant else run.name, run)

    def check(name: str) -> tuple[str, str]:
        run, path = chosen[name], Path(scratch) / f"{name.replace('/', '-')}.yaml"
        config = run.config
        if not run.folder.exists():  # a check makes folders and removes them: not where others do the same
            config = dataclasses.replace(config, training={**config.training, "output_dir": str(path.with_suffix(""))})
        path.write_text(config.to_yaml(), encoding="utf-8")
        code = "import json, sys, mtl_hf; print(json.dumps(mtl_hf.train(sys.argv[1], dry_run=True, resume=True)))"
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(jobs), check=False)
        lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
        return name, lines[-1] if lines else f"exit code {done.returncode}"

    steps: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, output in _each(check, list(chosen), jobs, "Checking"):
            if not output.startswith("{"):
                raise ValueError(f"{name}: {output.removeprefix('ValueError: ')}")
            steps[name] = json.loads(output)["steps"]
    return steps


def _train_all(runs: Sequence[PlannedRun], jobs: int) -> None:
    """Train what is not finished, `jobs` at a time.

    Raises:
        ChildProcessError: Some failed; all others have been finished.
    """
    due = [run for run in runs if not _finished(run)]
    if len(due) < len(runs):
        logger.info("%d of %d runs are finished already.", len(runs) - len(due), len(runs))
    jobs = max(1, min(jobs, len(due)))  # a run that is alone has all threads
    failed = [problem for problem in _each(lambda run: _train(run, jobs), due, jobs, "Training") if problem]
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(due)} runs failed; the others are kept, and the same command goes on with these:\n"
            + "\n".join(failed)
        )


def _train(run: PlannedRun, jobs: int) -> str | None:
    """Train one run in a process of its own, going on where it was; return what went wrong."""
    (run.folder / "metrics.json").unlink(missing_ok=True)  # of a run that was stopped while it wrote its results
    log = run.beside(".log")
    command = [sys.executable, "-m", "mtl_hf", "train", str(run.beside(".yaml")), "--resume"]
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_environment(jobs))
        _, status, usage = os.wait4(process.pid, 0)  # not `wait`, which does not tell what this process took
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"  {run.name}: {lines[-1] if lines else f'exit code {process.returncode}'} (all of it in {log})"
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    write_whole(run.beside(".json"), json.dumps({"peak_memory": peak}) + "\n")
    for checkpoint in list_checkpoints(run.folder):  # the best is the model itself, and nothing goes on from here
        remove_checkpoint(checkpoint)
    return None


def _environment(jobs: int) -> dict[str, str]:
    """Of a run: its share of the machine's threads."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return os.environ | ({"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"} if jobs > 1 else {})


def _each(function: Callable[[Any], Any], items: Sequence[Any], jobs: int, title: str) -> Iterator[Any]:
    """Results of a function in the order in which they come, `jobs` at a time, under a bar that says what is going."""
    going: list[str] = []
    bar = tqdm(total=len(items), desc=title, unit="run", disable=None if items else True)

    def call(item: Any) -> Any:
        name = getattr(item, "name", str(item))
        going.append(name)
        bar.set_postfix_str(", ".join(going))
        try:
            return function(item)
        finally:
            going.remove(name)

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(call, item) for item in items]):
            bar.update()
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # stopped by the keyboard, nothing more begins
        bar.close()


# ---- reading what runs have left ----


def collect(
    comparison: Comparison,
    first: Sequence[PlannedRun],
    runs: Sequence[PlannedRun],
    name: str,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The comparison of finished runs.

    Returns:
        `name`, `config`, `seeds`, `overrides`; `variants`: name → `overrides`, `against` (the variant that its
        differences are taken to), `models` (how many), `parameters` (of all of them) and how many of these were
        `trained` (NaN for runs that have not noted it), `steps`, `seconds` and `peak_memory` (an entry a seed: sums
        over models, and the largest), `tasks`: task → `metric`, `values` (an entry a seed), `mean`, `deviation`,
        `difference` and `interval` (95 %, of the mean over seeds, by a paired bootstrap over test rows); `joint`: the
        same for the share of a source's rows on which all tasks are right; `gain`: Δm, an entry a seed; `curves`: task
        → an entry a seed, of pairs of step and validation metric. `first`: the same for those runs. `answering`, where
        `alone` and `together` are compared: see `measure_answering`.
    """
    by_variant: dict[str, list[list[PlannedRun]]] = {variant: [] for variant in comparison.names}
    for variant, groups in by_variant.items():
        for seed in comparison.seeds:
            groups.append([run for run in runs if run.variant == variant and run.seed == seed])
    result: dict[str, Any] = {
        "name": name,
        "config": comparison.config,
        "seeds": comparison.seeds,
        "overrides": _last_of_each([*comparison.overrides, *overrides]),
        "variants": {},
        "first": {run.folder.name: _summary([[run]])[0] for run in first},
    }
    answers: dict[str, dict[str, Any]] = {}
    for variant, groups in by_variant.items():
        result["variants"][variant], answers[variant] = _summary(groups)
        spec = comparison.variants.get(variant)
        result["variants"][variant]["overrides"] = [] if spec is None else spec.overrides
    for variant, summary in result["variants"].items():
        other = comparison.against(variant)
        if other == variant:
            continue
        summary["against"] = other
        base = result["variants"][other]
        for section in ("tasks", "joint"):
            for task, numbers in summary[section].items():
                numbers |= _difference(
                    numbers, base[section].get(task), answers[variant].get(task), answers[other].get(task)
                )
        summary["gain"] = _gains(summary["tasks"], base["tasks"])
    if {ALONE, TOGETHER} <= set(by_variant):
        result["answering"] = measure_answering(by_variant[TOGETHER][0][0].folder, {
            run.model: run.folder for run in by_variant[ALONE][0]
        })  # fmt: skip
    return result


def _last_of_each(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that a later one of the same key replaces."""
    return list({text.partition("=")[0]: text for text in overrides}.values())


def _summary(groups: Sequence[Sequence[PlannedRun]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of one variant (an entry of `groups` a seed, of one model or several) its numbers, and its answers by task."""
    summary: dict[str, Any] = {
        "models": len(groups[0]),
        "parameters": sum(num_parameters(run.folder) for run in groups[0]),
        "trained": sum(_at_end(_state(run), "trained_parameters") for run in groups[0]),
        "steps": [], "seconds": [], "peak_memory": [], "tasks": {}, "joint": {}, "curves": {},
    }  # fmt: skip
    found: dict[str, list[tuple[TaskData, Answers]]] = {}
    for group in groups:
        steps, seconds, peaks = 0, 0.0, [0.0]
        by_source: dict[str, dict[str, Answers]] = {}
        for run in group:
            state = _state(run)
            steps += state["global_step"]
            seconds += _at_end(state, "train_runtime")
            peaks.append(json.loads(run.beside(".json").read_text(encoding="utf-8"))["peak_memory"])
            metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
            tasks = _tasks(run)
            for source, by_task in read_predictions(run.folder).items():
                by_source.setdefault(source, {}).update(by_task)
            for task, numbers in metrics["tasks"].items():
                primary = numbers["primary"]
                entry = summary["tasks"].setdefault(task, {"metric": primary, "values": [], "bounded": True})
                entry["values"].append(numbers[primary])
                entry["bounded"] &= "interval" in numbers
                together = [by_source[source][task] for source in tasks[task].config.sources
                            if task in by_source.get(source, {})]  # fmt: skip
                if together:
                    found.setdefault(task, []).append((tasks[task], sum(together[1:], start=together[0])))
                curve = [(line["step"], line[f"eval_{task}_{primary}"]) for line in state["log_history"]
                         if f"eval_{task}_{primary}" in line]  # fmt: skip
                summary["curves"].setdefault(task, []).append(curve)
        summary["steps"].append(steps)
        summary["seconds"].append(seconds)
        summary["peak_memory"].append(max(peaks))
        labelled = {task for run in group for task, spec in run.config.tasks.items()
                    if TASK_TYPES[spec.type].has_vocabulary}  # fmt: skip
        for source, by_task in by_source.items():
            chosen = {task: answers for task, answers in by_task.items() if task in labelled}
            if len(chosen) > 1:
                task_data, answers = _all_right(source, chosen)
                entry = summary["joint"].setdefault(source, {"metric": "accuracy", "values": [], "bounded": True})
                entry["values"].append(float(answers.correct.mean()))
                found.setdefault(source, []).append((task_data, answers))
    for entry in [*summary["tasks"].values(), *summary["joint"].values()]:
        values = [value for value in entry["values"] if value is not None]
        entry["mean"] = mean(values) if values else None
        entry["deviation"] = stdev(values) if len(values) > 1 else None
    return summary, found


def _state(run: PlannedRun) -> dict[str, Any]:
    """What a run's Trainer has left: steps and logs."""
    return json.loads((run.folder / "trainer_state.json").read_text(encoding="utf-8"))


def _at_end(state: Mapping[str, Any], key: str) -> float:
    """What was logged at the end of training; NaN where it was not."""
    return next((entry[key] for entry in reversed(state["log_history"]) if key in entry), float("nan"))


def _tasks(run: PlannedRun) -> dict[str, TaskData]:
    """A run's tasks with the vocabularies of its model."""
    tasks = {}
    for name, spec in find_checkpoint(run.folder).heads.items():
        labels = list(spec.get("labels") or [])
        spans = spec["type"] == "token_classification" and is_span_scheme(labels)
        if name in run.config.tasks:
            tasks[name] = TaskData(name, run.config.tasks[name], labels, spec["text"], spans=spans)
    return tasks


def read_predictions(folder: Path) -> dict[str, dict[str, Answers]]:
    """`predictions.jsonl` as source → task → answers."""
    answers: dict[str, dict[str, Answers]] = {}
    rows: dict[tuple[str, str], list[int]] = {}
    with (folder / "predictions.jsonl").open(encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            for task, found in line["tasks"].items():
                entry = answers.setdefault(line["source"], {}).setdefault(task, Answers(np.zeros(0, dtype=int)))
                entry.predicted.append(found["predicted"])
                entry.gold.append(found["gold"])
                rows.setdefault((line["source"], task), []).append(line["row"])
    for (source, task), numbers in rows.items():
        answers[source][task].rows = np.array(numbers, dtype=int)
    return answers


def _all_right(source: str, by_task: Mapping[str, Answers]) -> tuple[TaskData, Answers]:
    """Whether all tasks are right on a row, of the rows labelled for all: as the answers of one more task."""
    common = sorted(set.intersection(*(set(answers.rows.tolist()) for answers in by_task.values())))
    right = np.ones(len(common), dtype=bool)
    for answers in by_task.values():
        known = dict(zip(answers.rows.tolist(), answers.correct.tolist(), strict=True))
        right &= np.array([known[row] for row in common], dtype=bool)
    task = TaskData(source, Task(type="sequence_classification", source=source), ["right", "wrong"], "string")
    named = ["right" if correct else "wrong" for correct in right]
    return task, Answers(np.array(common, dtype=int), named, ["right"] * len(named))


def _difference(numbers: Mapping[str, Any], base: Mapping[str, Any] | None, own: Any, other: Any) -> dict[str, Any]:
    """What a variant scores more than the reference on one task, where both are scored by the same metric."""
    if base is None or base["metric"] != numbers["metric"] or None in (numbers["mean"], base["mean"]):
        return {}
    found: dict[str, Any] = {"difference": numbers["mean"] - base["mean"]}
    same_rows = own and other and all(
        np.array_equal(answers.rows, other[0][1].rows) and answers.gold == other[0][1].gold
        for _, answers in [*own, *other]
    )  # fmt: skip
    if numbers["bounded"] and base["bounded"] and same_rows:
        found["interval"] = interval(
            own[0][0], [answers for _, answers in own], against=[answers for _, answers in other]
        )
    return found


def _gains(tasks: Mapping[str, Any], base: Mapping[str, Any]) -> list[float]:
    """Δm of each seed, in percent: the mean over tasks of the relative change against the reference.

    Source: Maninis et al. 2019, "Attentive Single-Tasking of Multiple Tasks", section 4; a loss that falls is a gain.
    """
    shared = [task for task in tasks if task in base and tasks[task]["metric"] == base[task]["metric"]]
    gains = []
    for values in zip(
        *(zip(tasks[task]["values"], base[task]["values"], strict=False) for task in shared), strict=True
    ):
        changes = [
            (-1 if tasks[task]["metric"] in LOSS_LIKE else 1) * 100 * (value - other) / abs(other)
            for task, (value, other) in zip(shared, values, strict=True)
            if value is not None and other
        ]
        if changes:
            gains.append(mean(changes))
    return gains


# ---- answering ----


def measure_answering(one: Path, several: Mapping[str, Path]) -> dict[str, Any]:
    """What answering every task takes with one model for all and with one for each, on the same test texts.

    Args:
        one: Folder of the model with all heads.
        several: Task → folder of its own model.

    Returns:
        `texts`, `batch_size`; `seconds` and `bytes` (of weights) by `one` and `several`; `ratio` of the seconds.
        Medians of alternating rounds.
    """
    models = {name: find_checkpoint(folder).load() for name, folder in {"": one, **several}.items()}
    texts = _test_texts(one, {name: spec["text"] for name, spec in models[""].config.heads.items()})
    by_form: dict[str, list[str]] = {}
    for task in several:
        by_form.setdefault("pair" if isinstance(texts[task][0], tuple) else "single", []).append(task)

    def answer_all(chosen: Mapping[str, Any]) -> float:
        started = time.perf_counter()
        for tasks in by_form.values():
            for model, heads in [(chosen[""], tasks)] if "" in chosen else [(chosen[task], [task]) for task in tasks]:
                model.predict(texts[tasks[0]], heads=heads, batch_size=BATCH_SIZE)
        return time.perf_counter() - started

    ways = {"one": {"": models.pop("")}, "several": models}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS + 1):
        for way, chosen in ways.items():
            seconds[way].append(answer_all(chosen))
    medians = {way: median(times[1:]) for way, times in seconds.items()}  # without the round that warms up
    sizes = {
        way: sum(
            value.numel() * value.element_size() for model in chosen.values() for value in model.state_dict().values()
        )
        for way, chosen in ways.items()
    }
    return {
        "texts": sum(len(texts[tasks[0]]) for tasks in by_form.values()), "batch_size": BATCH_SIZE,
        "seconds": medians, "bytes": sizes, "ratio": medians["several"] / medians["one"],
    }  # fmt: skip


def _test_texts(folder: Path, forms: Mapping[str, str]) -> dict[str, list[Any]]:
    """Task → up to `NUM_TEXTS` texts that it was scored on, as `predict` takes them."""
    texts: dict[str, list[Any]] = {task: [] for task in forms}
    with (folder / "predictions.jsonl").open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            for task in line["tasks"]:
                if len(texts[task]) < NUM_TEXTS:
                    single = isinstance(line["text"], str) or forms[task] == "words"
                    texts[task].append(line["text"] if single else tuple(line["text"]))
    return texts
