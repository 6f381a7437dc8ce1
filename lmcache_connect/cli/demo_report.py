"""What the demo found, as values: for the table, for JSON and for tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from .workload import ChunkKind


@dataclass(frozen=True)
class Call:
    """One awaited operation on `chunks` chunks."""

    operation: str
    chunks: int
    seconds: float


@dataclass(frozen=True)
class KindReport:
    """What happened to one kind of chunk. Rates are bytes per second, of the median round of batches.

    `hits` and `misses` count the answers of every get, `verified` the hits whose bytes, shapes, dtypes and format
    were those that had been put.
    """

    kind: ChunkKind
    put_rate: float
    get_rate: float
    get_seconds: float
    """The median of single gets."""
    hits: int
    expected_hits: int
    misses: int
    expected_misses: int
    verified: int

    @property
    def ok(self) -> bool:
        """Whether every get answered as it should."""
        return (self.hits, self.misses, self.verified) == (self.expected_hits, self.expected_misses, self.expected_hits)


@dataclass(frozen=True)
class DemoReport:
    """A whole run. `store` is redacted. `arena_balance` is bytes still reserved at the end, and must be 0.

    `problems` counts what went wrong, by text. `corrupt` counts records that the connector refused, by reason.
    """

    store: str
    server: str | None
    model_name: str
    seed: int
    rounds: int
    kinds: tuple[KindReport, ...]
    bytes_put: int
    bytes_got: int
    seconds: float
    longest: Call
    arena_capacity: int
    arena_balance: int
    arena_objects: int
    keys_written: int
    keys_removed: int
    retries: int
    corrupt: dict[str, int] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything verified and every byte of the arena came back."""
        return not (self.problems or self.arena_balance or self.arena_objects) and all(kind.ok for kind in self.kinds)
