"""`Figures`: what a tier counts, as vLLM's metrics."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

CHUNKS: Final = "lmcache_connect_vllm_chunks"
BYTES: Final = "lmcache_connect_vllm_bytes"
SECONDS: Final = "lmcache_connect_vllm_seconds"
EXPIRED: Final = "lmcache_connect_vllm_lookups_expired"
JOBS: Final = "lmcache_connect_vllm_jobs_under_way"

TIER: Final = "tier"
OPERATION: Final = "operation"
RESULT: Final = "result"

COUNTERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    CHUNKS: ("Chunks by tier, operation (load, store) and result (ok, failed, present).", (TIER, OPERATION, RESULT)),
    BYTES: ("Bytes of chunks that were moved, by tier and operation (load, store).", (TIER, OPERATION)),
    SECONDS: ("Seconds that jobs took, summed, by tier and operation (load, store).", (TIER, OPERATION)),
    EXPIRED: ("Keys that counted as missing because no answer came in time, by tier.", (TIER,)),
}
GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    JOBS: ("Loads and stores that have not ended, by tier.", (TIER,)),
}


class Figures:
    """Counters since they were last taken, for one tier. Used under vLLM's lock."""

    def __init__(self, tier: str) -> None:
        self._tier = tier
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._jobs = 0
        self._has_other_jobs = False

    def add_transfer(self, operation: str, ok: int, failed: int, present: int, nbytes: int, seconds: float) -> None:
        """Counts one transfer of vLLM's. `present` chunks were in the store already."""
        for result, number in (("ok", ok), ("failed", failed), ("present", present)):
            self._add(CHUNKS, number, operation, result)
        self._add(BYTES, nbytes, operation)
        self._add(SECONDS, seconds, operation)

    def add_expired(self, keys: int) -> None:
        """Counts keys whose look-up got no answer in time."""
        self._add(EXPIRED, keys)

    def set_under_way(self, jobs: int) -> None:
        """Says how many loads and stores have not ended."""
        if jobs != self._jobs:
            self._jobs = jobs
            self._has_other_jobs = True

    @property
    def has_news(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._counts) or self._has_other_jobs

    def take(self, stats: Any) -> Any:
        """Puts what was counted since the last call into vLLM's statistics, and returns those."""
        counts, self._counts = self._counts, Counter()
        for (name, labels), value in counts.items():
            stats.increase_counter(name, value, labels)
        if self._has_other_jobs:
            stats.set_gauge(JOBS, self._jobs, (self._tier,))
            self._has_other_jobs = False
        return stats

    def _add(self, name: str, value: float, *labels: str) -> None:
        if value:
            self._counts[name, (self._tier, *labels)] += value  # type: ignore[assignment]
