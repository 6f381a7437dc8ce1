"""Large chunks as one hash of pieces: whole or a miss, whatever happens in between, and nothing is left behind."""

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
from lmcache_connect.errors import InvalidOptionError, StoreFullError
from lmcache_connect.record import chunk_names
from lmcache_connect.record.names import SEPARATOR
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_reference_connectors.redis import RedisReferenceAdapter

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

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


NAME = chunk_names("", ["k"])[0]


def pieces(server: ValkeyServer, key: str = "k") -> int:
    """The number of pieces that a chunk is stored in; 0 for one that is whole."""
    [name] = chunk_names("", [key])
    with server.client() as client:
        return client.hlen(name) if client.type(name) == b"hash" else 0


def names(server: ValkeyServer) -> set[str]:
    with server.client() as client:
        return {name.decode() for name in client.keys("*")}


def staged(server: ValkeyServer) -> list[str]:
    return [name for name in names(server) if not name.endswith(f"{SEPARATOR}2")]


async def put(connector: ManagedConnector, backend: LocalCPUBackend, key: str, nbytes: int) -> None:
    with chunk(backend, key, nbytes) as obj:
        await connector.put(key, obj)


@pytest.mark.parametrize(
    "nbytes", [64 * KIB, 256 * KIB, 256 * KIB + 1, 320 * KIB, MIB - 1, MIB, MIB + 1, 5 * MIB + 12_345]
)
async def test_a_chunk_of_any_size_comes_back_whole_and_has_one_key(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer, nbytes: int
) -> None:
    await put(connector, backend, "k", nbytes)
    assert pieces(valkey_server) == (0 if nbytes <= 256 * KIB else -(-nbytes // (64 * KIB)))
    assert names(valkey_server) == {NAME}
    assert holds(await connector.get("k"), "k")
    assert holds(await connector.get("k"), "k"), "the second time, its kind is known"
    assert await connector.list() == ["k"]
    assert await connector.exists("k")
    assert await connector.remove("k") is True
    assert await connector.remove("k") is False
    assert await connector.get("k") is None
    assert names(valkey_server) == set()


async def test_a_batch_of_whole_and_striped_chunks_keeps_its_positions(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    sizes = {f"k{i}": size for i, size in enumerate([100, MIB, 64 * KIB, 3 * MIB, 300 * KIB, 1, 2 * MIB])}
    objs = [chunk(backend, key, size) for key, size in sizes.items()]
    await connector.batched_put(list(sizes), objs)
    for obj in objs:
        obj.ref_count_down()
    wanted = ["missing", *sizes, "gone", "k3", "k0"]
    found = await connector.batched_get(wanted)
    assert [holds(obj, key) for key, obj in zip(wanted, found, strict=True)] == [key in sizes for key in wanted]
    del objs, obj, found


async def test_putting_a_chunk_again_replaces_all_of_the_old_one(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    for size, expected in ((MIB, 16), (512 * KIB, 8), (10 * KIB, 0), (320 * KIB, 5)):
        await put(connector, backend, "k", size)
        assert pieces(valkey_server) == expected
        assert names(valkey_server) == {NAME}
        assert holds(await connector.get("k"), "k")


async def test_a_striped_chunk_lives_as_long_as_a_whole_one(
    connector: ManagedConnector, manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    await put(connector, backend, "k", MIB)
    with valkey_server.client() as client:
        assert client.pttl(NAME) == -1
        expiring = manager.create_connector(valkey_server.url(options={"stripe": "65536", "ttl": "90"}))
        for size in (MIB, KIB):
            await put(expiring, backend, "k", size)
            assert 80_000 < client.pttl(NAME) <= 90_000
        await put(connector, backend, "k", MIB)
        assert client.pttl(NAME) == -1


@pytest.mark.parametrize("end", ["deadline", "cancellation"])
async def test_a_put_that_ends_before_its_commit_leaves_nothing_visible_and_frees_its_pieces_at_once(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, end: str
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        timeout = 0.3 if end == "deadline" else 20
        writer = manager.create_connector(
            f"redis://{proxy.host}:{proxy.port}?stripe=65536&timeout={timeout}&pool_size=1"
        )
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=400 * KIB))
        with chunk(backend, "k", MIB) as obj:
            call = asyncio.ensure_future(writer.put("k", obj))
            assert await asyncio.to_thread(proxy.wait_fired, 5)
            async with asyncio.timeout(5):
                while not staged(valkey_server):
                    await asyncio.sleep(0.001)
            if end == "deadline":
                with pytest.raises(OperationTimeoutError):
                    await call
            else:
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
        async with asyncio.timeout(5):
            while staged(valkey_server):  # they are freed in the background
                await asyncio.sleep(0.001)
    assert names(valkey_server) == set()


async def test_pieces_that_arrive_after_their_put_was_cancelled_are_freed_as_well(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        writer = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536&pool_size=1")
        await writer.exists("k")
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=400 * KIB))
        with chunk(backend, "k", 4 * MIB) as obj:
            call = asyncio.ensure_future(writer.put("k", obj))
            assert await asyncio.to_thread(proxy.wait_fired, 5)
            async with asyncio.timeout(5):
                while not staged(valkey_server):
                    await asyncio.sleep(0.001)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                while staged(valkey_server):
                    await asyncio.sleep(0.001)
            proxy.disarm()
            await writer.put("other", obj)  # over the same connection, behind what was held up
        async with asyncio.timeout(5):
            while staged(valkey_server):
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("after", [10, 150, 70_000, 400_000, MIB + 4000])
async def test_a_put_that_is_cancelled_anywhere_leaves_the_old_chunk_or_the_new_and_nothing_for_ever(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, after: int
) -> None:
    await put(manager.create_connector(), backend, "k", 700 * KIB)
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        writer = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536")
        await writer.exists("k")
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=after))
        with chunk(backend, "k", MIB) as obj:
            call = asyncio.ensure_future(writer.put("k", obj))
            assert await asyncio.to_thread(proxy.wait_fired, 5)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        proxy.disarm()
    found = await manager.create_connector().get("k")
    assert found is not None
    assert found.get_size() == 700 * KIB
    assert holds(found, "k")
    with valkey_server.client() as client:
        assert all(0 < client.pttl(name) <= 60_000 for name in staged(valkey_server))
    del found


async def test_a_chunk_that_was_evicted_while_it_was_written_is_refused_and_commits_nothing(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    await put(manager.create_connector(), backend, "k", 700 * KIB)
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        # Half of the pieces stand there when they are evicted. The other half comes back under the same name.
        writer = manager.create_connector(f"redis://{proxy.host}:{proxy.port}?stripe=65536&pool_size=1")
        await writer.exists("k")
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=500 * KIB))
        with chunk(backend, "k", MIB) as obj:
            call = asyncio.ensure_future(writer.put("k", obj))
            assert await asyncio.to_thread(proxy.wait_fired, 5)
            with valkey_server.client() as client:
                for name in staged(valkey_server):
                    client.unlink(name)
            proxy.disarm()
            with pytest.raises(StoreFullError, match="evicted the chunk while it was written"):
                await call
    found = await manager.create_connector().get("k")
    assert found is not None
    assert found.get_size() == 700 * KIB
    assert holds(found, "k")
    assert staged(valkey_server) == []
    del found


