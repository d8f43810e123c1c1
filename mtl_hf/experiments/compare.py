"""`mtl-hf compare`: is one model for all tasks better than one model per task, and what does a setting change?

Notable: every run is a separate process (`mtl-hf train` on a YAML that is kept), so runs do not affect each other,
several can run in parallel, and a stopped comparison continues where it was. A finished run is reused only while its
data, its initial model and the package versions are unchanged. Differences are paired: a bootstrap draws the same test
rows for both variants and all seeds. Inference time and memory are measured on the saved models.
"""

import difflib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, nullcontext
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config import Model, RunConfig, Task, masked_message, masked_overrides, secret_overrides, typed
from ..evaluation.figures import check_matplotlib
from ..evaluation.report import json_value
from ..files import write_atomic
from ..metrics import LOSS_LIKE, interval
from ..saved.models import RUN_FILE, find_checkpoint, num_parameters
from ..tasks import TASK_TYPES, Answers, TaskData, task_type
from ..training.checkpoints import list_checkpoints, newest_checkpoint, remove_checkpoint
from ..training.locks import lock_folder
from .answering import MAXRSS, measure_answering
from .compare_report import comparison_markdown, plot_curves, plot_scores
from .inputs import changed_inputs, run_inputs
from .run_processes import RunProcesses
from .variants import ALONE, TOGETHER, Comparison, PlannedRun, output_override, plan_runs, read_comparison

logger = logging.getLogger(__name__)

INPUTS = ".inputs.json"  # beside a run's folder: the inputs it was started with (`run_inputs`)


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
    """Train each variant with several seeds, score all of them on the same rows, and compare the scores.

    Args:
        config: The YAML of a comparison (`configs/compare/`); or of a run, to compare one model per task with one model
            for all tasks.
        overrides: `a.b=c` changes to the config of every run.
        seeds: Seeds to use instead of those in the file; a number n means 13, 14, ... 12 + n.
        variants: A YAML with (more) variants.
        to: Folder for runs and report; by default `outputs/compare/<name of the file>`. Finished runs in it are reused
            and unfinished ones continued if their data, their initial model and the package versions are unchanged;
            others are trained again.
        jobs: Number of parallel runs, which share the CPU threads.
        dry_run: Check every run up to its first step, then stop.
        plot: Whether to draw the plots `scores` and `curves` (PNG and SVG), which needs matplotlib.

    Returns:
        The content of `comparison.json` (see `collect`); with `dry_run`, the steps of each model.

    Raises:
        ValueError: A file or a run's config is not valid; the folder has other results, has runs of other settings or
            is in use by another comparison; or data changed while runs were trained.
        ChildProcessError: A run failed; the others are finished and kept.
    """
    if plot:
        check_matplotlib()
    if jobs < 1:
        raise ValueError(f"`jobs` is {jobs}; it is at least 1.")
    comparison = read_comparison(config, variants, seeds)
    folder = Path(to) if to is not None else Path("outputs") / "compare" / Path(config).stem
    _check_folder(folder, Path(config).stem)
    first, runs = plan_runs(comparison, folder, overrides)
    with nullcontext() if dry_run else lock_folder(folder, "to"):
        for run in [*first, *runs]:
            _check_plan(run)
        steps = _check_runs(first, runs, jobs)
        if dry_run:
            return {"steps": steps}
        for run in [*first, *runs]:
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(run.beside(".yaml"), run.config.to_yaml())
        _train_all(first, jobs)
        _train_all(runs, jobs)
        for run in [*first, *runs]:
            if changed := _outdated(run):
                raise ValueError(f"while runs were trained, {', '.join(changed)} (first seen at {run.name}). Run the"
                                 " same command again to retrain the affected runs.")  # fmt: skip
        result = collect(comparison, first, runs, Path(config).stem, overrides)
        _write(result, folder)
        if {ALONE, TOGETHER} <= set(comparison.names):
            (one,) = (run for run in runs if run.variant == TOGETHER and run.seed == comparison.seeds[0])
            several = [run for run in runs if run.variant == ALONE and run.seed == comparison.seeds[0]]
            logger.info("Measuring inference time and memory: one model with all heads, and one model per task.")
            result["answering"] = measure_answering(one.folder, {run.model: run.folder for run in several})
            _write(result, folder)
        if plot:
            plot_scores(result, folder)
            plot_curves(result, folder)
    logger.info("Written to %s.", folder)
    return result


