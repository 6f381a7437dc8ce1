"""What release 0.1 stored: recognised so that a store can be cleared of it, and read by nothing.

    prefix:key                          a whole chunk, or the head of a striped one
    prefix:key 0x1F <hex> 0x1F <hex>    a part of a striped chunk: generation and index

Each is a string with a record of version 1, whose header holds the digest of `prefix:key`.
"""

from __future__ import annotations

import re
from typing import Final

from lmcache_connect.record import DIGEST, MAGIC, key_digest

OUTDATED_HEADER_BYTES: Final = DIGEST.stop
"""How much of a value `is_outdated` needs to see."""

_PART: Final = re.compile(r"(?P<name>[^\x1f]+)\x1f[0-9a-f]{1,16}\x1f[0-9a-f]{1,8}")
_VERSION: Final = 1


def outdated_chunk(name: str) -> str | None:
    """Returns the name of the chunk that `name` belonged to in release 0.1. None if it cannot be of that release."""
    if "\x1f" not in name:
        return name
    part = _PART.fullmatch(name)
    return None if part is None else part["name"]


def is_outdated(name: str, start: bytes) -> bool:
    """Returns whether a value is a record of release 0.1. `start`: its first `OUTDATED_HEADER_BYTES` bytes."""
    chunk = outdated_chunk(name)
    return (
        chunk is not None
        and len(start) == OUTDATED_HEADER_BYTES
        and start.startswith(MAGIC)
        and start[len(MAGIC)] == _VERSION
        and start[DIGEST] == key_digest(chunk)
    )
