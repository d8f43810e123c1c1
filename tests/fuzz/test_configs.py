"""Property: a config with a mistake is refused in a message with its key; any other survives the way to YAML and back.

Each input is a config that is fine with one thing changed, as a dict, as YAML or by an override.
"""

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mtl_hf.config import Model, RunConfig, Source, Task, Thawing, plain
from mtl_hf.data.labels import check_tasks
from mtl_hf.run import train
from mtl_hf.tasks import TASK_TYPES
from mtl_hf.training.arguments import MultiTaskTrainingArguments, read_arguments
from tests.conftest import TRAINING, assistant_rows, review_rows

from .conftest import attempt, inputs, names_its_place, try_all

# Fine as it is.
CONFIG: dict[str, Any] = {
    "model": {"encoder": "ENCODER", "pooling": "mean"},
    "sources": {
        "assistant": {
            "path": "json",
            "data_files": {"train": "a.jsonl"},
            "text": "tokens",
            "split": {"validation": 0.25},
        },
        "reviews": {"path": "json", "data_files": {"train": "b.jsonl"}, "text": "text"},
    },
    "tasks": {
        "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent", "loss_weight": 1.0},
        "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
        "stars": {"type": "regression", "source": "reviews", "label": "stars"},
        "topics": {"type": "multi_label_classification", "source": "reviews", "label": "topics"},
    },
    "training": TRAINING | {"output_dir": "output", "learning_rate": 1e-3, "num_train_epochs": 1},
}
# What keys change beyond their run, need a network for, or have no place in a file.
_LEFT_OUT = (
    "dataset",
    "hub_token",
    "full_determinism",
    "ddp_backend",
    "report_to",
    "log_level",
    "log_level_replica",
    "push_to_hub",
    "tf32",
)


def _keys(section: Any) -> list[str]:
    return [
        item.name.removesuffix("_") for item in dataclasses.fields(section) if item.init and item.name not in _LEFT_OUT
    ]


KEYS: dict[tuple[str, ...], list[str]] = {
    ("model",): _keys(Model),
    ("sources", "assistant"): _keys(Source),
    ("tasks", "intent"): _keys(Task),
    ("tasks", "slots"): _keys(Task),
    ("tasks", "stars"): _keys(Task),
    ("training",): _keys(MultiTaskTrainingArguments),
    ("training", "unfreeze"): _keys(Thawing),
    (): ["model", "sources", "tasks", "training", "data", "${x}", "tokn"],
    ("tasks",): ["intent", "a b", "loss", "new", "Ä", "x" * 300, "__init__", "to"],
    ("sources",): ["assistant", "a b", "new"],
}
WORDS = [
    "", " ", "x", "no", "none", "auto", "steps", "epoch", "best", "cls", "attention", "mean_last_3", "tokens",
    "intent", "encoder",
    "heads.intent", "embeddings", "encoder.layers.0-1", "plateau", "gradual", "1 epoch", "4GB", "f1", "accuracy",
    "UPGrad", "UW", "gradnorm",
    "round_robin", "temperature", "bf16", "fp16", "linear", "adafactor", "ranking", "sdpa", "/dev/null", "..",
    "package:nothing/x",
    "${x}", "${", "a\nb", "\x00", "\ud800", "é", "🙂", "x" * 10_000, "!!python/none", "&a *a", "[", "{", "- a", "012",
    "1e5", "0x10",
]  # fmt: skip
NUMBERS = [
    0,
    1,
    -1,
    2,
    0.5,
    1.5,
    -0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    10**6,
    10**9,
    10**20,
    2**31,
    2**32,
    2**63,
]
VALUES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(NUMBERS),
    st.sampled_from([None, True, False]),
    st.sampled_from([
        [], {}, [None], [[]], [[[]]], ["x"], ["x", "x"], [1, 2, 3], {"a": 1}, {"": ""}, {"a": {"b": {"c": []}}},
        {"type": "UW"},
        {"type": "LoraConfig", "r": 2}, {"num": 2, "hidden": 4}, {"validation": 0.5}, {"from": 5, "to": 1},
        ["embeddings"], {"x": None},
        {"path": "f1"}, [{}], [0.0, 5.0],
    ]),
    st.text(max_size=8),
    st.integers(-10, 10**12),
    st.floats(),
)  # fmt: skip


