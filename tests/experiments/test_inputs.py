"""Tests of `mtl_hf.experiments.inputs`: what a run depends on besides its config."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers.utils import hub

from mtl_hf.config import RunConfig
from mtl_hf.experiments import inputs
from mtl_hf.experiments.inputs import changed_inputs, run_inputs


def config(source: dict[str, Any], **model: Any) -> RunConfig:
    return RunConfig.load(
        {
            "model": model or {"encoder": "nowhere"},
            "sources": {"s": {"path": "json", "text": "text"} | source},
            "tasks": {"t": {"type": "sequence_classification", "source": "s", "label": "label"}},
        }
    )


def write(path: Path, text: str = "{}\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_file_of_patterns_lists_splits_and_folders_counts(tmp_path: Path) -> None:
    names = [write(tmp_path / "data" / name) for name in ("a1.jsonl", "a2.jsonl", "b.jsonl", "br[1].jsonl")]
    files = {"train": [str(tmp_path / "data" / "a*.jsonl"), names[2]], "test": names[3]}
    assert names == [name for name in run_inputs(config({"data_files": files})) if name.endswith(".jsonl")]
    for source in ({"data_dir": str(tmp_path / "data")}, {"path": str(tmp_path / "data")}):
        assert names == [name for name in run_inputs(config(source)) if name.endswith(".jsonl")]


def test_what_has_changed_is_named(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1.jsonl"), write(tmp_path / "2.jsonl")
    pattern = {"data_files": str(tmp_path / "*.jsonl")}
    then = run_inputs(config(pattern))
    assert changed_inputs(then, run_inputs(config(pattern))) == []
    write(tmp_path / "1.jsonl", "[]\n")  # as long as before
    Path(second).unlink()
    third = write(tmp_path / "3.jsonl")
    found = changed_inputs(then, run_inputs(config(pattern)))
    assert found == [f"{first} has changed", f"{second} is gone", f"{third} is new"]
    assert changed_inputs({"torch": "2.1"}, {"torch": "2.2"}) == ["torch was 2.1 and is 2.2"]


@pytest.mark.parametrize(
    "package", ["torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "torchjd", "mtl_hf"]
)
def test_another_version_of_what_decides_weights_or_rows_is_named(package: str, tmp_path: Path) -> None:
    now = run_inputs(config({"data_files": write(tmp_path / "rows.jsonl")}))
    assert changed_inputs(now | {package: "0.0"}, now) == [f"{package} was 0.0 and is {now[package]}"]


def test_metrics_of_files_count_in_either_way_of_writing_them(tmp_path: Path) -> None:
    run = config({"data_files": write(tmp_path / "rows.jsonl")})
    own, other = write(tmp_path / "own.py", "one = 1\n"), write(tmp_path / "other.py", "two = 2\n")
    run.tasks["t"].metrics = ["accuracy", {"path": "f1", "average": "macro"}, {"path": own, "average": "micro"}, other]
    assert [name for name in run_inputs(run) if name in ("accuracy", "f1", own, other)] == [own, other]


def test_of_a_model_what_it_is_loaded_from_counts_and_not_what_a_run_says_of_itself(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "metrics.json", "trainer_state.json",
                 "run.yaml", "README.md", "train.log", "checkpoint-1/model.safetensors"):  # fmt: skip
        write(tmp_path / "model" / name)
    source = {"data_files": write(tmp_path / "rows.jsonl")}
    for key in ("encoder", "from"):
        found = run_inputs(config(source, **{key: str(tmp_path / "model")}))
        names = [Path(name).name for name in found if name.startswith(str(tmp_path / "model"))]
        assert names == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_file_is_read_once_however_many_runs_depend_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"data_files": write(tmp_path / "rows.jsonl", "{}\n" * 3)}
    read: list[str] = []
    digest = inputs.hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        read.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(inputs.hashlib, "file_digest", counted)
    for _ in range(5):
        run_inputs(config(source))
    assert read == [source["data_files"]]


def test_data_of_the_hub_count_by_their_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Builder:
        hash, config_id = "c0ffee", "default"

    asked: list[tuple[str, dict[str, Any]]] = []

    def builder(path: str, **options: Any) -> Builder:
        asked.append((path, options))
        return Builder()

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    source = config({"path": "me/data", "revision": "main"}).sources["s"]
    for _ in range(3):
        assert inputs._data(source) == {"me/data": "c0ffee default"}
    assert asked == [("me/data", {"revision": "main"})]


def test_a_model_of_the_hub_counts_by_the_commit_that_was_downloaded_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--me--model"
    source = {"data_files": write(tmp_path / "rows.jsonl")}
    assert run_inputs(config(source, encoder="me/model"))["me/model"] == "missing"
    for commit in ("c0ffee" * 6 + "c0ff", "decaff" * 6 + "deca"):
        write(folder / "snapshots" / commit / "config.json")
        write(folder / "refs" / "main", commit)
        assert run_inputs(config(source, encoder="me/model"))["me/model"] == commit
    assert run_inputs(config(source, **{"from": "me/model@main"}))["me/model@main"] == commit
