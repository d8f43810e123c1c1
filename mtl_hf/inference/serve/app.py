"""The app: routes for predictions, their errors and limits, and the OpenAPI schema.

Notable: answers are JSON made by hand, without validation against a response model, which would cost more than the rest
of the HTTP layer; tests compare them with the schema. The schema names the tasks of the model that is served now.
"""

import asyncio
import copy
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from ... import __version__
from ...modeling.encoding import PAIRS, SINGLE
from . import problems
from .access import Access, Gate
from .batching import Batcher, Job
from .body_limit import BodyLimit
from .counters import Counters, Counting
from .limits import Limits
from .models import Models
from .pages import HtmlPage
from .problems import ProblemError, documented
from .requests import (
    KIND_OF_FORM,
    EmbedRequest,
    EmbedResponse,
    PredictRequest,
    PredictResponse,
    kind_of_sentence,
    tasks_of,
    texts_of,
)
from .served_model import Answer, describe
from .training_routes import Runs, TrainingRoutes

_WENT = 499  # the client has left; nobody reads this status


def create_app(
    models: Models, *, limits: Limits | None = None, access: Access | None = None, runs: Runs | None = None
) -> FastAPI:
    """The app as ASGI.

    Args:
        models: The model to serve.
        limits: Limits of requests.
        access: Who may use it. Default: everybody who names a loopback host.
        runs: What trains models on demand; it needs `access.training_token`.
    """
    limits, access, counters = limits or Limits(), access or Access(), Counters()
    batcher = Batcher(limits, counters)
    counters.watch_queue(lambda: batcher.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        try:
            yield
        finally:
            if runs is not None:
                await asyncio.to_thread(runs.close)
            await batcher.close()

    app = FastAPI(
        title="mtl_hf", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    routes = Routes(models, batcher, counters, limits, runs.configs if runs else ())
    needs_token = [Security(HTTPBearer(auto_error=False))] if access.token else []
    app.include_router(routes.open_router())
    app.include_router(routes.router(), dependencies=needs_token)
    if runs is not None:
        assert access.training_token, "training on demand needs a token"
        app.include_router(TrainingRoutes(models, runs, access).router())
    _handle_errors(app)
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(Gate, access=access)
    app.add_middleware(Counting, counters=counters)
    return app


class Routes:
    """The routes for predictions.

    Args:
        models: The served model.
        batcher: Answers sentences.
        counters: What `/metrics` shows.
        limits: Limits of requests.
        configs: Configs that can be trained, for the schema.
    """

    def __init__(
        self, models: Models, batcher: Batcher, counters: Counters, limits: Limits, configs: Sequence[str] = ()
    ) -> None:
        self.configs = configs
        self.models = models
        self.batcher = batcher
        self.counters = counters
        self.limits = limits

    def open_router(self) -> APIRouter:
        """Routes that need no token."""
        router = APIRouter()
        router.add_api_route("/", HtmlPage("page.html").answer, include_in_schema=False)
        router.add_api_route("/docs", HtmlPage("docs.html").answer, include_in_schema=False)
        router.add_api_route("/health", self.health, summary="Whether the process runs")
        router.add_api_route("/ready", self.ready, summary="Whether requests are answered", responses=documented(503))
        return router

    def router(self) -> APIRouter:
        """All other routes."""
        router = APIRouter(responses=documented(400, 401))
        errors = documented(408, 413, 422, 500, 503, 504)
        router.add_api_route(
            "/predict", self.predict, methods=["POST"], summary="Predict with all tasks, or some", responses=errors,
            response_model=PredictResponse,
        )  # fmt: skip
        router.add_api_route(
            "/embed", self.embed, methods=["POST"], summary="Compute sentence embeddings", responses=errors,
            response_model=EmbedResponse,
        )  # fmt: skip
        router.add_api_route("/tasks", self.tasks, summary="The tasks of the model, with their labels")
        router.add_api_route("/models", self.list_models, summary="The models, and which one is served")
        router.add_api_route(
            "/metrics", self.metrics, summary="Counters for Prometheus", response_class=Response,
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        )  # fmt: skip
        router.add_api_route("/openapi.json", self.openapi, include_in_schema=False)
        return router

    async def predict(self, request: Request, body: PredictRequest) -> Response:
        """Predictions for each sentence, from one encoder pass for all tasks."""
        loaded = self.models.current
        texts, sizes = texts_of(body.sentences, self.limits)
        tasks = tasks_of(body, loaded.model)
        job = self.batcher.submit(loaded.model, texts, sizes, tasks=tasks, top_k=body.top_k, embeddings=body.embeddings)
        if (answers := await self._wait(job, request)) is None:
            return Response(status_code=_WENT)
        predictions = []
        for answer in answers:
            found: dict[str, Any] = {"tasks": answer.tasks, "cut": answer.cut}
            if answer.embedding is not None:
                found["embedding"] = answer.embedding
            predictions.append(found)
        return _json({"model": loaded.id, "predictions": predictions})

    async def embed(self, request: Request, body: EmbedRequest) -> Response:
        """An embedding for each sentence: a string, a list of words or a pair."""
        loaded = self.models.current
        texts, sizes = texts_of(body.sentences, self.limits)
        if loaded.model.no_embeddings:
            raise ProblemError(422, f"the model has no embeddings: {loaded.model.no_embeddings}.", field="sentences")
        for number, sentence in enumerate(body.sentences):
            if "choices" in kind_of_sentence(sentence):
                raise ProblemError(422, "a text with choices has no embedding.", field=f"sentences.{number}")
        job = self.batcher.submit(loaded.model, texts, sizes, embeddings=True)
        if (answers := await self._wait(job, request)) is None:
            return Response(status_code=_WENT)
        embeddings = [answer.embedding or [] for answer in answers]
        if body.normalize:
            embeddings = [_unit(embedding) for embedding in embeddings]
        return _json({"model": loaded.id, "embeddings": embeddings, "cut": [answer.cut for answer in answers]})

    async def _wait(self, job: Job, request: Request) -> list[Answer] | None:
        """The answers; None if the client leaves before they are there.

        Raises:
            ProblemError: They take longer than the limit (504), or the model fails (500).
        """
        left = asyncio.ensure_future(request.receive())  # returns when the client leaves
        try:
            awaited: set[asyncio.Future[Any]] = {job.future, left}
            await asyncio.wait(awaited, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if job.future.done():
                return job.future.result()
            if left.done():
                return None
            raise ProblemError(504, f"there was no answer within {self.limits.seconds:g} s.")
        finally:
            left.cancel()
            if not job.future.done():
                self.batcher.drop(job)

    async def tasks(self) -> dict[str, Any]:
        """Names, types, labels and options of the tasks, and example sentences from the model's card."""
        loaded = self.models.current
        return {
            "model": loaded.id,
            "max_length": loaded.model.max_length,
            "embeddings": not loaded.model.no_embeddings,
            "tasks": [describe(task, number) for number, task in enumerate(loaded.model.tasks.values(), start=1)],
            "examples": loaded.examples,
        }

    async def list_models(self) -> dict[str, Any]:
        """The ids of the models that can be served."""
        return {"served": self.models.current.id, "models": list(self.models.names())}

    async def health(self) -> dict[str, str]:
        """For a supervisor: the process runs."""
        return {"status": "ok"}

    async def ready(self) -> dict[str, str]:
        """For a load balancer: requests are being answered."""
        if not self.batcher.is_well:
            raise ProblemError(503, "the model does not answer.")
        return {"status": "ready", "model": self.models.current.id}

    async def metrics(self) -> Response:
        """Counters in the format of Prometheus."""
        return Response(self.counters.text(), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI schema."""
        return _json(_schema(request.app.openapi(), self.models, self.limits, self.configs))


def _schema(schema: dict[str, Any], models: Models, limits: Limits, configs: Sequence[str]) -> dict[str, Any]:
    """FastAPI's schema, with the tasks of the served model, the texts that they read, and the limits."""
    schema = copy.deepcopy(schema)
    parts = schema["components"]["schemas"]
    parts["Problem"] = problems.SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        parts.pop(name, None)
    tasks = models.current.model.tasks
    kinds = {"PredictRequest": {task.reads for task in tasks.values()}, "EmbedRequest": {SINGLE, PAIRS}}
    for request, read in kinds.items():
        sentences = parts[request]["properties"]["sentences"]
        sentences["maxItems"] = limits.sentences
        forms = [(form, form.get("$ref", "").split("/")[-1]) for form in sentences["items"].pop("oneOf")]
        sentences["items"]["anyOf"] = [form for form, name in forms if KIND_OF_FORM[name] in read]
    predict = parts["PredictRequest"]
    predict["not"] = {"required": ["task", "tasks"]}
    properties = predict["properties"]
    properties["tasks"]["items"]["enum"] = list(tasks)
    properties["task"] = {
        "description": properties["task"]["description"],
        "anyOf": [{"enum": list(tasks)}, {"type": "integer", "minimum": 1, "maximum": len(tasks)}],
    }
    if "TrainRequest" in parts:
        parts["TrainRequest"]["properties"]["config"]["enum"] = list(configs)
    return schema


def _handle_errors(app: FastAPI) -> None:
    async def problem(_: Request, error: Any) -> Response:
        return Response(error.body(), error.status, error.headers, problems.MEDIA_TYPE)

    async def invalid(request: Request, error: Any) -> Response:
        return await problem(request, problems.of_validation(error.errors()))

    async def http_error(request: Request, error: Any) -> Response:
        detail = {404: "there is no such path.", 405: "the path does not have this method."}.get(error.status_code)
        return await problem(
            request, ProblemError(error.status_code, detail or str(error.detail), headers=dict(error.headers or {}))
        )

    async def unexpected(request: Request, _: Any) -> Response:
        return await problem(request, ProblemError(500, "the server failed."))

    app.add_exception_handler(ProblemError, problem)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)


def _json(value: Any) -> Response:
    # `default`: a task type of another package may return numbers of numpy.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    return Response(text, media_type="application/json")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _unit(embedding: list[float]) -> list[float]:
    norm = math.sqrt(sum(value * value for value in embedding)) or 1.0
    return [value / norm for value in embedding]
