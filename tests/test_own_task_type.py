"""The task type of the chapter *A task type of your own*, as it stands there: from YAML to a model that others load."""

import importlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mtl_hf
from mtl_hf.modeling.foreign_heads import check_travels
from mtl_hf.modeling.heads import HEADS
from mtl_hf.tasks import TASK_TYPES
from tests.conftest import SENTENCES
from tests.test_docs import blocks

CHAPTER = Path(__file__).parent.parent / "docs" / "own_task_type.md"
KIND = "ordinal_regression"
# Loads a saved model in a process in which `mtl_hf` cannot be imported.
LOAD = """
import json, sys
sys.modules["mtl_hf"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps(model.predict(json.loads(sys.argv[2]))))
"""


@pytest.fixture
def ordinal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The chapter's two files, imported from a folder of their own, and registered."""
    head, staying, *_ = blocks(CHAPTER.read_text(encoding="utf-8"), "python")
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "ordinal_head.py").write_text(head, encoding="utf-8")
    (folder / "ordinal.py").write_text(staying, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module("ordinal")
    module.register()
    yield module
    del HEADS[KIND], TASK_TYPES[KIND]
    for name in ("ordinal", "ordinal_head"):
        del sys.modules[name]


@pytest.fixture
def config(tmp_path: Path, encoder_folder: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The chapter's YAML, with a tiny encoder, beside files of rows."""
    (text,) = blocks(CHAPTER.read_text(encoding="utf-8"), "yaml")
    tree = yaml.safe_load(text)
    tree["model"]["encoder"] = encoder_folder
    tree["training"] |= {"use_cpu": True, "per_device_train_batch_size": 8, "learning_rate": 0.003, "precision": "fp32"}
    generator = random.Random(0)
    for split, number in (("train", 48), ("validation", 12)):
        stars = [generator.randrange(1, 6) for _ in range(number)]
        rows = [
            {"text": f"{SENTENCES[level]} {split} {row}", "stars": None if row == 5 else level}
            for row, level in enumerate(stars)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    (tmp_path / "stars.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "stars.yaml"


def test_the_chapters_type_trains_resumes_scores_and_loads_without_the_packages(
    ordinal: ModuleType, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = mtl_hf.train(config)
    numbers = results["tasks"]["stars"]
    assert set(TASK_TYPES[KIND].metrics) <= set(numbers)
    assert numbers["primary"] == "spearman"
    assert numbers["interval"][0] <= numbers["spearman"] <= numbers["interval"][1]
    assert numbers["baseline"] == 0
    folder = Path("outputs/stars")
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["tasks"]["stars"]["predicted"] for line in lines if line["tasks"]} <= set(range(1, 6))
    assert not lines[5]["tasks"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Input: a text. Output: a level from 1 to 5." in card
    assert "one level per row: a whole number from 1" in card

    # Stopped half-way and resumed, it ends with the same weights.
    whole = load_file(folder / "model.safetensors")
    mtl_hf.train(config, ["training.output_dir=outputs/cut", "training.num_train_epochs=3"], overwrite=True)
    for checkpoint in sorted(Path("outputs/cut").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[1:]:
        for path in checkpoint.iterdir():
            path.unlink()
        checkpoint.rmdir()
    (Path("outputs/cut") / "metrics.json").unlink()
    mtl_hf.train(config, ["training.output_dir=outputs/cut", "training.num_train_epochs=3"], resume=True)
    resumed = load_file("outputs/cut/model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    # The saved model answers as the trained one, here and where neither package is.
    texts = [f"{SENTENCES[2]} now", SENTENCES[4]]
    here = mtl_hf.MultiTaskModel.from_pretrained(folder).predict(texts)
    assert all(answer["stars"] in range(1, 6) for answer in here)
    saved = (folder / "head_ordinal_regression.py").read_text(encoding="utf-8")
    assert "from .head import" in saved
    assert "from mtl_hf" not in saved
    command = [sys.executable, "-c", LOAD, str(folder), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == here
    assert mtl_hf.evaluate(str(folder))["tasks"]["stars"]["spearman"] == pytest.approx(numbers["spearman"])


def test_its_settings_and_labels_are_checked(ordinal: ModuleType, config: Path) -> None:
    for override, expected in (
        ("tasks.stars.levels=many", r"`tasks\.stars\.levels` is many; it should be a whole number"),
        ("tasks.stars.level=5", r"unknown key `level` in `tasks\.stars`\. Did you mean `levels`"),
        (
            "tasks.stars.labels=[a, b]",
            r"`tasks\.stars\.labels` is \['a', 'b'\], but ordinal_regression does not support it",
        ),
        ("tasks.stars.levels=3", r"row \d+ of the split 'train' of source 'reviews' has the level [45], not 1 to 3"),
    ):
        with pytest.raises(ValueError, match=expected):
            mtl_hf.train(config, [override], dry_run=True)


def test_a_type_of_an_installed_package_is_known_everywhere(ordinal: ModuleType, tmp_path: Path) -> None:
    (text,) = blocks(CHAPTER.read_text(encoding="utf-8"), "toml")
    folder = tmp_path / "package"
    info = folder / "ordinal-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ordinal\nVersion: 1.0\n", encoding="utf-8")
    (name, function), (group, *_) = re.findall(r"^(\w+) = \"(.*)\"", text, re.M)[0], re.findall(r'points\."(.*)"', text)
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {function}\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import mtl_hf; print({KIND!r} in mtl_hf.TASK_TYPES)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_model_with_a_type_that_nobody_registered_says_so(ordinal: ModuleType, config: Path) -> None:
    mtl_hf.train(config, ["training.max_steps=1"])
    head, kind = HEADS.pop(KIND), TASK_TYPES.pop(KIND)
    try:
        with pytest.raises(ValueError, match=r"`heads\.stars\.type` is 'ordinal_regression'; valid are"):
            mtl_hf.MultiTaskModel.from_pretrained("outputs/stars")
    finally:
        HEADS[KIND], TASK_TYPES[KIND] = head, kind


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"name": "other"}, "OrdinalHead has the kind 'ordinal_regression', but Changed has the name 'other'"),
        (
            {"name": "regression", "kind": "regression"},
            "cannot be called 'regression': mtl_hf already has a type",
        ),
        ({"name": "or dinal", "kind": "or dinal"}, "cannot be called 'or dinal': use letters, digits and `_`"),
    ],
)
def test_a_type_that_cannot_be_registered_is_refused(
    ordinal: ModuleType, changed: dict[str, Any], expected: str
) -> None:
    kind = type("Changed", (ordinal.OrdinalRegression,), {"name": changed["name"]})
    head = type("OrdinalHead", (ordinal.OrdinalHead,), {"kind": changed.get("kind", KIND)})
    with pytest.raises(ValueError, match=expected):
        mtl_hf.register_task_type(kind, head)


def test_a_head_whose_file_imports_what_others_may_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, line, expected in (
        ("needy_head", "import pandas", "imports pandas, but it is saved with each model"),
        ("inner_head", "from mtl_hf.tasks import TaskType", r"imports mtl_hf\.tasks, but"),
    ):
        (tmp_path / f"{name}.py").write_text(
            f"{line}\nfrom mtl_hf.modeling.head import Head\nclass Own(Head):\n    kind = 'own'\n", encoding="utf-8"
        )
        with pytest.raises(ValueError, match=expected):
            check_travels(importlib.import_module(name).Own)
