"""Which batched get may wait for room in the arena while it holds some of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import anyio

from ..errors import AllocationTimeoutError, ArenaExhaustedError
from ..memory import LocalCPUBackend, MemoryObj
from ..metadata import ChunkMetadata

T = TypeVar("T")

_AT_A_TIME: Final = 16
"""Chunks for which room is made at a time: the allocator then runs in the CPU's cache, from which a chunk drives it."""


class Closable(Protocol):
    """A connection, as far as it matters here."""

    def close(self) -> None:
        """Closes it at once."""
        ...


class NoRoomError(Exception):
    """There is no room now, and the call has no turn to wait for it: it gives everything back, and takes one."""

    def __init__(self, requested: int) -> None:
        super().__init__(requested)
        self.requested: Final = requested


class Patience:
    """At most one get of a connector waits for room, on connections that nobody else needs.

    The others give back what they hold, which may be what the first one waits for, and begin anew when it is their
    turn. So batches that do not fit into the arena together are served one after the other, as room appears, and
    nobody who holds room ever waits for a connection on which somebody waits for room.
    """

    def __init__(self, backend: LocalCPUBackend, allocate_timeout: float) -> None:
        self._backend: Final = backend
        self._allocate_timeout: Final = allocate_timeout
        self._turn = anyio.Semaphore(1)

    async def serve(self, attempt: Callable[[Waiting], Awaitable[T]]) -> T:
        """What `attempt(waiting)` gives: one get, which is called again when it is its turn to wait for room.

        It gives back all that it holds before it raises. Once `waiting.has_turn`, it uses connections that nobody
        else needs.
        """
        async with Waiting(self._backend, self._allocate_timeout, self._turn) as waiting:
            while True:
                try:
                    return await attempt(waiting)
                except NoRoomError as full:
                    requested = full.requested
                await waiting.take_turn(requested)


class Waiting:
    """One get's part in it."""

    def __init__(self, backend: LocalCPUBackend, allocate_timeout: float, turn: anyio.Semaphore) -> None:
        self._backend: Final = backend
        self._allocate_timeout: Final = allocate_timeout
        self._turn = turn
        self.has_turn = False

    async def __aenter__(self) -> Waiting:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.has_turn:
            self._turn.release()

    async def take_turn(self, requested: int) -> None:
        """Waits until no other get waits for room.

        Raises:
            AllocationTimeoutError: others waited for as long as one may.
        """
        if self.has_turn:
            return
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._allocate_timeout):
                await self._turn.acquire()
        except TimeoutError:
            statistics = self._backend.statistics()
            raise AllocationTimeoutError(
                requested, statistics.capacity - statistics.reserved, statistics.capacity, time.monotonic() - started
            ) from None
        self.has_turn = True

    def room(self) -> Room:
        """For one attempt, which gives back all that it holds when it fails."""
        return Room(self, self._backend, self._allocate_timeout)


class Room:
    """Memory for the chunks of one attempt at a get, as soon as there is some."""

    def __init__(self, waiting: Waiting, backend: LocalCPUBackend, allocate_timeout: float) -> None:
        self._waiting = waiting
        self._backend = backend
        self._allocate_timeout = allocate_timeout
        self._made: list[MemoryObj] = []  # those being received and those that did not verify as well
        self._awaited = 0
        self._spare: list[MemoryObj] = []

    async def make(self, connection: Closable, metadata: ChunkMetadata) -> MemoryObj:
        """Room for a chunk whose payload is on the wire. Where it raises, there is nowhere to put that: it closes the
        connection.

        Raises:
            NoRoomError: somebody else may have to release some, and the call has no turn to wait for that.
            ArenaExhaustedError: waiting is no use.
            AllocationTimeoutError: nobody made room in time.
        """
        obj = self._backend.allocate_chunk(metadata)
        if obj is None and self._spare:
            self.give_back_spare()
            obj = self._backend.allocate_chunk(metadata)
        if obj is None:
            try:
                obj = await self._wait(metadata)
            except Exception:
                connection.close()
                raise
        self._made.append(obj)
        return obj

    def make_likely(self, metadata: ChunkMetadata, more: int) -> MemoryObj | None:
        """Room for a chunk, out of a few that are made at a time; None where there is none for now."""
        if not self._spare or self._spare[-1].metadata is not metadata:
            self.give_back_spare()
            for _ in range(min(more + 1, _AT_A_TIME)):
                obj = self._backend.allocate_chunk(metadata, eviction=not self._spare)
                if obj is None:
                    break
                self._spare.append(obj)
            if not self._spare:
                return None
        obj = self._spare.pop()
        self._made.append(obj)
        return obj

    def give_back_spare(self) -> None:
        """Gives back what nothing came for."""
        while self._spare:
            self._spare.pop().ref_count_down()

    async def _wait(self, metadata: ChunkMetadata) -> MemoryObj:
        held = sum(obj.get_physical_size() for obj in self._made if obj.is_valid())
        statistics = self._backend.statistics()
        # What this attempt's other workers wait for is as good as held: it stays until the attempt has ended. So the
        # last one to ask for more than there can be is refused, rather than all of them waiting for one another.
        is_alone = held and statistics.reserved <= held
        if is_alone or metadata.nbytes > statistics.capacity - held - self._awaited:
            raise ArenaExhaustedError(
                metadata.nbytes,
                statistics.capacity - statistics.reserved,
                statistics.capacity,
                "the batch itself holds all the rest, so ask for fewer keys at a time" if held or self._awaited else "",
            )
        if not self._waiting.has_turn:
            raise NoRoomError(metadata.nbytes)
        self._awaited += metadata.nbytes
        try:
            return await self._backend.allocate_chunk_async(metadata, timeout=self._allocate_timeout)
        finally:
            self._awaited -= metadata.nbytes
