"""`Stream`: what protocol code reads and writes. One body of code serves both kinds of stream.

`LoopStream` moves bytes on an event loop, `ThreadStream` in a thread. A thread stream's coroutines never suspend, so
the same protocol code runs there without an event loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from .scratch import HEAD_BYTES, SCRATCH_BYTES, Scratch
from .transfer import (
    COPIED_BYTES,
    Copying,
    Filling,
    Hasher,
    PayloadOwner,
    Receiving,
    Scattering,
    Sending,
    Transfer,
)
from .wire import StreamClosedError, StreamStalledError, Wire


class Stream(ABC):
    """A connection as a stream of bytes. One reader and one writer at a time.

    No copy is made of a payload: the kernel writes it into the caller's buffer and reads it from there, and each piece
    is hashed while the CPU's cache still holds it.

    A call that fails or is cancelled closes the stream, because the place where the next message begins is lost. From
    then on nothing here touches the caller's buffer. All methods that wait raise `StreamClosedError` where the
    connection is closed or ends.
    """

    __slots__ = ("_limited", "_scratch", "payload_owner", "peer", "waits")

    _waits_in_kernel: ClassVar = False
    """Whether a call that receives may wait until its buffers are full."""

    def __init__(self, scratch: Scratch, peer: str, limited: Wire | None = None) -> None:
        """`limited`: the wire whose peer may be silent for so long and no longer, where there is one."""
        self._scratch = scratch
        self._limited = limited
        self.peer = peer
        self.payload_owner: PayloadOwner | None = None
        """Whose payloads are sent from now on. None: nobody wants them back before they are sent."""
        self.waits = 0
        """How often a task had to wait for it: for the socket, or for the loop's other work."""

    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, as `ssl` tells it; {} where it was not verified, and None without TLS."""
        return None if self._limited is None else self._limited.peer_certificate()

    # ------------------------------------------------------------------------------------------------- receiving

    @property
    def buffered(self) -> int:
        """The number of bytes that were received and not taken."""
        return len(self._scratch)

    def buffered_view(self) -> memoryview:
        """Returns the bytes that were received and not taken. The view is valid until the next call."""
        return self._scratch.view[self._scratch.start : self._scratch.stop]

    async def read_until_crlf(self, limit: int = 4096) -> bytes:
        """Takes the next line. Returns it without its CR LF. Reads up to `HEAD_BYTES` ahead: a header may follow.

        Raises:
            StreamClosedError: no CR LF came within `limit` bytes, or the connection ended.
        """
        scratch = self._scratch
        searched = 0
        while (line := scratch.take_line(searched)) is None:
            buffered = len(scratch)
            if buffered >= limit:
                self.close()
                raise StreamClosedError(f"{self.peer} sent a line of more than {limit} bytes")
            searched = max(buffered - 1, 0)
            await self._receive_more(HEAD_BYTES)
        return line

    async def peek(self, nbytes: int) -> memoryview:
        """Waits for `nbytes` bytes, at most `SCRATCH_BYTES`. Returns them without taking them.

        The view is valid until the next call.
        """
        scratch = self._scratch
        while (buffered := len(scratch)) < nbytes:
            await self._receive_more(max(HEAD_BYTES, nbytes - buffered))
        return scratch.view[scratch.start : scratch.start + nbytes]

    async def peek_available(self, at_least: int) -> memoryview:
        """Waits for `at_least` bytes. Returns all that were received, without taking them.

        The view is valid until the next call.
        """
        while len(self._scratch) < at_least:
            await self._receive_more(SCRATCH_BYTES)
        return self.buffered_view()

    def take(self, nbytes: int) -> None:
        """Takes `nbytes` bytes, which were seen before."""
        self._scratch.start += nbytes

    async def read_some(self, limit: int) -> bytes:
        """Takes 1 to `limit` bytes, as soon as there are any. Returns them, or b"" when the peer has closed.

        Raises:
            StreamStalledError: the peer was silent for too long.
        """
        scratch = self._scratch
        if not scratch:
            try:
                await self._receive_more(min(limit, SCRATCH_BYTES))
            except StreamStalledError:
                raise
            except StreamClosedError:
                return b""
        taken = bytes(scratch.view[scratch.start : min(scratch.stop, scratch.start + limit)])
        scratch.start += len(taken)
        return taken

    async def discard(self, nbytes: int) -> None:
        """Receives `nbytes` bytes and forgets them."""
        while nbytes:
            if not self._scratch:
                await self._receive_more(min(nbytes, SCRATCH_BYTES))
            taken = min(nbytes, len(self._scratch))
            self._scratch.start += taken
            nbytes -= taken

    async def receive_into(self, dest: memoryview, hasher: Hasher | None = None) -> None:
        """Fills `dest` completely, and shows each piece to `hasher`.

        Raises:
            StreamClosedError: the connection ended before. `dest` then holds arbitrary bytes.
        """
        filled = self._scratch.take_into(dest)
        if filled and hasher is not None:
            hasher.update(dest[:filled])
        if filled == len(dest):
            return
        is_small = len(dest) - filled <= COPIED_BYTES
        transfer = Copying(dest, filled, hasher) if is_small else Receiving(dest, filled, hasher)
        del dest  # a kept traceback keeps this frame, and must not keep the buffer
        await self._move(transfer, reading=True)

    def receive_into_all(self, dests: Sequence[memoryview], hasher: Hasher | None = None) -> Awaitable[None]:
        """Fills several buffers, one after the other, as `receive_into` fills one. A system call fills several."""
        if len(dests) == 1:
            return self.receive_into(dests[0], hasher)
        return self._scatter(Scattering(dests, hasher, waits=self._waits_in_kernel))

    async def _scatter(self, transfer: Scattering) -> None:
        transfer.fill_from(self._scratch)
        if transfer.left:
            await self._move(transfer, reading=True)
        else:
            transfer.release()

    async def _receive_more(self, limit: int) -> None:
        space = self._scratch.make_space(limit)
        await self._move(Filling(min(limit, space)), reading=True)

    # --------------------------------------------------------------------------------------------------- sending

    async def send(self, data: bytes) -> None:
        """Sends all of `data`."""
        await self._move(Sending(data, (), None, bytes), reading=False)

    async def send_pieces(self, pieces: list[memoryview]) -> None:
        """Sends buffers straight from their memory, many by one system call. Takes the list over.

        Raises:
            StreamClosedError: the connection ended before. The peer may have received any part of it.
        """
        transfer = Sending.of(pieces, self.payload_owner)
        del pieces  # a kept traceback keeps this frame, and must not keep the buffers
        await self._move(transfer, reading=False)

    async def send_framed(
        self, head: bytes, payload: Sequence[memoryview], hasher: Hasher | None, tail: Callable[[], bytes]
    ) -> None:
        """Sends `head`, then the buffers of `payload` straight from their memory, then `tail()`.

        Each piece of the payload is shown to `hasher`. `tail` is called when the hasher has seen all of them.

        Raises:
            StreamClosedError: the connection ended before. The peer may have received any part of it.
        """
        transfer = Sending(head, payload, hasher, tail, self.payload_owner)
        del payload  # a kept traceback keeps this frame, and must not keep the buffer
        await self._move(transfer, reading=False)

    # -------------------------------------------------------------------------------------------------- silence

    @contextmanager
    def answering_within(self, seconds: float) -> Iterator[None]:
        """For the length of the block, the peer may be silent for `seconds`, where that is more than `stall_timeout`.

        For an answer that the peer has to work for, when it has received the request whole. While bytes of the request
        are still on their way, `stall_timeout` holds.
        """
        wire = self._limited
        if wire is None or wire.silence_limit is None:
            yield
            return
        before = wire.silence_limit
        wire.silence_limit = max(seconds, before)
        try:
            yield
        finally:
            wire.silence_limit = before

    # ------------------------------------------------------------------------------------- what the two do apart

    def recall(self) -> bool:
        """Hands the payload that is being sent back to its owner, who wants it. False: a thread does that, soon."""
        return False

    @abstractmethod
    async def _move(self, transfer: Transfer, *, reading: bool) -> None:
        """Steps a transfer to its end, and releases it."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether this end of the connection is open."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection at once. Idempotent. A call that waits on this stream fails."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.peer}, {'open' if self.is_open else 'closed'}>"
