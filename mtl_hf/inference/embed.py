"""Embeddings for the command line: a model from anywhere, a cosine table, a file."""

import os
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedConfig

from ..config import resolve_path
from ..evaluation.saved_models import check_name
from ..modeling.configuration_multitask import MultiTaskConfig
from ..modeling.modeling_multitask import MultiTaskModel


def load_model(name_or_path: str) -> MultiTaskModel:
    """A trained multi-task model, or any encoder as a model without heads.

    Raises:
        ValueError: There is no such model.
    """
    path = resolve_path(name_or_path)
    if "/" in path and not os.path.exists(path):  # a bare name may be an encoder of the Hub, as bert-base-uncased
        check_name(name_or_path, path)
    try:
        # Not by `AutoConfig`, which knows our models only once they are registered.
        config, _ = PreTrainedConfig.get_config_dict(path)
        if config.get("model_type") == MultiTaskConfig.model_type:
            return MultiTaskModel.from_pretrained(path)
        return MultiTaskModel.from_encoder(path)
    except OSError as error:
        raise ValueError(f"no model can be loaded from {name_or_path!r}: {' '.join(str(error).split())}") from error


def cosine_table(texts: list[str], embeddings: Tensor) -> str:
    """The cosine of each pair of texts, as a table with the texts beside it."""
    unit = normalize(embeddings, dim=-1)
    cosines = (unit @ unit.T).tolist()
    lines = ["     " + "".join(f"{number:>7}" for number in range(1, len(texts) + 1))]
    for number, (text, row) in enumerate(zip(texts, cosines, strict=True), start=1):
        shown = text if len(text) <= 60 else text[:57] + "..."
        lines.append(f"{number:>4} " + "".join(f"{value:>7.3f}" for value in row) + f"  {shown}")
    return "\n".join(lines)


def save_embeddings(embeddings: Tensor, path: Path) -> None:
    """Write (num_texts, hidden_size) float32 as `.npy`.

    Raises:
        ValueError: Another ending.
    """
    if path.suffix != ".npy":
        raise ValueError(f"`--to` is {path}; embeddings are written as .npy.")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, embeddings.numpy())
