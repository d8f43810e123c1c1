"""The graph of a model: one encoder pass for all heads (one per adapter), with an output for each head.

Notable: the graph knows segments, not rows. What groups the segments of a row (windows, pairs, choices) and what turns
outputs into predictions (a CRF, thresholds) are the decoders, which need no torch. Outputs are called `logits_<head>`,
because a head may be called like an operation, and a name that is used twice makes an invalid file.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...command import quiet
from ...modeling.modeling_multitask import MultiTaskModel
from ...modeling.windows import TRUNCATE
from .model import EMBEDDING_OUTPUT, open_graph, output_name


class Graph(nn.Module):
    """The computation that is exported.

    Args:
        model: The model.
        heads: The heads to export.
        embedding: Whether to export the text embedding, too.
        inputs: Names of the inputs, in their order.
    """

    def __init__(self, model: MultiTaskModel, heads: list[str], embedding: bool, inputs: list[str]) -> None:
        super().__init__()
        self.model = model
        self.readers: list[str | None] = [*([None] if embedding else []), *heads]
        self.inputs = inputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The outputs for N segments, in the order of `readers`: embeddings (N, H), and the logits of each head."""
        found = self.model.segment_outputs(dict(zip(self.inputs, values, strict=True)), self.readers)
        return tuple(found[name] for name in self.readers)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [EMBEDDING_OUTPUT if name is None else output_name(name) for name in self.readers]


def write_graph(graph: Graph, path: Path, max_length: int) -> None:
    """Write a graph with a dynamic number and length of segments.

    Args:
        graph: The graph, in evaluation mode and float32.
        path: The file; the weights are in `<path>.data`.
        max_length: The largest length.

    Raises:
        ValueError: torch cannot export the encoder.
        ImportError: onnx or onnxscript is not installed.
    """
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=max_length)
    shape = (2, min(8, max_length))  # torch takes a size of 1 in the example as a constant
    example = {"input_ids": torch.full(shape, 3), "attention_mask": torch.ones(shape, dtype=torch.long)}
    example |= {"token_type_ids": torch.zeros(shape, dtype=torch.long), "word_ids": torch.arange(shape[1]).repeat(2, 1)}
    config = graph.model.config
    overflow = config.overflow
    config.overflow = TRUNCATE  # segments come as they are: the encoder must not split them into parts by their number
    with quiet("torch.onnx"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about its own steps
        try:
            program: Any = torch.onnx.export(
                graph, tuple(example[name] for name in graph.inputs), dynamo=True, input_names=graph.inputs,
                output_names=graph.outputs, dynamic_shapes=((*({0: batch, 1: length} for _ in graph.inputs),),),
                verbose=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            kind = type(graph.model.encoder).__name__
            raise ValueError(f"torch cannot export {kind} to ONNX: {' '.join(str(error).split())[:300]}") from error
        finally:
            config.overflow = overflow
        for part in (program.model.graph, *program.model.graph):
            part.metadata_props.clear()  # lines of the source, with paths of this machine
        program.save(path, external_data=True)  # whose weights are read in place, with half the memory
    # torch makes a size constant where the code reads it as a number, and does not say so.
    for found in open_graph(path).get_inputs():
        if not all(isinstance(size, str) for size in found.shape):
            raise ValueError(
                f"torch has exported {type(graph.model.encoder).__name__} with the fixed size {found.shape} of"
                f" `{found.name}`: it cannot be exported to ONNX."
            )
