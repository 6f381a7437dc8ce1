"""`Connections`: bounds how many connections a server keeps, and how long each of them may wait for its client.

uvicorn waits for the head of a first request for ever, and keeps every connection that it has accepted. Its
`limit_concurrency` answers 503 on further ones, for liveness as well. So a few hundred connections that send nothing
would take a server's place, and then the descriptors of its process.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..observability import RepeatedEvent
from .problem import answer

RESERVE: Final = 16
"""Connections beyond those whose requests are worked on: there, liveness and the answer 503 always find room."""

NEVER_REFUSED: Final = frozenset({"/health/live"})
"""Paths whose requests are answered however many others are worked on. They must take no time."""

_SHARE_OF_DESCRIPTORS: Final = 2
"""A server keeps at most one of so many of the process's descriptors. The rest is for what the process is there for."""

_BAD_REQUEST: Final = RepeatedEvent("api_bad_request")

_quiet: Final = logging.getLogger("uvicorn.error.connections")
"""uvicorn has a warning for each request that it cannot read, at any rate. Here there is an event instead."""
_quiet.setLevel(logging.ERROR)

_LAST_DESCRIPTORS: Final = 8
"""Where a new connection's descriptor is in the last one of so many parts, the process is about to run out of them."""


class Connections:
    """The connections of one server. Belongs to its event loop.

    * Within `limit` connections, and while the process has descriptors, a new one is kept. Beyond that the one that has
      waited for its client for longest is closed.
    * A connection has `head_timeout` seconds from its beginning, or from its last answer, to send the next head, and as
      long to take its last answer. A request has `request_timeout` seconds, its body included.
    * At most `max_requests` requests are worked on. A further one takes the place of the one that waits for its client
      for longest. Where none does, it is answered with 503.
    """

    def __init__(
        self,
        max_connections: int,
        head_timeout: float,
        request_timeout: float,
        clock: Callable[[], float] = time.monotonic,
        descriptors: int | None = None,
    ) -> None:
        """`descriptors` is the most that the process may have; by default what the system says."""
        descriptors = _descriptors() if descriptors is None else descriptors
        self.limit: Final = max(2, min(max_connections + RESERVE, descriptors // _SHARE_OF_DESCRIPTORS))
        """The most connections."""
        self.max_requests: Final = max(1, min(max_connections, self.limit - RESERVE))
        """The most requests that are worked on."""
        self._last_descriptor = descriptors - descriptors // _LAST_DESCRIPTORS
        self._head_timeout = head_timeout
        self._request_timeout = request_timeout
        self._clock = clock
        self._open: set[Connection] = set()
        self._at_work = 0

    def __len__(self) -> int:
        return len(self._open)

    def make(self, **given: Any) -> Connection:
        """A protocol for a connection that is about to be accepted: what uvicorn calls with its own arguments."""
        return Connection(self, **given)

    def now(self) -> float:
        """The time in seconds, of the server's clock."""
        return self._clock()

    def admit(self, connection: Connection, descriptor: int) -> None:
        """Keeps a new connection, and closes another one where there is no room for both."""
        self._open.add(connection)
        if len(self._open) <= self.limit and descriptor < self._last_descriptor:
            return
        waiting = [one for one in self._open if one.waits_for_client]
        # None waits: the new one goes, since all others are worked on.
        self._end(min(waiting, key=_order) if waiting else connection)

    def forget(self, connection: Connection) -> None:
        """Notes that a connection has ended."""
        self._open.discard(connection)

    def sweep(self) -> None:
        """Ends the connections whose client has had its time. To be called a few times a second."""
        now = self._clock()
        for connection in list(self._open):
            seconds = self._head_timeout
            if connection.is_at_work:  # the gate answers it in time; the client must take the answer, too
                seconds += self._request_timeout
            if now - connection.since > seconds:
                self._end(connection)

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Has `app` work on a request, unless too many others are worked on."""
        if scope["type"] != "http" or scope["path"] in NEVER_REFUSED:
            await app(scope, receive, send)
            return
        if self._at_work >= self.max_requests:
            slow = [one for one in self._open if one.is_at_work and one.waits_for_client]
            if not slow:
                detail = f"{self._at_work} requests are worked on; expected fewer, see max_connections: try again later"
                await answer(503, "busy", detail, {"connection": "close", "retry-after": "1"})(scope, receive, send)
                return
            self._end(min(slow, key=_order))
        self._at_work += 1
        try:
            await app(scope, receive, send)
        finally:
            self._at_work -= 1

    def _end(self, connection: Connection) -> None:
        # Not `close`, which waits until the client has taken what was sent.
        self._open.discard(connection)
        connection.transport.abort()


class Connection(H11Protocol):
    """One connection, as uvicorn speaks on it, with a note of how long it has waited."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self.logger = _quiet
        app: Any = self.app

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            await connections.run(app, scope, receive, send)

        self.app: Any = run
        self._connections = connections
        self.since = connections.now()
        """When it began to wait for a head, or to work on a request."""

    @property
    def is_at_work(self) -> bool:
        """Whether the answer to a request is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waits_for_client(self) -> bool:
        """Whether the client has to do the next thing: send a head, send the rest of a body, or take what was sent."""
        return not self.is_at_work or self.cycle.more_body or self.flow.write_paused

    def connection_made(self, transport: Any) -> None:
        """Keeps the connection, if there is room."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        self._connections.admit(self, sock.fileno() if sock is not None else -1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        self._connections.forget(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Notes when a request's head has come."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and self.is_at_work:
            self.since = self._connections.now()

    def on_response_complete(self) -> None:
        """Notes when the waiting for the next request began."""
        self.since = self._connections.now()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be read as HTTP."""
        _BAD_REQUEST.tell(logging.WARNING, client=self.client[0] if self.client else "", reason=msg)
        super().send_400_response(msg)


def _order(connection: Connection) -> tuple[bool, float]:
    """Connections without a request go first, and of those the ones that have waited for longest."""
    return connection.is_at_work, connection.since


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
