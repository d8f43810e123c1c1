"""Tests of `mtl_hf.config.yaml_trees`: files that are no config, repeated keys and merged ones."""

from pathlib import Path

import pytest

from mtl_hf.config import RunConfig, read_yaml
from tests.config.conftest import load_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {encoder: a}\nmodel: {encoder: b}\n", r"config\.yaml: line 2: `model` is already given in line 1"),
        ("model:\n  encoder: a\n  pooling: cls\n  encoder: b\n", r"line 4: `encoder` is already given in line 2"),
        ("model: {encoder: a", "is not valid YAML"),
        ("- a\n- b\n", "the top level is a list of 2; it should be a mapping"),
        ("", "it should be a mapping"),
    ],
)
def test_file_that_is_no_config_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load_text(tmp_path, text)


def test_keys_merged_from_an_anchor_are_no_duplicates(tmp_path: Path) -> None:
    text = """
model: {encoder: a}
sources:
  one: &one {path: json, data_files: &files {train: a.jsonl}, text: text}
  two: {<<: *one, path: csv, data_files: {<<: *files, test: b.jsonl, train: c.jsonl}}
tasks:
  sentiment: {type: sequence_classification, source: [one, two], label: sentiment}
"""
    sources = load_text(tmp_path, text).sources
    assert (sources["one"].path, sources["two"].path) == ("json", "csv")
    assert sources["two"].data_files == {"train": "c.jsonl", "test": "b.jsonl"}


def test_key_merged_twice_from_a_deeper_place_is_no_duplicate(tmp_path: Path) -> None:
    text = "a: &a {x: 1}\ndeep:\n  inner: &b {<<: *a, x: 2}\ntop: {<<: *b}\n"
    file = tmp_path / "file.yaml"
    file.write_text(text)
    assert read_yaml(file)["top"] == {"x": "2"}


def test_missing_file_and_other_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no config file .*none\.yaml"):
        RunConfig.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: {encoder: é}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml is not UTF-8"):
        RunConfig.load(tmp_path / "latin.yaml")
