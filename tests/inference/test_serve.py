"""The HTTP server, in process: its answers are those of the model, and what is refused is refused by its field."""

import asyncio
import base64
import copy
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from mtl_hf.inference.serve import app as app_module
from mtl_hf.inference.serve.access import Access, check_token_value, is_loopback, listen
from mtl_hf.inference.serve.app import create_app
from mtl_hf.inference.serve.limits import Limits
from mtl_hf.inference.serve.models import Loaded, Models, load
from mtl_hf.inference.serve.problems import NoMessages
from mtl_hf.inference.serve.served_model import ModelInMemory
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.saved.cards import card_examples
from tests.conftest import SENTENCES

TOKEN, TRAINING_TOKEN = "token-of-clients", "token-of-the-operator"
MARKER = "xyzzy"  # in every bad input: no answer and no log may repeat it


@pytest.fixture(scope="module")
def model(encoder_folder: str) -> MultiTaskModel:
    """A model with heads for single texts, pairs and choices, and one that predicts nothing for a text."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["booking", "music", "weather"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city", "I-city", "B-when"], text="words")
    model.add_head("topics", type="multi_label_classification", labels=["food", "place", "time"])
    model.add_head("stars", type="regression")
    model.add_head("same", type="sentence_similarity")
    model.add_head("answer", type="multiple_choice")
    model.add_head("mlm", type="masked_lm")
    with torch.no_grad():  # random heads predict the same for every text
        for head in model.heads.values():
            for weight in head.parameters():
                weight.mul_(20)
    return model.eval()


def client_of(model: MultiTaskModel, **options: object) -> TestClient:
    models = Models(Loaded("tiny", ModelInMemory(model), ["play jazz"]), "tiny")
    return TestClient(create_app(models, **options), base_url="http://localhost")


@pytest.fixture(scope="module")
def client(model: MultiTaskModel) -> Iterator[TestClient]:
    with client_of(model) as client:
        yield client


def assert_equal(found: object, expected: object) -> None:
    """Equal, numbers up to rounding: a batch pads otherwise than the reference."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        assert found == expected


# ---- answers ----

IN_JSON = [
    *SENTENCES[:3],
    {"text": SENTENCES[3]},
    {"words": ["play", "some", "jazz"]},
    {"text": "play jazz", "text_pair": "jazz today"},
    {"text": "play", "choices": ["jazz", "a table", "rome"]},
    " ".join(SENTENCES),
]
IN_PYTHON = [
    *SENTENCES[:4],
    ["play", "some", "jazz"],
    ("play jazz", "jazz today"),
    ("play", ["jazz", "a table", "rome"]),
    " ".join(SENTENCES),
]


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_answers_are_those_of_the_model(client: TestClient, model: MultiTaskModel, top_k: int | None) -> None:
    response = client.post("/predict", json={"sentences": IN_JSON, "top_k": top_k})
    assert response.status_code == 200
    assert response.json()["model"] == "tiny"
    found = response.json()["predictions"]
    expected = model.predict(IN_PYTHON, top_k=top_k)
    assert [one["cut"] for one in found] == [one.pop("cut", False) for one in expected] == [False] * 7 + [True]
    assert_equal([one["tasks"] for one in found], json.loads(json.dumps(expected)))
    assert len({round(one["tasks"]["stars"], 4) for one in found[:4]}) == 4, "texts can be told apart"


def test_embeddings_are_those_of_the_model(client: TestClient, model: MultiTaskModel) -> None:
    pair = {"text": SENTENCES[0], "text_pair": SENTENCES[1]}
    expected = [*model.encode(SENTENCES), *model.encode([tuple(SENTENCES[:2])])]
    for path, key in (("/embed", "embeddings"), ("/predict", "predictions")):
        body = {"sentences": [*SENTENCES, pair]} | ({"embeddings": True} if path == "/predict" else {})
        found = client.post(path, json=body).json()[key]
        vectors = [one["embedding"] for one in found] if path == "/predict" else found
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    unit = client.post("/embed", json={"sentences": SENTENCES, "normalize": True}).json()
    np.testing.assert_allclose(unit["embeddings"], model.encode(SENTENCES, normalize=True), atol=1e-5)
    assert unit["cut"] == [False] * len(SENTENCES)


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ({"tasks": ["slots", "intent"]}, ["slots", "intent"]),
        ({"tasks": ["slots", "slots"]}, ["slots"]),
        ({"task": "intent"}, ["intent"]),
        ({"task": 1}, ["intent"]),
        ({"task": 4}, ["stars"]),
        ({}, ["intent", "slots", "topics", "stars"]),
    ],
)
def test_only_requested_tasks_answer(client: TestClient, requested: dict, expected: list[str]) -> None:
    (found,) = client.post("/predict", json={"sentences": ["play jazz"]} | requested).json()["predictions"]
    assert list(found["tasks"]) == expected
    assert "embedding" not in found


