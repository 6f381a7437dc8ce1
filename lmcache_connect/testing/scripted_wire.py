"""`ScriptedWire`: a connection without a socket, for tests of protocol code.

What the peer sends is a script, and what this end sends is recorded::

    wire = ScriptedWire(b"$5\\r\\nhel", BlockingIOError(), b"lo\\r\\n", b"")
    connection = Connection(wire.thread_stream())
    ...
    assert wire.sent == b"*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\nk\\r\\n"
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy
from typing import cast

from ..transport import LoopStream, ThreadStream, Wire


class ScriptedWire(Wire):
    """A wire whose peer follows a script.

    Each piece of the script is what one system call meets:

    * bytes: the call receives them, or as many as it has room for; the next call gets the rest;
    * `b""`: the peer has closed the connection; this is the last piece;
    * an `OSError`: the call raises it. `BlockingIOError()` stands for a socket that is not ready: the event loop calls
      again in its next iteration, and a thread's call goes on to the next piece.

    `sends` does the same for the calls that send: a number is how many bytes the call sends at most, an `OSError` is
    raised. Later calls send everything.

    A call that receives after the end of the script raises AssertionError: the code under test asked for more than the
    peer has to say, where a real peer would make it wait for ever.
    """

    __slots__ = ("_script",)

    def __init__(self, *pieces: bytes | OSError, sends: Iterable[int | OSError] = (), peer: str = "the script") -> None:
        self._script = _ScriptedSocket(pieces, sends)
        super().__init__(cast(socket.socket, self._script), peer)

    @property
    def sent(self) -> bytes:
        """All bytes that this end has sent."""
        return bytes(self._script.sent)

    @property
    def is_done(self) -> bool:
        """Whether everything in the script was received."""
        return not any(isinstance(piece, OSError) or piece for piece in self._script.pieces)

    def loop_stream(self) -> LoopStream:
        """Returns a stream over this wire for the running event loop. To be closed by the test."""
        return LoopStream(self, asyncio.get_running_loop())

    def thread_stream(self) -> ThreadStream:
        """Returns a stream over this wire whose coroutines never suspend, so a test needs no event loop."""
        return ThreadStream(self)

    def _is_readable(self) -> bool:
        return bool(self._script.pieces)


class _ScriptedSocket:
    """The part of `socket.socket` that a wire uses."""

    def __init__(self, pieces: Iterable[bytes | OSError], sends: Iterable[int | OSError]) -> None:
        self.pieces: deque[bytes | OSError] = deque(pieces)
        self.sends = deque(sends)
        self.sent = bytearray()
        self._is_blocking = False
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def recv_into(self, dest: memoryview, nbytes: int = 0, flags: int = 0) -> int:
        filled = 0
        while received := self._receive(len(dest) - filled, flags):
            dest[filled : filled + len(received)] = received
            filled += len(received)
            if filled == len(dest) or not flags & socket.MSG_WAITALL:
                break
        return filled

    def recvmsg_into(
        self, buffers: Sequence[memoryview], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[object], int, object]:
        received = bytearray(sum(map(len, buffers)))
        size = self.recv_into(memoryview(received), 0, flags)
        left = memoryview(received)[:size]
        for buffer in buffers:
            count = min(len(buffer), len(left))
            buffer[:count] = left[:count]
            left = left[count:]
        return size, [], 0, None

    def recv(self, nbytes: int, flags: int = 0) -> bytes:
        return self._receive(nbytes, flags)

    def _receive(self, limit: int, flags: int) -> bytes:
        while self.pieces:
            piece = self.pieces[0]
            if isinstance(piece, OSError):
                self.pieces.popleft()
                if self._is_blocking and isinstance(piece, BlockingIOError) and not flags & socket.MSG_DONTWAIT:
                    continue
                raise copy(piece)  # the script's own would keep the frames of the call, and so its buffer
            if not piece:
                return b""
            self.pieces.popleft()
            if len(piece) > limit:
                self.pieces.appendleft(piece[limit:])
            return piece[:limit]
        if flags & socket.MSG_DONTWAIT:
            raise BlockingIOError
        raise AssertionError("the script has ended, and the code under test waits for more")

    def sendmsg(self, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        while self.sends:
            piece = self.sends.popleft()
            if isinstance(piece, int):
                data = data[:piece]
                break
            if not (self._is_blocking and isinstance(piece, BlockingIOError)):
                raise copy(piece)
        self.sent += data
        return len(data)

    def fileno(self) -> int:
        """Returns a descriptor that is always readable and writable: the script alone decides what a call meets."""
        if self._ends is None:
            self._ends = here, there = socket.socketpair()
            there.send(b".")
            return here.fileno()
        return self._ends[0].fileno()

    def setblocking(self, is_blocking: bool) -> None:
        self._is_blocking = is_blocking

    def shutdown(self, how: int) -> None:
        self.pieces = deque((b"",))
        self.sends = deque((BrokenPipeError(errno.EPIPE, "Broken pipe"),))

    def close(self) -> None:
        self.shutdown(socket.SHUT_RDWR)
        if self._ends is not None:
            for end in self._ends:
                end.close()

    __del__ = close
