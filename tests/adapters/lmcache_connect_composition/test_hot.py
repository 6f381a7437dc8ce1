"""`hot+<scheme>://`: what is asked first, what invalidates it, who shares a fetch, and whose the memory is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorConfig,
    ConnectorManager,
    InvalidURLError,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    StoreUnavailableError,
)
from lmcache_connect.errors import (
    CircuitOpenError,
    CorruptRecordError,
    InvalidOptionError,
    OperationTimeoutError,
    UnknownOptionError,
)
from lmcache_connect.memory import SharedMemoryObj, release_all
from lmcache_connect.observability import HotCacheCounts
from lmcache_connect.oversight import clear
from lmcache_connect.testing import RcloneServer, ValkeyServer
from lmcache_connect.testing.loop_watch import LoopWatch
from lmcache_connect_composition.hot_connector import HotConnector

from ...engines.engine import FakeEngineMemory
from .held_store import NBYTES, Clock, Store, chunk, held_adapter, hot_adapter, stored, text_of

pytestmark = pytest.mark.asyncio

CONFIG = ConnectorConfig.load(operation_timeout=5, retries=0, breaker_failures=3, breaker_reset=60, close_grace=1)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 << 20) as made:
        yield made
        gc.collect()
        now = made.statistics()
        assert (now.reserved, now.live_objects) == (0, 0), now


@pytest_asyncio.fixture
async def manager(backend: LocalCPUBackend, store: Store, clock: Clock) -> AsyncIterator[ConnectorManager]:
    async with ConnectorManager(local_cpu_backend=backend, config=CONFIG) as made:
        made.register(held_adapter(store))
        made.register(hot_adapter(clock), replace=True)
        yield made
        for connector in made.connectors:
            if isinstance(hot := connector.wrapped, HotConnector):
                # A view that was forgotten, or a reference, would keep its block.
                hot._cache.clear()
                now = hot._memory.statistics()
                assert (now.reserved, now.live_objects) == (0, 0), now
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > 1:  # one whose call was answered may have a turn to go
                await asyncio.sleep(0.005)


@pytest.fixture
def connector(manager: ConnectorManager) -> ManagedConnector:
    return manager.create_connector("hot+held://store?hot_bytes=16MiB&hot_ttl=60")


async def put(connector: ManagedConnector, key: str, text: bytes, nbytes: int = NBYTES) -> None:
    backend = connector.context.local_cpu_backend
    assert isinstance(backend, LocalCPUBackend)
    with chunk(backend, text, nbytes) as obj:
        await connector.put(key, obj)


async def begun(*calls: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    """Tasks of these calls, which have run until they wait."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


# ------------------------------------------------------------------------------------------------ hits and misses


