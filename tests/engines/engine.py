"""An engine's memory as this toolkit sees it, without any engine."""

from __future__ import annotations

from typing import Any

from lmcache_connect import ChunkMetadata
from lmcache_connect.engines.engine_memory import EngineMemory


class EngineObject:
    """A memory object of the engine: bytes, and a count of references."""

    def __init__(self, engine: Engine, nbytes: int) -> None:
        self.byte_array: Any = bytearray(nbytes)
        self.nbytes = nbytes
        self.references = 1
        self._engine = engine

    def ref_count_up(self) -> None:
        self.references += 1

    def ref_count_down(self) -> None:
        self.references -= 1
        if not self.references:
            self._engine.free += self.nbytes


class Engine:
    """An allocator that knows how much is free."""

    def __init__(self, capacity: int) -> None:
        self.free = capacity

    def allocate(self, nbytes: int) -> EngineObject | None:
        if nbytes > self.free:
            return None
        self.free -= nbytes
        return EngineObject(self, nbytes)


class FakeEngineMemory(EngineMemory):
    """This toolkit's memory on the engine's."""

    def _allocate_theirs(self, allocator: Any, metadata: ChunkMetadata, eviction: bool) -> EngineObject | None:
        found: EngineObject | None = allocator.allocate(metadata.nbytes)
        return found
