"""Which connection moves what next: chunks and parts of one call, over several connections side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import anyio
from anyio.abc import TaskGroup

from lmcache_connect.loop import NativeCancellations

from .connection import Connection
from .pool import ConnectionPool
from .records import RecordIO

WINDOW_BYTES: Final = 4 << 20
"""Payload that one connection has asked for ahead: the server holds it in its output buffer."""

WINDOW_REPLIES: Final = 64
"""Replies that one connection waits for at most."""

TURN_BYTES: Final = 32 << 20
"""What a call moves over one connection before it lets others have it who wait."""


class Schedule(ABC):
    """One call's work, done by as many workers as there is work for. A failure of one cancels the others."""

    def __init__(self, pool: ConnectionPool, records: RecordIO, workers: int) -> None:
        self._pool = pool
        self._records = records
        self._limit = workers
        self._active = 0
        self._failures: list[Exception] = []
        self._group: TaskGroup | None = None

    async def run(self) -> None:
        """Does everything. The first failure is raised."""
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

    async def _work(self) -> None:
        try:
            while self.waiting():
                async with self._pool.borrow() as connection:
                    await self.serve(connection)
        except Exception as failure:
            # Kept rather than raised into the group, where it would swallow a cancellation of the caller's task.
            self._failures.append(failure)
            self.finish_early()
        finally:
            self._active -= 1

    @abstractmethod
    def waiting(self) -> int:
        """Pieces of work that nobody has begun."""

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Works over one connection until there is no work, or it is others' turn. Leaves no reply pending."""