def _check_folder(folder: Path, name: str) -> None:
    """Raise an error if the folder has other results than those of the comparison `name`."""
    if (folder / RUN_FILE).exists() or (folder / "config.json").exists():
        raise ValueError(f"`to` is {folder}, which contains a model: choose another folder.")
    path = folder / "comparison.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["name"]
    except (ValueError, LookupError, TypeError):  # `evaluate` writes such a file, too
        found = None
    if found != name:
        whose = "results" if found is None else f"the comparison {found!r}"
        raise ValueError(f"`to` is {folder}, which contains {whose} ({path.name}): choose another folder.")


def _write(result: Mapping[str, Any], folder: Path) -> None:
    write_atomic(folder / "comparison.json", json.dumps(json_value(result), indent=2, ensure_ascii=False) + "\n")
    write_atomic(folder / "comparison.md", comparison_markdown(result))


# ---- running ----


def _finished(run: PlannedRun) -> bool:
    return run.beside(".json").is_file()


def _outdated(run: PlannedRun) -> list[str]:
    """The inputs that changed since a run was started, as phrases; empty if the run can be reused or continued."""
    if not _finished(run) and not list_checkpoints(run.folder):
        return []
    try:
        then = json.loads(run.beside(INPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # trained by an earlier version
        return ["its training data were not recorded"]
    return changed_inputs(then, run_inputs(run.config))


def _check_plan(run: PlannedRun) -> None:
    """Raise an error if the folder has this run with other settings."""
    path = run.beside(".yaml")
    if not path.is_file():
        return
    then, now = path.read_text(encoding="utf-8"), run.config.to_yaml()
    if changed := changed_lines(then, now):
        raise ValueError(
            f"{path.parent.parent.parent} has a comparison with other settings ({run.name}: {'; '.join(changed[:4])}):"
            " choose another folder with --to, or remove this one."
        )


def changed_lines(then: str, now: str) -> list[str]:
    """Lines that occur in only one of two texts, prefixed with `-` or `+`."""
    return [line for line in difflib.ndiff(then.splitlines(), now.splitlines()) if line[0] in "-+"]


def _check_runs(first: Sequence[PlannedRun], runs: Sequence[PlannedRun], jobs: int) -> dict[str, int]:
    """Check one run of each model up to its first step; model → its steps."""
    origins = {run.folder.name: run.config.model for run in first}
    chosen: dict[str, tuple[PlannedRun, list[str]]] = {}
    for run in [*first, *runs]:
        changes = _to_check(run, origins)
        begins_anew = bool(_outdated(run))
        if changes is None or (_finished(run) and not begins_anew):
            continue
        if begins_anew or not run.folder.exists():  # check in another folder, because a check creates and removes it
            changes = [*changes, ""]
        chosen.setdefault(run.folder.parent.name if run.variant else run.name, (run, changes))
    processes = RunProcesses()

    def check(name: str) -> tuple[str, str]:
        run, changes = chosen[name]
        path = Path(scratch) / f"{name.replace('/', '-')}.yaml"
        path.write_text(run.config.to_yaml(), encoding="utf-8")
        changes = [text or output_override(path.with_suffix("")) for text in changes]
        stdout, stderr = path.with_suffix(".out"), path.with_suffix(".err")
        with stdout.open("w", encoding="utf-8") as output, stderr.open("w", encoding="utf-8") as errors:
            code, _ = processes.run(
                "import json, mtl_hf\n"
                "done = mtl_hf.train(sys.argv[1], [*sys.argv[2:], *more], dry_run=True, resume=True)\n"
                "print(json.dumps(done))",
                [str(path), *changes],
                stdout=output,
                stderr=errors,
                environment=_environment(jobs),
                overrides=secret_overrides(run.config),
            )
        lines = (stderr if code else stdout).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return name, masked_message(lines[-1]) if lines else f"exit code {code}"

    logger.info("Checking %d runs up to their first step.", len(chosen))
    steps: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(_each(check, list(chosen), jobs, "Checking", processes)) as results,
    ):
        for name, output in results:
            if not output.startswith("{"):
                raise ValueError(f"{name}: {output.removeprefix('ValueError: ')}")
            steps[name] = json.loads(output)["steps"]
    return steps


def _to_check(run: PlannedRun, origins: Mapping[str, Model]) -> list[str] | None:
    """Overrides with which a run can be checked now; None if it cannot.

    A run that depends on `first` is checked with the initial model of that run in place of its result.
    """
    if not run.needs:
        return []
    origin, model = origins[run.needs[0]], run.config.model
    if origin.encoder is None or not all(task.train for task in run.config.tasks.values()):
        return None
    kept = {key: getattr(origin, key) for key in ("experts", "peft") if model.keeps_heads and not getattr(model, key)}
    changes = {"from": None, "keep": None, "rename": None, "encoder": origin.encoder, **kept}
    return [f"model.{key}={json.dumps(value)}" for key, value in changes.items()]


def _train_all(runs: Sequence[PlannedRun], jobs: int) -> None:
    """Train all runs that are not finished or whose inputs changed, `jobs` in parallel.

    Raises:
        ChildProcessError: Some runs failed; all others have finished.
    """
    outdated: dict[str, list[str]] = {}
    for run in runs:
        if changed := _outdated(run):
            outdated.setdefault("; ".join(changed), []).append(run.name)
            _forget(run)
    for reason, names in outdated.items():
        logger.warning("%d of %d runs are trained again because %s: %s.", len(names), len(runs), reason, _some(names))
    due = [run for run in runs if not _finished(run)]
    if len(due) < len(runs):
        logger.info("%d of %d runs are already finished.", len(runs) - len(due), len(runs))
    jobs = max(1, min(jobs, len(due)))  # a single run gets all threads
    numbers = {run.name: number for number, run in enumerate(runs, start=1)}
    processes = RunProcesses()

    def train(run: PlannedRun) -> str | None:
        if not list_checkpoints(run.folder):  # else they were recorded when it started
            write_atomic(run.beside(INPUTS), json.dumps(run_inputs(run.config), indent=2, ensure_ascii=False) + "\n")
        shown, started = f"Run {numbers[run.name]} of {len(runs)}: {run.name}", time.perf_counter()
        logger.info("%s starts.", shown)
        problem = _train(run, jobs, processes)
        ended = "stopped" if processes.stopping and problem else "failed" if problem else ""
        logger.info("%s, %s%.0f s.", shown, f"{ended} after " if ended else "", time.perf_counter() - started)
        return problem

    with closing(_each(train, due, jobs, "Training", processes)) as results:
        failed = [problem for problem in results if problem]
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(due)} runs failed; the others are kept. The same command continues with these:\n"
            + "\n".join(failed)
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _forget(run: PlannedRun) -> None:
    """Mark a run to be trained again; its files are replaced when it starts."""
    run.beside(".json").unlink(missing_ok=True)
    for checkpoint in list_checkpoints(run.folder):
        remove_checkpoint(checkpoint)
    run.beside(".log").unlink(missing_ok=True)


