"""Who gets a connection, and what a cancellation reaches: found by review, kept by test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import cast

import anyio
import pytest
import pytest_asyncio

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.loop import LoopOwner
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import RedisServer
from lmcache_connect_redis.connector import RedisConnector

from .chunks import chunk, holds
from .scripted_server import ScriptedServer

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
CONFIG = ConnectorConfig.load(operation_timeout=5, max_local_cpu_bytes=64 * MIB, breaker_failures=1000)


@pytest_asyncio.fixture
async def connector(valkey_url: str) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(f"{valkey_url}?pool_size=2", config=CONFIG) as manager:
        yield manager.create_connector()


async def test_a_busy_caller_does_not_overtake_those_who_wait(connector: ManagedConnector) -> None:
    done = False

    async def hog() -> None:
        while not done:
            await connector.exists("k")

    hogging = asyncio.ensure_future(hog())
    for _ in range(20):
        assert await asyncio.wait_for(connector.exists("k"), 1) is False
    done = True
    await hogging


async def test_gets_on_few_connections_are_served_in_turn(connector: ManagedConnector) -> None:
    with chunk(connector.context.local_cpu_backend, "k", 4096) as obj:
        await connector.put("k", obj)
    served = [0] * 6
    ends = time.monotonic() + 0.3

    async def get(caller: int) -> None:
        while time.monotonic() < ends:
            assert holds(await connector.get("k"), "k")
            served[caller] += 1

    await asyncio.gather(*map(get, range(6)))
    assert min(served) * 2 > max(served), served


async def test_small_calls_release_a_connection_that_others_wait_for_after_a_few_megabytes(valkey_url: str) -> None:
    async with ConnectorManager(f"{valkey_url}?pool_size=1", config=CONFIG) as manager:
        redis = cast(RedisConnector, manager.create_connector().wrapped)
        pool = redis._small_gets._pool
        async with pool.acquired():
            waiting = asyncio.ensure_future(pool.acquire())
            await asyncio.sleep(0)
            for lane in (redis._small_gets, redis._small_puts):
                assert not lane.gives_way(MIB)
                assert lane.gives_way(4 * MIB)
        pool.release(await waiting)
        assert not redis._small_gets.gives_way(64 * MIB)  # nobody waits any more


async def test_no_cancellation_is_lost_when_a_connection_breaks_in_the_same_iteration(
    valkey_server: ValkeyServer,
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, config=CONFIG) as manager:
            connector = manager.create_connector()
            objs = [chunk(manager.local_cpu_backend, f"k{i}", MIB) for i in range(8)]
            await connector.batched_put([f"k{i}" for i in range(8)], objs)
            for obj in objs:
                obj.ref_count_down()
            for _ in range(10):
                proxy.arm(Fault(FaultKind.STALL, after_bytes=MIB))
                call = asyncio.ensure_future(connector.batched_get([f"k{i}" for i in range(8)]))
                assert await asyncio.to_thread(proxy.wait_fired, 5)
                proxy.drop_all()
                # Everything until the end of this turn is blocking, so that both arrive together.
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                proxy.disarm()
            del objs, obj


async def test_a_put_cancelled_from_another_loop_has_let_go_of_its_buffer_when_it_returns(
    valkey_server: ValkeyServer, valkey_url: str
) -> None:
    owner = LoopOwner.start()
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy, LocalCPUBackend(8 * MIB) as backend:
        url = f"redis://{proxy.host}:{proxy.port}?stripe=0"
        async with ConnectorManager(url, owner.loop, backend, CONFIG) as manager:
            connector = manager.create_connector()
            with chunk(backend, "k", 4 * MIB) as obj:
                for _ in range(5):
                    proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=MIB))
                    # anyio delivers its cancellation again in every turn of this loop.
                    with anyio.move_on_after(0.02):
                        await connector.put("k", obj)
                    assert connector.in_flight == 0
                    assert obj.get_ref_count() == 1
                    proxy.disarm()
    await owner.close()


async def test_closing_a_manager_that_was_cancelled_once_closes_everything_the_second_time() -> None:
    manager = ConnectorManager("memory://twice", config=CONFIG)
    connectors = [manager.create_connector() for _ in range(3)]
    released = asyncio.Event()

    async def slow() -> None:
        await released.wait()

    connectors[2].wrapped.close = slow  # type: ignore[method-assign]
    closing = asyncio.ensure_future(manager.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    released.set()
    await manager.close()
    assert all(connector.is_closed for connector in connectors)


async def test_a_corrupt_record_is_a_miss_also_where_it_may_not_be_removed() -> None:
    async with (
        ScriptedServer({b"GET": b"$3\r\nabc\r\n", b"UNLINK": b"-NOPERM no\r\n"}) as server,
        ConnectorManager(server.url, config=CONFIG) as manager,
    ):
        connector = manager.create_connector()
        assert await connector.get("k") is None
        assert await connector.batched_get(["k", "l"]) == [None, None]
        assert connector.statistics()["batched_get"].misses == {"corrupt:short": 2}


async def test_a_server_that_repeats_the_credentials_is_not_quoted() -> None:
    with RedisOrScripted() as url:
        async with ConnectorManager(url, config=CONFIG) as manager:
            with pytest.raises(AuthenticationError) as caught:
                await manager.create_connector().get("k")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


class RedisOrScripted:
    """A real server that does not know AUTH and says so with its arguments."""

    def __enter__(self) -> str:
        kind = RedisServer if RedisServer.available() else ValkeyServer
        self.server = kind(config={"rename-command": 'AUTH ""'})
        self.server.start()
        return f"redis://bob:s3cr3t@{self.server.host}:{self.server.port}"

    def __exit__(self, *_: object) -> None:
        self.server.stop()


@pytest.mark.tls
@pytest.mark.skipif(not RedisServer.available(), reason="no redis-server with TLS is installed")
async def test_tls_connections_that_the_server_has_closed_are_not_used_again() -> None:
    with RedisServer(tls=True) as server:
        config = CONFIG.model_copy(update={"retries": 0})
        async with ConnectorManager(f"{server.url('rediss')}?ca_file={server.ca_file}", config=config) as manager:
            connector = manager.create_connector()
            assert await connector.batched_get([f"k{i}" for i in range(8)]) == [None] * 8
            assert await connector.exists("k") is False
            await asyncio.to_thread(server.restart)
            assert await connector.get("k") is None
            assert await connector.exists("k") is False


async def test_a_call_that_cannot_begin_tells_its_caller() -> None:
    owner = LoopOwner.start()
    with pytest.raises(TypeError, match=r"coroutine was expected|used in .await. expression"):
        await owner.run(lambda: 1)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"coroutine was expected|used in .await. expression"):
        await asyncio.to_thread(owner.run_sync, "x", 5, lambda: 1)  # type: ignore[arg-type]
    await owner.close()
