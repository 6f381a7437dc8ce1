"""`Fetching`: the chunks of one get or batched get, from the store into the arena."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from lmcache_connect import FrameError
from lmcache_connect.connector import Slots

from .connection import Connection
from .patience import Waiting
from .pool import ConnectionPool
from .records import RecordIO, StripedChunk
from .replies import encode_command
from .schedule import TURN_BYTES, WINDOW_BYTES, WINDOW_REPLIES, Schedule

_HEAD_TRIES: Final = 3
"""How often a head is read because its parts were replaced while they were being read."""

_Part = tuple[StripedChunk, int, int]  # the chunk, the part's index, the slot


class Fetching(Schedule):
    """After `run()`: `found` has a slot per name, and `corrupt` the error of every slot that did not verify."""

    def __init__(
        self, pool: ConnectionPool, records: RecordIO, workers: int, names: Sequence[str], waiting: Waiting
    ) -> None:
        super().__init__(pool, records, workers)
        self._waiting_for_room = waiting
        self.found: Slots = [None] * len(names)
        self.corrupt: dict[int, FrameError] = {}
        self._names = names
        self._slots = deque(range(len(names)))
        self._parts: deque[_Part] = deque()
        self._left = len(names)
        self._chunks: set[StripedChunk] = set()
        self._tries: dict[int, int] = {}
        self._typical = 1 << 20

    def waiting(self) -> int:
        return len(self._parts) + len(self._slots)

    async def serve(self, connection: Connection) -> None:
        asked: deque[int | _Part] = deque()
        reckoned: deque[int] = deque()  # bytes reckoned for each
        ahead = moved = 0
        while True:
            if ahead <= WINDOW_BYTES // 2 and (moved < TURN_BYTES or not self._pool.waiting):
                commands = []
                while ahead < WINDOW_BYTES and len(asked) < WINDOW_REPLIES and self.waiting():
                    ask, name, size = self._next()
                    asked.append(ask)
                    reckoned.append(size)
                    ahead += size
                    commands.append(encode_command(b"GET", name.encode()))
                if commands:
                    await connection.send(b"".join(commands), replies=len(commands))
            if not asked:
                return
            ask = asked.popleft()
            expected = reckoned.popleft()
            take = self._take_value(connection, ask) if isinstance(ask, int) else self._take_part(connection, ask)
            moved += await take
            ahead -= expected

    def _next(self) -> tuple[int | _Part, str, int]:
        if self._parts:
            part = self._parts.popleft()
            chunk, index, _ = part
            return part, chunk.plan.part_name(chunk.name, index), self._size(part)
        slot = self._slots.popleft()
        return slot, self._names[slot], self._typical

    def _size(self, ask: int | _Part) -> int:
        if isinstance(ask, int):
            return self._typical
        start, end = ask[0].plan.bounds(ask[1])
        return end - start

    async def _take_value(self, connection: Connection, slot: int) -> int:
        try:
            got = await self._records.receive(connection, self._names[slot], self._before_waiting)
        except FrameError as error:
            self.corrupt[slot] = error
            self._settle()
            return 0
        if not isinstance(got, StripedChunk):
            self.found[slot] = got
            self._settle()
            if got is None:
                return 0
            self._typical = got.get_size()
            return self._typical
        self._chunks.add(got)
        self._typical = 1 << 10  # heads are small, and their parts count by themselves
        self._parts.extend((got, index, slot) for index in range(1, got.plan.parts + 1))
        self.hire()
        return 0

    def _before_waiting(self, requested: int) -> None:
        held = [obj for obj in self.found if obj is not None] + [chunk.obj for chunk in self._chunks]
        self._waiting_for_room.check(requested, sum(obj.get_physical_size() for obj in held))

    async def _take_part(self, connection: Connection, part: _Part) -> int:
        chunk, index, slot = part
        try:
            if not await self._records.receive_part(connection, chunk, index):
                chunk.is_missing_parts = True
        except FrameError as error:
            chunk.failure = chunk.failure or error
        chunk.left -= 1
        if not chunk.left:
            self._complete(chunk, slot)
        return self._size(part)

    def _complete(self, chunk: StripedChunk, slot: int) -> None:
        self._chunks.discard(chunk)
        if chunk.failure is None and not chunk.is_missing_parts:
            self.found[slot] = chunk.obj
            self._settle()
            return
        chunk.obj.ref_count_down()
        tries = self._tries[slot] = self._tries.get(slot, 0) + 1
        if chunk.failure is None and tries < _HEAD_TRIES:
            # Another writer may have replaced the chunk and removed these parts; its head then names others.
            self._slots.appendleft(slot)
            self.hire()
            return
        self.corrupt[slot] = chunk.failure or FrameError("parts", "the store does not hold all parts of the chunk")
        self._settle()

    def _settle(self) -> None:
        self._left -= 1
        if not self._left:
            self.finish_early()

    def release(self) -> None:
        """Gives back everything: the call failed or was cancelled."""
        for chunk in self._chunks:
            chunk.obj.ref_count_down()
        self._chunks.clear()
        for obj in self.found:
            if obj is not None:
                obj.ref_count_down()
