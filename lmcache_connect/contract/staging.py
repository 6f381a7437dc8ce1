"""`Staging`: chunks between a connector's memory and memory of its callers, by one copy.

For connectors that have nothing better: what `get` brings is copied out of the connector's memory, and what is put is
copied into it. Only this code touches the callers' memory. So an author's `get` and `put`, and whatever they leave
behind, cannot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from ..errors import LoopNotRunningError
from ..keys import Key
from ..memory import ChunkMemory, MemoryObj, Regions, release_all
from ..metadata import ChunkMetadata
from .caller_memory import CallerMemory
from .time_left import note_missed, release_budget_share

MISMATCH: Final = "mismatch"
"""The reason by which chunks are counted that have another length, or other metadata, than was asked for."""

_PIECE: Final = 1 << 20
"""Bytes that are copied before the event loop may do other work."""

_SHARE: Final = 4
"""One batch takes this part of the memory at a time: a larger one is got, or put, in several."""


class Staging:
    """The memory that such copies lie in, and how long one waits for room in it."""

    def __init__(self, memory: ChunkMemory, timeout: float) -> None:
        """`timeout` is in seconds."""
        self._memory: Final = memory
        self._timeout: Final = timeout

    def groups(self, theirs: CallerMemory) -> Iterator[range]:
        """The keys of a call, in groups whose chunks should have room at the same time."""
        limit = self._memory.chunk_limit() // _SHARE
        start = size = 0
        for index, regions in enumerate(theirs.regions):
            if index > start and size + regions.nbytes > limit:
                yield range(start, index)
                start, size = index, 0
            size += regions.nbytes
        if start < len(theirs.regions):
            yield range(start, len(theirs.regions))

    async def filled(self, regions: Regions, metadata: ChunkMetadata, *, may_wait: bool) -> MemoryObj | None:
        """A copy of a caller's memory, with one reference; None where there is no room and it may not wait.

        Raises:
            ArenaExhaustedError: no room in time, or never.
        """
        obj = self._memory.allocate_chunk(metadata)
        if obj is None:
            if not may_wait:
                return None
            release_budget_share()
            obj = await self._memory.allocate_chunk_async(metadata, timeout=self._timeout)
        try:
            await copy_in(regions, obj)
        except BaseException:
            obj.ref_count_down()
            raise
        return obj


async def get_copied(
    theirs: CallerMemory, staging: Staging | None, get: Callable[[Sequence[Key]], Awaitable[Sequence[MemoryObj | None]]]
) -> list[bool]:
    """Copies what `get` brings into the callers' memory. `get` returns one slot per key, in order.

    Without `staging` there is one call for all keys.
    """
    found = [False] * len(theirs.keys)
    for group in staging.groups(theirs) if staging is not None else [range(len(theirs.keys))]:
        slots = list(await get([theirs.keys[index] for index in group]))
        try:
            for slot, index in enumerate(group):
                obj = slots[slot]
                if obj is None:
                    continue
                if theirs.accepts(index, obj.metadata):
                    await copy_out(obj, theirs.regions[index])
                    found[index] = True
                else:
                    note_missed(MISMATCH)
                slots[slot] = None
                obj.ref_count_down()
        finally:
            release_all(slots)
    return found


async def put_copied(
    theirs: CallerMemory,
    staging: Staging | None,
    put: Callable[[Sequence[Key], Sequence[MemoryObj]], Awaitable[None]],
) -> list[bool]:
    """Has `put` store copies of the callers' memory, in as many calls as there is room for.

    Raises:
        LoopNotRunningError: there is no `staging`, because no manager made the connector.
        ArenaExhaustedError: there was no room for a single chunk in time.
        What `put` raises.
    """
    if staging is None:
        raise LoopNotRunningError("put_from() needs a connector that a ConnectorManager made")
    for group in staging.groups(theirs):
        indices = list(group)
        while indices:
            keys: list[Key] = []
            objs: list[MemoryObj] = []
            try:
                for index in indices:
                    # Nothing waits for room while it holds some: two such calls would wait for each other.
                    obj = await staging.filled(theirs.regions[index], theirs.stored_as(index), may_wait=not objs)
                    if obj is None:
                        break
                    objs.append(obj)
                    keys.append(theirs.keys[index])
                await put(keys, objs)
            finally:
                release_all(objs)
            indices = indices[len(keys) :]
    return [True] * len(theirs.keys)


async def copy_out(obj: MemoryObj, regions: Regions) -> None:
    """Copies a chunk into a caller's memory of the same length."""
    for start in range(0, obj.get_size(), _PIECE):
        if start:
            await asyncio.sleep(0)
        _write(obj, regions, start)


async def copy_in(regions: Regions, obj: MemoryObj) -> None:
    """Copies a caller's memory into a chunk of the same length."""
    for start in range(0, obj.get_size(), _PIECE):
        if start:
            await asyncio.sleep(0)
        _read(regions, obj, start)


# Functions of their own: a frame that awaits must hold no view of a chunk's or a caller's memory.


def _write(obj: MemoryObj, regions: Regions, start: int) -> None:
    with obj.byte_array as view:
        regions.write(start, view[start : start + _PIECE])


def _read(regions: Regions, obj: MemoryObj, start: int) -> None:
    with obj.byte_array as view:
        regions.read(start, view[start : start + _PIECE])
