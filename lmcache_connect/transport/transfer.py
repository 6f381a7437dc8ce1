"""`Transfer`: bytes on their way through a stream, in steps that any callback of the loop can take."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from .stream import ByteStream

PIECE_BYTES: Final = 256 << 10
"""What one system call receives and the hash then reads: small enough to be in the CPU's second-level cache still."""

SENT_PIECE_BYTES: Final = 512 << 10
"""The same for sending, where the kernel only reads: measured apart, in `docs/speed.md`."""


BLOCKED: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a system call raises that has to wait for the socket."""

_NOTHING: Final = memoryview(b"")


class Hasher(Protocol):
    """Something that is shown each piece of a payload in order."""

    @property
    def update(self) -> Callable[[memoryview], object]: ...


class Receiving:
    """A buffer that is being filled. Knows where it stands, so that it can go on in any callback."""

    __slots__ = ("dest", "position", "size", "update")

    def __init__(self, dest: memoryview, position: int, hasher: Hasher | None) -> None:
        self.dest = dest
        self.size = len(dest)
        self.position = position
        self.update = hasher.update if hasher is not None else None

    def step(self, stream: ByteStream, turn: int) -> int | None:
        """Fills until complete, and returns the bytes moved; None when `turn` bytes were moved before that."""
        start = position = self.position
        while position < self.size:
            end = min(position + min(PIECE_BYTES, turn), self.size)
            count = stream.receive_piece(self.dest[position:end], end == self.size)
            if self.update is not None:
                self.update(self.dest[position : position + count])
            self.position = position = position + count
            if position - start >= turn and position < self.size:
                return None
        return position - start

    def release(self) -> None:
        """Lets go of the buffer."""
        # A traceback may keep the frames of a failed transfer, and with them this object, but never the buffer.
        self.dest = _NOTHING


class Filling:
    """More protocol bytes, as many as there are."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def step(self, stream: ByteStream, turn: int) -> int | None:
        """Receives once, and returns the bytes moved."""
        return stream.receive_scratch(self.limit)

    def release(self) -> None:
        """Holds no buffer."""


class Sending:
    """A head, a payload that is hashed piece by piece as it goes out, and a tail that may hold the hash."""

    __slots__ = ("hasher", "payload", "pending", "position", "size", "tail", "unhashed")

    def __init__(self, head: bytes, payload: memoryview, hasher: Hasher | None, tail: Callable[[], bytes]) -> None:
        self.payload = payload
        self.size = len(payload)
        self.position = 0
        self.hasher = hasher
        self.tail = tail
        self.pending: list[memoryview] = [memoryview(head)] if head else []
        self.unhashed = _NOTHING
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

    def step(self, stream: ByteStream, turn: int) -> int | None:
        """Sends until complete, and returns the bytes moved; None when `turn` bytes were moved before that."""
        moved = 0
        pending = self.pending
        while pending:
            count = stream.send_pieces(pending)
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

    def release(self) -> None:
        """Lets go of the payload."""
        self.payload = _NOTHING
        self.pending = []
        self.unhashed = _NOTHING


Operation: TypeAlias = Receiving | Filling | Sending


class Transfer:
    """An operation that could not finish at once and goes on in the loop's callbacks."""

    __slots__ = ("future", "operation", "reading", "stream")

    def __init__(self, stream: ByteStream, operation: Operation, reading: bool, future: asyncio.Future[None]) -> None:
        self.stream = stream
        self.operation = operation
        self.reading = reading
        self.future = future

    def go_on(self) -> None:
        """Moves what this turn of the loop allows, and settles the future or registers for the next turn."""
        if self.future.done():
            return
        try:
            finished = self.operation.step(self.stream, self.stream.turns.bytes_each()) is not None
        except BLOCKED as blocked:
            self.stream.wait_for(self, wants_write(blocked, self.reading))
        except Exception as error:
            # Its frames hold slices of the buffer, and whoever keeps the error would keep those.
            self.future.set_exception(error.with_traceback(None))
        else:
            if finished:
                self.future.set_result(None)
            else:
                self.stream.take_turns(self)


def wants_write(blocked: BaseException, reading: bool) -> bool:
    """Whether a blocked operation waits for room to write: TLS may have to write in order to read, and vice versa."""
    if isinstance(blocked, ssl.SSLWantReadError):
        return False
    return isinstance(blocked, ssl.SSLWantWriteError) or not reading
