"""Memory that an engine owns serves connectors, the API, metrics and announcements as our own memory does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any, Final

import pytest

from lmcache_connect import ArenaExhaustedError, CacheMetadata, ChunkMetadata, ConnectorManager, LocalCPUBackend
from lmcache_connect.errors import (
    AllocationTimeoutError,
    BackendClosedError,
    ForeignObjectError,
    InvalidArgumentError,
    InvalidShapeError,
)
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.memory import ChunkMemory
from lmcache_connect.oversight import ManagerMetrics

from ..internal_api_server.conftest import client_of
from .engine import Engine, EngineObject, FakeEngineMemory

CAPACITY: Final = 64 << 10
CHUNK: Final = ChunkMetadata.of((4096,), "uint8")


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(CAPACITY)
    yield engine
    gc.collect()
    assert engine.free == CAPACITY, "memory of the engine was not released"


@pytest.fixture
def memory(engine: Engine) -> Iterator[FakeEngineMemory]:
    memory = FakeEngineMemory(engine, CAPACITY, None)
    yield memory
    memory.close()


def test_a_chunk_is_allocated_from_the_engine_and_goes_back_with_its_last_reference(
    engine: Engine, memory: FakeEngineMemory
) -> None:
    obj = memory.allocate((4096,), "uint8")
    assert obj is not None
    assert engine.free == CAPACITY - 4096
    assert memory.owns(obj)
    assert (obj.get_ref_count(), obj.get_size()) == (1, 4096)
    obj.byte_array[:4] = b"here"
    assert obj.theirs.byte_array[:4] == b"here"  # type: ignore[attr-defined]
    obj.ref_count_down()
    assert engine.free == CAPACITY


def test_an_object_that_is_handed_over_leaves_one_reference_with_the_engine(memory: FakeEngineMemory) -> None:
    obj: Any = memory.allocate_chunk(CHUNK)
    theirs = obj.handed_over()
    assert theirs.references == 1
    assert not obj.is_valid()
    theirs.ref_count_down()


def test_a_borrowed_object_keeps_its_references_to_the_caller(engine: Engine, memory: FakeEngineMemory) -> None:
    theirs = engine.allocate(4096)
    assert theirs is not None
    with memory.borrowed(theirs, CHUNK) as obj:
        assert memory.owns(obj)
        assert theirs.references == 1
    assert theirs.references == 1
    theirs.ref_count_down()


def test_objects_of_other_memory_are_not_owned(memory: FakeEngineMemory) -> None:
    with LocalCPUBackend(1 << 20) as other:
        obj = other.allocate_chunk(CHUNK)
        assert obj is not None
        with obj:
            assert not memory.owns(obj)
    assert not memory.owns("an object")


def test_an_object_without_a_buffer_is_released_at_once(engine: Engine) -> None:
    class Misfit(FakeEngineMemory):
        def _allocate_theirs(self, allocator: Any, metadata: ChunkMetadata, eviction: bool) -> EngineObject | None:
            found = super()._allocate_theirs(allocator, metadata, eviction)
            assert found is not None
            found.byte_array = None
            return found

    with pytest.raises(TypeError):
        Misfit(engine, CAPACITY, None).allocate_chunk(CHUNK)


def test_a_batch_is_allocated_as_a_whole_or_not_at_all(engine: Engine, memory: FakeEngineMemory) -> None:
    held = memory.allocate((40 << 10,), "uint8")
    assert held is not None
    with held:
        assert memory.batched_allocate((8 << 10,), "uint8", 4) is None
        assert engine.free == CAPACITY - (40 << 10)
        objs = memory.batched_allocate((8 << 10,), "uint8", 3)
        assert objs is not None
        assert engine.free == 0
        for obj in objs:
            obj.ref_count_down()
    with pytest.raises(InvalidShapeError):
        memory.allocate((0,), "uint8")


@pytest.mark.asyncio
async def test_an_allocation_waits_until_the_engine_has_room(memory: FakeEngineMemory) -> None:
    held = await memory.allocate_async((CAPACITY,), "uint8")
    with pytest.raises(AllocationTimeoutError) as caught:
        await memory.allocate_chunk_async(CHUNK, timeout=0.02)
    assert (caught.value.requested, caught.value.capacity) == (4096, CAPACITY)
    waiting = asyncio.create_task(memory.allocate_chunk_async(CHUNK, timeout=30))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    held.ref_count_down()
    (await waiting).ref_count_down()


@pytest.mark.asyncio
async def test_a_process_without_memory_refuses_every_allocation_at_once() -> None:
    memory = FakeEngineMemory(None, CAPACITY, None)
    assert memory.allocate_chunk(CHUNK) is None
    with pytest.raises(ArenaExhaustedError):
        await memory.allocate_chunk_async(CHUNK)


def test_a_closed_memory_refuses_allocations_and_leaves_held_objects_readable(memory: FakeEngineMemory) -> None:
    held = memory.allocate_chunk(CHUNK)
    assert held is not None
    memory.close()
    memory.close()
    with held, pytest.raises(BackendClosedError):
        memory.allocate_chunk(CHUNK)
    assert repr(memory) == f"<FakeEngineMemory of {CAPACITY} bytes>"


def test_a_full_chunks_size_comes_from_the_models_metadata(engine: Engine, memory: FakeEngineMemory) -> None:
    with pytest.raises(InvalidArgumentError, match="metadata"):
        memory.get_full_chunk_size_bytes()
    llama = CacheMetadata("m", 1, 0, "bfloat16", (32, 2, 256, 8, 128))
    assert FakeEngineMemory(engine, CAPACITY, llama).get_full_chunk_size_bytes() == 32 << 20


def test_there_is_no_hot_cache_and_the_statistics_say_what_is_known(memory: FakeEngineMemory) -> None:
    assert isinstance(memory, ChunkMemory)
    assert memory.hot_cache is None
    now = memory.statistics()
    assert (now.capacity, now.reserved, now.free) == (CAPACITY, CAPACITY, 0)
    assert not any(now[3:])


@pytest.mark.asyncio
async def test_chunks_are_put_from_the_engines_memory_and_got_into_it(engine: Engine, memory: FakeEngineMemory) -> None:
    async with ConnectorManager("memory://engine", None, memory) as manager:
        connector = manager.create_connector()
        theirs = engine.allocate(4096)
        assert theirs is not None
        theirs.byte_array[:] = bytes(range(256)) * 16
        with memory.borrowed(theirs, CHUNK) as obj:
            await connector.put("a", obj)
        theirs.ref_count_down()
        found: Any = await connector.get("a")
        got = found.handed_over()
        assert got.byte_array == bytes(range(256)) * 16
        got.ref_count_down()
        with LocalCPUBackend(1 << 20) as other, await other.allocate_async((16,), "uint8") as foreign:
            with pytest.raises(ForeignObjectError):
                await connector.put("b", foreign)


@pytest.mark.asyncio
async def test_metrics_and_announcements_tell_of_it(memory: FakeEngineMemory) -> None:
    async with ConnectorManager("memory://engine", None, memory) as manager:
        manager.create_connector()
        text = ManagerMetrics(manager).render()[0].decode()
        assert f"lmcache_connect_arena_capacity_bytes {float(CAPACITY)}" in text
        assert "lmcache_connect_hot_cache_chunks{" not in text
        assert manager.announcer is not None
        assert manager.announcer.describe().arena.capacity == CAPACITY


@pytest.mark.asyncio
async def test_the_api_shows_it_as_memory_without_a_hot_cache(memory: FakeEngineMemory) -> None:
    async with (
        ConnectorManager("memory://engine", None, memory) as manager,
        InternalAPIServer(manager, APIServerConfig.load()) as server,
        client_of(server) as client,
    ):
        manager.create_connector()
        shown = (await client.get("/vllm/hot-cache")).json()
        assert (shown["enabled"], shown["chunks"], shown["arena_capacity"]) == (False, 0, CAPACITY)
        assert (await client.get("/status")).json()["hot_cache"] == shown
        refused = await client.put("/vllm/hot-cache", json={"enabled": True})
        assert (refused.status_code, refused.json()["problem"]) == (409, "no_hot_cache")
        cleared = (await client.post("/vllm/hot-cache/clear")).json()
        assert cleared == {"dropped": 0, "hot_cache": shown}
        body = {"prefix": "a", "dry_run": False, "locations": ["hot-cache"]}
        (place,) = (await client.post("/vllm/cache/clear", json=body)).json()["locations"]
        assert (place["matched"], place["removed"], place["complete"]) == (0, 0, True)
