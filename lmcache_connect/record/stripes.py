"""Stripes: a large chunk is stored as parts under keys of their own, and a head. Writing the head commits the chunk.

The head is a record without payload under the chunk's own key. It holds the generation, the stripe size and the length
of the whole payload. Part i, from 1, is a record that holds stripe i of the payload and that stripe's checksum. Its
header differs from the head's in the part index only.

A part's key is the chunk's key, a unit separator (which a chunk's key cannot contain), the generation and the index.
Two writers of one chunk have different generations, so neither writes the other's parts. One `SET` of the head replaces
the whole chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import FrameError

SEPARATOR: Final = "\x1f"
MIN_STRIPE_BYTES: Final = 64 << 10
MAX_PARTS: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class StripePlan:
    """How a payload of `nbytes` is cut into stripes of `stripe_size` bytes. The last stripe may be shorter."""

    nbytes: int
    stripe_size: int
    generation: int

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.nbytes // self.stripe_size)

    def bounds(self, index: int) -> tuple[int, int]:
        """The start and the end, exclusive, of part `index` in the payload. Parts count from 1."""
        start = (index - 1) * self.stripe_size
        return start, min(start + self.stripe_size, self.nbytes)

    def part_name(self, name: str, index: int) -> str:
        """The key of part `index` of the chunk that is stored as `name`. Parts count from 1."""
        return f"{name}{SEPARATOR}{self.generation:x}{SEPARATOR}{index:x}"

    def part_names(self, name: str) -> list[str]:
        """The keys of all parts, in order."""
        return [self.part_name(name, index) for index in range(1, self.parts + 1)]


def checked_plan(nbytes: int, stripe_size: int, generation: int) -> StripePlan:
    """The plan that a header describes. Raises `FrameError` where the stripes are too small or too many."""
    plan = StripePlan(nbytes, stripe_size, generation)
    if stripe_size < MIN_STRIPE_BYTES or plan.parts > MAX_PARTS:
        expected = f"expected at most {MAX_PARTS} stripes, of at least {MIN_STRIPE_BYTES} bytes"
        raise FrameError("header", f"{nbytes} bytes in stripes of {stripe_size}; {expected}")
    return plan


def is_part_name(name: str) -> bool:
    """Whether a key in the store names a part, not a chunk."""
    return SEPARATOR in name
