"""Batches of any size: many keys, and more bytes than the arena holds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import AllocationTimeoutError
from lmcache_connect.memory import release_all

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

KIB = 1 << 10
MIB = 1 << 20
# Long beside what a test takes: one that waited for its end, rather than being served or refused, would fail.
TIME_LIMIT = 20.0


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(8 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest_asyncio.fixture(params=["stripe=0", "stripe=262144", "stripe=0&io=loop", "stripe=262144&io=loop"])
async def manager(
    request: pytest.FixtureRequest, valkey_url: str, backend: LocalCPUBackend
) -> AsyncIterator[ConnectorManager]:
    config = ConnectorConfig.load(operation_timeout=30, retries=0, allocate_timeout=30)
    async with ConnectorManager(f"{valkey_url}?{request.param}", local_cpu_backend=backend, config=config) as made:
        yield made


@pytest.fixture
def connector(manager: ConnectorManager) -> ManagedConnector:
    return manager.create_connector()


async def fill(connector: ManagedConnector, backend: LocalCPUBackend, count: int, nbytes: int = MIB) -> list[str]:
    keys = [f"k{index}" for index in range(count)]
    for key in keys:
        with chunk(backend, key, nbytes) as obj:
            await connector.put(key, obj)
    return keys


async def test_a_batch_that_the_arena_cannot_hold_brings_the_prefix_that_fits_at_once(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    keys = await fill(connector, backend, 12)
    async with asyncio.timeout(TIME_LIMIT):
        for calls in range(1, 4):
            found = await connector.batched_get(keys)
            assert [holds(obj, key) for obj, key in zip(found, keys, strict=True)] == [True] * 8 + [False] * 4
            del found
            assert connector.statistics()["batched_get"].misses == {"no_room": 4 * calls}
        hits = await connector.batched_get_non_blocking("", keys)
        assert [holds(obj, key) for obj, key in zip(hits, keys, strict=False)] == [True] * 8


async def test_where_others_hold_the_memory_a_batch_brings_the_prefix_that_fits_after_its_wait_for_room(
    valkey_url: str, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(retries=0, allocate_timeout=0.05)
    for stripe in (0, 1 << 18):
        async with ConnectorManager(f"{valkey_url}?stripe={stripe}", None, backend, config) as manager:
            connector = manager.create_connector()
            keys = await fill(connector, backend, 7)
            kept = backend.batched_allocate((MIB,), "uint8", 3)
            assert kept is not None
            found = await connector.batched_get(keys)
            assert [holds(obj, key) for obj, key in zip(found, keys, strict=True)] == [True] * 5 + [False] * 2
            assert connector.statistics()["batched_get"].misses == {"no_room": 2}
            kept += backend.batched_allocate((MIB,), "uint8", 5) or []
            with pytest.raises(AllocationTimeoutError):  # not one chunk: a prefix of none says nothing of the store
                await connector.batched_get(keys)
            release_all(list(kept))
            del found, kept


async def test_absent_keys_and_keys_without_room_are_counted_apart(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    keys = await fill(connector, backend, 12)
    asked = [keys[0], "absent", *keys[1:]]
    found = await connector.batched_get(asked)
    assert [holds(obj, key) for obj, key in zip(found, asked, strict=True)] == [True, False] + [True] * 7 + [False] * 4
    assert connector.statistics()["batched_get"].misses == {"absent": 1, "no_room": 4}


async def test_batches_that_do_not_fit_together_are_served_one_after_the_other(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    keys = await fill(connector, backend, 6)

    async def get() -> None:
        found = await connector.batched_get(keys)
        await asyncio.sleep(0)
        # `holds` releases.
        assert all(holds(obj, key) for key, obj in zip(keys, found, strict=True))

    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*(get() for _ in range(8)))


async def test_a_batch_is_served_as_room_appears(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    keys = await fill(connector, backend, 6)
    kept = backend.batched_allocate((MIB,), "uint8", 4)
    assert kept is not None
    async with asyncio.timeout(TIME_LIMIT):
        getting = asyncio.create_task(connector.batched_get(keys))
        for obj in kept[:3]:
            while not backend.statistics().waiters:
                assert not getting.done()
                await asyncio.sleep(0)
            obj.ref_count_down()
        found = await getting
    assert all(holds(obj, key) for key, obj in zip(keys, found, strict=True))
    kept[3].ref_count_down()


async def test_a_get_that_waits_for_room_can_be_cancelled_and_leaves_the_line(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    keys = await fill(connector, backend, 6)
    kept = backend.batched_allocate((MIB,), "uint8", 4)
    assert kept is not None
    async with asyncio.timeout(TIME_LIMIT):
        getting = asyncio.create_task(connector.batched_get(keys))
        while not backend.statistics().waiters:
            await asyncio.sleep(0)
        second = asyncio.create_task(connector.batched_get(keys))
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        release_all(list(kept))
        found = await second
    assert all(holds(obj, key) for key, obj in zip(keys, found, strict=True))


async def test_a_batch_beyond_the_arena_brings_its_prefix_where_errors_are_misses(
    valkey_url: str, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(errors="miss", retries=0, allocate_timeout=30)
    async with ConnectorManager(valkey_url, local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        keys = await fill(connector, backend, 12)
        async with asyncio.timeout(TIME_LIMIT):
            found = await connector.batched_get(keys)
        assert [holds(obj, key) for obj, key in zip(found, keys, strict=True)] == [True] * 8 + [False] * 4
        assert connector.statistics()["batched_get"].misses == {"no_room": 4}


async def test_ten_thousand_keys_are_put_looked_up_and_got_in_one_call_each(
    valkey_url: str,
) -> None:
    count = 10_000
    keys = [f"model@1@0@{index:x}@uint8" for index in range(count)]
    with LocalCPUBackend(2 * count * 4096) as backend:
        async with ConnectorManager(valkey_url, local_cpu_backend=backend) as manager:
            connector = manager.create_connector()
            objs = backend.batched_allocate((8,), "uint8", count)
            assert objs is not None
            for index, obj in enumerate(objs):
                obj.byte_array[:] = index.to_bytes(8, "little")
            await connector.batched_put(keys[::2], objs[::2])
            assert await connector.batched_exists(keys) == [index % 2 == 0 for index in range(count)]
            found = await connector.batched_get(keys)
            assert [None if obj is None else int.from_bytes(obj.byte_array, "little") for obj in found] == [
                index if index % 2 == 0 else None for index in range(count)
            ]
            release_all([*objs, *found])
        assert backend.statistics().reserved == 0


async def test_large_gets_are_served_while_small_ones_come_without_end(
    valkey_url: str, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(operation_timeout=30, retries=0, allocate_timeout=2)
    async with ConnectorManager(f"{valkey_url}?pool_size=8", local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        await fill(connector, backend, 1, 4 * MIB)
        for index in range(24):
            with chunk(backend, f"small{index}", MIB // 4) as obj:
                await connector.put(f"small{index}", obj)
        done = asyncio.Event()
        served = 0

        async def small(index: int) -> None:
            nonlocal served
            while not done.is_set():
                obj = await connector.get(f"small{index}")
                assert obj is not None
                with obj:
                    await asyncio.sleep(0.05 + 0.004 * index)
                served += 1

        async def large() -> None:
            obj = await connector.get("k0")
            assert obj is not None
            with obj:
                await asyncio.sleep(0.01)

        # There is always room for a small one, and hardly ever for a large one beside all the small ones.
        others = [asyncio.create_task(small(index)) for index in range(24)]
        while served < 48:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(TIME_LIMIT):
            await asyncio.gather(*(large() for _ in range(6)))
        before = served
        while served < before + 48:  # and the small ones go on
            await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*others)


async def test_a_get_that_waits_for_room_leaves_the_byte_budget_to_the_put_that_holds_it(
    valkey_url: str, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(
        operation_timeout=30, retries=0, allocate_timeout=10, max_bytes_in_flight=2 * MIB, min_throughput=1 << 40
    )
    async with ConnectorManager(valkey_url, local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        await fill(connector, backend, 1, 4 * MIB)
        with chunk(backend, "held", 6 * MIB) as obj:
            getting = asyncio.create_task(connector.get("k0"))
            while not backend.statistics().waiters:
                await asyncio.sleep(0.001)
            async with asyncio.timeout(3):
                await connector.put("held", obj)
        assert holds(await asyncio.wait_for(getting, 3), "k0")
