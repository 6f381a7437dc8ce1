"""A connection that is cut costs only the calls that were on it, and counts once."""

from __future__ import annotations

import asyncio
import random

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, StoreUnavailableError
from lmcache_connect.managed import BreakerState
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RedisServer, ValkeyServer

from .conftest import CONFIG
from .crowd import TIME_LIMIT, Crowd
from .stock import KIB, MIB, SMALL, STRIPED, WHOLE, Stock

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

CUTS = (FaultKind.RESET, FaultKind.CLOSE, FaultKind.TRUNCATE_AND_CLOSE)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("kind", CUTS)
async def test_where_connections_are_cut_every_call_is_repeated_and_gets_its_own_answer(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend, kind: FaultKind, direction: Direction
) -> None:
    with FaultProxy(server.host, server.port) as proxy, server.client() as client:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
            connector = manager.create_connector()
            stock = await Stock(SMALL + WHOLE + STRIPED).fill(connector, client)
            rng = random.Random(7)
            crowd = Crowd(connector, stock, rng)
            for after_bytes in (1, 200, 70 * KIB, 2 * MIB):
                proxy.arm(Fault(kind, direction, after_bytes=after_bytes, count=1))
                await crowd.run(100)
                proxy.disarm()
            assert connector.breaker_state is BreakerState.CLOSED
            assert all(item.retries <= item.calls for item in connector.statistics().values())


async def test_without_retries_a_cut_connection_fails_some_calls_and_all_others_get_their_own_answer(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    config = CONFIG.model_copy(update={"retries": 0, "breaker_failures": 1000})
    with FaultProxy(server.host, server.port) as proxy, server.client() as client:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
            connector = manager.create_connector()
            stock = await Stock(SMALL + WHOLE, damaged=()).fill(connector, client)
            crowd = Crowd(connector, stock, random.Random(8))
            proxy.arm(Fault(FaultKind.RESET, after_bytes=MIB, count=1))
            calls = [crowd.get(random.Random(n).choice(stock.chunks)) for n in range(200)]
            async with asyncio.timeout(TIME_LIMIT):
                ended = await asyncio.gather(*calls, return_exceptions=True)
            failed = [error for error in ended if error is not None]
            assert proxy.fired == 1
            assert 1 <= len(failed) < len(calls)
            assert all(isinstance(error, StoreUnavailableError) for error in failed), failed
            assert connector.statistics()["get"].errors == {"StoreUnavailableError": len(failed)}
            await crowd.run(50)


async def handshake_bytes(proxy: FaultProxy, connector: ManagedConnector) -> int:
    """The bytes that a new connection sends to a client before the first reply to a look-up."""
    before = proxy.bytes_to_client
    assert await connector.exists("k") is False
    proxy.disarm()  # the proxy does this when it has counted what it has sent
    return proxy.bytes_to_client - before - len(b":0\r\n")


async def many_look_ups(connector: ManagedConnector) -> list[bool | BaseException]:
    """The outcomes of fifty look-ups at the same time."""
    async with asyncio.timeout(TIME_LIMIT):
        return await asyncio.gather(*[connector.exists("k") for _ in range(50)], return_exceptions=True)


def without_retries(breaker_failures: int) -> ConnectorConfig:
    return ConnectorConfig.load(
        operation_timeout=40, stall_timeout=20, retries=0, breaker_failures=breaker_failures, breaker_reset=60
    )


async def test_one_cut_connection_opens_no_breaker_however_many_calls_were_on_it(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=without_retries(5)) as manager:
            connector = manager.create_connector()
            assert await connector.exists("k") is False
            for _ in range(10):
                proxy.arm(Fault(FaultKind.RESET, after_bytes=2, count=1))
                outcomes = await many_look_ups(connector)
                assert all(outcome is False or isinstance(outcome, StoreUnavailableError) for outcome in outcomes)
                assert connector.breaker_state is BreakerState.CLOSED
                proxy.disarm()
                assert await connector.exists("k") is False  # also what follows is answered


async def test_the_breaker_counts_a_failed_connection_once_and_not_each_call_that_was_on_it(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=without_retries(5)) as manager:
            connector = manager.create_connector()
            after_bytes = await handshake_bytes(proxy, connector) + 1
            proxy.drop_all()
            assert await connector.exists("k") is False  # over a new connection
            proxy.arm(Fault(FaultKind.RESET, after_bytes=after_bytes))  # every connection, in its first reply
            proxy.drop_all()
            made = proxy.connections
            outcomes = await many_look_ups(connector)
            assert all(isinstance(outcome, StoreUnavailableError) for outcome in outcomes), outcomes
            failed = proxy.connections - made
            assert failed < 5
            assert connector.breaker_state is BreakerState.CLOSED


async def test_five_failed_connections_in_a_row_open_the_breaker(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=without_retries(5)) as manager:
            connector = manager.create_connector()
            after_bytes = await handshake_bytes(proxy, connector) + 1
            proxy.arm(Fault(FaultKind.CLOSE, after_bytes=after_bytes))
            proxy.drop_all()
            for number in range(5):
                assert connector.breaker_state is BreakerState.CLOSED, number
                with pytest.raises(StoreUnavailableError):
                    await connector.exists("k")
            assert connector.breaker_state is BreakerState.OPEN
