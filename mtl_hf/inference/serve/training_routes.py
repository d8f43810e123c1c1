"""Routes that train models on demand and swap the served one. They exist only if the operator allows it.

Notable: a request names a config that the operator has allowed, and nothing of its content. All of them need the
training token, also to read: logs of runs may hold rows of the training data.
"""

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Request, Response, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from .access import Access
from .models import Models
from .problems import ProblemError, documented


class RunBusyError(ValueError):
    """A run cannot be started or stopped now."""


class Runs(Protocol):
    """What trains models on demand; `experiments.training_runs.TrainingRuns` is one. Methods may block.

    Attributes:
        configs: Names of the configs that can be trained.
    """

    configs: tuple[str, ...]

    def start(self, config: str) -> dict[str, Any]:
        """Start a run; its description, with its `id`.

        Raises:
            RunBusyError: Another run is not over yet.
        """
        ...

    def list(self) -> list[dict[str, Any]]:
        """All runs of this server, without their logs."""
        ...

    def show(self, id: str) -> dict[str, Any] | None:
        """A run: its state, step, scores and the end of its log. None if there is none of this id."""
        ...

    def stop(self, id: str) -> dict[str, Any] | None:
        """Stop a run and wait for its end. None if there is none of this id.

        Raises:
            RunBusyError: It is over already.
        """
        ...

    def models(self) -> dict[str, str]:
        """Run → its folder, for finished runs."""
        ...

    def close(self) -> None:
        """Stop all runs and wait for their end."""
        ...


class TrainRequest(BaseModel):
    """A request for a run."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"config": "quickstart"}]})
    config: Annotated[str, Field(description="Name of a config that the server allows.")]


class Run(BaseModel):
    """A run."""

    id: str
    config: str
    state: Annotated[str, Field(description="running, finished, failed or stopped")]
    step: int | None = None
    num_steps: int | None = None
    seconds: float
    scores: Annotated[dict[str, dict[str, float]] | None, Field(description="Task → metric → test score.")] = None
    log: Annotated[list[str] | None, Field(description="The last lines of its log.")] = None


class TrainingRoutes:
    """The routes.

    Args:
        models: The served model.
        runs: What trains models.
        access: Knows the token.
    """

    def __init__(self, models: Models, runs: Runs, access: Access) -> None:
        self.models = models
        self.runs = runs
        self.access = access

    def router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(
            dependencies=[Security(HTTPBearer(auto_error=False)), Security(self.check)],
            responses=documented(400, 401, 403, 422),
        )
        missing = documented(404)
        conflict = documented(404, 409)
        router.add_api_route(
            "/train", self.train, methods=["POST"], status_code=202, summary="Start a run of an allowed config",
            response_model=Run, responses=documented(408, 409, 413),
        )  # fmt: skip
        router.add_api_route("/runs", self.list_runs, summary="All runs", response_model=list[Run])
        router.add_api_route(
            "/runs/{id}", self.show, summary="State, step, scores and log of a run", response_model=Run,
            responses=missing,
        )  # fmt: skip
        router.add_api_route(
            "/runs/{id}", self.stop, methods=["DELETE"], summary="Stop a run", response_model=Run, responses=conflict
        )
        router.add_api_route(
            "/models/{id}/activate", self.activate, methods=["POST"], summary="Serve the model of a finished run",
            responses=conflict,
        )  # fmt: skip
        return router

    async def check(self, request: Request) -> None:
        """Refuse a request without the training token."""
        self.access.check_token(request.scope["headers"], training=True)

    # Without `async`, FastAPI runs these on a thread of their own: they read files and wait for processes.

    def train(self, body: TrainRequest, response: Response) -> dict[str, Any]:
        """Start a run in a process of its own. One run at a time: a second one is refused."""
        if body.config not in self.runs.configs:
            raise ProblemError(
                422, f"there is no such config; allowed are {', '.join(self.runs.configs)}.", field="config"
            )
        try:
            run = self.runs.start(body.config)
        except RunBusyError as error:
            raise ProblemError(409, str(error)) from error
        response.headers["Location"] = f"/runs/{run['id']}"
        return run

    def list_runs(self) -> list[dict[str, Any]]:
        """All runs that this server has started."""
        return self.runs.list()

    def show(self, id: str) -> dict[str, Any]:
        """A run, with the end of its log."""
        return _found(self.runs.show(id))

    def stop(self, id: str) -> dict[str, Any]:
        """Stop a run and wait until its process has ended."""
        try:
            return _found(self.runs.stop(id))
        except RunBusyError as error:
            raise ProblemError(409, str(error)) from error

    async def activate(self, id: str) -> dict[str, Any]:
        """Load a model, and serve it as soon as it is ready. Requests before that are answered by the old one."""
        loaded = await self.models.activate(id)
        return {"served": loaded.id}


def _found(run: dict[str, Any] | None) -> dict[str, Any]:
    if run is None:
        raise ProblemError(404, "there is no run of this id.")
    return run
