"""Every shipped config trains: on tiny data in the shape of its own, with a tiny encoder, for two steps."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.data.catalog import CATALOG
from mtl_hf.metrics import LOSS_LIKE
from tests.conftest import write_fake_data

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def test_the_recipes_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {"quickstart", "snips", "conll_sst2", "hate_sentiment", "arxiv_sciie", "mrpc_stsb",
                     "goemotions"}  # fmt: skip


def train_short(
    config: Path, encoder_folder: str, tmp_path: Path, output: str, more: Sequence[str] = (), resume: bool = False
) -> dict:
    """Train a config for two steps on tiny data, after the config of ours that it starts from; `more` are overrides."""
    overrides = [f"training.output_dir={tmp_path / output}", "model.max_length=48",
                 "training.max_steps=2", "training.use_cpu=true", "training.disable_tqdm=true"]  # fmt: skip
    if config.stem != "quickstart":
        overrides.append(f"data={tmp_path / 'data'}")
    model = RunConfig.load(config).model
    start = model.from_ or model.encoder
    if first := [path for path in CONFIGS if RunConfig.load(path).training["output_dir"] == start]:
        train_short(first[0], encoder_folder, tmp_path, "first")
        encoder_folder = str(tmp_path / "first")
    overrides.append(f"model.{'from' if model.from_ else 'encoder'}={encoder_folder}")
    if config.stem != "quickstart":  # whose data ship with the package
        write_fake_data(RunConfig.load(config, [f"data={tmp_path / 'data'}"]), tmp_path)
    return mtl_hf.train(config, [*overrides, *more], resume=resume)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_trains_and_is_scored(config: Path, encoder_folder: str, tmp_path: Path) -> None:
    results = train_short(config, encoder_folder, tmp_path, "run")
    assert results["split"] == "test"
    assert set(results["tasks"]) == set(RunConfig.load(config).tasks)
    assert all(math.isfinite(numbers[numbers["primary"]]) for numbers in results["tasks"].values())
    if all(numbers["primary"] in LOSS_LIKE for numbers in results["tasks"].values()):  # of which no score is made
        assert math.isnan(results["score"])
        results["score"] = None
    assert json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8")) == results


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_data_set_a_config_names_is_in_the_catalog(config: Path) -> None:
    for source in RunConfig.load(config).sources.values():
        for path in source.data_files.values():
            if path.startswith("data/"):
                assert path.split("/")[1] in CATALOG
