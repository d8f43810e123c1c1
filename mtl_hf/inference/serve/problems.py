"""Errors of the server as problem details (RFC 9457): JSON that names the field, and never repeats the input.

Notable: FastAPI's own handler returns the input with the error. That would send texts back, and fails for NaN, which
JSON cannot hold.
"""

import json
import logging
import traceback
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
SCHEMA = {
    "title": "Problem",
    "description": "An error, as in RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["about:blank"]},
        "title": {"type": "string", "examples": ["Unprocessable Entity"]},
        "status": {"type": "integer", "examples": [422]},
        "detail": {"type": "string", "examples": ["`tasks.0`: there is no task 'intnt'; valid are intent, slots."]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # older Pythons have the names of older RFCs


class ProblemError(Exception):
    """An error that is sent to the client.

    Args:
        status: The HTTP status.
        detail: What is wrong, and what would be valid.
        field: The field of the body, if it is about one.
        errors: (field, detail) of several errors, instead of `detail` and `field`.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        field: str | None = None,
        errors: Sequence[tuple[str, str]] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = [(field, detail)] if field else list(errors)
        self.detail = " ".join(f"`{name}`: {text}" for name, text in self.errors) or detail
        self.headers = headers or {}

    def body(self) -> bytes:
        """The JSON body."""
        found: dict[str, Any] = {
            "type": "about:blank",
            "title": _TITLES.get(self.status) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            found["errors"] = [{"field": name, "detail": text} for name, text in self.errors]
        return json.dumps(found, ensure_ascii=False).encode()


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of errors for the schema."""
    meanings = {
        400: "The body is not JSON, or the host is not known",
        401: "The token is missing or wrong",
        403: "The token is not the one for training",
        404: "There is nothing of this name",
        408: "The body took too long to arrive",
        409: "Not possible now",
        413: "The body is too large",
        422: "A field is not valid",
        500: "The model failed",
        503: "Not ready, or too many requests; with `Retry-After` if it is known when to try again",
        504: "The answer took too long",
    }
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": meanings[status], "content": content} for status in statuses}


async def send_problem(send: Any, problem: ProblemError) -> None:
    """Send a problem as an ASGI response."""
    body = problem.body()
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body))} | problem.headers
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def of_validation(errors: Iterable[dict[str, Any]]) -> ProblemError:
    """The problem for errors of pydantic. The message of an error may hold what is valid, never the input."""
    found: dict[str, str] = {}
    for error in errors:
        if error["type"] == "json_invalid":
            return ProblemError(400, f"the body is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}.")
        # Parts in angle brackets are the tags of unions in `requests.py`.
        parts = [str(part) for part in error["loc"] if not str(part).startswith("<")]
        field = ".".join(parts[1:]) or parts[0]
        found.setdefault(field, _message(error))
    shown = list(found.items())[:10]
    return ProblemError(422, errors=shown)


def _message(error: dict[str, Any]) -> str:
    if error["loc"] == ("body",):
        return 'it should be a JSON object, with the header "Content-Type: application/json".'
    if error["type"] == "extra_forbidden":
        return "there is no such field."
    if error["type"] in ("string_pattern_mismatch", "string_too_short"):
        return "the text is empty."
    if error["type"] == "string_unicode":
        return "it is not valid Unicode (it has a lone surrogate)."
    return str(error["msg"]).removeprefix("Value error, ").removesuffix(".") + "."


def place_of(error: BaseException) -> str:
    """Type and place of an error for the log, without its message, which may hold texts."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


class NoMessages(logging.Filter):
    """Log exceptions without their messages, which may hold texts of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the traceback by the type and the place of the error."""
        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = f"{record.getMessage().strip()}: {place_of(record.exc_info[1])}", ()
            record.exc_info = record.exc_text = None
        return True
