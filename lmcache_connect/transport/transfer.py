"""`Transfer`: bytes on their way through a wire, in steps. It knows where it stands, so any callback can go on with it.

A transfer knows nothing of event loops and threads. `step(wire, turn)` moves bytes until the transfer is complete, and
returns how many it moved; or returns None, after `turn` bytes, where it is not complete. It raises what the wire raises
and can then be stepped again, if that was one of `BLOCKED`. `release()` lets go of the caller's buffer: a traceback may
keep the frames of a failed call, and with them the transfer, but must not keep the buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from .row import MAX_BUFFERS, Row
from .scratch import HEAD_BYTES, SCRATCH_BYTES, Scratch
from .wire import Wire

PIECE_BYTES: Final = 256 << 10
"""What one system call receives and the hash then reads: small enough to be in the CPU's second-level cache still."""

SENT_PIECE_BYTES: Final = 2 << 20
"""The same for sending, less where a turn is less. The hash comes second there, and is as fast out of the CPU's
third-level cache: see `docs/speed.md`."""

_LEAST_PIECE_BYTES: Final = 64 << 10
"""The same where hardly anything is left of a turn."""

COPIED_BYTES: Final = 16 << 10
"""What is received through the scratch, several replies by one system call: copying as much costs less than a call."""

NOTHING: Final = memoryview(b"")
"""What takes the place of a buffer that was let go."""


class Hasher(Protocol):
    """Something that is shown each piece of a payload in order."""

    @property
    def update(self) -> Callable[[memoryview], object]: ...


class Receiving:
    """Fills a buffer, and shows each piece to a hash while the CPU's cache still holds it."""

    __slots__ = ("dest", "position", "size", "update")

    def __init__(self, dest: memoryview, position: int, hasher: Hasher | None) -> None:
        """The first `position` bytes of `dest` are filled already."""
        self.dest = dest
        self.size = len(dest)
        self.position = position
        self.update = hasher.update if hasher is not None else None

    def step(self, wire: Wire, turn: int) -> int | None:
        """See `Transfer`."""
        start = position = self.position
        while position < self.size:
            end = min(position + min(PIECE_BYTES, turn), self.size)
            count = wire.receive_piece(self.dest[position:end], HEAD_BYTES if end == self.size else 0)
            if self.update is not None:
                self.update(self.dest[position : position + count])
            self.position = position = position + count
            if position - start >= turn and position < self.size:
                return None
        return position - start

    def release(self) -> None:
        """Lets go of the buffer."""
        self.dest = NOTHING


class Copying:
    """Fills a small buffer out of the scratch, into which it receives as much as there is: further replies, too."""

    __slots__ = ("dest", "position", "update")

    def __init__(self, dest: memoryview, position: int, hasher: Hasher | None) -> None:
        """The first `position` bytes of `dest` are filled already. The scratch is empty."""
        self.dest = dest
        self.position = position
        self.update = hasher.update if hasher is not None else None

    def step(self, wire: Wire, turn: int) -> int | None:
        """See `Transfer`."""
        moved = 0
        scratch = wire.scratch
        size = len(self.dest)
        while self.position < size:
            moved += wire.receive_scratch(scratch.make_space(SCRATCH_BYTES))
            start = self.position
            rest = self.dest[start:]
            count = scratch.take_into(rest)
            if self.update is not None:
                self.update(rest[:count])
            self.position = start + count
        return moved

    def release(self) -> None:
        """Lets go of the buffer."""
        self.dest = NOTHING


class Scattering(Row):
    """Fills several buffers, as `Receiving` and `Copying` fill one: what is small comes through the scratch."""

    __slots__ = ("_is_small", "_update", "_waits")

    def __init__(self, dests: Sequence[memoryview], hasher: Hasher | None, *, waits: bool) -> None:
        """`waits`: whether a call waits in the kernel for a whole piece, as a thread's does."""
        super().__init__(dests)
        self._update = hasher.update if hasher is not None else None
        self._waits = waits
        self._is_small = self.left <= COPIED_BYTES

    def step(self, wire: Wire, turn: int) -> int | None:
        """See `Transfer`. The scratch is empty where there is something left."""
        moved = 0
        while self.left:
            pieces = self.peek(min(PIECE_BYTES, turn))
            size = sum(map(len, pieces))
            if self._is_small or (len(pieces) == MAX_BUFFERS and size <= COPIED_BYTES):
                moved += wire.receive_scratch(wire.scratch.make_space(SCRATCH_BYTES))
                self.fill_from(wire.scratch)
            else:
                ahead = HEAD_BYTES if size == self.left else 0
                count = wire.receive_pieces(pieces, size, ahead, whole=self._waits and not ahead)
                moved += count
                self._filled(pieces, count)
            if moved >= turn and self.left:
                return None
        return moved

    def fill_from(self, scratch: Scratch) -> None:
        """Moves the bytes that were received already, as many as fit."""
        while scratch and self.left:
            pieces = self.peek(len(scratch))
            self._filled(pieces, sum([scratch.take_into(piece) for piece in pieces]))

    def _filled(self, pieces: Sequence[memoryview], count: int) -> None:
        self.skip(count)
        if self._update is None:
            return
        for piece in pieces:
            if count < len(piece):
                if count:
                    self._update(piece[:count])
                return
            self._update(piece)
            count -= len(piece)


