"""Which backend serves a saved model, and how it is loaded: its ONNX graph on a CPU, else torch.

Notable: the graph is exported into the folder of the model at its first use, compared with the model, and exported
again if the model has changed. A model that cannot be exported is served by torch, unless the graph was requested.
"""

import logging
import os
import shutil
from typing import Any

import torch

from ...saved.cards import card_examples
from ...saved.models import Checkpoint, find_checkpoint
from ..onnx.export import export_onnx, hash_of_model, missing_packages
from ..onnx.model import OnnxModel, is_exported, read_config
from .served_model import ONNX_ROWS, TORCH_ROWS_ON_CPU, ModelInMemory

logger = logging.getLogger(__name__)

GRAPH_FOLDER = "onnx"  # in the folder of the model


def load_saved_model(name: str, device: str | None, backend: str | None) -> tuple[ModelInMemory, list[Any]]:
    """A saved model to be served, and the examples of its card; arguments and errors as of `models.load`."""
    checkpoint = find_checkpoint(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    chosen = device or str(found or "cpu")
    on_cpu = chosen == "cpu"
    if backend == "onnx" and not on_cpu:
        raise ValueError(f"`--backend onnx` runs on the CPU, and `--device` is {chosen}: remove one of them.")
    examples = card_examples(checkpoint.path, checkpoint.revision)
    if backend == "onnx" or (backend is None and on_cpu and _has_place(checkpoint)):
        try:
            return ModelInMemory(_graph_of(checkpoint), ONNX_ROWS), examples
        except ValueError as error:
            if backend == "onnx":
                raise
            logger.info("%s is served by torch: %s", checkpoint.name, error)
    model: Any = checkpoint.load()
    try:
        model.to(chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` is {chosen}: {' '.join(str(error).split())}") from error
    return ModelInMemory(model.eval(), TORCH_ROWS_ON_CPU if on_cpu else None), examples


def _has_place(checkpoint: Checkpoint) -> bool:
    """Whether a graph can be written beside a model; logs why not, if the packages of the export are there."""
    if missing_packages():
        return False
    if checkpoint.folder is None:
        logger.info("%s is served by torch: the ONNX graph, which is faster on a CPU, needs a local folder.",
                    checkpoint.name)  # fmt: skip
        return False
    if not is_exported(checkpoint.folder / GRAPH_FOLDER) and not os.access(checkpoint.folder, os.W_OK):
        logger.info("%s is served by torch: its folder cannot be written to, so there is no place for an ONNX graph.",
                    checkpoint.name)  # fmt: skip
        return False
    return True


def _graph_of(checkpoint: Checkpoint) -> OnnxModel:
    """The graph beside a model, exported if it is not there or is of another model."""
    if checkpoint.folder is None:
        raise ValueError(
            f"`--backend onnx` needs a local folder, and {checkpoint.name} is on the Hub: export it first."
        )
    folder = checkpoint.folder / GRAPH_FOLDER
    if is_exported(folder):
        if read_config(folder).model_sha256 == hash_of_model(checkpoint):
            logger.info("Using the ONNX graph in %s.", folder)
            return OnnxModel(folder)
        logger.info("The ONNX graph in %s is of other weights: it is exported again.", folder)
        shutil.rmtree(folder)
    logger.info("Exporting %s to %s, which takes some seconds (`--backend torch` needs no export).",
                checkpoint.name, folder)  # fmt: skip
    return OnnxModel(export_onnx(checkpoint.path, folder))
