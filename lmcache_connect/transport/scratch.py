"""`Scratch`: the received protocol bytes of one connection that no reader has taken yet."""

from __future__ import annotations

from typing import Final

SCRATCH_BYTES: Final = 64 << 10
"""The most protocol bytes that a connection holds: the longest line or header that can be read."""

HEAD_BYTES: Final = 512
"""How many protocol bytes are read ahead where a payload may follow: enough for a protocol line and a header."""


class Scratch:
    """A small buffer for protocol lines and headers.

    A payload does not pass through it, except for the bytes of its beginning that arrive with a header.
    """

    __slots__ = ("_bytes", "_size", "start", "stop", "view")

    def __init__(self, size: int = SCRATCH_BYTES) -> None:
        self._size = size
        self._bytes = bytearray(size)
        self.view = memoryview(self._bytes)
        """The whole buffer. `view[start:stop]` are the bytes that were received and not taken."""
        self.start = self.stop = 0

    def __len__(self) -> int:
        """The number of bytes that were received and not taken."""
        return self.stop - self.start

    def take_line(self, searched: int) -> bytes | None:
        """Takes the bytes before the next CR LF, and the CR LF. Returns them without it; None where no CR LF has come.

        The first `searched` bytes are known to hold no beginning of a CR LF.
        """
        start = self.start
        end = self._bytes.find(b"\r\n", start + searched, self.stop)
        if end < 0:
            return None
        self.start = end + 2
        return bytes(self.view[start:end])

    def take_into(self, dest: memoryview) -> int:
        """Moves bytes to the beginning of `dest`, as many as fit. Returns how many."""
        start = self.start
        count = min(self.stop - start, len(dest))
        if count:
            dest[:count] = self.view[start : start + count]
            self.start = start + count
        return count

    def make_space(self, nbytes: int) -> int:
        """Makes space for `nbytes` more bytes, by moving what is there to the front. Returns the space there is."""
        if self.start == self.stop:
            self.start = self.stop = 0
        elif self.stop + nbytes > self._size:
            count = self.stop - self.start
            self.view[:count] = bytes(self.view[self.start : self.stop])
            self.start, self.stop = 0, count
        return self._size - self.stop
