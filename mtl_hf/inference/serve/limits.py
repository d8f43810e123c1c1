"""Limits of requests, and the middleware that reads a body within them.

Notable: a body is refused by its Content-Length before any of it is read, and by the bytes that arrive if there is
none. It is read before the request is handled, so that a slow client holds nothing but its connection.
"""

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import Any

from .problems import ProblemError, send_problem

# ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
App = Any
Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of requests.

    Attributes:
        body: Bytes of a body.
        sentences: Sentences of a request.
        characters: Characters of a sentence that the encoder reads.
        batch: Sentences in an encoder pass.
        budget: Characters in an encoder pass, padding included.
        queue: Sentences that wait for the model.
        seconds: Seconds to read a body, and to answer a request.
    """

    body: int = 2**20
    sentences: int = 256
    characters: int = 10_000
    batch: int = 32
    budget: int = 16_384
    queue: int = 1024
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"the limit of `{name}` is {value}; it should be above 0.")
        if self.queue < self.sentences:
            raise ValueError(
                f"`--max-queue` is {self.queue}; it should be at least `--max-sentences` ({self.sentences}), or such a"
                " request could never be answered."
            )


class BodyLimit:
    """ASGI middleware: read the body of a request within the limits, then call the app.

    Args:
        app: The app.
        limits: The limits.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self.limits.seconds)
        except ProblemError as problem:
            await send_problem(send, problem)
            return
        except TimeoutError:
            await send_problem(
                send, ProblemError(408, f"the body took longer than {self.limits.seconds:g} s to arrive.")
            )
            return
        if body is None:  # the client has left
            return
        first = True

        async def replay() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": body, "more_body": False}
            message: Message = await receive()  # waits until the client leaves
            return message

        await self.app(scope, replay, send)

    async def _read(self, scope: Message, receive: Any) -> bytes | None:
        """The body, or None if the client leaves before it is complete.

        Raises:
            ProblemError: It is longer than the limit.
        """
        too_long = ProblemError(
            413, f"the body has more than {self.limits.body:,} bytes.", headers={"Connection": "close"}
        )
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.limits.body:
                raise too_long
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self.limits.body:
                raise too_long
        return b"".join(parts)
