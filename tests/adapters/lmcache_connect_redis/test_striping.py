"""Large chunks as parts and a head: whole or a miss, whatever happens in between."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    OperationTimeoutError,
    StoreUnavailableError,
)
from lmcache_connect.errors import InvalidOptionError
from lmcache_connect.record.stripes import SEPARATOR
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_reference_connectors.redis import RedisReferenceAdapter

from .chunks import chunk, holds

pytestmark = pytest.mark.asyncio

KIB = 1 << 10
MIB = 1 << 20
CONFIG = ConnectorConfig.load(operation_timeout=5, retries=0, breaker_failures=1000)


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest_asyncio.fixture(params=["thread", "loop"])
async def manager(
    request: pytest.FixtureRequest, valkey_url: str, backend: LocalCPUBackend
) -> AsyncIterator[ConnectorManager]:
    url = f"{valkey_url}?stripe=65536&io={request.param}"
    async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as made:
        yield made


@pytest.fixture
def connector(manager: ConnectorManager) -> ManagedConnector:
    return manager.create_connector()


def parts(server: ValkeyServer) -> list[bytes]:
    with server.client() as client:
        return sorted(key for key in client.scan_iter() if SEPARATOR.encode() in key)


async def put(connector: ManagedConnector, backend: LocalCPUBackend, key: str, nbytes: int) -> None:
    with chunk(backend, key, nbytes) as obj:
        await connector.put(key, obj)


@pytest.mark.parametrize("nbytes", [64 * KIB, 64 * KIB + 1, 128 * KIB, MIB - 1, MIB, MIB + 1, 5 * MIB + 12_345])
async def test_a_chunk_of_any_size_comes_back_whole(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer, nbytes: int
) -> None:
    await put(connector, backend, "k", nbytes)
    expected = 0 if nbytes <= 64 * KIB else -(-nbytes // (64 * KIB))
    assert len(parts(valkey_server)) == expected
    assert holds(await connector.get("k"), "k")
    assert await connector.list() == ["k"]
    assert await connector.exists("k")
    assert await connector.remove("k") is True
    assert await connector.get("k") is None
    with valkey_server.client() as client:
        assert client.dbsize() == 0


async def test_a_batch_of_whole_and_striped_chunks_keeps_its_positions(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    sizes = {f"k{i}": size for i, size in enumerate([100, MIB, 64 * KIB, 3 * MIB, 200 * KIB, 1, 2 * MIB])}
    objs = [chunk(backend, key, size) for key, size in sizes.items()]
    await connector.batched_put(list(sizes), objs)
    for obj in objs:
        obj.ref_count_down()
    wanted = ["missing", *sizes, "gone", "k3", "k0"]
    found = await connector.batched_get(wanted)
    assert [holds(obj, key) for key, obj in zip(wanted, found, strict=True)] == [key in sizes for key in wanted]
    del objs, obj, found


async def test_putting_a_chunk_again_leaves_no_part_of_the_old_one(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    for size, expected in ((MIB, 16), (512 * KIB, 8), (10 * KIB, 0), (256 * KIB, 4)):
        await put(connector, backend, "k", size)
        assert len(parts(valkey_server)) == expected
        assert holds(await connector.get("k"), "k")


async def test_parts_last_as_long_as_their_head(
    connector: ManagedConnector, manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    await put(connector, backend, "k", MIB)
    with valkey_server.client() as client:
        assert {client.pttl(key) for key in (b"k", *parts(valkey_server))} == {-1}
        client.flushall()
        url = valkey_server.url(options={"stripe": "65536", "ttl": "90"})
        await put(manager.create_connector(url), backend, "k", MIB)
        head = client.pttl("k")
        assert 80_000 < head <= 90_000
        assert all(client.pttl(key) > head for key in parts(valkey_server))


async def test_a_writer_that_dies_before_its_head_leaves_nothing_visible_and_nothing_for_ever(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        writer = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536&timeout=0.3&pool_size=1")
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=400 * KIB))
        with pytest.raises(OperationTimeoutError):
            with chunk(backend, "k", MIB) as obj:
                # The time for its bytes is added to the deadline, at 32 MiB a second.
                await writer.put("k", obj)
        proxy.disarm()
    with valkey_server.client() as client:
        assert not client.exists("k")
        left = parts(valkey_server)
        assert left
        assert all(0 < client.pttl(key) <= 600_000 for key in left)


@pytest.mark.parametrize(
    "what", ["missing", "flipped", "short", "long", "swapped", "another chunk's", "of another time"]
)
async def test_a_head_without_all_its_parts_is_a_miss_and_heals(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer, what: str
) -> None:
    await put(connector, backend, "k", MIB)
    await put(connector, backend, "other", MIB)
    with valkey_server.client() as client:
        mine = [key for key in parts(valkey_server) if key.startswith(b"k")]
        victim, value = mine[5], client.get(mine[5])
        assert isinstance(value, bytes)
        match what:
            case "missing":
                client.delete(victim)
            case "flipped":
                client.setrange(victim, 30_000, bytes([value[30_000] ^ 4]))
            case "short":
                client.set(victim, value[:-1])
            case "long":
                client.append(victim, b"x")
            case "swapped":
                client.copy(mine[6], victim, replace=True)
            case "another chunk's":
                client.copy(next(key for key in parts(valkey_server) if key.startswith(b"other")), victim, replace=True)
            case "of another time":
                with chunk(backend, "k", MIB) as obj:
                    await connector.put("k", obj)
                new = next(key for key in parts(valkey_server) if key.startswith(b"k") and key.endswith(b"\x1f6"))
                client.set(new, value)
        assert await connector.batched_get(["k"]) == [None]
    assert holds(await connector.get("other"), "other")
    await put(connector, backend, "k", MIB)
    assert holds(await connector.get("k"), "k")


async def test_a_part_is_no_chunk(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    await put(connector, backend, "k", MIB)
    with valkey_server.client() as client:
        client.copy(parts(valkey_server)[0], "k", replace=True)
    assert await connector.get("k") is None


async def test_readers_during_rewrites_see_whole_chunks_of_one_time_or_a_miss(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    writers = [manager.create_connector() for _ in range(2)]
    reader = manager.create_connector()
    objs = []
    for fill in range(4):
        obj = await backend.allocate_async((MIB,), "uint8")
        obj.byte_array[:] = bytes([fill]) * MIB
        objs.append(obj)
    done = False

    async def write(connector: ManagedConnector, mine: list[MemoryObj]) -> None:
        for turn in range(20):
            await connector.put("k", mine[turn % 2])

    async def read() -> int:
        hits = 0
        while not done:
            found = await reader.get("k")
            if found is not None:
                with found:
                    assert len(set(bytes(found.byte_array))) == 1
                hits += 1
            del found
        return hits

    reading = asyncio.ensure_future(read())
    await asyncio.gather(write(writers[0], objs[:2]), write(writers[1], objs[2:]))
    done = True
    assert await reading > 0
    last = await reader.get("k")
    assert last is not None, "the last writer left a whole chunk"
    last.ref_count_down()
    for obj in objs:
        obj.ref_count_down()
    del obj, objs, last


async def test_a_connection_lost_among_the_parts_is_an_error_and_the_next_call_works(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        connector = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536")
        await put(connector, backend, "k", 2 * MIB)
        for after in (10, 100, 5_000, 70_000, 300_000):
            proxy.arm(Fault(FaultKind.RESET, after_bytes=after))
            with pytest.raises(StoreUnavailableError):
                await connector.get("k")
            proxy.disarm()
            assert holds(await connector.get("k"), "k")


async def test_a_get_cancelled_among_the_parts_leaves_a_working_connector(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        connector = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536")
        await put(connector, backend, "k", 2 * MIB)
        for after in (10, 100, 5_000, 70_000, 300_000):
            proxy.arm(Fault(FaultKind.STALL, after_bytes=after))
            call = asyncio.ensure_future(connector.get("k"))
            assert await asyncio.to_thread(proxy.wait_fired, 5)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            proxy.disarm()
            assert holds(await connector.get("k"), "k")


async def test_the_plain_connector_reads_what_was_striped(
    connector: ManagedConnector, manager: ConnectorManager, backend: LocalCPUBackend, valkey_url: str
) -> None:
    manager.register(RedisReferenceAdapter)
    plain = manager.create_connector(valkey_url.replace("redis://", "plain-redis://"))
    await put(connector, backend, "k", MIB + 5)
    assert holds(await plain.get("k"), "k")
    assert await plain.list() == ["k"]


async def test_stripes_may_be_switched_off_and_are_never_tiny(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    await put(manager.create_connector(f"{valkey_url}?stripe=0"), backend, "k", 8 * MIB)
    assert parts(valkey_server) == []
    with pytest.raises(InvalidOptionError, match="at least 65536 bytes"):
        manager.create_connector(f"{valkey_url}?stripe=1024")
