"""What happens when the network, the server or the caller fails in the middle. Faults come from a real proxy."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorClosedError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    OperationTimeoutError,
    StoreUnavailableError,
)
from lmcache_connect.errors import AllocationTimeoutError, CircuitOpenError
from lmcache_connect.managed import BreakerState
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.testing.loop_watch import LoopWatch

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

MIB = 1 << 20
T = TypeVar("T")


@pytest.fixture
def proxy(valkey_server: ValkeyServer, valkey_url: str) -> Iterator[FaultProxy]:
    with FaultProxy(valkey_server.host, valkey_server.port) as running:
        yield running


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest_asyncio.fixture(params=["thread", "loop"])
async def connector(
    request: pytest.FixtureRequest, proxy: FaultProxy, backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    config = ConnectorConfig.load(operation_timeout=0.3, min_throughput=1 << 40, retries=0, breaker_failures=1000)
    url = f"redis://{proxy.host}:{proxy.port}?io={request.param}"
    async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
        yield manager.create_connector()
        proxy.disarm()


async def test_after_four_timed_out_calls_the_fifth_works(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    with chunk(backend, "k", MIB) as obj:
        await connector.put("k", obj)
    proxy.arm(Fault(FaultKind.STALL, after_bytes=0))
    for _ in range(4):
        with pytest.raises(OperationTimeoutError, match="get did not finish within"):
            await connector.get("k")
    proxy.disarm()
    assert holds(await connector.get("k"), "k")


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("operation", ["get", "put"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_call_cancelled_at_a_random_byte_leaves_a_working_connector_and_no_memory(
    connector: ManagedConnector,
    backend: LocalCPUBackend,
    proxy: FaultProxy,
    direction: Direction,
    operation: str,
    seed: int,
) -> None:
    with chunk(backend, "other", MIB) as other, chunk(backend, "k", MIB) as obj:
        await connector.put("other", other)
        await connector.put("k", obj)
        # Small replies and requests stop at their first bytes, payloads anywhere in them.
        carries_payload = (operation == "get") == (direction is Direction.TO_CLIENT)
        after = random.Random(seed).randrange(MIB) if carries_payload else 0
        proxy.arm(Fault(FaultKind.STALL, direction, after_bytes=after))
        call = asyncio.ensure_future(connector.get("k") if operation == "get" else connector.put("k", obj))
        assert await asyncio.to_thread(proxy.wait_fired, 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert obj.get_ref_count() == 1
        proxy.disarm()
        assert holds(await connector.get("other"), "other")
        await connector.put("k", obj)
        assert holds(await connector.get("k"), "k")


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.CLOSE, FaultKind.TRUNCATE_AND_CLOSE])
@pytest.mark.parametrize("after", [0, 1, 4, 30, 100, 5000, MIB // 2, MIB + 80])
async def test_a_connection_lost_inside_a_value_is_an_error_and_never_data(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy, kind: FaultKind, after: int
) -> None:
    with chunk(backend, "k", MIB) as obj:
        await connector.put("k", obj)
    proxy.arm(Fault(kind, after_bytes=after, count=1))
    with pytest.raises(StoreUnavailableError):
        await connector.get("k")
    proxy.disarm()
    assert holds(await connector.get("k"), "k")


async def test_a_bit_flipped_anywhere_on_the_way_is_never_returned(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    size = 64 << 10
    with chunk(backend, "k", size) as obj:
        await connector.put("k", obj)
    for _ in range(2):  # when its size is known, the connection of small gets is opened
        assert holds(await connector.get("k"), "k")
    for offset in [0, 1, 5, 8, 10, 20, 60, 80, 100, 5000, size // 2, size, size + 80, size + 84, size + 89]:
        with chunk(backend, "k", size) as obj:
            await connector.put("k", obj)
        proxy.arm(Fault(FaultKind.FLIP, after_bytes=offset, count=1))
        try:
            found = await connector.get("k")
        except (StoreUnavailableError, ConnectionError, OperationTimeoutError):
            found = None
        proxy.disarm()
        if found is not None:  # the flip fell behind the reply
            assert offset >= size + 84
            assert holds(found, "k")


async def test_a_batch_cut_in_the_middle_gives_back_what_it_had(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    keys = [f"k{i}" for i in range(12)]
    objs = [chunk(backend, key, MIB) for key in keys]
    await connector.batched_put(keys, objs)
    proxy.arm(Fault(FaultKind.RESET, after_bytes=2 * MIB + 77))
    with pytest.raises(StoreUnavailableError):
        await connector.batched_get(keys)
    proxy.disarm()
    assert [holds(obj, key) for key, obj in zip(keys, await connector.batched_get(keys), strict=True)] == [True] * 12
    for obj in objs:
        obj.ref_count_down()
    del objs, obj


async def test_a_batch_cancelled_in_the_middle_gives_back_what_it_had(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    keys = [f"k{i}" for i in range(12)]
    objs = [chunk(backend, key, MIB) for key in keys]
    await connector.batched_put(keys, objs)
    for obj in objs:
        obj.ref_count_down()
    proxy.arm(Fault(FaultKind.STALL, after_bytes=2 * MIB + 77))
    call = asyncio.ensure_future(connector.batched_get(keys))
    assert await asyncio.to_thread(proxy.wait_fired, 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    proxy.disarm()
    assert [holds(obj, key) for key, obj in zip(keys, await connector.batched_get(keys), strict=True)] == [True] * 12
    del objs, obj


async def test_a_stalled_get_does_not_hold_up_other_operations(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    with chunk(backend, "k", MIB) as obj:
        await connector.put("k", obj)
    proxy.arm(Fault(FaultKind.STALL, after_bytes=1000, count=1))
    stalled = asyncio.ensure_future(connector.get("k"))
    assert await asyncio.to_thread(proxy.wait_fired, 5)
    assert await connector.exists("k")
    assert holds(await connector.get("k"), "k")
    with pytest.raises(OperationTimeoutError):
        await stalled


async def test_close_with_operations_in_flight_ends_within_its_grace_period_and_answers_every_waiter(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy, valkey_url: str
) -> None:
    config = ConnectorConfig.load(operation_timeout=60, retries=0)
    url = f"redis://{proxy.host}:{proxy.port}"
    async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
        slow = manager.create_connector()
        with chunk(backend, "k", MIB) as obj:
            await slow.put("k", obj)
            proxy.arm(Fault(FaultKind.STALL, after_bytes=10))
            gets = [asyncio.ensure_future(slow.get("k")) for _ in range(8)]
            puts = [asyncio.ensure_future(slow.put("k", obj)) for _ in range(8)]
            assert await asyncio.to_thread(proxy.wait_fired, 5)
            started = time.monotonic()
            await slow.close(grace=0.2)
            assert 0.15 < time.monotonic() - started < 1.0
            answers = await asyncio.gather(*gets, *puts, return_exceptions=True)
            assert [type(answer) for answer in answers] == [ConnectorClosedError] * 16
        with pytest.raises(ConnectorClosedError):
            await slow.get("k")
        del answers, gets, puts


async def test_close_lets_an_operation_finish_that_needs_less_than_the_grace_period(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    with chunk(backend, "k", MIB) as obj:
        await connector.put("k", obj)
    proxy.arm(Fault(FaultKind.STALL, after_bytes=10))
    call = asyncio.ensure_future(connector.get("k"))
    assert await asyncio.to_thread(proxy.wait_fired, 5)
    closing = asyncio.ensure_future(connector.close(grace=5))
    await asyncio.sleep(0)
    proxy.disarm()
    assert holds(await call, "k")
    await closing


async def test_a_get_with_the_arena_full_waits_without_blocking_the_loop_and_times_out_cleanly(
    proxy: FaultProxy, valkey_url: str
) -> None:
    config = ConnectorConfig.load(operation_timeout=10, allocate_timeout=0.2, retries=0)
    with LocalCPUBackend(2 * MIB) as small:
        async with ConnectorManager(valkey_url, local_cpu_backend=small, config=config) as manager:
            connector = manager.create_connector()
            with chunk(small, "k", MIB) as obj:
                await connector.put("k", obj)
            held = chunk(small, "held", 2 * MIB)
            async with LoopWatch() as watch:
                with pytest.raises(AllocationTimeoutError, match="no room for 1048576 bytes"):
                    await connector.get("k")
            assert watch.longest < 0.1
            waiting = asyncio.ensure_future(connector.get("k"))
            while small.statistics().waiters == 0:
                await asyncio.sleep(0)
            held.ref_count_down()
            assert holds(await waiting, "k")
        gc.collect()
        assert small.statistics().reserved == 0


async def test_the_breaker_opens_when_the_server_dies_and_closes_by_itself_when_it_is_back() -> None:
    config = ConnectorConfig.load(operation_timeout=1, retries=0, breaker_failures=3, breaker_reset=0.05)
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), config=config) as manager:
            connector = manager.create_connector()
            assert await connector.ping() == 0
            server.kill()
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    await connector.exists("k")
            with pytest.raises(CircuitOpenError, match="next probe in"):
                await connector.exists("k")
            await asyncio.to_thread(server.restart)
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                try:
                    assert await connector.exists("k") is False
                    break
                except CircuitOpenError as error:
                    await asyncio.sleep(error.retry_in)
            else:
                pytest.fail("the breaker never closed")


async def _when_due(call: Callable[[], Awaitable[T]]) -> T:
    """Makes a call when the breaker lets it through."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return await call()
        except CircuitOpenError as error:
            assert time.monotonic() < deadline, "the breaker never closed"
            await asyncio.sleep(error.retry_in)


