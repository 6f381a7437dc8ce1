"""`ManagerMetrics`: a manager's counters for Prometheus."""

from __future__ import annotations

import platform
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import anyio.to_thread

from .._version import __version__
from ..errors import MissingExtraError
from ..managed import REMOVALS, BreakerState
from ..manager import ConnectorManager
from ..memory import HotCache
from ..observability import Histogram, HotCacheCounts, OperationStatistics
from .health import HealthCheck

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    from .store_metrics import store_metrics
except ImportError as missing:
    raise MissingExtraError("ManagerMetrics", missing.name or "prometheus_client", "api") from missing

T = TypeVar("T")

OTHER: Final = "other"
"""The label for what has no series of its own."""

GONE: Final = "gone"
"""The connector label for the counts of connectors that do not exist any more."""

ARENA: Final = "arena"
"""The connector label for the hot cache of the arena, which LMCache's names fill (`submit_put_task`)."""

DONE: Final = "done"
"""The outcome of a job that has not failed, though some of its keys may have been missed."""

_MOST_REASONS: Final = 64
"""The most reasons of misses, or classes of errors, with a series of their own. The rest are `other`."""

_PREFIX: Final = "lmcache_connect"


class ManagerMetrics:
    """Metrics of one manager, in a registry of its own. Labels are connectors' names, never a URL, a host or a key.

    The connectors count. Their counters are read, from any thread, when the metrics are rendered. The counts of
    connectors that do not exist any more are kept under the name `gone`, so that sums never fall.
    """

    def __init__(self, manager: ConnectorManager, health: HealthCheck | None = None) -> None:
        """`health` gives the metrics of the stores themselves: up, ping, memory. Without it, they are left out."""
        self.registry: Final = CollectorRegistry(auto_describe=False)
        """For other exporters. It does not keep the manager alive."""
        self.registry.register(_ManagerCollector(manager, health))
        self._made: dict[str, tuple[float, tuple[bytes, str]]] = {}  # by content type: there are a few, all known

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Returns all metrics and their content type: Prometheus' text, or OpenMetrics where `accept` names it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    async def rendered(self, accept: str = "", freshness: float = 0.25) -> tuple[bytes, str]:
        """`render()` in a thread. A rendering that is at most `freshness` seconds old is returned again."""
        content_type = choose_encoder(accept)[1]
        made = self._made.get(content_type)
        if made is None or time.monotonic() - made[0] > freshness:
            self._made[content_type] = made = (time.monotonic(), await anyio.to_thread.run_sync(self.render, accept))
        return made[1]


class _ManagerCollector(Collector):
    def __init__(self, manager: ConnectorManager, health: HealthCheck | None) -> None:
        self._manager = weakref.ref(manager)
        self._health = health

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering does not collect

    def collect(self) -> Iterator[Metric]:
        manager = self._manager()
        if manager is None:
            return
        yield _build_info()
        yield from _connector_metrics(manager)
        if self._health is not None:
            yield from store_metrics(self._health.last)
            yield _loop_lag(self._health)
        yield from _operation_metrics(manager)
        yield _damaged_records(manager)
        yield from _hot_cache_metrics(manager)
        yield from _arena_metrics(manager)
        yield from _job_metrics(manager)


def _build_info() -> Metric:
    labels = ["version", "python", "implementation"]
    info = GaugeMetricFamily(
        f"{_PREFIX}_build_info", "Always 1. The labels name the release, and the Python that runs it", labels=labels
    )
    info.add_metric([__version__, platform.python_version(), platform.python_implementation()], 1)
    return info


def _loop_lag(health: HealthCheck) -> Metric:
    text = "How late timers of the connectors' event loop fire, four times a second"
    buckets, total = _buckets(health.lag.seconds)
    return HistogramMetricFamily(f"{_PREFIX}_loop_lag_seconds", text, buckets=buckets, sum_value=total)


def _connector_metrics(manager: ConnectorManager) -> Iterator[Metric]:
    labels = ["connector"]
    info = GaugeMetricFamily(
        f"{_PREFIX}_connector_info",
        "Always 1. The labels name the connector's scheme and class",
        labels=[*labels, "scheme", "kind"],
    )
    state = GaugeMetricFamily(
        f"{_PREFIX}_breaker_state", "1 for the state that the circuit breaker is in", labels=[*labels, "state"]
    )
    is_open = GaugeMetricFamily(f"{_PREFIX}_connector_open", "1 while the connector is not closed", labels=labels)
    bypass = GaugeMetricFamily(
        f"{_PREFIX}_connector_bypassed", "1 while an operator leaves the store out", labels=labels
    )
    suspended = GaugeMetricFamily(
        f"{_PREFIX}_removals_suspended", "1 while no damaged record is removed, after too many of them", labels=labels
    )
    left = GaugeMetricFamily(
        f"{_PREFIX}_abandoned_calls", "Calls of foreign code that were left behind and still run", labels=labels
    )
    held = GaugeMetricFamily(f"{_PREFIX}_abandoned_bytes", "Bytes that those calls hold", labels=labels)
    servers = GaugeMetricFamily(
        f"{_PREFIX}_servers",
        "Servers of a store that has several, by the state that the circuit breaker of each is in",
        labels=[*labels, "state"],
    )
    for connector in manager.known_connectors:
        name = connector.name
        left.add_metric([name], connector.abandoned_calls)
        held.add_metric([name], connector.abandoned_bytes)
        info.add_metric([name, connector.context.remote_url.scheme, connector.class_name[:100]], 1)
        is_open.add_metric([name], not connector.is_closed)
        bypass.add_metric([name], connector.bypass)
        suspended.add_metric([name], connector.removals_suspended)
        now = connector.breaker_state
        for one in BreakerState:
            state.add_metric([name, one.value], one is now)
        states = [server.breaker for server in connector.servers()]
        for one in BreakerState if states else ():
            servers.add_metric([name, one.value], states.count(one))
    yield from (info, is_open, bypass, left, held, suspended, state, servers)


