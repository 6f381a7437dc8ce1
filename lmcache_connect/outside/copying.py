"""`private_copy`: a chunk for code that may still read it when its caller has gone on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..memory import ChunkMemory, MemoryObj, Regions
from ..metadata import ChunkMetadata

_PIECE: Final = 2 << 20
"""Bytes that are copied before the event loop may do other work: a tenth of a millisecond or two."""


async def private_copy(obj: MemoryObj, memory: ChunkMemory) -> MemoryObj:
    """A copy of a chunk, with one reference for the caller. It needs no free room: without any, it lies outside.

    A `put` borrows its caller's memory, which must not be touched when the `put` has ended. Code that cannot be stopped
    reads such a copy instead.
    """

    def copy_piece(copy: MemoryObj, start: int) -> None:
        copy.byte_array[start : start + _PIECE] = obj.byte_array[start : start + _PIECE]

    return await _filled(obj.metadata, memory, copy_piece)


async def private_copy_of(regions: Regions, metadata: ChunkMetadata, memory: ChunkMemory) -> MemoryObj:
    """The same for a chunk in memory of a caller, which `metadata` describes."""

    def copy_piece(copy: MemoryObj, start: int) -> None:
        regions.read(start, copy.byte_array[start : start + _PIECE])

    return await _filled(metadata, memory, copy_piece)


async def _filled(
    metadata: ChunkMetadata, memory: ChunkMemory, copy_piece: Callable[[MemoryObj, int], None]
) -> MemoryObj:
    copy = memory.allocate_chunk(metadata, False)
    if copy is None:
        copy = MemoryObj(memoryview(bytearray(metadata.nbytes)), metadata, _Heap())
    try:
        for start in range(0, metadata.nbytes, _PIECE):
            if start:
                await asyncio.sleep(0)
            copy_piece(copy, start)
    except BaseException:
        copy.ref_count_down()
        raise
    return copy


class _Heap:
    """Owns the memory of a copy that found no room: Python frees it with its last view."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        pass

    def object_let_go(self, obj: MemoryObj) -> None:
        pass
