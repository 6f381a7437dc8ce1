"""`LocalCPUBackend`: what allocation gives, what it refuses, and what the statistics say of it."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_connect import CacheMetadata, ChunkMetadata, LocalCPUBackend, MemoryFormat, MemoryObj
from lmcache_connect.errors import (
    BackendClosedError,
    InvalidArgumentError,
    InvalidShapeError,
    MissingExtraError,
    UnknownDtypeError,
)
from lmcache_connect.memory import ArenaStatistics

PAGE: Final = 4096


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 * PAGE, warm_ahead=0) as backend:
        yield backend
        now = backend.statistics()
        assert (now.reserved, now.live_objects, now.blocks) == (0, 0, 0)


def new(backend: LocalCPUBackend, pages: int = 1) -> MemoryObj:
    obj = backend.allocate((pages * PAGE,), "uint8")
    assert obj is not None
    return obj


def release(objs: list[MemoryObj]) -> None:
    for obj in objs:
        obj.ref_count_down()


# ------------------------------------------------------------------------------------------------ allocation


def test_an_allocated_object_has_one_reference_and_what_was_asked(backend: LocalCPUBackend) -> None:
    obj = backend.allocate((2, 2, 8, 16), "bfloat16")
    assert obj is not None
    assert obj.get_ref_count() == 1
    assert obj.metadata == ChunkMetadata.of((2, 2, 8, 16), "bfloat16", MemoryFormat.KV_2LTD)
    assert backend.owns(obj)
    obj.ref_count_down()


def test_several_groups_and_a_format_may_be_asked_for(backend: LocalCPUBackend) -> None:
    obj = backend.allocate([(4, 2, 8), (4, 2, 2)], ["half", "uint8"], MemoryFormat.KV_T2D)
    assert obj is not None
    assert obj.metadata == ChunkMetadata.of([(4, 2, 8), (4, 2, 2)], ["half", "uint8"], MemoryFormat.KV_T2D)
    obj.ref_count_down()


def test_lmcaches_arguments_are_taken_in_their_order(backend: LocalCPUBackend) -> None:
    obj = backend.allocate((8,), "half", MemoryFormat.BINARY, False, True)
    assert obj is not None
    obj.ref_count_down()
    objs = backend.batched_allocate((8,), "half", 2, MemoryFormat.BINARY, False, True)
    assert objs is not None
    release(objs)


def test_a_full_arena_gives_none_until_there_is_room(backend: LocalCPUBackend) -> None:
    objs = [new(backend) for _ in range(64)]
    assert backend.allocate((1,), "uint8") is None
    assert backend.statistics().refusals == 1
    objs.pop().ref_count_down()
    objs.append(new(backend))
    assert backend.allocate((1,), "uint8") is None
    release(objs)


def test_what_is_larger_than_the_arena_gives_none(backend: LocalCPUBackend) -> None:
    assert backend.allocate((64 * PAGE + 1,), "uint8") is None
    new(backend, 64).ref_count_down()


def test_a_chunk_that_cannot_be_described_is_refused(backend: LocalCPUBackend) -> None:
    with pytest.raises(InvalidShapeError):
        backend.allocate((0,), "uint8")
    with pytest.raises(UnknownDtypeError):
        backend.allocate((1,), "int3")


@pytest.mark.parametrize("count", [1, 5, 64])
def test_a_batch_is_allocated_as_a_whole(backend: LocalCPUBackend, count: int) -> None:
    objs = backend.batched_allocate((PAGE,), "uint8", count)
    assert objs is not None
    assert len({id(obj) for obj in objs}) == len({obj.data_ptr for obj in objs}) == count
    assert backend.statistics().live_objects == count
    release(objs)


def test_a_batch_without_room_for_every_one_gives_none_and_holds_nothing(backend: LocalCPUBackend) -> None:
    held = new(backend, 60)
    assert backend.batched_allocate((PAGE,), "uint8", 5) is None
    assert backend.statistics().reserved == 60 * PAGE
    objs = backend.batched_allocate((PAGE,), "uint8", 4)
    assert objs is not None
    release([held, *objs])


def test_a_batch_larger_than_the_arena_evicts_nothing_in_vain(backend: LocalCPUBackend) -> None:
    with new(backend) as obj:
        backend.submit_put_task("cached", obj)
    assert backend.batched_allocate((PAGE,), "uint8", 65) is None
    assert backend.contains("cached")
    backend.clear()


@pytest.mark.parametrize("count", [0, -1])
def test_a_batch_of_nothing_is_refused(backend: LocalCPUBackend, count: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{count} is below 1"):
        backend.batched_allocate((1,), "uint8", count)


@given(
    st.sampled_from([100, PAGE, 3 * PAGE, (1 << 20) - 1, 1 << 20, (1 << 20) + 1]),
    st.integers(0, PAGE),
    st.lists(st.none() | st.integers(0, 6), max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_equal_sized_chunks_never_fragment(nbytes: int, excess: int, steps: list[int | None]) -> None:
    size = -(-nbytes // PAGE) * PAGE
    with LocalCPUBackend(7 * size + min(excess, size - 1)) as backend:
        live: list[MemoryObj] = []
        for released in steps:
            if released is not None and live:
                live.pop(released % len(live)).ref_count_down()
                continue
            obj = backend.allocate((nbytes,), "uint8")
            assert (obj is not None) is (len(live) < 7)
            if obj is not None:
                live.append(obj)
        release(live)
        assert backend.statistics().largest_free == backend.statistics().capacity


@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_allocations_of_mixed_sizes_keep_their_bytes_and_all_come_back(seed: int) -> None:
    decide = random.Random(seed)
    live: list[tuple[MemoryObj, bytes]] = []
    with LocalCPUBackend(32 << 20) as backend:
        for step in range(10_000):
            if live and decide.random() < 0.5:
                obj, stamp = live.pop(decide.randrange(len(live)))
                assert bytes(obj.byte_array[:4]) == bytes(obj.byte_array[-4:]) == stamp
                obj.ref_count_down()
                continue
            nbytes = decide.choice((decide.randrange(8, 20_000), decide.randrange(8, 3 << 20)))
            found = backend.allocate((nbytes,), "uint8")
            if found is not None:
                found.byte_array[:4] = found.byte_array[-4:] = stamp = step.to_bytes(4, "big")
                live.append((found, stamp))
        now = backend.statistics()
        assert now.live_objects == now.blocks == len(live)
        assert now.reserved == sum(obj.get_physical_size() for obj, _ in live)
        release([obj for obj, _ in live])
        now = backend.statistics()
        assert (now.reserved, now.blocks, now.live_objects, now.leaked_objects) == (0, 0, 0, 0)
        assert now.largest_free == now.free == now.capacity
        whole = backend.batched_allocate((4 << 20,), "uint8", 8)
        assert whole is not None
        assert backend.statistics().free == 0
        release(whole)


def test_four_threads_that_allocate_and_release_two_thousand_times_each_leave_the_balance_at_zero() -> None:
    with LocalCPUBackend(64 * PAGE) as backend:
        start = threading.Barrier(4)
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            decide = random.Random(seed)
            try:
                start.wait()
                for step in range(2_000):
                    obj = backend.allocate((decide.randrange(1, 20 * PAGE),), "uint8")
                    if obj is None:
                        continue
                    with obj:
                        obj.byte_array[0] = seed
                        if step % 7 == 0:
                            backend.submit_put_task(f"{seed}:{step % 50}", obj)
                        if (
                            step % 11 == 0
                            and (found := backend.get_blocking(f"{seed % 4 + 1}:{step % 50}")) is not None
                        ):
                            found.ref_count_down()
                        if step % 101 == 0:
                            backend.statistics()
                        assert obj.byte_array[0] == seed
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        now = backend.statistics()
        assert now.live_objects == now.cached_objects
        backend.clear()
        now = backend.statistics()
        assert (now.reserved, now.live_objects, now.blocks, now.cached_bytes, now.leaked_objects) == (0, 0, 0, 0, 0)
        assert now.largest_free == now.capacity


# --------------------------------------------------------------------------------------------- the backend itself


@pytest.mark.parametrize("max_bytes", [0, -1, 4095, 1e6, "1MB", None])
def test_a_backend_without_room_for_a_page_is_refused(max_bytes: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="max_bytes"):
        LocalCPUBackend(max_bytes)


def test_the_capacity_is_rounded_down_to_whole_pages() -> None:
    with LocalCPUBackend(3 * PAGE - 1, prefault=True) as backend:
        assert backend.statistics().capacity == 2 * PAGE


def test_an_unknown_eviction_policy_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="'ARC' is not one of LRU, LFU, FIFO, MRU"):
        LocalCPUBackend(PAGE, eviction="ARC")


def test_pinning_for_a_gpu_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"lmcache-connect\[torch\]"):
        LocalCPUBackend(PAGE, pin_memory=True)


@pytest.mark.torch
def test_pinning_for_a_gpu_works_where_there_is_one_and_is_refused_where_there_is_none() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidArgumentError, match="no CUDA device"):
            LocalCPUBackend(PAGE, pin_memory=True)
        return
    with LocalCPUBackend(64 * PAGE, pin_memory=True) as backend, new(backend) as obj:
        assert obj.tensor.is_pinned()


def test_a_full_chunks_size_comes_from_the_models_metadata(backend: LocalCPUBackend) -> None:
    with pytest.raises(InvalidArgumentError, match="the memory was made without it"):
        backend.get_full_chunk_size_bytes()
    llama = CacheMetadata("m", 1, 0, "bfloat16", (32, 2, 256, 8, 128))
    with LocalCPUBackend(PAGE, metadata=llama) as described:
        assert described.get_full_chunk_size_bytes() == 32 << 20


def test_a_backend_owns_its_own_objects_alone(backend: LocalCPUBackend) -> None:
    with LocalCPUBackend(PAGE) as other, new(backend) as obj, new(other) as foreign:
        assert backend.owns(obj)
        assert not backend.owns(foreign)
        assert not backend.owns("an object")
        assert obj.belongs_to(backend)


def test_a_closed_backend_refuses_allocations_and_leaves_held_objects_readable() -> None:
    backend = LocalCPUBackend(64 * PAGE)
    held, cached = new(backend), new(backend)
    held.byte_array[:4] = b"here"
    backend.submit_put_task("cached", cached)
    cached.ref_count_down()
    backend.close()
    backend.close()
    assert bytes(held.byte_array[:4]) == b"here"
    assert not cached.is_valid()
    assert backend.get_keys() == []
    for refused in (
        lambda: backend.allocate((1,), "uint8"),
        lambda: backend.batched_allocate((1,), "uint8", 1),
        lambda: backend.submit_put_task("late", held),
    ):
        with pytest.raises(BackendClosedError, match="create a new LocalCPUBackend"):
            refused()
    held.ref_count_down()
    assert backend.statistics().reserved == 0


def test_the_statistics_say_what_is_there(backend: LocalCPUBackend) -> None:
    capacity = 64 * PAGE
    assert backend.statistics() == ArenaStatistics(capacity, 0, capacity, capacity, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    small, large, lost = new(backend), new(backend, 10), new(backend)
    backend.submit_put_task("large", large)
    large.ref_count_down()
    assert backend.allocate((capacity,), "uint8", eviction=False) is None
    with pytest.warns(ResourceWarning, match="never released"):
        del lost
        gc.collect()
    now = backend.statistics()
    assert now._asdict() == {
        "capacity": capacity,
        "reserved": 11 * PAGE,
        "free": 53 * PAGE,
        "largest_free": now.largest_free,
        "blocks": 2,
        "live_objects": 2,
        "cached_objects": 1,
        "cached_bytes": 10 * PAGE,
        "waiters": 0,
        "allocations": 3,
        "refusals": 1,
        "evictions": 0,
        "leaked_objects": 1,
        "warm": 0,
    }
    assert 0 < now.largest_free <= now.free
    assert repr(backend) == f"<LocalCPUBackend {11 * PAGE} of {capacity} bytes reserved, 2 objects>"
    small.ref_count_down()
    new(backend, 60).ref_count_down()
    assert (backend.statistics().evictions, backend.statistics().cached_objects) == (1, 0)
