"""The hot cache: chunks that stay for as long as their room is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from lmcache_connect import CacheEngineKey, LocalCPUBackend, MemoryObj
from lmcache_connect.errors import ForeignObjectError, InvalidArgumentError, InvalidKeyError, ReleasedObjectError
from lmcache_connect.memory import release_all

PAGE: Final = 4096
KEY: Final = CacheEngineKey("m", 1, 0, 0xABC, "half")


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(4 * PAGE) as backend:
        yield backend
        backend.clear()
        now = backend.statistics()
        assert (now.reserved, now.live_objects, now.cached_objects, now.cached_bytes) == (0, 0, 0, 0)


def cache(backend: LocalCPUBackend, *keys: str, pages: int = 1) -> None:
    for key in keys:
        obj = backend.allocate((pages * PAGE,), "uint8")
        assert obj is not None
        with obj:
            obj.byte_array[:8] = key.encode().ljust(8)[:8]
            backend.submit_put_task(key, obj)


def take(backend: LocalCPUBackend, key: str) -> MemoryObj:
    obj = backend.get_blocking(key)
    assert obj is not None
    return obj


def make_room(backend: LocalCPUBackend, pages: int = 1) -> None:
    obj = backend.allocate((pages * PAGE,), "uint8")
    assert obj is not None
    obj.ref_count_down()


def test_a_cached_chunk_is_found_with_a_reference_for_the_caller(backend: LocalCPUBackend) -> None:
    cache(backend, "a")
    with take(backend, "a") as obj:
        assert obj.get_ref_count() == 2
        assert bytes(obj.byte_array[:8]) == b"a       "
    assert obj.is_valid()
    assert backend.contains("a")


def test_what_is_not_cached_is_a_miss(backend: LocalCPUBackend) -> None:
    assert backend.get_blocking("a") is None
    assert not backend.contains("a")
    assert not backend.contains("a", pin=True)
    assert not backend.pin("a")
    assert not backend.unpin("a")
    assert not backend.remove("a")
    assert backend.clear() == 0


def test_a_key_and_its_string_name_one_chunk(backend: LocalCPUBackend) -> None:
    cache(backend, KEY.to_string())
    assert backend.contains(KEY)
    assert backend.get_keys() == list(backend) == [KEY.to_string()]
    assert backend.remove(KEY)


def test_a_bad_key_is_refused(backend: LocalCPUBackend) -> None:
    with pytest.raises(InvalidKeyError):
        backend.contains("a\nb")
    with pytest.raises(InvalidKeyError):
        backend.get_blocking("")


def test_a_chunk_that_is_cached_already_stays(backend: LocalCPUBackend) -> None:
    cache(backend, "a")
    with take(backend, "a") as first:
        cache(backend, "a")
        with take(backend, "a") as again:
            assert again is first
    assert backend.statistics().cached_objects == backend.statistics().live_objects == 1


def test_a_batch_is_cached_pair_by_pair(backend: LocalCPUBackend) -> None:
    objs = backend.batched_allocate((PAGE,), "uint8", 3)
    assert objs is not None
    with pytest.raises(InvalidArgumentError, match="3 objects for 2 keys"):
        backend.batched_submit_put_task(["a", "b"], objs)
    assert backend.get_keys() == []
    backend.batched_submit_put_task(["a", "b", "c"], objs)
    for obj in objs:
        obj.ref_count_down()
    assert backend.get_keys() == ["a", "b", "c"]


def test_a_foreign_or_released_object_is_not_cached(backend: LocalCPUBackend) -> None:
    released = backend.allocate((PAGE,), "uint8")
    assert released is not None
    released.ref_count_down()
    for key in ("new", "known"):
        cache(backend, "known")
        with pytest.raises(ReleasedObjectError):
            backend.submit_put_task(key, released)
    text: Any = "a string"
    with pytest.raises(ForeignObjectError, match=r"got a builtins\.str; expected a MemoryObj allocated by this"):
        backend.submit_put_task("a", text)
    with LocalCPUBackend(PAGE) as other:
        foreign = other.allocate((1,), "uint8")
        assert foreign is not None
        with foreign, pytest.raises(ForeignObjectError, match="got a MemoryObj of another backend"):
            backend.submit_put_task("a", foreign)
        with pytest.raises(ForeignObjectError, match="got a released MemoryObj"):
            backend.submit_put_task("a", foreign)
    assert backend.get_keys() == ["known"]


# -------------------------------------------------------------------------------------------------- eviction


def test_allocation_evicts_before_it_fails(backend: LocalCPUBackend) -> None:
    cache(backend, "a", "b", "c", "d")
    make_room(backend, 2)
    assert backend.get_keys() == ["c", "d"]
    assert backend.statistics().evictions == 2
    make_room(backend, 4)
    assert backend.get_keys() == []


def test_allocation_without_eviction_leaves_the_cache_alone(backend: LocalCPUBackend) -> None:
    cache(backend, "a", "b", "c", "d")
    assert backend.allocate((PAGE,), "uint8", eviction=False) is None
    assert backend.batched_allocate((PAGE,), "uint8", 2, eviction=False) is None
    assert len(backend.get_keys()) == 4


def test_what_could_never_fit_evicts_nothing(backend: LocalCPUBackend) -> None:
    cache(backend, "a")
    assert backend.allocate((5 * PAGE,), "uint8") is None
    assert backend.get_keys() == ["a"]


@pytest.mark.parametrize(
    ("eviction", "left"), [("LRU", {"a", "c"}), ("FIFO", {"c", "d"}), ("MRU", {"b", "d"}), ("LFU", {"a", "c"})]
)
def test_the_policy_decides_who_goes(eviction: str, left: set[str]) -> None:
    with LocalCPUBackend(4 * PAGE, eviction=eviction) as backend:
        cache(backend, "a", "b", "c", "d")
        for key in "aca":
            take(backend, key).ref_count_down()
        objs = backend.batched_allocate((PAGE,), "uint8", 2)
        assert objs is not None
        release_all([*objs])
        assert set(backend.get_keys()) == left


def test_caching_a_chunk_again_counts_as_a_use(backend: LocalCPUBackend) -> None:
    cache(backend, "a", "b", "c")
    cache(backend, "a")
    make_room(backend, 3)
    assert backend.get_keys() == ["a"]


@pytest.mark.parametrize("eviction", ["LRU", "LFU", "FIFO", "MRU"])
def test_eviction_never_takes_a_pinned_or_referenced_chunk(eviction: str) -> None:
    with LocalCPUBackend(4 * PAGE, eviction=eviction) as backend:
        cache(backend, "pinned", "held", "free", "both")
        assert backend.pin("pinned")
        assert backend.contains("both", pin=True)
        with take(backend, "held") as held, take(backend, "both"):
            assert backend.allocate((2 * PAGE,), "uint8") is None  # "free" is gone now, and nobody else
            assert set(backend.get_keys()) == {"pinned", "held", "both"}
            make_room(backend)
            assert not backend.remove("held", force=False)
            assert not backend.remove("pinned", force=False)
            assert backend.clear() == 0
            assert bytes(held.byte_array[:8]) == b"held    "
        assert backend.unpin("both")
        assert backend.allocate((4 * PAGE,), "uint8") is None
        assert backend.get_keys() == ["pinned"]
        assert backend.unpin("pinned")
        assert not backend.unpin("pinned")
        make_room(backend, 4)
        assert backend.get_keys() == []


def test_a_chunk_pinned_twice_needs_two_unpins(backend: LocalCPUBackend) -> None:
    cache(backend, "a")
    backend.pin("a")
    backend.pin("a")
    backend.unpin("a")
    assert backend.clear() == 0
    backend.unpin("a")
    assert backend.clear() == 1


def test_a_view_of_an_evicted_chunk_keeps_its_bytes_and_its_room(backend: LocalCPUBackend) -> None:
    cache(backend, "a", "b", "c", "d")
    with take(backend, "a") as obj:
        view = obj.byte_array
    assert backend.allocate((4 * PAGE,), "uint8") is None  # all four are evicted, one still takes room
    assert backend.get_keys() == []
    assert bytes(view[:8]) == b"a       "
    del view
    make_room(backend, 4)


# --------------------------------------------------------------------------------------------------- removal


def test_a_removed_chunk_lives_on_with_its_other_holders(backend: LocalCPUBackend) -> None:
    cache(backend, "a")
    with take(backend, "a") as obj:
        assert backend.remove("a")
        assert not backend.contains("a")
        assert (obj.get_ref_count(), bytes(obj.byte_array[:1])) == (1, b"a")
    assert not obj.is_valid()


def test_a_pinned_chunk_goes_when_it_is_removed_by_force(backend: LocalCPUBackend) -> None:
    cache(backend, "a")
    backend.pin("a")
    assert not backend.remove("a", force=False)
    assert backend.remove("a")
    assert backend.statistics().reserved == 0


def test_clear_drops_what_nobody_needs_and_says_how_many(backend: LocalCPUBackend) -> None:
    cache(backend, "a", "b", "c")
    backend.pin("b")
    assert backend.clear() == 2
    assert backend.get_keys() == ["b"]
    backend.unpin("b")


def test_shrinking_a_cached_chunk_does_not_unbalance_the_sum(backend: LocalCPUBackend) -> None:
    cache(backend, "a", "b")
    with take(backend, "a") as obj:
        obj.shrink(obj.metadata.with_tokens(10))
    backend.remove("a")
    assert backend.statistics().cached_bytes == PAGE


def test_one_reference_released_too_many_costs_that_chunk_alone(backend: LocalCPUBackend) -> None:
    # Connectors that release what they only borrowed exist.
    cache(backend, "a", "b", "c", "d")
    for key in "abc":
        obj = take(backend, key)
        release_all([obj, obj])
        assert not obj.is_valid()
    assert backend.get_blocking("a") is None
    assert not backend.contains("b", pin=True)
    make_room(backend, 4)
    assert "d" not in backend.get_keys()
    assert backend.clear() <= 1  # the dead one may be left, and is in nobody's way
    cache(backend, "a")
    assert backend.contains("a")


def test_a_cache_that_is_switched_off_takes_nothing_and_serves_what_it_has(backend: LocalCPUBackend) -> None:
    cache(backend, "old")
    backend.hot_cache_enabled = False
    cache(backend, "new", "old")
    assert backend.get_keys() == ["old"]
    with take(backend, "old"):
        pass
    backend.hot_cache_enabled = True
    cache(backend, "new")
    assert backend.get_keys() == ["old", "new"]


def test_clearing_under_a_prefix_leaves_other_keys(backend: LocalCPUBackend) -> None:
    cache(backend, "a:1", "a:2", "b:1")
    assert backend.clear("a:") == 2
    assert backend.get_keys() == ["b:1"]
