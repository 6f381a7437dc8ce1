"""`Storing`: the chunks of one put or batched put, from the arena into the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from secrets import randbits

from lmcache_connect import MemoryObj, StoreError
from lmcache_connect.record import StripePlan

from ...protocol.connection import Connection, Connections
from ...protocol.replies import encode_command
from ...schedule import Awaited, Names, StoreSchedule
from .records import RecordIO


@dataclass(eq=False, slots=True)
class _Chunk:
    name: str
    obj: MemoryObj
    plan: StripePlan | None
    left: int = 0
    begun: int = 0  # parts of which something was sent
    head_sent: bool = False

    @property
    def size(self) -> int:
        return self.obj.get_size()


_Piece = tuple[_Chunk, int]  # the chunk, and the part's index: 0 for the head, or for a whole one


class Storing(StoreSchedule[_Piece]):
    """After `run()` every chunk is stored. One that fails half-way was not committed: its head was not written."""

    def __init__(
        self,
        pool: Connections,
        records: RecordIO,
        workers: int,
        names: Sequence[str],
        objs: Sequence[MemoryObj],
        stripe_size: int,
    ) -> None:
        super().__init__(pool, workers, len(names))
        self._records = records
        self._striped: list[_Chunk] = []
        for name, obj in zip(names, objs, strict=True):
            nbytes = obj.get_size()
            if stripe_size and nbytes > stripe_size:
                chunk = _Chunk(name, obj, StripePlan(nbytes, stripe_size, randbits(63) + 1))
                chunk.left = chunk.plan.parts if chunk.plan is not None else 0
                self._striped.append(chunk)
                self.pieces.extend((chunk, index) for index in range(1, chunk.left + 1))
            else:
                records.check_size(name, obj)
                self.pieces.append((_Chunk(name, obj, None), 0))

    def staged(self) -> Names:
        """Names of parts that may stand in the store without a head, after a failure."""
        return [
            chunk.plan.part_name(chunk.name, index)
            for chunk in self._striped
            if chunk.plan is not None and not chunk.head_sent
            for index in range(1, chunk.begun + 1)
        ]

    async def send(self, connection: Connection, piece: _Piece) -> int:
        chunk, index = piece
        if chunk.plan is None:
            await self._records.send_whole(connection, chunk.name, chunk.obj)
            return chunk.size
        if index:
            chunk.begun = max(chunk.begun, index)
            await self._records.send_part(connection, chunk.name, chunk.obj, chunk.plan, index)
            start, end = chunk.plan.bounds(index)
            return end - start
        chunk.head_sent = True
        await self._records.send_head(connection, chunk.name, chunk.obj, chunk.plan)
        return 0

    def reading(self, connection: Connection, piece: _Piece, awaited: Awaited) -> Callable[[], Awaitable[None]]:
        return partial(self._answered, connection, piece, awaited)

    async def _answered(self, connection: Connection, piece: _Piece, awaited: Awaited) -> None:
        chunk, index = piece
        if chunk.plan is not None and index:
            await connection.read_status()
            chunk.left -= 1
            if not chunk.left:
                self.pieces.appendleft((chunk, 0))  # every part stands: the head commits them
                self.hire()
            return
        replaced = await self._read_put(connection, chunk)
        commands = self._tidying(chunk, replaced)
        if not commands:
            self.settle()
            return
        awaited.append(partial(self._tidied, connection, len(commands)))
        await connection.send(b"".join(commands), replies=len(commands))

    async def _read_put(self, connection: Connection, chunk: _Chunk) -> StripePlan | None:
        if chunk.plan is not None:
            return await self._records.read_replaced(connection)
        try:
            replaced = await self._records.read_replaced(connection)
        except StoreError:
            await connection.read_status()  # refused as well, rather: both replies are read, in step
            raise
        await connection.read_status()
        return replaced

    def _tidying(self, chunk: _Chunk, replaced: StripePlan | None) -> list[bytes]:
        """Commands that make the new parts lasting and unlink those that the put has replaced."""
        commands = []
        if chunk.plan is not None and self._records.keeps_parts:
            commands += [encode_command(b"PERSIST", name.encode()) for name in chunk.plan.part_names(chunk.name)]
        if replaced is not None and replaced != chunk.plan:
            commands += [encode_command(b"UNLINK", name.encode()) for name in replaced.part_names(chunk.name)]
        return commands

    async def _tidied(self, connection: Connection, replies: int) -> None:
        for _ in range(replies):
            await connection.read_integer()
        self.settle()
