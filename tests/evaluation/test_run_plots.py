"""Plots of a run: what they are drawn from, on which axes, and that they are written where the run lies."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import mtl_hf
from mtl_hf import cli
from mtl_hf.evaluation import run_plots as module
from mtl_hf.evaluation.run_plots import plot_run
from mtl_hf.experiments.compare_report import plot_curves
from tests.conftest import two_source_config

HISTORY = [
    {"step": 1, "loss": 9.0, "ner_loss": 8.0, "ner_tags_loss": 1.0, "ner_weight": 0.5, "ner_tags_weight": 1.5,
     "learning_rate": 1e-3, "lr_embeddings": 1e-5, "lr_encoder.layers.0": 1e-4, "lr_heads.ner_tags": 1e-3},
    {"step": 2, "loss": 1.9, "ner_loss": 0.4, "ner_weight": 0.7, "ner_tags_weight": 1.3,
     "learning_rate": 5e-4, "lr_embeddings": 5e-6, "lr_encoder.layers.0": 5e-5, "lr_heads.ner_tags": 0.0},
    {"step": 2, "eval_score": 0.5, "eval_ner_accuracy": 0.9, "eval_ner_f1": 0.6, "eval_ner_cross_entropy": 0.3,
     "eval_ner_tags_f1": 0.4, "eval_runtime": 1.0},
    {"step": 2, "train_loss": 5.0, "train_runtime": 3.0},
]  # fmt: skip


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Figures by name, instead of files."""
    kept: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> list[Path]:
        kept[path.name] = figure
        return [path]

    monkeypatch.setattr(module, "save_figure", keep)
    yield kept
    plt.close("all")


