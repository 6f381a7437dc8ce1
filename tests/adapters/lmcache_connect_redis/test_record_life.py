"""What stands in the store over a chunk's life: after concurrent writers, kills, cancellations, refusals and evictions.

Whatever happens, each key of the store is a chunk, or a temporary key that expires within a minute.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import StoreFullError, StoreUnavailableError
from lmcache_connect.record import chunk_names, key_of_name
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RedisServer, ValkeyServer

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

KIB = 1 << 10
MIB = 1 << 20
CONFIG = ConnectorConfig.load(operation_timeout=10, retries=0, breaker_failures=1000)
WHOLE = 200 * KIB
STRIPED = MIB
GRACE_MS = 60_000


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest_asyncio.fixture
async def manager(backend: LocalCPUBackend) -> AsyncIterator[ConnectorManager]:
    async with ConnectorManager(local_cpu_backend=backend, config=CONFIG) as made:
        yield made


@pytest.fixture(params=["valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> type[ValkeyServer] | type[RedisServer]:
    found: type[ValkeyServer] | type[RedisServer] = ValkeyServer if request.param == "valkey" else RedisServer
    if not found.available():
        pytest.skip(f"{request.param}: no such server on this machine")
    return found


def url_of(server: ValkeyServer | RedisServer, **options: str) -> str:
    return server.url(options={"stripe": "65536", **options})


def lifetimes(server: ValkeyServer | RedisServer) -> dict[str, int]:
    """For how many milliseconds each key lives; -1 is for ever."""
    with server.client() as client:
        return {name.decode(): ttl for name in client.keys("*") if (ttl := client.pttl(name)) != -2}


def left_behind(server: ValkeyServer | RedisServer) -> list[int]:
    """The lifetimes of keys that are not chunks."""
    return [ttl for name, ttl in lifetimes(server).items() if key_of_name("", name) is None]


async def put(connector: ManagedConnector, backend: LocalCPUBackend, key: str, nbytes: int) -> None:
    with chunk(backend, key, nbytes) as obj:
        await connector.put(key, obj)


async def test_after_concurrent_writers_of_whole_and_striped_chunks_a_key_is_one_chunk_and_nothing_else_is_left(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    is_done = False

    async def write(seed: int, io: str) -> None:
        rng = random.Random(seed)
        writer = manager.create_connector(url_of(valkey_server, io=io))
        for _ in range(25):
            size = rng.choice((WHOLE, STRIPED, STRIPED + 1, 300 * KIB))
            if rng.random() < 0.15:
                await writer.remove("k")
            else:
                await put(writer, backend, "k", size)

    async def read() -> int:
        reader = manager.create_connector(url_of(valkey_server))
        hits = 0
        while not is_done:
            found = await reader.get("k")
            if found is not None:
                assert holds(found, "k")
                hits += 1
            del found
        misses = reader.statistics()["get"].misses
        assert set(misses) <= {"absent", "corrupt:replaced"}, misses
        assert not reader.metrics.snapshot_of_removals()["replaced", "removed"]
        return hits

    reading = [asyncio.ensure_future(read()) for _ in range(2)]
    await asyncio.gather(*(write(seed, "loop" if seed % 2 else "thread") for seed in range(4)))
    is_done = True
    assert sum(await asyncio.gather(*reading)) > 0
    last = manager.create_connector(url_of(valkey_server))
    await put(last, backend, "k", STRIPED)
    assert lifetimes(valkey_server) == {chunk_names("", ["k"])[0]: -1}
    assert holds(await last.get("k"), "k")
    await last.remove("k")
    assert lifetimes(valkey_server) == {}


_WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend

    async def main():
        with LocalCPUBackend(4 << 20) as backend:
            async with ConnectorManager(sys.argv[1], local_cpu_backend=backend) as manager:
                with backend.allocate((1 << 20,), "uint8") as obj:
                    await manager.create_connector().put("k", obj)

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("before", [0, WHOLE, STRIPED])
async def test_a_writer_that_is_killed_in_the_middle_leaves_the_old_chunk_and_what_expires_within_a_minute(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str, before: int
) -> None:
    connector = manager.create_connector(url_of(valkey_server))
    if before:
        await put(connector, backend, "k", before)
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy, valkey_server.client() as client:
        known = client.info("clients")["connected_clients"]
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=500 * KIB))
        url = f"redis://{proxy.host}:{proxy.port}?stripe=65536"
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", _WRITER, url)
        try:
            assert await asyncio.to_thread(proxy.wait_fired, 30)
        finally:
            writer.send_signal(signal.SIGKILL)
            await writer.wait()
        proxy.disarm()
        async with asyncio.timeout(20):
            while client.info("clients")["connected_clients"] > known:  # until the server has seen the writer's end
                await asyncio.sleep(0.01)
    [ttl] = left_behind(valkey_server)
    assert 0 < ttl <= GRACE_MS
    found = await connector.get("k")
    assert (found.get_size() if found is not None else 0) == before
    if found is not None:
        assert holds(found, "k")
    del found
    await connector.remove("k")
    assert all(0 < ttl <= GRACE_MS for ttl in lifetimes(valkey_server).values())


async def test_puts_that_are_cancelled_at_random_leave_a_whole_chunk_and_nothing_for_ever(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    rng = random.Random(5)
    cancelled = 0
    for io in ("thread", "loop"):
        connector = manager.create_connector(url_of(valkey_server, io=io))
        for _ in range(40):
            with chunk(backend, "k", rng.choice((WHOLE, STRIPED, 4 * MIB))) as obj:
                call = asyncio.ensure_future(connector.put("k", obj))
                await asyncio.wait((call,), timeout=rng.uniform(0, 0.004))
                call.cancel()
                try:
                    await call
                except asyncio.CancelledError:
                    cancelled += 1
                obj.byte_array[:KIB] = bytes(KIB)  # which would show, if anything were still sent
            found = await connector.get("k")
            assert found is None or holds(found, "k")
            del found
        assert connector.statistics()["get"].misses.keys() <= {"absent"}
    assert cancelled > 10
    assert all(0 < ttl <= GRACE_MS for ttl in left_behind(valkey_server))


async def test_a_put_that_the_server_refuses_in_the_middle_leaves_the_old_chunk_and_frees_its_pieces(
    manager: ConnectorManager, backend: LocalCPUBackend, kind: type[ValkeyServer] | type[RedisServer]
) -> None:
    with kind(maxmemory="16mb", config={"maxmemory-policy": "noeviction"}) as server:
        for io in ("thread", "loop"):
            connector = manager.create_connector(url_of(server, io=io))
            await put(connector, backend, "k", 2 * MIB)
            before = lifetimes(server)
            with pytest.raises(StoreFullError):
                await put(connector, backend, "k", 24 * MIB)
            assert lifetimes(server) == before, "the pieces were freed, and nothing was replaced"
            assert await connector.exists("k")
            found = await connector.get("k")
            assert found is not None
            assert found.get_size() == 2 * MIB
            assert holds(found, "k")
            del found
            await put(connector, backend, "k", 3 * MIB)
            assert await connector.remove("k")
            assert lifetimes(server) == {}


async def test_a_server_that_evicts_only_what_expires_keeps_every_chunk_that_it_acknowledged(
    manager: ConnectorManager, backend: LocalCPUBackend, kind: type[ValkeyServer] | type[RedisServer]
) -> None:
    # Chunks without a ttl are never evicted here, but those that are being written are: they expire.
    with kind(maxmemory="20mb", config={"maxmemory-policy": "volatile-lru"}) as server:
        connector = manager.create_connector(url_of(server))
        acknowledged, refused = set(), 0

        async def write(key: str) -> None:
            nonlocal refused
            try:
                await put(connector, backend, key, 3 * MIB)
                acknowledged.add(key)
            except StoreFullError:
                refused += 1

        for start in range(0, 12, 3):
            await asyncio.gather(*(write(f"k{i}") for i in range(start, start + 3)))
        assert acknowledged
        assert refused
        assert set(await connector.list()) == acknowledged
        for key in acknowledged:
            assert await connector.exists(key)
            assert holds(await connector.get(key), key)
        assert all(0 < ttl <= GRACE_MS for ttl in left_behind(server))
        await connector.batched_remove(sorted(acknowledged))
        assert await connector.list() == []


@pytest.mark.parametrize(("policy", "ttl"), [("volatile-lru", "600"), ("allkeys-lru", ""), ("allkeys-random", "600")])
async def test_a_server_that_evicts_takes_whole_chunks_and_exists_agrees_with_get(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, policy: str, ttl: str
) -> None:
    with ValkeyServer(maxmemory="20mb", config={"maxmemory-policy": policy}) as server:
        connector = manager.create_connector(url_of(server, **({"ttl": ttl} if ttl else {})))
        rng = random.Random(policy)
        keys = [f"k{i}" for i in range(16)]

        async def write(key: str) -> None:
            try:
                await put(connector, backend, key, rng.choice((WHOLE, STRIPED, 3 * MIB)))
            except StoreFullError:
                pass  # its own pieces were evicted

        for start in range(0, 48, 4):
            await asyncio.gather(*(write(keys[(start + i) % 16]) for i in range(4)))
        with server.client() as client:
            assert client.info("stats")["evicted_keys"] > 0
            client.config_set("maxmemory", "0")
        flags = await connector.batched_exists(keys)
        assert 0 < sum(flags) < len(keys)
        for key, is_there in zip(keys, flags, strict=True):
            assert holds(await connector.get(key), key) is is_there
        misses = connector.statistics()["get"].misses
        assert set(misses) == {"absent"}, misses
        assert all(0 < ttl <= GRACE_MS for ttl in left_behind(server))


async def test_chunks_that_expire_and_are_rewritten_hold_at_most_a_fifth_more_than_the_live_bytes(
    manager: ConnectorManager, backend: LocalCPUBackend, kind: type[ValkeyServer] | type[RedisServer]
) -> None:
    with kind() as server, server.client() as client:
        connector = manager.create_connector(server.url(options={"ttl": "60"}))
        keys = [f"k{i}" for i in range(4)]
        empty = client.info("memory")["used_memory"]
        for nbytes in (6 * MIB, WHOLE, 5 * MIB, 6 * MIB, 6 * MIB):
            for key in keys:
                await put(connector, backend, key, nbytes)
        async with asyncio.timeout(20):
            while client.info("memory")["used_memory"] - empty > 1.2 * 4 * 6 * MIB:  # freed in the background
                await asyncio.sleep(0.01)
        assert all(50_000 < ttl <= 60_000 for ttl in lifetimes(server).values())
        assert len(lifetimes(server)) == 4
        brief = manager.create_connector(server.url(options={"ttl": "1"}))
        for key in keys:
            await put(brief, backend, key, 6 * MIB)
            assert 0 < lifetimes(server).get(chunk_names("", [key])[0], 1) <= 1000
        async with asyncio.timeout(20):
            while client.dbsize():
                await asyncio.sleep(0.02)
        assert await connector.batched_exists(keys) == [False] * 4


async def test_a_large_chunk_takes_no_more_of_the_servers_memory_than_it_holds(
    manager: ConnectorManager, backend: LocalCPUBackend, kind: type[ValkeyServer] | type[RedisServer]
) -> None:
    # jemalloc rounds a MiB and a byte up to a MiB and a quarter.
    with kind() as server, server.client() as client:
        connector = manager.create_connector(server.url())
        await put(connector, backend, "warm", WHOLE)
        empty = client.info("memory")["used_memory"]
        await put(connector, backend, "k", 32 * MIB)
        await connector.exists("k")
        async with asyncio.timeout(20):
            while client.info("memory")["used_memory"] - empty > 1.05 * 32 * MIB:  # buffers of connections shrink soon
                await asyncio.sleep(0.02)
        assert client.info("memory")["used_memory"] - empty > 32 * MIB


async def test_a_put_that_fails_removes_what_it_had_written_at_once(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        writer = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536&pool_size=1")
        await writer.exists("k")
        proxy.arm(Fault(FaultKind.RESET, Direction.TO_SERVER, after_bytes=500 * KIB, count=1))
        with pytest.raises(StoreUnavailableError):
            await put(writer, backend, "k", STRIPED)
        assert lifetimes(valkey_server) == {}


@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_closing_a_connector_right_after_a_put_was_cancelled_leaves_nothing(
    backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str, io: str
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        async with ConnectorManager(local_cpu_backend=backend, config=CONFIG) as manager:
            writer = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536&pool_size=1&io={io}")
            await writer.exists("k")
            proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=500 * KIB))
            with chunk(backend, "k", STRIPED) as obj:
                call = asyncio.ensure_future(writer.put("k", obj))
                assert await asyncio.to_thread(proxy.wait_fired, 5)
                async with asyncio.timeout(5):
                    while not left_behind(valkey_server):
                        await asyncio.sleep(0.001)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
    assert lifetimes(valkey_server) == {}