def test_tasks_models_and_probes(client: TestClient, model: MultiTaskModel) -> None:
    found = client.get("/tasks").json()
    assert (found["model"], found["max_length"], found["embeddings"]) == ("tiny", 16, True)
    assert found["examples"] == ["play jazz"]
    assert [(task["number"], task["name"]) for task in found["tasks"]] == [
        (1, "intent"), (2, "slots"), (3, "topics"), (4, "stars"), (5, "same"), (6, "answer"),
    ]  # fmt: skip
    assert found["tasks"][0] == {
        "number": 1, "name": "intent", "type": "sequence_classification", "reads": "single texts",
        "labels": ["booking", "music", "weather"], "options": {"num_steps": 0},
    }  # fmt: skip
    assert found["tasks"][4]["reads"] == "pairs"
    assert client.get("/models").json() == {"served": "tiny", "models": ["tiny"]}
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready", "model": "tiny"}


def test_metrics_count_what_was_asked(model: MultiTaskModel) -> None:
    with client_of(model) as client:
        client.post("/predict", json={"sentences": ["play jazz", " ".join(SENTENCES)]})
        client.post("/predict", json={"sentences": []})
        client.get(f"/{MARKER}")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    assert 'mtl_hf_requests_total{path="/predict",status="200"} 1.0' in lines
    assert 'mtl_hf_requests_total{path="/predict",status="422"} 1.0' in lines
    assert "mtl_hf_batch_sentences_sum 2.0" in lines
    assert "mtl_hf_cut_sentences_total 1.0" in lines
    assert "mtl_hf_waiting_sentences 0.0" in lines
    assert MARKER not in response.text


def test_a_model_without_heads_only_embeds(encoder_folder: str) -> None:
    with client_of(MultiTaskModel.from_encoder(encoder_folder)) as client:
        assert client.post("/embed", json={"sentences": ["play"]}).status_code == 200
        assert client.post("/predict", json={"sentences": ["play"]}).status_code == 422


