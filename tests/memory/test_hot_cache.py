"""The hot cache: chunks that stay for as long as their room is not needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from lmcache_connect import CacheEngineKey, LocalCPUBackend, MemoryObj
from lmcache_connect.errors import ForeignObjectError, InvalidArgumentError, InvalidKeyError, ReleasedObjectError
from lmcache_connect.memory import HotCache, SharedMemoryObj, release_all
from lmcache_connect.observability import HotCacheCounts

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
        assert obj.get_ref_count() == 1
        assert bytes(obj.byte_array[:8]) == b"a       "
    assert not obj.is_valid()
    assert backend.contains("a")


def test_everybody_who_gets_a_chunk_gets_a_read_only_object_of_his_own_on_the_same_bytes(
    backend: LocalCPUBackend,
) -> None:
    cache(backend, "a")
    with take(backend, "a") as one, take(backend, "a") as other:
        assert one is not other
        assert one.data_ptr == other.data_ptr
        assert one.is_read_only
        assert backend.owns(one)
        with pytest.raises(TypeError, match="read-only"):
            one.byte_array[0] = 1
        assert not one.numpy().flags.writeable
        one.shrink(one.metadata.with_tokens(8))
        assert (one.get_size(), other.get_size()) == (8, PAGE)


def test_what_is_shared_is_shared_on_from_the_same_chunk(backend: LocalCPUBackend) -> None:
    cache(backend, "a")
    with take(backend, "a") as one:
        again = SharedMemoryObj(one)
    with again:
        assert bytes(again.byte_array[:1]) == b"a"
        assert backend.owns(again)
        assert not backend.remove("a", force=False)
    assert backend.remove("a", force=False)


def test_a_torch_tensor_of_a_shared_chunk_is_a_copy(backend: LocalCPUBackend) -> None:
    pytest.importorskip("torch")
    cache(backend, "a")
    with take(backend, "a") as one, take(backend, "a") as other:
        one.tensor.zero_()
        assert bytes(other.byte_array[:1]) == b"a"


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


def test_a_chunk_that_is_cached_again_replaces_the_one_before_and_its_holders_keep_theirs(
    backend: LocalCPUBackend,
) -> None:
    cache(backend, "a")
    with take(backend, "a") as first:
        obj = backend.allocate((PAGE,), "uint8")
        assert obj is not None
        with obj:
            obj.byte_array[:3] = b"new"
            backend.submit_put_task("a", obj)
        with take(backend, "a") as again:
            assert (bytes(first.byte_array[:3]), bytes(again.byte_array[:3])) == (b"a  ", b"new")
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
            assert bytes(held.byte_array[:8]) == b"held    "
        assert backend.clear() == 1  # "held"
        assert backend.unpin("both")
        assert backend.allocate((4 * PAGE,), "uint8") is None
        assert backend.get_keys() == ["pinned"]
        assert backend.unpin("pinned")
        assert not backend.unpin("pinned")
        make_room(backend, 4)
        assert backend.get_keys() == []


@pytest.mark.parametrize("eviction", ["LRU", "LFU", "FIFO", "MRU"])
def test_what_is_let_go_of_can_be_evicted_after_evictions_have_passed_it_over(eviction: str) -> None:
    with LocalCPUBackend(4 * PAGE, eviction=eviction) as backend:
        cache(backend, "a", "b", "c", "d")
        held = [take(backend, key) for key in "abcd"]
        assert backend.pin("d")
        assert backend.allocate((PAGE,), "uint8") is None
        held[1].ref_count_down()
        held[3].ref_count_down()  # it is still pinned
        make_room(backend)
        assert set(backend.get_keys()) == {"a", "c", "d"}
        assert backend.allocate((2 * PAGE,), "uint8") is None
        cache(backend, "b")  # as a new chunk
        make_room(backend)
        assert set(backend.get_keys()) == {"a", "c", "d"}
        assert backend.unpin("d")
        release_all([held[0], held[2]])
        make_room(backend, 4)
        assert backend.get_keys() == []


def test_a_chunk_in_use_is_looked_at_once_however_many_evictions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    can_evict = MemoryObj.can_evict

    def counted(obj: MemoryObj, held: int = 1) -> bool:
        nonlocal looks
        looks += 1
        return can_evict(obj, held)

    with LocalCPUBackend(200 * PAGE) as backend:
        names = [f"{number}" for number in range(200)]
        cache(backend, *names)
        held = [take(backend, name) for name in names[:100]]
        monkeypatch.setattr(MemoryObj, "can_evict", counted)
        for _ in range(50):
            with take(backend, "199"):  # what nobody holds stays last
                make_room(backend, 1)
                cache(backend, "new")
        assert looks < 100 * 2 + 50 * 4
        release_all(held)


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


def test_clear_drops_what_is_not_pinned_and_says_how_many(backend: LocalCPUBackend) -> None:
    cache(backend, "a", "b", "c")
    backend.pin("b")
    with take(backend, "a") as held:
        assert backend.clear() == 2
        assert bytes(held.byte_array[:1]) == b"a"
    assert backend.get_keys() == ["b"]
    backend.unpin("b")


def test_shrinking_a_cached_chunk_does_not_unbalance_the_sum(backend: LocalCPUBackend) -> None:
    cache(backend, "b")
    obj = backend.allocate((PAGE,), "uint8")
    assert obj is not None
    with obj:
        backend.submit_put_task("a", obj)
        obj.shrink(obj.metadata.with_tokens(10))
    backend.remove("a")
    assert backend.statistics().cached_bytes == PAGE


def test_one_reference_released_too_many_costs_that_chunk_alone(backend: LocalCPUBackend) -> None:
    # Connectors that release what they only borrowed exist.
    cache(backend, "d")
    for key in "abc":
        obj = backend.allocate((PAGE,), "uint8")
        assert obj is not None
        backend.submit_put_task(key, obj)
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
    cache(backend, "new")
    assert backend.get_keys() == ["old"]
    with take(backend, "old"):
        pass
    cache(backend, "old")  # put again: what is cached is not the key's chunk any more
    assert backend.get_keys() == []
    backend.hot_cache_enabled = True
    cache(backend, "new")
    assert backend.get_keys() == ["new"]


def test_clearing_under_a_prefix_leaves_other_keys(backend: LocalCPUBackend) -> None:
    cache(backend, "a:1", "a:2", "b:1")
    assert backend.clear("a:") == 2
    assert backend.get_keys() == ["b:1"]


# ------------------------------------------------------------------------------------------- time, and filling


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def aging(clock: Clock) -> Iterator[LocalCPUBackend]:
    """A backend whose cache serves a chunk for ten seconds."""
    with LocalCPUBackend(4 * PAGE, hot_ttl=10, clock=clock) as backend:
        yield backend
        backend.clear()
        assert backend.statistics().reserved == 0


def chunk(backend: LocalCPUBackend, text: bytes) -> MemoryObj:
    obj = backend.allocate((PAGE,), "uint8")
    assert obj is not None
    obj.byte_array[: len(text)] = text
    return obj


def read(cache: HotCache, key: str) -> bytes | None:
    obj = cache.get(key)
    if obj is None:
        return None
    with obj:
        return bytes(obj.byte_array[:3])


def test_a_chunk_is_served_until_it_is_as_old_as_the_caches_ttl(aging: LocalCPUBackend, clock: Clock) -> None:
    cache(aging, "a")
    clock.now += 9.9
    assert aging.contains("a")
    cache(aging, "b")
    clock.now += 0.1
    assert aging.get_keys() == ["b"]
    assert not aging.contains("a")
    assert aging.get_blocking("a") is None
    assert aging.statistics().cached_objects == 1  # its memory is free


def test_a_chunks_own_ttl_shortens_the_caches_and_never_lengthens_it(aging: LocalCPUBackend, clock: Clock) -> None:
    for key, ttl in (("short", 3), ("long", 30)):
        with chunk(aging, b"abc") as obj:
            aging.hot_cache.put(key, obj, ttl=ttl)
    clock.now += 3
    assert aging.get_keys() == ["long"]
    clock.now += 7
    assert aging.get_keys() == []


def test_what_was_fetched_fills_the_cache_and_its_age_counts_from_the_beginning_of_the_fetch(
    aging: LocalCPUBackend, clock: Clock
) -> None:
    filling = aging.hot_cache.begin("a")
    clock.now += 6
    with chunk(aging, b"abc") as obj:
        assert aging.hot_cache.fill(filling, obj)
    clock.now += 3.9
    assert read(aging.hot_cache, "a") == b"abc"
    clock.now += 0.1
    assert read(aging.hot_cache, "a") is None


def test_a_fetch_that_takes_longer_than_the_ttl_fills_nothing(aging: LocalCPUBackend, clock: Clock) -> None:
    filling = aging.hot_cache.begin("a")
    clock.now += 10
    with chunk(aging, b"abc") as obj:
        assert not aging.hot_cache.fill(filling, obj)


@pytest.mark.parametrize("change", ["put", "remove", "clear", "clear prefix", "replace", "close"])
def test_a_fetch_that_began_before_a_change_of_its_key_fills_nothing(aging: LocalCPUBackend, change: str) -> None:
    cache = aging.hot_cache
    before = cache.begin("a")
    with chunk(aging, b"new") as new, chunk(aging, b"old") as old:
        match change:
            case "put":
                cache.put("a", new)
            case "remove":
                assert not cache.remove("a")
            case "clear":
                cache.clear()
            case "clear prefix":
                cache.clear("a")
            case "replace":
                assert cache.replace(cache.begin("a"), new)
            case "close":
                cache.close()
        assert not before.is_current
        assert not cache.fill(before, old)
    assert read(cache, "a") == (b"new" if change in {"put", "replace"} else None)


def test_a_change_of_another_key_takes_no_right_away(aging: LocalCPUBackend) -> None:
    cache = aging.hot_cache
    filling = cache.begin("a")
    cache.remove("b")
    cache.clear("b")
    cache.replace(cache.begin("b"))
    with chunk(aging, b"abc") as obj:
        assert cache.fill(filling, obj)


def test_a_fetch_that_brings_nothing_leaves_what_was_cached_meanwhile(aging: LocalCPUBackend) -> None:
    cache = aging.hot_cache
    one, other = cache.begin("a"), cache.begin("a")
    with chunk(aging, b"abc") as obj:
        assert cache.fill(one, obj)
    assert not cache.fill(other, None)
    assert read(cache, "a") == b"abc"


def test_of_two_changes_at_once_neither_fills_because_nobody_knows_which_the_store_did_last(
    aging: LocalCPUBackend,
) -> None:
    cache = aging.hot_cache
    for ends_first in (0, 1):
        changes = []
        for _ in range(2):
            cache.remove("a")
            changes.append(cache.begin("a"))
        with chunk(aging, b"one") as one, chunk(aging, b"two") as two:
            objs = (one, two)
            cache.replace(changes[ends_first], objs[ends_first])
            cache.replace(changes[1 - ends_first], objs[1 - ends_first])
        assert read(cache, "a") is None


def test_a_change_that_fails_leaves_nothing_under_its_key(aging: LocalCPUBackend) -> None:
    cache = aging.hot_cache
    change, fetch = cache.begin("a"), cache.begin("a")
    with chunk(aging, b"old") as obj:
        assert cache.fill(fetch, obj)  # it read the old chunk during the change
    assert not cache.replace(change, None)
    assert read(cache, "a") is None


def test_hits_and_misses_are_counted_where_they_are_to_be(aging: LocalCPUBackend) -> None:
    hot = aging.hot_cache
    cache(aging, "a")
    read(hot, "a")
    read(hot, "b")
    assert hot.get("b", count_miss=False) is None
    counts = HotCacheCounts(hits=10)
    hot.count_into(counts)
    read(hot, "a")
    assert counts == HotCacheCounts(hits=12, misses=1)
    make_room(aging, 4)
    assert counts.evictions == 1


def test_two_threads_that_put_and_get_one_key_never_see_a_mixture(aging: LocalCPUBackend) -> None:
    failures: list[bytes] = []
    done = threading.Event()

    def put() -> None:
        for number in range(400):
            obj = aging.allocate((PAGE,), "uint8")
            if obj is not None:
                with obj:
                    obj.byte_array[:] = bytes([number % 256]) * PAGE
                    aging.submit_put_task("a", obj)
        done.set()

    def get() -> None:
        while not done.is_set():
            if (obj := aging.get_blocking("a")) is not None:
                with obj:
                    found = bytes(obj.byte_array)
                    if found != found[:1] * PAGE:
                        failures.append(found)

    threads = [threading.Thread(target=put), *(threading.Thread(target=get) for _ in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
