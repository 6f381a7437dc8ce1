"""Stripes: a large chunk is stored as pieces, each a record of its own, under one key of the store.

Piece i, from 0, holds stripe i of the payload and that stripe's checksum. The header of every piece describes the whole
chunk, and names the generation: a random number of the put that wrote it. So a reader that meets pieces of two puts
finds out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import FrameError

MIN_STRIPE_BYTES: Final = 64 << 10
MAX_PIECES: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class StripePlan:
    """How a payload of `nbytes` is cut into stripes of `stripe_size` bytes. The last stripe may be shorter."""

    nbytes: int
    stripe_size: int
    generation: int

    @property
    def pieces(self) -> int:
        """The number of pieces."""
        return -(-self.nbytes // self.stripe_size)

    def bounds(self, index: int) -> tuple[int, int]:
        """The start and the end, exclusive, of piece `index` in the payload. Pieces count from 0."""
        start = index * self.stripe_size
        return start, min(start + self.stripe_size, self.nbytes)


def checked_plan(nbytes: int, stripe_size: int, generation: int) -> StripePlan:
    """The plan that a header describes. Raises `FrameError` where the stripes are too small or too many."""
    plan = StripePlan(nbytes, stripe_size, generation)
    if stripe_size < MIN_STRIPE_BYTES or not 1 <= plan.pieces <= MAX_PIECES:
        expected = f"expected 1 to {MAX_PIECES} stripes, of at least {MIN_STRIPE_BYTES} bytes"
        raise FrameError("header", f"{nbytes} bytes in stripes of {stripe_size}; {expected}")
    return plan
