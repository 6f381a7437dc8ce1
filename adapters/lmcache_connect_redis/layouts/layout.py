"""`Layout`: how chunks lie in the store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from lmcache_connect import MemoryObj
from lmcache_connect.streaming import Arrivals, Crew, Equipment

from ..protocol.connection import Connection
from ..store_pipeline import StoreRequest


class Layout(ABC):
    """Which keys and values a chunk has in the store, and how they are looked up, moved and removed.

    A chunk's `name` is its key behind the connector's prefix. A layout holds no connection.
    """

    keys_each: ClassVar[int]
    """How many of the keys that `encode_exists` asks for must be there for the chunk to be there."""

    @abstractmethod
    def encode_exists(self, names: Sequence[bytes]) -> bytes:
        """Returns one command per name. The reply is the number of the chunk's keys that are there."""

    @abstractmethod
    async def remove(self, connection: Connection, name: str) -> bool:
        """Removes every key of the chunk. Returns whether it was there."""

    @abstractmethod
    def listed_pattern(self, pattern: str) -> str:
        """Returns the pattern of the keys that stand for chunks whose names match `pattern`."""

    @abstractmethod
    def listed_name(self, key: str) -> str | None:
        """Returns the name of the chunk that a key in the store stands for. None for any other key.

        Each chunk has one such key.
        """

    @abstractmethod
    def fetching(self, equipment: Equipment[Connection], names: Sequence[str], arrivals: Arrivals) -> Crew[Connection]:
        """Returns the crew that gets the chunks of one call."""

    @abstractmethod
    def put_requests(self, names: Sequence[str], objs: Sequence[MemoryObj]) -> list[StoreRequest]:
        """Returns the requests that put the chunks of one call.

        Raises:
            ValueTooLargeError, InvalidShapeError, UnknownDtypeError: a chunk that the layout cannot hold.
        """
