"""`Wire`: the system calls on one connected socket. `tls_wire` has the one for TLS.

A wire is used by one stream at a time: by a `LoopStream`, or by the `ThreadStream` of a thread that has taken it over.
Nothing here waits for the event loop, and no stream asks whether a connection is encrypted.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from ..errors import LMCacheConnectError
from ..process import this_process
from .scratch import Scratch

if sys.platform != "win32":
    import fcntl
    import termios

    def _count_unsent(descriptor: int) -> int:
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
else:

    def _count_unsent(descriptor: int) -> int:
        return 0


BLOCKED: Final = (BlockingIOError, InterruptedError)
"""Raised by a wire's calls when the socket is not ready; try again when it is."""

LAST_WORDS_BYTES: Final = 512
"""What is kept of what the peer said before it ended the connection."""


class StreamClosedError(LMCacheConnectError, ConnectionError):
    """The connection was closed or reset, by the peer or by this end.

    `last_words` are the bytes that were received before and that nobody has read: servers say there why they close.
    """

    def __init__(self, reason: str, last_words: bytes = b"") -> None:
        super().__init__(reason)
        self.last_words = last_words


class StreamStalledError(StreamClosedError):
    """The peer owed progress, and no byte moved for too long. The connection was closed."""

    def __init__(self, peer: str, seconds: float) -> None:
        super().__init__(f"{peer} moved no byte for {seconds:g} s (see the setting stall_timeout)")
        self.seconds = seconds


