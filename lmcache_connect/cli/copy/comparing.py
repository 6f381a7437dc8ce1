"""Whether two stores hold the same chunk under a key: by their checksums where those can be compared, else by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import anyio.lowlevel
import xxhash

from ...contract import KeyFacts, PartSum
from ...memory import MemoryObj

_PIECE: Final = 4 << 20


class Sameness(Enum):
    """What is known of two stores' chunks of one key."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """Their checksums are of other parts, or one has no checksum: the payload has to be looked at."""


def compared(one: KeyFacts, other: KeyFacts) -> Sameness:
    """What the facts of two records say of their chunks, without the payloads.

    A record that is damaged, or cannot be read, is `DIFFERENT` from any other.
    """
    if not one.is_sound or not other.is_sound:
        return Sameness.DIFFERENT
    if one.metadata is None or other.metadata is None:
        return Sameness.UNKNOWN
    if one.metadata != other.metadata:
        return Sameness.DIFFERENT
    if not one.sums or [part[:2] for part in one.sums] != [part[:2] for part in other.sums]:
        return Sameness.UNKNOWN
    return Sameness.SAME if one.sums == other.sums else Sameness.DIFFERENT


async def matches_sums(chunk: MemoryObj, sums: Sequence[PartSum]) -> bool:
    """Whether a chunk's payload has these checksums. Lets other tasks run in between."""
    for start, end, expected in sums:
        hasher = xxhash.xxh3_64()
        for begin in range(start, end, _PIECE):
            _feed(hasher, chunk, begin, min(begin + _PIECE, end))
            await anyio.lowlevel.checkpoint()
        if hasher.intdigest() != expected:
            return False
    return True


async def same_chunk(one: MemoryObj, other: MemoryObj) -> bool:
    """Whether two chunks are equal: what they are, and every byte. Lets other tasks run in between."""
    if one.metadata != other.metadata:
        return False
    for begin in range(0, one.get_size(), _PIECE):
        if not _same_bytes(one, other, begin, begin + _PIECE):
            return False
        await anyio.lowlevel.checkpoint()
    return True


# Functions of their own: a frame that awaits must hold no view of a chunk's memory.


def _feed(hasher: xxhash.xxh3_64, chunk: MemoryObj, start: int, end: int) -> None:
    with chunk.byte_array as view:
        hasher.update(view[start:end])


def _same_bytes(one: MemoryObj, other: MemoryObj, start: int, end: int) -> bool:
    with one.byte_array as left, other.byte_array as right:
        return bytes(left[start:end]) == bytes(right[start:end])
