"""Health is judged by what calls meet, what servers tell, and what other workers do; and asking changes no counter."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio.to_thread
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.contract import ServerFacts
from lmcache_connect.oversight import HealthCheck, ManagerMetrics, StoreHealth
from lmcache_connect.oversight.recent import Recent, RecentCounts
from lmcache_connect.oversight.trouble import trouble_of
from lmcache_connect.testing import ValkeyServer

from .test_metrics import Scrape


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def put(connector: ManagedConnector, backend: LocalCPUBackend, *keys: str) -> None:
    for key in keys:
        chunk = backend.allocate((4096,), "uint8")
        assert chunk is not None
        with chunk:
            await connector.put(key, chunk)


async def get(connector: ManagedConnector, *keys: str) -> list[bool]:
    """Which of them came."""
    found = []
    for key in keys:
        obj = await connector.get(key)
        found.append(obj is not None)
        if obj is not None:
            obj.ref_count_down()
    return found


async def look(check: HealthCheck) -> StoreHealth:
    """What the check finds of the only store."""
    (found,) = await check.check(5)
    return found


@pytest.mark.asyncio
async def test_a_store_whose_records_do_not_verify_is_degraded_until_a_minute_has_passed(
    valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    clock = Clock()
    config = ConnectorConfig.load(remove_damaged=False)
    url = f"{valkey_server.url()}?prefix=damage"
    async with ConnectorManager(url, None, local_cpu_backend, config) as manager:
        connector, check = manager.create_connector(), HealthCheck(manager, 0, clock)
        keys = [str(number) for number in range(12)]
        await put(connector, local_cpu_backend, *keys)
        assert (await look(check)).health == "ok"
        with valkey_server.client() as client:
            for name in client.keys("damage:*"):
                client.setrange(name, 300, b"something else")
        assert not any(await get(connector, *keys))
        clock.now += 1
        found = await look(check)
        assert (found.health, found.error) == ("degraded", "CorruptRecordError")
        (trouble,) = found.trouble
        assert (trouble.failures, trouble.calls) == (12, 12)
        assert "12 of 12 chunks" in trouble.detail
        assert trouble.advice == found.advice
        for _ in range(15):
            clock.now += 5
            found = await look(check)
        assert found.health == "ok"


@pytest.mark.asyncio
async def test_what_a_full_server_tells_makes_its_store_degraded_before_anybody_puts(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with ValkeyServer(maxmemory="100mb", config={"maxmemory-policy": "noeviction"}) as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend) as manager:
            manager.create_connector()
            check = HealthCheck(manager, 0)
            found = await look(check)
            assert found.health == "ok"
            (facts,) = found.servers
            assert (facts.memory_limit, facts.evicts, facts.saves, facts.is_replica) == (100 << 20, False, True, False)
            assert facts.product.startswith("valkey ")
            assert found.started is not None
            assert abs(found.started - time.time()) < 60
            with server.client() as client:
                client.config_set("maxmemory", "1mb")
            found = await look(HealthCheck(manager, 0))
            assert (found.health, found.error) == ("degraded", "StoreFullError")
            assert "maxmemory" in (found.advice or "")
            with server.client() as client:
                client.config_set("maxmemory-policy", "allkeys-lru")
            assert (await look(HealthCheck(manager, 0))).health == "ok"


@pytest.mark.asyncio
async def test_a_server_that_may_not_be_asked_for_its_facts_is_healthy_all_the_same(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with ValkeyServer() as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "plain", "on", ">secret-of-plain", "~*", "+@all", "-info")
        url = f"redis://plain:secret-of-plain@127.0.0.1:{server.port}"
        async with ConnectorManager(url, None, local_cpu_backend) as manager:
            connector = manager.create_connector()
            found = await look(HealthCheck(manager, 0))
            assert (found.health, found.servers, found.started) == ("ok", (), None)
            assert connector.statistics() == {}


@pytest.mark.asyncio
async def test_calls_that_nearly_miss_their_deadline_make_a_store_degraded(local_cpu_backend: LocalCPUBackend) -> None:
    config = ConnectorConfig.load(operation_timeout=0.01)
    async with ConnectorManager("memory://slow", None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        counted = connector.metrics.operation("get")
        before = RecentCounts(60, {"get": counted.copy()})
        assert trouble_of(connector, before, ping=0.01) == ()
        for _ in range(20):
            counted.calls += 1
            counted.wire.observe(0.009)
        (trouble,) = trouble_of(connector, RecentCounts(60, {"get": counted.copy()}))
        assert (trouble.operation, trouble.error) == ("get", "slow")
        (trouble,) = trouble_of(connector, ping=0.7)
        assert (trouble.operation, trouble.error) == ("ping", "slow")
        assert "0.70 s" in trouble.detail


@pytest.mark.asyncio
async def test_the_last_minute_is_looked_back_and_no_further() -> None:
    clock = Clock()
    recent = Recent(clock)
    async with ConnectorManager("memory://recent") as manager:
        connector = manager.create_connector()
        counted = connector.metrics.operation("get")
        counted.calls = counted.items = 100
        assert recent.look(connector) == RecentCounts(0.0, {})
        found = RecentCounts()
        for _ in range(30):
            clock.now += 5
            counted.calls += 1
            counted.misses["absent"] += 1
            found = recent.look(connector)
        assert 60 <= found.seconds <= 65
        assert found.operations["get"].calls == found.operations["get"].misses["absent"] == found.seconds / 5
        clock.now += 1000
        assert recent.look(connector) == RecentCounts()


@pytest.mark.asyncio
async def test_a_connectors_loop_that_stands_still_is_told_by_a_check_from_another_loop(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    async with ConnectorManager("memory://still", None, local_cpu_backend) as manager:
        await manager.create_connector().exists("a")
        check = HealthCheck(manager, 0)
        found: list[tuple[StoreHealth, ...]] = []
        has_answer = threading.Event()

        async def ask() -> None:
            found.append(await check.check(0.05))
            has_answer.set()

        thread = threading.Thread(target=lambda: asyncio.run(ask()))
        thread.start()
        assert has_answer.wait(10)  # holds this loop, which is the connectors'
        ((store,),) = found
        assert (store.health, store.error) == ("failing", "LoopNotRunningError")
        assert "GET /threads" in (store.detail or "")
        await anyio.to_thread.run_sync(thread.join)
        assert (await look(check)).health == "ok"


@pytest.mark.asyncio
async def test_the_loops_lag_is_counted_from_the_first_check_on(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager("memory://lag", None, local_cpu_backend) as manager:
        manager.create_connector()
        check = HealthCheck(manager, 0)
        assert check.lag.seconds.count == 0
        await look(check)
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            pass  # as code that does not yield
        while check.lag.seconds.count == 0:
            await asyncio.sleep(0.01)
        assert (check.lag.seconds.quantile(1.0) or 0) > 0.25
        metrics = ManagerMetrics(manager, check)
        assert Scrape(metrics.render()[0].decode())("loop_lag_seconds_count") >= 1


@pytest.mark.asyncio
async def test_the_metrics_of_stores_say_up_trouble_memory_and_dropped_keys(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer(maxmemory="64mb") as server:
        config = ConnectorConfig.load(retries=0)
        async with ConnectorManager(server.url(), None, local_cpu_backend, config) as manager:
            connector = manager.create_connector()
            manager.create_connector("redis://127.0.0.1:1")
            await put(connector, local_cpu_backend, "a")
            assert await connector.remove("a")
            assert await connector.batched_remove(["b", "c"]) == [True, True]
            with server.client() as client:
                client.set("gone", "soon", px=1)
                while client.exists("gone"):
                    pass
            check = HealthCheck(manager, 0)
            await check.check(5)
            found = Scrape(ManagerMetrics(manager, check).render()[0].decode())
            assert found("store_up", connector="redis-1") == 1
            assert found("store_up", connector="redis-2") == 0
            assert found("store_health", connector="redis-2", state="failing") == 1
            failure = {"connector": "redis-2", "operation": "ping", "error": "StoreUnavailableError"}
            assert found("store_trouble", **failure) == 1
            assert 0 < found("store_ping_seconds", connector="redis-1") < 5
            assert found("store_memory_limit_bytes", connector="redis-1") == 64 << 20
            assert 0 < found("store_memory_fill_ratio", connector="redis-1") < 1
            assert found("store_expired_keys_total", connector="redis-1") >= 1
            assert found("removed_keys_total", connector="redis-1", operation="remove") == 1
            assert found("removed_keys_total", connector="redis-1", operation="batched_remove") == 2
            assert 'hits_total{connector="redis-1",operation="remove"}' not in found.text
            labels = {key for name, labels in found.samples for key, _ in labels if "store" in name}
            assert labels == {"connector", "state", "operation", "error"}


@pytest.mark.asyncio
async def test_a_server_that_was_replaced_has_another_start_time_and_one_that_was_not_keeps_its_own(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    clock = Clock()
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend) as manager:
            manager.create_connector()
            check = HealthCheck(manager, 0, clock)
            first = (await look(check)).started
            clock.now += 10
            assert (await look(check)).started == first
            server.kill()
            server.restart()
            clock.now += 10
            while (await look(check)).health != "ok":
                clock.now += 10
            assert (await look(check)).started != first


@pytest.mark.asyncio
async def test_looking_counts_nothing_however_a_store_fails(local_cpu_backend: LocalCPUBackend) -> None:
    config = ConnectorConfig.load(retries=0, breaker_failures=1, breaker_reset=60)
    async with ConnectorManager("redis://127.0.0.1:1", None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        check = HealthCheck(manager, 0)
        metrics = ManagerMetrics(manager, check)
        for _ in range(5):
            assert (await look(check)).health == "failing"
        text = metrics.render()[0].decode()
        assert connector.statistics() == {}
        assert "lmcache_connect_errors_total{" not in text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ([ServerFacts("a", 1, memory=100, memory_limit=100, evicts=False)], "StoreFullError"),
        ([ServerFacts("a", 1, memory=100, memory_limit=100, evicts=True)], None),
        ([ServerFacts("a", 1, memory=50, memory_limit=100, evicts=False)], None),
        ([ServerFacts("a", 1, memory=50, memory_limit=0, evicts=False)], None),
        ([ServerFacts("a", 1), ServerFacts("b", 1, saves=False)], "StoreCommandError"),
        ([ServerFacts("a", 1)], None),
    ],
)
async def test_what_servers_tell_is_trouble_where_puts_are_refused(facts: list[ServerFacts], error: str | None) -> None:
    async with ConnectorManager("memory://facts") as manager:
        connector = manager.create_connector()
        assert [one.error for one in trouble_of(connector, facts=facts)] == ([] if error is None else [error])