def test_embeddings_that_a_head_hides_are_refused(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("embedding", type="regression")
    model.add_head("cut", type="regression")
    with client_of(model) as client:
        (found,) = client.post("/predict", json={"sentences": [" ".join(SENTENCES * 9)]}).json()["predictions"]
        assert set(found["tasks"]) == {"cut", "embedding"}
        for path, more in (("/predict", {"embeddings": True}), ("/embed", {})):
            response = client.post(path, json={"sentences": ["play"]} | more)
            assert response.status_code == 422
            assert "a task is called 'embedding'" in response.json()["detail"]


# ---- bad input ----

DEEP = '{"sentences": ' + "[" * 100_000 + f'"{MARKER}"' + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (f'{{"sentences": ["{MARKER}', 400, None),
        (DEEP, 400, None),
        (f'["{MARKER}"]', 422, None),
        ("", 422, None),
        ("{}", 422, "sentences"),
        ('{"sentences": []}', 422, "sentences"),
        (f'{{"sentences": "{MARKER}"}}', 422, "sentences"),
        ('{"sentences": [""]}', 422, "sentences.0"),
        ('{"sentences": [" \\n"]}', 422, "sentences.0"),
        ('{"sentences": [NaN]}', 422, "sentences.0"),
        ('{"sentences": [1]}', 422, "sentences.0"),
        ('{"sentences": [null]}', 422, "sentences.0"),
        (f'{{"sentences": ["a", ["{MARKER}", "b"]]}}', 422, "sentences.1"),
        (f'{{"sentences": ["{MARKER} \\ud800"]}}', 422, "sentences.0"),
        (f'{{"sentences": [{{"words": ["{MARKER} \\udfff"]}}]}}', 422, "sentences.0.words.0"),
        ('{"sentences": [{"words": []}]}', 422, "sentences.0.words"),
        ('{"sentences": [{"words": ["a", ""]}]}', 422, "sentences.0.words.1"),
        (f'{{"sentences": [{{"text": "{MARKER}", "text_pair": 1}}]}}', 422, "sentences.0.text_pair"),
        (f'{{"sentences": [{{"text": "a", "{MARKER}2": 1}}]}}', 422, f"sentences.0.{MARKER}2"),
        ('{"sentences": [{"text": "a", "choices": []}]}', 422, "sentences.0.choices"),
        ('{"sentences": [{}]}', 422, "sentences.0"),
        (f'{{"sentences": ["a"], "{MARKER}2": 1}}', 422, f"{MARKER}2"),
        ('{"sentences": ["a"], "tasks": []}', 422, "tasks"),
        ('{"sentences": ["a"], "tasks": null}', 422, "tasks"),
        ('{"sentences": ["a"], "task": null}', 422, "task"),
        ('{"sentences": ["a"], "tasks": "intent"}', 422, "tasks"),
        (f'{{"sentences": ["a"], "tasks": ["intent", "{MARKER}"]}}', 422, "tasks.1"),
        ('{"sentences": ["a"], "task": 0}', 422, "task"),
        ('{"sentences": ["a"], "task": 7}', 422, "task"),
        ('{"sentences": ["a"], "task": true}', 422, "task"),
        ('{"sentences": ["a"], "task": 1.5}', 422, "task"),
        (f'{{"sentences": ["a"], "task": "{MARKER}"}}', 422, "task"),
        ('{"sentences": ["a"], "task": "mlm"}', 422, "task"),
        ('{"sentences": ["a"], "task": "intent", "tasks": ["intent"]}', 422, "task"),
        ('{"sentences": ["a"], "top_k": 0}', 422, "top_k"),
        ('{"sentences": ["a"], "top_k": NaN}', 422, "top_k"),
        ('{"sentences": ["a"], "top_k": 1e400}', 422, "top_k"),
        ('{"sentences": ["a"], "top_k": "all"}', 422, "top_k"),
        ('{"sentences": ["a"], "embeddings": "yes"}', 422, "embeddings"),
        ('{"sentences": ["a"], "tasks": ["same"]}', 422, "tasks"),
        ('{"sentences": ["a", {"text": "a", "text_pair": "b"}], "task": "same"}', 422, "sentences.0"),
        ('{"sentences": ["' + "a" * 10_001 + '"]}', 422, "sentences.0"),
        ('{"sentences": [{"text": "' + "a" * 6000 + '", "choices": ["a", "b"]}]}', 422, "sentences.0"),
        ('{"sentences": [' + '"a", ' * 256 + '"a"]}', 422, "sentences"),
        ('{"sentences": [' + '"a", ' * 9999 + '"a"]}', 422, "sentences"),
        ('{"sentences": ["' + "a" * 2**20 + '"]}', 413, None),
        ('{"sentences": ["' + "a" * 40_000_000 + '"]}', 413, None),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else value,
)
def test_bad_bodies(
    client: TestClient, body: str, status: int, field: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    found = response.json()
    assert (response.status_code, found["status"]) == (status, status), found
    assert response.headers["content-type"] == "application/problem+json"
    assert found["type"] == "about:blank"
    assert found["title"]
    assert MARKER not in re.sub(rf"{MARKER}2", "", response.text + caplog.text)  # names of fields are no texts
    if field is not None:
        assert [error["field"] for error in found["errors"]] == [field]
        assert f"`{field}`: " in found["detail"]


def test_messages_name_what_is_valid(client: TestClient) -> None:
    def detail(**body: object) -> str:
        return client.post("/predict", json=body).json()["detail"]

    assert "valid are intent, slots, topics, stars, same, answer." in detail(sentences=["a"], tasks=["intnt"])
    assert "valid are 1 to 6." in detail(sentences=["a"], task=9)
    assert "`sentences.0`: the text is empty." in detail(sentences=[""])
    assert "at most 256 are allowed" in detail(sentences=["a"] * 300)
    assert '{"words": [...]}' in detail(sentences=[["a", "b"]])
    assert "reads pairs, and there are none" in detail(sentences=["a"], tasks=["same"])
    assert "Content-Type: application/json" in client.post("/predict", content="{}").json()["detail"]


def test_several_errors_are_named_together(client: TestClient) -> None:
    found = client.post("/predict", json={"sentences": ["", 1], "top_k": 0, "more": 1}).json()
    assert [error["field"] for error in found["errors"]] == ["sentences.0", "sentences.1", "top_k", "more"]


def test_a_text_with_choices_has_no_embedding(client: TestClient) -> None:
    choices = {"text": "a", "choices": ["b"]}
    response = client.post("/embed", json={"sentences": ["a", choices]})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "sentences.1"


def test_paths_and_methods_that_do_not_exist(client: TestClient) -> None:
    assert client.get("/nowhere").status_code == 404
    assert client.post("/train", json={"config": "a"}).status_code == 404, "off unless it is allowed"
    response = client.get("/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.headers["content-type"] == "application/problem+json"
    assert client.options("/predict", headers={"Origin": "http://evil.example"}).status_code == 405
    response = client.get("/tasks", headers={"Origin": "http://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


# ---- limits ----


def test_a_body_without_a_length_is_refused_by_its_bytes(model: MultiTaskModel) -> None:
    sent = []

    def parts() -> Iterator[bytes]:
        for number in range(100):
            sent.append(number)
            yield b"a" * 100

    with client_of(model, limits=Limits(body=1000)) as client:
        response = client.post("/predict", content=parts(), headers={"Content-Type": "application/json"})
        assert response.status_code == 413
        assert "more than 1,000 bytes" in response.json()["detail"]
        assert len(sent) < 100 or sent == [*range(100)]  # the test's client may read ahead
        body = json.dumps({"sentences": ["play"]}).encode()
        assert client.post("/predict", content=body + b" " * (1000 - len(body)),
                           headers={"Content-Type": "application/json"}).status_code == 200  # fmt: skip


def test_a_body_that_takes_long_is_given_up(model: MultiTaskModel) -> None:
    app = create_app(Models(Loaded("tiny", ModelInMemory(model)), "tiny"), limits=Limits(seconds=0.2))
    sent = []

    async def receive() -> dict:
        await asyncio.sleep(0.15)
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"host", b"localhost")],
             "query_string": b"", "http_version": "1.1"}  # fmt: skip
    began = time.monotonic()
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert time.monotonic() - began < 2


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="the limit of `batch` is 0; it should be above 0"):
        Limits(batch=0)
    with pytest.raises(ValueError, match="`--max-queue` is 8; it should be at least `--max-sentences`"):
        Limits(queue=8)


