"""An engine that unmaps its memory when it closes: a thread that touches it afterwards ends the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Final

from lmcache_connect import ChunkMetadata
from lmcache_connect.engines.engine_memory import EngineMemory

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class MappedObject:
    """A memory object of the engine. Like LMCache's, it does not keep its memory mapped."""

    def __init__(self, engine: MappedEngine, address: int, nbytes: int) -> None:
        self.byte_array: Any = memoryview((ctypes.c_ubyte * nbytes).from_address(address))
        self.references = 1
        self._engine = engine
        self._address = address

    def ref_count_up(self) -> None:
        self.references += 1

    def ref_count_down(self) -> None:
        self.references -= 1
        if not self.references:
            self._engine.free.append(self._address)


class MappedEngine:
    """An allocator of chunks of one size."""

    def __init__(self, chunk: int, count: int) -> None:
        self.chunk = chunk
        self._size = chunk * count
        found = _libc.mmap(
            None, self._size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
        )
        assert found not in (None, ctypes.c_void_p(-1).value)
        self._address = int(found)
        self.free = [self._address + chunk * index for index in range(count)]
        self.is_closed = False

    def allocate(self, nbytes: int) -> MappedObject | None:
        if nbytes > self.chunk or not self.free:
            return None
        return MappedObject(self, self.free.pop(), nbytes)

    def close(self) -> None:
        """Frees the memory, as LMCache does: before anything that works on it has ended."""
        if not self.is_closed:
            self.is_closed = True
            assert _libc.munmap(self._address, self._size) == 0


class MappedMemory(EngineMemory):
    """This toolkit's memory on the engine's."""

    def _allocate_theirs(self, allocator: Any, metadata: ChunkMetadata, eviction: bool) -> MappedObject | None:
        found: MappedObject | None = allocator.allocate(metadata.nbytes)
        return found
