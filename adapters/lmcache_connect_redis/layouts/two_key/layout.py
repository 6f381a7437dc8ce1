"""`TwoKeyLayout`: chunks as LMCache's own `redis://` connector stores them, for a store that both share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from lmcache_connect import ArenaExhaustedError, CorruptRecordError
from lmcache_connect.contract import KeyFacts
from lmcache_connect.streaming import Arrivals, ChunkBytes, OtherChunkError

from ...options import RedisOptions
from ...pipelines.fetch_pipeline import FetchCall
from ...pipelines.store_pipeline import StoreRequest
from ...protocol.connection import Connection
from ...protocol.questions import Questions
from ...protocol.redirects import RedirectedError
from ...protocol.replies import encode_command
from ..layout import Layout, escaped
from .describing import describe_pairs
from .records import METADATA_SUFFIX, TwoKeyRecords, both_keys

_COPIES: Final = 3
"""How many copies of the metadata a request asks for at most."""


class TwoKeyLayout(Layout):
    """`layout=lmcache`: a chunk's payload and its metadata under keys of their own."""

    keys_each: ClassVar[int] = 2
    listed_type: ClassVar[tuple[bytes, ...]] = (b"TYPE", b"string")

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._records = TwoKeyRecords(store, options)

    def names_of(self, keys: Sequence[str]) -> list[str]:
        return [*keys]

    def encode_exists(self, names: Sequence[str]) -> bytes:
        # LMCache asks for the metadata alone, and takes a chunk whose payload was evicted for a hit.
        return b"".join([encode_command(b"EXISTS", *both_keys(name)) for name in names])

    def encode_remove(self, names: Sequence[str]) -> bytes:
        return b"".join([encode_command(self.remove_command.encode(), *both_keys(name)) for name in names])

    def listed_pattern(self, key_prefix: str) -> str:
        return f"{escaped(key_prefix)}*{METADATA_SUFFIX}"

    def listed_key(self, name: str) -> str | None:
        return name.removesuffix(METADATA_SUFFIX) if name.endswith(METADATA_SUFFIX) else None

    def fetching(self, names: Sequence[str], arrivals: Arrivals, nbytes: int) -> TwoKeyFetching:
        return TwoKeyFetching(self._records, names, arrivals, nbytes)

    def keys_of(self, name: str) -> Sequence[bytes]:
        return both_keys(name)

    async def describe(
        self, questions: Questions, names: Sequence[str], store: str, *, records: bool
    ) -> Sequence[KeyFacts | RedirectedError | None]:
        return await describe_pairs(questions, names, store, records=records)

    def put_requests(
        self, names: Sequence[str], objs: Sequence[ChunkBytes], *, whole: bool = False
    ) -> list[StoreRequest]:
        for obj in objs:
            self._records.check(obj)
        return [TwoKeyPut(self._records, name, obj) for name, obj in zip(names, objs, strict=True)]


class TwoKeyFetching(FetchCall):
    """Chunks by their slots, the positions of their keys in the call.

    LMCache's records do not say which key they belong to. A reply that nobody has asked for, or one that is missing,
    would give each call behind it another call's chunk. So requests that follow one another over one connection ask for
    one, two and three copies of the metadata in turn, and a reply of another length closes the connection.
    """

    def __init__(
        self,
        records: TwoKeyRecords,
        names: Sequence[str],
        arrivals: Arrivals,
        nbytes: int,
    ) -> None:
        super().__init__(arrivals, nbytes)
        self._records = records
        self._names = names
        self._next = 0
        """The first slot that was not asked for yet."""
        self._again: list[int] = []
        self._typical = nbytes // max(len(names), 1)

    def unbegun(self) -> int:
        return max(self.arrivals.wanted - self._next, 0) + len(self._again)

    def next_request(self) -> tuple[tuple[tuple[int, int], bytes], int]:
        if self._again:
            slot = self._again.pop()
        else:
            slot = self._next
            self._next = slot + 1
        return ((slot, 0), b""), self._typical  # the rest follows from the connection

    def over(self, connection: Connection, request: tuple[tuple[int, int], bytes]) -> tuple[tuple[int, int], bytes]:
        (slot, _), _ = request
        copies = connection.copies_asked = 1 + connection.copies_asked % _COPIES
        metadata, payload = both_keys(self._names[slot])
        return (slot, copies), encode_command(b"MGET", *(metadata,) * copies, payload)

    def slot_of(self, ask: tuple[int, int]) -> int:
        return ask[0]

    def ask_again(self, ask: tuple[int, int]) -> None:
        if ask[0] < self.arrivals.wanted:
            self._again.append(ask[0])

    async def drop(self, connection: Connection, ask: tuple[int, int]) -> None:
        await self._records.drop(connection, ask[1])

    async def take(self, connection: Connection, ask: tuple[int, int]) -> int:
        slot, copies = ask
        try:
            obj = await self._records.receive(connection, self.arrivals.room, slot, copies)
        except CorruptRecordError as error:
            self.arrivals.corrupt[slot] = error
            return 0
        except ArenaExhaustedError as error:
            self.arrivals.no_room(slot, error)
            return 0
        except OtherChunkError:
            return 0
        self.arrivals.found[slot] = obj
        if obj is None:
            return 0
        self._typical = obj.get_size()
        return self._typical


class TwoKeyPut(StoreRequest):
    """Both keys of a chunk, in one transaction: the chunk stands as a whole, or not at all."""

    def __init__(self, records: TwoKeyRecords, name: str, obj: ChunkBytes) -> None:
        self._records = records
        self._name = name
        self._obj = obj
        self.nbytes = obj.get_size()

    async def send(self, connection: Connection) -> None:
        await self._records.send(connection, self._name, self._obj)

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        await self._records.read_stored(connection)
        return None
