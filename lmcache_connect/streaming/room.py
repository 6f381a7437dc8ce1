"""Room in the arena for chunks that a get receives, and the line in which gets wait for it.

Room is free memory in the arena. A get needs room for every chunk, and it learns a chunk's size only when the chunk is
on the wire. So it may find the arena full while it already holds room for other chunks and a connection.

The deadlock that this module prevents. Two batched gets do not fit into the arena together. Each has received half of
its chunks and waits for room that only the other can release. In the same way a get that waits for room on a
connection can keep that connection from the get that would finish, and release room, if it had the connection.

The rule. A get that waits for room must hold nothing that another get needs. Each connector has one line (`RoomLine`).
Only the get that is first in line may wait for room and hold room meanwhile, and it uses connections that no other get
uses. Any other get that finds no room releases all its chunks and connections, takes a place in the line, and is
attempted again from the start when it is first.

The order. While a get is first in line, later gets that find room and need far less may take as many bytes as it waits
for, in all (`may_pass`). The others stand in line as well, behind it. So large gets are not starved by small ones. The
memory has a line of its own, with the same rule, for all that allocate there.

The consequence. Batches that do not fit into the arena together are served one after the other, as room appears. What
a get had received before it stood in line is received a second time. A batch that can never fit is answered at once,
with the prefix that fits. So is one that is first in line and has waited for room in vain, `allocate_timeout` seconds.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from ..contract import release_budget_share
from ..errors import AllocationTimeoutError, ArenaExhaustedError, ReleasedObjectError
from ..memory import ChunkMemory, MemoryObj
from ..metadata import ChunkMetadata

T = TypeVar("T")

_AT_A_TIME: Final = 16
"""Chunks that room is made for at a time. The allocator then finds its data in the CPU's cache, from which every chunk
that is received displaces them."""


_MOVES: Final = 0.1
"""Seconds after a get has left the line in which the line counts as moving."""

_SMALL: Final = 8
"""How many times as much the first in line must wait for as a get that passes it takes."""

_MOMENT: Final = 0.2
"""How long a get that is not first in line waits for room that it has released itself, in seconds."""


class NoRoomError(Exception):
    """The arena is full, and the get is not first in line: it must release what it holds before it waits."""

    def __init__(self, requested: int) -> None:
        super().__init__(requested)
        self.requested: Final = requested


class RoomLine:
    """The gets of one connector that found the arena full. The first of them waits for room, the others wait for it."""

    def __init__(self, backend: ChunkMemory, allocate_timeout: float) -> None:
        """`allocate_timeout`: seconds that a get waits in a line that does not move, and for room for each chunk."""
        self.backend: Final = backend
        self.allocate_timeout: Final = allocate_timeout
        self._first: PlaceInLine | None = None
        self._waiting: Final[deque[tuple[PlaceInLine, asyncio.Future[None], int]]] = deque()
        self._moved_at = 0.0
        self._coming: Final[dict[PlaceInLine, int]] = {}
        """Gets that have found no room, and do not stand in line yet, and what they have found no room for."""
        self._requested = 0
        """Bytes that the first in line has found no room for."""
        self._passed = 0
        """Bytes that others have taken since it is first."""

    @property
    def is_empty(self) -> bool:
        """Whether no get waits."""
        return self._first is None and not self._coming

    def new_place(self) -> PlaceInLine:
        """Returns the place of a get that is attempted once, outside of the line: see `forget`."""
        return PlaceInLine(self)

    def forget(self, place: PlaceInLine) -> None:
        """Told that a get with a place from `new_place` has failed. From any thread."""
        self._coming.pop(place, None)

    async def serve(self, attempt: Callable[..., Awaitable[T]], *args: object, expected: int = 0) -> T:
        """Returns what `attempt(place, *args)` returns.

        Calls it a second time if it found no room, when it is first in line.

        Where the line moves, a get that probably brings `expected` bytes stands in it before its first attempt. Where
        it does not, that would keep back an answer that needs no room.

        `attempt` is one try at a get. It takes its memory from `place.new_room()`, and releases all of it before it
        raises. When `place.is_first`, it must use connections that no other get uses.

        Raises:
            AllocationTimeoutError: another was first in line for `allocate_timeout` seconds.
            What `attempt` raises, except `NoRoomError`.
        """
        place = PlaceInLine(self)
        if self._first is not None and time.monotonic() - self._moved_at < _MOVES and not self.may_pass(expected):
            await place.wait_until_first(expected)
        try:
            while True:
                try:
                    return await attempt(place, *args)
                except NoRoomError as full:
                    requested = full.requested
                # Outside the handler, so that the failed attempt's frames hold nothing while this get waits.
                await place.wait_until_first(requested)
        finally:
            self._coming.pop(place, None)
            place.leave()

    def found_none(self, place: PlaceInLine, requested: int) -> None:
        """Told that a get has found no room. From now on others behind it find none either. From any thread."""
        self._coming[place] = requested

    async def wait_until_first(self, place: PlaceInLine, requested: int) -> None:
        """See `PlaceInLine.wait_until_first`."""
        self._coming.pop(place, None)
        if self._first is None:
            self._begin(place, requested)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((place, granted, requested))
        began = time.monotonic()
        try:
            while not granted.done():
                left = max(self._moved_at, began) + self.allocate_timeout - time.monotonic()
                if left <= 0:
                    now = self.backend.statistics()
                    waited = time.monotonic() - began
                    raise AllocationTimeoutError(requested, now.capacity - now.reserved, now.capacity, waited)
                await asyncio.wait((granted,), timeout=left)
        except BaseException:
            if granted.done():
                self.leave(place)
            else:
                self._waiting.remove((place, granted, requested))
            raise

    def leave(self, place: PlaceInLine) -> None:
        """The next get is first, if this one was."""
        if self._first is not place:
            return
        self._first = None
        self._moved_at = time.monotonic()
        if self._waiting:
            following, granted, requested = self._waiting.popleft()
            self._begin(following, requested)
            granted.set_result(None)

    def may_pass(self, nbytes: int) -> bool:
        """Whether a get that stands in no line may take room of `nbytes`. It counts as taken. Thread-safe enough.

        Small ones may take as much as the first in line waits for, in all.
        """
        if self._first is None:
            return not self._coming or not any(nbytes * _SMALL > requested for requested in [*self._coming.values()])
        if nbytes * _SMALL > self._requested or self._passed + nbytes > self._requested:
            return False
        self._passed += nbytes
        return True

    def _begin(self, place: PlaceInLine, requested: int) -> None:
        self._first = place
        self._requested = requested
        self._passed = 0


class PlaceInLine:
    """Where one get stands: not in the line, waiting in it, or first in it."""

    __slots__ = ("is_first", "line")

    def __init__(self, line: RoomLine) -> None:
        self.line: Final = line
        self.is_first = False
        """Whether this get may wait for room."""

    async def wait_until_first(self, requested: int) -> None:
        """Waits until this get is first in line. `requested`: the bytes that it found no room for.

        Raises:
            AllocationTimeoutError: another one was first for `allocate_timeout` seconds.
        """
        if self.is_first:
            return
        # An operation that would release room may wait for this share. The first in line moves its bytes beside it.
        release_budget_share()
        await self.line.wait_until_first(self, requested)
        self.is_first = True

    def leave(self) -> None:
        """Leaves the line, so that the next get is first. Idempotent."""
        if self.is_first:
            self.is_first = False
            self.line.leave(self)

    def new_room(self) -> Room:
        """Returns an empty `Room` for one attempt."""
        return Room(self, self.line.backend, self.line.allocate_timeout)


class Room:
    """Memory for the chunks of one attempt at a get."""

    __slots__ = (
        "_allocate_timeout",
        "_at_a_time",
        "_awaited",
        "_backend",
        "_is_filled_up",
        "_is_short",
        "_lock",
        "_made",
        "_parts",
        "_place",
        "_spare",
        "_spare_metadata",
        "_whole",
    )

    def __init__(
        self, place: PlaceInLine, backend: ChunkMemory, allocate_timeout: float, whole: Room | None = None
    ) -> None:
        self._whole = whole
        self._parts: list[Room] | None = None  # made when needed: each object costs a small get
        self._place = place
        self._backend = backend
        self._allocate_timeout = allocate_timeout
        self._made: list[MemoryObj] = []  # chunks that are being received or did not verify are among them
        self._awaited = 0
        self._lock = threading.Lock()  # for `_spare`: several threads may serve one get
        self._spare: list[MemoryObj] | None = None
        self._spare_metadata: ChunkMetadata | None = None
        self._at_a_time = 1  # grows while chunks of the same metadata come
        self._is_short = self._is_filled_up = False

    @property
    def is_short(self) -> bool:
        """Whether it was found that not all chunks fit. Then none is waited for: the batch brings what fits."""
        return (self._whole or self)._is_short

    @is_short.setter
    def is_short(self, value: bool) -> None:
        (self._whole or self)._is_short = value

    @property
    def is_filled_up(self) -> bool:
        """Whether room that was released just now is made again. A thread's frame may hold it for a moment."""
        return (self._whole or self)._is_filled_up

    @is_filled_up.setter
    def is_filled_up(self, value: bool) -> None:
        (self._whole or self)._is_filled_up = value

    def part(self, slots: Sequence[int]) -> Room:
        """Returns room for some of the attempt's slots. What it makes counts as made here. On the event loop."""
        root = self._whole or self  # also for a part of a part: all of them count together
        part = Room(self._place, self._backend, self._allocate_timeout, root)
        if root._parts is None:
            root._parts = []
        root._parts.append(part)
        return part

    async def make(self, metadata: ChunkMetadata, slot: int = 0) -> MemoryObj:
        """Returns memory for a chunk whose payload is on the wire, with one reference. Waits for room if need be.

        The same memory would do for any `slot`.

        The reference is the caller's if the attempt succeeds. If it fails, `release` drops it. If this raises, the
        caller takes the payload off the wire, or closes the connection.

        Raises:
            NoRoomError: there is no room now, and the get is not first in line.
            ArenaExhaustedError: the batch does not fit into the arena, so waiting would not help, or `is_short`.
            AllocationTimeoutError: nobody released enough room within `allocate_timeout` seconds.
        """
        may_take = self._may_take(metadata.nbytes)
        obj = self._backend.allocate_chunk(metadata) if may_take else None
        if obj is None and self._spare:
            self.release_spare()
            obj = self._backend.allocate_chunk(metadata) if may_take else None
        if obj is None:
            if not may_take:
                raise self._no_room(metadata.nbytes)  # what is free is for those who wait
            if not self.is_filled_up:
                self._check_that_waiting_helps(metadata.nbytes)
            obj = await self._wait(metadata)
        self._made.append(obj)
        return obj

    def make_now(self, metadata: ChunkMetadata, expected: int, slot: int = 0) -> MemoryObj | None:
        """Returns memory for a chunk, as `make` does, or None if there is no room now.

        `expected`: how many chunks of the same metadata object will come, this one included. Room for some of them is
        made at the same time: for more each time, as long as the chunks are alike. A get that is first in line makes
        room for this one alone, because another connection of the call may be waiting for what would lie there unused.
        """
        spare = self._spare
        if not spare and expected == 1:
            obj = self._backend.allocate_chunk(metadata) if self._may_take(metadata.nbytes) else None
            if obj is not None:
                self._made.append(obj)
            return obj
        with self._lock:
            obj = self._take_spare(metadata, expected)
        if obj is not None:
            self._made.append(obj)
        return obj

    def _take_spare(self, metadata: ChunkMetadata, expected: int) -> MemoryObj | None:
        spare = self._spare
        if spare is None:
            spare = self._spare = []
        if not spare or spare[-1].metadata is not metadata:
            self._release_spare()
            self._at_a_time = min(2 * self._at_a_time, _AT_A_TIME) if metadata is self._spare_metadata else 1
            self._spare_metadata = metadata
            count = 1 if self._place.is_first else min(expected, self._at_a_time)
            if not self._may_take(count * metadata.nbytes):
                return None
            for _ in range(count):
                made = self._backend.allocate_chunk(metadata, eviction=not spare)
                if made is None:
                    break
                spare.append(made)
        return spare.pop() if spare else None

    def release_spare(self) -> None:
        """Releases room that was made for expected chunks, and that none has come for."""
        if self._spare:
            with self._lock:
                self._release_spare()

    def _release_spare(self) -> None:
        while self._spare:
            self._spare.pop().ref_count_down()

    def release(self) -> None:
        """Releases everything: the attempt has failed, and nothing is received any more.

        A chunk that its receiver has released already, because it did not verify, is left alone.
        """
        for part in self._parts or ():
            part.release()
        self.release_spare()
        for obj in self._made:
            if obj.is_valid():
                obj.ref_count_down()
        self._made.clear()

    @property
    def made(self) -> int:
        """How many chunks were made here, and not by a part."""
        return len(self._made)

    def release_since(self, made: int, kept: Sequence[object]) -> None:
        """Releases what was made here after the first `made` chunks, except for those in `kept`."""
        self.release_spare()
        wanted = {id(obj) for obj in kept}
        since = self._made[made:]
        self._made[made:] = [obj for obj in since if id(obj) in wanted]
        for obj in since:
            if id(obj) not in wanted and obj.is_valid():
                obj.ref_count_down()

    def _held_bytes(self) -> int:
        held = 0
        for obj in [*self._made, *(obj for part in self._parts or () for obj in part._made)]:
            try:
                held += obj.get_physical_size()
            except ReleasedObjectError:  # by its receiver, because it did not verify: perhaps by another thread now
                continue
        return held

    def _may_take(self, nbytes: int) -> bool:
        """Whether this get may take room now. One that is first in line holds room already, and is to finish."""
        place = self._place
        return place.is_first or (place.line.may_pass(nbytes) and self._backend.may_pass(nbytes))

    def _check_that_waiting_helps(self, nbytes: int) -> None:
        now = self._backend.statistics()
        if nbytes > (limit := self._backend.chunk_limit()):
            raise ArenaExhaustedError(nbytes, now.capacity - now.reserved, limit)
        whole = self._whole or self
        held = whole._held_bytes()
        # What other connections of the call wait for counts as held: it stays until the attempt has ended. So the last
        # member that asks for more than there can be is refused. Otherwise all of them would wait for one another.
        is_alone = held and now.reserved <= held
        if self.is_short or is_alone or nbytes > now.capacity - held - whole._awaited:
            raise ArenaExhaustedError(
                nbytes,
                now.capacity - now.reserved,
                now.capacity,
                "the batch itself holds all the rest, so ask for fewer keys at a time"
                if held or whole._awaited
                else "",
            )
        if not self._place.is_first:
            raise self._no_room(nbytes)

    def _no_room(self, nbytes: int) -> NoRoomError:
        self._place.line.found_none(self._place, nbytes)
        return NoRoomError(nbytes)

    async def _wait(self, metadata: ChunkMetadata) -> MemoryObj:
        whole = self._whole or self
        whole._awaited += metadata.nbytes
        try:
            timeout = min(_MOMENT, self._allocate_timeout) if self.is_filled_up else self._allocate_timeout
            return await self._backend.allocate_chunk_async(metadata, timeout=timeout)
        finally:
            whole._awaited -= metadata.nbytes
