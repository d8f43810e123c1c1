"""Every strategy trains on tiny data in the shape of its config, and goes on from a checkpoint exactly."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest

from mtl_hf.config import RunConfig
from mtl_hf.training.conflict_report import CONFLICTS_FILE
from tests.conftest import save_encoder
from tests.test_configs import train_short

STRATEGIES = sorted((Path(__file__).parent.parent / "configs" / "strategies").glob("*.yaml"))
# Three steps an epoch: the checkpoint lies within the second one, and an epoch ends after it.
STOPPED_AT = 4
OVERRIDES = [
    "training.max_steps=7", "training.eval_strategy=steps", "training.eval_steps=1", "training.save_strategy=steps",
    f"training.save_steps={STOPPED_AT}", "training.load_best_model_at_end=false",
]  # fmt: skip
# Of strategies that would not act on seven steps of 24 rows a source.
SMALLER = {
    "conflicts": ["training.log_gradient_conflicts=2"],
    "examples_cap": ["training.examples_cap=8", "sources.hate.max_train_rows=8"],  # equal shares, not 1 : 3
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder with dropout and as many layers as that of the configs."""
    return str(save_encoder(tmp_path_factory.mktemp("encoder") / "six", num_hidden_layers=6))


@pytest.mark.parametrize("config", STRATEGIES, ids=lambda path: path.stem)
def test_a_strategy_trains_and_goes_on_bit_for_bit(
    config: Path, encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [
        *OVERRIDES,
        *SMALLER.get(config.stem, ()),
        *(f"sources.{name}.batch_size=8" for name in RunConfig.load(config).sources),
    ]
    caplog.set_level(logging.INFO, "mtl_hf")
    results = train_short(config, encoder, tmp_path, "whole", more)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    cut.mkdir()
    shutil.copytree(whole / f"checkpoint-{STOPPED_AT}", cut / f"checkpoint-{STOPPED_AT}")
    shutil.copy(whole / "run.yaml", cut)
    assert train_short(config, encoder, tmp_path, "cut", more, resume=True) == results
    weights = [path.name for path in whole.glob("*.safetensors")]
    assert weights
    for name in (*weights, "metrics.json", "predictions.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    logs = [json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
            for folder in (whole, cut)]  # fmt: skip
    scores = [[entry["eval_score"] for entry in log if "eval_score" in entry] for log in logs]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 7
    if config.stem == "conflicts":
        kept, again = ((folder / CONFLICTS_FILE).read_text().splitlines() for folder in (whole, cut))
        assert [json.loads(line)["step"] for line in kept] == [2, 4, 6]
        assert again == kept[2:]
    if config.stem == "examples_cap":
        assert re.search(r"hate +8 +8 +2 +50.0%", caplog.text), "half of the batches, not a quarter"
    opened = [[key for entry in log for key in entry if key.startswith("opened_")] for log in logs]
    assert opened[0] == opened[1]
    if config.stem in ("unfreeze_explicit", "unfreeze_gradual"):
        assert opened[0]