@pytest.mark.parametrize("missing", ["multi", "rename", "hset"])
async def test_a_user_who_may_not_stage_a_chunk_has_it_stored_whole(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, missing: str
) -> None:
    with valkey_server.client() as client:
        client.execute_command("ACL", "SETUSER", "some", "on", ">word", "~*", "+@all", f"-{missing}")
        try:
            url = f"redis://some:word@{valkey_server.host}:{valkey_server.port}?stripe=65536"
            connector = manager.create_connector(url)
            for _ in range(2):
                await put(connector, backend, "k", MIB)
                assert holds(await connector.get("k"), "k")
                assert pieces(valkey_server) == 0
                assert names(valkey_server) == {NAME}
        finally:
            client.execute_command("ACL", "DELUSER", "some")


@pytest.mark.parametrize(
    "what", ["missing", "flipped", "short", "long", "swapped", "another chunk's", "of another time"]
)
async def test_a_chunk_without_all_its_pieces_is_a_miss_and_goes_if_it_is_recognisably_damaged(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer, what: str
) -> None:
    await put(connector, backend, "k", MIB)
    await put(connector, backend, "other", MIB)
    with valkey_server.client() as client:
        value = client.hget(NAME, "5")
        assert isinstance(value, bytes)
        match what:
            case "missing":
                client.hdel(NAME, "5")
            case "flipped":
                client.hset(NAME, "5", value[:30_000] + bytes([value[30_000] ^ 4]) + value[30_001:])
            case "short":
                client.hset(NAME, "5", value[:-1])
            case "long":
                client.hset(NAME, "5", value + b"x")
            case "swapped":
                client.hset(NAME, "5", client.hget(NAME, "6"))
            case "another chunk's":
                client.hset(NAME, "5", client.hget(chunk_names("", ["other"])[0], "5"))
            case "of another time":
                await put(connector, backend, "k", MIB)
                client.hset(NAME, "5", value)
    assert await connector.batched_get(["k"]) == [None]
    other = chunk_names("", ["other"])[0]
    assert names(valkey_server) == ({other, NAME} if what == "another chunk's" else {other})
    assert holds(await connector.get("other"), "other")
    await put(connector, backend, "k", MIB)
    assert holds(await connector.get("k"), "k")


async def test_a_piece_is_no_chunk(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    await put(connector, backend, "k", MIB)
    with valkey_server.client() as client:
        piece = client.hget(NAME, "0")
        assert isinstance(piece, bytes)
        client.set(NAME, piece)
    assert await connector.get("k") is None


@pytest.mark.parametrize("kind", ["list", "set", "somebody's hash"])
async def test_another_programs_value_is_a_miss_in_its_own_slot_and_stays(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer, kind: str
) -> None:
    for key, size in (("a", MIB), ("b", KIB)):
        await put(connector, backend, key, size)
    with valkey_server.client() as client:
        match kind:
            case "list":
                client.rpush(NAME, "x")
            case "set":
                client.sadd(NAME, "x")
            case _:
                client.hset(NAME, mapping={"0": "x" * 300, "1": "y"})
        found = await connector.batched_get(["a", "k", "b"])
        assert [holds(obj, key) for obj, key in zip(found, "akb", strict=True)] == [True, False, True]
        assert client.exists(NAME)
    del found


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


async def test_a_connection_lost_among_the_pieces_is_an_error_and_the_next_call_works(
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


async def test_a_get_cancelled_among_the_pieces_leaves_a_working_connector(
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
    assert pieces(valkey_server) == 0
    with pytest.raises(InvalidOptionError, match="at least 65536 bytes"):
        manager.create_connector(f"{valkey_url}?stripe=1024")
