"""Inference: embeddings, predictions for raw text, a server, and exports. `OnnxModel` is imported at its first use."""

from typing import Any

__all__ = ["OnnxModel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .onnx.model import OnnxModel

    return OnnxModel