def _operation_metrics(manager: ConnectorManager) -> Iterator[Metric]:
    labels = ["connector", "operation"]
    calls = CounterMetricFamily(f"{_PREFIX}_operations", "Calls", labels=labels)
    keys = CounterMetricFamily(f"{_PREFIX}_keys", "Keys in calls", labels=labels)
    hits = CounterMetricFamily(f"{_PREFIX}_hits", "Keys that were there", labels=labels)
    removed = CounterMetricFamily(
        f"{_PREFIX}_removed_keys", "Keys that are gone because a call removed them", labels=labels
    )
    misses = CounterMetricFamily(f"{_PREFIX}_misses", "Keys that were not there, by reason", labels=[*labels, "reason"])
    errors = CounterMetricFamily(f"{_PREFIX}_errors", "Calls that failed, by class of error", labels=[*labels, "error"])
    retries = CounterMetricFamily(f"{_PREFIX}_retries", "Attempts after the first", labels=labels)
    moved = CounterMetricFamily(f"{_PREFIX}_bytes", "Bytes of chunks that were moved", labels=labels)
    in_flight = GaugeMetricFamily(f"{_PREFIX}_operations_in_flight", "Calls under way", labels=labels)
    queue = HistogramMetricFamily(
        f"{_PREFIX}_operation_queue_seconds", "Time that calls waited for the byte budget", labels=labels
    )
    wire = HistogramMetricFamily(
        f"{_PREFIX}_operation_wire_seconds",
        "Time that calls took after they waited for the byte budget, retries included",
        labels=labels,
    )
    for name, operations in _counted(manager):
        for operation, counted in operations.items():
            at = [name, operation]
            calls.add_metric(at, counted.calls)
            keys.add_metric(at, counted.items)
            (removed if operation in REMOVALS else hits).add_metric(at, counted.hits)
            retries.add_metric(at, counted.retries)
            moved.add_metric(at, counted.bytes)
            in_flight.add_metric(at, counted.in_flight)
            for reason, count in _bounded(counted.misses, OTHER).items():
                misses.add_metric([*at, reason], count)
            for error, count in _bounded(counted.errors, OTHER).items():
                errors.add_metric([*at, error], count)
            queue.add_metric(at, *_buckets(counted.queue))
            wire.add_metric(at, *_buckets(counted.wire))
    yield from (calls, keys, hits, removed, misses, errors, retries, moved, in_flight, queue, wire)


def _damaged_records(manager: ConnectorManager) -> Metric:
    damaged = CounterMetricFamily(
        f"{_PREFIX}_damaged_records",
        "Records that did not verify, by what was wrong with them and what became of them",
        labels=["connector", "reason", "outcome"],
    )
    collected = manager.collected_metrics.snapshot_of_removals()  # first, as in `_counted`
    counted = [(one.name, one.metrics.snapshot_of_removals()) for one in manager.known_connectors]
    for name, removals in (*counted, (GONE, collected)):
        for (reason, outcome), count in _bounded(removals, (OTHER, OTHER)).items():
            damaged.add_metric([name, reason, outcome], count)
    return damaged


def _counted(manager: ConnectorManager) -> Iterator[tuple[str, Mapping[str, OperationStatistics]]]:
    # In this order, a connector that ends meanwhile is missing once rather than counted twice.
    collected = manager.collected_metrics.snapshot()
    for connector in manager.known_connectors:
        yield connector.name, connector.statistics()
    if collected:
        yield GONE, collected


