"""`Scattered`: memory that a rule passes to a connector: regions of several sizes, with gaps that nobody may touch."""

from __future__ import annotations

from typing import Final

from ..keys import Key
from .subject import is_same, payload

_GAP: Final = 64
_GAP_BYTE: Final = 0xA5
_MARK: Final = 0x5A


class Scattered:
    """The memory of one chunk: uneven regions, two of them without bytes, in one piece of memory with gaps between."""

    def __init__(self, nbytes: int) -> None:
        sizes = [nbytes // 7, 0, nbytes // 3, min(nbytes, 1), 0]
        sizes += [nbytes - sum(sizes)]
        memory = bytearray([_GAP_BYTE]) * (nbytes + _GAP * (len(sizes) + 1))
        self.nbytes: Final = nbytes
        self._memory = memoryview(memory)
        self.regions: Final[list[memoryview]] = []
        """What is passed to the connector."""
        start = _GAP
        for size in sizes:
            self.regions.append(self._memory[start : start + size])
            start += size + _GAP

    def fill(self, key: Key, version: int = 0) -> None:
        """Writes the payload of this key, size and version."""
        rest = memoryview(payload(key, self.nbytes, version))
        for region in self.regions:
            region[:], rest = rest[: len(region)], rest[len(region) :]

    def mark(self) -> None:
        """Fills the regions with bytes that no payload is made of: whatever is written afterwards shows."""
        for region in self.regions:
            region[:] = bytes([_MARK]) * len(region)

    def is_marked(self) -> bool:
        """Whether the regions are as `mark` has left them."""
        return all(is_same(region, bytes([_MARK]) * len(region)) for region in self.regions)

    def holds(self, key: Key, version: int = 0) -> bool:
        """Whether the regions hold exactly the payload of this key, size and version."""
        return is_same(b"".join(self.regions), payload(key, self.nbytes, version))

    def are_gaps_untouched(self) -> bool:
        """Whether what lies between the regions is as it was."""
        start = 0
        for region_start, region_end in self._bounds():
            if any(byte != _GAP_BYTE for byte in self._memory[start:region_start]):
                return False
            start = region_end
        return all(byte == _GAP_BYTE for byte in self._memory[start:])

    def _bounds(self) -> list[tuple[int, int]]:
        bounds = []
        start = _GAP
        for region in self.regions:
            bounds.append((start, start + len(region)))
            start += len(region) + _GAP
        return bounds
