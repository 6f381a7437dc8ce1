"""`Caller`: who puts and gets, and what it holds."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..cell import Operation


class Caller(ABC):
    """One client of a store. Every call raises what its user sees."""

    @abstractmethod
    async def put(self, key: str, data: bytes) -> bool:
        """Stores a chunk. False: an engine was told that it was not stored."""

    @abstractmethod
    async def get(self, key: str) -> bytes | None:
        """The chunk's bytes, or None on a miss."""

    @abstractmethod
    def in_fork(self, operation: Operation, key: str) -> str:
        """Makes the call in a fork of this process, and returns what `forked` does."""

    @abstractmethod
    async def close(self) -> None:
        """Ends it."""

    @abstractmethod
    def held(self) -> list[str]:
        """What it still holds after `close`."""
