"""A server that fails costs its share of the keys, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from lmcache_connect import (
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.contract import BreakerState
from lmcache_connect.errors import CircuitOpenError
from lmcache_connect.oversight import HealthCheck
from lmcache_connect.testing import Fault, FaultKind
from lmcache_connect.testing.servers.redis import StoreServer

from ..chunks import holds, payload
from .rings import Servers, behind_proxies, chunks

pytestmark = pytest.mark.asyncio

NBYTES = 20_000
FAST = {"operation_timeout": 1.5, "stall_timeout": 1.0, "min_throughput": 1 << 40, "breaker_reset": 0.2}


@asynccontextmanager
async def connected(
    servers: Servers, backend: LocalCPUBackend, errors: str, **settings: object
) -> AsyncIterator[ManagedConnector]:
    config = ConnectorConfig.load(errors=errors, **{**FAST, **settings})
    async with ConnectorManager(servers.url(), local_cpu_backend=backend, config=config) as manager:
        yield manager.create_connector()


def split(servers: Servers) -> tuple[list[str], list[str], list[str]]:
    """All keys, and those of the server that fails and of the others."""
    keys = [f"k{number}" for number in range(30)]
    lost = [key for key in keys if servers.index_of(key) == 0]
    return keys, lost, [key for key in keys if key not in lost]


async def put_all(connector: ManagedConnector, backend: LocalCPUBackend, keys: Sequence[str]) -> None:
    with chunks(backend, keys, NBYTES) as objs:
        await connector.batched_put(keys, objs)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_its_keys_are_misses_and_the_others_are_hits(servers: Servers, backend: LocalCPUBackend) -> None:
    keys, lost, others = split(servers)
    async with connected(servers, backend, "miss") as connector:
        await put_all(connector, backend, keys)
        servers.servers[0].kill()
        for _ in range(4):
            found = await connector.batched_get(keys)
            assert [obj is not None for obj in found] == [key in others for key in keys]
            assert all(holds(obj, key) for obj, key in zip(found, keys, strict=True) if obj is not None)
            assert await connector.batched_exists(keys) == [key in others for key in keys]
            assert await connector.batched_remove(["none", *lost]) == [servers.index_of("none") != 0] + [False] * len(
                lost
            )
            assert await connector.get(lost[0]) is None
            assert holds(await connector.get(others[0]), others[0])
        counted = connector.statistics()["batched_get"]
        assert counted.hits == 4 * len(others)
        assert sum(counted.misses.values()) == 4 * len(lost)
        assert set(counted.misses) <= {"StoreUnavailableError", "CircuitOpenError"}


async def test_memory_of_the_caller_has_what_the_others_have_brought_and_stored(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    keys, _, others = split(servers)
    sources = [payload(key, NBYTES) for key in keys]
    for errors in ("miss", "raise"):
        servers.flush()
        async with connected(servers, backend, errors) as connector:
            await connector.batched_put_from(keys, sources)
            servers.servers[0].kill()
            buffers = [bytearray(NBYTES) for _ in keys]
            if errors == "miss":
                assert await connector.batched_get_into(keys, buffers) == [key in others for key in keys]
                assert await connector.batched_put_from(keys, sources) == [key in others for key in keys]
            else:
                with pytest.raises(StoreUnavailableError, match=f":{servers.servers[0].port}: "):
                    await connector.batched_get_into(keys, buffers)
                with pytest.raises(StoreUnavailableError, match=f":{servers.servers[0].port}: "):
                    await connector.batched_put_from(keys, sources)
            came = [bytes(buffer) == source for buffer, source in zip(buffers, sources, strict=True)]
            assert came == [key in others for key in keys], errors
            assert await connector.batched_exists(others) == [True] * len(others)
            assert connector.breaker_state is BreakerState.CLOSED


async def test_what_the_others_have_stored_stands_when_a_put_raises(servers: Servers, backend: LocalCPUBackend) -> None:
    keys, _, others = split(servers)
    async with connected(servers, backend, "raise") as connector:
        servers.servers[0].kill()
        with pytest.raises(StoreUnavailableError):
            await put_all(connector, backend, keys)
        assert await connector.batched_exists(others) == [True] * len(others)
        with pytest.raises(StoreUnavailableError):
            await connector.batched_exists(keys)
        with pytest.raises(StoreUnavailableError):
            await connector.list()


async def test_its_breaker_opens_and_closes_and_no_other_one_does(servers: Servers, backend: LocalCPUBackend) -> None:
    keys, lost, others = split(servers)
    failed = f"redis://{servers.servers[0].host}:{servers.servers[0].port}"
    async with connected(servers, backend, "raise", breaker_reset=0.5) as connector:
        await put_all(connector, backend, keys)
        servers.servers[0].kill()
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await connector.get(lost[0])
        with pytest.raises(CircuitOpenError, match="the circuit breaker is open"):
            await connector.get(lost[0])
        states = {state.server: state for state in connector.servers()}
        assert states.pop(failed).breaker is BreakerState.OPEN
        assert {state.breaker for state in states.values()} == {BreakerState.CLOSED}
        assert {state.failures for state in states.values()} == {0}
        assert holds(await connector.get(others[0]), others[0])
        servers.servers[0].restart()
        await until(lambda: {state.server: state for state in connector.servers()}[failed].breaker.value == "half_open")
        assert await connector.get(lost[0]) is None  # it came back empty
        await put_all(connector, backend, keys)
        assert await connector.batched_exists(keys) == [True] * len(keys)
        assert {state.breaker for state in connector.servers()} == {BreakerState.CLOSED}


async def test_a_server_that_stands_still_costs_its_keys_by_the_deadline(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    keys, lost, others = split(servers)
    async with connected(servers, backend, "miss", operation_timeout=0.6, retries=0) as connector:
        await put_all(connector, backend, keys)
        servers.servers[0].pause()
        try:
            began = time.monotonic()
            found = await connector.batched_get(keys)
            assert time.monotonic() - began < 0.6
            assert all(holds(obj, key) for obj, key in zip(found, keys, strict=True) if key in others)
            assert [obj is not None for obj in found] == [key in others for key in keys]
            for _ in range(5):
                assert await connector.get(lost[0]) is None
            assert connector.statistics()["get"].errors["CircuitOpenError"]
        finally:
            servers.servers[0].resume()
        async with asyncio.timeout(10):
            while not holds(await connector.get(lost[0]), lost[0]):
                await asyncio.sleep(0.02)


async def test_a_thread_asks_a_server_that_stands_still_once(servers: Servers, backend: LocalCPUBackend) -> None:
    _, lost, others = split(servers)
    async with connected(servers, backend, "miss", operation_timeout=0.4, retries=0) as connector:

        def get(key: str) -> bool:
            return holds(connector.sync.get(key), key)

        await put_all(connector, backend, [*lost, *others])
        async with asyncio.timeout(10):
            while not (await asyncio.to_thread(get, lost[0]) and connector.inside.own_thread_calls() is not None):
                await asyncio.sleep(0.01)
        for _ in range(5):
            assert await asyncio.to_thread(get, lost[0])
        servers.servers[0].pause()
        try:
            for _ in range(8):
                assert not await asyncio.to_thread(get, lost[0])
            assert connector.servers() != []
            assert max(state.failures for state in connector.servers()) >= 5  # the breaker was told by the loop
            assert await asyncio.to_thread(get, others[0])
        finally:
            servers.servers[0].resume()


async def test_a_ping_fails_where_no_server_answers_and_names_them(servers: Servers, backend: LocalCPUBackend) -> None:
    async with connected(servers, backend, "raise") as connector:
        await put_all(connector, backend, split(servers)[0])
        servers.servers[0].kill()
        assert await connector.ping() == 0
        for server in servers.servers[1:]:
            server.kill()
        with pytest.raises(StoreUnavailableError, match="none of 3 servers answers") as failed:
            await connector.ping()
        assert all(f":{server.port}" in str(failed.value) for server in servers.servers)


async def test_a_server_that_stands_still_makes_its_store_degraded_and_no_ping_wait_for_its_timeouts(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(operation_timeout=60, stall_timeout=60)
    async with ConnectorManager(servers.url(), local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        still = servers.servers[0]
        still.pause()
        try:
            check = HealthCheck(manager, freshness=0.0)
            outcomes = [(await check.check(2.0))[0] for _ in range(config.breaker_failures)]
            assert all(found.is_usable for found in outcomes)
            assert outcomes[-1].health == "degraded"
            assert f":{still.port} does not answer" in (outcomes[-1].detail or "")
            (late,) = [state for state in connector.servers() if state.failures]
            assert (late.error, late.breaker) == ("OperationTimeoutError", BreakerState.OPEN)
        finally:
            still.resume()
        assert await connector.ping() == 0
        assert not [state for state in connector.servers() if state.failures]


async def test_its_store_is_degraded_and_the_server_is_named(servers: Servers, backend: LocalCPUBackend) -> None:
    config = ConnectorConfig.load(errors="miss", **FAST)
    async with ConnectorManager(servers.url(), local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        await put_all(connector, backend, split(servers)[0])
        check = HealthCheck(manager, freshness=0.0)
        assert [found.health for found in await check.check(2.0)] == ["ok"]
        servers.servers[0].kill()
        async with asyncio.timeout(10):
            while (found := (await check.check(2.0))[0]).health == "ok":
                await asyncio.sleep(0.01)
        assert found.health == "degraded"
        assert found.is_usable
        assert [one.operation for one in found.trouble] == ["server"]
        assert f":{servers.servers[0].port} does not answer, and costs its share of the keys" in str(found.detail)


async def test_announcements_go_to_the_servers_that_answer(servers: Servers, backend: LocalCPUBackend) -> None:
    async with connected(servers, backend, "raise") as connector:
        servers.servers[0].kill()
        inside = connector.inside
        await inside.announce("worker", b"{}", 60)
        assert await inside.announced() == [b"{}"]
        for server in servers.servers:
            server.kill()
        with pytest.raises(StoreUnavailableError):
            await inside.announced()


async def test_a_server_that_refuses_the_login_is_an_error_also_where_failures_are_misses(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    keys, _, others = split(servers)
    with servers.servers[0].client() as client:
        client.config_set("requirepass", "another")
        try:
            async with connected(servers, backend, "miss") as connector:
                with pytest.raises(AuthenticationError):
                    await connector.batched_get(keys)
                assert await connector.batched_exists(others) == [False] * len(others)
        finally:
            client.config_set("requirepass", "")


async def test_a_deadline_of_the_callers_own_says_nothing_about_a_server(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    keys, lost, _ = split(servers)
    async with connected(servers, backend, "raise") as connector:
        await put_all(connector, backend, keys)
        servers.servers[0].pause()
        try:
            for _ in range(6):
                with pytest.raises(TimeoutError) as late:
                    async with asyncio.timeout(0.01):
                        await connector.batched_get(keys)
                assert not isinstance(late.value, StoreError)
            assert {state.failures for state in connector.servers()} == {0}
        finally:
            servers.servers[0].resume()
        assert holds(await connector.get(lost[0]), lost[0])


@pytest.mark.parametrize("io", ["thread", pytest.param("loop", marks=pytest.mark.long)])
async def test_a_put_tells_what_the_others_have_stored_while_a_server_stands_still(
    servers: Servers, backend: LocalCPUBackend, io: str
) -> None:
    keys = [key for index in range(3) for key in servers.keys_on(index, 3)]
    others = keys[3:]
    nbytes = 6 << 20
    settings = {**FAST, "operation_timeout": 2.0, "stall_timeout": 10.0}
    config = ConnectorConfig.load(errors="miss", **settings)
    async with ConnectorManager(servers.url(io=io), local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        sources = [payload(key, nbytes) for key in keys]
        assert await connector.batched_put_from(keys, sources) == [True] * len(keys)
        servers.servers[0].pause()
        try:
            began = time.monotonic()
            assert await connector.batched_put_from(keys, sources) == [key in others for key in keys]
            assert time.monotonic() - began < 2.0
            buffers = [bytearray(nbytes) for _ in keys]
            assert await connector.batched_get_into(keys, buffers) == [key in others for key in keys]
            assert all(
                buffer == source for key, buffer, source in zip(keys, buffers, sources, strict=True) if key in others
            )
        finally:
            servers.servers[0].resume()


async def test_a_put_of_a_blocking_caller_whose_answer_was_lost_is_not_sent_again(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    def sets(server: StoreServer) -> int:
        with server.client() as client:
            return int(client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"])

    with behind_proxies(servers) as (ring, proxies):
        own = ring.index_of("k")
        async with ConnectorManager(
            ring.url(), local_cpu_backend=backend, config=ConnectorConfig.load(errors="raise", retries=2)
        ) as manager:
            sync = manager.create_connector().sync

            def put_twice() -> int:
                for _ in range(5):  # the first ones open the connection of blocking callers
                    assert sync.put_from("k", payload("k", 500))
                before = sets(servers.servers[own])
                proxies[own].arm(Fault(FaultKind.RESET))
                with pytest.raises(StoreError):
                    sync.put_from("k", payload("k", 500))
                proxies[own].disarm()
                return sets(servers.servers[own]) - before

            assert await asyncio.to_thread(put_twice) == 1
