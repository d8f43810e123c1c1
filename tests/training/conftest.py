"""What the training tests share: a trainer from a config dict, batches that are given, two processes."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import accelerate
import datasets
import pytest
import torch
from accelerate.state import PartialState
from torch.utils.data import Sampler

from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.rows import EncodedSplit, encode_rows
from mtl_hf.data.sources import load_sources
from mtl_hf.evaluation.evaluate import encode_split
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.run import build_model, resolve_options
from mtl_hf.tasks import TaskData
from mtl_hf.training.arguments import MultiTaskTrainingArguments
from mtl_hf.training.features import Feature
from mtl_hf.training.trainer import MultiTaskTrainer

F = TypeVar("F", bound=Feature)
TwoProcesses = Callable[[Callable[[], Any]], list[Any]]


@dataclasses.dataclass
class Built:
    """A config's model, tasks and encoded rows, before any trainer."""

    model: MultiTaskModel
    tasks: dict[str, TaskData]
    train: dict[str, datasets.Dataset]
    validation: dict[str, EncodedSplit]


def build(config: Mapping[str, Any]) -> Built:
    """Everything that `mtl_hf.train` makes of a config before its trainer."""
    run = RunConfig.load({key: value for key, value in config.items() if key != "training"})
    sources = load_sources(run)
    tasks = build_tasks(run, sources)
    torch.manual_seed(0)
    model = build_model(run, tasks, resolved=resolve_options(tasks, sources))
    lengths = model.config.max_length, model.config.window_stride
    train = {name: encode_rows(source, "train", tasks, model.tokenizer, *lengths)
             for name, source in sources.items()}  # fmt: skip
    validation = {name: encode_split(source, "validation", tasks, model) for name, source in sources.items()}
    return Built(model, tasks, train, validation)


def make_trainer(built: Built, output_dir: Path | str, **options: Any) -> MultiTaskTrainer:
    """A quiet trainer on the CPU that logs every step, and neither evaluates nor saves unless it is told to."""
    keys = ("batch_sampler", "batch_sizes", "callbacks")
    own = {key: options.pop(key) for key in keys if key in options}
    defaults = {
        "learning_rate": 1e-3,
        "precision": "fp32",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
    }
    arguments = MultiTaskTrainingArguments(output_dir=str(output_dir), **(defaults | options))
    return MultiTaskTrainer(
        built.model, arguments, tasks=built.tasks, train_dataset=built.train, eval_dataset=built.validation, **own
    )


class FixedBatches(Sampler[list[int]]):
    """Global batches that are given: this rank's slice of each, cut into micro-batches of accumulated steps."""

    def __init__(self, batches: list[list[int]], *, pieces: int = 1, rank: int = 0, world_size: int = 1) -> None:
        self.batches = [
            share[piece::pieces] for batch in batches for share in [batch[rank::world_size]] for piece in range(pieces)
        ]

    def set_epoch(self, epoch: int) -> None:
        """The batches are the same in every epoch."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def feature_of(trainer: MultiTaskTrainer, kind: type[F]) -> F:
    """The trainer's feature of a class."""
    (found,) = (feature for feature in trainer.features if type(feature) is kind)
    return found


def task_losses(trainer: MultiTaskTrainer) -> list[dict[str, float]]:
    """The logged unweighted loss of each task, a step after the other."""
    return [
        {name: entry[f"{name}_loss"] for name in trainer.tasks if f"{name}_loss" in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every tensor of a model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def two_processes(tmp_path: Path) -> TwoProcesses:
    """Call a function in two processes over gloo and return what it returned in each."""

    def call(function: Callable[[], Any]) -> list[Any]:
        def run() -> None:
            os.environ["OMP_NUM_THREADS"] = "1"  # unset, accelerate chooses a number and warns
            torch.set_num_threads(1)
            result = function()
            state = PartialState()
            assert state.num_processes == int(os.environ["WORLD_SIZE"]) == 2
            torch.save(result, tmp_path / f"rank{state.process_index}.pt")
            state.wait_for_everyone()

        accelerate.debug_launcher(run, num_processes=2)
        return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]

    return call


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for each test that kills runs: how many kills, how many of those runs ended the same, the seconds."""
    found: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for test, counts in (value for name, value in report.user_properties if name == "kills"):
                found.setdefault(test, Counter()).update({**counts, "seconds": round(report.duration)})
    for test, counter in found.items():
        numbers = ", ".join(f"{number} {name}" for name, number in counter.items() if number)
        terminalreporter.write_line(f"{test}: {numbers}")