# ---- access ----


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True), ("LOCALHOST:8000", True), ("127.0.0.1:8000", True), ("[::1]:80", True),
        ("10.1.2.3", True), ("model.internal:8000", True), ("evil.example", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False), ("", False), ("localhost@evil.example", False),
    ],
)  # fmt: skip
def test_only_known_names_and_addresses_are_hosts(model: MultiTaskModel, host: str, allowed: bool) -> None:
    with client_of(model, access=Access(hosts=frozenset({"model.internal"}))) as client:
        for path in ("/tasks", "/", "/health"):
            response = client.get(path, headers={"Host": host})
            assert response.status_code == (200 if allowed else 400)
    if not allowed:
        assert "--allowed-host" in response.json()["detail"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_with_a_token_everything_but_pages_and_probes_needs_it(model: MultiTaskModel) -> None:
    with client_of(model, access=Access(token=TOKEN)) as client:
        for path in ("/", "/docs", "/health", "/ready"):
            assert client.get(path).status_code == 200
        for path in ("/tasks", "/metrics", "/models", "/openapi.json", "/nowhere", "/Health"):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers=bearer(TOKEN)).status_code in (200, 404)
        for wrong in ({}, bearer("wrong"), bearer(""), bearer(TOKEN[:-1]), bearer(TOKEN + "x"),
                      {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}):  # fmt: skip
            response = client.post("/predict", json={"sentences": ["a"]}, headers=wrong)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert "wrong" not in response.text or wrong
        right = {"Authorization": f"bearer {TOKEN}"}  # the scheme has no case
        assert client.post("/predict", json={"sentences": ["a"]}, headers=right).status_code == 200


