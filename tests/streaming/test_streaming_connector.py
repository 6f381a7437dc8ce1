"""What the base of network stores does for each of them, shown on a store that is a dictionary. No server is needed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import ClassVar, cast

import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    CorruptRecordError,
    Key,
    LocalCPUBackend,
    RemoteConnector,
    StoreUnavailableError,
)
from lmcache_connect.contract import Flags
from lmcache_connect.memory import release_all
from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect.streaming import LARGE_BYTES, Arrivals, ChunkBytes, StreamingConnector
from lmcache_connect.streaming.connector import IO
from lmcache_connect.transport import ConnectionPool

from .connections import FakeConnection

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
LONG = 20.0


class DictConnector(StreamingConnector[FakeConnection]):
    """A store that is a dictionary. It receives one chunk after the other over one connection."""

    io: ClassVar[IO] = "loop"

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__(context, pool_size=1, lookup_pool_size=1, connect_timeout=0.05, io=self.io)
        self.backend = context.local_cpu_backend
        self.values: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.got_over: list[ConnectionPool[FakeConnection]] = []
        self.in_threads: list[bool] = []
        self.can_dial = True

    async def dial(self) -> FakeConnection:
        if not self.can_dial:
            await asyncio.sleep(LONG)
        return FakeConnection()

    def names_of(self, keys: Sequence[str]) -> list[str]:
        return [f"name of {key}" for key in keys]

    async def receive(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        *,
        may_wait: bool = False,
        nbytes: int | None = None,
    ) -> None:
        self.in_threads.append(self._moves_in_thread(self._nbytes_of(len(keys))))
        self.got_over.append(self._waiting_pool if may_wait else self._chunk_pool)
        async with self.got_over[-1].acquired():
            for slot, (key, name) in enumerate(zip(keys, names, strict=True)):
                assert name == f"name of {key}"
                await asyncio.sleep(0)
                if (value := self.values.get(name)) is None:
                    continue
                chunk = await arrivals.room.make(ChunkMetadata.of((len(value),), "uint8"))
                [view] = chunk.views_of(0, len(value))
                view[:] = value
                if name in self.damaged:
                    chunk.ref_count_down()
                    arrivals.corrupt[slot] = CorruptRecordError("checksum", "damaged on purpose", removable=True)
                else:
                    arrivals.found[slot] = chunk

    async def send(self, keys: Sequence[str], names: Sequence[str], objs: Sequence[ChunkBytes]) -> None:
        self.in_threads.append(self._moves_in_thread(sum(obj.get_size() for obj in objs)))
        self.values |= {name: b"".join(obj.views_of(0, obj.get_size())) for name, obj in zip(names, objs, strict=True)}

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        async with self._lookup_pool.acquired():
            return [f"name of {key}" in self.values for key in keys]

    async def remove(self, key: Key) -> bool:
        return self.values.pop(f"name of {key}", None) is not None

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        assert f"name of {key}" in self.damaged
        return await self.remove(key)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in [*self.values, *self.values]:
            yield name.removeprefix("name of ")


class DictAdapter(ConnectorAdapter):
    schema = "dict://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return DictConnector(context)


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(8 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest_asyncio.fixture
async def store(backend: LocalCPUBackend) -> AsyncIterator[DictConnector]:
    config = ConnectorConfig.load(retries=0, allocate_timeout=LONG)
    async with ConnectorManager("dict://x", local_cpu_backend=backend, config=config) as manager:
        manager.register(DictAdapter)
        yield cast(DictConnector, manager.create_connector().wrapped)


async def put(store: DictConnector, key: str, nbytes: int) -> None:
    obj = store.backend.allocate((nbytes,), "uint8")
    assert obj is not None
    with obj:
        obj.byte_array[:] = key.encode()[:1] * nbytes
        await store.put(key, obj)


async def test_chunks_are_got_looked_up_and_listed_by_their_names(store: DictConnector) -> None:
    await put(store, "a", 100)
    await put(store, "b", 100)
    assert (await store.exists("a"), await store.exists("c")) == (True, False)
    assert await store.list() == ["a", "b"]
    found = await store.batched_get(["b", "c", "a"])
    assert [obj and bytes(obj.byte_array[:1]) for obj in found] == [b"b", None, b"a"]
    release_all(found)
    assert await store.get("c") is None


async def test_more_keys_than_are_named_at_a_time_keep_their_order(store: DictConnector) -> None:
    for index in (0, 249, 250, 601):
        await put(store, f"{index}", 1)
    found = await store.batched_get([f"{index}" for index in range(602)])
    assert [index for index, obj in enumerate(found) if obj is not None] == [0, 249, 250, 601]
    release_all(found)


async def test_a_damaged_record_is_raised_by_get_and_is_a_discarded_miss_of_a_batch(store: DictConnector) -> None:
    for key in "abc":
        await put(store, key, 100)
    store.damaged = {"name of b"}
    with pytest.raises(CorruptRecordError):
        await store.get("b")
    found = await store.batched_get(["a", "b", "c"])
    assert [obj is not None for obj in found] == [True, False, True]
    release_all(found)
    assert await store.exists("b") is False


async def test_a_batch_whose_damaged_record_cannot_be_discarded_holds_nothing(
    store: DictConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "ab":
        await put(store, key, 100)
    store.damaged = {"name of b"}

    async def broken(key: Key, error: CorruptRecordError) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(store, "discard_corrupt", broken)
    with pytest.raises(RuntimeError):
        await store.batched_get(["a", "b"])
    assert store.backend.statistics().live_objects == 0


async def test_the_damaged_records_of_a_batch_are_removed_side_by_side(
    store: DictConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "abc":
        await put(store, key, 100)
    store.damaged = {"name of a", "name of b", "name of c"}
    all_asked = asyncio.Barrier(3)

    async def remove_damaged(key: Key, error: CorruptRecordError) -> bool:
        await all_asked.wait()
        return await store.remove(key)

    monkeypatch.setattr(DictConnector, "remove_damaged", lambda _, key, error: remove_damaged(key, error))
    assert await store.batched_get(["a", "b", "c"]) == [None] * 3
    assert store.values == {}


async def test_the_get_that_is_first_in_line_for_room_uses_connections_that_no_other_get_uses(
    store: DictConnector,
) -> None:
    for key in "abc":
        await put(store, key, 2 * MIB)
    store.got_over.clear()
    kept = store.backend.batched_allocate((MIB,), "uint8", 4)
    assert kept is not None
    getting = asyncio.create_task(store.batched_get(["a", "b", "c"]))
    async with asyncio.timeout(LONG):
        while not store.backend.statistics().waiters:
            await asyncio.sleep(0)
        release_all(list(await store.batched_get(["nothing"])))  # its connection is free
        release_all(list(kept))
        release_all(await getting)
    first, again, other = store.got_over
    assert first is other is not again


async def test_connecting_that_takes_too_long_is_an_unavailable_store(store: DictConnector) -> None:
    store.can_dial = False
    with pytest.raises(StoreUnavailableError, match=r"did not finish within 0\.05 s"):
        await store.get("a")


@pytest.mark.parametrize(
    ("io", "in_thread"), [("auto", [False, True]), ("thread", [True, True]), ("loop", [False, False])]
)
async def test_threads_move_large_calls_unless_the_url_says_otherwise(
    backend: LocalCPUBackend, monkeypatch: pytest.MonkeyPatch, io: IO, in_thread: list[bool]
) -> None:
    monkeypatch.setattr(DictConnector, "io", io)
    async with ConnectorManager("dict://x", local_cpu_backend=backend) as manager:
        manager.register(DictAdapter)
        store = cast(DictConnector, manager.create_connector().wrapped)
        await put(store, "small", LARGE_BYTES - 1)
        await put(store, "large", LARGE_BYTES)
        assert store.in_threads == in_thread


async def test_the_size_of_the_last_chunk_decides_whether_a_get_is_large(
    store: DictConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_threads_from", LARGE_BYTES)
    await put(store, "small", 100)
    store.in_threads.clear()
    for _ in range(2):
        release_all([await store.get("small")])
    assert store.in_threads == [True, False]
