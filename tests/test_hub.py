"""Publishing: what the real client pushes to a Hub of our own, and what is pulled from it where we are not installed.

A pull happens in a process of its own, with a cache of its own, in which `import mtl_hf` fails.
"""

import copy
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file
from transformers import AutoModel

import mtl_hf
import mtl_hf.run
from mtl_hf import cli
from mtl_hf.config import RunConfig, Task
from mtl_hf.hub.card import _label_table, card
from mtl_hf.hub.push import CODE, files_to_send, push, reserve
from mtl_hf.tasks import TaskData
from tests.conftest import SENTENCES, TRAINING, assistant_rows, review_rows, write_fake_data
from tests.hub_server import TOKEN, USER, HubServer, running_hub

# Of huggingface_hub about its own HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parent.parent
PAIRS = [("play jazz today", "book a room"), ("play some jazz", "play jazz 3")]
CLOSED = "http://127.0.0.1:9"  # a port that nothing listens on

# What a machine without `mtl_hf` runs: `import mtl_hf` fails, whatever is installed there.
WITHOUT_US = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mtl_hf":
            raise ModuleNotFoundError("No module named 'mtl_hf'", name="mtl_hf")

sys.meta_path.insert(0, Blocked())
try:
    import mtl_hf
    sys.exit("mtl_hf can be imported")
except ModuleNotFoundError:
    pass
import torch
from transformers import AutoModel
torch.set_num_threads(1)
"""
PULL = """
from safetensors.torch import save_file
asked = json.loads(sys.argv[1])
found = {"refusals": []}
for trust in (None, False):
    try:
        AutoModel.from_pretrained(asked["repo"], trust_remote_code=trust)
        found["refusals"].append("")
    except ValueError as error:
        found["refusals"].append(str(error))
model = AutoModel.from_pretrained(asked["repo"], trust_remote_code=True)
pairs = [tuple(pair) for pair in asked["pairs"]]
found["module"] = type(model).__module__
found["answers"] = model.predict(asked["texts"] + pairs)
model.save_pretrained(asked["again"])
again = AutoModel.from_pretrained(asked["again"], trust_remote_code=True)
found["answers_again"] = again.predict(asked["texts"] + pairs)
from transformers import pipeline
try:
    pipeline("multi-task", model=asked["repo"])
    found["refusals"].append("")
except ValueError as error:
    found["refusals"].append(str(error))
pipe = pipeline("multi-task", model=asked["repo"], trust_remote_code=True)
found["pipeline"] = [type(pipe).__module__, pipe(asked["texts"] + pairs), pipe(asked["texts"][0], top_k=None)]
pipe.save_pretrained(asked["again"])
found["pipeline_again"] = pipeline("multi-task", model=asked["again"], trust_remote_code=True)(asked["texts"] + pairs)
batch = model.tokenizer(asked["texts"], padding=True, return_tensors="pt")
with torch.no_grad():
    logits = dict(model(**batch).logits) | {"encode": model.encode(asked["texts"])}
