"""Batches across requests, with a model that notes what it gets: who shares a batch, who fails, who waits."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx2
import pytest

from mtl_hf.inference.serve.app import create_app
from mtl_hf.inference.serve.batching import Batcher
from mtl_hf.inference.serve.counters import Counters
from mtl_hf.inference.serve.limits import Limits
from mtl_hf.inference.serve.models import Loaded, Models
from mtl_hf.inference.serve.problems import ProblemError
from mtl_hf.inference.serve.served_model import Answer, ServedTask


class NotedModel:
    """A model that answers with its arguments, fails for some texts, and can be held.

    Attributes:
        batches: The texts of each call.
        open: Unset to hold the model.
        entered: Set while a call runs.
    """

    def __init__(self, name: str = "model") -> None:
        self.tasks = {task: ServedTask(task, "any", "single texts", [], {}) for task in ("one", "two")}
        self.max_length = 16
        self.no_embeddings = ""
        self.name = name
        self.batches: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def predict(
        self, texts: Sequence[Any], *, tasks: Sequence[str], top_k: Sequence[int | None], embeddings: bool
    ) -> list[Answer]:
        self.batches.append(list(texts))
        self.entered.set()
        assert self.open.wait(20)
        if any("bad" in text for text in texts):
            raise KeyError("bad")
        return [
            Answer(
                {task: [self.name, text, task, number] for task in tasks}, [float(len(text))] if embeddings else None
            )
            for text, number in zip(texts, top_k, strict=True)
        ]


def run(test: Callable[[Batcher], Awaitable[None]], **limits: Any) -> None:
    """Run a test with a batcher."""

    async def main() -> None:
        batcher = Batcher(Limits(**limits), Counters())
        batcher.start()
        try:
            await asyncio.wait_for(test(batcher), 20)
        finally:
            await batcher.close()

    asyncio.run(main())


async def held(batcher: Batcher, model: NotedModel) -> Any:
    """Hold the model with a first request, so that what follows waits."""
    model.open.clear()
    job = submit(batcher, model, "first")
    while not model.entered.is_set():
        await asyncio.sleep(0.001)
    return job


def submit(batcher: Batcher, model: NotedModel, *texts: str, **options: Any) -> Any:
    return batcher.submit(model, texts, [len(text) for text in texts], **{"tasks": ["one"]} | options)


def test_a_single_request_does_not_wait_and_those_that_wait_share_a_batch() -> None:
    async def test(batcher: Batcher) -> None:
        model = NotedModel()
        first = await held(batcher, model)
        jobs = [submit(batcher, model, f"text {number}", f"more {number}") for number in range(5)]
        assert batcher.waiting == 10
        model.open.set()
        assert (await first.future)[0].tasks == {"one": ["model", "first", "one", 1]}
        for number, job in enumerate(jobs):
            answers = await job.future
            assert [answer.tasks["one"][1] for answer in answers] == [f"text {number}", f"more {number}"]
        assert [len(batch) for batch in model.batches] == [1, 10]
        assert batcher.waiting == 0

    run(test)


def test_requests_with_other_options_share_a_batch_and_get_what_they_asked_for() -> None:
    async def test(batcher: Batcher) -> None:
        model = NotedModel()
        await held(batcher, model)
        one = submit(batcher, model, "a", tasks=["two"], top_k=3)
        two = submit(batcher, model, "bb", tasks=["two", "one"], top_k=None, embeddings=True)
        three = submit(batcher, model, "ccc", tasks=[], embeddings=True)
        model.open.set()
        assert await one.future == [Answer({"two": ["model", "a", "two", 3]})]
        (answer,) = await two.future
        assert answer == Answer({"two": ["model", "bb", "two", None], "one": ["model", "bb", "one", None]}, [2.0])
        assert list(answer.tasks) == ["two", "one"]
        assert await three.future == [Answer({}, [3.0])]
        assert model.batches == [["first"], ["a", "bb", "ccc"]]

    run(test)


@pytest.mark.parametrize("lengths", [[3] * 50, [100, 3, 3, 3, 100, 50, 50, 3], [500, 3, 3], [1] * 7 + [90] + [1] * 7])
def test_batches_keep_the_order_and_stay_inside_the_budget(lengths: list[int]) -> None:
    async def test(batcher: Batcher) -> None:
        model = NotedModel()
        await held(batcher, model)
        texts = [chr(ord("a") + number % 26) * length for number, length in enumerate(lengths)]
        jobs = [submit(batcher, model, *texts[start : start + 3]) for start in range(0, len(texts), 3)]
        model.open.set()
        await asyncio.gather(*(job.future for job in jobs))
        batches = model.batches[1:]
        assert [text for batch in batches for text in batch] == texts
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            assert len(batch) <= 8
            assert len(batch) * max(map(len, batch)) <= 300 or len(batch) == 1
            if following:  # the next text would not have fitted
                longest = max(len(text) for text in [*batch, following[0]])
                assert len(batch) == 8 or (len(batch) + 1) * longest > 300

    run(test, batch=8, budget=300)


def test_a_text_that_fails_does_not_fail_its_neighbours() -> None:
    async def test(batcher: Batcher) -> None:
        model = NotedModel()
        await held(batcher, model)
        good = [submit(batcher, model, f"good {number}", "also good") for number in range(3)]
        bad = submit(batcher, model, "fine", "bad", "never reached")
        last = submit(batcher, model, "last")
        model.open.set()
        for job in [*good, last]:
            assert len(await job.future) == len(job.texts)
        with pytest.raises(ProblemError) as raised:
            await bad.future
        assert (raised.value.status, raised.value.errors[0][0]) == (500, "sentences.1")
        alone = [batch[0] for batch in model.batches[2:]]
        assert all(len(batch) == 1 for batch in model.batches[2:])
        assert "never reached" not in alone
        again = submit(batcher, model, "afterwards")
        assert (await again.future)[0].tasks["one"][1] == "afterwards"

    run(test)


def test_a_full_queue_refuses_and_tells_when_to_try_again() -> None:
    async def test(batcher: Batcher) -> None:
        model = NotedModel()
        await held(batcher, model)
        waiting = [submit(batcher, model, "a", "b") for _ in range(4)]
        with pytest.raises(ProblemError, match="8 sentences are waiting") as raised:
            submit(batcher, model, "c", "d", "e")
        assert raised.value.status == 503
        assert int(raised.value.headers["Retry-After"]) >= 1
        last = submit(batcher, model, "c", "d")  # just fits
        model.open.set()
        await asyncio.gather(*(job.future for job in [*waiting, last]))

    run(test, queue=10, sentences=10)


def test_a_request_that_is_dropped_never_reaches_the_model() -> None:
    async def test(batcher: Batcher) -> None:
        model = NotedModel()
        await held(batcher, model)
        left, stays = submit(batcher, model, "left", "left too"), submit(batcher, model, "stays")
        batcher.drop(left)
        batcher.drop(left)  # again: nothing happens
        assert batcher.waiting == 1
        model.open.set()
        await stays.future
        assert model.batches == [["first"], ["stays"]]

    run(test)


def test_a_swap_neither_loses_nor_mixes_requests() -> None:
    async def test(batcher: Batcher) -> None:
        old, new = NotedModel("old"), NotedModel("new")
        await held(batcher, old)
        jobs = [submit(batcher, model, f"{number}") for number, model in enumerate([old, old, new, old, new, new])]
        old.open.set()
        answers = [(await job.future)[0].tasks["one"][:2] for job in jobs]
        assert answers == [
            [name, str(number)] for number, name in enumerate(["old", "old", "new", "old", "new", "new"])
        ]
        assert old.batches == [["first"], ["0", "1"], ["3"]]
        assert new.batches == [["2"], ["4", "5"]]

    run(test)


def test_a_batch_that_never_ends_makes_the_server_not_ready() -> None:
    async def test(batcher: Batcher) -> None:
        assert batcher.is_well
        model = NotedModel()
        await held(batcher, model)
        assert batcher.is_well
        await asyncio.sleep(0.15)
        assert not batcher.is_well
        model.open.set()

    run(test, seconds=0.1)


# ---- over HTTP ----


def serve_noted(
    test: Callable[[httpx2.AsyncClient, Any, NotedModel], Awaitable[None]], models: Models | None = None, **limits: Any
) -> None:
    async def main() -> None:
        model = NotedModel()
        app = create_app(models or Models(Loaded("model", model), "model"), limits=Limits(**limits))
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client,
        ):
            await asyncio.wait_for(test(client, app, model), 20)

    asyncio.run(main())


def test_a_request_that_takes_too_long_gets_504_and_leaves_the_queue() -> None:
    async def test(client: httpx2.AsyncClient, app: Any, model: NotedModel) -> None:
        model.open.clear()
        first = asyncio.create_task(client.post("/predict", json={"sentences": ["first"]}))
        while not model.entered.is_set():
            await asyncio.sleep(0.001)
        second = await client.post("/predict", json={"sentences": ["second"]})
        assert (second.status_code, (await first).status_code) == (504, 504)
        assert "within 0.3 s" in second.json()["detail"]
        assert (await client.get("/ready")).status_code == 503
        assert "mtl_hf_waiting_sentences 0.0" in (await client.get("/metrics")).text
        model.open.set()
        third = await client.post("/predict", json={"sentences": ["third"]})
        assert third.status_code == 200
        assert model.batches == [["first"], ["third"]]
        assert (await client.get("/ready")).status_code == 200

    serve_noted(test, seconds=0.3)


def test_a_full_queue_is_503_over_http() -> None:
    async def test(client: httpx2.AsyncClient, app: Any, model: NotedModel) -> None:
        model.open.clear()
        first = asyncio.create_task(client.post("/predict", json={"sentences": ["first"]}))
        while not model.entered.is_set():
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(client.post("/predict", json={"sentences": ["a", "b"]}))
        await asyncio.sleep(0.05)
        full = await client.post("/predict", json={"sentences": ["c"]})
        assert full.status_code == 503
        assert int(full.headers["retry-after"]) >= 1
        model.open.set()
        assert [(await task).status_code for task in (first, waiting)] == [200, 200]

    serve_noted(test, queue=2, sentences=2)


def test_a_client_that_leaves_takes_its_request_along() -> None:
    async def test(client: httpx2.AsyncClient, app: Any, model: NotedModel) -> None:
        model.open.clear()
        first = asyncio.create_task(client.post("/predict", json={"sentences": ["first"]}))
        while not model.entered.is_set():
            await asyncio.sleep(0.001)
        gone, messages = asyncio.Event(), [{"type": "http.request", "body": b'{"sentences": ["left"]}'}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            assert message.get("status", 499) == 499

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b"",
                 "http_version": "1.1", "root_path": ""}  # fmt: skip
        leaving = asyncio.create_task(app(scope, receive, send))
        await asyncio.sleep(0.05)
        assert "mtl_hf_waiting_sentences 1.0" in (await client.get("/metrics")).text
        gone.set()
        await leaving
        assert "mtl_hf_waiting_sentences 0.0" in (await client.get("/metrics")).text
        model.open.set()
        assert (await first).status_code == 200
        assert model.batches == [["first"]]

    serve_noted(test)


def test_a_model_is_swapped_while_requests_wait_and_one_that_fails_to_load_is_not() -> None:
    loaded = {"old": Loaded("old", NotedModel("old")), "new": Loaded("new", NotedModel("new"))}
    release = threading.Event()

    def load(name: str, id: str) -> Loaded:
        assert release.wait(20)
        if name == "damaged":
            raise ValueError("damaged cannot be loaded: its weights are cut short")
        if name == "odd":
            raise RuntimeError("secret")
        return loaded[name]

    models = Models(loaded["old"], "old", load, lambda: {"new": "new", "damaged": "damaged", "odd": "odd"})

    async def test(client: httpx2.AsyncClient, app: Any, _: NotedModel) -> None:
        async def ask(text: str) -> list[Any]:
            found = (await client.post("/predict", json={"sentences": [text]})).json()
            return [found["model"], *found["predictions"][0]["tasks"]["one"][:2]]

        old = loaded["old"].model
        old.open.clear()
        waiting = asyncio.create_task(ask("before"))
        while not old.entered.is_set():
            await asyncio.sleep(0.001)
        swap = asyncio.create_task(models.activate("new"))
        await asyncio.sleep(0.05)
        with pytest.raises(ProblemError, match="another model is being loaded") as raised:
            await models.activate("damaged")
        assert raised.value.status == 409
        release.set()
        await swap
        later = asyncio.create_task(ask("after"))
        await asyncio.sleep(0.05)
        old.open.set()
        assert await waiting == ["old", "old", "before"]
        assert await later == ["new", "new", "after"]
        with pytest.raises(ProblemError, match="its weights are cut short") as raised:
            await models.activate("damaged")
        assert raised.value.status == 409
        with pytest.raises(ProblemError, match="'odd' cannot be loaded, 'new' is still served: RuntimeError") as raised:
            await models.activate("odd")
        with pytest.raises(ProblemError, match="no model of this id") as raised:
            await models.activate("/etc/passwd")
        assert raised.value.status == 404
        assert await ask("again") == ["new", "new", "again"]
        assert (await client.get("/models")).json() == {"served": "new", "models": ["new", "damaged", "odd", "old"]}
        assert (await client.get("/ready")).json()["model"] == "new"

    serve_noted(test, models)
