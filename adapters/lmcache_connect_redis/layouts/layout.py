"""`Layout`: how chunks lie in the store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from lmcache_connect.contract import KeyFacts
from lmcache_connect.streaming import Arrivals, ChunkBytes

from ..pipelines.fetch_pipeline import FetchCall
from ..pipelines.store_pipeline import StoreRequest
from ..protocol.connection import Connection
from ..protocol.questions import Questions
from ..protocol.redirects import RedirectedError


class Layout(ABC):
    """Which names and values a chunk has in the store, and how they are looked up, moved and removed.

    A chunk's `name` is what stands for it in the store. A layout holds no connection.
    """

    keys_each: ClassVar[int]
    """How many of the names that `encode_exists` asks for must be there for the chunk to be there."""

    listed_type: ClassVar[tuple[bytes, ...]] = ()
    """What SCAN is told besides the pattern: the type of the values under the names that it lists."""

    has_transactions = True
    """Whether the server has transactions, as the newest connection has found."""

    remove_command = "UNLINK"
    """What removes a name, as the newest connection has found."""

    @abstractmethod
    def names_of(self, keys: Sequence[str]) -> list[str]:
        """Returns the name of each key's chunk, with the connector's prefix."""

    @abstractmethod
    def encode_exists(self, names: Sequence[str]) -> bytes:
        """Returns one command per chunk. Its reply is the number of the chunk's names that are there."""

    @abstractmethod
    def encode_remove(self, names: Sequence[str]) -> bytes:
        """Returns one command per chunk, which removes all of it. Its reply is the number of names that were there."""

    @abstractmethod
    def listed_pattern(self, key_prefix: str) -> str:
        """Returns the pattern of the names of all chunks whose keys start with `key_prefix`. Other names may match."""

    @abstractmethod
    def listed_key(self, name: str) -> str | None:
        """Returns the key of the chunk that a name stands for. None for any other name. May be no valid key."""

    def outdated_pattern(self, key_prefix: str) -> str | None:
        """Returns the pattern of release 0.1's names for keys that start with `key_prefix`. None: they are the same."""
        return None

    def pieces_pattern(self, key_prefix: str) -> str:
        """Returns the pattern of the names of pieces of spread chunks whose keys start with `key_prefix`."""
        raise NotImplementedError

    @abstractmethod
    def fetching(self, names: Sequence[str], arrivals: Arrivals, nbytes: int) -> FetchCall:
        """Returns the requests that get the chunks of one call, which have about `nbytes` bytes in all."""

    @abstractmethod
    def put_requests(
        self, names: Sequence[str], objs: Sequence[ChunkBytes], *, whole: bool = False
    ) -> list[StoreRequest]:
        """Returns the requests that put the chunks of one call. `whole`: none of them in pieces.

        Raises:
            ValueTooLargeError, InvalidShapeError, UnknownDtypeError: a chunk that the layout cannot hold.
        """

    def keep_whole(self) -> bool:
        """Has `put_requests` do without transactions for good. Returns whether it then acts differently."""
        return False

    @abstractmethod
    def keys_of(self, name: str) -> Sequence[bytes]:
        """Returns the keys of the store that a chunk's name stands for."""

    @abstractmethod
    async def describe(
        self, questions: Questions, names: Sequence[str], store: str, *, records: bool
    ) -> Sequence[KeyFacts | RedirectedError | None]:
        """Returns for each name what the server says of its chunk, None for a missing one, or who has it."""

    async def encode_removal_of_damage(self, connection: Connection, name: str) -> bytes | None:
        """Reads a chunk again. Returns the command that removes it if the server holds the damage that was seen.

        The command's reply is how many names were removed. None if the chunk verifies, has gone, or is not recognisably
        this toolkit's.
        """
        return None


def escaped(text: str) -> str:
    """Returns the pattern that only `text` matches."""
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
