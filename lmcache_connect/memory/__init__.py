"""Where chunks lie: the contract of chunk memory, the arena, the objects in it, the hot cache, the waiting line.

Knows no connection and no store. Every package above may import it.
"""

from __future__ import annotations

from .chunk_memory import ArenaStatistics, ChunkMemory
from .local_cpu_backend import LocalCPUBackend
from .memory_obj import MemoryObj
from .releasing import release_all

__all__ = ["ArenaStatistics", "ChunkMemory", "LocalCPUBackend", "MemoryObj", "release_all"]
