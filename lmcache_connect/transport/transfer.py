"""`Transfer`: bytes on their way through a wire, in steps. It knows where it stands, so any callback can go on with it.

A transfer knows nothing of event loops and threads. `step(wire, turn)` moves bytes until the transfer is complete, and
returns how many it moved; or returns None, after `turn` bytes, where it is not complete. It raises what the wire raises
and can then be stepped again, if that was one of `BLOCKED`. `release()` lets go of the caller's buffer: a traceback may
keep the frames of a failed call, and with them the transfer, but must not keep the buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from .scratch import HEAD_BYTES, SCRATCH_BYTES
from .wire import Wire

PIECE_BYTES: Final = 256 << 10
"""What one system call receives and the hash then reads: small enough to be in the CPU's second-level cache still."""

SENT_PIECE_BYTES: Final = 512 << 10
"""The same for sending, where the kernel only reads: measured apart, in `docs/speed.md`."""

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


class Sending:
    """Sends a head, a payload that is hashed piece by piece as it goes out, and a tail that may hold the hash.

    Where its owner wants the payload back, it copies what was not sent, and goes on with the copy: a message that was
    begun must be finished, because others have sent theirs behind it.
    """

    __slots__ = ("hasher", "payload", "payload_owner", "pending", "position", "size", "tail", "unhashed")

    def __init__(
        self,
        head: bytes,
        payload: memoryview,
        hasher: Hasher | None,
        tail: Callable[[], bytes],
        payload_owner: PayloadOwner | None = None,
    ) -> None:
        self.payload_owner = payload_owner
        self.payload = payload
        self.size = len(payload)
        self.position = 0
        self.hasher = hasher
        self.tail = tail
        self.pending: list[memoryview] = [memoryview(head)] if head else []
        self.unhashed = NOTHING
        self._next_piece()

    def _next_piece(self) -> None:
        if self.hasher is not None and self.unhashed:
            self.hasher.update(self.unhashed)
        piece = self.unhashed = self.payload[self.position : self.position + SENT_PIECE_BYTES]
        self.position += len(piece)
        if piece:
            self.pending.append(piece)
        if self.position < self.size:
            return  # the kernel reads it first, faster than the hash from memory, which then finds it in the cache
        if self.hasher is not None and piece:
            self.hasher.update(piece)
        if tail := self.tail():
            self.pending.append(memoryview(tail))

    def step(self, wire: Wire, turn: int) -> int | None:
        """See `Transfer`."""
        moved = 0
        while pending := self.pending:
            if self.payload_owner is not None:
                self.recall()
                pending = self.pending
            count = wire.send(pending)
            moved += count
            while pending and count >= len(pending[0]):
                count -= len(pending[0])
                del pending[0]
            if count:
                pending[0] = pending[0][count:]
            if not pending and self.position < self.size:
                self._next_piece()
            if moved >= turn and pending:
                return None
        return moved

    def recall(self) -> None:
        """Hands the payload back, if its owner wants it."""
        owner = self.payload_owner
        if owner is None or not owner.wants_it_back():
            return
        self.payload_owner = None
        if self.position < self.size and self.hasher is not None and self.unhashed:
            self.hasher.update(self.unhashed)
        self.unhashed = NOTHING
        self.payload = memoryview(bytes(self.payload))
        self.pending = [memoryview(bytes(piece)) for piece in self.pending]
        owner.has_it_back()

    def release(self) -> None:
        """Lets go of the payload."""
        self.payload_owner = None
        self.payload = NOTHING
        self.pending = []
        self.unhashed = NOTHING


Transfer: TypeAlias = Receiving | Copying | Filling | Sending