async def test_the_first_miss_closes_what_gets_from_a_dead_server_have_opened() -> None:
    config = ConnectorConfig.load(operation_timeout=1, retries=0, breaker_failures=3, breaker_reset=0.05)
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), config=config) as manager:
            connector = manager.create_connector()
            server.kill()
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    await connector.get("k")
            await asyncio.to_thread(server.restart)  # what it held is gone, so that a get moves nothing
            assert await _when_due(lambda: connector.get("k")) is None
            assert connector.breaker_state is BreakerState.CLOSED


async def test_a_put_need_not_wait_behind_misses_where_transfers_have_stalled(
    proxy: FaultProxy, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(
        operation_timeout=0.3, min_throughput=1 << 40, retries=0, breaker_failures=1, breaker_reset=60
    )
    async with ConnectorManager(
        f"redis://{proxy.host}:{proxy.port}", local_cpu_backend=backend, config=config
    ) as manager:
        connector = manager.create_connector()
        assert await connector.exists("k") is False
        proxy.arm(Fault(FaultKind.STALL, count=None))
        with pytest.raises(OperationTimeoutError):
            await connector.get("k")
        proxy.disarm()
        connector._runner.breaker._opened_at -= 60  # type: ignore[operator]  # a minute later
        assert await connector.get("k") is None
        assert connector.breaker_state.value == "half_open"
        with chunk(backend, "k", 1000) as obj:
            await connector.put("k", obj)
        assert connector.breaker_state.value == "closed"


async def test_a_frozen_server_costs_one_deadline_and_a_thawed_one_is_used_again() -> None:
    config = ConnectorConfig.load(operation_timeout=0.2, min_throughput=1 << 40, retries=2)
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), config=config) as manager:
            connector = manager.create_connector()
            assert await connector.exists("k") is False
            server.pause()
            started = time.monotonic()
            with pytest.raises(OperationTimeoutError):
                await connector.exists("k")
            assert time.monotonic() - started < 1.0
            server.resume()
            assert await connector.exists("k") is False