save_file(logits, asked["logits"])
print()  # after the question whether to trust the code, which has no end of line
print(json.dumps(found))
"""


def run_python(code: str, hub: HubServer, home: Path, *argv: str, token: str | None = None) -> str:
    """Run code in a fresh process with a cache of its own, that knows only our Hub, and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
                    "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *argv],
        env=environment | ({"HF_TOKEN": token} if token else {}),
        cwd=home.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that this process pushes to, with the right token."""
    with running_hub() as server:
        point_to(server.url, monkeypatch)
        yield server


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `HF_ENDPOINT`, `HF_HUB_DISABLE_XET` and `HF_TOKEN` do where the client is not imported yet."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # Retries that do not wait.
    quick = partial(huggingface_hub.utils.http_backoff, base_wait_time=0.01, max_wait_time=0.01)
    monkeypatch.setattr(huggingface_hub.lfs, "http_backoff", quick)
    monkeypatch.setattr(huggingface_hub.utils.tqdm, "disable", True, raising=False)
    huggingface_hub.close_session()


def make_config(encoder: str, output_dir: Path, **training: Any) -> dict[str, Any]:
    """Three sources with a test split and a task of every kind and form."""

    def split(rows: datasets.Dataset) -> datasets.DatasetDict:
        return rows.train_test_split(0.25, shuffle=False)

    pairs = [{"first": PAIRS[row % 2][0], "second": f"{PAIRS[row % 2][1]} {row}", "same": bool(row % 2)}
             for row in range(24)]  # fmt: skip
    return {
        "model": {"encoder": encoder},
        "sources": {
            "assistant": {"dataset": split(assistant_rows()), "text": "tokens"},
            "reviews": {"dataset": split(review_rows()), "text": "text"},
            "pairs": {"dataset": split(datasets.Dataset.from_list(pairs)), "text": ["first", "second"]},
        },
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
            "stars": {"type": "regression", "source": "reviews", "label": "stars"},
            "topics": {"type": "multi_label_classification", "source": "reviews", "label": "topics"},
            "sentiment": {"type": "sequence_classification", "source": "reviews", "label": "sentiment"},
            "same": {"type": "sequence_classification", "source": "pairs", "label": "same"},
        },
        "training": TRAINING | {"output_dir": str(output_dir), "learning_rate": 3e-3} | training,
    }


@pytest.fixture(scope="module")
def trained(encoder_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished run (not to be changed): its folder, results and the trained model as it was in memory."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("hub") / "assistant-model"
    kept = []
    build = mtl_hf.run.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mtl_hf.run, "build", lambda config: kept.append(build(config)) or kept[0])
        results = mtl_hf.train(make_config(str(encoder_folders["roberta"]), folder))
    torch.set_flush_denormal(False)
    return SimpleNamespace(folder=folder, results=results, model=kept[0].trainer.model.eval())


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """Messages of a level."""
    caplog.set_level(logging.INFO, "mtl_hf")
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]


def listed(text: str) -> dict[str, int]:
    """Name → size of every file of a listing."""
    found = re.findall(r"^  (\S+) +([\d,]+)$", text, flags=re.MULTILINE)
    return {name: int(size.replace(",", "")) for name, size in found}


def check_arrived(files: dict[str, bytes]) -> None:
    """All that is needed has arrived, and none of it is a pickle or speaks of this machine."""
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", *CODE} <= files.keys()
    for name, content in files.items():
        assert name.endswith((".safetensors", ".json", ".md", ".yaml", ".py", ".txt", ".gitattributes")), name
        assert content[:1] != b"\x80", f"{name} is a pickle"
        assert content[:2] != b"PK", f"{name} is a pickle in a zip file"
        assert TOKEN.encode() not in content
        if not name.endswith(".safetensors"):
            content.decode("utf-8")
    header = files["model.safetensors"]
    json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])


# ---- push and pull ----


def test_a_pulled_model_gives_the_trained_ones_logits_and_answers_where_we_are_not_installed(trained, hub, tmp_path):
    url = push(trained.folder, "ada/assistant")
    assert url == f"{hub.url}/ada/assistant"
    texts = [*SENTENCES, "Is it warm in Rome, today?", "naïve café"]
    asked = {"repo": "ada/assistant", "texts": texts, "pairs": PAIRS, "logits": str(tmp_path / "logits.safetensors"),
             "again": str(tmp_path / "again")}  # fmt: skip
    home = tmp_path / "home"
    home.mkdir()
    found = json.loads(run_python(WITHOUT_US + PULL, hub, home, json.dumps(asked)).splitlines()[-1])
    assert len(found["refusals"]) == 3
    assert all("trust_remote_code=True" in refusal for refusal in found["refusals"]), "never without being told to"
    assert found["module"].startswith("transformers_modules.")

    model = trained.model
    batch = model.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = dict(model(**batch).logits) | {"encode": model.encode(texts)}
    pulled = load_file(asked["logits"])
    assert pulled.keys() == expected.keys()
    for name, logits in expected.items():
        assert (pulled[name] - logits).abs().max().item() == 0, name
    answers = json.loads(json.dumps(model.predict(texts + PAIRS)))
    assert found["answers"] == found["answers_again"] == answers
    where, answered, ranked = found["pipeline"]
    assert where.startswith("transformers_modules.")
    assert answered == found["pipeline_again"] == answers
    assert ranked == json.loads(json.dumps(model.predict(texts[:1], top_k=None)))[0]
    assert answers[0].keys() == {"intent", "slots", "stars", "topics", "sentiment"}
    assert answers[-1].keys() == {"same"}
    # What is saved over there carries all that it was pulled with.
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", *CODE
    }  # fmt: skip
    assert json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_multitask.MultiTaskConfig",
        "AutoModel": "modeling_multitask.MultiTaskModel",
    }


def test_what_arrives_is_what_was_listed_and_no_pickle(trained, hub, messages, tmp_path):
    before = {path: path.read_bytes() for path in sorted(trained.folder.rglob("*")) if path.is_file()}
    push(trained.folder, "assistant")
    arrived = hub.files(f"{USER}/assistant")
    (listing,) = [message for message in messages(logging.INFO) if message.startswith("To ")]
    assert listed(listing) == {name: len(item) for name, item in arrived.items() if name != ".gitattributes"}
    check_arrived(arrived)
    assert {"metrics.json", "run.yaml"} <= arrived.keys()
    assert "Not pushed: checkpoint-" in listing
    assert "predictions.jsonl" in listing
    assert f'AutoModel.from_pretrained("{USER}/assistant", trust_remote_code=True)' in arrived["README.md"].decode()
    assert {path: path.read_bytes() for path in before} == before, "a push changes nothing in the folder"
    for name, item in arrived.items():
        assert name == "run.yaml" or str(trained.folder.parent).encode() not in item, name
    assert len(hub.repositories[f"{USER}/assistant"]) == 2, "one commit after that of the empty repository"


def test_a_checkpoint_is_pushed_with_the_yaml_of_its_run_and_a_card_of_its_own(trained, hub):
    checkpoint = min(trained.folder.glob("checkpoint-*"))
    push(checkpoint, "ada/half-way", revision="trial", private=True)
    assert "ada/half-way" in hub.private
    assert hub.files("ada/half-way").keys() == {".gitattributes"}, "main stays as it was"
    arrived = hub.files("ada/half-way", "trial")
    check_arrived(arrived)
    assert arrived["run.yaml"] == (trained.folder / "run.yaml").read_bytes()
    assert "metrics.json" not in arrived
    data = ModelCard(arrived["README.md"].decode()).data
    assert {(one.task_name, one.dataset_split) for one in data.eval_results} == {
        (name, "validation") for name in trained.model.heads
    }
    assert not list(checkpoint.glob("README.md"))


def test_an_edited_card_is_sent_as_it_was_edited(trained, hub, tmp_path):
    folder = tmp_path / "model"
    mtl_hf.MultiTaskModel.from_pretrained(trained.folder).save_pretrained(folder)
    push(folder, "ada/plain")
    assert b"## Limits" in hub.files("ada/plain")["README.md"]
    assert "run.yaml" not in hub.files("ada/plain")
    edited = '---\nlicense: mit\n---\nMine: AutoModel.from_pretrained("x")\n'
    (folder / "README.md").write_text(edited, encoding="utf-8")
    push(folder, "ada/plain")
    assert hub.files("ada/plain")["README.md"].decode() == edited.replace('"x"', '"ada/plain"')


MOVING = """
import json, sys, shutil
from pathlib import Path
first, second, token = sys.argv[1:]
import torch
import mtl_hf
from mtl_hf.hub.push import push
from transformers import AutoModel
push(first, "ada/moving", token=token, private=True)
options = {"token": token, "cache_dir": str(Path.cwd() / "elsewhere")}
model, info = mtl_hf.MultiTaskModel.from_pretrained("ada/moving", output_loading_info=True, **options)
by_auto = AutoModel.from_pretrained("ada/moving", **options)
assert type(by_auto) is type(model) is mtl_hf.MultiTaskModel, type(by_auto)  # asks nothing: we are installed
assert not info["missing_keys"], info
push(second, "ada/moving", token=token)
text = "play some jazz in paris"
found = [one.tokenizer(text)["input_ids"] for one in (model, by_auto)]
commit = model._origin[1]["revision"].resolved
now = mtl_hf.MultiTaskModel.from_pretrained("ada/moving", **options)
then = mtl_hf.MultiTaskModel.from_pretrained("ada/moving", revision=commit, local_files_only=True, **options)
print(json.dumps(found + [then.tokenizer(text)["input_ids"], now.tokenizer(text)["input_ids"]]))
"""


def test_the_tokenizer_comes_from_the_commit_of_the_weights_also_when_the_branch_has_moved(
    encoder_folders, hub, tmp_path
):
    models = {}
    for family in ("bert", "roberta"):
        models[family] = mtl_hf.MultiTaskModel.from_encoder(encoder_folders[family])
        models[family].add_head("slots", type="token_classification", labels=["O", "B-city"])
        models[family].save_pretrained(tmp_path / family)
    home = tmp_path / "home"
    home.mkdir()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{MOVING}"
    output = run_python(code, hub, home, str(tmp_path / "bert"), str(tmp_path / "roberta"), TOKEN)
    loaded, by_auto, then, now = json.loads(output.splitlines()[-1])
    text = "play some jazz in paris"
    old, new = (models[family].tokenizer(text)["input_ids"] for family in ("bert", "roberta"))
    assert loaded == by_auto == then == old != now == new
    assert not list(home.rglob("*.safetensors")), "cache_dir holds for the weights and the tokenizer"


def test_a_run_starts_from_a_model_of_the_hub_with_the_heads_that_match(trained, hub, tmp_path):
    push(trained.folder, "ada/assistant")
    config = make_config("", tmp_path / "out", max_steps=2, freeze=["encoder"])
    config["model"] = {"from": "ada/assistant"}
    config["tasks"] = {name: config["tasks"][name] for name in ("intent", "slots")}
    config["tasks"]["intent"]["train"] = False
    config["tasks"]["mood"] = {"type": "sequence_classification", "source": "reviews", "label": "sentiment"}
    del config["sources"]["pairs"]
    for name, source in config["sources"].items():
        files = {split: str(tmp_path / f"{name}-{split}.jsonl") for split in ("train", "test")}
        for split, rows in source.pop("dataset").items():
            rows.to_json(files[split])
        source |= {"path": "json", "data_files": files}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import mtl_hf; mtl_hf.train(sys.argv[1])"
    run_python(code, hub, home, str(tmp_path / "run.yaml"))
    results = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert results["tasks"]["intent"]["unchanged"] is True
    then, now = load_file(trained.folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert {name.split(".")[1] for name in now if name.startswith("heads.")} == {"intent", "slots", "mood"}
    for name in now:
        if name.startswith(("encoder.", "heads.intent.")):
            assert torch.equal(now[name], then[name]), name
    assert any(not torch.equal(now[name], then[name]) for name in now if name.startswith("heads.slots."))


def test_the_commands_ask_nothing_and_warn_of_nothing_about_a_folder_with_code(trained):
    done = subprocess.run(
        [sys.executable, "-m", "mtl_hf", "predict", str(trained.folder), "play some jazz"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["intent"]
    assert "custom code" not in done.stdout + done.stderr
    assert "model of type" not in done.stderr


def test_a_folder_with_code_is_loaded_by_the_installed_classes(trained):
    for model in (AutoModel.from_pretrained(trained.folder), mtl_hf.MultiTaskModel.from_pretrained(trained.folder)):
        assert type(model) is mtl_hf.MultiTaskModel
        assert copy.deepcopy(model).tokenizer("jazz")["input_ids"] == trained.model.tokenizer("jazz")["input_ids"]


# ---- what is wrong ----


def save_small(encoder_folder: str, folder: Path) -> Path:
    model = mtl_hf.MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("stars", type="regression")
    model.save_pretrained(folder)
    return folder


def break_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is not a saved model: it has no config.json"),
        (break_type, "is not a saved multi-task model: its type is 'bert'"),
        (lambda folder: (folder / "heads.py").unlink(), r"lacks the model code, .* \(heads.py\): save it again"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "has no tokenizer"),
        (lambda folder: (folder / "run.yaml").write_text(f"secret: {TOKEN}"), "run.yaml .* contains an access token"),
    ],
)
def test_a_folder_that_cannot_be_pushed_is_refused_before_the_hub_is_asked(
    spoil, expected, encoder_folder, hub, tmp_path
):
    folder = save_small(encoder_folder, tmp_path / "model")
    (folder / "README.md").write_text("mine", encoding="utf-8")
    spoil(folder)
    with pytest.raises(ValueError, match=expected) as refused:
        push(folder, "ada/model")
    assert TOKEN not in str(refused.value)
    assert hub.requests == []


@pytest.mark.parametrize("repo", ["a/b/c", "", "a b", "datasets/a/b", "a--b", "x.git", "a/"])
def test_a_name_that_no_repository_can_have_is_refused_before_the_hub_is_asked(repo, trained, hub):
    with pytest.raises(ValueError, match=r"`repo` is .*; it is owner/name, or a name in your own account"):
        push(trained.folder, repo)
    assert hub.requests == []


def refusal(*argv: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(part) for part in argv])
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code


def test_a_wrong_token_is_answered_in_one_line_with_what_to_do(trained, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = refusal("push", trained.folder, "ada/assistant", "--private", "--revision", "trial")
    assert "401" in said
    assert "hf auth login" in said
    assert said.endswith(f"push it later with: mtl-hf push {trained.folder} ada/assistant --private --revision trial")
    assert "hf_wrong" not in said
    assert hub.repositories == {}


def test_an_upload_that_is_cut_leaves_nothing_behind_and_the_next_push_completes(trained, hub, messages):
    hub.cuts = -1
    said = refusal("push", trained.folder, "ada/assistant")
    assert f"{trained.folder} is not on the Hub: " in said
    assert hub.files("ada/assistant").keys() == {".gitattributes"}, "all or nothing"
    hub.cuts = 0
    command = said.split("push it later with: ")[1]
    cli.main(shlex.split(command)[1:])
    check_arrived(hub.files("ada/assistant"))
    assert messages(logging.INFO)[-1] == f"Pushed to {hub.url}/ada/assistant."


def test_an_upload_that_is_cut_once_is_tried_again(trained, hub):
    hub.cuts = 1
    push(trained.folder, "ada/assistant")
    assert len([request for request in hub.requests if request.startswith("PUT")]) == 2
    check_arrived(hub.files("ada/assistant"))


def test_a_dry_run_lists_and_asks_the_hub_nothing(trained, hub, messages):
    cli.main(["push", str(trained.folder), "ada/assistant", "--dry-run"])
    (listing,) = messages(logging.INFO)
    assert listed(listing).keys() == files_to_send(trained.folder, "ada/assistant").keys()
    assert hub.requests == []


# ---- at the end of a run ----


def write_run(folder: Path, encoder: str, **training: Any) -> Path:
    """A small config in a file, whose run pushes itself."""
    rows = [json.dumps(row) + "\n" for row in assistant_rows(40)]
    (folder / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    config = {
        "model": {"encoder": encoder},
        "sources": {"assistant": {"path": "json", "data_files": str(folder / "train.jsonl"), "text": "tokens"}},
        "tasks": {"intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"}},
        "training": TRAINING | {"output_dir": str(folder / "run"), "push_to_hub": True} | training,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_run_that_pushes_itself_asks_first_and_sends_once_at_its_end(encoder_folder, hub, tmp_path, messages):
    path = write_run(tmp_path, encoder_folder, hub_model_id="ada/intents", hub_private_repo=True, hub_token=TOKEN)
    results = mtl_hf.train(path)
    posts = [request for request in hub.requests if request.startswith("POST ")]
    assert posts[0] == "POST /api/repos/create"
    assert results["tasks"].keys() == {"intent"}
    assert "ada/intents" in hub.private
    assert len(hub.repositories["ada/intents"]) == 2
    check_arrived(hub.files("ada/intents"))
    assert "checkpoint" not in " ".join(hub.files("ada/intents"))
    said = messages(logging.INFO)
    assert said[-1] == f"Pushed to {hub.url}/ada/intents."
    assert said[-2].startswith("To push to ada/intents: ")
    assert (tmp_path / "run" / "README.md").read_bytes() == hub.files("ada/intents")["README.md"]
    assert "training.push_to_hub=false" in hub.files("ada/intents")["README.md"].decode()
    # The folder is a run's, to be replaced as a whole.
    with pytest.raises(ValueError, match="already contains a run"):
        mtl_hf.train(path)


def test_a_hub_that_cannot_be_reached_keeps_nobody_from_training(encoder_folder, hub, tmp_path, monkeypatch, messages):
    point_to(CLOSED, monkeypatch)
    path = write_run(tmp_path, encoder_folder, hub_model_id="ada/intents")
    results = mtl_hf.train(path)
    assert results["score"] == results["tasks"]["intent"]["accuracy"]
    (early,) = [message for message in messages(logging.WARNING) if "Hub" in message]
    assert early.startswith("the Hub repository ada/intents is not available: ")
    assert early.endswith(" Training continues; the push is tried again at the end.")
    (late,) = messages(logging.ERROR)
    command = f"mtl-hf push {tmp_path / 'run'} ada/intents"
    assert late.endswith(f"push it later with: {command}")
    assert {"model.safetensors", "README.md", "metrics.json", "run.yaml", "predictions.jsonl", *CODE} <= {
        file.name for file in (tmp_path / "run").iterdir()
    }
    assert hub.requests == []
    point_to(hub.url, monkeypatch)
    cli.main(shlex.split(command)[1:])
    check_arrived(hub.files("ada/intents"))


def test_the_command_line_ends_with_code_1_where_a_run_could_not_be_pushed(
    encoder_folder, hub, tmp_path, monkeypatch, messages
):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    path = write_run(tmp_path, encoder_folder)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(path)])
    assert stopped.value.code == 1
    (late,) = messages(logging.ERROR)
    assert late.endswith(f"mtl-hf push {tmp_path / 'run'} run"), "by default it is called as its folder"
    assert "401" in late
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert hub.repositories == {}


def test_a_dry_run_of_training_makes_no_repository(encoder_folder, hub, tmp_path):
    mtl_hf.run.train(write_run(tmp_path, encoder_folder), dry_run=True)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"hub_model_id": "a/b/c"}, "`training.hub_model_id` is 'a/b/c'"),
        ({"hub_strategy": "every_save"}, "`training.hub_strategy` is not supported: a run is pushed only at its end"),
        ({"hub_strategy": "checkpoint"}, "`training.hub_strategy` is not supported"),
        ({"hub_always_push": True}, "`training.hub_always_push` is not supported"),
    ],
)
def test_what_cannot_be_pushed_so_is_refused_before_training(training, expected, encoder_folder, hub, tmp_path):
    with pytest.raises(ValueError, match=expected):
        mtl_hf.train(write_run(tmp_path, encoder_folder, **training))
    assert hub.requests == []
    assert not (tmp_path / "run").exists()


def test_a_trainer_pushes_as_a_run_does_when_it_is_told_to(encoder_folder, hub, tmp_path):
    path = write_run(tmp_path, encoder_folder, hub_model_id="ada/intents")
    trainer = mtl_hf.run.build(path).trainer
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    assert hub.requests == []
    assert trainer.push_to_hub("by hand", private=True) == f"{hub.url}/ada/intents"
    check_arrived(hub.files("ada/intents"))
    assert "ada/intents" in hub.private
    trainer.publish = None
    with pytest.raises(ValueError, match=r"`mtl_hf.push\(folder, repo\)`"):
        trainer.push_to_hub()


def test_reserving_says_who_we_are(hub):
    assert reserve("intents") == f"{USER}/intents"


def test_all_that_a_run_writes_is_what_overwriting_removes(trained):
    found = {path.name for path in trained.folder.iterdir()}
    assert {"README.md", *CODE} < found
    assert not {name for name in found if not any(fnmatch(name, pattern) for pattern in mtl_hf.run.WRITTEN)}


# ---- the card ----


def test_the_card_names_a_result_for_each_task_and_split(trained):
    data = ModelCard.load(trained.folder / "README.md").data
    found = {(one.task_name, one.dataset_split): {} for one in data.eval_results}
    for one in data.eval_results:
        found[one.task_name, one.dataset_split][one.metric_name] = one.metric_value
    assert found.keys() == {(name, split) for name in trained.model.heads for split in ("validation", "test")}
    for name, numbers in trained.results["tasks"].items():
        assert found[name, "test"] == {
            key: pytest.approx(value, abs=1e-6)
            for key, value in numbers.items()
            if isinstance(value, float) and key != "baseline"
        }
    state = json.loads((trained.folder / "trainer_state.json").read_text())
    (best,) = [entry for entry in state["log_history"]
               if entry["step"] == state["best_global_step"] and "eval_score" in entry]  # fmt: skip
    assert found["slots", "validation"]["f1"] == pytest.approx(best["eval_slots_f1"], abs=1e-6)
    assert data.library_name == "transformers"
    assert data.base_model is None, "the encoder was a folder"


def test_the_card_tells_data_schedule_rates_and_limits_and_no_path(trained):
    text = (trained.folder / "README.md").read_text(encoding="utf-8")
    assert str(trained.folder.parent) not in text
    assert "| assistant | a data set passed in Python | a list of words | 32 | 4 | 12 |" in text
    assert re.search(r"\| `music` \| \d+ \| \d+ \| \d+ \|", text)
    assert "| entities | train | validation | test |" in text
    assert "| split | rows | mean | deviation | least | most |" in text
    assert "round_robin, all_exhausted" in text
    assert re.search(r"encoder\.layers\.2 +[\d,]+ +0\.003 ", text)
    assert "Texts are truncated after 62 tokens; truncated were 0 of 9 validation rows, 0 of " in text
    assert "mtl-hf train run.yaml training.output_dir=again\n" in text
    assert f"mtl_hf {mtl_hf.__version__}" in text
    assert re.search(r"fp32, \d+ s", text)


def test_every_snippet_of_the_card_runs_and_answers_as_it_says(trained, caplog):
    text = (trained.folder / "README.md").read_text(encoding="utf-8")
    load, *asks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(load.replace('"assistant-model"', repr(str(trained.folder))), scope)
    assert len(asks) == len(trained.model.heads)
    for name, ask in zip(trained.model.heads, asks, strict=True):
        call, shown = ask.strip().split("\n# ")
        (answer,) = eval(call, scope)
        assert answer.keys() == {name}
        assert shown.startswith(f'[{{"{name}": ')
        shape = shown.removeprefix(f'[{{"{name}": ')[0]
        assert isinstance(answer[name], {"[": list, "{": dict, ".": float}[shape])
        for entry in answer[name] if shape == "[" else [answer[name]] if shape == "{" else []:
            assert all(f'"{key}": ...' in shown for key in entry)
    assert not [record for record in caplog.records if record.name.startswith("mtl_hf")]


def test_ids_of_the_hub_become_metadata_and_two_tasks_on_one_column_stay_two(trained, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "metrics.json", "model.safetensors"):
        (folder / name).write_bytes((trained.folder / name).read_bytes())
    config = yaml.safe_load((trained.folder / "run.yaml").read_text())
    config["model"]["encoder"] = "sentence-transformers/all-MiniLM-L6-v2"
    config["sources"]["reviews"] |= {"path": "owner/reviews", "name": "small"}
    config["sources"]["assistant"] |= {"path": "json", "data_files": "/home/ada/rows.jsonl"}
    (folder / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    text = card(folder, "ada/model")
    data = ModelCard(text).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.datasets == ["owner/reviews"]
    found = {one.task_name: (one.dataset_type, one.dataset_config) for one in data.eval_results}
    assert found["stars"] == ("owner/reviews", "small")
    assert {found["topics"], found["sentiment"]} == {("owner/reviews", "small"), ("owner/reviews", "small sentiment")}
    assert found["intent"] == ("assistant", None)
    assert "/home/ada" not in text


def test_a_head_without_training_says_so(encoder_folder, tmp_path):
    text = card(save_small(encoder_folder, tmp_path / "model"), "model")
    assert (
        "Output: a number, in the unit of the training data. **It has not been trained: its predictions are random.**"
        in text
    )
    assert "## Results" not in text
    assert "## Training" not in text


def test_a_long_list_of_labels_is_cut():
    labels = [f"label|{index}" for index in range(40)]
    task = TaskData("t", Task(type="sequence_classification", source="s", label="l"), labels, "string")
    table = _label_table(task, {"train": labels * 2 + labels[:1] + [None], "test": labels[:3]}).splitlines()
    assert len(table) == 33
    assert table[2] == r"| `label\|0` | 3 | 1 |"
    assert table[-1] == "| (11 others) | 21 | 0 |"


# ---- the chapter ----


def test_the_commands_and_snippets_of_the_chapter_run(hub, tmp_path, monkeypatch, encoder_folder):
    chapter = (ROOT / "docs" / "publish_and_load.md").read_text(encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_fake_data(RunConfig.load(ROOT / "configs" / "snips.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [line for block in re.findall(r"```console\n(.*?)```", chapter, flags=re.DOTALL)
                for line in block.splitlines()]  # fmt: skip
    quick = [f"model.encoder={encoder_folder}", "model.max_length=48", "training.max_steps=2", "training.use_cpu=true"]
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[0] == "mtl-hf"
        cli.main(words[1:] + (quick if words[1] == "train" else []))
    repo = "my-name/snips"
    check_arrived(hub.files(repo))
    snippets = re.findall(r"```python\n(.*?)```", chapter, flags=re.DOTALL)
    (load,) = [snippet for snippet in snippets if "trust_remote_code" in snippet]
    assert repo in load
    (ask,) = [snippet for snippet in snippets if "pipeline" in snippet]
    scope: dict[str, Any] = {}
    exec(ask, scope)
    assert scope["found"].keys() == {"intent", "slots"}
    assert [len(one["intent"]) for one in scope["best"]] == [3, 3]
    assert len(list(scope["stream"])) == 2
    assert len((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()) > 10
    home = tmp_path / "home"
    home.mkdir()
    assert "intent" in run_python(WITHOUT_US + load, hub, home)
