"""`StorePipeline`: puts whose requests go ahead of their replies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable

from lmcache_connect.streaming import Crew, Equipment

from .protocol.connection import FAIR_SHARE_BYTES, Connection

Names = list[str]


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
        moved = 0
        while True:
            if self._requests and (moved < FAIR_SHARE_BYTES or not self._pool.waiting):
                request = self._requests.popleft()
                awaited.append(request)
                moved += await request.send(connection)
                if len(awaited) < 2 and self._requests:
                    continue  # one reply stays outstanding, so that the next request travels while the server answers
            elif not awaited:
                return
            following = await awaited.popleft().read_replies(connection)
            if following is not None:
                awaited.append(following)
                await following.send(connection)
