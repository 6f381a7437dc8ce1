"""`TwoKeyLayout`: chunks as LMCache's own `redis://` connector stores them, for a store that both share."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar

from lmcache_connect import CorruptRecordError, MemoryObj
from lmcache_connect.streaming import PlaceInLine

from ...options import RedisOptions
from ...protocol.connection import Connection, Connections
from ...protocol.replies import encode_command
from ...schedule import Awaited, FetchSchedule, StoreSchedule
from ..layout import Layout
from .records import METADATA_SUFFIX, TwoKeyRecords, both_keys

_Piece = tuple[str, MemoryObj]


class TwoKeyLayout(Layout):
    """`layout=lmcache`: a chunk's payload and its metadata under keys of their own."""

    keys_each: ClassVar[int] = 2

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._records = TwoKeyRecords(store, options)

    def encode_exists(self, names: Sequence[bytes]) -> bytes:
        # LMCache asks for the metadata alone, and takes a chunk whose payload was evicted for a hit.
        return b"".join(
            [
                b"*3\r\n$6\r\nEXISTS\r\n$%d\r\n%bmetadata\r\n$%d\r\n%bkv_bytes\r\n"
                % (len(name) + 8, name, len(name) + 8, name)
                for name in names
            ]
        )

    async def remove(self, connection: Connection, name: str) -> bool:
        await connection.send(encode_command(b"UNLINK", *both_keys(name)))
        return await connection.read_integer() == self.keys_each

    def listed_pattern(self, pattern: str) -> str:
        return pattern + METADATA_SUFFIX

    def listed_name(self, key: str) -> str | None:
        return key.removesuffix(METADATA_SUFFIX) if key.endswith(METADATA_SUFFIX) else None

    def fetching(self, pool: Connections, workers: int, names: Sequence[str], place: PlaceInLine) -> TwoKeyFetching:
        return TwoKeyFetching(pool, self._records, workers, names, place)

    def storing(
        self, pool: Connections, workers: int, names: Sequence[str], objs: Sequence[MemoryObj]
    ) -> TwoKeyStoring:
        return TwoKeyStoring(pool, self._records, workers, names, objs)


class TwoKeyFetching(FetchSchedule[int]):
    """Chunks by their slots."""

    def __init__(
        self,
        pool: Connections,
        records: TwoKeyRecords,
        workers: int,
        names: Sequence[str],
        place: PlaceInLine,
    ) -> None:
        super().__init__(pool, workers, len(names), place)
        self._records = records
        self._names = names
        self._slots = deque(range(len(names)))
        self._typical = 1 << 20

    def waiting(self) -> int:
        return len(self._slots)

    def next_ask(self) -> tuple[int, bytes, int]:
        slot = self._slots.popleft()
        return slot, encode_command(b"MGET", *both_keys(self._names[slot])), self._typical

    async def take(self, connection: Connection, ask: int) -> int:
        try:
            obj = await self._records.receive(connection, self.room)
        except CorruptRecordError as error:
            self.corrupt[ask] = error
            obj = None
        self.found[ask] = obj
        self.settle()
        if obj is None:
            return 0
        self._typical = obj.get_size()
        return self._typical


class TwoKeyStoring(StoreSchedule[_Piece]):
    """Chunks one by one: each stands as a whole, or not at all."""

    def __init__(
        self,
        pool: Connections,
        records: TwoKeyRecords,
        workers: int,
        names: Sequence[str],
        objs: Sequence[MemoryObj],
    ) -> None:
        super().__init__(pool, workers, len(names))
        self._records = records
        for name, obj in zip(names, objs, strict=True):
            records.check(obj)
            self.pieces.append((name, obj))

    async def send(self, connection: Connection, piece: _Piece) -> int:
        name, obj = piece
        await self._records.send(connection, name, obj)
        return obj.get_size()

    def reading(self, connection: Connection, piece: _Piece, awaited: Awaited) -> Callable[[], Awaitable[None]]:
        return partial(self._stored, connection)

    async def _stored(self, connection: Connection) -> None:
        await self._records.read_stored(connection)
        self.settle()
