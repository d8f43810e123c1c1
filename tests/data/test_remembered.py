"""Tests of `mtl_hf.data.remembered`: what was found is read again, and found anew where it has to be."""

import logging
from pathlib import Path

import datasets
import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data.remembered import remembered
from mtl_hf.data.sources import load_sources


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_found_once_for_the_same_content(tmp_path: Path) -> None:
    calls = []

    def find() -> list[int]:
        calls.append(1)
        return [len(calls)]

    assert remembered("rows", ["a", 1], find) == remembered("rows", ["a", 1], find) == [1]
    assert remembered("rows", ["a", 2], find) == [2]
    assert remembered("others", ["a", 1], find) == [3]
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text("{", encoding="utf-8")
    assert remembered("rows", ["a", 1], find) == [4]


def test_nothing_is_kept_where_datasets_caches_nothing(tmp_path: Path) -> None:
    datasets.disable_caching()
    try:
        assert remembered("rows", [], lambda: 1) == 1
        assert remembered("rows", [], lambda: 2) == 2
    finally:
        datasets.enable_caching()
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    assert remembered("rows", [], lambda: 1) == 1
    assert remembered("rows", [], lambda: 2) == 2


def test_second_start_finds_leaks_and_carved_rows_without_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f'{{"text": "row {number % 15}", "label": "{"ab"[number % 2]}"}}' for number in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("\n".join(lines[:3]), encoding="utf-8")
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    config = RunConfig.load(
        {
            "model": {"encoder": "none"},
            "sources": {"notes": {"path": "json", "data_files": files, "text": "text"}},
            "tasks": {"mood": {"type": "sequence_classification", "source": "notes", "label": "label"}},
            "training": {},
        }
    )
    caplog.set_level(logging.WARNING)
    first = load_sources(config)["notes"]
    messages = list(caplog.messages)
    assert len(messages) == 2
    caplog.clear()
    monkeypatch.setattr("mtl_hf.data.sources.text_keys", lambda texts: pytest.fail("searched again"))
    monkeypatch.setattr("mtl_hf.data.leaks.text_keys", lambda texts: pytest.fail("searched again"))
    again = load_sources(config)["notes"]
    assert caplog.messages == messages
    for split in ("train", "validation", "test"):
        assert again.splits[split][:] == first.splits[split][:]
        assert again.origins.get(split) == first.origins.get(split)