class Wire:
    """One connected socket. Each method that receives or sends is one system call.

    The calls raise one of `BLOCKED` where the socket is not ready, `StreamClosedError` where the peer has closed the
    connection, and `OSError` where it was reset.
    """

    __slots__ = (
        "_poller",
        "_process",
        "_sock",
        "bytes_received",
        "bytes_sent",
        "deadline",
        "is_open",
        "is_taken_over",
        "peer",
        "scratch",
        "silence_limit",
        "stall_timeout",
    )

    hides_bytes: ClassVar = False
    """Whether received bytes may wait where the event loop's selector does not see them: inside OpenSSL."""

    def __init__(self, sock: socket.socket, peer: str, stall_timeout: float | None = None) -> None:
        """Owns `sock`, which is connected and non-blocking. `peer` names the other end in errors.

        `stall_timeout`: seconds without a byte after which the connection is dead, while the peer owes progress. None:
        there is no limit. The socket's calls must end by themselves after a part of it: see `stall_clock`.
        """
        self._sock = sock
        self._poller: select.poll | None = None
        self._process = this_process()
        self.peer = peer
        self.stall_timeout: Final = stall_timeout
        self.silence_limit = stall_timeout
        """The limit that holds now. Longer than `stall_timeout` while the peer works on what it has received whole."""
        self.scratch: Final = Scratch()
        self.bytes_received = 0
        self.bytes_sent = 0
        self.deadline = math.inf
        """When its calls raise `BlockingIOError`, by `time.monotonic`, whether the socket is ready or not. Bytes that
        trickle would otherwise put off the end of a thread's call."""
        self.is_open = True
        self.is_taken_over = False

    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, as `ssl` tells it; {} where it was not verified, and None without TLS."""
        return None

    # ---------------------------------------------------------------------------------------------- system calls

    def receive_scratch(self, limit: int) -> int:
        """Receives up to `limit` protocol bytes into the scratch, which has that much space. Returns how many."""
        self.check_deadline()
        scratch = self.scratch
        stop = scratch.stop
        count = self._sock.recv_into(scratch.view[stop : stop + limit])
        if not count:
            raise StreamClosedError(f"{self.peer} closed the connection")
        scratch.stop = stop + count
        self.bytes_received += count
        return count

    def receive_piece(self, dest: memoryview, ahead: int) -> int:
        """Receives into `dest`, and up to `ahead` bytes of what follows into the scratch, which is empty.

        Returns how many bytes are in `dest`.
        """
        if not ahead:
            self.check_deadline()
            return self._received(self._sock.recv_into(dest))
        return self.receive_pieces((dest,), len(dest), ahead)

    def receive_pieces(self, dests: Sequence[memoryview], size: int, ahead: int, *, whole: bool = False) -> int:
        """`receive_piece` for several buffers, which have `size` bytes in all. Fills them one after the other.

        `whole`: as `receive_whole` does it.
        """
        self.check_deadline()
        flags = socket.MSG_WAITALL if whole else 0
        if not ahead:
            return self._received(self._sock.recvmsg_into(dests, 0, flags)[0])
        scratch = self.scratch
        scratch.start = scratch.stop = 0
        count = self._sock.recvmsg_into((*dests, scratch.view[:ahead]), 0, flags)[0]
        if count > size:
            scratch.stop = count - size
            self.bytes_received += count
            return size
        return self._received(count)

    def receive_whole(self, dest: memoryview) -> int:
        """Waits in the kernel until `dest` is full, or the connection ends. Returns how many bytes are in `dest`.

        For a thread that has taken the wire over. One call per piece, rather than one for what is there each time:
        each call releases the GIL and has to acquire it again.
        """
        self.check_deadline()
        return self._received(self._sock.recv_into(dest, 0, socket.MSG_WAITALL))

    def _received(self, count: int) -> int:
        if not count:
            raise StreamClosedError(f"{self.peer} closed the connection in the middle of a value")
        self.bytes_received += count
        return count

    def send(self, pieces: list[memoryview]) -> int:
        """Sends from the beginning of `pieces`, which is not empty. Returns how many bytes were sent."""
        self.check_deadline()
        count = self._sock.sendmsg(pieces)
        self.bytes_sent += count
        return count

    def check_deadline(self) -> None:
        """Raises `BlockingIOError` where the deadline has passed."""
        if self.deadline < math.inf and time.monotonic() >= self.deadline:
            raise BlockingIOError

    # ------------------------------------------------------------------------------------------------- questions

    def fileno(self) -> int:
        """The descriptor to watch for readiness."""
        return self._sock.fileno()

    def is_forked(self) -> bool:
        """Whether this code runs in a fork of the process that made the wire. The socket is the parent's then."""
        return self._process.is_forked()

    def is_quiet(self) -> bool:
        """Returns whether the connection is open at both ends, and there is nothing to read."""
        return self.is_open and not self.scratch and not self._is_readable()

    def _is_readable(self) -> bool:
        if self._poller is None:
            self._poller = select.poll()
            self._poller.register(self._sock.fileno(), select.POLLIN)
        return bool(self._poller.poll(0))

    def unsent(self) -> int:
        """Returns how many bytes the kernel has taken and the peer has not acknowledged. 0 where that is not known."""
        try:
            return _count_unsent(self._sock.fileno())
        except OSError:
            return 0

    def closed_error(self) -> StreamClosedError:
        """Returns the error of a call on a connection that this end has closed."""
        return StreamClosedError(f"the connection to {self.peer} is closed")

    def failure(self, error: OSError) -> StreamClosedError:
        """Returns the error to raise for one that a system call raised. To be called before the wire is closed."""
        if isinstance(error, StreamStalledError):
            return StreamStalledError(self.peer, error.seconds)
        if isinstance(error, TimeoutError) and self.stall_timeout is not None:
            return StreamStalledError(self.peer, self.stall_timeout)  # the kernel's own, see `socket_options.py`
        if isinstance(error, StreamClosedError):
            return StreamClosedError(str(error), error.last_words or self._unread())
        return StreamClosedError(f"{self.peer}: {error}", self._last_words())

    def _last_words(self) -> bytes:
        try:
            return self._unread() + self._receive_rest()
        except OSError:
            return b""

    def _unread(self) -> bytes:
        return bytes(self.scratch.view[self.scratch.start : self.scratch.stop])

    def _receive_rest(self) -> bytes:
        return self._sock.recv(LAST_WORDS_BYTES, socket.MSG_DONTWAIT)

    # -------------------------------------------------------------------------------------------------- lifetime

    def take_over(self) -> None:
        """Makes the socket a blocking one. One thread may use it from now on, until `hand_back()`."""
        self.is_taken_over = True
        if self.is_open:
            self._sock.setblocking(True)

    def end_receiving_after(self, seconds: float) -> None:
        """Has calls that receive end by themselves after so long, for a wire that stays with threads."""
        if self.is_open:
            limit_call(self._sock, socket.SO_RCVTIMEO, seconds)

    def hand_back(self) -> None:
        """Ends `take_over()`: the thread has made its last call."""
        self.is_taken_over = False
        if self._process.is_forked():
            return
        if self.is_open:
            self._sock.setblocking(False)
        else:
            self._sock.close()

    def close(self) -> None:
        """Closes the connection at once. Idempotent.

        May be called from another thread than that which has taken the wire over: what that waits for then fails. The
        descriptor stays until `hand_back()`, because the system could give its number to another file meanwhile.
        """
        self.is_open = False
        if self._process.is_forked():
            return  # a shutdown here would end the parent's connection; the descriptor goes with the object
        if not self.is_taken_over:
            self._sock.close()
            return
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has ended it already


def limit_call(sock: socket.socket, option: int, seconds: float) -> None:
    """Has calls end by themselves after so long: those that `option` names, `SO_RCVTIMEO` or `SO_SNDTIMEO`."""
    micros = max(1, round(seconds * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", micros // 1_000_000, micros % 1_000_000))
