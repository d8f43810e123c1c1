"""Runs on demand, and their routes: one at a time, in processes that end with the server; their models are served."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from starlette.testclient import TestClient

from mtl_hf.experiments.training_runs import TrainingRuns
from mtl_hf.inference.serve.access import Access
from mtl_hf.inference.serve.app import create_app
from mtl_hf.inference.serve.models import Loaded, Models, load
from mtl_hf.inference.serve.training_routes import RunBusyError
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import assistant_rows

TOKEN, TRAINING_TOKEN = "token-of-clients", "token-of-the-operator"
OPERATOR = {"Authorization": f"Bearer {TRAINING_TOKEN}"}


@pytest.fixture
def configs(encoder_folder: str, tmp_path: Path) -> list[str]:
    """A config that trains in a moment, one that takes long, and one whose data do not exist."""
    rows = [json.dumps(row) + "\n" for row in assistant_rows(24)]
    (tmp_path / "train.jsonl").write_text("".join(rows[:18]), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("".join(rows[18:]), encoding="utf-8")
    paths = []
    for name, data, steps in (("quick", "train", 3), ("long", "train", 100_000), ("broken", "nowhere", 3)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            f"""
model: {{encoder: {encoder_folder}}}
sources:
  assistant:
    path: json
    data_files: {{train: {tmp_path}/{data}.jsonl, test: {tmp_path}/test.jsonl}}
    text: tokens
tasks:
  intent: {{type: sequence_classification, source: assistant, label: intent}}
training: {{output_dir: {tmp_path}/unused, max_steps: {steps}, logging_steps: 1, precision: fp32, use_cpu: true,
  disable_tqdm: true, save_strategy: "no", eval_strategy: "no", load_best_model_at_end: false}}
