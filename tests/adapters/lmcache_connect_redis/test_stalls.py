"""A connection on which nothing moves is dead after `stall_timeout`, whatever the deadline. A slow one is not."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import CircuitOpenError, StoreStalledError, StoreUnavailableError
from lmcache_connect.managed import BreakerState
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RedisServer, ValkeyServer

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

MIB: Final = 1 << 20
STALL: Final = 0.4
SLACK: Final = 2.0
"""How much later than `STALL` an answer may come on a busy machine. Deadlines here are far beyond."""

CONFIG: Final = ConnectorConfig.load(
    operation_timeout=20, stall_timeout=STALL, retries=0, breaker_failures=1000, close_grace=0.1
)


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(128 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    if not RedisServer.available():
        pytest.skip("tls_server: no redis-server on PATH")
    with RedisServer(tls=True) as running:
        yield running


@pytest.fixture(params=["loop", "thread", "tls-loop", "tls-thread"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest, kind: str) -> RedisServer | ValkeyServer:
    name = "tls_server" if kind.startswith("tls") else "valkey_server"
    found: RedisServer | ValkeyServer = request.getfixturevalue(name)
    found.flush()
    return found


@pytest.fixture
def proxy(server: RedisServer | ValkeyServer, kind: str) -> Iterator[FaultProxy]:
    with FaultProxy(server.host, server.tls_port if kind.startswith("tls") else server.port) as running:
        yield running


@pytest_asyncio.fixture
async def connector(
    proxy: FaultProxy, server: RedisServer | ValkeyServer, kind: str, backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    url = f"redis://{proxy.host}:{proxy.port}?io={kind}"
    if isinstance(server, RedisServer):
        url = f"rediss://{proxy.host}:{proxy.port}?ca_file={server.ca_file}&io={kind[4:]}"
    async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
        yield manager.create_connector()
        proxy.disarm()


async def seconds_until_stalled(call: Awaitable[object]) -> float:
    started = time.monotonic()
    with pytest.raises(StoreStalledError, match=r"moved no byte for 0\.4 s \(see the setting stall_timeout\)"):
        await call
    return time.monotonic() - started


@pytest.mark.parametrize("after_bytes", [0, 1, 3 * MIB])
async def test_a_get_whose_answer_stops_ends_after_the_stall_timeout(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy, after_bytes: int
) -> None:
    with chunk(backend, "k", 4 * MIB) as obj:
        await connector.put("k", obj)
    proxy.arm(Fault(FaultKind.STALL, after_bytes=after_bytes))
    assert STALL - 0.01 <= await seconds_until_stalled(connector.get("k")) < STALL + SLACK
    proxy.disarm()
    assert holds(await connector.get("k"), "k")


@pytest.mark.parametrize("after_bytes", [0, 3 * MIB])
async def test_a_put_that_nobody_takes_ends_after_the_stall_timeout(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy, after_bytes: int
) -> None:
    with chunk(backend, "k", 24 * MIB) as obj:
        await connector.put("k", obj)
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=after_bytes))
        assert await seconds_until_stalled(connector.put("k", obj)) < STALL + 2 * SLACK
        proxy.disarm()
        await connector.put("k", obj)
    assert holds(await connector.get("k"), "k")


CALLS: Final[dict[str, Callable[[ManagedConnector], Awaitable[object]]]] = {
    "ping": lambda connector: connector.ping(),
    "exists": lambda connector: connector.exists("k"),
    "batched_exists": lambda connector: connector.batched_exists(["k"] * 600),
    "remove": lambda connector: connector.remove("k"),
    "list": lambda connector: connector.list(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("direction", list(Direction))
async def test_a_small_call_without_an_answer_ends_after_the_stall_timeout(
    connector: ManagedConnector, proxy: FaultProxy, call: str, direction: Direction
) -> None:
    await connector.ping()
    proxy.arm(Fault(FaultKind.STALL, direction))
    assert STALL - 0.01 <= await seconds_until_stalled(CALLS[call](connector)) < STALL + SLACK
    proxy.disarm()
    await CALLS[call](connector)


async def test_a_server_that_says_nothing_to_a_new_connection_costs_the_stall_timeout(
    connector: ManagedConnector, proxy: FaultProxy
) -> None:
    proxy.arm(Fault(FaultKind.STALL))
    started = time.monotonic()
    with pytest.raises(StoreStalledError, match=r"moved no byte for 0\.4 s"):
        await connector.ping()
    assert time.monotonic() - started < STALL + SLACK


async def test_a_stopped_server_costs_the_stall_timeout_and_a_continued_one_answers(
    connector: ManagedConnector, backend: LocalCPUBackend, server: RedisServer | ValkeyServer
) -> None:
    with chunk(backend, "k", 8 * MIB) as obj:
        await connector.put("k", obj)
        await connector.ping()
        server.pause()
        try:
            calls = (connector.get("k"), connector.put("k", obj), connector.ping())
            took = await asyncio.gather(*map(seconds_until_stalled, calls))
        finally:
            server.resume()
        assert max(took) < STALL + 2 * SLACK
        await connector.put("k", obj)
    assert holds(await connector.get("k"), "k")


async def test_bytes_that_come_slowly_and_without_a_pause_are_waited_for(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    with chunk(backend, "k", 2 * MIB) as obj:
        await connector.put("k", obj)
    getting = asyncio.create_task(connector.get("k"))
    started = time.monotonic()
    for step in range(4):  # a quarter of the chunk, and then silence for less than the stall timeout
        proxy.arm(Fault(FaultKind.STALL, after_bytes=MIB // 2))
        await asyncio.sleep(0.6 * STALL)
        assert not getting.done(), step
    proxy.disarm()
    assert holds(await getting, "k")
    assert time.monotonic() - started > 2 * STALL


async def test_a_loop_that_was_held_looks_at_what_has_come_before_it_calls_a_connection_dead(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    with chunk(backend, "k", MIB // 2) as obj:
        await connector.put("k", obj)
    getting = asyncio.create_task(connector.get("k"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(2 * STALL)  # noqa: ASYNC251 - holding the loop is the case
    assert holds(await getting, "k")


async def test_after_a_stall_no_other_idle_connection_is_trusted(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    with chunk(backend, "k", MIB // 2) as obj:
        await connector.put("k", obj)
        got = await asyncio.gather(*(connector.get("k") for _ in range(8)))
        assert [holds(each, "k") for each in got] == [True] * 8
        await connector.ping()
        opened = proxy.connections
        proxy.arm(Fault(FaultKind.SWALLOW, Direction.TO_SERVER, count=1))
        # What a NAT that forgot the connections does: requests vanish. New connections work.
        assert await seconds_until_stalled(connector.get("k")) < STALL + SLACK
        started = time.monotonic()
        assert holds(await connector.get("k"), "k")
        await connector.ping()
        assert time.monotonic() - started < STALL
        assert proxy.connections == opened + 2


async def test_a_stalled_batch_keeps_the_byte_budget_and_the_pool_for_the_stall_timeout_only(
    proxy: FaultProxy, backend: LocalCPUBackend, kind: str
) -> None:
    if kind.startswith("tls"):
        pytest.skip("the budget is the same")
    config = CONFIG.model_copy(update={"max_bytes_in_flight": 20 * MIB, "retries": 5, "min_throughput": MIB})
    url = f"redis://{proxy.host}:{proxy.port}?io={kind}&pool_size=1"
    async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        with chunk(backend, "large", 20 * MIB) as large, chunk(backend, "small", MIB) as small:
            await connector.put("small", small)
            proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=MIB, count=1))
            stalled = asyncio.create_task(connector.put("large", large))
            assert await asyncio.to_thread(proxy.wait_fired, 5)
            started = time.monotonic()
            await connector.put("small", small)
            assert time.monotonic() - started < STALL + 2 * SLACK
            await stalled  # over a fresh connection
        assert holds(await connector.get("large"), "large")
        assert connector.statistics()["put"].retries == 1


async def test_pings_that_are_answered_do_not_hide_transfers_that_stall_and_the_probe_is_small(
    proxy: FaultProxy, backend: LocalCPUBackend, kind: str
) -> None:
    if kind.startswith("tls"):
        pytest.skip("the breaker is the same")
    config = CONFIG.model_copy(update={"breaker_failures": 2, "breaker_reset": 0.2})
    async with ConnectorManager(f"redis://{proxy.host}:{proxy.port}", None, backend, config) as manager:
        connector = manager.create_connector()
        with chunk(backend, "k", 24 * MIB) as obj:
            await connector.ping()
            await connector.put("small", obj)
            # Small messages pass, large ones do not: what a path with a wrong MTU does.
            proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=MIB))
            for _ in range(2):
                await seconds_until_stalled(connector.put("k", obj))
                await connector.ping()
            assert connector.breaker_state is not BreakerState.CLOSED
            with pytest.raises(CircuitOpenError):
                for _ in range(3):
                    await connector.put("k", obj)
            for _ in range(3):
                await connector.ping()
            assert connector.breaker_state.value != "closed"
            proxy.disarm()
            started = time.monotonic()
            while connector.breaker_state.value != "closed":
                try:
                    await connector.put("k", obj)
                except CircuitOpenError:
                    await asyncio.sleep(0.02)
            assert time.monotonic() - started < config.breaker_reset + STALL + SLACK


async def test_the_probe_of_a_stopped_server_ends_after_the_stall_timeout_and_others_follow(
    connector: ManagedConnector, backend: LocalCPUBackend, server: RedisServer | ValkeyServer, proxy: FaultProxy
) -> None:
    settings = {"breaker_failures": 1, "breaker_reset": 0.2, "min_throughput": MIB}
    url = server.url()
    async with ConnectorManager(url, None, backend, CONFIG.model_copy(update=settings)) as manager:
        broken = manager.create_connector()
        with chunk(backend, "k", 24 * MIB) as obj:
            await broken.put("k", obj)
            server.pause()
            try:
                await seconds_until_stalled(broken.put("k", obj))
                ends = time.monotonic() + 3 * STALL
                probes = 0
                while time.monotonic() < ends:
                    started = time.monotonic()
                    try:
                        await broken.put("k", obj)
                    except CircuitOpenError:
                        await asyncio.sleep(0.01)
                    except StoreUnavailableError:
                        probes += 1
                        assert time.monotonic() - started < STALL + SLACK
                assert probes >= 2
            finally:
                server.resume()
            started = time.monotonic()
            while broken.breaker_state is not BreakerState.CLOSED:
                try:
                    await broken.put("k", obj)
                except StoreUnavailableError:
                    await asyncio.sleep(0.02)
            assert time.monotonic() - started < 2
