"""The results of a search: its trials, the importance of each parameter, and a plot of both.

Notable: importance refers to settings, not to values, and gets more reliable with more trials. If it is not available,
the report gives the reason.
"""

import csv
import io
import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ..evaluation.figures import COLOURS, save_figure
from ..files import write_atomic
from ..metrics import loss_of, show_logged
from .study import REASON
from .trials import Goal

MIN_TRIALS = 6  # complete trials needed to compute importance
BEST_SHARE = 0.25  # importance: what distinguishes this share of the complete trials
_SHOWN = 10  # complete trials shown in the table
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
           TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}  # fmt: skip


def summary(study: optuna.Study, goal: Goal) -> dict[str, Any]:
    """Summarize a study as plain data.

    Returns:
        `metric`; `maximize`: whether higher is better; `trials`, by number: `number`, `state` (complete, pruned,
        failed), `value` (for a pruned trial its last value; None if it is not finite or the trial failed),
        `evaluations`, `seconds`, `settings` (name → value) and `reason` (why it failed); `best`: number of the best
        trial, None if none is complete; `importance`: name → share, most important first; `unclear`: why importance
        is not available, else empty.
    """
    trials = [_plain(trial) for trial in study.get_trials(deepcopy=False)]
    importance, unclear = _importance(study)
    complete = any(trial["state"] == "complete" for trial in trials)
    return {
        "metric": goal.metric,
        "maximize": goal.maximize,
        "trials": trials,
        "best": study.best_trial.number if complete else None,
        "importance": importance,
        "unclear": unclear,
    }


def _plain(trial: FrozenTrial) -> dict[str, Any]:
    reason = trial.user_attrs.get(REASON, "its process was stopped" if trial.state == TrialState.FAIL else "")
    return {
        "number": trial.number,
        "state": _STATES[trial.state],
        "value": trial.value,
        "evaluations": len(trial.intermediate_values),
        "seconds": trial.duration.total_seconds() if trial.duration is not None else None,
        "settings": dict(trial.params),
        "reason": reason,
    }


def _importance(study: optuna.Study) -> tuple[dict[str, float], str]:
    """Importance of each setting for being among the best quarter of trials (sum 1), or why it is not available.

    Source: PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({name for trial in complete for name in trial.params})
    if len(names) == 1:
        return {}, f"only {names[0]} was searched"
    if len(complete) < MIN_TRIALS:
        return {}, f"{len(complete)} trials are complete, at least {MIN_TRIALS} are needed"
    if len({trial.value for trial in complete}) == 1:
        return {}, "all complete trials have the same score"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that trials tie
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE))
    if not sum(found.values()) > 0:
        return {}, "the best trials have the same settings as the others"
    return found, ""


def show_value(value: Any) -> str:
    """Format a setting's value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _show_score(metric: str, value: float | None) -> str:
    return "not finite" if value is None else show_logged(metric, value)


def show_settings(settings: Mapping[str, Any]) -> str:
    """Format a trial's settings on one line."""
    return "  ".join(f"{name.removeprefix('training.')}={show_value(value)}" for name, value in settings.items())


def trial_line(study: optuna.Study, number: int, goal: Goal) -> tuple[str, bool]:
    """A line with the result of a trial and of the best one, and whether the trial failed."""
    metric = goal.metric
    trial = _plain(study.get_trials(deepcopy=False)[number])
    if trial["state"] == "failed":
        return f"failed: {trial['reason']}", True
    line = f"{metric} {_show_score(metric, trial['value'])}"
    if trial["state"] == "pruned":
        line += f", pruned after evaluation {trial['evaluations']}"
    best = study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None
    if best is not None and best.value is not None:
        line += f"; best: {show_logged(metric, best.value)} of trial {best.number}"
    return f"{line} ({trial['seconds']:.0f} s)", False


def search_table(result: Mapping[str, Any]) -> str:
    """A table of the best trials, failed trials, and parameter importance."""
    metric = result["metric"]
    by_state: dict[str, list[dict[str, Any]]] = {}
    for trial in result["trials"]:
        by_state.setdefault(trial["state"], []).append(trial)
    complete = sorted(by_state.get("complete", []), key=lambda trial: trial["value"], reverse=result["maximize"])
    lines = [", ".join(f"{len(trials)} {state}" for state, trials in by_state.items())]
    lines += [f"{'trial':>6}{metric:>12}{'seconds':>9}  settings"]
    lines.append("-" * 80)
    for trial in [*complete[:_SHOWN], *by_state.get("failed", [])]:
        value = "failed" if trial["state"] == "failed" else show_logged(metric, trial["value"])
        seconds = "" if trial["seconds"] is None else f"{trial['seconds']:.0f}"
        lines.append(f"{trial['number']:>6}{value:>12}{seconds:>9}  {show_settings(trial['settings'])}")
        if trial["reason"]:
            lines.append(f"{'':29}{trial['reason']}")
    lines.append("")
    if result["importance"]:
        lines.append(f"parameter importance (for being among the best {BEST_SHARE:.0%} of complete trials)")
        lines += [f"{name:<48}{share:>8.0%}" for name, share in result["importance"].items()]
    else:
        lines.append(f"Parameter importance is not available: {result['unclear']}.")
    return "\n".join(lines)


def write_trials(folder: Path, result: Mapping[str, Any]) -> None:
    """Write all trials to `trials.csv`, with one column per setting; scores are fractions."""
    names = list(dict.fromkeys(name for trial in result["trials"] for name in trial["settings"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", result["metric"], "evaluations", "seconds", *names, "reason"])
    for trial in result["trials"]:
        own = [trial["settings"].get(name) for name in names]
        writer.writerow([*(trial[key] for key in ("number", "state", "value", "evaluations", "seconds")), *own,
                         trial["reason"]])  # fmt: skip
    write_atomic(folder / "trials.csv", text.getvalue())


def plot_importance(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Plot parameter importance and, beside it, the score of each trial and the best so far, as `importance`."""
    import matplotlib.pyplot as plt

    names, metric = list(result["importance"])[::-1], result["metric"]
    size = (10.5, 1.6 + max(1.8, 0.32 * len(names)))
    figure, (bars, history) = plt.subplots(1, 2, figsize=size, layout="constrained")
    bars.barh(names, [result["importance"][name] for name in names], color=COLOURS[0])
    bars.set_xlabel(f"importance for being in the best {BEST_SHARE:.0%}")
    bars.tick_params(axis="y", labelsize=8)
    scale = 1 if loss_of(metric) else 100
    for place, state in enumerate(("complete", "pruned")):
        found = [(trial["number"], scale * trial["value"]) for trial in result["trials"]
                 if trial["state"] == state and trial["value"] is not None]  # fmt: skip
        if found:
            history.scatter(*zip(*found, strict=True), s=18, color=COLOURS[place], label=state)
    complete = [trial for trial in result["trials"] if trial["state"] == "complete"]
    better = max if result["maximize"] else min
    best = list(itertools.accumulate((scale * trial["value"] for trial in complete), better))
    numbers = [trial["number"] for trial in complete]
    history.step(numbers, best, where="post", color=COLOURS[2], linewidth=1.4, label="best so far")
    history.set_xlabel("trial")
    history.set_ylabel(f"{metric}, validation")
    history.grid(alpha=0.3)
    history.legend(fontsize=7)
    return save_figure(figure, folder / "importance")