""",
            encoding="utf-8",
        )
        paths.append(str(path))
    return paths


@pytest.fixture
def runs(configs: list[str], tmp_path: Path) -> Iterator[TrainingRuns]:
    runs = TrainingRuns(configs, tmp_path / "runs")
    yield runs
    runs.close()
    assert not [run for run in runs.list() if run["state"] == "running"]


@pytest.fixture
def client(runs: TrainingRuns, encoder_folder: str, tmp_path: Path) -> Iterator[TestClient]:
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("stars", type="regression")
    model.save_pretrained(tmp_path / "first")
    models = Models(load(str(tmp_path / "first"), "first", "cpu"), str(tmp_path / "first"), _load, runs.models)
    app = create_app(models, access=Access(token=TOKEN, training_token=TRAINING_TOKEN), runs=runs)
    with TestClient(app, base_url="http://localhost", headers=OPERATOR) as client:
        yield client


def _load(name: str, id: str) -> Loaded:
    return load(name, id, "cpu")


def ended(client: TestClient, id: str) -> dict:
    """A run, once it is over."""
    end = time.monotonic() + 120
    while (run := client.get(f"/runs/{id}").json())["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.1)
    return run


def under_way(client: TestClient, id: str) -> dict:
    """A run, once it has taken a step."""
    end = time.monotonic() + 120
    while (run := client.get(f"/runs/{id}").json())["step"] is None:
        assert run["state"] == "running", run
        assert time.monotonic() < end
        time.sleep(0.1)
    return run


@pytest.mark.usefixtures("processes")
def test_a_run_is_trained_shown_and_served(client: TestClient, tmp_path: Path) -> None:
    response = client.post("/train", json={"config": "quick"})
    assert response.status_code == 202
    started = response.json()
    assert response.headers["location"] == "/runs/quick-1"
    assert (started["id"], started["config"], started["state"]) == ("quick-1", "quick", "running")
    assert client.post("/models/quick-1/activate").status_code == 404, "not finished"
    run = ended(client, "quick-1")
    assert run["state"] == "finished", run["log"]
    assert (run["step"], run["num_steps"]) == (3, 3)
    assert 0 <= run["scores"]["intent"]["accuracy"] <= 1
    assert any("Written to" in line for line in run["log"])
    assert (tmp_path / "runs" / "quick-1" / "model.safetensors").is_file()
    assert not (tmp_path / "unused").exists()
    (listed,) = client.get("/runs").json()
    assert listed == run | {"log": None}

    assert client.get("/models").json() == {"served": "first", "models": ["quick-1", "first"]}
    assert client.post("/models/quick-1/activate").json() == {"served": "quick-1"}
    found = client.post("/predict", json={"sentences": ["play jazz"]}).json()
    assert (found["model"], list(found["predictions"][0]["tasks"])) == ("quick-1", ["intent"])
    enum = client.get("/openapi.json").json()["components"]["schemas"]["PredictRequest"]["properties"]["tasks"]
    assert enum["items"]["enum"] == ["intent"]
    assert client.post("/models/first/activate").json() == {"served": "first"}
    assert client.post("/predict", json={"sentences": ["play"]}).json()["model"] == "first"

    (tmp_path / "runs" / "quick-1" / "model.safetensors").write_bytes(b"cut short")
    response = client.post("/models/quick-1/activate")
    assert response.status_code == 409
    assert "'first' is still served" in response.json()["detail"]
    assert client.post("/predict", json={"sentences": ["play"]}).json()["model"] == "first"


@pytest.mark.usefixtures("processes")
def test_one_run_at_a_time_which_can_be_stopped(client: TestClient) -> None:
    client.post("/train", json={"config": "long"})
    under_way(client, "long-1")
    children = psutil.Process().children(recursive=True)
    assert children
    response = client.post("/train", json={"config": "quick"})
    assert response.status_code == 409
    assert "long-1 is running" in response.json()["detail"]
    assert client.post("/predict", json={"sentences": ["play"]}).status_code == 200
    stopped = client.delete("/runs/long-1")
    assert (stopped.status_code, stopped.json()["state"]) == (200, "stopped")
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert client.delete("/runs/long-1").status_code == 409
    assert client.get("/runs/long-1").json()["state"] == "stopped"
    assert client.get("/models").json()["models"] == ["first"]
    assert client.post("/train", json={"config": "long"}).json()["id"] == "long-2"


@pytest.mark.usefixtures("processes")
def test_a_run_that_fails_shows_why(client: TestClient) -> None:
    client.post("/train", json={"config": "broken"})
    run = ended(client, "broken-1")
    assert (run["state"], run["scores"], run["step"]) == ("failed", None, None)
    assert "nowhere.jsonl" in run["log"][-1]


@pytest.mark.usefixtures("processes")
def test_runs_end_with_the_server_and_start_no_more(runs: TrainingRuns) -> None:
    runs.start("long")
    runs.close()
    assert [run["state"] for run in runs.list()] == ["stopped"]
    with pytest.raises(RunBusyError, match="the server is ending"):
        runs.start("quick")


@pytest.mark.usefixtures("forked")
def test_a_run_never_gets_the_name_of_another_one_or_of_the_served_model(configs: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs" / "broken-1").mkdir(parents=True)
    (tmp_path / "runs" / "broken-2.log").write_text("of an earlier server", encoding="utf-8")
    runs = TrainingRuns(configs, tmp_path / "runs", reserved="broken-3")
    assert runs.start("broken")["id"] == "broken-4"
    runs.close()
    assert (tmp_path / "runs" / "broken-2.log").read_text(encoding="utf-8") == "of an earlier server"


def test_only_what_is_allowed_can_be_trained(client: TestClient, tmp_path: Path) -> None:
    for config in ("nowhere", "../quick", str(tmp_path / "quick.yaml"), "quick.yaml", ""):
        response = client.post("/train", json={"config": config})
        assert response.status_code == 422
        assert "allowed are quick, long, broken" in response.json()["detail"]
    for body in ({"config": "quick", "training": {"max_steps": 1}}, {"config": ["quick"]}, {}, []):
        assert client.post("/train", json=body).status_code == 422
    for path in ("/runs/none", "/runs/..%2Fquick"):
        assert client.get(path).status_code == 404
        assert client.delete(path).status_code == 404
    assert client.post("/models/%2Fetc/activate").status_code == 404
    assert client.get("/runs").json() == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/train"), ("GET", "/runs"), ("GET", "/runs/quick-1"), ("DELETE", "/runs/quick-1"),
     ("POST", "/models/first/activate")],
)  # fmt: skip
def test_training_needs_its_own_token(client: TestClient, method: str, path: str) -> None:
    body = {"config": "quick"} if path == "/train" else None
    for headers, status in (
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong-wrong"}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 403),
    ):
        response = client.request(method, path, json=body, headers=headers)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
    assert client.get("/runs").json() == []
    assert client.get("/tasks", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_configs_are_checked_when_the_server_starts(configs: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no config file"):
        TrainingRuns([str(tmp_path / "none.yaml")], tmp_path)
    other = tmp_path / "other" / "quick.yaml"
    other.parent.mkdir()
    other.write_text(Path(configs[0]).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match="have the same name"):
        TrainingRuns([configs[0], str(other)], tmp_path)
    other.write_text(
        "model: {encoder: x}\ntasks: {a: {type: nothing, source: b}}\nsources: {b: {path: json, text: x}}\n",
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="nothing"):
        TrainingRuns([str(other)], tmp_path)