def _hot_cache_metrics(manager: ConnectorManager) -> Iterator[Metric]:
    labels = ["connector"]
    chunks = GaugeMetricFamily(f"{_PREFIX}_hot_cache_chunks", "Chunks in the hot cache", labels=labels)
    held = GaugeMetricFamily(f"{_PREFIX}_hot_cache_bytes", "Bytes in the hot cache", labels=labels)
    enabled = GaugeMetricFamily(f"{_PREFIX}_hot_cache_enabled", "1 while the hot cache takes chunks", labels=labels)
    hits = CounterMetricFamily(f"{_PREFIX}_hot_cache_hits", "Chunks that the hot cache gave", labels=labels)
    misses = CounterMetricFamily(
        f"{_PREFIX}_hot_cache_misses", "Chunks that the hot cache was asked for and did not have", labels=labels
    )
    evictions = CounterMetricFamily(
        f"{_PREFIX}_hot_cache_evictions", "Cached chunks that made room for others", labels=labels
    )

    def count(name: str, counts: HotCacheCounts) -> None:
        hits.add_metric([name], counts.hits)
        misses.add_metric([name], counts.misses)
        evictions.add_metric([name], counts.evictions)

    def show(name: str, cache: HotCache) -> None:
        now = cache.statistics()
        chunks.add_metric([name], now.chunks)
        held.add_metric([name], now.bytes)
        enabled.add_metric([name], cache.enabled)

    gone = manager.collected_metrics.hot_cache
    if gone != HotCacheCounts():
        count(GONE, gone)
    for connector in manager.known_connectors:
        cache = connector.find_hot_cache()
        if cache is not None:
            count(connector.name, connector.metrics.hot_cache)
            show(connector.name, cache)
    memory = manager.made_backend
    if memory is not None and memory.hot_cache is not None:
        count(ARENA, memory.hot_cache.counts)
        show(ARENA, memory.hot_cache)
    yield from (chunks, held, enabled, hits, misses, evictions)


def _arena_metrics(manager: ConnectorManager) -> Iterator[Metric]:
    memory = manager.made_backend
    if memory is None:
        return
    now = memory.statistics()
    gauges: tuple[tuple[str, str, Any], ...] = (
        ("arena_capacity_bytes", "Bytes of the arena", now.capacity),
        ("arena_reserved_bytes", "Bytes of the arena with chunks, cached or held", now.reserved),
        ("arena_free_bytes", "Bytes of the arena that are free", now.free),
        ("arena_largest_free_bytes", "Bytes of the largest chunk that there is room for", now.largest_free),
        ("arena_warm_bytes", "Bytes of the arena whose pages were touched ahead of their use", now.warm),
        ("arena_objects", "Chunks that are held or cached", now.live_objects),
        ("arena_waiters", "Operations that wait for room", now.waiters),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=value)
    counters: tuple[tuple[str, str, int], ...] = (
        ("arena_allocations", "Chunks that found room", now.allocations),
        ("arena_refusals", "Allocations that found no room", now.refusals),
        ("arena_leaks", "Chunks that were garbage-collected without having been released", now.leaked_objects),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(f"{_PREFIX}_{name}", text, value=value)


def _job_metrics(manager: ConnectorManager) -> Iterator[Metric]:
    labels = ["kind"]
    jobs = CounterMetricFamily(
        f"{_PREFIX}_jobs", "Jobs of ports that have ended, by what became of them", labels=[*labels, "outcome"]
    )
    keys = CounterMetricFamily(
        f"{_PREFIX}_job_keys", "Keys of those jobs, by what became of them", labels=[*labels, "outcome"]
    )
    moved = CounterMetricFamily(f"{_PREFIX}_job_bytes", "Bytes of the keys that succeeded", labels=labels)
    seconds = HistogramMetricFamily(
        f"{_PREFIX}_job_seconds", "Time of jobs from their submission to their end", labels=labels
    )
    in_flight = GaugeMetricFamily(f"{_PREFIX}_jobs_in_flight", "Jobs that have not ended", labels=labels)
    total = manager.job_counts.total()
    for kind, counted in total.kinds.items():
        jobs.add_metric([kind, DONE], counted.jobs - counted.failures.total())
        for reason, count in _bounded(counted.failures, OTHER).items():
            jobs.add_metric([kind, reason], count)
        failed = counted.keys - counted.succeeded - counted.missed
        for outcome, count in (("succeeded", counted.succeeded), ("missed", counted.missed), ("failed", failed)):
            keys.add_metric([kind, outcome], count)
        moved.add_metric([kind], counted.nbytes)
        seconds.add_metric([kind], *_buckets(counted.times))
        in_flight.add_metric([kind], counted.in_flight)
    yield from (jobs, keys, moved, seconds, in_flight)
    yield GaugeMetricFamily(
        f"{_PREFIX}_job_waiting_store_bytes", "Bytes of stores that have not begun", value=total.waiting_store_bytes
    )
    yield CounterMetricFamily(
        f"{_PREFIX}_job_shed_stores", "Stores that were refused, because too many bytes waited", value=total.shed_jobs
    )
    yield CounterMetricFamily(f"{_PREFIX}_job_shed_bytes", "Bytes of those stores", value=total.shed_bytes)


def _bounded(counts: Counter[T], other: T) -> dict[T, int]:
    if len(counts) <= _MOST_REASONS:
        return dict(counts)
    most = dict(counts.most_common(_MOST_REASONS))
    most[other] = counts.total() - sum(most.values())
    return most


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
    return buckets, histogram.sum
