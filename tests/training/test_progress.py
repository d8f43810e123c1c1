"""Tests of `mtl_hf.training.progress`: what adds up from one line of the log to the next, lines and bars."""

import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState

from mtl_hf.data.collator import EncodedRows
from mtl_hf.training.arguments import MultiTaskTrainingArguments
from mtl_hf.training.progress import LogSums, ScoreProgressCallback, kept_log


@pytest.mark.parametrize("num_processes", [1, 2])
def test_losses_are_means_over_the_steps_that_had_the_task(num_processes: int) -> None:
    def reduce(sums: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "sum"
        return sums * num_processes  # the others did the same

    accelerator = SimpleNamespace(num_processes=num_processes, device=torch.device("cpu"), reduce=reduce)
    sums = LogSums(["intent", "stars", "slots"])
    first = torch.tensor(1.0, requires_grad=True)
    sums.add_loss("intent", first)
    sums.add_loss("intent", torch.tensor(2.0))  # two micro-batches of a step
    sums.add_loss("intent", torch.tensor(5.0))
    for task in ("intent", "intent", "slots"):  # `slots` has its items on another process
        sums.add_step(task)
    sums.labelled_rows, sums.seconds = 12, 4.0
    assert sums.take(accelerator) == {
        "intent_loss": 4.0, "slots_loss": 0.0, "labelled_rows_per_second": 3.0 * num_processes}  # fmt: skip
    assert first.item() == 1.0, "losses are not added to in place"
    sums.seconds = 1.0
    assert sums.take(accelerator) == {"labelled_rows_per_second": 0.0}


def test_weights_of_losses_stand_beside_them() -> None:
    logs = {"loss": 1.5, "intent_loss": 1.0, "stars_loss": 0.5, "stars_weight": 1.234567, "learning_rate": 1e-3,
            "labelled_rows_per_second": 7.0}  # fmt: skip
    line = ScoreProgressCallback({"intent": "accuracy", "stars": "pearson"}).line(TrainerState(), logs)
    assert "(intent 1.0000  stars 0.5000 x1.23)" in line


@pytest.mark.parametrize(
    ("rates", "shown"),
    [
        ({"embeddings": 1e-4, "encoder.layers.0": 1.1e-4, "encoder.layers.1": 1.3e-4, "heads.a": 4.4e-4},
         "lr encoder 1.3e-04 / heads 4.4e-04"),
        ({"heads.a": 4.4e-4, "heads.b": 5e-4}, "lr heads 5.0e-04"),
        ({"adapters.a": 2e-4, "experts": 3e-4, "heads.a": 1e-5},
         "lr adapters 2.0e-04 / experts 3.0e-04 / heads 1.0e-05"),
    ],
)  # fmt: skip
def test_the_rates_of_encoder_and_heads_are_shown_by_name(rates: dict[str, float], shown: str) -> None:
    logs = {"loss": 1.5, "lr_a_loss": 1.5, "lr_heads_loss": 9.0, "learning_rate": 1.0, "labelled_rows_per_second": 7.0}
    logs |= {f"lr_{part}": rate for part, rate in rates.items()}
    line = ScoreProgressCallback({"lr_a": "accuracy"}).line(TrainerState(), logs)
    assert f"  {shown}  7 labelled rows/s" in line


def test_bars_of_an_evaluation_name_their_sources() -> None:
    callback, arguments, state = ScoreProgressCallback({}), SimpleNamespace(disable_tqdm=False), TrainerState()
    named = []
    for source in ("assistant", "reviews"):
        rows = datasets.Dataset.from_dict({"input_ids": [[1], [2]]})
        loader = DataLoader(EncodedRows({source: rows}))
        for _ in range(2):
            callback.on_prediction_step(arguments, state, TrainerControl(), eval_dataloader=loader)
        named.append(callback.prediction_bar.desc)
    callback.on_evaluate(arguments, state, TrainerControl())
    assert named == ["assistant: ", "reviews: "]


def end_badly(path: Path) -> None:
    with kept_log() as log_to:
        log_to(path)
        raise FloatingPointError("loss is nan")


def test_the_log_of_a_run_is_kept_from_its_beginning_with_its_error_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    package = logging.getLogger("mtl_hf")
    before = list(package.handlers)
    package.setLevel(logging.INFO)
    try:
        with kept_log() as log_to:
            logging.getLogger("mtl_hf.data.sources").info("loaded %d rows", 7)
            assert not path.exists()
            log_to(path)
            package.warning("token=%s", "abcdefgh")
        with pytest.raises(FloatingPointError):
            end_badly(path)
        with pytest.raises(ValueError, match="wrong"), kept_log():
            raise ValueError("wrong from the start")
    finally:
        package.setLevel(logging.NOTSET)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in lines] == [
        "loaded 7 rows", "token=***", "FloatingPointError: loss is nan",
    ]  # fmt: skip
    assert package.handlers == before


def test_a_bar_is_drawn_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MultiTaskTrainingArguments(str(tmp_path)).disable_tqdm is True
    assert MultiTaskTrainingArguments(str(tmp_path), disable_tqdm=False).disable_tqdm is False
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert MultiTaskTrainingArguments(str(tmp_path)).disable_tqdm is False
