"""The metrics of a port's manager count its jobs: by kind and outcome, and never less than before."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.oversight import ManagerMetrics

from .conftest import OpenPort

Found = Callable[..., float]


def scrape(metrics: ManagerMetrics) -> Found:
    """Gives a sample's value by its name and labels. What is not there is 0."""
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render()[0].decode())
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((f"lmcache_connect_{name}", tuple(sorted(labels.items()))), 0)


def run(port: JobPort, job: int) -> None:
    assert port.wait(job) is not None


def test_jobs_are_counted_by_kind_and_outcome_with_their_keys_bytes_and_seconds(
    open_port: OpenPort, valkey_url: str
) -> None:
    port = open_port(valkey_url)
    found = scrape(metrics := ManagerMetrics(port.manager))
    assert found("jobs_total", kind="get", outcome="done") == 0
    run(port, port.submit_put(["a", "b"], [bytes(100), bytes(50)]))
    run(port, port.submit_get(["a", "c"], [bytearray(100), bytearray(7)]))
    run(port, port.submit_get(["b"], [bytearray(50)], deadline=1e-9))
    run(port, port.submit_exists(["a"]))
    run(port, port.submit_remove(["a"]))
    found = scrape(metrics)
    assert found("jobs_total", kind="put", outcome="done") == 1
    assert found("jobs_total", kind="get", outcome="done") == 1
    assert found("jobs_total", kind="get", outcome="deadline") == 1
    assert found("jobs_total", kind="exists", outcome="done") == found("jobs_total", kind="remove", outcome="done") == 1
    assert [found("job_keys_total", kind="get", outcome=each) for each in ("succeeded", "missed", "failed")] == [
        1,
        1,
        1,
    ]
    assert found("job_keys_total", kind="put", outcome="succeeded") == 2
    assert (found("job_bytes_total", kind="put"), found("job_bytes_total", kind="get")) == (150, 100)
    assert found("job_seconds_count", kind="get") == found("job_seconds_bucket", kind="get", le="+Inf") == 2
    assert found("job_seconds_sum", kind="get") == pytest.approx(port.statistics().kinds["get"].seconds)
    assert found("job_seconds_sum", kind="get") > 0
    assert found("jobs_in_flight", kind="get") == found("job_waiting_store_bytes") == 0


def test_all_ports_of_a_store_are_counted_together_and_closed_ones_stay(open_port: OpenPort, valkey_url: str) -> None:
    first, second = open_port(valkey_url), open_port(valkey_url)
    metrics = ManagerMetrics(manager := first.manager)
    assert second.manager is manager

    def jobs() -> float:
        return scrape(metrics)("jobs_total", kind="exists", outcome="done")

    run(first, first.submit_exists(["a"]))
    run(second, second.submit_exists(["a"]))
    assert jobs() == 2
    first.close()
    first.close()
    assert jobs() == 2
    run(second, second.submit_exists(["a"]))
    second.close()
    assert jobs() == 3


def test_a_port_that_was_never_closed_is_collected_and_stays_counted(valkey_url: str, open_port: OpenPort) -> None:
    keeper = open_port(valkey_url)
    forgotten = JobPort(valkey_url)
    run(forgotten, forgotten.submit_exists(["a"]))
    left = weakref.ref(forgotten)
    with pytest.warns(ResourceWarning, match="was never closed"):
        del forgotten
        while left() is not None:  # the loop's thread may hold the last job for a moment
            gc.collect()
    assert scrape(ManagerMetrics(keeper.manager))("jobs_total", kind="exists", outcome="done") == 1
