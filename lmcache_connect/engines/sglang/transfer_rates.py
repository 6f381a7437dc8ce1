"""`TransferRates`: how many pages were moved, and how fast, since HiCache last asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

_MOST: Final = 1024
"""Batches that are kept while nobody asks."""

_GIB: Final = 1 << 30


class TransferRates:
    """Pages and GiB/s of each batch, for the histograms of SGLang. Thread-safe."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=_MOST)

    def add(self, pages: int, nbytes: int, seconds: float) -> None:
        """Adds a batch. One of which no page was moved is left out."""
        if pages:
            self._batches.append((pages, nbytes / max(seconds, 1e-9) / _GIB))

    def take(self) -> Iterable[tuple[int, float]]:
        """Returns what was added since the last call: the pages and the GiB/s of each batch."""
        taken: list[tuple[int, float]] = []
        try:
            while True:
                taken.append(self._batches.popleft())
        except IndexError:
            return taken
