"""`hot+<scheme>://` and memory of its callers: hits are copied out, nothing is filled in, and a put invalidates."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
import pytest_asyncio

from lmcache_connect import (
    ChunkMetadata,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    StoreUnavailableError,
)
from lmcache_connect.errors import CircuitOpenError
from lmcache_connect_composition.hot_connector import HotConnector

from .held_store import NBYTES, Clock, Store, held_adapter, hot_adapter, stored, text_of

pytestmark = pytest.mark.asyncio

CONFIG = ConnectorConfig.load(operation_timeout=5, retries=0, breaker_failures=3, breaker_reset=60, close_grace=1)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 << 20) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def connector(backend: LocalCPUBackend, store: Store, clock: Clock) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(local_cpu_backend=backend, config=CONFIG) as manager:
        manager.register(held_adapter(store))
        manager.register(hot_adapter(clock), replace=True)
        connector = manager.create_connector("hot+held://store?hot_bytes=16MiB&hot_ttl=60&ttl=10")
        yield connector
        hot = cast(HotConnector, connector.wrapped)
        hot._cache.clear()
        now = hot._memory.statistics()
        assert (now.reserved, now.live_objects) == (0, 0), now


async def cached(connector: ManagedConnector, store: Store, *keys: str) -> None:
    """Has the cache hold what the store holds under these keys."""
    for key in keys:
        store.chunks[key] = stored(key.encode())
        assert text_of(await connector.get(key)) == key.encode()
    store.asked.clear()
    store.batches.clear()


async def test_a_hit_is_copied_into_memory_of_the_caller_and_the_store_is_not_asked(
    connector: ManagedConnector, store: Store
) -> None:
    await cached(connector, store, "a", "b")
    first, second = bytearray(1000), bytearray(NBYTES - 1000)
    assert await connector.get_into("a", [first, second])
    assert first + second == stored(b"a")
    buffers = [bytearray(NBYTES) for _ in range(3)]
    assert await connector.batched_get_into(["b", "a", "b"], buffers) == [True] * 3
    assert buffers == [stored(text) for text in (b"b", b"a", b"b")]
    assert not store.asked
    assert not store.batches
    counted = connector.statistics()
    assert (counted["get_into"].calls, counted["get_into"].hits, counted["get_into"].bytes) == (1, 1, NBYTES)
    batch = counted["batched_get_into"]
    assert (batch.calls, batch.items, batch.hits, batch.bytes) == (1, 3, 3, 3 * NBYTES)


async def test_of_a_batch_the_store_is_asked_for_what_is_not_cached_and_each_answer_is_in_its_place(
    connector: ManagedConnector, store: Store
) -> None:
    await cached(connector, store, "a", "c")
    store.chunks["d"] = stored(b"d")
    buffers = [bytearray(NBYTES) for _ in range(5)]
    flags = await connector.batched_get_into(["none", "a", "d", "c", "d"], buffers)
    assert flags == [False, True, True, True, True]
    assert buffers[1:] == [stored(text) for text in (b"a", b"d", b"c", b"d")]
    assert store.batches == [("none", "d", "d")]
    counted = connector.statistics()["batched_get_into"]
    assert (counted.calls, counted.items, counted.hits, counted.misses) == (1, 5, 4, {"absent": 1})


async def test_what_is_received_into_memory_of_the_caller_is_not_cached(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"a")
    for _ in range(2):
        assert await connector.get_into("a", bytearray(NBYTES))
    assert store.batches == [("a",)] * 2


async def test_a_put_from_memory_of_the_caller_replaces_what_is_cached_and_is_not_cached_itself(
    connector: ManagedConnector, store: Store
) -> None:
    await cached(connector, store, "a")
    assert await connector.put_from("a", stored(b"new"))
    assert text_of(await connector.get("a")) == b"new"
    assert store.asked["get"] == 1
    assert await connector.batched_put_from(["a", "b"], [stored(b"newer"), stored(b"b")]) == [True, True]
    buffer = bytearray(NBYTES)
    assert await connector.get_into("a", buffer)
    assert buffer == stored(b"newer")


async def test_a_chunk_that_was_put_from_memory_of_the_caller_is_not_served_after_its_stores_ttl(
    connector: ManagedConnector, store: Store, clock: Clock
) -> None:
    assert await connector.put_from("a", stored(b"a"))
    clock.now += 8
    for _ in range(2):
        assert text_of(await connector.get("a")) == b"a"
    assert store.asked["get"] == 1
    clock.now += 2.5  # the store has it for ten seconds
    assert text_of(await connector.get("a")) == b"a"
    assert store.asked["get"] == 2


async def test_a_put_that_fails_or_is_cancelled_leaves_nothing_cached_under_its_key(
    connector: ManagedConnector, store: Store
) -> None:
    await cached(connector, store, "a")
    store.failure = StoreUnavailableError("held", "gone")
    with pytest.raises(StoreUnavailableError):
        await connector.put_from("a", stored(b"new"))
    store.failure = None
    assert text_of(await connector.get("a")) == b"a"
    assert store.asked["get"] == 1
    gate = store.hold("put")
    putting = asyncio.create_task(connector.put_from("a", stored(b"new")))
    while not store.asked["put"] >= 2:
        await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    gate.set()
    assert text_of(await connector.get("a")) == b"a"
    assert store.asked["get"] == 2


async def test_a_fetch_that_began_before_a_put_from_memory_of_the_caller_fills_nothing(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"old")
    gate = store.hold("get")
    getting = asyncio.create_task(connector.get("a"))
    while not store.asked["get"]:
        await asyncio.sleep(0)
    assert await connector.put_from("a", stored(b"new"))
    gate.set()
    assert text_of(await getting) == b"old"  # it had begun before
    buffer = bytearray(NBYTES)
    assert await connector.get_into("a", buffer)
    assert buffer == stored(b"new")


async def test_a_cached_chunk_of_another_length_or_with_other_metadata_is_no_hit(
    connector: ManagedConnector, store: Store
) -> None:
    await cached(connector, store, "a")
    assert not await connector.get_into("a", bytearray(NBYTES - 1))
    assert not await connector.get_into("a", bytearray(NBYTES), ChunkMetadata.of((NBYTES // 2,), "half"))
    assert store.batches == [("a",)] * 2  # another writer may have replaced it
    store.chunks["a"] = stored(b"longer", NBYTES + 1)
    assert await connector.get_into("a", bytearray(NBYTES + 1))
    assert await connector.get_into("a", bytearray(NBYTES), ChunkMetadata.of((NBYTES,), "uint8"))


async def test_cached_chunks_are_hits_while_the_breaker_refuses_the_store(
    connector: ManagedConnector, store: Store
) -> None:
    await cached(connector, store, "a")
    store.failure = StoreUnavailableError("held", "gone")
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await connector.get_into("none", bytearray(NBYTES))
    with pytest.raises(CircuitOpenError):
        await connector.get_into("none", bytearray(NBYTES))
    buffer = bytearray(NBYTES)
    assert await connector.get_into("a", buffer)
    assert buffer == stored(b"a")


async def test_a_bypassed_connector_copies_nothing_out_of_the_cache(connector: ManagedConnector, store: Store) -> None:
    await cached(connector, store, "a")
    connector.bypass = True
    buffer = bytearray(NBYTES)
    assert await connector.get_into("a", buffer) is False
    assert buffer == bytes(NBYTES)
