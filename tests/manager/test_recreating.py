"""A connector that is recreated while the application uses it, and one that an operator bypasses."""

from __future__ import annotations

import asyncio

import pytest

from lmcache_connect import (
    ConnectorClosedError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    StoreUnavailableError,
)
from lmcache_connect.errors import UnknownConnectorError
from lmcache_connect.testing import ValkeyServer

QUICK = ConnectorConfig.load(operation_timeout=5, retries=0, breaker_failures=2, breaker_reset=60, close_grace=1)


@pytest.mark.asyncio
async def test_a_recreated_connector_is_the_same_object_on_a_new_connection(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend, QUICK) as manager:
        connector = manager.create_connector()
        with local_cpu_backend.allocate((16,), "uint8") as chunk:  # type: ignore[union-attr]
            await connector.put("a", chunk)
        before = connector.wrapped
        await manager.recreate(connector)
        assert connector.wrapped is not before
        assert await connector.exists("a")
        with pytest.raises(ConnectorClosedError):
            await before.exists("a")
        assert manager.connectors == (connector,)
        assert connector.statistics()["put"].calls == 1


@pytest.mark.asyncio
async def test_a_closed_connector_is_open_again_when_it_is_recreated_and_the_manager_closes_it(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    manager = ConnectorManager(valkey_url, None, local_cpu_backend, QUICK)
    connector = manager.create_connector()
    await connector.close()
    other = manager.create_connector()
    assert manager.connectors == (other,)
    assert manager.known_connectors == (connector, other)
    await manager.recreate(connector)
    assert not connector.is_closed
    assert await connector.ping() == 0
    assert set(manager.connectors) == {other, connector}
    await manager.close()
    assert connector.is_closed
    with pytest.raises(ConnectorClosedError):
        await manager.recreate(connector)


@pytest.mark.asyncio
async def test_recreating_closes_the_circuit_breaker(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend, QUICK) as manager:
            connector = manager.create_connector()
            server.kill()
            for _ in range(QUICK.breaker_failures):
                with pytest.raises(StoreUnavailableError):
                    await connector.exists("a")
            assert connector.breaker_state.value == "open"
            server.restart()
            await manager.recreate(connector)
            assert connector.breaker_state.value == "closed"
            assert not await connector.exists("a")


@pytest.mark.asyncio
async def test_a_call_under_way_ends_with_the_old_connector_and_later_ones_do_not_wait_for_it(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend, QUICK) as manager:
            connector = manager.create_connector()
            await connector.ping()
            server.pause()
            stuck = asyncio.create_task(connector.exists("a"))
            while not connector.in_flight:
                await asyncio.sleep(0)
            recreating = asyncio.create_task(manager.recreate(connector, grace=0.05))
            with pytest.raises(StoreUnavailableError, match="recreated during exists"):
                await stuck
            await recreating
            assert connector.breaker_state.value == "closed"
            server.resume()
            assert not await connector.exists("a")


@pytest.mark.asyncio
async def test_a_caller_cancelled_while_recreating_leaves_a_working_connector_and_closes_the_old_one(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend, QUICK) as manager:
            connector = manager.create_connector()
            await connector.ping()
            before = connector.wrapped
            server.pause()
            stuck = asyncio.create_task(connector.exists("a"))
            while not connector.in_flight:
                await asyncio.sleep(0)
            recreating = asyncio.create_task(manager.recreate(connector, grace=0.2))
            while connector.wrapped is before:
                await asyncio.sleep(0)
            recreating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await recreating
            server.resume()
            assert not await stuck
            assert await connector.ping() == 0
        with pytest.raises(ConnectorClosedError):  # the manager's close waited for the old one's end
            await before.exists("a")


@pytest.mark.asyncio
async def test_a_connector_of_another_manager_is_not_recreated(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with (
        ConnectorManager(valkey_url, None, local_cpu_backend, QUICK) as one,
        ConnectorManager(valkey_url, None, local_cpu_backend, QUICK) as another,
    ):
        connector = one.create_connector()
        with pytest.raises(UnknownConnectorError):
            await another.recreate(connector)


@pytest.mark.asyncio
async def test_connectors_are_found_by_names_that_are_unique_in_their_manager(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend, QUICK) as manager:
        first, second = manager.create_connector(), manager.create_connector()
        memory = manager.create_connector("memory://names")
        assert [connector.name for connector in (first, second, memory)] == ["redis-1", "redis-2", "memory-1"]
        await first.close()
        assert manager.create_connector().name == "redis-3"
        assert manager.connector("redis-2") is second
        with pytest.raises(UnknownConnectorError, match=r"expected one of memory-1, redis-1, redis-2, redis-3"):
            manager.connector("redis-9")


@pytest.mark.asyncio
async def test_a_bypassed_connector_misses_and_drops_without_asking_the_store_and_still_removes(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend, QUICK) as manager:
        connector = manager.create_connector()
        with local_cpu_backend.allocate((16,), "uint8") as chunk:  # type: ignore[union-attr]
            await connector.put("a", chunk)
            connector.bypass = True
            await connector.put("b", chunk)
        assert await connector.get("a") is None
        assert not await connector.exists("a")
        assert await connector.batched_get(["a", "b"]) == [None, None]
        assert await connector.batched_async_contains("", ["a"]) == 0
        assert await connector.list() == ["a"]
        assert await connector.ping() == 0
        assert connector.statistics()["batched_get"].misses == {"bypassed": 2}
        assert await connector.remove("a")
        connector.bypass = False
        assert not await connector.exists("a")
        assert connector.statistics()["exists"].misses == {"bypassed": 1, "absent": 1}


@pytest.mark.asyncio
async def test_a_batch_of_removals_tells_what_is_gone_and_a_bypass_drops_none(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(f"audit+{valkey_url}", None, local_cpu_backend, QUICK) as manager:
        connector = manager.create_connector()
        with local_cpu_backend.allocate((16,), "uint8") as chunk:  # type: ignore[union-attr]
            for key in ("a", "b", "c"):
                await connector.put(key, chunk)
        connector.bypass = True
        assert await connector.batched_remove(["a", "b", "nothing"]) == [True, True, True]
        assert await connector.list() == ["c"]
        assert connector.statistics()["batched_remove"].items == 3
