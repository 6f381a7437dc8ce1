"""`Field`: memory of a caller in the middle of larger memory, of which every byte is watched."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

_GAP: Final = 37
_GAP_BYTE: Final = b"\xa5"
_MARK: Final = b"\x5a"


class Field:
    """Regions for the chunks of one call, with gaps around each of them."""

    def __init__(self, chunks: Sequence[Sequence[int]]) -> None:
        """`chunks`: for each chunk the sizes of its regions in bytes."""
        count = sum(map(len, chunks))
        self._memory = memoryview(bytearray(_GAP_BYTE) * (sum(map(sum, chunks)) + _GAP * (count + 1)))
        self.buffers: Final[list[list[memoryview]]] = []
        """What the caller passes: for each chunk its regions."""
        self._gaps: Final[list[memoryview]] = []
        at = 0
        for sizes in chunks:
            regions = []
            for size in sizes:
                self._gaps.append(self._memory[at : at + _GAP])
                at += _GAP
                regions.append(self._memory[at : at + size])
                at += size
            self.buffers.append(regions)
        self._gaps.append(self._memory[at:])

    def fill(self, seed: int) -> list[bytes]:
        """Fills the chunks with bytes that this seed gives. Returns them."""
        rng = random.Random(seed)
        for regions in self.buffers:
            for region in regions:
                region[:] = rng.randbytes(len(region))
        return self.contents()

    def contents(self) -> list[bytes]:
        """The bytes of each chunk."""
        return [b"".join(regions) for regions in self.buffers]

    def mark(self) -> None:
        """Overwrites the regions, as their owner does who uses them for something else."""
        for regions in self.buffers:
            for region in regions:
                region[:] = _MARK * len(region)

    def check_marked(self) -> None:
        """Checks that nothing has touched the regions since `mark`."""
        assert all(region == _MARK * len(region) for regions in self.buffers for region in regions), "they were touched"
        self.check_gaps()

    def check_gaps(self) -> None:
        """Checks that nothing has ever touched what is around the regions."""
        assert all(gap == _GAP_BYTE * len(gap) for gap in self._gaps), "bytes beside a region were touched"


def evenly(nbytes: int, regions: int) -> list[int]:
    """Sizes of so many regions of about the same size, which have `nbytes` in all."""
    return [(at + 1) * nbytes // regions - at * nbytes // regions for at in range(regions)]
