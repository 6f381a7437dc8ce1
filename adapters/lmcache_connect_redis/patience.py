"""Which batched get may wait for room in the arena while it holds some of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from lmcache_connect import ArenaExhaustedError, LocalCPUBackend, MemoryObj
from lmcache_connect.metadata import ChunkMetadata

from .connection import Connection


class AnotherWaitsError(Exception):
    """Another get waits for room while holding some: two that do so would wait for each other."""


async def wait_for_room(
    backend: LocalCPUBackend,
    connection: Connection,
    metadata: ChunkMetadata,
    timeout: float,
    before_waiting: Callable[[int], None],
) -> MemoryObj:
    """Room for a chunk whose payload is on the wire, as soon as there is some.

    `before_waiting` is told its bytes, and raises where waiting is no use. What raises closes the connection: there is
    nowhere to put the payload.
    """
    try:
        before_waiting(metadata.nbytes)
        return await backend.allocate_chunk_async(metadata, timeout=timeout)
    except Exception:
        connection.close()
        raise


class Patience:
    """At most one get of a connector waits for room while it holds chunks already.

    The second gives back what it holds, which may be what the first one waits for, and begins anew when the first has
    ended. So batches that do not fit into the arena together are served one after the other, as room appears.
    """

    def __init__(self, backend: LocalCPUBackend) -> None:
        self._backend: Final = backend
        self._turn = anyio.Semaphore(1)

    def waiting(self) -> Waiting:
        """For one get: an `async with` block around all that it does."""
        return Waiting(self._backend, self._turn)


class Waiting:
    """One get's part in it."""

    def __init__(self, backend: LocalCPUBackend, turn: anyio.Semaphore) -> None:
        self._backend = backend
        self._turn = turn
        self._has_turn = False

    async def __aenter__(self) -> Waiting:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._has_turn:
            self._turn.release()

    async def take_turn(self) -> None:
        """Waits until no other get waits for room."""
        if not self._has_turn:
            await self._turn.acquire()
            self._has_turn = True

    def check(self, requested: int, held: int) -> None:
        """Asked before waiting for room for `requested` bytes while `held` bytes are held.

        Raises:
            AnotherWaitsError: give everything back, and `take_turn`.
            ArenaExhaustedError: nobody else holds anything that could make room.
        """
        if not held:
            return
        if not self._has_turn:
            try:
                self._turn.acquire_nowait()
            except anyio.WouldBlock:
                raise AnotherWaitsError from None
            self._has_turn = True
        statistics = self._backend.statistics()
        if statistics.reserved <= held:
            raise ArenaExhaustedError(
                requested,
                statistics.capacity - statistics.reserved,
                statistics.capacity,
                "the batch itself holds all the rest, so ask for fewer keys at a time",
            )
