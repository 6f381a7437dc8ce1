"""Gets from several servers that find no room, and calls that are cancelled: what is released, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy

from ..chunks import holds, payload
from .rings import Servers, behind_proxies, chunks

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

MIB = 1 << 20
KEYS = [f"k{number}" for number in range(24)]


@pytest.fixture
def proxied(servers: Servers) -> Iterator[tuple[Servers, list[FaultProxy]]]:
    with behind_proxies(servers) as made:
        yield made


@pytest_asyncio.fixture(params=["thread", "loop"])
async def connector(
    request: pytest.FixtureRequest, proxied: tuple[Servers, list[FaultProxy]], backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    ring, proxies = proxied
    config = ConnectorConfig.load(operation_timeout=10.0, breaker_failures=1000, close_grace=0.2)
    async with ConnectorManager(ring.url(io=request.param), local_cpu_backend=backend, config=config) as manager:
        yield manager.create_connector()
        for proxy in proxies:
            proxy.disarm()


async def put_all(connector: ManagedConnector, backend: LocalCPUBackend, keys: list[str], nbytes: int) -> None:
    with chunks(backend, keys, nbytes) as objs:
        await connector.batched_put(keys, objs)


def is_free(buffer: bytearray) -> bool:
    """Whether nobody has a view of it."""
    try:
        buffer.append(0)
    except BufferError:
        return False
    del buffer[-1]
    return True


@pytest.mark.parametrize("io", ["thread", "loop"])
@pytest.mark.parametrize("fits", [0, 1, 7, 23])
async def test_a_batch_beyond_the_arena_brings_the_prefix_that_fits(
    servers: Servers, backend: LocalCPUBackend, io: str, fits: int
) -> None:
    async with ConnectorManager(servers.url(io=io), local_cpu_backend=backend) as manager:
        await put_all(manager.create_connector(), backend, KEYS, MIB)
    with LocalCPUBackend(24 * MIB) as small:
        config = ConnectorConfig.load(allocate_timeout=0.2)
        async with ConnectorManager(servers.url(io=io), local_cpu_backend=small, config=config) as manager:
            connector = manager.create_connector()
            held = [small.allocate((MIB,), "uint8") for _ in range(24 - fits)]
            for _ in range(3):
                if fits:
                    found = await connector.batched_get(KEYS)
                    assert [obj is not None for obj in found] == [number < fits for number in range(len(KEYS))]
                    assert all(holds(obj, key) for obj, key in zip(found[:fits], KEYS, strict=False))
                else:
                    with pytest.raises(MemoryError):
                        await connector.batched_get(KEYS)
            for obj in held:
                assert obj is not None
                obj.ref_count_down()
            assert small.statistics().reserved == 0
            found = await connector.batched_get(KEYS)
            assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True))


@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_batches_that_do_not_fit_together_come_one_after_the_other(
    servers: Servers, backend: LocalCPUBackend, io: str
) -> None:
    async with ConnectorManager(servers.url(io=io), local_cpu_backend=backend) as manager:
        await put_all(manager.create_connector(), backend, KEYS, MIB)
    with LocalCPUBackend(26 * MIB) as small:
        async with ConnectorManager(servers.url(io=io), local_cpu_backend=small) as manager:
            connector = manager.create_connector()

            async def fetch() -> None:
                found = await connector.batched_get(KEYS)
                assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True))

            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(fetch())
        assert small.statistics().reserved == 0


@pytest.mark.parametrize("operation", ["batched_get", "batched_get_into", "batched_put", "batched_put_from"])
@pytest.mark.parametrize("seed", range(3))
async def test_a_call_cancelled_while_one_server_stands_still_touches_nothing_afterwards(
    connector: ManagedConnector,
    backend: LocalCPUBackend,
    proxied: tuple[Servers, list[FaultProxy]],
    operation: str,
    seed: int,
) -> None:
    keys = KEYS[:9]
    ring, proxies = proxied
    nbytes = 2 * MIB
    rng = random.Random(seed)
    await put_all(connector, backend, keys, nbytes)
    gets = operation.startswith("batched_get")
    index = ring.index_of(rng.choice(keys))
    direction = Direction.TO_CLIENT if gets else Direction.TO_SERVER
    proxies[index].arm(Fault(FaultKind.STALL, direction, after_bytes=rng.randrange(nbytes)))
    buffers = [bytearray(payload(key, nbytes)) for key in keys]
    with chunks(backend, keys, nbytes) as objs:
        if operation == "batched_get":
            call = asyncio.ensure_future(connector.batched_get(keys))
        elif operation == "batched_get_into":
            call = asyncio.ensure_future(connector.batched_get_into(keys, buffers))  # type: ignore[arg-type]
        elif operation == "batched_put":
            call = asyncio.ensure_future(connector.batched_put(keys, objs))  # type: ignore[arg-type]
        else:
            call = asyncio.ensure_future(connector.batched_put_from(keys, buffers))  # type: ignore[arg-type]
        assert await asyncio.to_thread(proxies[index].wait_fired, 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert {obj.get_ref_count() for obj in objs} == {1}
        for buffer in buffers:
            buffer[:] = b"\xff" * nbytes
        async with asyncio.timeout(5):
            while not all(map(is_free, buffers)):  # a thread's frame may have a view a moment longer
                await asyncio.sleep(0.002)
        proxies[index].disarm()
        assert backend.statistics().reserved == len(keys) * nbytes
        await connector.batched_put(keys, objs)
        assert all(buffer == b"\xff" * nbytes for buffer in buffers)
    found = await connector.batched_get(keys)
    assert all(holds(obj, key) for obj, key in zip(found, keys, strict=True))


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.TRUNCATE_AND_CLOSE])
@pytest.mark.parametrize("after", [0, 30, MIB // 2, 3 * MIB])
async def test_a_connection_lost_inside_a_batch_costs_a_repetition_at_its_server_alone(
    connector: ManagedConnector,
    backend: LocalCPUBackend,
    proxied: tuple[Servers, list[FaultProxy]],
    kind: FaultKind,
    after: int,
) -> None:
    await put_all(connector, backend, KEYS, MIB)
    ring, proxies = proxied
    index = ring.index_of(KEYS[0])
    before = [proxy.bytes_to_client for proxy in proxies]
    proxies[index].arm(Fault(kind, after_bytes=after, count=1))
    found = await connector.batched_get(KEYS)
    assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True))
    for number, proxy in enumerate(proxies):
        mine = sum(ring.index_of(key) == number for key in KEYS)
        if number != index:
            assert proxy.bytes_to_client - before[number] < (mine + 0.1) * MIB
    proxies[index].arm(Fault(kind, after_bytes=after, count=1))
    buffers = [bytearray(MIB) for _ in KEYS]
    assert await connector.batched_get_into(KEYS, buffers) == [True] * len(KEYS)
    assert [bytes(buffer) for buffer in buffers] == [payload(key, MIB) for key in KEYS]


async def test_a_bit_flipped_on_the_way_from_one_server_is_a_miss_of_its_own_key(
    connector: ManagedConnector, backend: LocalCPUBackend, proxied: tuple[Servers, list[FaultProxy]]
) -> None:
    await put_all(connector, backend, KEYS, MIB)
    ring, proxies = proxied
    index = ring.index_of(KEYS[0])
    proxies[index].arm(Fault(FaultKind.FLIP, after_bytes=MIB // 2, count=1))
    found = await connector.batched_get(KEYS)
    missing = [key for key, obj in zip(KEYS, found, strict=True) if obj is None]
    assert len(missing) == 1
    assert ring.index_of(missing[0]) == index
    assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True) if obj is not None)
    found = await connector.batched_get(KEYS)
    assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True))


async def test_closing_ends_a_call_that_waits_for_a_server(
    connector: ManagedConnector, backend: LocalCPUBackend, proxied: tuple[Servers, list[FaultProxy]]
) -> None:
    await put_all(connector, backend, KEYS, MIB)
    _, proxies = proxied
    for proxy in proxies:
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=0))
    call = asyncio.ensure_future(connector.batched_get(KEYS))
    assert await asyncio.to_thread(proxies[0].wait_fired, 5)
    async with asyncio.timeout(9):
        await connector.close()
    with pytest.raises(Exception):  # noqa: B017 - closed, or lost: either ends it
        await call
