"""Every command, YAML and snippet that README and docs show is run, on tiny data where it names data."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

import mtl_hf
import mtl_hf.run
from mtl_hf import cli
from mtl_hf.config import RunConfig
from tests.conftest import write_fake_data

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHAPTERS = sorted(
    path for path in (ROOT / "docs").glob("*.md") if path.name not in ("ARCHITECTURE.md", "CONTRIBUTING.md")
)
# What this test cannot run, and who does (commands of chapters: test_hub.py, where they need a Hub).
ELSEWHERE = {
    "make": "the Makefile, by whoever runs this test",
    "pip": "the Makefile",
    "accelerate": "test_launch.py",
    "mtl-hf data": "data/test_catalog.py, against a loopback server",
}


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with our configs and tiny data in `data/`, where every run takes two steps."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_fake_data(RunConfig.load(ROOT / "configs" / "snips.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    load = RunConfig.load.__func__

    def load_short(cls, config, overrides=()):
        loaded = load(cls, config, overrides)
        loaded.training = loaded.training | {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no",
                                             "load_best_model_at_end": False, "use_cpu": True}  # fmt: skip
        return loaded

    monkeypatch.setattr(RunConfig, "load", classmethod(load_short))
    return tmp_path


def test_readme_commands_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for block in blocks(README, "console") for line in block.splitlines() if line]
    assert len(commands) >= 6
    ran = 0
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] in ELSEWHERE or " ".join(words[:2]) in ELSEWHERE:
            continue
        assert words[0] == "mtl-hf", f"nothing runs {command!r}"
        cli.main(words[1:])
        ran += 1
    assert ran >= 4
    assert '"slots"' in capsys.readouterr().out  # the last one, predict, has answered


def test_readme_yaml_is_a_config_of_15_lines() -> None:
    (block,) = blocks(README, "yaml")
    assert len(block.strip().splitlines()) <= 15
    path = yaml.safe_load(block)
    assert set(RunConfig.load(path).tasks) == {"intent", "slots"}


def test_readme_python_runs(project: Path) -> None:
    (block,) = blocks(README, "python")
    assert len(block.strip().splitlines()) <= 10
    scope: dict = {}
    exec(block, scope)
    assert scope["out"].logits["urgent"].shape == (1, 2)
    assert scope["results"]["split"] == "test"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_a_snippet_that_runs(
    chapter: Path, encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = chapter.read_text(encoding="utf-8")
    snippet = blocks(text, "python")[0]
    assert text.split("```python")[0].count("\n") <= 3, "the snippet opens the chapter"
    assert len(snippet.strip().splitlines()) <= 15
    scope: dict = {"ENCODER": encoder_folder}
    exec(snippet, scope)
    assert isinstance(scope["model"], mtl_hf.MultiTaskModel)
    if "vectors" in scope:
        torch.testing.assert_close(scope["vectors"].norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("page", [ROOT / "README.md", *CHAPTERS], ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
