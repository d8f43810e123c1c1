"""Helpers of all plots by step: a colour-blind-safe palette, log axes for losses, PNG and SVG files."""

import importlib.util
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

from ..files import atomic_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
_FEW = 20  # points


def check_matplotlib() -> None:
    """Raise `ValueError` if matplotlib, which plots need, is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install 'mtl_hf[plots]', or use --no-plot.")


def marks(points: Sized) -> dict[str, Any]:
    """Marker options of a curve: small markers if it has few points, because a line with one point is invisible."""
    return {"marker": "o", "markersize": 3} if len(points) < _FEW else {}


def spans_decade(values: Iterable[float]) -> bool:
    """Whether positive values span more than a factor of 10."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) > 10 * min(positive)


def scale_axis(axis: Any, values: Iterable[float]) -> None:
    """Make the y axis logarithmic if positive values span more than a factor of 10; values of 0 are then not shown."""
    if spans_decade(values):
        axis.set_yscale("log")


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Write a figure as `<path>.png` and `<path>.svg`, close it, and return the two."""
    import matplotlib.pyplot as plt

    paths = [path.with_suffix(ending) for ending in (".png", ".svg")]
    for written in paths:
        with atomic_file(written) as draft:
            figure.savefig(draft, dpi=150, format=written.suffix[1:])
    plt.close(figure)
    return paths
