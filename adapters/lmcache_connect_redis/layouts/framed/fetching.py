"""`Fetching`: the chunks of one get or batched get, from the store into the arena.

A chunk is one value, or a head and parts (striped). Only the value tells which. So the way of a chunk is:

1. `next_ask` asks for the value of a slot. A slot is the position of a key in the call.
2. `take` gives the reply to `RecordReader`, which receives a whole chunk into the arena. Then the slot is done.
3. If the value is a head, `RecordReader` makes room for the chunk. Any member of the crew then asks for its parts.
4. The last part completes the chunk. If a part is missing, another writer may have replaced the chunk meanwhile, so its
   head is asked for again, `_HEAD_TRIES` times in all. After that, or if a part does not verify, the slot is corrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lmcache_connect import CorruptRecordError
from lmcache_connect.streaming import Arrivals, Equipment

from ...fetch_pipeline import FetchPipeline
from ...protocol.connection import Connection
from ...protocol.replies import encode_command
from .record_reader import RecordReader, StripedChunk

_HEAD_TRIES: Final = 3
"""How often a head is read because its parts were replaced while they were being read."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Part `index` of the striped chunk of a slot."""

    chunk: StripedChunk
    index: int
    slot: int

    @property
    def name(self) -> str:
        return self.chunk.plan.part_name(self.chunk.name, self.index)

    @property
    def nbytes(self) -> int:
        start, end = self.chunk.plan.bounds(self.index)
        return end - start


_Slot: TypeAlias = int
_Ask: TypeAlias = _Slot | _Part  # what one request asks for: the value of a slot, or a part


class Fetching(FetchPipeline[_Ask]):
    """Asks for the values of slots, and for the parts of those that turn out to be striped."""

    def __init__(
        self, equipment: Equipment[Connection], reader: RecordReader, names: Sequence[str], arrivals: Arrivals
    ) -> None:
        super().__init__(equipment, arrivals)
        self._reader = reader
        self._names = names
        self._slots: deque[_Slot] = deque(range(len(names)))
        self._parts: deque[_Part] = deque()
        self._tries: dict[_Slot, int] = {}
        self._typical = 1 << 20

    def unbegun(self) -> int:
        return len(self._parts) + len(self._slots)

    def next_ask(self) -> tuple[_Ask, bytes, int]:
        if self._parts:
            part = self._parts.popleft()
            return part, encode_command(b"GET", part.name.encode()), part.nbytes
        slot = self._slots.popleft()
        return slot, encode_command(b"GET", self._names[slot].encode()), self._typical

    def take(self, connection: Connection, ask: _Ask, outstanding: int) -> Awaitable[int]:
        if isinstance(ask, _Part):
            return self._take_part(connection, ask)
        return self._take_value(connection, ask, outstanding)

    async def _take_value(self, connection: Connection, slot: _Slot, outstanding: int) -> int:
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
        self._parts.extend(_Part(got, index, slot) for index in range(1, got.plan.parts + 1))
        self.hire()
        return 0

    async def _take_part(self, connection: Connection, part: _Part) -> int:
        chunk = part.chunk
        try:
            if not await self._reader.receive_part(connection, chunk, part.index):
                chunk.is_missing_parts = True
        except CorruptRecordError as error:
            chunk.failure = chunk.failure or error
        chunk.left -= 1
        if not chunk.left:
            self._complete(chunk, part.slot)
        return part.nbytes

    def _complete(self, chunk: StripedChunk, slot: _Slot) -> None:
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
