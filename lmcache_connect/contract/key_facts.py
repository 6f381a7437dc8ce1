"""`KeyFacts`: what a store says of a chunk that it holds, without moving it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from ..metadata import ChunkMetadata


class PartSum(NamedTuple):
    """The stored checksum of one part of a chunk: XXH3-64 of its payload from `start` to `end` (not included)."""

    start: int
    end: int
    xxh3: int


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """Facts of a stored chunk. None, "" or an empty tuple: not known. Sizes are bytes, times are seconds.

    Attributes:
        nbytes: the length of the payload.
        stored_bytes: what the store holds for the chunk: on Redis the memory of its key, elsewhere its values' length.
        ttl: the seconds until the store forgets it; infinity: never.
        modified: when it was stored, as a time of `time.time`.
        idle: for how long nobody has read or written it, where the server tells that.
        form: how it lies there, in words.
        pieces: of how many values or records it consists.
        missing: the numbers of those that are not there, from 0.
        server: which server has it, where there are several.
        metadata: the shapes, dtypes and format that its header says.
        sums: the checksums that stand in the store, in the order of the payload.
        problem: why the record cannot be a whole and valid one, as far as that shows without its payload.
    """

    nbytes: int | None = None
    stored_bytes: int | None = None
    ttl: float | None = None
    modified: float | None = None
    idle: float | None = None
    form: str = ""
    pieces: int = 1
    missing: tuple[int, ...] = ()
    server: str = ""
    metadata: ChunkMetadata | None = None
    sums: tuple[PartSum, ...] = ()
    problem: str = ""

    @property
    def age(self) -> float | None:
        """Seconds since it was stored."""
        return None if self.modified is None else max(0.0, time.time() - self.modified)

    @property
    def is_sound(self) -> bool:
        """Whether nothing shows that is wrong with it."""
        return not self.problem and not self.missing
