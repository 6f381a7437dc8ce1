"""`Findings`: the answers of the store in a demo, compared with what was put."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...keys import CacheEngineKey
from ...memory import MemoryObj
from .workload import ChunkKind, Workload


@dataclass
class Tally:
    """Counts of the answers for one kind of chunk. The fields are those of `KindReport`."""

    hits: int = 0
    expected_hits: int = 0
    misses: int = 0
    expected_misses: int = 0
    verified: int = 0


class Findings:
    """Counts the problems of a run by their text, and the bytes of the chunks that were got."""

    def __init__(self, workload: Workload, on_progress: Callable[[str, int], None]) -> None:
        self._workload = workload
        self._on_progress = on_progress
        self.problems: Counter[str] = Counter()
        self.bytes_got = 0

    def check(self, holds: bool, kind: ChunkKind, complaint: str) -> None:
        """Counts the complaint unless the condition holds."""
        if not holds:
            self.problems[f"{kind.name}: {complaint}"] += 1

    async def examine(
        self,
        kind: ChunkKind,
        keys: Sequence[CacheEngineKey],
        found: Sequence[MemoryObj | None],
        generation: int,
        tally: Tally,
        absent: CacheEngineKey | None = None,
    ) -> None:
        """Compares the chunks that a get returned with what was put, and releases them.

        `absent` is the key that must be a miss. Every other key must be a hit.
        """
        held = list(found)
        try:
            for index, (key, obj) in enumerate(zip(keys, found, strict=True)):
                expected = key != absent
                tally.expected_hits += expected
                tally.expected_misses += not expected
                tally.hits += obj is not None
                tally.misses += obj is None
                if obj is not None:
                    held[index] = None
                    with obj:
                        complaint = (
                            self._complaint(kind, key, obj, generation) if expected else "a missing key was found"
                        )
                    self.check(not complaint, kind, complaint)
                    tally.verified += not complaint
                    self.bytes_got += kind.chunk.nbytes
                    self._on_progress(f"getting: {kind.name}", kind.chunk.nbytes)
                else:
                    self.check(not expected, kind, "a chunk that was put is a miss")
                await asyncio.sleep(0)  # a comparison takes a while, and Ctrl-C and the progress bar need the loop
        finally:
            for obj in held:
                if obj is not None:
                    obj.ref_count_down()

    def _complaint(self, kind: ChunkKind, key: CacheEngineKey, obj: MemoryObj, generation: int) -> str:
        if obj.metadata != kind.chunk:
            return "a chunk came back with other shapes, dtypes or format than it was put with"
        at = self._workload.pattern(key, generation).difference(obj.byte_array)
        return "" if at is None else f"a chunk came back with other bytes, first at byte {at}"
