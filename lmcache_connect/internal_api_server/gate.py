"""`Gate`: decides who may do what, before a route sees the request."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Iterable
from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problem import ProblemError, answer, answer_unexpected

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

OPEN_PATHS: Final = frozenset({"/", "/health/live", "/health/ready"})
"""Paths that need no token: the status page, which holds no data, and the checks of an orchestrator."""

HEALTH_PATHS: Final = frozenset({"/health/live", "/health/ready"})
"""Paths that are answered without a Host header as well: checks of load balancers speak HTTP/1.0."""

_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer that does not set them itself."""

_DRAINED: Final = 8
"""A body of up to so many times the limit is read and thrown away before it is refused."""


class Gate:
    """Refuses requests for other hosts, from other sites, without the token, and those that are too large or too slow.

    HEAD is answered as GET is, without the body.

    * The Host header must be an IP address, localhost, or one of `allowed_hosts`. A foreign page whose host name
      resolves to this machine (DNS rebinding) is refused. Only for health it may be missing: a browser always sends it.
    * A request that a browser sends for another site is refused where it would change something.
    * The token is compared in constant time.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        protects_reads: bool,
        allowed_hosts: Iterable[str],
        timeout: float,
        max_body_bytes: int,
        open_paths: frozenset[str] = OPEN_PATHS,
        root_path: str = "",
    ) -> None:
        """`root_path`: a path prefix that requests may have, and that does not count. It has no slash at its end."""
        self._app = app
        self._token = token.encode() if token is not None else None
        self._protects_reads = protects_reads
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes
        self._open_paths = open_paths
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        scope = self._below_root(scope)
        started = False
        is_head = scope["method"] == "HEAD"
        if is_head:  # FastAPI knows no HEAD of a route's GET
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = {name for name, _ in message["headers"]}
                added = [header for header in _HEADERS if header[0] not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        received = 0

        async def receive_bounded() -> Message:
            # Not left to FastAPI: its limit would answer before this gate does, in plain text and to any host.
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_body_bytes:
                    if message.get("more_body"):
                        await self._drain(receive)
                    raise ProblemError(*self._too_large())
            return message

        refusal = self._refusal(scope)
        if refusal is not None:
            if refusal[0] == 413 and int(Headers(scope=scope)["content-length"]) <= _DRAINED * self._max_body_bytes:
                await self._drain(receive)
            await answer(*refusal)(scope, receive, send_with_headers)
            return
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                await self._app(scope, receive_bounded, send_with_headers)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                detail = f"the request did not finish within {self._timeout:g} s"
                late = answer(504, "timeout", detail, {"connection": "close"})
            else:
                late = answer_unexpected(scope["path"], error)
            if not started:
                await late(scope, receive, send_with_headers)
            # Otherwise the answer has begun: the server sees that it has no end, and closes the connection.

    def _below_root(self, scope: Scope) -> Scope:
        """The request as one below `root_path`, where its path begins with that."""
        root, path = self._root_path, scope["path"]
        if not root or scope.get("root_path"):
            return scope
        if path == root:
            return {**scope, "root_path": root, "path": f"{root}/"}
        return {**scope, "root_path": root} if path.startswith(f"{root}/") else scope

    def _refusal(self, scope: Scope) -> tuple[int, str, str, dict[str, str] | None] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        is_known = len(hosts) == 1 and self._is_ours(hosts[0])
        path = _path_below_root(scope)
        if not is_known and (hosts or path not in HEALTH_PATHS):
            return (
                421,
                "wrong_host",
                "the Host header names another host; expected an address of this server, localhost, or a name in the "
                "setting allowed_hosts",
                None,
            )
        reads = scope["method"] in READING
        if not reads and _is_cross_site(headers, *hosts):
            return 403, "cross_site", "a page of another site may not change anything here", None
        if self._needs_token(path, reads) and not self._has_token(headers):
            return (
                401,
                "unauthorized",
                "the token is missing or wrong; expected the header 'Authorization: Bearer <token>'",
                {"www-authenticate": "Bearer"},
            )
        length = headers.get("content-length", "0")
        if int(length) > self._max_body_bytes:  # the server has checked that it is a number
            return self._too_large()
        return None

    def _too_large(self) -> tuple[int, str, str, dict[str, str]]:
        detail = f"expected a body of at most {self._max_body_bytes} bytes"
        return 413, "body_too_large", detail, {"connection": "close"}

    async def _drain(self, receive: Receive) -> None:
        """Reads a body that is somewhat too large: many clients read no answer before they have sent all. Bounded."""
        left = _DRAINED * self._max_body_bytes
        with anyio.move_on_after(self._timeout):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        name = name.strip("[]").rstrip(".").lower()
        if name == "localhost" or name in self._allowed_hosts:
            return True
        try:
            # An address cannot be made to point elsewhere, so no foreign page has one as its host name.
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _needs_token(self, path: str, reads: bool) -> bool:
        if self._token is None:
            return False
        return not reads or (self._protects_reads and path not in self._open_paths)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = self._token is not None and hmac.compare_digest(given.strip().encode(), self._token)
        return right and scheme.lower() == "bearer"


def _path_below_root(scope: Scope) -> str:
    """A request's path without what a proxy, or an application that this one is mounted in, has before it."""
    root, path = str(scope.get("root_path", "")), str(scope["path"])
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _is_cross_site(headers: Headers, host: str = "") -> bool:
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return True
    return headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
