"""Tests of `mtl_hf.data.headers`: files without a header, against files that have one."""

import logging
from pathlib import Path

import datasets
import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data.draft import draft_config
from mtl_hf.data.headers import header_problem
from mtl_hf.data.sources import load_file, load_sources

ROWS = [f"the food of day {number} was what one expects,{'ab'[number % 2]},{number % 5}\n" for number in range(30)]


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ("the soup was cold again,b,3\n", "row 2 has the value 'b' in the column of that name"),
        ("the soup was cold.,c,low\n", "the name 'the soup was cold.' reads as a sentence"),
        ("what they brought us was cold and far too late,c,x\n", "reads as a sentence"),
        ("text,mood,3\n", "the name '3' is a number"),
        ("text,mood,-0.5\n", "the name '-0.5' is a number"),
        ("text,mood,stars\n", ""),
        ("0,1,2\n", ""),  # pandas numbers columns without names
        ("Unnamed: 0,what people wrote,how many stars\n", ""),
    ],
)
def test_a_first_line_that_is_a_row(first: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(first + "".join(ROWS), encoding="utf-8")
    found = header_problem(load_file(path))
    assert problem in found
    assert bool(found) == bool(problem)
    assert "If it is one, name its 3 columns with the source's `column_names`" in found or not problem


def test_a_header_that_is_repeated_among_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("".join(["text,mood,stars\n", *ROWS[:9], "text,mood,stars\n", *ROWS[9:]]), encoding="utf-8")
    assert header_problem(load_file(path)) == "row 10 repeats the names of the columns (text, mood, stars): remove it"


def test_runs_warn_of_it_and_its_remedy_reads_all_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("the soup was cold again,b,3\n" + "".join(ROWS), encoding="utf-8")

    def load(text: str, label: str, **loader: object) -> datasets.Dataset:
        source = {"path": "csv", "data_files": str(path), "text": text, "split": {"validation": 0.2}, **loader}
        tasks = {"mood": {"type": "sequence_classification", "source": "food", "label": label}}
        config = {
            "model": {"encoder": "x"},
            "sources": {"food": source},
            "tasks": tasks,
            "training": {"output_dir": "x"},
        }
        data = load_sources(RunConfig.load(config))["food"]
        return datasets.concatenate_datasets(list(data.splits.values()))

    with caplog.at_level(logging.WARNING, logger="mtl_hf"):
        assert len(load("the soup was cold again", "b")) == 30
    assert "Source food, train: the first line seems to be a row" in caplog.text
    caplog.clear()
    rows = load("text", "mood", column_names=["text", "mood", "stars"])
    assert len(rows) == 31
    assert "the soup was cold again" in rows["text"]
    assert "first line" not in caplog.text


def test_init_warns_of_it_and_writes_it_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("the soup was cold again,b,3\n" + "".join(ROWS), encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="mtl_hf"):
        yaml = draft_config([str(path)])
    assert f"{path}: the first line seems to be a row" in caplog.text
    assert "# rows.csv: the first line seems to be a row, not the names of the columns: row 2 has the value 'b'" in yaml
