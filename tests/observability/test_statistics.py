"""Counters and events: one object per operation, copies for readers, facts as fields."""

from __future__ import annotations

import logging
import threading
from collections import Counter

import pytest

from lmcache_connect.observability import Histogram, OperationStatistics, StoreMetrics, event


def test_an_operation_has_one_set_of_live_counters() -> None:
    metrics = StoreMetrics("redis://h")
    metrics.operation("get").calls += 1
    metrics.operation("get").misses["absent"] += 2
    assert metrics.operation("get").calls == 1
    assert metrics.snapshot() == {"get": metrics.operation("get")}
    assert metrics.store == "redis://h"


def test_a_snapshot_is_a_copy_through_and_through() -> None:
    metrics = StoreMetrics("redis://h")
    live = metrics.operation("get")
    live.hits, live.bytes = 3, 100
    before = metrics.snapshot()["get"]
    live.hits += 1
    live.misses["absent"] += 1
    live.errors["StoreFullError"] += 1
    assert (before.hits, before.bytes, before.misses.total(), before.errors.total()) == (3, 100, 0, 0)
    before.misses["absent"] += 5
    assert live.misses["absent"] == 1


def test_threads_that_ask_for_one_operation_get_one_set_of_counters() -> None:
    metrics = StoreMetrics("redis://h")
    start = threading.Barrier(8)
    found: list[OperationStatistics] = []

    def ask() -> None:
        start.wait()
        found.append(metrics.operation("get"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_a_reader_is_not_disturbed_by_a_writer() -> None:
    metrics = StoreMetrics("redis://h")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            metrics.operation(f"operation {number % 50}").misses[f"reason {number % 500}"] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(100):
            metrics.snapshot()
    finally:
        stop.set()
        thread.join()


def test_an_event_is_a_readable_line_and_the_same_facts_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lmcache_connect"):
        event(logging.WARNING, "store_full", store="redis://h", name="a name", level=3)
        event(logging.DEBUG, "not_shown")
    (record,) = caplog.records
    assert record.getMessage() == "store_full store=redis://h name=a name level=3"
    assert record.levelno == logging.WARNING
    assert vars(record)["connect"] == {"event": "store_full", "store": "redis://h", "name": "a name", "level": 3}


def test_quantiles_lie_between_the_bounds_of_their_bucket_and_what_was_before_does_not_count() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    assert histogram.quantile(0.5) is None
    for _ in range(10):
        histogram.observe(0.5)
    before = histogram.copy()
    assert histogram.quantile(0.5) == 0.5
    assert histogram.quantile(1.0) == 1.0
    for _ in range(10):
        histogram.observe(3.0)
    recent = histogram.since(before)
    assert (recent.count, recent.sum) == (10, 30.0)
    assert recent.quantile(0.5) == 3.0
    assert 2.0 < (recent.quantile(0.01) or 0) < 2.1
    assert histogram.quantile(0.25) == 0.5
    histogram.observe(100.0)
    assert histogram.quantile(1.0) == 4.0


def test_what_was_counted_since_a_copy_is_the_difference_by_reason() -> None:
    counted = OperationStatistics(calls=3, items=5, hits=2, misses=Counter(absent=3), in_flight=1)
    before = counted.copy()
    counted.calls += 2
    counted.misses["absent"] += 1
    counted.misses["corrupt:checksum"] += 1
    since = counted.since(before)
    assert (since.calls, since.items, since.misses) == (2, 0, Counter(absent=1, **{"corrupt:checksum": 1}))