class Filling:
    """Receives protocol bytes, as many as there are."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def step(self, wire: Wire, turn: int) -> int | None:
        """See `Transfer`. One call is enough."""
        return wire.receive_scratch(self.limit)

    def release(self) -> None:
        """Holds no buffer."""


class PayloadOwner(Protocol):
    """Whose payload is being sent."""

    def wants_it_back(self) -> bool:
        """Whether the payload's memory must not be read any more. Asked by the loop or thread that moves the bytes."""
        ...

    def has_it_back(self) -> None:
        """Told that nothing reads it any more: what was not sent goes out from a copy."""


class Sending(Row):
    """Sends a head, a payload that is hashed piece by piece as it goes out, and a tail that may hold the hash.

    The payload lies in one buffer or in several. Where its owner wants it back, what was not sent is copied, and goes
    out from the copy: a message that was begun must be finished, because others have sent theirs behind it.
    """

    __slots__ = ("_has_begun", "hasher", "payload_owner", "pending", "tail", "unhashed")

    def __init__(
        self,
        head: bytes,
        payload: Sequence[memoryview],
        hasher: Hasher | None,
        tail: Callable[[], bytes],
        payload_owner: PayloadOwner | None = None,
    ) -> None:
        super().__init__(payload)
        self.payload_owner = payload_owner
        self.hasher = hasher
        self.tail = tail
        self.pending: list[memoryview] = [memoryview(head)] if head else []
        self.unhashed: Sequence[memoryview] = ()
        self._has_begun = False

    @classmethod
    def of(cls, pieces: list[memoryview], payload_owner: PayloadOwner | None) -> Sending:
        """Sends buffers, one after the other, that need no hash any more. Takes the list over."""
        sending = cls(b"", (), None, bytes, payload_owner)
        sending.pending = pieces
        return sending

    def _next_piece(self, limit: int) -> None:
        self._hash()
        pieces = self.unhashed = self.peek(min(max(limit, _LEAST_PIECE_BYTES), SENT_PIECE_BYTES))
        self.skip(sum(map(len, pieces)))
        self.pending += pieces
        if self.left:
            return  # the kernel reads it first, faster than the hash from memory, which then finds it in the cache
        self._hash()
        if tail := self.tail():
            self.pending.append(memoryview(tail))

    def _hash(self) -> None:
        pieces, self.unhashed = self.unhashed, ()
        if self.hasher is not None:
            for piece in pieces:
                self.hasher.update(piece)

    def step(self, wire: Wire, turn: int) -> int | None:
        """See `Transfer`."""
        moved = 0
        if not self._has_begun:  # what goes ahead of the payload leaves with its first piece
            self._has_begun = True
            self._next_piece(turn)
        while pending := self.pending:
            if self.payload_owner is not None:
                self.recall()
                pending = self.pending
            count = wire.send(pending if len(pending) <= MAX_BUFFERS else pending[:MAX_BUFFERS])
            moved += count
            while pending and count >= len(pending[0]):
                count -= len(pending[0])
                del pending[0]
            if count:
                pending[0] = pending[0][count:]
            if not pending and self.left:
                self._next_piece(turn)
            if moved >= turn and pending:
                return None
        return moved

    def recall(self) -> None:
        """Hands the payload back, if its owner wants it."""
        owner = self.payload_owner
        if owner is None or not owner.wants_it_back():
            return
        self.payload_owner = None
        self._hash()
        self.copy_rest()
        self.pending = [memoryview(bytes(piece)) for piece in self.pending]
        owner.has_it_back()

    def release(self) -> None:
        """Lets go of the payload."""
        super().release()
        self.payload_owner = None
        self.pending = []
        self.unhashed = ()


Transfer: TypeAlias = Receiving | Copying | Scattering | Filling | Sending
