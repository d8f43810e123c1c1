"""The middleware that reads a body within the limits.

Notable: a body is refused by its Content-Length before any of it is read, and by the bytes that arrive if there is
none. It is read before the request is handled, so that a slow client holds nothing but its connection.
"""

import asyncio
from typing import Any

from .limits import Limits
from .problems import ProblemError, send_problem

# ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
App = Any
Message = dict[str, Any]


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
