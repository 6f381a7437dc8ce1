"""Where chunks lie: the arena, the objects in it, the line of those who wait for room, and the hot cache.

Knows no connection and no store. Every package above may import it.
"""

from __future__ import annotations

from .local_cpu_backend import ArenaStatistics, LocalCPUBackend
from .memory_obj import MemoryObj, ObjectOwner
from .releasing import release_all, release_unclaimed

__all__ = ["ArenaStatistics", "LocalCPUBackend", "MemoryObj", "ObjectOwner", "release_all", "release_unclaimed"]
