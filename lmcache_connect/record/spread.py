"""Spread chunks: the pieces of a large chunk lie on several servers, each a record of its own under a name of its own.

Under the chunk's own name stands the index: a header without a payload, which says how many pieces there are and which
put has written them. The name of a piece has the put's random number in it, and a record has its name's digest. So a
piece of another put, chunk or place never verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_bytes
from typing import Final

from ..errors import FrameError
from ..metadata import ChunkMetadata

PUT_BYTES: Final = 16
"""The length of a put's random number."""

MAX_SPREAD: Final = 256
"""The most pieces of a spread chunk."""

_ALIGNED: Final = 4096
"""A piece is a multiple of so many bytes long, except for the last one."""


@dataclass(frozen=True, slots=True)
class SpreadPlan:
    """How a chunk of `nbytes` is cut into `pieces` pieces by the put `put`, which is `PUT_BYTES` random bytes."""

    nbytes: int
    pieces: int
    put: bytes

    @classmethod
    def new(cls, nbytes: int, servers: int) -> SpreadPlan:
        """The plan of a new put: a piece for each server, or fewer where they would be too short."""
        size = _piece_size(nbytes, servers)
        return cls(nbytes, -(-nbytes // size), token_bytes(PUT_BYTES))

    def bounds(self, index: int) -> tuple[int, int]:
        """The start and the end, exclusive, of piece `index` in the chunk. Pieces count from 0."""
        size = _piece_size(self.nbytes, self.pieces)
        return index * size, min((index + 1) * size, self.nbytes)


class SpreadChunkError(FrameError):
    """The record is the index of a chunk whose pieces lie on several servers. It is valid, and no chunk by itself.

    A connector that reaches those servers catches it. For any other one, the chunk is a miss.

    Attributes:
        metadata: that of the whole chunk.
        plan: what its pieces are.
    """

    def __init__(self, metadata: ChunkMetadata, plan: SpreadPlan) -> None:
        detail = f"its {plan.pieces} pieces lie on several servers; read it by the redis-ring:// URL that it was put by"
        super().__init__("spread", detail, removable=False)
        self.metadata = metadata
        self.plan = plan


def checked_spread(nbytes: int, pieces: int, put: bytes) -> SpreadPlan:
    """The plan that an index describes. Raises `FrameError` where the pieces are too many, or one would be empty."""
    plan = SpreadPlan(nbytes, pieces, put)
    if not 2 <= pieces <= MAX_SPREAD:
        raise FrameError("header", f"a chunk in {pieces} pieces; expected 2 to {MAX_SPREAD}")
    start, end = plan.bounds(pieces - 1)
    if start >= end:
        raise FrameError("header", f"{pieces} pieces of a chunk of {nbytes} bytes; the last one would be empty")
    return plan


def _piece_size(nbytes: int, pieces: int) -> int:
    return max(1, -(-nbytes // (pieces * _ALIGNED))) * _ALIGNED
