"""`StorePipeline`: puts whose requests go ahead of their replies, for many calls over one connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from lmcache_connect import StoreError
from lmcache_connect.streaming import SHARE_BYTES, CallPayload, CallQueue, Lane, Pipeline, Sent
from lmcache_connect.transport import ConnectionPool, Couriers

from ..protocol.connection import Connection
from ..protocol.redirects import ASKING, RedirectedError, RedirectionsError
from .redirectable_call import RedirectableCall

Names = list[str]

AHEAD_BYTES: Final = 8 << 20
"""Payload that was sent over one connection, and whose replies were not read, at most."""

AHEAD_REQUESTS: Final = 32
"""Requests that were sent over one connection, and whose replies were not read, at most."""


_GRACE: Final = 0.3
"""Seconds that a thread has to copy the rest of a payload whose put was cancelled. A call of it that sends ends by
itself after 0.1 s: see `stall_clock.py`."""


class StoreRequest(ABC):
    """Commands that are sent together, as a part of a put, and whose replies are awaited.

    Attributes:
        nbytes: the payload that they carry.
        slot: the position of the chunk's key in the call; the first one of several.
        is_last: whether the chunk has no further request that can be sent now.
    """

    nbytes = 0
    slot = 0
    is_last = True

    @abstractmethod
    async def send(self, connection: Connection) -> None:
        """Sends the commands."""

    @abstractmethod
    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        """Reads the replies to all of them. Returns what has to be sent because of them, or None.

        Raises:
            RedirectedError: another node is to be asked. Nothing was stored.
            RedirectionsError: other nodes are to be asked for some chunks of a request that has several.
            StoreError: the server refused a command.
        """

    def staged(self) -> Names:
        """Returns the keys that may stand in the store without belonging to a chunk, after a failure."""
        return []


class StoreCall(RedirectableCall):
    """The chunks of one put. When it has ended without a failure, all of them are stored."""

    def __init__(self, requests: Sequence[StoreRequest]) -> None:
        super().__init__(sum([request.nbytes for request in requests]))
        self.requests: Final[deque[StoreRequest]] = deque(requests)
        self._is_amid = False

    def unbegun(self) -> int:
        return len(self.requests)

    def next_request(self) -> tuple[StoreRequest, int]:
        request = self.requests.popleft()
        self._is_amid = not request.is_last and bool(self.requests)
        return request, request.nbytes

    def is_amid(self) -> bool:
        return self._is_amid


class StorePipeline(Pipeline[Connection, StoreCall]):
    """Sends the requests of puts, and takes their replies."""

    async def serve(self, connection: Connection) -> None:
        sent = self.sent
        under_way = moved = 0
        is_sending = True
        while True:
            if is_sending and connection.takes_requests and not self.gives_way(moved):
                item = self.next_request()
                if item is not None:
                    call, request, nbytes = item
                    if not await self._send(connection, call, request, nbytes):
                        continue
                    moved += nbytes
                    under_way += nbytes
                    # Several requests travel while the server answers. Their replies then come in one system call.
                    is_sending = len(sent) < AHEAD_REQUESTS and under_way < AHEAD_BYTES
                    continue
            if not sent:
                return
            call, request, nbytes = sent[0]
            self.current = call
            following = None
            try:
                following = await _replies_of(connection, call, request)
            except StoreError as error:
                if not connection.stream.is_open:
                    raise
                call.fail(error)
            under_way -= nbytes
            if following is not None and not call.is_ended:
                self.queue.count(call)  # first, so that the call is not over meanwhile
                self.taken()
                await self._send(connection, call, following, 0)
            else:
                self.taken()
            if not sent:  # further requests wait until it is known that the connection has nothing more to say
                return
            if len(sent) <= AHEAD_REQUESTS // 2 and under_way <= AHEAD_BYTES // 2:
                is_sending = True

    async def _send(self, connection: Connection, call: Any, request: StoreRequest, nbytes: int) -> bool:
        """Sends a request, unless its call has ended. Returns whether it was sent."""
        if not call.begin(connection, in_thread=self.in_thread):
            if self.queue.answered(call):
                self.finish(call)
            return False
        self.current = call
        self.sent.append(Sent(call, request, nbytes))
        stream = connection.stream
        stream.payload_owner = CallPayload(call, connection, self.finish)
        try:
            if call.is_asking:
                await connection.send(ASKING)
            await request.send(connection)
        finally:
            stream.payload_owner = None
            call.let_go(connection)
        self.current = None
        return True


class StoreLane(Lane[Connection, StoreCall]):
    """Puts that share connections to one server.

    None is sent twice because of another call: the first one might be done last, after a newer put.
    """

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        *,
        drivers: int = 1,
        spare_drivers: int = 0,
        couriers: Couriers | None = None,
        runs_alone: bool = True,
        share_bytes: int = SHARE_BYTES,
    ) -> None:
        """See `Lane`."""
        super().__init__(
            pool,
            drivers=drivers,
            spare_drivers=spare_drivers,
            couriers=couriers,
            runs_alone=runs_alone,
            repeats=False,
            grace=_GRACE,
            share_bytes=share_bytes,
        )

    def pipeline(
        self, queue: CallQueue[StoreCall], finish: Callable[[StoreCall], None], *, in_thread: bool
    ) -> StorePipeline:
        return StorePipeline(queue, finish, self.gives_way, in_thread=in_thread)

    async def serve_one_request(self, connection: Connection, call: StoreCall) -> None:
        request, _ = call.next_request()
        if call.is_asking:
            await connection.send(ASKING)
        await request.send(connection)
        try:
            following = await _replies_of(connection, call, request)
        except StoreError as error:
            if not connection.stream.is_open:
                raise
            call.fail(error)
        else:
            if following is not None:
                call.requests.append(following)


async def _replies_of(connection: Connection, call: StoreCall, request: StoreRequest) -> StoreRequest | None:
    """Takes the replies to a request, and returns what follows it. One that was redirected is noted."""
    if call.is_asking:
        await connection.read_ok()
    try:
        following = await request.read_replies(connection)
    except RedirectedError as error:
        call.note_redirect(request.slot, error)
        return None
    except RedirectionsError as errors:
        for slot, redirected in errors.by_slot.items():
            call.note_redirect(slot, redirected)
        return None
    if following is not None:
        following.slot = request.slot
    return following
