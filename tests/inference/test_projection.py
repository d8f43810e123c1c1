"""Points in the plane: those of an independent PCA, the same at each run, with labels that are all in the picture."""

import datasets
import numpy as np
import pytest

from mtl_hf.inference.projection import PROJECTIONS, label_column, plot, project, sample_rows


@pytest.fixture
def vectors() -> np.ndarray:
    """Three groups of 20 in 16 dimensions, of many lengths."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(3, 16))
    return (np.repeat(centres, 20, 0) + random.normal(size=(60, 16), scale=0.2)) * random.uniform(1, 9, (60, 1))


def test_pca_is_that_of_the_eigenvectors_of_unit_vectors(vectors):
    points, axes = project(vectors, "pca")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    by_hand = centred @ directions[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(points), np.abs(by_hand), atol=1e-6)
    assert axes[0] == f"component 1: {values[-1] / values.sum():.0%} of the variance"


@pytest.mark.parametrize("method", PROJECTIONS)
def test_groups_stay_together_and_nothing_is_random(method, vectors):
    points, _ = project(vectors, method)
    assert np.array_equal(points, project(vectors, method)[0])
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(distances.argmin(1) // 20, np.arange(60) // 20)


@pytest.mark.parametrize("method", PROJECTIONS)
def test_three_texts_are_enough_and_two_are_not(method, vectors):
    assert project(vectors[:3], method)[0].shape == (3, 2)
    with pytest.raises(ValueError, match="at least 3 texts; there are 2"):
        project(vectors[:2], method)


def test_a_sample_is_the_same_at_each_run_and_rises():
    rows = sample_rows(1000, 50)
    assert len(set(rows)) == 50
    assert np.array_equal(rows, np.sort(sample_rows(1000, 50)))
    assert np.array_equal(sample_rows(7, 50), np.arange(7))


def test_every_label_is_in_the_legend_or_among_the_others(vectors, tmp_path):
    frequent = [f"label {number}" for number in range(8)] * 7
    labels = [*frequent, "other", "other", "rare", None]  # `other` is one of the user's own
    plot(vectors[:, :2], ["x", "y"], labels, [tmp_path / "new" / "x.svg"])
    drawn = (tmp_path / "new" / "x.svg").read_text(encoding="utf-8")
    for text in (*set(frequent), "other", "other or none"):
        assert f"<!-- {text} -->" in drawn
    assert "rare" not in drawn
    points = drawn.split('id="legend_1"')[0].count("<use ")
    assert points >= 60


def test_odd_labels_are_shown_as_they_are(vectors, tmp_path):
    labels = ["_hidden", "$x_{$", "x" * 100] * 20  # the second is no formula that could be set
    plot(vectors[:, :2], ["x", "y"], labels, [tmp_path / "x.svg"])
    drawn = (tmp_path / "x.svg").read_text(encoding="utf-8")
    for text in ("_hidden", "$x_{$", "x" * 27 + "..."):
        assert text in drawn


def test_labels_are_names_whatever_they_are_stored_as():
    features = datasets.Features(
        {
            "kind": datasets.ClassLabel(names=["no", "yes"]),
            "stars": datasets.Value("int64"),
            "score": datasets.Value("float32"),
            "topics": datasets.List(datasets.Value("string")),
        }
    )
    rows = datasets.Dataset.from_dict(
        {"kind": [1, 0, None], "stars": [5, None, 1], "score": [0.5, 1, 2], "topics": [[], [], []]}, features=features
    )
    assert label_column(rows, "kind") == ["yes", "no", None]
    assert label_column(rows, "stars") == ["5", None, "1"]
    for column in ("score", "topics"):
        with pytest.raises(ValueError, match=f"`--color {column}`: it contains .*one label per row"):
            label_column(rows, column)


def test_whole_numbers_beside_empty_cells_are_labels_and_others_are_not():
    rows = datasets.Dataset.from_dict({"stars": [1.0, None, 3.0], "score": [0.5, 1.0, 2.0]})
    assert label_column(rows, "stars") == ["1", None, "3"]
    with pytest.raises(ValueError, match=r"`--color score`: it contains (float64|double)"):
        label_column(rows, "score")