def test_without_a_token_none_is_needed_and_the_schema_names_none(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert not any("security" in method for path in schema["paths"].values() for method in path.values())


@pytest.mark.parametrize("value", ["", "short", "with a space in it", "umläute-umläute"])
def test_tokens_that_are_no_tokens(value: str) -> None:
    with pytest.raises(ValueError, match="`MTL_HF_TOKEN` should have at least 8 characters"):
        check_token_value("MTL_HF_TOKEN", value)
    assert check_token_value("MTL_HF_TOKEN", None) is None
    assert check_token_value("MTL_HF_TOKEN", TOKEN) == TOKEN


def test_an_address_that_cannot_be_used_is_named() -> None:
    with listen("127.0.0.1", 0) as used, pytest.raises(ValueError, match="cannot listen on 127"):
        listen("127.0.0.1", used.getsockname()[1])
    with pytest.raises(ValueError, match="`--port` is 70000"):
        listen("127.0.0.1", 70000)
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip


# ---- schema and pages ----


def test_examples_of_the_schema_are_answered(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["components"]["schemas"]["PredictRequest"]["properties"]["tasks"]["items"]["enum"] == [
        "intent", "slots", "topics", "stars", "same", "answer",
    ]  # fmt: skip
    for path in ("/predict", "/embed"):
        examples = schema["components"]["schemas"][path[1:].title() + "Request"]["examples"]
        assert examples
        for example in examples:
            assert client.post(path, json=example).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_and_run_only_their_own_script(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://|//[a-z]+\.|style=|onclick=\"|innerHTML|<script ", response.text)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', response.text)) <= {"/", "/docs", "/openapi.json", "data:,"}


# ---- failures and logs ----


def test_a_model_that_fails_gives_500_without_its_message(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = copy.copy(model)

    def fail(*_: object) -> None:
        raise RuntimeError(f"the text {MARKER} is bad")

    served = ModelInMemory(broken)
    monkeypatch.setattr(served, "predict", lambda texts, **_: fail(texts))
    with TestClient(create_app(Models(Loaded("tiny", served), "tiny")), base_url="http://localhost") as client:
        response = client.post("/predict", json={"sentences": [MARKER]})
        assert response.status_code == 500
        assert response.json()["errors"][0]["field"] == "sentences.0"
        assert "mtl_hf_failed_sentences_total 1.0" in client.get("/metrics").text
    assert "RuntimeError at " in caplog.text
    assert MARKER not in response.text + caplog.text


def test_a_server_that_fails_gives_500_without_a_text(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(MARKER)

    monkeypatch.setattr(app_module, "tasks_of", fail)
    models = Models(Loaded("tiny", ModelInMemory(model)), "tiny")
    with TestClient(create_app(models), base_url="http://localhost", raise_server_exceptions=False) as client:
        response = client.post("/predict", json={"sentences": [MARKER]})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert MARKER not in response.text


def test_errors_are_logged_by_type_and_place() -> None:
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "a.py", 1, "Exception in ASGI application\n", None, None)
    try:
        raise RuntimeError(MARKER)
    except RuntimeError as error:
        record.exc_info = (RuntimeError, error, error.__traceback__)
    assert NoMessages().filter(record)
    text = logging.Formatter().format(record)
    assert re.fullmatch(r"Exception in ASGI application: RuntimeError at .*test_serve\.py:\d+", text)


def test_no_text_is_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert client.post("/predict", json={"sentences": [MARKER, f"{MARKER} " * 50]}).status_code == 200
    assert MARKER not in caplog.text


# ---- loading ----


def test_examples_come_from_the_card(tmp_path: Path) -> None:
    assert card_examples(str(tmp_path)) == []
    card = tmp_path / "README.md"
    for text, expected in [
        ("# no metadata\n", []),
        ("---\nlicense: mit\n---\n# card\n", []),
        ("---\nwidget:\n- text: play jazz\n- text: a\n  text_pair: b\n- text: 3\n- other\n---\n",
         ["play jazz", {"text": "a", "text_pair": "b"}]),
        ("---\nwidget: {a: b}\n---\n", []),
        ("---\nwidget:\n" + "".join(f"- text: t{number}\n" for number in range(20)) + "---\n",
         [f"t{number}" for number in range(8)]),
        ("---\n{broken\n---\n", []),
    ]:  # fmt: skip
        card.write_text(text, encoding="utf-8")
        assert card_examples(str(tmp_path)) == expected


def test_a_folder_that_is_no_model_of_ours_is_refused(encoder_folder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a multi-task model"):
        load(encoder_folder, "tiny")
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        load(str(tmp_path), "tiny")
    with pytest.raises(ValueError, match="there is no such folder"):
        load(str(tmp_path / "none"), "tiny")


def test_a_saved_model_is_loaded_and_ready(model: MultiTaskModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "README.md").write_text("---\nwidget:\n- text: play\n---\n", encoding="utf-8")
    loaded = load(str(tmp_path / "own"), "own", "cpu")
    assert (loaded.id, loaded.examples) == ("own", ["play"])
    assert list(loaded.model.tasks) == ["answer", "intent", "same", "slots", "stars", "topics"]
    with pytest.raises(ValueError, match="`--device` is"):
        load(str(tmp_path / "own"), "own", "cuda:99")
