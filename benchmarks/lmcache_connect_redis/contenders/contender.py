"""`Contender`: the operations of a KV cache that every measured client supports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar


class MissingContenderError(Exception):
    """The contender cannot run here. The message says which package is missing, and how to install it."""


class Contender(ABC):
    """One client of one store. Made, opened, measured and closed on one event loop.

    Every contender does what a KV cache needs: what it puts comes from memory that it keeps (its own kind of buffer,
    filled by `stage`), and what it gets lands in memory that an engine could use, one buffer per chunk.
    """

    name: ClassVar[str]
    """A short name for the table."""

    database: ClassVar[int | None] = None
    """The only database that it can use; None for any."""

    @abstractmethod
    async def open(self, url: str, chunk_bytes: int, chunks: int) -> None:
        """Connects to `url` (`redis://host:port/db` or `unix:///path?db=n`) and makes room for `chunks` such chunks.

        Called again for every chunk size, after `close`.

        Raises:
            MissingContenderError: it is not installed, or does not speak this kind of URL.
        """

    @abstractmethod
    def stage(self, payloads: Sequence[bytes]) -> None:
        """Keeps a copy of each payload in the contender's own kind of buffer: what `put` sends. Not measured."""

    @abstractmethod
    async def put(self, keys: Sequence[str]) -> None:
        """Stores the staged buffers, the first under the first key, and so on. Measured."""

    @abstractmethod
    async def get(self, keys: Sequence[str]) -> None:
        """Fetches a batch, and keeps it for `received`. Measured."""

    @abstractmethod
    async def get_one(self, key: str) -> None:
        """Fetches one chunk, and keeps it for `received`. Measured."""

    @abstractmethod
    def received(self) -> list[memoryview | None]:
        """What the last `get` or `get_one` fetched, None for a miss. Not measured."""

    @abstractmethod
    def release(self) -> None:
        """Releases what was received. Not measured."""

    @abstractmethod
    async def exists(self, keys: Sequence[str]) -> list[bool]:
        """Looks up a batch of keys, as fast as the client can. Measured."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnects and releases all memory."""