def _train(run: PlannedRun, jobs: int, processes: RunProcesses) -> str | None:
    """Train or continue one run in a separate process; return the error message if it fails."""
    log, resumed = run.beside(".log"), newest_checkpoint(run.folder) is not None
    with log.open("a", encoding="utf-8") as output:
        code, usage = processes.run(
            "from mtl_hf.run import main\nmain([*sys.argv[1:], *more])",
            [str(run.beside(".yaml")), "--resume" if resumed else "--overwrite"],
            stdout=output,
            stderr=output,
            environment=_environment(jobs),
            overrides=secret_overrides(run.config),
        )
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"  {run.name}: {masked_message(lines[-1]) if lines else f'exit code {code}'} (full log: {log})"
    peak = usage.ru_maxrss * MAXRSS
    write_atomic(run.beside(".json"), json.dumps({"peak_memory": peak, "resumed": resumed}) + "\n")
    for checkpoint in list_checkpoints(run.folder):  # not needed: the best one is saved as the model
        remove_checkpoint(checkpoint)
    return None


def _environment(jobs: int) -> dict[str, str]:
    """Environment of a run with its share of the CPU threads."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return os.environ | ({"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"} if jobs > 1 else {})


def _each(
    function: Callable[[Any], Any], items: Sequence[Any], jobs: int, title: str, processes: RunProcesses
) -> Generator[Any, None, None]:
    """Yield results of a function as they complete, `jobs` in parallel, with a progress bar that names current items.

    If it ends early, no further call starts, and the processes that the function has started are ended.
    """
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
        with logging_redirect_tqdm():  # log lines are printed above the bar
            for future in as_completed([pool.submit(call, item) for item in items]):
                bar.update()
                yield future.result()
    except BaseException:  # also GeneratorExit: the caller stopped reading
        pool.shutdown(wait=False, cancel_futures=True)
        processes.stop()
        raise
    finally:
        pool.shutdown()
        bar.close()


# ---- reading the results of runs ----


def collect(
    comparison: Comparison,
    first: Sequence[PlannedRun],
    runs: Sequence[PlannedRun],
    name: str,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Collect the results of finished runs.

    Returns:
        `name`, `config`, `seeds`, `overrides`; `variants`: name → a dict of the following (lists have one entry per
        seed). `overrides`; `against`: the variant it is compared with; `models`: how many; `parameters`: of all models,
        and how many of them were `trained` (NaN if a run did not record it); `budget`: epochs or steps, and training
        rows; `steps`; `best_steps`: steps up to the chosen checkpoints, None without one; `seconds`: sums over models;
        `peak_memory`: maximum over models; `resumed`: whether a run was resumed, so that its seconds count from there;
        `validation`: task → `metric`, `values` (validation loss at the chosen checkpoint), `mean` and `deviation`;
        `tasks`: task → `metric`, `values`, `mean`, `deviation`, `difference` and `interval` (95 %, of the mean over
        seeds, by a paired bootstrap over test rows); `joint`: the same for the share of a source's rows on which all
        tasks are correct; `gain`: Δm; `curves`: task → per seed, pairs of step and validation metric. `first`: the same
        for the runs of `first`.
    """
    by_variant: dict[str, list[list[PlannedRun]]] = {variant: [] for variant in comparison.names}
    for variant, groups in by_variant.items():
        for seed in comparison.seeds:
            groups.append([run for run in runs if run.variant == variant and run.seed == seed])
    result: dict[str, Any] = {
        "name": name,
        "config": comparison.config,
        "seeds": comparison.seeds,
        "overrides": masked_overrides(_last_of_each([*comparison.overrides, *overrides])),
        "variants": {},
        "first": {run.folder.name: _summary([[run]])[0] for run in first},
    }
    answers: dict[str, dict[tuple[str, str], Any]] = {}
    for variant, groups in by_variant.items():
        result["variants"][variant], answers[variant] = _summary(groups)
        spec = comparison.variants.get(variant)
        result["variants"][variant]["overrides"] = [] if spec is None else masked_overrides(spec.overrides)
    for variant, summary in result["variants"].items():
        other = comparison.against(variant)
        if other == variant:
            continue
        summary["against"] = other
        base = result["variants"][other]
        for section in ("tasks", "joint"):
            for task, numbers in summary[section].items():
                own, others = (answers[name].get((section, task)) for name in (variant, other))
                numbers |= _difference(numbers, base[section].get(task), own, others)
        summary["gain"] = _gains(summary["tasks"], base["tasks"])
    return result


