"""The requests of a put: whole chunks, or parts and then the head that commits them."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import randbits

from lmcache_connect import MemoryObj, StoreError
from lmcache_connect.record import StripePlan

from ...protocol.connection import Connection
from ...protocol.replies import encode_command
from ...store_pipeline import Names, StoreRequest
from .record_writer import RecordWriter


def put_requests(writer: RecordWriter, name: str, obj: MemoryObj, stripe_size: int) -> Sequence[StoreRequest]:
    """Returns the requests that put one chunk: one, or one for each of its parts.

    Raises:
        ValueTooLargeError: the chunk is not striped and fits no value.
    """
    nbytes = obj.get_size()
    if not stripe_size or nbytes <= stripe_size:
        writer.check_size(name, obj)
        return [_WholePut(writer, name, obj)]
    head = _HeadPut(writer, name, obj, StripePlan(nbytes, stripe_size, randbits(63) + 1))
    return [_PartPut(writer, head, index) for index in range(1, head.plan.parts + 1)]


class _WholePut(StoreRequest):
    """A chunk as one record."""

    def __init__(self, writer: RecordWriter, name: str, obj: MemoryObj) -> None:
        self._writer = writer
        self._name = name
        self._obj = obj

    async def send(self, connection: Connection) -> int:
        await self._writer.send_whole(connection, self._name, self._obj)
        return self._obj.get_size()

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        try:
            replaced = await self._writer.read_replaced(connection)
        except StoreError:
            await connection.read_status()  # refused as well, probably: both replies must be read
            raise
        await connection.read_status()
        return _tidying(self._name, replaced, None)


class _PartPut(StoreRequest):
    """A part of a striped chunk. Every part must stand before the head is written."""

    def __init__(self, writer: RecordWriter, head: _HeadPut, index: int) -> None:
        self._writer = writer
        self._head = head
        self._index = index
        self._is_begun = False

    async def send(self, connection: Connection) -> int:
        self._is_begun = True
        head = self._head
        await self._writer.send_part(connection, head.name, head.obj, head.plan, self._index)
        start, end = head.plan.bounds(self._index)
        return end - start

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        await connection.read_status()
        self._head.missing_parts -= 1
        return None if self._head.missing_parts else self._head

    def staged(self) -> Names:
        head = self._head
        return [head.plan.part_name(head.name, self._index)] if self._is_begun and not head.is_begun else []


class _HeadPut(StoreRequest):
    """The head of a striped chunk, which commits the chunk. If a put fails before, the chunk was not stored."""

    def __init__(self, writer: RecordWriter, name: str, obj: MemoryObj, plan: StripePlan) -> None:
        self._writer = writer
        self.name = name
        self.obj = obj
        self.plan = plan
        self.missing_parts = plan.parts
        self.is_begun = False

    async def send(self, connection: Connection) -> int:
        self.is_begun = True
        await self._writer.send_head(connection, self.name, self.obj, self.plan)
        return 0

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        replaced = await self._writer.read_replaced(connection)
        return _tidying(self.name, replaced, self.plan, keeps_parts=self._writer.keeps_parts)


class _Tidying(StoreRequest):
    """Commands that make new parts lasting and unlink replaced ones. Each is answered by an integer."""

    def __init__(self, commands: Sequence[bytes]) -> None:
        self._commands = commands

    async def send(self, connection: Connection) -> int:
        await connection.send(b"".join(self._commands), replies=len(self._commands))
        return 0

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        for _ in self._commands:
            await connection.read_integer()
        return None


def _tidying(
    name: str, replaced: StripePlan | None, stored: StripePlan | None, keeps_parts: bool = False
) -> StoreRequest | None:
    commands = []
    if stored is not None and keeps_parts:
        commands += [encode_command(b"PERSIST", part.encode()) for part in stored.part_names(name)]
    if replaced is not None and replaced != stored:
        commands += [encode_command(b"UNLINK", part.encode()) for part in replaced.part_names(name)]
    return _Tidying(commands) if commands else None
