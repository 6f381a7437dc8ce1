"""Striping: a large chunk as parts under keys of their own, and a head that is written last, as the commit.

The head is a record without payload under the chunk's own name; it names the generation, the stripe size and the whole
length. Part i, from 1, holds stripe i of the payload as a record of its own, with the same header but for the part's
index, and a checksum of its stripe. Its name is the chunk's, a unit separator (which no key may hold), the generation
and the index: so a writer never touches the parts of another, and one `SET` of the head replaces a chunk as a whole.
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
    """How a payload of `nbytes` is cut into stripes of `stripe_size`; the last one may be shorter."""

    nbytes: int
    stripe_size: int
    generation: int

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.nbytes // self.stripe_size)

    def bounds(self, index: int) -> tuple[int, int]:
        """First and last-plus-one byte of part `index`, from 1."""
        start = (index - 1) * self.stripe_size
        return start, min(start + self.stripe_size, self.nbytes)

    def part_name(self, name: str, index: int) -> str:
        """The key of part `index`, from 1, of the chunk stored as `name`."""
        return f"{name}{SEPARATOR}{self.generation:x}{SEPARATOR}{index:x}"

    def part_names(self, name: str) -> list[str]:
        """The keys of all parts."""
        return [self.part_name(name, index) for index in range(1, self.parts + 1)]


def checked_plan(nbytes: int, stripe_size: int, generation: int) -> StripePlan:
    """The plan that a header tells. Raises `FrameError` for one that no writer makes."""
    plan = StripePlan(nbytes, stripe_size, generation)
    if stripe_size < MIN_STRIPE_BYTES or plan.parts > MAX_PARTS:
        raise FrameError("header", f"a payload of {nbytes} bytes in stripes of {stripe_size}")
    return plan


def is_part_name(name: str) -> bool:
    """Whether a key in the store is a part's rather than a chunk's."""
    return SEPARATOR in name
