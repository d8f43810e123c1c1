"""Choose which parts of an ONNX graph are computed in int8: as fast as possible, as accurate as is asked for.

Notable: each layer has several options (`int8_graph`), with an error measured on calibration rows and a cost counted in
operations. The error of a layer is weighted by its effect on the outputs of the graph, measured with only that layer in
int8. Minimizing error + price * cost for falling prices gives candidates from the fastest to the most accurate; the
last is `MatMulNBits` for all layers. A function of the caller judges them in this order, and the first that is accurate
enough is kept.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from scipy.stats import binomtest

from ...files import atomic_file
from .int8_graph import (
    IN_BLOCKS,
    IN_FLOAT,
    IN_ROWS,
    Inputs,
    Option,
    Parts,
    Rows,
    find_parts,
    num_outliers,
    open_model,
    rewrite,
    to_integers,
)
from .model import megabytes, open_graph

logger = logging.getLogger(__name__)

MIN_ALIKE = 0.98  # of the rows of each task, also of rows that were not compared
CONFIDENCE = 0.84  # of that: one standard error. 116 of 118 rows are little evidence for 98 % of others
MIN_COSINE = 0.98
BATCHES = (1, 32)  # sizes that are timed
NUM_TRIALS = 24  # rows on which the effect of each layer on the outputs is measured
NUM_ROUNDS = 9
STEP = 0.7  # largest error of a candidate relative to the one before
LARGEST = 2**31  # bytes of a graph in memory
# Costs relative to one multiplication of an int8 product, measured with AVX-512 VNNI: of one in float, and of an
# element that an elementwise operation reads.
FLOAT, ELEMENT = 3.6, 50.0
# What it costs to keep a table in float, as a share of all products: memory and size of the file, not time.
TABLE = 0.03
POWERS = (None, 0.5, 0.65, 0.8)
OPTIONS = [
    Option(way, power, outliers)
    for way in ("static", "rows")
    for power, outliers in [*((power, False) for power in POWERS), (None, True), (0.8, True)]
]


@dataclass(frozen=True)
class Verdict:
    """How far the answers of a quantized graph differ from those of the model.

    Attributes:
        drops: Task → how much its score falls, in points (0 to 100; negative if it rises).
        alike: Task → share of rows with the same answer (0 to 1).
        num_rows: Task → number of its rows.
        cosine: Least cosine between the embeddings of a row; None without embeddings.
    """

    drops: dict[str, float]
    alike: dict[str, float]
    num_rows: dict[str, int]
    cosine: float | None = None

    def failures(self, max_drop: float) -> list[str]:
        """The bounds that do not hold, each with what was found; NaN fails."""
        found = [f"{task} {0 - drop:+.2f} points" for task, drop in self.drops.items() if not drop <= max_drop]
        for task, share in self.alike.items():
            likely = _likely(share, self.num_rows[task])
            if not likely >= MIN_ALIKE:
                found.append(f"{task} {likely:.1%} alike by {self.num_rows[task]} rows")
        if self.cosine is not None and not self.cosine >= MIN_COSINE:
            found.append(f"cosine {self.cosine:.3f}")
        return found


def _likely(share: float, num_rows: int) -> float:
    """The share of all rows that is alike at least, with `CONFIDENCE`, by a sample (Wilson's lower bound)."""
    if not num_rows or math.isnan(share):
        return math.nan
    test = binomtest(round(share * num_rows), num_rows, alternative="greater")
    return float(test.proportion_ci(CONFIDENCE, method="wilson").low)


@dataclass(frozen=True)
class Candidate:
    """A graph that was tried.

    Attributes:
        name: `float` for the graph before quantization, else `int8-1` (the fastest), `int8-2`, ...
        num_layers: Number of layers for each way to compute them: `static`, `rows`, `blocks`, `float`; `outliers`
            counts those of the int8 ones that keep some input channels in float.
        in_float: Names of the layers and tables that stay in float.
        megabytes: Size of the file.
        milliseconds: Batch size → duration of a batch.
        speedup: Batch size → how many times as fast as the reference, measured in turns.
        verdict: None for the graph in float.
        failures: Bounds that do not hold.
    """

    name: str
    num_layers: dict[str, int]
    in_float: list[str]
    megabytes: float
    milliseconds: dict[int, float]
    speedup: dict[int, float]
    verdict: Verdict | None = None
    failures: tuple[str, ...] = ()


class Choice(NamedTuple):
    """An option, its effect on the outputs of the graph (a squared error), and its cost."""

    option: Option
    error: float
    cost: float


def quantize(
    graph: Path,
    to: Path,
    rows: Rows,
    judge: Callable[[Path], Verdict],
    *,
    reference: Callable[[dict[str, np.ndarray]], Any],
    max_drop: float = 0.5,
) -> list[Candidate]:
    """Write the fastest int8 version of a graph that is accurate enough.

    Args:
        graph: The graph in float32, opset 18 or newer, below 2 GB.
        to: The file to write, once a candidate is accepted.
        rows: Inputs of single texts, each array (1, T), without padding. 100 to 300 training rows suffice.
        judge: Compares the graph in a file with the model on validation rows.
        reference: Computes the outputs for a batch; its speed is what the others are compared with.
        max_drop: How many points the score of a task may fall.

    Returns:
        The graph in float and all candidates tried; the last one was accepted and is what `to` holds.

    Raises:
        ValueError: No candidate is accurate enough, or the graph cannot be quantized. Nothing is written.
    """
    model = _load(graph)
    started = time.perf_counter()
    parts = find_parts(model, rows)
    if not parts.layers:
        raise ValueError(f"{graph}: no product with constant weights, so there is nothing to quantize.")
    choices = measure_choices(model, parts, rows)
    logger.info("int8: options of %d layers and %d tables measured on %d training rows in %.0f s.",
                parts.num_layers, len(parts.tables), len(rows), time.perf_counter() - started)  # fmt: skip
    everything = {"float": parts.num_layers}
    tried = [Candidate("float", everything, [], megabytes(graph), *_time(reference, open_graph(graph), rows))]
    with atomic_file(to) as draft:
        for number, chosen in enumerate(ladder(choices, parts), start=1):
            onnx.save(rewrite(model, parts, chosen), draft)
            verdict = judge(draft)
            failures = tuple(verdict.failures(max_drop))
            counts, kept = _counts(parts, chosen)
            speed = _time(reference, open_graph(draft), rows)
            tried.append(Candidate(f"int8-{number}", counts, kept, megabytes(draft), *speed, verdict, failures))
            if not failures:
                return tried
        raise ValueError(
            f"no int8 graph is accurate enough: a task may fall by {max_drop:g} points (`--max-drop`), {MIN_ALIKE:.0%}"
            f" of its rows must be answered alike (with a confidence of {CONFIDENCE:.0%}), and the cosine of embeddings"
            f" must be {MIN_COSINE:g}. Export it without `--quantize`.\n{table(tried)}"
        )


def table(candidates: Sequence[Candidate]) -> str:
    """The candidates as a Markdown table."""
    sizes = ", ".join(map(str, BATCHES))
    lines = [
        f"| | layers: static, rows, blocks, float (with float channels) | MB | ms a batch of {sizes} | speed against"
        f" torch, {sizes} | points | rows alike | least cosine | |",
        "|---" * 9 + "|",
    ]
    for one in candidates:
        count, found = one.num_layers, one.verdict or Verdict({}, {}, {})
        ways = ", ".join(str(count.get(way, 0)) for way in ("static", "rows", "blocks", "float"))
        cells = [
            one.name,
            f"{ways} ({count.get('outliers', 0)})",
            f"{one.megabytes:.1f}",
            ", ".join(f"{duration:.1f}" for duration in one.milliseconds.values()),
            ", ".join(f"{times:.2f}" for times in one.speedup.values()),
            ", ".join(f"{task} {0 - drop:+.2f}" for task, drop in found.drops.items()),
            ", ".join(f"{task} {share:.1%}" for task, share in found.alike.items()),
            "" if found.cosine is None else f"{found.cosine:.3f}",
            "" if one.verdict is None else "; ".join(one.failures) or "accepted",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _load(graph: Path) -> onnx.ModelProto:
    if megabytes(graph) * 1e6 >= LARGEST:
        raise ValueError(f"{graph} has {megabytes(graph) / 1e3:.1f} GB: graphs above 2 GB cannot be quantized.")
    model = onnx.load(graph)
    if next((one.version for one in model.opset_import if not one.domain), 0) < 18:
        raise ValueError(f"{graph}: its opset is older than 18: export the model again.")
    return model


# ---- the options of each layer ----


def measure_choices(model: onnx.ModelProto, parts: Parts, rows: Rows) -> dict[str, list[Choice]]:
    """Input of layers, or table → its options with their errors and costs."""
    trials = [rows[index] for index in np.linspace(0, len(rows) - 1, min(NUM_TRIALS, len(rows))).astype(int)]
    wanted = _outputs(open_model(model), trials)

    def effect(name: str, option: Option) -> float:
        found = _outputs(open_model(rewrite(model, parts, {name: option})), trials)
        return sum(
            float(((own - right) ** 2).mean() / max(right.var(), 1e-20))
            for own, right in zip(found, wanted, strict=True)
        )

    choices = {}
    for name, inputs in parts.inputs.items():
        weights = parts.weights(name)
        errors = {option: _error_of(inputs, weights, option) for option in OPTIONS}
        static = min((one for one in OPTIONS if one.way == "static"), key=errors.__getitem__)
        weight = effect(name, static) / max(errors[static], 1e-20)
        choices[name] = [
            Choice(option, weight * errors.get(option, 0.0), _cost_of(weights.shape, option))
            for option in (*OPTIONS, IN_FLOAT)
        ]
    least = sum(min(choice.cost for choice in own) for own in choices.values())
    for name in parts.tables:
        choices[name] = [Choice(IN_ROWS, effect(name, IN_ROWS), 0.0), Choice(IN_FLOAT, 0.0, TABLE * least)]
    return choices


def _error_of(inputs: Inputs, weights: np.ndarray, option: Option) -> float:
    """Squared error of the layers' outputs, relative to their size in each token; large tokens do not hide others."""
    found, given = to_integers(inputs, weights, option), inputs.sample
    scaled = given if found.scale is None else given / found.scale
    largest = np.maximum(np.abs(scaled).max(1, keepdims=True), 1e-20) if option.way == "rows" else 1.0
    rounded = np.clip(np.round(scaled / largest / found.step) + found.zero, 0, 255) - found.zero
    outputs = (rounded * (found.step * largest)).astype(np.float32) @ (found.weights * found.weight_steps)
    outputs += given[:, found.outliers] @ weights[found.outliers]
    wanted = given @ weights
    sizes = (wanted**2).mean(1)
    return float((((outputs - wanted) ** 2).mean(1) / (sizes + 0.1 * np.median(sizes) + 1e-20)).mean())


def _cost_of(shape: tuple[int, ...], option: Option) -> float:
    """Operations of one token, for weights of a shape (K, N)."""
    num_inputs, num_outputs = shape
    if option.way == "float":
        return FLOAT * num_inputs * num_outputs
    by_row = option.way == "rows"
    reads = num_inputs  # QuantizeLinear
    reads += num_inputs * (option.power is not None or (by_row and option.outliers))  # Mul
    reads += (3 * num_inputs + num_outputs) * by_row  # Abs, ReduceMax, Div, Mul
    reads += num_outputs * (by_row or option.outliers)  # Sum
    return num_inputs * num_outputs + FLOAT * num_outliers(num_inputs, option) * num_outputs + ELEMENT * reads


def ladder(choices: dict[str, list[Choice]], parts: Parts) -> list[dict[str, Option]]:
    """Sets of options, from the fastest on; each has at most `STEP` of the error of the one before."""
    most = sum(own[-1].cost for own in choices.values())  # all in float
    found: list[dict[str, Option]] = []
    bound = math.inf
    for price in np.geomspace(1, 1e-20, 600):
        chosen = {
            name: min(own, key=lambda choice: choice.error + price * choice.cost) for name, own in choices.items()
        }
        error = sum(choice.error for choice in chosen.values())
        if sum(choice.cost for choice in chosen.values()) >= 0.9 * most:
            break
        if error <= bound:
            found.append({name: choice.option for name, choice in chosen.items()})
            bound = STEP * error
    return [*found, dict.fromkeys(parts.layers, IN_BLOCKS)]


def _counts(parts: Parts, chosen: dict[str, Option]) -> tuple[dict[str, int], list[str]]:
    """Number of layers for each way (`Candidate.num_layers`), and the names of what stays in float."""
    counts: dict[str, int] = {}
    for name, group in parts.layers.items():
        counts[chosen[name].way] = counts.get(chosen[name].way, 0) + len(group)
        counts["outliers"] = counts.get("outliers", 0) + len(group) * chosen[name].outliers
    kept = [layer.name for name, group in parts.layers.items() if chosen[name] == IN_FLOAT for layer in group]
    return counts, kept + [name for name in parts.tables if chosen.get(name, IN_FLOAT) == IN_FLOAT]


# ---- running graphs ----


def _outputs(session: onnxruntime.InferenceSession, rows: Rows) -> list[np.ndarray]:
    """Each output of the graph on all rows, as one vector of numbers."""
    found = [session.run(None, row) for row in rows]
    return [np.concatenate([own.ravel() for own in outputs]) for outputs in zip(*found, strict=True)]


def _time(
    reference: Callable[[dict[str, np.ndarray]], Any], session: onnxruntime.InferenceSession, rows: Rows
) -> tuple[dict[int, float], dict[int, float]]:
    """Batch size → milliseconds a batch, and the ratio to the reference, with a row of median length."""
    row = sorted(rows, key=lambda one: max(value.shape[-1] for value in one.values()))[len(rows) // 2]
    milliseconds, speedup = {}, {}
    for size in BATCHES:
        batch = {name: np.repeat(value, size, axis=0) for name, value in row.items()}
        taken = []
        for _ in range(NUM_ROUNDS + 1):
            began = time.perf_counter()
            reference(batch)
            middle = time.perf_counter()
            session.run(None, batch)
            taken.append((middle - began, time.perf_counter() - middle))
        milliseconds[size] = 1000 * median(own for _, own in taken[1:])
        speedup[size] = median(other / own for other, own in taken[1:])
    return milliseconds, speedup