def _last_of_each(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that a later override of the same key replaces."""
    return list({text.partition("=")[0]: text for text in overrides}.values())


def _summary(groups: Sequence[Sequence[PlannedRun]]) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """The numbers of one variant, and the answers that they are computed from.

    `groups` has one entry per seed, with one run or several. Answers are by section (`tasks` or `joint`) and name, with
    the task that scores them, one entry per seed.
    """
    summary: dict[str, Any] = {
        "models": len(groups[0]),
        "parameters": sum(num_parameters(run.folder) for run in groups[0]),
        "trained": sum(_at_end(_state(run), "trained_parameters") for run in groups[0]),
        "budget": "; ".join(dict.fromkeys(_budget(run.config) for run in groups[0])),
        "steps": [], "best_steps": [], "seconds": [], "peak_memory": [], "resumed": False,
        "tasks": {}, "joint": {}, "validation": {}, "curves": {},
    }  # fmt: skip
    found: dict[tuple[str, str], list[tuple[TaskData, Answers]]] = {}
    for group in groups:
        steps, seconds, peaks = 0, 0.0, [0.0]
        best_steps: list[int | None] = []
        by_source: dict[str, dict[str, Answers]] = {}
        for run in group:
            state = _state(run)
            steps += state["global_step"]
            best_steps.append(state["best_global_step"])
            seconds += _at_end(state, "train_runtime")
            took = json.loads(run.beside(".json").read_text(encoding="utf-8"))
            peaks.append(took["peak_memory"])
            summary["resumed"] |= took.get("resumed", False)
            metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
            tasks = _tasks(run)
            for source, by_task in read_predictions(run.folder, tasks).items():
                by_source.setdefault(source, {}).update(by_task)
            for task, numbers in metrics["tasks"].items():
                primary = numbers["primary"]
                entry = summary["tasks"].setdefault(task, {"metric": primary, "values": [], "bounded": True})
                entry["values"].append(numbers[primary])
                entry["bounded"] &= "interval" in numbers
                together = [by_source[source][task] for source in tasks[task].config.sources
                            if task in by_source.get(source, {})]  # fmt: skip
                if together:
                    answers = Answers.join(together)
                    found.setdefault(("tasks", task), []).append((tasks[task], answers))
                curve = [(line["step"], line[f"eval_{task}_{primary}"]) for line in state["log_history"]
                         if f"eval_{task}_{primary}" in line]  # fmt: skip
                summary["curves"].setdefault(task, []).append(curve)
                for metric, loss in _validation_loss(state, task):
                    entry = summary["validation"].setdefault(task, {"metric": metric, "values": []})
                    entry["values"].append(loss)
        summary["steps"].append(steps)
        summary["best_steps"].append(None if None in best_steps else sum(step or 0 for step in best_steps))
        summary["seconds"].append(seconds)
        summary["peak_memory"].append(max(peaks))
        labelled = {task for run in group for task, spec in run.config.tasks.items()
                    if task_type(spec.type).has_vocabulary}  # fmt: skip
        for source, by_task in by_source.items():
            chosen = {task: answers for task, answers in by_task.items() if task in labelled}
            if len(chosen) > 1:
                task_data, answers = _all_right(source, chosen)
                if not len(answers.rows):  # no row has labels of all of them
                    continue
                entry = summary["joint"].setdefault(source, {"metric": "accuracy", "values": [], "bounded": True})
                entry["values"].append(float(answers.correct.mean()))
                entry["bounded"] &= len(answers.rows) > 1
                found.setdefault(("joint", source), []).append((task_data, answers))
    for entry in (entry for section in ("tasks", "joint", "validation") for entry in summary[section].values()):
        values = [value for value in entry["values"] if value is not None]
        entry["mean"] = mean(values) if values else None
        entry["deviation"] = stdev(values) if len(values) > 1 else None
    return summary, found


def _budget(config: RunConfig) -> str:
    """The training budget of a run in words: epochs or steps, and limits on the training rows of sources."""
    steps = typed(int, config.training.get("max_steps", -1), "training.max_steps")
    epochs = typed(float, config.training.get("num_train_epochs", 3), "training.num_train_epochs")
    cut = [f"{spec.max_train_rows:,} of {name}" for name, spec in config.sources.items() if spec.max_train_rows]
    return f"{f'{steps:,} steps' if steps > 0 else f'{epochs:g} epochs'}, rows: {', '.join(cut) or 'all'}"


def _validation_loss(state: Mapping[str, Any], task: str) -> Iterator[tuple[str, float]]:
    """A task's validation loss at the chosen checkpoint, with its name; nothing if there is none."""
    for line in state["log_history"]:
        found = [metric for metric in LOSS_LIKE if f"eval_{task}_{metric}" in line]
        if found and line["step"] == state["best_global_step"]:
            yield found[0], line[f"eval_{task}_{found[0]}"]
            return


def _state(run: PlannedRun) -> dict[str, Any]:
    """The `trainer_state.json` of a run: steps and logs."""
    return json.loads((run.folder / "trainer_state.json").read_text(encoding="utf-8"))


def _at_end(state: Mapping[str, Any], key: str) -> float:
    """A value logged at the end of training; NaN if it was not logged."""
    return next((entry[key] for entry in reversed(state["log_history"]) if key in entry), float("nan"))


def _tasks(run: PlannedRun) -> dict[str, TaskData]:
    """The tasks of a run, with the labels of its model."""
    tasks = {}
    for name, spec in find_checkpoint(run.folder).heads.items():
        if name in run.config.tasks:
            tasks[name] = task_type(spec["type"]).of_head(name, run.config.tasks[name], spec)
    return tasks


def read_predictions(folder: Path, tasks: Mapping[str, TaskData]) -> dict[str, dict[str, Answers]]:
    """Read `predictions.jsonl` as source → task → answers.

    Args:
        folder: The folder of the file.
        tasks: The tasks of its run.
    """
    answers: dict[str, dict[str, Answers]] = {}
    read: dict[tuple[str, str], tuple[list[int], list[Any], list[Any]]] = {}
    with (folder / "predictions.jsonl").open(encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            for task, found in line["tasks"].items():
                rows, predicted, gold = read.setdefault((line["source"], task), ([], [], []))
                rows.append(line["row"])
                own, label = tasks[task].kind.from_line(found)
                predicted.append(own)
                gold.append(label)
    for (source, task), (rows, predicted, gold) in read.items():
        answers.setdefault(source, {})[task] = Answers(np.array(rows, dtype=int), predicted, gold)
    return answers


def _all_right(source: str, by_task: Mapping[str, Answers]) -> tuple[TaskData, Answers]:
    """Joint accuracy as the answers of an additional task: whether all tasks are correct on a row labelled for all."""
    common = sorted(set.intersection(*(set(answers.rows.tolist()) for answers in by_task.values())))
    right = np.ones(len(common), dtype=bool)
    for answers in by_task.values():
        known = dict(zip(answers.rows.tolist(), answers.correct.tolist(), strict=True))
        right &= np.array([known[row] for row in common], dtype=bool)
    kind = next(kind.name for kind in TASK_TYPES.values() if kind.one_name_a_row)
    task = TaskData(source, Task(type=kind, source=source), ["right", "wrong"], "string")
    named = ["right" if correct else "wrong" for correct in right]
    return task, Answers(np.array(common, dtype=int), named, ["right"] * len(named))


def _difference(numbers: Mapping[str, Any], base: Mapping[str, Any] | None, own: Any, other: Any) -> dict[str, Any]:
    """Difference of a variant to the reference on one task, if both have the same metric."""
    if base is None or base["metric"] != numbers["metric"] or None in (numbers["mean"], base["mean"]):
        return {}
    found: dict[str, Any] = {"difference": numbers["mean"] - base["mean"]}
    same_rows = own and other and all(
        np.array_equal(answers.rows, other[0][1].rows) and answers.gold == other[0][1].gold
        for _, answers in [*own, *other]
    )  # fmt: skip
    kept = numbers["metric"] != "cross_entropy"  # not contained in predictions.jsonl
    if numbers["bounded"] and base["bounded"] and same_rows and kept:
        found["interval"] = interval(
            own[0][0], [answers for _, answers in own], against=[answers for _, answers in other]
        )
    return found


def _gains(tasks: Mapping[str, Any], base: Mapping[str, Any]) -> list[float]:
    """Δm of each seed, in percent: the mean over tasks of the relative improvement over the reference.

    Source: Maninis et al. 2019, "Attentive Single-Tasking of Multiple Tasks", section 4; a lower loss is a gain.
    Empty if the reference scores 0 on a task, because the relative change is then undefined.
    """
    shared = [task for task in tasks if task in base and tasks[task]["metric"] == base[task]["metric"]]
    gains = []
    for number in range(min((len(side[task]["values"]) for task in shared for side in (tasks, base)), default=0)):
        changes = []
        for task in shared:
            value, other = (side[task]["values"][number] for side in (tasks, base))
            if value is None or not other:
                return []
            changes.append((-1 if tasks[task]["metric"] in LOSS_LIKE else 1) * 100 * (value - other) / abs(other))
        gains.append(mean(changes))
    return gains