@dataclass(frozen=True)
class Changed:
    """One change of a config, and how that is handed over."""

    way: str
    path: tuple[str, ...]
    how: str
    value: Any

    def tree(self, base: dict[str, Any]) -> dict[str, Any]:
        """The config."""
        tree = _copied(base)
        target = tree
        for key in self.path[:-1]:
            target = target.setdefault(key, {})
        key = self.path[-1]
        if self.how == "drop":
            target.pop(key, None)
        elif self.how == "rename":
            target[self.value] = target.pop(key, "x")
        else:
            target[key] = self.value
        return tree


def _copied(tree: Any) -> Any:
    return {key: _copied(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


@st.composite
def changes(draw: DrawFn) -> Changed:
    """Any key of any section, with any value."""
    section = draw(st.sampled_from(sorted(KEYS)))
    key = draw(st.sampled_from(KEYS[section]))
    how = draw(st.sampled_from(["set"] * 6 + ["drop", "rename"]))
    value = draw(VALUES) if how == "set" else None
    if how == "set" and key == "type":
        value = draw(st.sampled_from([*TASK_TYPES, value]))
    if how == "rename":
        value = draw(
            st.sampled_from([key[:-1], key + "s", key.upper(), "", f" {key}", "a.b", draw(st.text(max_size=4))])
        )
    return Changed(draw(st.sampled_from(["dict", "yaml", "override"])), (*section, key), how, value)


def load(change: Changed, base: dict[str, Any], folder: Path) -> RunConfig:
    """The config as it is handed over."""
    if change.way == "override" and change.how == "set":
        try:
            text = json.dumps(change.value)
        except ValueError:
            text = str(change.value)
        return RunConfig.load(
            base, [f"{'.'.join(change.path)}={text if isinstance(change.value, str | list | dict) else change.value}"]
        )
    tree = change.tree(base)
    if change.way == "yaml":
        file = folder / "config.yaml"
        file.write_bytes(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass"))
        return RunConfig.load(file)
    return RunConfig.load(tree)


def _read(run: RunConfig) -> tuple[RunConfig, dict[str, Any]]:
    """All that is checked before data are loaded: the config, and its training section with typed values."""
    check_tasks(run)
    return run, read_arguments(run.training)[1]


def bounded(key: str, value: Any) -> bool:
    """Whether a number of the training section is one that a run can come to an end with."""
    if isinstance(value, bool) or not isinstance(value, int | float) or key == "max_grad_norm":
        return True
    return math.isfinite(value) and abs(value) <= 2**32


def names_the_change(message: str, change: Changed) -> bool:
    """Whether a message names what was changed: its key, its section, or what it was renamed to."""
    named = [change.path[-1], ".".join(change.path), str(change.value)[:50], repr(change.value)[1:50]]
    named += [change.path[-2]] if len(change.path) > 1 else []
    return names_its_place(message) and any(name in message for name in named if name or change.how == "rename")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # fields that transformers will give up
@inputs(60, 1200)
def test_a_config_is_refused_by_its_key_or_survives_the_way_to_yaml(number: int) -> None:
    def check(change: Changed) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            read, refusal = attempt(lambda: _read(load(change, CONFIG, folder)))
            if refusal:
                assert names_the_change(refusal, change), refusal
                return
            run, training = read
            assert not [key for key, value in training.items() if not bounded(key, value)]
            (folder / "again.yaml").write_text(run.to_yaml(), encoding="utf-8")
            again = RunConfig.load(folder / "again.yaml")
            assert repr((again.model, again.tasks, again.sources)) == repr((run.model, run.tasks, run.sources))
            assert repr(read_arguments(again.training)[1]) == repr(training)
            assert repr(plain(again.variables)) == repr(plain(run.variables))

    try_all(number, changes(), check)


def _with_rows(encoder: str) -> dict[str, Any]:
    base = _copied(CONFIG)
    base["model"]["encoder"] = encoder
    for source, rows in (("assistant", assistant_rows(24)), ("reviews", review_rows(24))):
        del base["sources"][source]["path"], base["sources"][source]["data_files"]
        base["sources"][source]["dataset"] = rows
    return base


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Relative paths are those of an empty folder; what a field of the arguments sets for the process is set back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a name of no folder is one of the Hub
    for name in (
        "ACCELERATE_USE_FSDP",
        "ACCELERATE_TORCH_DEVICE",
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_DYNAMO_BACKEND",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@inputs(6, 200)
def test_a_run_is_ready_to_train_or_refused_by_its_key(number: int, encoder_folder: str) -> None:
    base = _with_rows(encoder_folder)

    def check(change: Changed) -> None:
        if change.way == "yaml":
            return
        with tempfile.TemporaryDirectory() as folder:
            planned, refusal = attempt(lambda: train(load(change, base, Path(folder)), dry_run=True))
            assert names_the_change(refusal, change) if refusal else planned["steps"] > 0, refusal

    try_all(number, changes(), check)


SHIPPED = sorted(
    path for path in Path("configs").rglob("*.yaml") if "accelerate" not in path.parts and "model:" in path.read_text()
)


@st.composite
def damaged_yaml(draw: DrawFn) -> str:
    """A config of ours with some of its characters or lines changed."""
    text = draw(st.sampled_from(SHIPPED)).read_text(encoding="utf-8")
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["insert", "delete", "cut", "line", "twice", "indent"]))
        at = draw(st.integers(0, len(text)))
        lines = text.split("\n")
        place = draw(st.integers(0, len(lines) - 1))
        if how == "insert":
            odd = st.sampled_from(
                [
                    "\t",
                    "\x00",
                    "*a",
                    "&a ",
                    "!!int ",
                    "${x}",
                    "${",
                    "{",
                    "}",
                    "[",
                    ": ",
                    "- ",
                    "#",
                    "'",
                    '"',
                    "\x85",
                    "\ufeff",
                    "é",
                ]
            )
            text = text[:at] + draw(odd) + text[at:]
        elif how == "delete":
            text = text[:at] + text[at + draw(st.integers(1, 20)) :]
        elif how == "cut":
            text = text[:at]
        elif how == "line":
            text = "\n".join(lines[:place] + lines[place + 1 :])
        elif how == "twice":
            text = "\n".join(lines[: place + 1] + lines[place:])
        else:
            text = "\n".join([*lines[:place], "  " + lines[place], *lines[place + 1 :]])
    return text


@inputs(25, 400)
def test_damaged_yaml_is_refused_with_its_file_or_key(number: int) -> None:
    def check(text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            file.write_text(text, encoding="utf-8")
            _, refusal = attempt(lambda: _read(RunConfig.load(file)))
            assert not refusal or "config.yaml" in refusal or names_its_place(refusal), refusal

    try_all(number, damaged_yaml(), check)


@st.composite
def bombs(draw: DrawFn) -> str:
    """A few lines of YAML that repeat each other, by aliases or by variables, or hold themselves."""
    levels, width = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    how = draw(
        st.sampled_from(["lists", "mappings", "merges", "variables", "circle", "nested lists", "nested mappings"])
    )
    first, lines = "x", []
    for level in range(levels):
        before = f"*a{level - 1}" if level else "x"
        if how == "lists":
            lines.append(f"  a{level}: &a{level} [{', '.join([before] * width)}]")
        elif how == "mappings":
            lines.append(f"  a{level}: &a{level} {{{', '.join(f'k{place}: {before}' for place in range(width))}}}")
        elif how == "merges":
            lines.append(
                f"  a{level}: &a{level} {{<<: [{', '.join([before if level else '{}'] * width)}], k{level}: 1}}"
            )
    if how == "variables":
        first = f"${{v{levels - 1}}}"
        lines = [f"v{level}: {(f'${{v{level - 1}}}' if level else 'ab') * width}" for level in range(levels)]
    elif how == "circle":
        first = "${v0}"
        lines = [f"v{level}: a${{v{(level + 1) % levels}}}" for level in range(levels)]
    elif how.startswith("nested"):
        opened, closed = ("[", "]") if how == "nested lists" else ("{a: ", "}")
        deep = min(10**width, 100_000)
        lines = [f"  a: {opened * deep}{closed * deep}"]
    config = (
        f"model: {{encoder: {first}}}\nsources: {{s: {{path: json, data_files: a.jsonl, text: t}}}}\n"
        "tasks: {t: {type: regression, source: s, label: l}}\n"
    )
    return config + ("" if first != "x" else "training:\n") + "\n".join(lines) + "\n"


@inputs(12, 150)
def test_what_grows_without_bound_is_refused_in_time(number: int) -> None:
    def check(text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            file.write_text(text, encoding="utf-8")
            run, refusal = attempt(lambda: RunConfig.load(file))
            assert not refusal or "config.yaml" in refusal or "variables" in refusal or names_its_place(refusal), (
                refusal
            )
            assert refusal or len(run.to_yaml()) < 10**7

    try_all(number, bombs(), check)
