"""`store_metrics`: what the last health check found of each store, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..contract import ServerFacts
from .health import Health, StoreHealth

_PREFIX: Final = "lmcache_connect_store"

_MOST_TROUBLES: Final = 16
"""The most kinds of trouble of one store that have a series of their own."""

Number = Callable[[ServerFacts], int | None]


def store_metrics(stores: Iterable[StoreHealth]) -> Iterator[Metric]:
    """The metrics. Of a store with several servers, sizes and counts are sums of those that tell."""
    found = list(stores)
    yield from _health_metrics(found)
    yield from _server_metrics(found)


def _health_metrics(stores: list[StoreHealth]) -> Iterator[Metric]:
    labels = ["connector"]
    up = GaugeMetricFamily(f"{_PREFIX}_up", "1 where the store answered the last ping, 0 where not", labels=labels)
    ping = GaugeMetricFamily(f"{_PREFIX}_ping_seconds", "Round trip of the last ping", labels=labels)
    health = GaugeMetricFamily(f"{_PREFIX}_health", "1 for the state that the store is in", labels=[*labels, "state"])
    trouble = GaugeMetricFamily(
        f"{_PREFIX}_trouble", "1 for what fails on the store now", labels=[*labels, "operation", "error"]
    )
    for store in stores:
        for state in get_args(Health):
            health.add_metric([store.connector, state], store.health == state)
        if store.health not in {"closed", "bypassed", "unknown"}:
            up.add_metric([store.connector], store.is_usable)
        if store.seconds is not None:
            ping.add_metric([store.connector], store.seconds)
        kinds = dict.fromkeys((one.operation, one.error) for one in store.trouble)
        if store.health == "failing" and store.error is not None:
            kinds["ping", store.error] = None
        for operation, error in [*kinds][:_MOST_TROUBLES]:
            trouble.add_metric([store.connector, operation, error], 1)
    yield from (up, ping, health, trouble)


def _server_metrics(stores: list[StoreHealth]) -> Iterator[Metric]:
    labels = ["connector"]
    gauges: tuple[tuple[str, str, Number], ...] = (
        ("memory_bytes", "Memory that the store's servers use", lambda one: one.memory),
        ("memory_limit_bytes", "Memory that they may use; 0: as much as there is", lambda one: one.memory_limit),
        ("connections", "Clients of the store's servers, of all processes", lambda one: one.connections),
        ("replicas", "Servers that copy another one, and refuse puts", lambda one: _flag(one.is_replica)),
        ("save_failures", "Servers whose last write to their disk failed", lambda one: _flag(one.saves, when=False)),
    )
    counters: tuple[tuple[str, str, Number], ...] = (
        ("expired_keys", "Keys that the store's servers dropped because their time was over", lambda one: one.expired),
        ("evicted_keys", "Keys that they dropped to make room", lambda one: one.evicted),
    )
    for name, text, number in gauges:
        gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
        for connector, total in _sums(stores, number):
            gauge.add_metric([connector], total)
        yield gauge
    for name, text, number in counters:
        counter = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
        for connector, total in _sums(stores, number):
            counter.add_metric([connector], total)
        yield counter
    fill = GaugeMetricFamily(
        f"{_PREFIX}_memory_fill_ratio", "Share of its memory limit that the fullest server uses", labels=labels
    )
    started = GaugeMetricFamily(
        f"{_PREFIX}_start_time_seconds", "When the youngest of the store's servers was started", labels=labels
    )
    for store in stores:
        fills = [one.fill for one in store.servers if one.fill is not None]
        if fills:
            fill.add_metric([store.connector], max(fills))
        if store.started is not None:
            started.add_metric([store.connector], store.started)
    yield from (fill, started)


def _sums(stores: list[StoreHealth], number: Number) -> Iterator[tuple[str, int]]:
    for store in stores:
        told = [found for one in store.servers if (found := number(one)) is not None]
        if told:
            yield store.connector, sum(told)


def _flag(value: bool | None, *, when: bool = True) -> int | None:
    return None if value is None else int(value is when)
