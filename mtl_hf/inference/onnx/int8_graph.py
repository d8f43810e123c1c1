"""Parts of an ONNX graph in int8: products with constant weights, and embedding tables.

Notable: an answer never depends on the other texts of its batch. Inputs of a product are rounded with one step that was
fixed on calibration rows (`static`), or with a step for each token (`rows`) or for each block of a token's channels
(`blocks`), never with one for the whole batch as in onnxruntime's `quantize_dynamic`. Two measures keep the error
small: input channels are scaled so that part of their range moves into the weights (SmoothQuant,
https://arxiv.org/abs/2211.10438), and the few channels with the largest inputs can stay in float, as a narrow product
that is added (LLM.int8(), https://arxiv.org/abs/2208.07339).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .model import make_session

Rows = Sequence[dict[str, np.ndarray]]

MIN_TABLE = 256  # rows of an embedding table; smaller ones stay in float
NUM_TOKENS = 600  # inputs of each layer that are kept from the calibration
OUTLIERS = 16  # input channels that stay in float, at most 1/16 of all
BLOCK = 16  # input channels with a step of their own, of `blocks`


class Option(NamedTuple):
    """A way to compute the layers of one input, or a table.

    Attributes:
        way: `static`, `rows`, `blocks` or `float`; of tables `rows` or `float`.
        power: How much of the range of an input channel moves into the weights, from 0 to 1; None for nothing.
        outliers: Whether the channels with the largest inputs stay in float.
    """

    way: str
    power: float | None = None
    outliers: bool = False


IN_FLOAT, IN_ROWS, IN_BLOCKS = Option("float"), Option("rows"), Option("blocks")


@dataclass(frozen=True)
class Layer:
    """A product with constant weights (K, N), and the bias that is added to it."""

    name: str
    product: str  # the output of the MatMul
    output: str  # of the MatMul or of the Add
    weights: np.ndarray
    bias: np.ndarray  # (N,)


@dataclass(frozen=True)
class Table:
    """A Gather of rows of constants (V, H)."""

    name: str
    output: str
    indices: str
    values: np.ndarray


@dataclass(frozen=True)
class Inputs:
    """The inputs of layers on the calibration rows: some tokens (n, K), and each channel's range over all tokens."""

    sample: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Integers:
    """Layers of one input in int8: input / scale is rounded to steps from `zero` on; outliers stay in float."""

    scale: np.ndarray | None  # (K,)
    outliers: np.ndarray
    step: float
    zero: int
    weights: np.ndarray  # (K, N) int8
    weight_steps: np.ndarray  # (N,)


@dataclass(frozen=True)
class Parts:
    """What of a graph can be in int8: input → the layers that read it; name → table; and the layers' inputs."""

    layers: dict[str, list[Layer]]
    tables: dict[str, Table]
    inputs: dict[str, Inputs]

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return sum(map(len, self.layers.values()))

    def weights(self, name: str) -> np.ndarray:
        """The weights of all layers that read an input, (K, sum of N)."""
        return np.concatenate([layer.weights for layer in self.layers[name]], axis=1)


def find_parts(model: onnx.ModelProto, rows: Rows) -> Parts:
    """Find the layers and tables of a graph, and the layers' inputs on calibration rows."""
    layers = _find_layers(model)
    return Parts(layers, _find_tables(model), _calibrate(model, rows, [*layers]) if layers else {})


