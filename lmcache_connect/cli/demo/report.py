"""`DemoReport`: the results of a demo, for the table, the JSON document and tests."""

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
    """The results for one kind of chunk. Rates are bytes per second, of the median round of batches.

    `hits` and `misses` count the answers of all gets. `verified` counts the hits whose bytes, shapes, dtypes and
    format were equal to what was put.
    """

    kind: ChunkKind
    put_rate: float
    get_rate: float
    get_seconds: float
    """The median time of a single get."""
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
    """A whole run. `store` is a redacted URL. `server` is the name of the server that the demo itself started, or None.

    `arena_balance` is the number of bytes still reserved at the end. It must be 0. `problems` counts wrong answers by
    their text, `corrupt` the records that the connector refused, by reason.
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
        """Whether every answer was right and all memory of the arena was released."""
        return not (self.problems or self.arena_balance or self.arena_objects) and all(kind.ok for kind in self.kinds)
