"""`private_copy`: a chunk for code that may still read it when its caller has gone on."""

from __future__ import annotations

import asyncio
from typing import Final

from ..memory import ChunkMemory, MemoryObj

_PIECE: Final = 2 << 20
"""Bytes that are copied before the event loop may do other work: a tenth of a millisecond or two."""


async def private_copy(obj: MemoryObj, memory: ChunkMemory) -> MemoryObj:
    """A copy of a chunk, with one reference for the caller. It needs no free room: without any, it lies outside.

    A `put` borrows its caller's memory, which must not be touched when the `put` has ended. Code that cannot be stopped
    reads such a copy instead.
    """
    copy = memory.allocate_chunk(obj.metadata, False)
    if copy is None:
        copy = MemoryObj(memoryview(bytearray(obj.get_size())), obj.metadata, _Heap())
    try:
        for start in range(0, obj.get_size(), _PIECE):
            if start:
                await asyncio.sleep(0)
            copy.byte_array[start : start + _PIECE] = obj.byte_array[start : start + _PIECE]
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
