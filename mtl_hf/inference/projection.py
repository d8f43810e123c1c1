"""Embeddings as points in the plane, coloured by a label.

Notable: vectors are scaled to length 1 first, so that near points are those of a high cosine; colours are those of a
palette made for colour-blind readers (Paul Tol's `muted`), and each label has a marker of its own besides.
"""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..config import nearest
from ..data.describe_file import is_missing
from ..files import whole_file
from ..tasks.column import label_name

PROJECTIONS = ("pca", "tsne")
ENDINGS = (".png", ".svg")
_COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499")
_MARKERS = "os^Dv<>Pp"
_GREY = "#AAAAAA"  # labels beyond the colours, rows without one
_NUMBERED = 30  # at most so many points are numbered as the rows are
_SEED = 13


def check_plots() -> None:
    """Whether pictures can be drawn here.

    Raises:
        ImportError: matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("a picture needs matplotlib: pip install 'mtl_hf[plots]'")


def sample_rows(num_rows: int, sample: int) -> np.ndarray:
    """Numbers of the rows that are drawn: all, or `sample` of them chosen at random (always the same), rising."""
    if num_rows <= sample:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(_SEED).choice(num_rows, sample, replace=False))


def label_column(rows: datasets.Dataset, column: str) -> list[str | None]:
    """A column's labels as names, to colour points by.

    Raises:
        ValueError: There is no such column, or it does not hold one label a row.
    """
    if column not in rows.column_names:
        raise ValueError(
            f"`--color {column}`: there is no such column.{nearest(column, rows.column_names)} There are:"
            f" {', '.join(rows.column_names)}."
        )
    feature: Any = rows.features[column]
    held = str(getattr(feature, "dtype", None) or feature).removeprefix("large_")
    values = [None if is_missing(value) else value for value in rows[column]]
    whole = held.startswith("float") and all(value is None or float(value).is_integer() for value in values)
    if not (whole or held.startswith(("string", "int", "uint", "bool"))):
        raise ValueError(f"`--color {column}`: it holds {held}; it should hold one label a row, as names or integers.")
    names = getattr(feature, "names", None)  # of a ClassLabel
    return [None if value is None else label_name(names[value] if names else value) for value in values]


def project(embeddings: np.ndarray, method: str) -> tuple[np.ndarray, list[str]]:
    """Embeddings as points, the same at every run.

    Args:
        embeddings: (N, hidden_size), at least 3.
        method: `pca`, or `tsne` (van der Maaten and Hinton, 2008: neighbours stay together, distances between groups
            mean little).

    Returns:
        (N, 2), and what the two axes are called.

    Raises:
        ValueError: Fewer than 3.
    """
    if len(embeddings) < 3:
        raise ValueError(f"a picture takes at least 3 texts; there are {len(embeddings)}.")
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(min=1e-12)
    if method == "tsne":
        perplexity = min(30.0, (len(unit) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=_SEED)
        return tsne.fit_transform(unit), ["t-SNE, first axis", "t-SNE, second axis"]
    pca = PCA(2, random_state=_SEED)
    points = pca.fit_transform(unit)
    shares = pca.explained_variance_ratio_
    return points, [f"component {number}: {share:.0%} of the variance" for number, share in enumerate(shares, start=1)]


def plot(points: np.ndarray, axes: Sequence[str], labels: Sequence[str | None] | None, paths: Sequence[Path]) -> None:
    """Draw points and write the picture.

    Args:
        points: (N, 2).
        axes: Names of the axes.
        labels: Label of each point, None where it has none; None for one colour. The most frequent ones get colours
            and a place in the legend, all others share grey.
        paths: `.png` or `.svg` files.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.add_subplot()
    size = float(np.clip(4000 / len(points), 12, 60))
    for name, rows, colour, marker in _groups(labels, len(points)):
        look: dict[str, Any] = {"s": size, "c": colour, "marker": marker, "linewidths": 0, "alpha": 0.85}
        panel.scatter(points[rows, 0], points[rows, 1], label=_shown(name), **look)
    if len(points) <= _NUMBERED:
        for number, point in enumerate(points, start=1):
            panel.annotate(str(number), point, xytext=(5, 4), textcoords="offset points", fontsize=8, color="#444444")
    panel.set(xlabel=axes[0], ylabel=axes[1], xticks=[], yticks=[])
    panel.spines[["top", "right"]].set_visible(False)
    if labels is not None:
        scale = (60 / size) ** 0.5
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=scale)
    for path in paths:
        with whole_file(path) as draft:
            figure.savefig(draft, dpi=120, format=path.suffix[1:])


def _groups(labels: Sequence[str | None] | None, num_points: int) -> list[tuple[str, list[int], str, str]]:
    """Name, points, colour and marker of each group; grey first, so that it lies below."""
    if labels is None:
        return [("texts", list(range(num_points)), _COLOURS[0], "o")]
    counts = Counter(label for label in labels if label is not None)
    coloured = sorted(sorted(counts, key=lambda label: (-counts[label], label))[: len(_COLOURS)])
    rest = [row for row, label in enumerate(labels) if label not in coloured]
    groups = [("other or none", rest, _GREY, ".")] if rest else []
    for name, colour, marker in zip(coloured, _COLOURS, _MARKERS, strict=False):
        groups.append((name, [row for row, label in enumerate(labels) if label == name], colour, marker))
    return groups


def _shown(name: str) -> str:
    """A label for a legend: short, no formula, and not hidden, as matplotlib hides those with a leading `_`."""
    name = (name if len(name) <= 30 else name[:27] + "...").replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
