"""`Fetching`: the chunks of one get or batched get, from the store into the arena."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Final

from lmcache_connect import CorruptRecordError
from lmcache_connect.streaming import PlaceInLine

from ...protocol.connection import Connection, Connections
from ...protocol.replies import encode_command
from ...schedule import FetchSchedule
from .records import RecordIO, StripedChunk

_HEAD_TRIES: Final = 3
"""How often a head is read because its parts were replaced while they were being read."""

_Part = tuple[StripedChunk, int, int]  # the chunk, the part's index, the slot
_Ask = int | _Part  # a slot's value, or a part


class Fetching(FetchSchedule[_Ask]):
    """Whole chunks by their slots, and the parts of those whose head says that they are striped."""

    def __init__(
        self, pool: Connections, records: RecordIO, workers: int, names: Sequence[str], place: PlaceInLine
    ) -> None:
        super().__init__(pool, workers, len(names), place)
        self._records = records
        self._names = names
        self._slots = deque(range(len(names)))
        self._parts: deque[_Part] = deque()
        self._chunks: set[StripedChunk] = set()
        self._tries: dict[int, int] = {}
        self._typical = 1 << 20

    def waiting(self) -> int:
        return len(self._parts) + len(self._slots)

    def next_ask(self) -> tuple[_Ask, bytes, int]:
        if self._parts:
            part = self._parts.popleft()
            chunk, index, _ = part
            return part, encode_command(b"GET", chunk.plan.part_name(chunk.name, index).encode()), _size(part)
        slot = self._slots.popleft()
        return slot, encode_command(b"GET", self._names[slot].encode()), self._typical

    def take(self, connection: Connection, ask: _Ask) -> Awaitable[int]:
        return self._take_value(connection, ask) if isinstance(ask, int) else self._take_part(connection, ask)

    def take_likely(self, connection: Connection, ask: _Ask, more: int) -> int:
        if not isinstance(ask, int):
            return 0
        try:
            obj = self._records.receive_likely(connection, self._names[ask], self.room, more)
        except CorruptRecordError as error:
            self.corrupt[ask] = error
            self.settle()
            return 1
        if obj is None:
            return 0
        self.found[ask] = obj
        self.settle()
        return obj.get_size()

    async def _take_value(self, connection: Connection, slot: int) -> int:
        try:
            got = await self._records.receive(connection, self._names[slot], self.room)
        except CorruptRecordError as error:
            self.corrupt[slot] = error
            self.settle()
            return 0
        if not isinstance(got, StripedChunk):
            self.found[slot] = got
            self.settle()
            if got is None:
                return 0
            self._typical = got.get_size()
            return self._typical
        self._chunks.add(got)
        self._typical = 1 << 10  # heads are small, and their parts count by themselves
        self._parts.extend((got, index, slot) for index in range(1, got.plan.parts + 1))
        self.hire()
        return 0

    async def _take_part(self, connection: Connection, part: _Part) -> int:
        chunk, index, slot = part
        try:
            if not await self._records.receive_part(connection, chunk, index):
                chunk.is_missing_parts = True
        except CorruptRecordError as error:
            chunk.failure = chunk.failure or error
        chunk.left -= 1
        if not chunk.left:
            self._complete(chunk, slot)
        return _size(part)

    def _complete(self, chunk: StripedChunk, slot: int) -> None:
        self._chunks.discard(chunk)
        if chunk.failure is None and not chunk.is_missing_parts:
            self.found[slot] = chunk.obj
            self.settle()
            return
        chunk.obj.ref_count_down()
        tries = self._tries[slot] = self._tries.get(slot, 0) + 1
        if chunk.failure is None and tries < _HEAD_TRIES:
            # Another writer may have replaced the chunk and removed these parts; its head then names others.
            self._slots.appendleft(slot)
            self.hire()
            return
        self.corrupt[slot] = chunk.failure or CorruptRecordError(
            "parts", "the store does not hold all parts of the chunk"
        )
        self.settle()

    def release(self) -> None:
        for chunk in self._chunks:
            chunk.obj.ref_count_down()
        self._chunks.clear()
        super().release()


def _size(part: _Part) -> int:
    start, end = part[0].plan.bounds(part[1])
    return end - start
