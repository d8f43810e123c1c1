"""The schedule of sources, from a run's arguments: checks of its fields, the schedule itself, and its table.

Notable: fields are checked with the arguments as far as possible without data, the rest when the schedule is built;
both happen before the first step. The schedules are in `data/schedule.py`.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from ..config import OurTraining, check_keys
from ..data.schedule import (
    FixedBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    SourceBatchSampler,
    TemperatureBatchSampler,
)
from ..tasks import TaskData

# Field → the policies that use it.
_BELONGS = {
    "stopping_rule": ("round_robin",),
    "sampling_temperature": ("temperature",),
    "sampling_probabilities": ("fixed",),
    "examples_cap": ("proportional", "temperature"),
}


def check_sampling(arguments: OurTraining) -> None:
    """Check `policy` and its fields, as far as possible without data.

    Raises:
        ValueError: A field of another policy, a missing field, or a value that is not valid.
    """
    policy = arguments.policy
    given = {
        "stopping_rule": arguments.stopping_rule != "all_exhausted",
        "sampling_temperature": arguments.sampling_temperature is not None,
        "sampling_probabilities": bool(arguments.sampling_probabilities),
        "examples_cap": arguments.examples_cap is not None,
    }
    for name, policies in _BELONGS.items():
        if given[name] and policy not in policies:
            raise ValueError(
                f"`{name}` only works with `policy: {' or '.join(policies)}`, but `policy` is {policy}: change one."
            )
    if policy == "temperature":
        if arguments.sampling_temperature is None:
            raise ValueError("`policy: temperature` needs `sampling_temperature`: a number, or {from: 5, to: 1}.")
        if isinstance(arguments.sampling_temperature, Mapping):
            check_keys(arguments.sampling_temperature, ("from", "to"), "sampling_temperature")
            if missing := [key for key in ("from", "to") if key not in arguments.sampling_temperature]:
                raise ValueError(
                    f"`sampling_temperature` has no `{missing[0]}`; it is a number, or {{from: 5, to: 1}}."
                )
        for value in _ends(arguments.sampling_temperature):
            if not value > 0:
                raise ValueError(
                    f"`sampling_temperature` is {value:g}; it is above 0: 1 is proportional, .inf gives equal shares."
                )
    if policy == "fixed":
        if not given["sampling_probabilities"]:
            raise ValueError("`policy: fixed` needs `sampling_probabilities`: {source: share, ...} for every source.")
        for source, value in arguments.sampling_probabilities.items():
            if not 0 < value <= 1:
                raise ValueError(
                    f"`sampling_probabilities.{source}` is {value:g}; it is above 0 and at most 1 (to leave out a"
                    " source, remove it from `sources`)."
                )
        total = sum(arguments.sampling_probabilities.values())
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"`sampling_probabilities` sum to {total:g}; they must sum to 1.")
    if arguments.examples_cap is not None and arguments.examples_cap < 1:
        raise ValueError(f"`examples_cap` is {arguments.examples_cap}; it is at least 1 row.")


def build_schedule(
    arguments: Any,
    lengths: Mapping[str, Sequence[int] | np.ndarray],
    batch_sizes: Mapping[str, int],
    labels: Mapping[str, np.ndarray] | None = None,
) -> Sampler[list[int]]:
    """Create the schedule of `policy`.

    Args:
        arguments: `MultiTaskTrainingArguments`.
        lengths: Source → token length of each of its rows, in the order of turns.
        batch_sizes: Source → global batch size.
        labels: Source → label of each of its rows, of balanced sources.

    Raises:
        ValueError: See the schedules.
    """
    shared: dict[str, Any] = {
        "labels": labels,
        "seed": arguments.data_seed if arguments.data_seed is not None else arguments.seed,
        "rank": arguments.process_index,
        "world_size": arguments.world_size,
    }
    if arguments.policy == "round_robin":
        return RoundRobinBatchSampler(lengths, batch_sizes, stopping_rule=arguments.stopping_rule, **shared)
    if arguments.policy == "fixed":
        return FixedBatchSampler(lengths, batch_sizes, probabilities=arguments.sampling_probabilities, **shared)
    proportional = ProportionalBatchSampler(lengths, batch_sizes, **shared)
    if arguments.policy == "proportional" and arguments.examples_cap is None:
        return proportional
    steps = math.ceil(len(proportional) / arguments.gradient_accumulation_steps)  # of an epoch, the same for all shares
    epochs = arguments.max_steps / steps if arguments.max_steps > 0 else arguments.num_train_epochs
    ends = _ends(1.0 if arguments.sampling_temperature is None else arguments.sampling_temperature)
    options = {"temperature": ends, "examples_cap": arguments.examples_cap, "num_epochs": math.ceil(epochs)}
    return TemperatureBatchSampler(lengths, batch_sizes, **options, **shared)


def check_batches(tasks: Mapping[str, TaskData], batch_sizes: Mapping[str, int], world_size: int) -> None:
    """Check that batches are large enough for tasks that compare rows of a batch, such as `ranking`.

    Args:
        tasks: Task name → task.
        batch_sizes: Source → global batch size.
        world_size: Number of processes that share a batch.

    Raises:
        ValueError: A process would get too few rows.
    """
    for name, task in tasks.items():
        least = task.kind.fewest_rows(task.options)
        few = [one for one in task.config.sources if one in batch_sizes and batch_sizes[one] // world_size < least]
        if least > 1 and few:
            raise ValueError(
                f"`sources.{few[0]}.batch_size` is {batch_sizes[few[0]]}; task {name!r} ranks the texts of a"
                f" batch, so each process needs at least {least} rows per batch (more rows give a better signal)."
            )


def _ends(temperature: float | Mapping[str, float]) -> tuple[float, float]:
    """The temperatures of the first and the last epoch."""
    if isinstance(temperature, Mapping):
        return temperature["from"], temperature["to"]
    return temperature, temperature


def describe_policy(arguments: OurTraining) -> str:
    """Describe the schedule of sources, for the model card."""
    found: str = arguments.policy
    if found == "round_robin":
        found += f", {arguments.stopping_rule}"
    if arguments.sampling_temperature is not None:
        first, last = _ends(arguments.sampling_temperature)
        found += f" {first:g}" + (f" to {last:g}" if last != first else "")
    if arguments.sampling_probabilities:
        found += f" ({', '.join(f'{name} {share:g}' for name, share in arguments.sampling_probabilities.items())})"
    return found + (
        f", as if no source had more than {arguments.examples_cap:,} rows" if arguments.examples_cap else ""
    )


def rows_table(
    sampler: Any, rows: Mapping[str, int], batch_sizes: Mapping[str, int], num_steps: int, accumulation: int
) -> str:
    """A table of the contribution of each source.

    Per epoch: its batches, their share of all batches, and how often its rows are seen. Over the run: the number of
    rows, and how often each is seen. With an annealed temperature, one line per source and epoch.

    Args:
        sampler: The schedule; for a custom one only rows and batch sizes are known.
        rows: Source → its training rows.
        batch_sizes: Source → global batch size.
        num_steps: Steps of the run.
        accumulation: Batches per step.
    """
    lines = [
        f"{'source':<24}{'rows':>10}{'batch':>8}{'batches':>10}{'share':>9}{'passes/epoch':>16}"
        f"{'rows in the run':>18}{'passes':>8}"
    ]
    sizes = {name: f"{name:<24}{rows[name]:>10,}{batch_sizes[name]:>8}" for name in rows}
    if not isinstance(sampler, SourceBatchSampler):
        return "\n".join([*lines, *sizes.values()])
    seen = _rows_seen(sampler, num_steps, accumulation)
    in_all = {name: f"{seen[name]:>18,}{seen[name] / rows[name]:>8.2f}" for name in rows}
    epochs = range(1)
    if annealed := isinstance(sampler, TemperatureBatchSampler) and sampler.first != sampler.last:
        epochs = range(sampler.num_epochs)
    for epoch in epochs:
        if annealed:
            lines.append(f"epoch {epoch + 1}, temperature {sampler.temperature(epoch):.3g}")
        for name, laps in sampler.epoch_laps(epoch).items():
            batches = round(laps * sampler.num_batches(name))
            line = f"{sizes[name]}{batches:>10,}{batches / len(sampler):>9.1%}{laps:>16.2f}"
            lines.append(line if annealed else line + in_all[name])
    if annealed:
        lines += ["all epochs", *(f"{sizes[name]}{'':>35}{in_all[name]}" for name in rows)]
    return "\n".join(lines)


def balance_lines(sampler: Any, balance: Mapping[str, str], tasks: Mapping[str, TaskData]) -> list[str]:
    """For each balanced source a sentence: how often the rows of its rarest and of its most frequent label are seen.

    Args:
        sampler: The schedule.
        balance: Source → the task by whose labels it is balanced.
        tasks: Task name → task.
    """
    lines = []
    for source, name in balance.items():
        balanced, laps = sampler.balanced[source], sampler.epoch_laps()[source]
        each = laps * balanced.sizes.sum() / max(1, len(balanced.sizes))
        ends = {"rarest": balanced.sizes.argmin(), "most frequent": balanced.sizes.argmax()}
        seen = (
            f"those of {tasks[name].labels[balanced.labels[place]]!r} ({balanced.sizes[place]:,}, the {which}) are seen"
            f" {each / balanced.sizes[place]:.2f} times"
            for which, place in ends.items()
        )
        lines.append(f"Source {source}: rows are balanced by the labels of {name}; per epoch {', '.join(seen)}.")
    return lines


def _rows_seen(sampler: SourceBatchSampler, num_steps: int, accumulation: int) -> dict[str, int]:
    """Source → number of its rows in all batches of the run, with repetitions."""
    found = dict.fromkeys(sampler.lengths, 0)
    epoch = 0
    while num_steps > 0:
        taken = min(len(sampler), num_steps * accumulation)
        laps = sampler.epoch_laps(epoch)
        if taken == len(sampler) and all(lap == round(lap) for lap in laps.values()):
            for source, lap in laps.items():
                found[source] += round(lap) * len(sampler.lengths[source])
        else:
            for source, batch in islice(sampler.batches(epoch), taken):
                found[source] += len(batch)
        num_steps -= math.ceil(taken / accumulation)
        epoch += 1
    return found
