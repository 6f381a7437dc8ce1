"""`Crew`: the members that do the work of one call. Each serves one connection."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..transport import Connection, ConnectionPool, Couriers

C = TypeVar("C", bound=Connection)


@dataclass(frozen=True, slots=True)
class Equipment(Generic[C]):
    """What a crew works with.

    Attributes:
        pool: the connections.
        members: how many members the crew has, at most. Each uses one connection at a time.
        couriers: the threads that move its bytes. None where the event loop moves them.
    """

    pool: ConnectionPool[C]
    members: int
    couriers: Couriers | None = None


class Crew(ABC, Generic[C]):
    """Does the work of one call with as many members as there is work for, up to a limit. A member is a task.

    A member acquires a connection, serves it until there is no work or others wait for a connection, and releases it.
    Work may come up while the crew is at work: `hire` starts members for it. The first failure is kept and ends the
    other members. A member that still waits for a connection when everything is done is dismissed.
    """

    def __init__(self, equipment: Equipment[C]) -> None:
        self._pool = equipment.pool
        self._limit = equipment.members
        self._couriers = equipment.couriers
        self._members = 0
        self._serving = 0
        self._failure: Exception | None = None
        self._group: TaskGroup | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hiring: asyncio.Task[None] | None = None

    @abstractmethod
    def unbegun(self) -> int:
        """Returns the number of pieces of work that no member has begun."""

    @abstractmethod
    async def serve(self, connection: C) -> None:
        """Works over one connection until there is no unbegun work, or until others should have the connection.

        In a thread it may await nothing but the connection's stream. When it returns, no reply is outstanding.
        """

    async def run(self) -> None:
        """Does all the work. When it has ended, however it ended, nothing touches a buffer any more.

        Raises:
            The first failure of a member.
        """
        if self._limit == 1:
            while self.unbegun():
                await self._serve_one()
            return
        self._loop = asyncio.get_running_loop()
        try:
            async with anyio.create_task_group() as self._group:
                self._start_members()
        finally:
            self._group = None
        if self._failure is not None:
            raise self._failure

    def hire(self) -> None:
        """Starts members for work that has come up. Called by `serve`, on the event loop or in a thread."""
        if self._loop is None:
            return  # the only member does it
        if self._couriers is None:
            self._start_members()
        else:
            self._loop.call_soon_threadsafe(self._hire_in_task)

    def _hire_in_task(self) -> None:
        # Where sniffio is installed, anyio starts tasks from a task alone, and raises in a bare callback of the loop.
        async def hire() -> None:
            self._start_members()

        if self._group is not None and self._loop is not None:
            self._hiring = self._loop.create_task(hire())

    def _start_members(self) -> None:
        if self._group is None:
            return
        arriving = self._members - self._serving  # hired, and still without a connection: there is work for each
        for _ in range(min(self._limit - self._members, self.unbegun() - arriving)):
            self._members += 1
            self._group.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while self.unbegun():
                await self._serve_one()
            if not self._serving:
                self._end_others()  # they wait for connections that nothing is left to do with
        except Exception as failure:
            # Kept instead of raised into the group, where it would swallow a cancellation of the caller's task.
            self._failure = self._failure or failure
            self._end_others()
        finally:
            self._members -= 1

    async def _serve_one(self) -> None:
        async with self._pool.acquired() as connection:
            await self._serve_over(connection)

    async def _serve_over(self, connection: C) -> None:
        self._serving += 1
        try:
            if self._couriers is None:
                await self.serve(connection)
            else:
                await self._couriers.run(connection, self.serve(connection))
        finally:
            self._serving -= 1

    def _end_others(self) -> None:
        if self._group is not None and self._members > 1:
            self._group.cancel_scope.cancel()
