"""`LikelyHeader`: a short way to the header of a record that is like the one before it.

The records of a batch have the same size, shape and dtype, as a rule. Their headers then differ in the key's digest and
in the checksum alone. So the header of the last whole record serves as a pattern: a header that fits it, has the
digest of the expected key and a right checksum says what the pattern says, and need not be decoded. Nothing is taken
for granted: a header that does not fit is decoded the long way, which finds out what is wrong with it.
"""

from __future__ import annotations

import zlib

from lmcache_connect.record import CRC_BYTES, DIGEST, FrameHeader, key_digest

from ...protocol.connection import Connection


class LikelyHeader:
    """Remembers the last whole record's header, and takes one like it from a connection."""

    def __init__(self) -> None:
        self._header: FrameHeader | None = None
        self._start = b""  # the reply's line, and the header up to the digest
        self._end = b""  # the header from behind the digest to the checksum
        self._nbytes = 0
        self._line_bytes = 0

    def remember(self, size: int, header: FrameHeader, encoded: memoryview) -> None:
        """Makes the header of a whole record the pattern. `size` is the record's, `encoded` starts with the header."""
        line = b"$%d\r\n" % size
        self._start = line + bytes(encoded[: DIGEST.start])
        self._end = bytes(encoded[DIGEST.stop : header.length - CRC_BYTES])
        self._line_bytes = len(line)
        self._nbytes = len(line) + header.length
        self._header = header

    def take(self, connection: Connection, name: str) -> FrameHeader | None:
        """Takes the next reply's line and the header of the record of `name`.

        Returns None and takes nothing if they have not all arrived, or if anything about them is different.
        """
        stream = connection.stream
        if self._header is None or stream.buffered < self._nbytes:
            return None
        head = bytes(stream.buffered_view()[: self._nbytes])
        digest = len(self._start)
        after = digest + DIGEST.stop - DIGEST.start
        if not (
            head.startswith(self._start)
            and head[digest:after] == key_digest(name)
            and head.endswith(self._end, after, -CRC_BYTES)
            and zlib.crc32(head[self._line_bytes : -CRC_BYTES]) == int.from_bytes(head[-CRC_BYTES:], "little")
        ):
            return None
        stream.take(self._nbytes)
        return self._header
