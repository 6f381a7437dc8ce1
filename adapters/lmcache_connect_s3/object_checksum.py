"""`ObjectChecksum`: S3's own checksum of an object, which it keeps in a header `x-amz-checksum-*`."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from typing import Final

from lmcache_connect import CorruptRecordError


class ObjectChecksum:
    """A checksum of bytes that are given piece by piece, in order: `crc32` or `sha256`."""

    def __init__(self, algorithm: str, expected: str = "") -> None:
        """`expected`: the value that `verify` compares with."""
        self.header: Final = f"x-amz-checksum-{algorithm}"
        self._expected: Final = expected
        self._crc = 0
        self._sha = hashlib.sha256() if algorithm == "sha256" else None

    @classmethod
    def stored(cls, algorithm: str, headers: Mapping[str, str]) -> ObjectChecksum | None:
        """Returns a checksum that expects the value in an answer's headers. None: the object has none."""
        expected = headers.get(f"x-amz-checksum-{algorithm}", "")
        # A "-" stands before a number of parts: such a value is a checksum of the parts' checksums.
        return cls(algorithm, expected) if expected and "-" not in expected else None

    def update(self, piece: bytes | memoryview) -> None:
        """Adds the next piece of the object."""
        if self._sha is not None:
            self._sha.update(piece)
        else:
            self._crc = zlib.crc32(piece, self._crc)

    def value(self) -> str:
        """Returns the checksum as it stands in the header."""
        digest = self._sha.digest() if self._sha is not None else self._crc.to_bytes(4, "big")
        return base64.b64encode(digest).decode()

    def verify(self) -> None:
        """Compares the checksum with the expected one.

        Raises:
            CorruptRecordError: they differ.
        """
        if self.value() != self._expected:
            raise CorruptRecordError("object_checksum", f"its {self.header} is not that of its bytes")
