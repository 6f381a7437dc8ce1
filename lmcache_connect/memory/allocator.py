"""`BlockAllocator`: decides which bytes of the arena are free. It touches no memory, and knows no threads."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

GRANULE: Final = 4096
"""Blocks are whole pages, so that no two blocks share one: sizes are rounded up to a multiple of this."""

SMALL: Final = 1 << 20
"""Blocks below this size, in bytes, are placed at the high end of the arena, the others at the low end."""


class BlockAllocator:
    """Free blocks of an address range, merged with their neighbours as soon as they are freed.

    Large blocks are cut best-fit from the low end of a gap, small ones from the high end of the highest gap. So
    small ones do not punch holes into the row of equal-sized chunks. With blocks of one size alone every gap is a
    multiple of that size: `capacity // size` of them always fit, whatever came and went before. Low addresses are
    reused first, because their pages exist already.
    """

    __slots__ = ("_by_size", "_by_start", "_end_of", "_size_of", "capacity", "free_bytes")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity // GRANULE * GRANULE
        self.free_bytes = self.capacity
        self._by_size: list[tuple[int, int]] = []  # (size, start), sorted
        self._by_start: list[int] = []  # sorted
        self._size_of: dict[int, int] = {}  # start -> size
        self._end_of: dict[int, int] = {}  # end -> start
        if self.capacity:
            self._insert(0, self.capacity)

    @staticmethod
    def rounded(nbytes: int) -> int:
        """The size of the block that holds `nbytes`."""
        return -(-nbytes // GRANULE) * GRANULE

    @property
    def largest_free(self) -> int:
        """The largest block that could be allocated now."""
        return self._by_size[-1][0] if self._by_size else 0

    @property
    def gaps(self) -> int:
        """The number of separate free ranges."""
        return len(self._by_start)

    def allocate(self, size: int) -> int | None:
        """Returns the start of a block of `size` bytes, or None where no gap is large enough.

        `size` is a multiple of `GRANULE`.
        """
        if size < SMALL:
            for start in reversed(self._by_start):
                gap = self._size_of[start]
                if gap >= size:
                    self._remove(start, gap)
                    if gap > size:
                        self._insert(start, gap - size)
                    self.free_bytes -= size
                    return start + gap - size
            return None
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return None
        gap, start = self._by_size[index]
        self._remove(start, gap)
        if gap > size:
            self._insert(start + size, gap - size)
        self.free_bytes -= size
        return start

    def free(self, start: int, size: int) -> None:
        """Frees a block that `allocate` returned."""
        self.free_bytes += size
        if (before := self._end_of.get(start)) is not None:
            gap = self._size_of[before]
            self._remove(before, gap)
            start, size = before, gap + size
        if (after := self._size_of.get(start + size)) is not None:
            self._remove(start + size, after)
            size += after
        self._insert(start, size)

    def _insert(self, start: int, size: int) -> None:
        insort(self._by_size, (size, start))
        insort(self._by_start, start)
        self._size_of[start] = size
        self._end_of[start + size] = start

    def _remove(self, start: int, size: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, start))]
        del self._by_start[bisect_left(self._by_start, start)]
        del self._size_of[start]
        del self._end_of[start + size]