def open_model(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session for a graph in memory, with one thread."""
    session: onnxruntime.InferenceSession = make_session(model.SerializeToString(), threads=1)
    return session


# ---- what the graph has ----


def _find_layers(model: onnx.ModelProto) -> dict[str, list[Layer]]:
    constants = {one.name: one for one in model.graph.initializer}
    users, outputs = _users(model), {one.name for one in model.graph.output}
    layers: dict[str, list[Layer]] = {}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants or node.input[0] in constants:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]])
        if weights.ndim != 2 or weights.dtype != np.float32:
            continue
        product = output = node.output[0]
        name, bias = node.name or product, np.zeros(weights.shape[1], np.float32)
        readers = users.get(product, [])
        if len(readers) == 1 and readers[0].op_type == "Add" and product not in outputs:
            added = next((one for one in readers[0].input if one != product), "")
            if added in constants and list(constants[added].dims) == [weights.shape[1]]:
                name, bias = added.removesuffix(".bias"), numpy_helper.to_array(constants[added])
                output = readers[0].output[0]
        layers.setdefault(node.input[0], []).append(Layer(name, product, output, weights, bias))
    return layers


def _find_tables(model: onnx.ModelProto) -> dict[str, Table]:
    """Name → table that nothing else reads."""
    constants = {one.name: one for one in model.graph.initializer}
    users, tables = _users(model), {}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in constants and len(users[node.input[0]]) == 1:
            values = numpy_helper.to_array(constants[node.input[0]])
            rows_first = all(one.i == 0 for one in node.attribute if one.name == "axis")
            if rows_first and values.ndim == 2 and values.dtype == np.float32 and len(values) >= MIN_TABLE:
                name = node.input[0].removesuffix(".weight")
                tables[name] = Table(name, node.output[0], node.input[1], values)
    return tables


def _users(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def _calibrate(model: onnx.ModelProto, rows: Rows, names: Sequence[str]) -> dict[str, Inputs]:
    """Name of an inner output (..., K) of the graph → its values on the rows."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {one.name for one in model.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    session, random = open_model(watched), np.random.default_rng(13)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    several = -(-2 * NUM_TOKENS // len(rows))
    for row in rows:
        for name, found in zip(names, session.run([*names], row), strict=True):
            tokens = found.reshape(-1, found.shape[-1])
            low, high = ranges.get(name, (tokens[0], tokens[0]))
            ranges[name] = np.minimum(low, tokens.min(0)), np.maximum(high, tokens.max(0))
            samples[name].append(tokens[random.permutation(len(tokens))[:several]])
    chosen = {}
    for name, parts in samples.items():
        sample = np.concatenate(parts)
        chosen[name] = Inputs(sample[random.permutation(len(sample))[:NUM_TOKENS]], *ranges[name])
    return chosen


# ---- numbers in int8 ----


def to_integers(inputs: Inputs, weights: np.ndarray, option: Option) -> Integers:
    """Weights (K, N) of all layers of an input in int8, with what their input is divided by and rounded to."""
    num_channels = len(weights)
    largest = np.maximum(np.abs(inputs.low), np.abs(inputs.high))
    outliers = np.sort(np.argsort(-largest)[: num_outliers(num_channels, option)])
    scale = np.ones(num_channels, np.float32)
    if option.power is not None:
        heaviest = np.maximum(np.abs(weights).max(1), 1e-5)
        scale = (np.maximum(largest, 1e-5) ** option.power / heaviest ** (1 - option.power)).astype(np.float32)
    scaled = weights * scale[:, None]
    scaled[outliers] = 0  # the product in int8 ignores these channels, so their inputs may exceed its range
    steps = np.maximum(np.abs(scaled).max(0), 1e-20) / 127
    inner = np.setdiff1d(np.arange(num_channels), outliers)
    low, high = min(0.0, float((inputs.low / scale)[inner].min())), max(0.0, float((inputs.high / scale)[inner].max()))
    step = max(high - low, 1e-20) / 255
    by_row = option.way == "rows"
    if by_row:
        scale[outliers] = np.inf  # not part of the largest value of a token
    return Integers(
        scale if option.power is not None or (by_row and len(outliers)) else None,
        outliers,
        1 / 127 if by_row else step,
        128 if by_row else round(-low / step),
        np.round(scaled / steps).astype(np.int8),
        steps.astype(np.float32),
    )


def num_outliers(num_channels: int, option: Option) -> int:
    """Number of input channels that stay in float."""
    return max(1, min(OUTLIERS, num_channels // 16)) if option.outliers else 0


# ---- the graph in int8 ----


class _Draft:
    """Nodes and constants that replace others."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, type: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        name = f"int8/{type}/{output}"
        self.nodes.append(helper.make_node(type, inputs, [output], name=name, domain=domain, **attributes))
        return output


def rewrite(model: onnx.ModelProto, parts: Parts, chosen: Mapping[str, Option]) -> onnx.ModelProto:
    """The graph with the chosen options (input of layers, or table → option); what has none stays in float."""
    new: dict[str, list[onnx.NodeProto]] = {}  # output of a node → the nodes in its place
    constants: dict[str, TensorProto] = {}
    for name, option in chosen.items():
        if option == IN_FLOAT:
            continue
        draft = _Draft()
        if name in parts.tables:
            _add_table(draft, parts.tables[name])
            new[parts.tables[name].output] = draft.nodes
        else:
            group = parts.layers[name]
            if option == IN_BLOCKS:
                _add_blocks(draft, name, group)
            else:
                _add_layers(draft, name, group, to_integers(parts.inputs[name], parts.weights(name), option), option)
            new |= {layer.output: [] for layer in group} | {layer.product: [] for layer in group}
            new[group[0].product] = draft.nodes
        constants |= draft.constants
    nodes = [one for node in model.graph.node for one in new.get(node.output[0], [node])]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, model.graph.name, model.graph.input, model.graph.output,
        [*(one for one in model.graph.initializer if one.name in used), *constants.values()],
    )  # fmt: skip
    opsets = [one for one in model.opset_import if one.domain != "com.microsoft"]
    opsets.append(helper.make_opsetid("com.microsoft", 1))
    result = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, functions=model.functions)
    _keep_norms_apart(result)
    return result


def _keep_norms_apart(model: onnx.ModelProto) -> None:
    """Keep onnxruntime from fusing residuals with norms: its fused operation takes several times as long on CPUs.

    The fusion looks for an Add before a LayerNormalization. A Sum of the same two inputs has the same result.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if maker is not None and maker.op_type == "Add":
            maker.op_type = "Sum"


def _add_table(draft: _Draft, found: Table) -> None:
    """A table in int8, with a step for each of its rows."""
    steps = np.maximum(np.abs(found.values).max(1, keepdims=True), 1e-20) / 127
    prefix = f"int8/{found.name}"
    values = draft.constant(f"{prefix}/rows", np.round(found.values / steps).astype(np.int8))
    row = draft.node("Gather", [values, found.indices], f"{prefix}/row")
    number = draft.node("Cast", [row], f"{prefix}/number", to=TensorProto.FLOAT)
    step = draft.node("Gather", [draft.constant(f"{prefix}/steps", steps.astype(np.float32)), found.indices],
                      f"{prefix}/step")  # fmt: skip
    draft.node("Mul", [number, step], found.output)


def _add_blocks(draft: _Draft, name: str, group: list[Layer]) -> None:
    for layer in group:
        size, width = layer.weights.shape
        count, prefix = -(-size // BLOCK), f"int8/{layer.product}"
        blocks = np.zeros((width, count * BLOCK), np.float32)
        blocks[:, :size] = layer.weights.T
        blocks = blocks.reshape(width, count, BLOCK)
        steps = np.maximum(np.abs(blocks).max(-1), 1e-20) / 127
        weights = draft.constant(f"{prefix}/weights", (np.round(blocks / steps[..., None]) + 128).astype(np.uint8))
        operands = [name, weights, draft.constant(f"{prefix}/steps", steps.astype(np.float32)), "", ""]
        draft.node(
            "MatMulNBits", [*operands, draft.constant(f"{prefix}/bias", layer.bias)], layer.output,
            domain="com.microsoft", K=size, N=width, bits=8, block_size=BLOCK, accuracy_level=4,
        )  # fmt: skip


def _add_layers(draft: _Draft, name: str, group: list[Layer], found: Integers, option: Option) -> None:
    prefix, given, largest, some = f"int8/{name}", name, "", ""
    if found.scale is not None:
        given = draft.node("Mul", [given, draft.constant(f"{prefix}/scale", 1 / found.scale)], f"{prefix}/scaled")
    if option.way == "rows":
        sizes = draft.node("Abs", [given], f"{prefix}/sizes")
        last = draft.constant(f"{prefix}/last", np.array([-1]))
        largest = draft.node("ReduceMax", [sizes, last], f"{prefix}/largest", keepdims=1)
        least = draft.constant(f"{prefix}/least", np.array(1e-20, np.float32))
        largest = draft.node("Max", [largest, least], f"{prefix}/nonzero")  # a token of zeros
        given = draft.node("Div", [given, largest], f"{prefix}/relative")
    step = draft.constant(f"{prefix}/step", np.array(found.step, np.float32))
    zero = draft.constant(f"{prefix}/zero", np.array(found.zero, np.uint8))
    rounded = draft.node("QuantizeLinear", [given, step, zero], f"{prefix}/rounded")
    if option.outliers:
        channels = draft.constant(f"{prefix}/outliers", found.outliers.astype(np.int64))
        some = draft.node("Gather", [name, channels], f"{prefix}/some", axis=-1)
    begin = 0
    for layer in group:
        own, begin = slice(begin, begin + layer.weights.shape[1]), begin + layer.weights.shape[1]
        prefix = f"int8/{layer.product}"
        weights = draft.constant(f"{prefix}/weights", found.weights[:, own])
        steps = draft.constant(f"{prefix}/steps", found.weight_steps[own])
        bias = draft.constant(f"{prefix}/bias", layer.bias)
        static = option.way == "static"
        terms = [layer.output] if static and not option.outliers else [f"{prefix}/product"]
        operands = [rounded, weights, step, steps, zero, *(["", bias] if static else [])]
        draft.node("MatMulIntegerToFloat", operands, terms[0], domain="com.microsoft")
        if not static:
            terms = [draft.node("Mul", [terms[0], largest], f"{prefix}/unscaled"), bias]
        if option.outliers:
            narrow = draft.constant(f"{prefix}/narrow", layer.weights[found.outliers])
            terms.append(draft.node("MatMul", [some, narrow], f"{prefix}/some"))
        if len(terms) > 1:
            # Not Add: onnxruntime would fuse it with a Gelu that follows, into an operation that takes twice as long.
            draft.node("Sum", terms, layer.output)
