"""`Fetching`: the chunks of one get or batched get, from the store into the arena."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Final

from lmcache_connect import CorruptRecordError
from lmcache_connect.streaming import Arrivals, Equipment

from ...fetch_pipeline import FetchPipeline
from ...protocol.connection import Connection
from ...protocol.replies import encode_command
from .record_reader import RecordReader, StripedChunk

_HEAD_TRIES: Final = 3
"""How often a head is read because its parts were replaced while they were being read."""

_Part = tuple[StripedChunk, int, int]  # the chunk, the part's index, the slot
_Ask = int | _Part  # a slot's value, or a part


class Fetching(FetchPipeline[_Ask]):
    """Whole chunks by their slots, and the parts of those whose head says that they are striped."""

    def __init__(
        self, equipment: Equipment[Connection], reader: RecordReader, names: Sequence[str], arrivals: Arrivals
    ) -> None:
        super().__init__(equipment, arrivals)
        self._reader = reader
        self._names = names
        self._slots = deque(range(len(names)))
        self._parts: deque[_Part] = deque()
        self._tries: dict[int, int] = {}
        self._typical = 1 << 20

    def unbegun(self) -> int:
        return len(self._parts) + len(self._slots)

    def next_ask(self) -> tuple[_Ask, bytes, int]:
        if self._parts:
            part = self._parts.popleft()
            chunk, index, _ = part
            return part, encode_command(b"GET", chunk.plan.part_name(chunk.name, index).encode()), _size(part)
        slot = self._slots.popleft()
        return slot, encode_command(b"GET", self._names[slot].encode()), self._typical

    def take(self, connection: Connection, ask: _Ask, outstanding: int) -> Awaitable[int]:
        if isinstance(ask, int):
            return self._take_value(connection, ask, outstanding)
        return self._take_part(connection, ask)

    async def _take_value(self, connection: Connection, slot: int, outstanding: int) -> int:
        try:
            got = await self._reader.receive(connection, self._names[slot], self.arrivals.room, outstanding)
        except CorruptRecordError as error:
            self.arrivals.corrupt[slot] = error
            return 0
        if not isinstance(got, StripedChunk):
            self.arrivals.found[slot] = got
            if got is None:
                return 0
            self._typical = got.get_size()
            return self._typical
        self._typical = 1 << 10  # heads are small, and their parts count by themselves
        self._parts.extend((got, index, slot) for index in range(1, got.plan.parts + 1))
        self.hire()
        return 0

    async def _take_part(self, connection: Connection, part: _Part) -> int:
        chunk, index, slot = part
        try:
            if not await self._reader.receive_part(connection, chunk, index):
                chunk.is_missing_parts = True
        except CorruptRecordError as error:
            chunk.failure = chunk.failure or error
        chunk.left -= 1
        if not chunk.left:
            self._complete(chunk, slot)
        return _size(part)

    def _complete(self, chunk: StripedChunk, slot: int) -> None:
        if chunk.failure is None and not chunk.is_missing_parts:
            self.arrivals.found[slot] = chunk.obj
            return
        chunk.obj.ref_count_down()
        tries = self._tries[slot] = self._tries.get(slot, 0) + 1
        if chunk.failure is None and tries < _HEAD_TRIES:
            # Another writer may have replaced the chunk and removed these parts; its head then names others.
            self._slots.appendleft(slot)
            self.hire()
            return
        self.arrivals.corrupt[slot] = chunk.failure or CorruptRecordError(
            "parts", "the store does not hold all parts of the chunk"
        )


def _size(part: _Part) -> int:
    start, end = part[0].plan.bounds(part[1])
    return end - start
