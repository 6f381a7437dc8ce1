"""Chunks in memory: the arena, its objects, and the hot cache."""

from __future__ import annotations

from .local_cpu_backend import ArenaStatistics, LocalCPUBackend
from .memory_obj import MemoryObj

__all__ = ["ArenaStatistics", "LocalCPUBackend", "MemoryObj"]
