"""`StorePipeline`: puts whose requests go ahead of their replies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Final

from lmcache_connect.streaming import Crew, Equipment

from .protocol.connection import FAIR_SHARE_BYTES, Connection

Names = list[str]

AHEAD_BYTES: Final = 8 << 20
"""Payload that was sent over one connection, and whose replies were not read, at most."""

AHEAD_REQUESTS: Final = 32
"""Requests that were sent over one connection, and whose replies were not read, at most."""


class StoreRequest(ABC):
    """Commands that are sent together, as a part of a put, and whose replies are awaited."""

    @abstractmethod
    async def send(self, connection: Connection) -> int:
        """Sends the commands. Returns how many bytes of payload they carried."""

    @abstractmethod
    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        """Reads the replies to all of them. Returns what has to be sent because of them, or None.

        Raises:
            StoreError: the server refused a command.
        """

    def staged(self) -> Names:
        """Returns the keys that may stand in the store without belonging to a chunk, after a failure."""
        return []


class StorePipeline(Crew[Connection]):
    """Sends the requests of one put. After `run()` every chunk is stored."""

    def __init__(self, equipment: Equipment[Connection], requests: Iterable[StoreRequest]) -> None:
        super().__init__(equipment)
        self._requests = deque(requests)

    def unbegun(self) -> int:
        return len(self._requests)

    async def serve(self, connection: Connection) -> None:
        awaited: deque[StoreRequest] = deque()
        ahead: deque[int] = deque()  # bytes, for each
        under_way = moved = 0
        is_sending = True
        while True:
            if is_sending and self._requests and (moved < FAIR_SHARE_BYTES or not self._pool.waiting):
                request = self._requests.popleft()
                awaited.append(request)
                nbytes = await request.send(connection)
                ahead.append(nbytes)
                moved += nbytes
                under_way += nbytes
                # Several requests travel while the server answers. Their replies then come in one system call.
                is_sending = len(awaited) < AHEAD_REQUESTS and under_way < AHEAD_BYTES
                continue
            if not awaited:
                return
            following = await awaited.popleft().read_replies(connection)
            under_way -= ahead.popleft()
            if following is not None:
                awaited.append(following)
                ahead.append(await following.send(connection))
            if len(awaited) <= AHEAD_REQUESTS // 2 and under_way <= AHEAD_BYTES // 2:
                is_sending = True
