"""`FramedLayout`: a chunk as one record, or as a head and parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lmcache_connect import MemoryObj
from lmcache_connect.record import FIXED_HEADER_BYTES, is_part_name
from lmcache_connect.streaming import Arrivals, Equipment

from ...options import RedisOptions
from ...protocol.connection import Connection
from ...protocol.replies import encode_command
from ...store_pipeline import StoreRequest
from ..layout import Layout
from .fetching import Fetching
from .record_reader import RecordReader
from .record_writer import RecordWriter
from .storing import put_requests


class FramedLayout(Layout):
    """`layout=connect`: the records of `lmcache_connect.record`."""

    keys_each: ClassVar[int] = 1

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._writer = RecordWriter(store, options)
        self._reader = RecordReader(options)
        self._stripe = options.stripe

    def encode_exists(self, names: Sequence[bytes]) -> bytes:
        return b"".join([b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(name), name) for name in names])

    async def remove(self, connection: Connection, name: str) -> bool:
        glance = encode_command(b"GETRANGE", name.encode(), b"0", b"%d" % (FIXED_HEADER_BYTES - 1))
        await connection.send(glance + encode_command(b"UNLINK", name.encode()), replies=2)
        plan = await self._writer.read_replaced(connection)
        was_there = await connection.read_integer() > 0
        if plan is not None:
            parts = plan.part_names(name)
            await connection.send(
                b"".join([encode_command(b"UNLINK", part.encode()) for part in parts]), replies=len(parts)
            )
            await connection.discard_integers()
        return was_there

    def listed_pattern(self, pattern: str) -> str:
        return pattern

    def listed_name(self, key: str) -> str | None:
        return None if is_part_name(key) else key

    def fetching(self, equipment: Equipment[Connection], names: Sequence[str], arrivals: Arrivals) -> Fetching:
        return Fetching(equipment, self._reader, names, arrivals)

    def put_requests(self, names: Sequence[str], objs: Sequence[MemoryObj]) -> list[StoreRequest]:
        return [
            request
            for name, obj in zip(names, objs, strict=True)
            for request in put_requests(self._writer, name, obj, self._stripe)
        ]
