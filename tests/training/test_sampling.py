"""How sources take turns, from arguments to the rows that are trained: the schedule, its table, resume, processes."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mtl_hf.config import RunConfig
from mtl_hf.data.schedule import (
    FixedBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    TemperatureBatchSampler,
)
from mtl_hf.training.arguments import read_arguments
from mtl_hf.training.sampling import build_schedule, describe_policy, rows_table
from tests.training.conftest import build, make_trainer, weights
from tests.training.test_trainer import numbered_config, planned, record_rows

LENGTHS = {"long": np.arange(103), "short": np.arange(17)}
BATCHES = {"long": 8, "short": 5}  # 13 and 4 batches


def arguments(**changes: Any) -> Any:
    """The arguments that a schedule is built from."""
    defaults = {
        "policy": "round_robin", "stopping_rule": "all_exhausted", "sampling_temperature": None, "examples_cap": None,
        "sampling_probabilities": {}, "seed": 42, "data_seed": None, "process_index": 0, "world_size": 1,
        "max_steps": -1, "num_train_epochs": 3.0, "gradient_accumulation_steps": 1,
    }  # fmt: skip
    return SimpleNamespace(**defaults | changes)


@pytest.mark.parametrize(
    ("changes", "kind", "described"),
    [
        ({}, RoundRobinBatchSampler, "round_robin, all_exhausted"),
        ({"policy": "proportional"}, ProportionalBatchSampler, "proportional"),
        (
            {"policy": "proportional", "examples_cap": 2000},
            TemperatureBatchSampler,
            "proportional, as if no source had more than 2,000 rows",
        ),
        ({"policy": "temperature", "sampling_temperature": math.inf}, TemperatureBatchSampler, "temperature inf"),
        (
            {"policy": "temperature", "sampling_temperature": {"from": 5.0, "to": 1.0}},
            TemperatureBatchSampler,
            "temperature 5 to 1",
        ),
        (
            {"policy": "fixed", "sampling_probabilities": {"long": 0.75, "short": 0.25}},
            FixedBatchSampler,
            "fixed (long 0.75, short 0.25)",
        ),
    ],
)
def test_a_policy_has_its_schedule_and_its_name_on_the_card(changes: dict, kind: type, described: str) -> None:
    asked = arguments(**changes)
    assert type(build_schedule(asked, LENGTHS, BATCHES)) is kind
    assert describe_policy(asked) == described


@pytest.mark.parametrize(
    ("changes", "num_epochs"),
    [
        ({"num_train_epochs": 3.0}, 3),
        ({"num_train_epochs": 2.5}, 3),
        ({"max_steps": 18}, 2),
        ({"max_steps": 18, "gradient_accumulation_steps": 2}, 2),  # 9 steps an epoch, the last of one batch
        ({"max_steps": 19, "gradient_accumulation_steps": 2}, 3),
    ],
)
def test_a_temperature_is_annealed_over_the_epochs_that_the_run_has(changes: dict, num_epochs: int) -> None:
    asked = arguments(policy="temperature", sampling_temperature={"from": 5.0, "to": 1.0}, **changes)
    schedule = build_schedule(asked, LENGTHS, BATCHES)
    assert schedule.num_epochs == num_epochs
    assert [schedule.temperature(0), schedule.temperature(num_epochs - 1)] == [5, 1]
    asked.max_steps = 3
    with pytest.raises(ValueError, match=r"`sampling_temperature: .* changes over the epochs"):
        build_schedule(asked, LENGTHS, BATCHES)


def test_the_table_shows_rows_batches_shares_and_laps_and_every_epoch_of_an_annealed_temperature() -> None:
    rows = {"long": 103, "short": 17}

    def cells(num_steps: int, accumulation: int = 1, **changes: Any) -> tuple[list[list[str]], list[list[str]]]:
        """Of each line what is of an epoch, and what is of the run."""
        schedule = build_schedule(arguments(**changes), LENGTHS, BATCHES)
        lines = rows_table(schedule, rows, BATCHES, num_steps, accumulation).splitlines()
        return [line[:77].split() for line in lines], [line[77:].split() for line in lines]

    header = ["source", "rows", "batch", "batches", "share", "passes/epoch"]
    laps = [["long", "103", "8", "13", "50.0%", "1.00"], ["short", "17", "5", "13", "50.0%", "3.25"]]
    epoch, run = cells(26)
    assert (epoch, run[0]) == ([header, *laps], ["rows", "in", "the", "run", "passes"])
    assert run[1] == ["103", "1.00"]
    assert run[2][0] in ("55", "56"), "three laps of 17 rows, and one batch of 4 or 5"
    assert cells(13, accumulation=2)[1] == run, "as many batches"
    assert cells(39, accumulation=2)[1][1] == ["309", "3.00"]
    equal = [["long", "103", "8", "9", "52.9%", "0.69"], ["short", "17", "5", "8", "47.1%", "2.00"]]
    epoch, run = cells(17, policy="temperature", sampling_temperature=math.inf)
    assert (epoch, run[2]) == ([header, *equal], ["34", "2.00"])
    annealed = {"from": math.inf, "to": 1.0}
    epoch, run = cells(34, policy="temperature", sampling_temperature=annealed, num_train_epochs=2)
    assert epoch == [
        header,
        ["epoch", "1,", "temperature", "inf"],
        *equal,
        ["epoch", "2,", "temperature", "1"],
        ["long", "103", "8", "13", "76.5%", "1.00"],
        ["short", "17", "5", "4", "23.5%", "1.00"],
        ["all", "epochs"],
        ["long", "103", "8"],
        ["short", "17", "5"],
    ]
    assert run[-1] == ["51", "3.00"]
    by_others = rows_table([[0]], rows, BATCHES, 1, 1).splitlines()[1]
    assert by_others.split() == ["long", "103", "8"], "a schedule of others"


@pytest.mark.parametrize("policy", ["round_robin", "proportional"])
def test_the_rows_of_a_run_are_those_that_its_steps_take(policy: str) -> None:
    rows = {"long": 103, "short": 17}
    schedule = build_schedule(arguments(policy=policy), LENGTHS, BATCHES)
    lines = rows_table(schedule, rows, BATCHES, 12, 3).splitlines()[1:]
    taken: list[int] = []
    steps = 0
    for epoch in range(3):
        schedule.set_epoch(epoch)
        batches = list(schedule)
        for begin in range(0, len(batches), 3):  # the last step of an epoch may have fewer
            if steps < 12:
                taken += [row for batch in batches[begin : begin + 3] for row in batch]
                steps += 1
    expected = [sum(row < 103 for row in taken), sum(row >= 103 for row in taken)]
    assert [int(line[77:].split()[0]) for line in lines] == expected


def test_the_fields_are_read_from_yaml(tmp_path: Path) -> None:
    text = "sampling_temperature: {from: .inf, to: 1}\n  policy: temperature\n  examples_cap: 2000\n"
    (tmp_path / "run.yaml").write_text(
        "model: {encoder: e}\nsources: {s: {path: json, text: t}}\n"
        f"tasks: {{a: {{type: regression, source: s, label: l}}}}\ntraining:\n  {text}  output_dir: {tmp_path}\n"
    )
    section = RunConfig.load(tmp_path / "run.yaml").training
    read, plain = read_arguments(section | {"use_cpu": True})
    assert read.sampling_temperature == {"from": math.inf, "to": 1.0}
    assert read.examples_cap == 2000
    assert json.loads(json.dumps(plain["sampling_temperature"])) == read.sampling_temperature


ANNEALED = {"policy": "temperature", "sampling_temperature": {"from": 5.0, "to": 1.0}}
FIXED = {"policy": "fixed", "sampling_probabilities": {"long": 0.3, "short": 0.7}}


@pytest.mark.parametrize("policy", [ANNEALED, FIXED], ids=["annealed", "fixed"])
def test_a_resumed_run_goes_on_with_the_rows_of_its_schedule_bit_for_bit(
    policy: dict[str, Any], encoder_folder: str, tmp_path: Path
) -> None:
    """Interrupted in the middle of the second epoch."""
    options = policy | {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "save_strategy": "steps",
        "save_steps": 10,
        "save_total_limit": None,
    }
    built = build(numbered_config(encoder_folder))
    whole = make_trainer(built, tmp_path / "run", **options)
    seen = record_rows(whole)
    whole.train()
    plan = [rows for epoch in range(3) for _, rows in planned(whole, epoch)]
    assert seen == plan
    assert len(plan) == 21
    for step in (20, 21):
        (tmp_path / "run" / f"checkpoint-{step}").rename(tmp_path / f"later-{step}")
    built_again = build(numbered_config(encoder_folder))
    resumed = make_trainer(built_again, tmp_path / "run", **options)
    seen_again = record_rows(resumed)
    resumed.train(resume_from_checkpoint=True)
    assert seen_again == plan[10:]
    after = weights(built_again.model)
    for name, value in weights(built.model).items():
        assert torch.equal(value, after[name]), name


def test_two_processes_train_the_slices_of_the_same_batches(encoder_folder: str, tmp_path: Path, two_processes) -> None:
    built = build(numbered_config(encoder_folder))

    def train() -> tuple[list[list[int]], list[tuple[str, list[int]]]]:
        trainer = make_trainer(built, tmp_path, num_train_epochs=2, per_device_train_batch_size=4, **ANNEALED)
        seen = record_rows(trainer)
        trainer.train()
        return seen, planned(trainer, 0) + planned(trainer, 1)

    ranks = two_processes(train)
    for rank, (seen, plan) in enumerate(ranks):
        assert plan == ranks[0][1]
        assert seen == [rows[rank::2] for _, rows in plan]
