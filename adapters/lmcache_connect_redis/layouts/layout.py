"""`Layout`: how chunks lie in the store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from lmcache_connect import MemoryObj
from lmcache_connect.streaming import PlaceInLine

from ..protocol.connection import Connection, Connections
from ..schedule import FetchSchedule, StoreSchedule


class Layout(ABC):
    """Which keys and values a chunk has in the store, and how they are looked up, moved and removed.

    `name` is the chunk's own name everywhere: its key with the connector's prefix. Holds no connection.
    """

    keys_each: ClassVar[int]
    """How many of the keys that `encode_exists` asks for must be there for the chunk to be there."""

    @abstractmethod
    def encode_exists(self, names: Sequence[bytes]) -> bytes:
        """One command per name, whose reply is the number of its keys that are there."""

    @abstractmethod
    async def remove(self, connection: Connection, name: str) -> bool:
        """Removes everything that belongs to the chunk; whether it was there."""

    @abstractmethod
    def listed_pattern(self, pattern: str) -> str:
        """The pattern of the keys that name a chunk, from the pattern of the chunks' names."""

    @abstractmethod
    def listed_name(self, key: str) -> str | None:
        """The name of the chunk that a key in the store stands for, if any. Each chunk has one such key."""

    @abstractmethod
    def fetching(self, pool: Connections, workers: int, names: Sequence[str], place: PlaceInLine) -> FetchSchedule[Any]:
        """Gets the chunks of one call."""

    @abstractmethod
    def storing(
        self, pool: Connections, workers: int, names: Sequence[str], objs: Sequence[MemoryObj]
    ) -> StoreSchedule[Any]:
        """Puts the chunks of one call.

        Raises:
            ValueTooLargeError, InvalidShapeError, UnknownDtypeError: a chunk that the layout cannot hold.
        """