def run_folder(folder: Path, history: list[dict[str, Any]], primary: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    if primary:
        tasks = {name: {"primary": metric} for name, metric in primary.items()}
        (folder / "metrics.json").write_text(json.dumps({"tasks": tasks}))
    return folder


def lines(axis: Any) -> dict[str, list[tuple[float, float]]]:
    """Label → points."""
    return {line.get_label().strip(): list(zip(*line.get_data(), strict=True)) for line in axis.get_lines()}


def test_each_curve_holds_what_the_log_says(tmp_path: Path, figures: dict[str, Any]) -> None:
    plot_run(run_folder(tmp_path, HISTORY, {"ner": "f1", "ner_tags": "f1"}))
    assert list(figures) == ["learning_rates", "losses", "validation", "loss_weights"]
    (rates,) = figures["learning_rates"].axes
    assert lines(rates) == {
        "embeddings": [(1, 1e-5), (2, 5e-6)],
        "encoder.layers.0": [(1, 1e-4), (2, 5e-5)],
        "heads.ner_tags": [(1, 1e-3)],  # a logarithmic axis has no 0
    }
    assert rates.get_yscale() == "log", "peaks span a factor of 100"
    assert len({line.get_color() for line in rates.get_lines()}) == 3
    ner, tags = figures["losses"].axes
    assert lines(ner) == {"training": [(1, 8.0), (2, 0.4)], "validation, cross_entropy": [(2, 0.3)]}
    assert lines(tags) == {"training": [(1, 1.0)]}
    assert [ner.get_yscale(), tags.get_yscale()] == ["log", "log"], "one kind for all, where one spans a factor of 10"
    assert ner.get_ylabel() == "loss (logarithmic axis)"
    assert [axis.get_title() for axis in figures["validation"].axes] == ["ner, validation", "ner_tags, validation"]
    assert [list(lines(axis).values()) for axis in figures["validation"].axes] == [[[(2, 60)]], [[(2, 40)]]]
    (weights,) = figures["loss_weights"].axes
    assert lines(weights) == {"ner": [(1, 0.5), (2, 0.7)], "ner_tags": [(1, 1.5), (2, 1.3)]}


def test_rates_that_are_the_same_are_one_line_and_openings_are_marked(tmp_path: Path, figures: dict[str, Any]) -> None:
    rates = {"embeddings": 2e-4, "encoder.layers.1": 3e-4, "encoder.layers.0": 3e-4, "encoder.top": 3e-4,
             "heads.ner": 1e-3, "heads.tags": 1e-3}  # fmt: skip
    history = [{"step": step, "loss": 1.0, **{f"lr_{name}": rate * (2 - step) for name, rate in rates.items()}}
               for step in (1, 2)]  # fmt: skip
    plot_run(run_folder(tmp_path, [*history, {"step": 2, "opened_embeddings": 1.0}], {"ner": "f1"}))
    (axis,) = figures["learning_rates"].axes
    *curves, opening = axis.get_lines()
    assert [line.get_label().strip() for line in curves] == [
        "embeddings", "encoder.layers.0 ... encoder.top", "heads.ner, heads.tags"
    ]  # fmt: skip
    assert list(opening.get_xdata()) == [2, 2]
    assert axis.get_yscale() == "linear"
    assert axis.get_ylim()[0] == 0
    assert list(curves[0].get_ydata()) == [2e-4, 0]


def test_conflicts_are_drawn_a_row_a_part_and_a_column_a_step(tmp_path: Path, figures: dict[str, Any]) -> None:
    folder = run_folder(tmp_path, HISTORY)
    cosines = [{"embeddings": 0.1, "encoder.layers.0": -0.4, "all": -0.1},
               {"embeddings": None, "encoder.layers.0": 0.2, "all": 0.2}]  # fmt: skip
    logged = [{"step": 50 * (number + 1), "steps": {}, "pairs": [{"tasks": ["tags", "ner"], "cosines": found}]}
              for number, found in enumerate(cosines)]  # fmt: skip
    (folder / "gradient_conflicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    plot_run(folder)
    panel = figures["gradient_conflicts"].axes[0]
    assert panel.get_title() == "ner and tags"
    assert [label.get_text() for label in panel.get_yticklabels()] == ["layers.0", "embeddings"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["50", "100"]
    assert panel.images[0].get_array().tolist() == [[-0.4, 0.2], [0.1, None]]
    assert panel.images[0].get_clim() == (-0.4, 0.4)


def test_what_is_not_logged_is_not_drawn(tmp_path: Path, figures: dict[str, Any]) -> None:
    history = [{key: value for key, value in line.items() if "weight" not in key} for line in HISTORY[:2]]
    plot_run(run_folder(tmp_path, history))
    assert list(figures) == ["learning_rates", "losses"]
    with pytest.raises(ValueError, match="the log is still empty"):
        plot_run(run_folder(tmp_path / "empty", [{"step": 2, "train_loss": 1.0}]))


def test_few_points_are_marked_since_a_line_of_one_is_not_seen(tmp_path: Path, figures: dict[str, Any]) -> None:
    many = [HISTORY[0] | {"step": step} for step in range(1, 31)]
    for history, marker in ((HISTORY[:1], "o"), (many, "None")):
        plot_run(run_folder(tmp_path, history))
        shown = [line for name in ("learning_rates", "losses", "loss_weights") for axis in figures[name].axes
                 for line in axis.get_lines()]  # fmt: skip
        assert [line.get_marker() for line in shown] == [marker] * 7


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_logged_only_evaluations_is_drawn_by_them(
    finished: bool, tmp_path: Path, figures: dict[str, Any]
) -> None:
    run_folder(tmp_path, HISTORY[2:], {"ner": "f1", "ner_tags": "f1"} if finished else None)
    if not finished:
        tasks = {name: {"type": "token_classification", "source": "s", "label": name} for name in ("ner", "ner_tags")}
        sources = {"s": {"path": "json", "text": "tokens"}}
        config = {"model": {"encoder": "e"}, "sources": sources, "tasks": tasks, "training": {}}
        (tmp_path / "run.yaml").write_text(json.dumps(config))
    plot_run(tmp_path)
    assert list(figures) == ["losses", "validation"]
    assert [lines(axis) for axis in figures["losses"].axes] == [{"validation, cross_entropy": [(2, 0.3)]}]
    assert [axis.get_title() for axis in figures["validation"].axes] == ["ner, validation", "ner_tags, validation"]


def test_a_run_that_goes_on_is_drawn_up_to_its_newest_checkpoint(tmp_path: Path, figures: dict[str, Any]) -> None:
    run_folder(tmp_path / "checkpoint-1", HISTORY[:1])
    run_folder(tmp_path / "checkpoint-10", HISTORY[:2])
    plot_run(tmp_path)
    assert len(lines(figures["learning_rates"].axes[0])["embeddings"]) == 2
    with pytest.raises(ValueError, match=r"has no trainer_state\.json: it is not a run folder"):
        plot_run(tmp_path / "nowhere")


def test_a_run_is_drawn_into_its_folder_and_cleared_with_it(encoder_folder: str, tmp_path: Path) -> None:
    config = two_source_config(encoder_folder, tmp_path / "run", max_steps=2, logging_steps=1)
    mtl_hf.train(config)
    cli.main(["plot", str(tmp_path / "run")])
    names = {f"{name}.{ending}" for name in ("learning_rates", "losses", "validation") for ending in ("png", "svg")}
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == names
    assert all(path.stat().st_size > 1000 for path in (tmp_path / "run" / "plots").iterdir())
    mtl_hf.train(config, overwrite=True)
    assert not (tmp_path / "run" / "plots").exists()


def test_plots_without_matplotlib_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'mtl_hf\[plots\]'"):
        plot_run(tmp_path)


@pytest.mark.parametrize(("metric", "scale"), [("perplexity", "log"), ("accuracy", "linear")])
def test_curves_of_a_comparison_are_logarithmic_for_losses_only(
    metric: str, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr("mtl_hf.experiments.compare_report.save_figure", lambda figure, path: kept.append(figure))
    variant = {"tasks": {"lm": {"metric": metric}}, "curves": {"lm": [[(1, 900.0), (2, 40.0)], [(1, 800.0)]]}}
    plot_curves({"first": {}, "variants": {"one": variant, "two": variant | {"curves": {"lm": [[]]}}}}, tmp_path)
    (axis,) = kept[0].axes
    assert axis.get_yscale() == scale
    assert math.isclose(axis.get_lines()[0].get_ydata()[0], 900 * (1 if scale == "log" else 100))
    plt.close("all")
