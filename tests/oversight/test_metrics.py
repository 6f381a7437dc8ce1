"""Metrics: right, bounded, monotonic, and without a URL, a key or a secret."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, StoreUnavailableError
from lmcache_connect.observability import Histogram
from lmcache_connect.observability.histogram import LATENCY_BOUNDS
from lmcache_connect.oversight import HealthCheck, ManagerMetrics
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer
from lmcache_reference_connectors.redis import RedisReferenceAdapter

ROOT: Final = Path(__file__).parents[2]
QUICK: Final = ConnectorConfig.load(
    operation_timeout=2, retries=1, retry_backoff=0.001, breaker_failures=2, breaker_reset=60
)


class Scrape:
    """One exposition, by metric and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[f"lmcache_connect_{name}", tuple(sorted(labels.items()))]

    @property
    def names(self) -> set[str]:
        return {family.name for family in text_string_to_metric_families(self.text)}


def scrape(manager: ConnectorManager) -> Scrape:
    return Scrape(ManagerMetrics(manager).render()[0].decode())


async def put(connector: object, backend: LocalCPUBackend, key: str, nbytes: int = 100) -> None:
    chunk = backend.allocate((nbytes,), "uint8")
    assert chunk is not None
    with chunk:
        await connector.put(key, chunk)  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_what_was_done_is_counted_by_connector_and_operation(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        connector, other = manager.create_connector(), manager.create_connector()
        for _ in range(3):
            await put(connector, local_cpu_backend, "a")
        got = await connector.get("a")
        assert got is not None
        with got:
            assert await other.get("nothing") is None
            found = scrape(manager)
            assert found("arena_reserved_bytes") > 0
            assert found("arena_objects") == 1
        at = {"connector": "redis-1", "operation": "put"}
        assert found("operations_total", **at) == 3
        assert found("bytes_total", **at) == 300
        assert found("operation_wire_seconds_count", **at) == 3
        assert found("operation_queue_seconds_count", **at) == 3
        assert found("operation_wire_seconds_bucket", **at, le="+Inf") == 3
        assert found("operation_wire_seconds_sum", **at) > found("operation_queue_seconds_sum", **at) >= 0
        assert found("hits_total", connector="redis-1", operation="get") == 1
        assert found("misses_total", connector="redis-2", operation="get", reason="absent") == 1
        assert found("operations_in_flight", connector="redis-1", operation="get") == 0
        assert found("connector_info", connector="redis-1", scheme="redis", kind="RedisConnector") == 1
        assert found("breaker_state", connector="redis-1", state="closed") == 1
        assert found("breaker_state", connector="redis-1", state="open") == 0
        assert found("arena_capacity_bytes") == local_cpu_backend.statistics().capacity


@pytest.mark.asyncio
async def test_failures_and_the_breaker_are_seen(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend, QUICK) as manager:
            connector = manager.create_connector()
            await connector.ping()
            server.kill()
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    await connector.get("a")
            found = scrape(manager)
            at = {"connector": "redis-1", "operation": "get"}
            assert found("errors_total", **at, error="StoreUnavailableError") == 2
            assert found("errors_total", **at, error="CircuitOpenError") == 1
            assert found("retries_total", **at) == 2
            assert found("breaker_state", connector="redis-1", state="open") == 1
            assert found("operation_wire_seconds_count", **at) == 2


@pytest.mark.asyncio
async def test_a_call_that_waits_for_the_byte_budget_is_seen_as_queued_and_in_flight(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(max_bytes_in_flight=1000)
    url = f"fault+{valkey_url}?fault_delay_rate=1&fault_delay=0.05"
    async with ConnectorManager(url, None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        puts = [asyncio.create_task(put(connector, local_cpu_backend, f"k{n}", 900)) for n in range(4)]
        while connector.in_flight < 4:
            await asyncio.sleep(0)
        at = {"connector": connector.name, "operation": "put"}
        assert scrape(manager)("operations_in_flight", **at) == 4
        await asyncio.gather(*puts)
        found = scrape(manager)
        assert found("operation_queue_seconds_sum", **at) > 0.2
        assert found("operation_wire_seconds_sum", **at) > 0.15
        assert found("operations_in_flight", **at) == 0


@pytest.mark.asyncio
async def test_sums_never_fall_when_connectors_are_recreated_closed_and_forgotten(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        metrics = ManagerMetrics(manager)

        def total() -> float:
            found = Scrape(metrics.render()[0].decode())
            return sum(value for (name, _), value in found.samples.items() if name.endswith("_operations_total"))

        connector = manager.create_connector()
        await connector.exists("a")
        await manager.recreate(connector)
        await connector.exists("a")
        assert total() == 2
        await connector.close()
        assert total() == 2
        del connector
        manager.create_connector()
        gc.collect()
        assert [one.name for one in manager.known_connectors] == ["redis-2"]
        assert total() == 2
        assert scrape(manager)("operations_total", connector="gone", operation="exists") == 2


@pytest.mark.asyncio
async def test_metrics_keep_no_manager_alive(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        await manager.create_connector().ping()
        metrics = ManagerMetrics(manager)
    del manager
    gc.collect()
    assert metrics.render()[0] == b""


@pytest.mark.asyncio
async def test_neither_a_url_nor_a_host_nor_a_key_is_in_the_metrics(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer(password="canary-in-the-url") as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend) as manager:
            connector = manager.create_connector()
            await put(connector, local_cpu_backend, "canary-key")
            text = scrape(manager).text
    assert "canary" not in text
    assert "127.0.0.1" not in text
    assert "://" not in text


@pytest.mark.asyncio
async def test_classes_of_errors_without_end_share_one_series(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        await connector.ping()
        errors = connector.metrics.operation("ping").errors
        errors.update({f"Error{number}": 1 for number in range(1000)} | {"Common": 7})
        found = scrape(manager)
        series = [labels for name, labels in found.samples if name == "lmcache_connect_errors_total"]
        assert len(series) == 65
        at = {"connector": "redis-1", "operation": "ping"}
        assert found("errors_total", **at, error="Common") == 7
        assert found("errors_total", **at, error="other") == 1000 - 63


@pytest.mark.asyncio
async def test_damaged_records_are_counted_by_what_was_wrong_and_what_became_of_them(
    valkey_url: str, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    url = valkey_url.replace("redis", "fault+plain-redis", 1)  # the counts pass through connectors around connectors
    async with ConnectorManager(url, None, local_cpu_backend) as manager:
        manager.register(RedisReferenceAdapter)
        connector = manager.create_connector()
        await put(connector, local_cpu_backend, "k")
        with valkey_server.client() as client:
            name, strange = chunk_names("", ["k", "strange"])
            client.set(strange, b"another program's")
            record = client.get(name)
            assert isinstance(record, bytes)
            for _ in range(11):
                client.set(name, record[:-1])
                assert await connector.batched_get(["k", "strange"]) == [None, None]
        found = scrape(manager)
        name = connector.name
        assert found("damaged_records_total", connector=name, reason="length", outcome="removed") == 10
        assert found("damaged_records_total", connector=name, reason="length", outcome="suspended") == 1
        assert found("damaged_records_total", connector=name, reason="magic", outcome="not_ours") == 11
        assert found("removals_suspended", connector=name) == 1
        await connector.close()
        del connector
        manager.create_connector()
        gc.collect()
        found = scrape(manager)
        assert found("damaged_records_total", connector="gone", reason="length", outcome="removed") == 10


@pytest.mark.asyncio
async def test_scraping_from_a_thread_disturbs_nobody(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        metrics = ManagerMetrics(manager)
        stop = threading.Event()
        scraped: list[int] = []
        failures: list[BaseException] = []

        def go_on() -> None:
            try:
                while not stop.is_set():
                    scraped.append(len(metrics.render()[0]))
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=go_on)
        thread.start()
        for number in range(40):
            connector = manager.create_connector()
            await connector.exists(f"key-{number}")
            await connector.close()
        stop.set()
        thread.join()
        assert not failures
        assert scraped


@pytest.mark.asyncio
async def test_every_metric_is_in_the_table_of_the_documentation_and_in_the_dashboard(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        await manager.create_connector().exists("a")
        health = HealthCheck(manager)
        await health.check(5)
        names = Scrape(ManagerMetrics(manager, health).render()[0].decode()).names
    page = (ROOT / "docs/metrics.md").read_text()
    rows = set(re.findall(r"^\| `(lmcache_connect_\w+)` \|", page, flags=re.MULTILINE))
    assert {re.sub(r"_total$", "", row) for row in rows} == names
    dashboard = json.loads((ROOT / "docs/grafana/lmcache-connect.json").read_text())
    expressions = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", []))
    used = set(re.findall(r"lmcache_connect_\w+", expressions))
    bare = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used}
    assert bare <= names
    assert len(bare) > 15


def test_a_histogram_counts_a_value_on_a_bound_with_those_below() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert (histogram.count, histogram.sum) == (5, 7.5)
    twin = histogram.copy()
    twin.add(histogram)
    assert (twin.count, histogram.count) == (10, 5)
    assert list(LATENCY_BOUNDS) == sorted(LATENCY_BOUNDS)
