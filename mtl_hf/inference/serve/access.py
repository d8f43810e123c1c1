"""Who may use the server: names of the host, and tokens.

Notable: a page of another site can reach a server on the loopback interface by a name that it resolves to it (DNS
rebinding), but only by a name. So addresses are always accepted as `Host`, and names only if they are known. Without
CORS headers, browsers do not let other sites read answers. Tokens are compared in constant time.
"""

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .problems import ProblemError, send_problem

OPEN = ("/", "/docs", "/health", "/ready")  # static pages, and probes of supervisors
_PORT = re.compile(r":\d*$")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the server.

    Attributes:
        hosts: Names by which the server may be reached, besides `localhost` and addresses.
        token: The token of all requests but those for `OPEN`; None if none is needed.
        training_token: The token of requests that train, stop or swap models. It is valid for all others, too.
    """

    hosts: frozenset[str] = frozenset()
    token: str | None = None
    training_token: str | None = None

    def check_host(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise `ProblemError` if the request names a host that is not known."""
        found = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(found) != 1 or not self._known(_PORT.sub("", found[0]).lower()):
            raise ProblemError(400, "the header `Host` names a host that this server does not know (`--allowed-host`).")

    def _known(self, host: str) -> bool:
        if host == "localhost" or host in self.hosts:
            return True
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    def check_token(self, headers: Iterable[tuple[bytes, bytes]], *, training: bool = False) -> None:
        """Raise `ProblemError` if the request lacks the token that it needs.

        Args:
            headers: Headers of the request, with names in lower case.
            training: Whether the request needs the training token.
        """
        if not training and self.token is None:
            return
        given = b""
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
        # Both are compared in any case, so that time does not show which one is close.
        is_training = _equal(given, self.training_token)
        is_other = _equal(given, self.token)
        if is_training or (is_other and not training):
            return
        if is_other:
            raise ProblemError(403, "this needs the training token.")
        raise ProblemError(
            401,
            f"the header `Authorization: Bearer TOKEN` {'has a wrong token' if given else 'is missing'}.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class Gate:
    """ASGI middleware: refuse requests for unknown hosts or without the token.

    Args:
        app: The app.
        access: Who may use it.
    """

    def __init__(self, app: Any, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            try:
                self.access.check_host(scope["headers"])
                if scope["path"] not in OPEN:
                    self.access.check_token(scope["headers"])
            except ProblemError as problem:
                await send_problem(send, problem)
                return
        await self.app(scope, receive, send)


def check_token_value(name: str, value: str | None) -> str | None:
    """A token from an option or a variable; None if it is not set.

    Raises:
        ValueError: It is too short, or holds characters that no header can.
    """
    if value is None:
        return None
    if len(value) < 8 or not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError(f"`{name}` should have at least 8 characters, all of them printable ASCII without spaces.")
    return value


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        ValueError: The address is not valid or in use.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"`--port` is {port}; it should be from 0 to 65535.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host}, port {port}: {error}. Choose others by `--host` and `--port`."
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _equal(given: bytes, token: str | None) -> bool:
    return hmac.compare_digest(given, (token or "").encode()) and token is not None
