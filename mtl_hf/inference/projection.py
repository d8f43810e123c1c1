"""Scatter plots of embeddings, coloured by a label.

Notable: vectors are scaled to length 1 first, so near points have a high cosine similarity. The palette is safe for
colour-blind readers (Paul Tol's `muted`), and each label also has its own marker.
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
from ..files import atomic_file
from ..tasks.column import label_name

PROJECTIONS = ("pca", "tsne")
ENDINGS = (".png", ".svg")
_COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499")
_MARKERS = "os^Dv<>Pp"
_GREY = "#AAAAAA"  # for labels beyond the colours, and rows without a label
_NUMBERED = 30  # up to this number of points, each point shows its row number
_SEED = 13


def check_plots() -> None:
    """Check that plots can be drawn.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("a plot needs matplotlib: pip install 'mtl_hf[plots]'")


def sample_rows(num_rows: int, sample: int) -> np.ndarray:
    """Indices of the plotted rows, ascending: all rows, or a fixed random sample of size `sample`."""
    if num_rows <= sample:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(_SEED).choice(num_rows, sample, replace=False))


def label_column(rows: datasets.Dataset, column: str) -> list[str | None]:
    """The labels of a column as names, to colour points by.

    Raises:
        ValueError: There is no such column, or it does not have one label per row.
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
        raise ValueError(
            f"`--color {column}`: it contains {held}; it should have one label per row, as names or integers."
        )
    names = getattr(feature, "names", None)  # of a ClassLabel
    return [None if value is None else label_name(names[value] if names else value) for value in values]


def project(embeddings: np.ndarray, method: str) -> tuple[np.ndarray, list[str]]:
    """Project embeddings to two dimensions, with the same result in every run.

    Args:
        embeddings: (N, hidden_size), N at least 3.
        method: `pca`, or `tsne` (van der Maaten and Hinton, 2008: keeps neighbours together; distances between groups
            mean little).

    Returns:
        The points, (N, 2), and the labels of the two axes.

    Raises:
        ValueError: N is less than 3.
    """
    if len(embeddings) < 3:
        raise ValueError(f"a plot needs at least 3 texts; there are {len(embeddings)}.")
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
    """Draw a scatter plot and write it.

    Args:
        points: (N, 2).
        axes: Labels of the axes.
        labels: Label of each point, None for points without one; None instead of the list for a single colour. The
            most frequent labels get a colour and a legend entry, all others are grey.
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
        with atomic_file(path) as draft:
            figure.savefig(draft, dpi=120, format=path.suffix[1:])


def _groups(labels: Sequence[str | None] | None, num_points: int) -> list[tuple[str, list[int], str, str]]:
    """Name, points, colour and marker of each group; grey first, so that it is drawn below the others."""
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
    """A label for a legend: short, without formulas; matplotlib would hide labels with a leading `_`."""
    name = (name if len(name) <= 30 else name[:27] + "...").replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
