"""Tests of `mtl_hf.training.progress`: what adds up from one line of the log to the next."""

from types import SimpleNamespace

import pytest
import torch

from mtl_hf.training.progress import LogSums


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
