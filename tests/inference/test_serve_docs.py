"""What the chapter on serving shows: every curl line is run against a server, and answers have the form shown."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import uvicorn

from mtl_hf.experiments.training_runs import TrainingRuns
from mtl_hf.inference.serve.access import Access, listen
from mtl_hf.inference.serve.app import create_app
from mtl_hf.inference.serve.models import Models, load
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import SENTENCES

ROOT = Path(__file__).parents[2]
CHAPTER = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING_TOKEN = "token-of-the-operator"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")


@pytest.fixture
def port(encoder_folder: str, tmp_path: Path, forked: None) -> Iterator[int]:
    """A server of a model with the tasks of the quickstart, which may train a config of that name."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["set_alarm", "play_music"])
    model.add_head("slots", type="token_classification", labels=["O", "B-time"], text="words")
    model.add_head("sentiment", type="sequence_classification", labels=["negative", "neutral", "positive"])
    with torch.no_grad():
        model.heads["slots"].classifier.bias.copy_(torch.tensor([-50.0, 50.0]))  # so that spans are found
    model.save_pretrained(tmp_path / "quickstart")
    rows = [json.dumps({"text": f"{text} {at}", "label": "ab"[at % 2]}) + "\n" for at, text in enumerate(SENTENCES * 3)]
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    (tmp_path / "quickstart.yaml").write_text(
        f"""
model: {{encoder: {encoder_folder}}}
sources: {{rows: {{path: json, data_files: {tmp_path}/rows.jsonl, text: text}}}}
tasks: {{label: {{type: sequence_classification, source: rows, label: label}}}}
training: {{max_steps: 100000, precision: fp32, use_cpu: true, disable_tqdm: true}}
""",
        encoding="utf-8",
    )
    runs = TrainingRuns([str(tmp_path / "quickstart.yaml")], tmp_path / "served")
    name = str(tmp_path / "quickstart")
    models = Models(load(name, "quickstart", "cpu"), name, lambda name, id: load(name, id, "cpu"), runs.models)
    app = create_app(models, access=Access(training_token=TRAINING_TOKEN), runs=runs)
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def curl(line: str, port: int) -> tuple[int, dict | list]:
    """Run a curl line of a page; the status and the JSON of its answer."""
    line = line.replace("localhost:8000", f"127.0.0.1:{port}").replace("curl ", "curl -s -w '\\n%{http_code}' ", 1)
    environment = os.environ | {"MTL_HF_TRAINING_TOKEN": TRAINING_TOKEN}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def form(value: object) -> object:
    """A value without its content: the keys, and the form of the first item of lists."""
    if isinstance(value, dict):
        return {key: form(part) for key, part in value.items()}
    return [form(part) for part in value[:1]] if isinstance(value, list) else type(value)


def test_the_lines_of_the_chapter_run_and_answer_as_shown(port: int) -> None:
    lines = re.findall(r"^curl .*$", CHAPTER, re.MULTILINE)
    assert len(lines) == 12
    found = [curl(line, port) for line in lines]
    assert [status for status, _ in found] == [200] * 6 + [422, 202] + [200] * 4
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", CHAPTER, re.DOTALL)]
    assert form(found[0][1]) == form(shown[0])
    assert found[6][1] == shown[1]
    first, run, stopped = found[7][1], found[8][1], found[9][1]
    assert first["id"] == run["id"] == "quickstart-1"
    assert stopped["state"] == "stopped"
    assert found[11][1] == {"served": "quickstart"}


def test_the_line_of_the_readme_runs_and_answers_as_shown(port: int) -> None:
    (line,) = re.findall(r"^curl .*$", README, re.MULTILINE)
    (block,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    status, found = curl(line, port)
    assert status == 200
    assert form(found) == form(json.loads(block))


def test_limits_of_the_chapter_are_the_defaults() -> None:
    from mtl_hf.cli.serve import LIMITS
    from mtl_hf.inference.serve.limits import Limits

    rows = re.findall(r"^\| [^|]+ \| `(--[\w-]+)` \| ([^|]+) \|", CHAPTER, re.MULTILINE)
    assert {option for option, _ in rows} == set(LIMITS) - {"--max-batch"}
    for option, shown in rows:
        value = float(shown.replace(",", "").replace(" MiB", ""))
        assert getattr(Limits, LIMITS[option][0]) == value * (2**20 if "MiB" in shown else 1)