async def test_with_errors_miss_a_dead_store_is_a_miss_and_a_dropped_put_counted_by_reason() -> None:
    config = ConnectorConfig.load(errors="miss", operation_timeout=1, retries=0, breaker_failures=1000)
    with ValkeyServer() as server, LocalCPUBackend(8 * MIB) as backend:
        async with ConnectorManager(server.url(), local_cpu_backend=backend, config=config) as manager:
            connector = manager.create_connector()
            with chunk(backend, "k", MIB) as obj:
                await connector.put("k", obj)
                server.kill()
                assert await connector.get("k") is None
                assert await connector.exists("k") is False
                assert await connector.batched_get(["k", "l"]) == [None, None]
                assert await connector.batched_exists(["k", "l"]) == [False, False]
                await connector.put("k", obj)
            statistics = connector.statistics()
            assert statistics["get"].misses == {"StoreUnavailableError": 1}
            assert statistics["put"].errors == {"StoreUnavailableError": 1}
            assert statistics["batched_get"].misses == {"StoreUnavailableError": 2}


async def test_a_retried_operation_survives_a_server_restart_between_two_calls() -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(server.url()) as manager:
            connector = manager.create_connector()
            assert await connector.exists("k") is False
            await asyncio.to_thread(server.restart)
            assert await connector.exists("k") is False
