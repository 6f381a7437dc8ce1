"""What a benchmark measures, within the bytes that it may move and keep: plain numbers, without a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

_MOST_CHUNKS: Final = 2000
_LARGEST_BATCH: Final = 32
LOOKED_UP: Final = 1000
"""Keys of one batched look-up, and single look-ups of one measurement."""


class Operation(Enum):
    """What is measured."""

    PUT = "put"
    GET = "get"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Mode:
    """How calls are made: `concurrency` single ones at a time, or one batch of `batch` keys after the other."""

    concurrency: int = 1
    batch: int = 1

    def __str__(self) -> str:
        return f"batch of {self.batch}" if self.batch > 1 else f"{self.concurrency} at a time"


@dataclass(frozen=True, slots=True)
class Load:
    """Puts and then gets of `chunks` chunks in each of `rounds` rounds, under `keys` keys."""

    nbytes: int
    mode: Mode
    chunks: int
    keys: int
    rounds: int

    @property
    def memory(self) -> int:
        """Bytes of memory that its calls need at a time."""
        return self.nbytes * max(self.mode.concurrency, self.mode.batch)

    @property
    def moved(self) -> int:
        """Bytes that it moves, puts and gets together."""
        return 2 * self.nbytes * self.chunks * self.rounds


@dataclass(frozen=True, slots=True)
class Plan:
    """`loads`, and what was left out: a size, how it was to be called, and the option that would have to be larger."""

    loads: tuple[Load, ...]
    left_out: tuple[tuple[int, str, str], ...]

    @property
    def memory(self) -> int:
        """Bytes of memory for chunks: of those that are put, and of those that come back."""
        return 2 * max((load.memory for load in self.loads), default=0)

    @property
    def held(self) -> int:
        """The most bytes that lie in the store at a time."""
        return max((load.nbytes * load.keys for load in self.loads), default=0)

    @property
    def moved(self) -> int:
        """Bytes that are put and got."""
        return sum(load.moved for load in self.loads)


def plan(sizes: Sequence[int], concurrencies: Sequence[int], *, max_bytes: int, held: int, rounds: int) -> Plan:
    """Returns what is measured of each size: single calls by concurrency, and batches.

    All of it moves at most `max_bytes`, and keeps at most `held` bytes in the store at a time. Each size has the same
    share. What would need more is left out, with the
    option that would allow it.
    """
    loads: list[Load] = []
    left_out: list[tuple[int, str, str]] = []
    ways = len(concurrencies) + 1
    for nbytes in sorted(sizes):
        affordable = min(max_bytes // len(sizes) // ways // (2 * nbytes), _MOST_CHUNKS)
        kept = min(affordable, held // nbytes)
        batch = max(2, min(kept, _LARGEST_BATCH))
        for mode in (*map(Mode, concurrencies), Mode(batch=batch)):
            each = max(mode.concurrency, mode.batch)
            if kept < each:
                name = "batch" if mode.batch > 1 else str(mode)
                left_out.append((nbytes, name, "--max-bytes" if kept == affordable else "--held"))
                continue
            times = max(1, min(rounds, affordable // each))
            chunks = affordable // times // each * each
            loads.append(Load(nbytes, mode, chunks, min(kept, chunks) // each * each, times))
    return Plan(tuple(loads), tuple(left_out))


def by_size(loads: Sequence[Load]) -> Iterator[tuple[int, list[Load]]]:
    """Yields the loads of each size together."""
    for nbytes in dict.fromkeys(load.nbytes for load in loads):
        yield nbytes, [load for load in loads if load.nbytes == nbytes]