async def test_a_get_fills_the_cache_and_the_next_one_does_not_ask_the_store(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    assert text_of(await connector.get("a")) == b"one"
    assert text_of(await connector.get("a")) == b"one"
    assert store.asked["get"] == 1
    assert await connector.get("absent") is None
    assert await connector.get("absent") is None
    assert store.asked["get"] == 3  # what is not there is not remembered
    assert connector.metrics.hot_cache == HotCacheCounts(hits=1, misses=3)
    counted = connector.statistics()["get"]
    assert (counted.calls, counted.hits, counted.misses["absent"]) == (4, 2, 2)


async def test_a_put_is_found_without_asking_the_store_and_is_a_copy_of_the_callers_memory(
    connector: ManagedConnector, store: Store, backend: LocalCPUBackend
) -> None:
    with chunk(backend, b"one") as obj:
        await connector.put("a", obj)
        obj.byte_array[:3] = b"XXX"
        assert text_of(await connector.get("a")) == b"one"
    assert store.chunks["a"] == stored(b"one")
    assert store.asked["get"] == 0


async def test_a_hit_is_a_read_only_object_of_ones_own_on_the_same_bytes(connector: ManagedConnector) -> None:
    await put(connector, "a", b"one")
    one, other = await connector.get("a"), await connector.get("a")
    assert isinstance(one, SharedMemoryObj)
    assert isinstance(other, SharedMemoryObj)
    assert one is not other
    assert one.data_ptr == other.data_ptr  # no copy
    with pytest.raises(TypeError, match="read-only"):
        one.byte_array[0] = 1
    one.ref_count_down()
    assert text_of(other) == b"one"


async def test_what_a_fetch_brings_lies_in_the_caches_memory_already(
    connector: ManagedConnector, store: Store, backend: LocalCPUBackend
) -> None:
    store.chunks["a"] = stored(b"one")
    fetched, cached = await connector.get("a"), await connector.get("a")
    assert fetched is not None
    assert cached is not None
    with fetched, cached:
        assert fetched.data_ptr == cached.data_ptr
        assert backend.statistics().allocations == 0


async def test_a_chunk_from_the_cache_can_be_put_again(connector: ManagedConnector, store: Store) -> None:
    await put(connector, "a", b"one")
    obj = await connector.get("a")
    assert obj is not None
    with obj:
        await connector.put("b", obj)
        await connector.batched_put(["c"], [obj])
    assert store.chunks["b"] == store.chunks["c"] == stored(b"one")


@pytest.mark.parametrize("options", ["io=thread", "io=loop"])
async def test_a_read_only_chunk_can_be_put_into_redis(
    connector: ManagedConnector, manager: ConnectorManager, valkey_url: str, options: str
) -> None:
    await put(connector, "a", b"one", 5 << 20)
    redis = manager.create_connector(f"{valkey_url}?{options}")
    obj = await connector.get("a")
    assert obj is not None
    with obj:
        await redis.put("read-only", obj)
    assert text_of(await redis.get("read-only")) == b"one"


async def test_a_read_only_chunk_can_be_put_into_s3(
    connector: ManagedConnector, manager: ConnectorManager, rclone_server: RcloneServer
) -> None:
    await put(connector, "a", b"one", 5 << 20)
    s3 = manager.create_connector(rclone_server.url("read-only"))
    obj = await connector.get("a")
    assert obj is not None
    with obj:
        await s3.put("read-only", obj)
    assert text_of(await s3.get("read-only")) == b"one"


async def test_of_a_batch_the_store_is_asked_for_what_is_not_cached_and_the_slots_stay_in_order(
    connector: ManagedConnector, store: Store
) -> None:
    for key in "bd":
        await put(connector, key, key.encode())
    store.chunks |= {key: stored(key.encode()) for key in "ac"}
    found = await connector.batched_get(["a", "b", "absent", "c", "d", "b"])
    assert [text_of(obj) for obj in found] == [b"a", b"b", None, b"c", b"d", b"b"]
    assert store.batches == [("a", "absent", "c")]
    counted = connector.statistics()["batched_get"]
    assert (counted.calls, counted.items, counted.hits, counted.misses["absent"]) == (1, 6, 5, 1)
    assert connector.metrics.hot_cache == HotCacheCounts(hits=3, misses=3)
    found = await connector.batched_get(["c", "b"])
    assert [text_of(obj) for obj in found] == [b"c", b"b"]
    assert len(store.batches) == 1


async def test_a_key_twice_in_a_batch_is_fetched_once_and_each_slot_has_an_object(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    found = await connector.batched_get(["a", "a"])
    assert found[0] is not found[1]
    assert [text_of(obj) for obj in found] == [b"one", b"one"]
    assert store.asked["get"] == 1


async def test_exists_asks_the_cache_and_then_the_store(connector: ManagedConnector, store: Store) -> None:
    await put(connector, "a", b"one")
    store.chunks["b"] = stored(b"two")
    assert await connector.exists("a")
    assert store.asked["exists"] == 0
    assert await connector.exists("b")
    assert not await connector.exists("c")
    assert await connector.batched_exists(["c", "a", "b"]) == [False, True, True]
    assert store.asked["exists"] == 4
    assert await connector.batched_async_contains("lookup", ["a", "b", "c"]) == 2


async def test_from_a_thread_and_from_another_loop_it_is_the_same_cache(
    connector: ManagedConnector, store: Store
) -> None:
    await put(connector, "a", b"one")
    assert text_of(await asyncio.to_thread(connector.sync.get, "a")) == b"one"
    assert text_of(await asyncio.to_thread(lambda: asyncio.run(connector.get("a")))) == b"one"
    assert await asyncio.to_thread(connector.exists_sync, "a")
    assert store.asked["get"] == store.asked["exists"] == 0


# ----------------------------------------------------------------------------------------------- invalidation


async def test_a_put_replaces_what_is_cached(connector: ManagedConnector) -> None:
    await put(connector, "a", b"one")
    held = await connector.get("a")
    await put(connector, "a", b"two")
    assert text_of(await connector.get("a")) == b"two"
    assert text_of(held) == b"one"  # who holds a chunk keeps it


async def _remove(connector: ManagedConnector) -> None:
    await connector.remove("a")


async def _batched_remove(connector: ManagedConnector) -> None:
    await connector.batched_remove(["b", "a"])


async def _remove_sync(connector: ManagedConnector) -> None:
    await asyncio.to_thread(connector.remove_sync, "a")


async def _clear(connector: ManagedConnector) -> None:
    await clear(connector, "")


async def _clear_prefix(connector: ManagedConnector) -> None:
    await clear(connector, "a")


async def _put(connector: ManagedConnector) -> None:
    await put(connector, "a", b"new")


async def _batched_put(connector: ManagedConnector) -> None:
    backend = connector.context.local_cpu_backend
    assert isinstance(backend, LocalCPUBackend)
    with chunk(backend, b"new") as obj:
        await connector.batched_put(["b", "a"], [obj, obj])


REMOVALS = [_remove, _batched_remove, _remove_sync, _clear, _clear_prefix]
CHANGES = [*REMOVALS, _put, _batched_put]


@pytest.mark.parametrize("remove", REMOVALS)
async def test_what_is_removed_is_not_found_again(
    connector: ManagedConnector, remove: Callable[[ManagedConnector], Awaitable[None]]
) -> None:
    await put(connector, "a", b"one")
    await remove(connector)
    assert await connector.get("a") is None
    assert not await connector.exists("a")


async def test_clearing_drops_what_the_store_does_not_list_any_more(connector: ManagedConnector, store: Store) -> None:
    await put(connector, "a1", b"one")
    await put(connector, "b1", b"two")
    store.chunks.clear()  # by another process, or by their TTL
    found = await clear(connector, "a", dry_run=True)
    assert (found.matched, text_of(await connector.get("a1"))) == (0, b"one")
    await clear(connector, "a")
    assert await connector.get("a1") is None
    assert text_of(await connector.get("b1")) == b"two"


@pytest.mark.parametrize("change", CHANGES)
async def test_a_fetch_that_began_before_a_change_of_its_key_fills_nothing_and_no_later_get_joins_it(
    connector: ManagedConnector, store: Store, change: Callable[[ManagedConnector], Awaitable[None]]
) -> None:
    store.chunks["a"] = stored(b"old")
    gate = store.hold("get")
    (before,) = await begun(connector.get("a"))
    await change(connector)
    expected = b"new" if change in (_put, _batched_put) else None
    if expected is not None:
        assert text_of(await connector.get("a")) == b"new"  # at once: the put has filled the cache
    else:
        (after,) = await begun(connector.get("a"))
        assert store.asked["get"] == 2
        gate.set()
        assert text_of(await after) is None
    gate.set()
    assert text_of(await before) == b"old"  # it asked before the change had ended
    assert text_of(await connector.get("a")) == expected


@pytest.mark.parametrize("operation", ["put", "remove"])
async def test_a_fetch_that_began_during_a_change_fills_nothing_either(
    connector: ManagedConnector, store: Store, operation: str
) -> None:
    store.chunks["a"] = stored(b"old")
    change_gate, get_gate = store.hold(operation), store.hold("get")
    (change,) = await begun(put(connector, "a", b"new") if operation == "put" else connector.remove("a"))
    (fetch,) = await begun(connector.get("a"))
    get_gate.set()
    assert text_of(await fetch) == b"old"
    assert text_of(await connector.get("a")) == b"old"  # until the change is acknowledged, that is the chunk
    change_gate.set()
    await change
    assert text_of(await connector.get("a")) == (b"new" if operation == "put" else None)


async def test_of_two_puts_at_once_neither_is_cached(connector: ManagedConnector, store: Store) -> None:
    gate = store.hold("put")
    puts = await begun(put(connector, "a", b"one"), put(connector, "a", b"two"))
    gate.set()
    await asyncio.gather(*puts)
    assert text_of(await connector.get("a")) == store.chunks["a"].rstrip(b".")
    assert store.asked["get"] == 1


async def test_a_key_twice_in_a_batch_of_puts_is_not_cached(
    connector: ManagedConnector, store: Store, backend: LocalCPUBackend
) -> None:
    with chunk(backend, b"one") as one, chunk(backend, b"two") as two:
        await connector.batched_put(["a", "a"], [one, two])
    assert text_of(await connector.get("a")) == store.chunks["a"].rstrip(b".")
    assert store.asked["get"] == 1


@pytest.mark.parametrize("is_batch", [False, True])
async def test_a_put_that_the_store_refuses_leaves_nothing_under_its_key(
    connector: ManagedConnector, store: Store, backend: LocalCPUBackend, is_batch: bool
) -> None:
    await put(connector, "a", b"one")
    store.failure = StoreUnavailableError("held://store", "it is full")
    with chunk(backend, b"two") as obj, pytest.raises(StoreUnavailableError):
        await (connector.batched_put(["a", "b"], [obj, obj]) if is_batch else connector.put("a", obj))
    store.failure = None
    assert text_of(await connector.get("a")) == b"one"
    assert store.asked["get"] == 1  # the cache did not know


async def test_a_put_that_is_cancelled_leaves_nothing_under_its_key(connector: ManagedConnector, store: Store) -> None:
    await put(connector, "a", b"one")
    store.hold("put")
    (change,) = await begun(put(connector, "a", b"two"))
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert text_of(await connector.get("a")) == b"one"
    assert store.asked["get"] == 1


async def test_a_connector_that_is_recreated_begins_with_an_empty_cache(
    manager: ConnectorManager, connector: ManagedConnector, store: Store
) -> None:
    await put(connector, "a", b"one")
    assert text_of(await connector.get("a")) == b"one"
    hits = connector.metrics.hot_cache.hits
    store.chunks["a"] = stored(b"two")
    await manager.recreate(connector)
    assert text_of(await connector.get("a")) == b"two"
    assert text_of(await connector.get("a")) == b"two"
    assert connector.metrics.hot_cache.hits == hits + 1  # sums never fall


async def test_a_put_that_a_recreated_connector_still_finishes_is_seen_by_the_new_one(
    manager: ConnectorManager, connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"old")
    gate = store.hold("put")
    (change,) = await begun(put(connector, "a", b"new"))
    (recreating,) = await begun(manager.recreate(connector))
    assert text_of(await connector.get("a")) == b"old"
    get_gate = store.hold("get")
    (fetch,) = await begun(connector.get("a"))  # it reads the old chunk
    gate.set()
    await change
    await recreating
    get_gate.set()
    assert text_of(await fetch) == b"old"
    assert text_of(await connector.get("a")) == b"new"


async def test_a_hot_cache_that_was_switched_off_stays_off_when_its_connector_is_recreated(
    manager: ConnectorManager, connector: ManagedConnector
) -> None:
    cache = connector.find_hot_cache()
    assert cache is not None
    cache.enabled = False
    await manager.recreate(connector)
    cache = connector.find_hot_cache()
    assert cache is not None
    assert not cache.enabled
    await put(connector, "a", b"one")
    assert len(cache) == 0


# --------------------------------------------------------------------------------------------------------- age


async def test_what_another_connector_wrote_is_seen_after_hot_ttl_at_the_latest(
    manager: ConnectorManager, clock: Clock
) -> None:
    mine, other = (manager.create_connector("hot+held://store?hot_ttl=30&hot_bytes=1MiB") for _ in range(2))
    await put(mine, "a", b"one")
    clock.now += 10
    assert text_of(await other.get("a")) == b"one"
    await put(mine, "a", b"two")
    clock.now += 29
    assert text_of(await other.get("a")) == b"one"
    clock.now += 1
    assert text_of(await other.get("a")) == b"two"
    await mine.remove("a")
    clock.now += 30
    assert not await other.exists("a")
    assert await other.get("a") is None


async def test_a_chunk_that_was_put_is_not_served_after_its_stores_ttl(
    manager: ConnectorManager, store: Store, clock: Clock
) -> None:
    connector = manager.create_connector("hot+held://store?ttl=5&hot_ttl=60&hot_bytes=1MiB")
    gate = store.hold("put")
    (change,) = await begun(put(connector, "a", b"one"))
    clock.now += 2  # it counts from the beginning of the put, which is before the store's clock starts
    gate.set()
    await change
    clock.now += 2.9
    assert text_of(await connector.get("a")) == b"one"
    assert store.asked["get"] == 0
    clock.now += 0.1
    del store.chunks["a"]
    assert await connector.get("a") is None


async def test_a_chunk_that_was_put_here_evicted_and_fetched_again_keeps_the_expiry_of_its_put(
    manager: ConnectorManager, store: Store, clock: Clock
) -> None:
    connector = manager.create_connector("hot+held://store?ttl=50&hot_ttl=40&hot_bytes=1MiB")
    await put(connector, "a", b"one")
    cache = connector.find_hot_cache()
    assert cache is not None
    assert cache.evict_one(manager.local_cpu_backend)
    clock.now += 45
    assert text_of(await connector.get("a")) == b"one"
    del store.chunks["a"]
    clock.now += 4.9
    assert text_of(await connector.get("a")) == b"one"
    clock.now += 0.1
    assert await connector.get("a") is None


async def test_a_fetched_chunk_of_unknown_age_is_served_for_hot_ttl_and_for_the_stores_ttl_at_most(
    manager: ConnectorManager, store: Store, clock: Clock
) -> None:
    connector = manager.create_connector("hot+held://store?ttl=5&hot_ttl=60&hot_bytes=1MiB")
    store.chunks["a"] = stored(b"one")
    assert text_of(await connector.get("a")) == b"one"
    del store.chunks["a"]
    clock.now += 4.9
    assert text_of(await connector.get("a")) == b"one"
    clock.now += 0.1
    assert await connector.get("a") is None


# --------------------------------------------------------------------------------------------- shared fetches


async def test_gets_of_one_key_at_the_same_time_share_one_fetch_and_each_has_an_object(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    gate = store.hold("get")
    gets = await begun(*(connector.get("a") for _ in range(20)))
    batch = await begun(connector.batched_get(["a", "absent"]))
    gate.set()
    found = await asyncio.gather(*gets)
    assert len({id(obj) for obj in found}) == 20
    assert store.asked["get"] == 2  # "a" once, and "absent"
    for obj in found:
        assert text_of(obj) == b"one"
    assert [text_of(obj) for obj in await batch[0]] == [b"one", None]


async def test_a_get_joins_the_batch_that_fetches_its_key_and_a_batch_joins_gets(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks |= {key: stored(key.encode()) for key in "abcd"}
    gate, single = store.hold("batched_get"), store.hold("get")
    first, get, second = await begun(
        connector.batched_get(["a", "b"]), connector.get("b"), connector.batched_get(["b", "c", "d"])
    )
    assert store.batches == [("a", "b"), ("c", "d")]
    assert store.asked["get"] == 0
    single.set()
    gate.set()
    assert [text_of(obj) for obj in await first] == [b"a", b"b"]
    assert text_of(await get) == b"b"
    assert [text_of(obj) for obj in await second] == [b"b", b"c", b"d"]


async def test_cancelling_one_get_does_not_disturb_the_others(connector: ManagedConnector, store: Store) -> None:
    store.chunks["a"] = stored(b"one")
    gate = store.hold("get")
    gets = await begun(*(connector.get("a") for _ in range(3)))
    gets[0].cancel()  # the one that began the fetch
    with pytest.raises(asyncio.CancelledError):
        await gets[0]
    assert store.cancelled == 0
    gate.set()
    assert [text_of(obj) for obj in await asyncio.gather(*gets[1:])] == [b"one", b"one"]
    assert store.asked["get"] == 1


async def test_a_fetch_that_nobody_waits_for_any_more_is_cancelled_and_the_next_get_begins_another(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    gate = store.hold("get")
    gets = await begun(connector.get("a"), connector.get("a"))
    for get in gets:
        get.cancel()
    for get in gets:
        with pytest.raises(asyncio.CancelledError):
            await get
    assert store.cancelled == 1
    gate.set()
    assert text_of(await connector.get("a")) == b"one"
    assert store.asked["get"] == 2


@pytest.mark.parametrize("turns", range(12))
async def test_a_get_that_is_cancelled_at_any_moment_leaves_nothing_behind(
    connector: ManagedConnector, store: Store, turns: int
) -> None:
    store.chunks |= {"a": stored(b"one"), "b": stored(b"two")}
    gets: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(connector.get("a")),
        asyncio.ensure_future(connector.batched_get(["a", "b"])),
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    for get in gets:
        get.cancel()
    for get in gets:
        try:
            release_all(await get)
        except asyncio.CancelledError:
            pass
    assert text_of(await connector.get("a")) == b"one"  # the fixture looks for what was left


async def test_a_deadline_ends_one_get_and_not_the_fetch_that_others_wait_for(
    manager: ConnectorManager, connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    gate = store.hold("get")
    get = asyncio.ensure_future(connector.get("a"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connector.get("a")
    gate.set()
    assert text_of(await get) == b"one"
    assert store.asked["get"] == 1
    store.hold("get")
    late = manager.create_connector("hot+held://store?timeout=0.02&hot_bytes=1MiB")
    late._chunk_size.for_deadline = 0
    with pytest.raises(OperationTimeoutError):
        await late.get("a")
    assert store.cancelled == 1


async def test_a_fetch_has_time_as_long_as_the_last_who_waits_for_it_has(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    gate = store.hold("get")
    (first,) = await begun(connector.get("a"))
    (last,) = await begun(connector.get("a"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()
    assert text_of(await last) == b"one"
    assert store.deadlines[-1] > store.deadlines[0]


async def test_a_damaged_record_is_handled_once_and_is_a_corrupt_miss_for_all_who_wait(
    connector: ManagedConnector, store: Store
) -> None:
    gate = store.hold("get")
    store.failure = CorruptRecordError("checksum", "it is damaged")
    gets = await begun(connector.get("a"), connector.get("a"), connector.get("a"))
    gate.set()
    assert await asyncio.gather(*gets) == [None, None, None]
    assert connector.statistics()["get"].misses == {"corrupt:checksum": 3}
    assert connector.metrics.removals.total() == 1


async def test_a_fetch_that_fails_fails_for_all_who_wait_and_the_next_get_asks_again(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    gate = store.hold("get")
    store.failure = StoreUnavailableError("held://store", "it is gone")
    gets = await begun(connector.get("a"), connector.get("a"))
    gate.set()
    outcomes = await asyncio.gather(*gets, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 2
    store.failure = None
    assert text_of(await connector.get("a")) == b"one"


async def test_a_call_of_a_thread_that_gives_up_does_not_take_the_fetch_from_others(
    connector: ManagedConnector, store: Store
) -> None:
    store.chunks["a"] = stored(b"one")
    gate = store.hold("get")
    late = asyncio.create_task(asyncio.to_thread(connector.sync.get, "a", 0.05))
    while not store.asked["get"]:
        await asyncio.sleep(0.001)
    (get,) = await begun(connector.get("a"))
    with pytest.raises(TimeoutError):
        await late
    gate.set()
    assert text_of(await get) == b"one"
    assert store.asked["get"] == 1


# ---------------------------------------------------------------------------------------------- a failing store


async def test_cached_chunks_are_hits_while_the_store_fails_and_while_the_breaker_refuses_it(
    connector: ManagedConnector, store: Store
) -> None:
    await put(connector, "a", b"one")
    store.failure = StoreUnavailableError("held://store", "it is gone")
    for _ in range(3):
        assert text_of(await connector.get("a")) == b"one"  # says nothing about the store
        with pytest.raises(StoreUnavailableError):
            await connector.get("b")
    with pytest.raises(CircuitOpenError):
        await connector.get("b")
    assert text_of(await connector.get("a")) == b"one"
    assert await connector.exists("a")
    assert text_of((await connector.batched_get(["a"]))[0]) == b"one"
    with pytest.raises(CircuitOpenError):
        await connector.batched_get(["a", "b"])


async def test_of_a_batch_the_cached_chunks_are_hits_where_failures_are_misses(
    manager: ConnectorManager, store: Store
) -> None:
    connector = manager.create_connector("hot+held://store?errors=miss&hot_bytes=1MiB")
    await put(connector, "a", b"one")
    store.failure = StoreUnavailableError("held://store", "it is gone")
    for _ in range(5):
        found = await connector.batched_get(["b", "a", "c"])
        assert [text_of(obj) for obj in found] == [None, b"one", None]
        assert await connector.batched_exists(["b", "a"]) == [False, True]


async def test_a_hit_needs_no_server_at_all(backend: LocalCPUBackend) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(local_cpu_backend=backend, config=CONFIG) as manager:
            connector = manager.create_connector(f"hot+{server.url()}?hot_bytes=1MiB")
            await put(connector, "a", b"one")
            server.stop()
            assert text_of(await connector.get("a")) == b"one"
            with pytest.raises(StoreUnavailableError):
                await connector.get("b")
            assert text_of(await connector.get("a")) == b"one"


async def test_a_bypassed_or_closed_connector_serves_nothing_from_the_cache(connector: ManagedConnector) -> None:
    await put(connector, "a", b"one")
    connector.bypass = True
    assert await connector.get("a") is None
    assert await connector.batched_get(["a"]) == [None]
    assert not await connector.exists("a")
    connector.bypass = False
    await connector.close()
    for call in (connector.get("a"), connector.batched_get(["a"]), connector.exists("a")):
        with pytest.raises(Exception, match="is closed"):
            await call


# -------------------------------------------------------------------------------------------------------- memory


async def test_it_evicts_before_anybody_waits(manager: ConnectorManager, store: Store) -> None:
    connector = manager.create_connector("hot+held://store?hot_bytes=16KiB")
    for key in "abcdef":
        await put(connector, key, key.encode())
    cache = connector.find_hot_cache()
    assert cache is not None
    assert cache.keys() == ["c", "d", "e", "f"]
    assert text_of(await connector.get("a")) == b"a"
    assert cache.keys() == ["d", "e", "f", "a"]
    assert connector.metrics.hot_cache.evictions == 3


async def test_the_policy_is_an_option(manager: ConnectorManager) -> None:
    connector = manager.create_connector("hot+held://store?hot_bytes=8KiB&hot_eviction=mru")
    for key in "abc":
        await put(connector, key, key.encode())
    cache = connector.find_hot_cache()
    assert cache is not None
    assert cache.keys() == ["a", "c"]


async def test_what_has_no_room_in_the_cache_passes_by_and_nobody_waits(
    manager: ConnectorManager, store: Store, backend: LocalCPUBackend
) -> None:
    connector = manager.create_connector("hot+held://store?hot_bytes=8KiB")
    await put(connector, "large", b"large", 16384)
    large = await connector.get("large")
    assert large is not None
    assert large.is_read_only  # as every chunk from here, whatever room there was
    assert backend.owns(large)
    assert text_of(large) == b"large"
    held: list[MemoryObj | None] = []
    for key in "abc":
        await put(connector, key, key.encode())
        held.append(await connector.get(key))  # the third finds everything in the cache held
    assert [backend.owns(obj) for obj in held] == [False, False, True]
    assert [text_of(obj) for obj in held] == [b"a", b"b", b"c"]
    assert backend.statistics().live_objects == 0


async def test_an_evicted_chunk_lives_on_with_its_holders(manager: ConnectorManager) -> None:
    connector = manager.create_connector("hot+held://store?hot_bytes=4KiB")
    await put(connector, "a", b"one")
    held = await connector.get("a")
    await connector.remove("a")
    await put(connector, "b", b"two")
    assert text_of(held) == b"one"
    await put(connector, "b", b"two")
    cache = connector.find_hot_cache()
    assert cache is not None
    assert cache.keys() == ["b"]


async def test_copying_a_large_put_does_not_hold_the_loop(
    manager: ConnectorManager, backend: LocalCPUBackend, loop_watch: LoopWatch
) -> None:
    connector = manager.create_connector("hot+blackhole://store?hot_bytes=64MiB")
    with chunk(backend, b"one", 32 << 20) as obj:
        async with loop_watch:
            await connector.put("a", obj)
    assert text_of(await connector.get("a")) == b"one"


# ------------------------------------------------------------------------------------------------------- the URL


async def test_options_are_its_own_or_the_stores_and_are_checked(manager: ConnectorManager) -> None:
    with pytest.raises(InvalidOptionError, match="hot_bytes"):
        manager.create_connector("hot+held://store?hot_bytes=much")
    with pytest.raises(InvalidOptionError, match="LRU, LFU, FIFO, MRU"):
        manager.create_connector("hot+held://store?hot_eviction=ARC")
    with pytest.raises(InvalidOptionError, match="hot_ttl"):
        manager.create_connector("hot+held://store?hot_ttl=0")
    with pytest.raises(UnknownOptionError, match="hot_size"):
        manager.create_connector("hot+held://store?hot_size=1")
    with pytest.raises(UnknownOptionError, match="nonsense"):
        manager.create_connector("hot+held://store?nonsense=1")


async def test_memory_that_an_engine_owns_is_refused_with_what_to_do(store: Store) -> None:
    async with ConnectorManager(local_cpu_backend=FakeEngineMemory(None, 1 << 20, None)) as manager:
        manager.register(held_adapter(store))
        with pytest.raises(InvalidURLError, match="memory that an engine owns"):
            manager.create_connector("hot+held://store")


async def test_a_wrapper_around_it_sees_every_call(
    manager: ConnectorManager, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    connector = manager.create_connector("audit+hot+held://store?hot_bytes=1MiB")
    await put(connector, "a", b"one")
    caplog.set_level("INFO")
    for _ in range(2):
        assert text_of(await connector.get("a")) == b"one"
    assert sum("outcome=hit" in record.getMessage() for record in caplog.records) == 2
    assert store.asked["get"] == 0
    assert connector.metrics.hot_cache.hits == 2
    await connector.remove("a")
    assert await connector.get("a") is None


async def test_what_a_memory_caches_under_lmcaches_names_is_dropped_when_its_key_changes(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    connector = manager.create_connector("held://store")
    for change in CHANGES[:3] + CHANGES[-2:]:
        with chunk(backend, b"one") as obj:
            backend.submit_put_task("a", obj)
        await change(connector)
        assert backend.get_blocking("a") is None, change
