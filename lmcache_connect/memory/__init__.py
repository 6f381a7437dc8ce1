"""Where chunks lie: the contract of chunk memory, the arena, the objects in it, the hot cache, the waiting line.

Knows no connection and no store. Every package above may import it.
"""

from __future__ import annotations

from .caller_memory_obj import CallerMemoryObj, chunk_of
from .chunk_memory import ArenaStatistics, ChunkMemory
from .eviction import eviction_policy
from .hot_cache import Filling, HotCache
from .layered_memory import LayeredMemory
from .local_cpu_backend import LocalCPUBackend
from .memory_obj import MemoryObj
from .regions import Regions, check_apart, memory_at, regions_of
from .releasing import release_all
from .shared_memory_obj import SharedMemoryObj

__all__ = [
    "ArenaStatistics",
    "CallerMemoryObj",
    "ChunkMemory",
    "Filling",
    "HotCache",
    "LayeredMemory",
    "LocalCPUBackend",
    "MemoryObj",
    "Regions",
    "SharedMemoryObj",
    "check_apart",
    "chunk_of",
    "eviction_policy",
    "memory_at",
    "regions_of",
    "release_all",
]
