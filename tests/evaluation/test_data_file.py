"""Tests of `mtl_hf.evaluation.data_file`: a file is read as a source of training is."""

from pathlib import Path

from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.evaluation.data_file import config_of_file


def test_labels_of_a_csv_file_are_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text;code;stars\n" + "".join(f"{n};0{n % 3};{n}.5\n" for n in range(6)))
    heads = {
        "code": {"type": "sequence_classification", "text": "string"},
        "stars": {"type": "regression", "text": "string"},
    }
    config = config_of_file(path, heads)
    sources = load_sources(config, ["test"])
    build_tasks(config, sources, {"code": ["00", "01", "02"]})
    assert sources["data"].texts("test") == ["0", "1", "2", "3", "4", "5"]
    assert sources["data"].gold["test"] == {
        "code": ["00", "01", "02", "00", "01", "02"],
        "stars": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
    }
