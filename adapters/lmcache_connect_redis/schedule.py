"""Which connection moves what next: chunks and parts of one call, over several connections side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from lmcache_connect import CorruptRecordError
from lmcache_connect.contract import Slots
from lmcache_connect.loop import NativeCancellations
from lmcache_connect.streaming import PlaceInLine
from lmcache_connect.transport import Couriers, ThreadStream

from .protocol.connection import Connection, Connections

Ask = TypeVar("Ask")
Piece = TypeVar("Piece")
Awaited = deque[Callable[[], Awaitable[None]]]
Names = list[str]

WINDOW_BYTES: Final = 4 << 20
"""Payload that one connection has asked for ahead: the server holds it in its output buffer."""

WINDOW_REPLIES: Final = 128
"""Replies that one connection waits for at most."""

TURN_BYTES: Final = 32 << 20
"""What a call moves over one connection before it lets others have it who wait."""


class Schedule(ABC):
    """One call's work, done by as many workers as there is work for. A failure of one cancels the others."""

    def __init__(self, pool: Connections, workers: int, chunks: int) -> None:
        self._pool = pool
        self._limit = workers
        self._left = chunks
        self._active = 0
        self._failures: list[Exception] = []
        self._group: TaskGroup | None = None

    async def run(self) -> None:
        """Does everything. The first failure is raised."""
        if self._limit == 1:
            while self.waiting():
                async with self._pool.acquired() as connection:
                    await self.serve(connection)
            return
        cancellations = NativeCancellations()
        try:
            async with anyio.create_task_group() as self._group:
                self.hire()
        finally:
            self._group = None
        cancellations.raise_lost()
        if self._failures:
            raise self._failures[0]

    def hire(self) -> None:
        """Starts workers for work that has come up."""
        if self._group is not None:
            for _ in range(min(self._limit - self._active, self.waiting())):
                self._active += 1
                self._group.start_soon(self._work)

    def finish_early(self) -> None:
        """Everything is done, or lost: workers that are still at it are not needed."""
        if self._group is not None and self._active > 1:  # the one that says so ends by itself
            self._group.cancel_scope.cancel()

    async def run_in_thread(self, couriers: Couriers) -> None:
        """Does everything over one connection, whose bytes a thread moves. The first failure is raised."""
        try:
            while self.waiting():
                async with self._pool.acquired() as connection:
                    await couriers.run(connection, self.serve(connection))
        finally:
            self.end_thread()

    async def _work(self) -> None:
        try:
            while self.waiting():
                async with self._pool.acquired() as connection:
                    await self.serve(connection)
        except Exception as failure:
            # Kept rather than raised into the group, where it would swallow a cancellation of the caller's task.
            self._failures.append(failure)
            self.finish_early()
        finally:
            self._active -= 1

    @abstractmethod
    def end_thread(self) -> None:
        """The thread will do nothing more."""

    def settle(self) -> None:
        """One chunk more is done."""
        self._left -= 1
        if not self._left:
            self.finish_early()

    @abstractmethod
    def waiting(self) -> int:
        """Pieces of work that nobody has begun."""

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Works over one connection until there is no work, or it is others' turn. Leaves no reply pending."""


class FetchSchedule(Schedule, Generic[Ask]):
    """After `run()`: `found` has a slot per chunk, and `corrupt` the error of every slot that did not verify."""

    def __init__(self, pool: Connections, workers: int, chunks: int, place: PlaceInLine) -> None:
        super().__init__(pool, workers, chunks)
        self.room = place.room()
        self.found: Slots = [None] * chunks
        self.corrupt: dict[int, CorruptRecordError] = {}

    async def serve(self, connection: Connection) -> None:
        asked: deque[Ask] = deque()
        reckoned: deque[int] = deque()  # bytes reckoned for each
        ahead = moved = 0
        in_thread = isinstance(connection.stream, ThreadStream)
        while True:
            # Filled again when half empty: one request after each reply would be one system call for each.
            is_low = ahead <= WINDOW_BYTES // 2 and len(asked) <= WINDOW_REPLIES // 2
            if is_low and (moved < TURN_BYTES or not self._pool.waiting):
                commands = []
                while ahead < WINDOW_BYTES and len(asked) < WINDOW_REPLIES and self.waiting():
                    ask, command, size = self.next_ask()
                    asked.append(ask)
                    reckoned.append(size)
                    ahead += size
                    commands.append(command)
                if commands:
                    await connection.send(b"".join(commands), replies=len(commands))
            if not asked:
                return
            ask = asked.popleft()
            ahead -= reckoned.popleft()
            if in_thread and (nbytes := self.take_likely(connection, ask, len(asked))):
                moved += nbytes
            else:
                moved += await self.take(connection, ask)

    @abstractmethod
    def next_ask(self) -> tuple[Ask, bytes, int]:
        """What to ask for next, the command for it, which has one reply, and how many bytes that may bring."""

    def take_likely(self, connection: Connection, ask: Ask, more: int) -> int:
        """`take` in a thread, where a short way serves; 0 where nothing was taken. `more` asks are outstanding."""
        return 0

    @abstractmethod
    def take(self, connection: Connection, ask: Ask) -> Awaitable[int]:
        """Takes the reply for `ask`; how many bytes it brought."""

    def end_thread(self) -> None:
        self.room.release_spare()

    def release(self) -> None:
        """Gives back everything: the call failed or was cancelled."""
        for obj in self.found:
            if obj is not None:
                obj.ref_count_down()


class StoreSchedule(Schedule, Generic[Piece]):
    """After `run()` every chunk is stored."""

    def __init__(self, pool: Connections, workers: int, chunks: int) -> None:
        super().__init__(pool, workers, chunks)
        self.pieces: deque[Piece] = deque()

    def waiting(self) -> int:
        return len(self.pieces)

    def end_thread(self) -> None:
        """Holds nothing that is not the caller's."""

    async def serve(self, connection: Connection) -> None:
        awaited: Awaited = deque()  # who reads the replies, in the order of the requests
        moved = 0
        while True:
            if self.pieces and (moved < TURN_BYTES or not self._pool.waiting):
                piece = self.pieces.popleft()
                awaited.append(self.reading(connection, piece, awaited))
                moved += await self.send(connection, piece)
                if len(awaited) < 2 and self.pieces:
                    continue  # one reply stays outstanding, so that the next piece travels while the server answers
            elif not awaited:
                return
            await awaited.popleft()()

    @abstractmethod
    async def send(self, connection: Connection, piece: Piece) -> int:
        """Sends one piece; how many bytes of payload it has."""

    @abstractmethod
    def reading(self, connection: Connection, piece: Piece, awaited: Awaited) -> Callable[[], Awaitable[None]]:
        """Who will read the replies to a piece, and may send something more and add to `awaited` who reads for that."""

    def staged(self) -> Names:
        """Keys that may stand in the store without belonging to a chunk, after a failure."""
        return []
