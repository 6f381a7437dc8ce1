"""Pages of HiCache's host pools in a real store, and back: the same bytes, at the same places."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import pytest

from lmcache_connect.engines.sglang.missed_pages import MissedPages
from lmcache_connect.testing import RcloneServer, RedisServer, ValkeyServer

from .conftest import Start, keys_of
from .pools import Indices, LogicalPool, MHAPool, MLAPool

LAYOUTS = [
    pytest.param(MHAPool, "page_first", id="page-first"),
    pytest.param(MHAPool, "page_first_direct", id="page-first-direct"),
    pytest.param(MHAPool, "layer_first", id="layer-first"),
    pytest.param(MLAPool, "page_first", id="mla-page-first"),
    pytest.param(MLAPool, "layer_first", id="mla-layer-first"),
]


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_a_batch_of_128_pages_comes_back_byte_by_byte_into_other_places(start: Start, kind: Any, layout: str) -> None:
    pool, other = kind(layout, pages=128), kind(layout, pages=130)
    mla = kind is MLAPool
    pool.fill()
    keys = keys_of(128)
    places = list(range(129, 1, -1))

    assert start(pool, mla=mla).batch_set_v1(keys, pool.indices(range(128))) == [True] * 128
    assert start(other, mla=mla).batch_get_v1(keys, other.indices(places)) == [True] * 128

    assert [other.bytes_of(place) for place in places] == [pool.bytes_of(page) for page in range(128)]
    assert not any(other.bytes_of(0) + other.bytes_of(1))


@pytest.fixture
def s3_url(rclone_server: RcloneServer) -> str:
    return rclone_server.url(f"hicache-{uuid4().hex}")


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url()


@pytest.fixture
def hot_url(server: ValkeyServer) -> str:
    return f"hot+{server.url()}"


@pytest.mark.parametrize("store", ["s3_url", "redis_url", "hot_url"])
@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_another_store_serves_as_well_and_is_cleared(
    start: Start, request: pytest.FixtureRequest, store: str, layout: str
) -> None:
    pool = MHAPool(layout, pages=16)
    pool.fill()
    backend = start(pool, url=request.getfixturevalue(store))
    keys = keys_of(8)
    assert backend.batch_set_v1(keys, pool.indices(range(8))) == [True] * 8
    stored = [pool.bytes_of(page) for page in range(8)]

    assert backend.batch_exists([*keys, *keys_of(1)]) == 8
    assert backend.batch_get_v1([*keys[:4], *keys_of(1), *keys[5:]], pool.indices(range(8, 16))) == [
        *[True] * 4,
        False,
        *[True] * 3,
    ]

    assert [pool.bytes_of(8 + page) for page in range(8) if page != 4] == [*stored[:4], *stored[5:]]
    assert backend.clear() is True
    assert backend.batch_exists(keys) == 0


def test_a_page_that_the_store_has_not_is_a_hole_and_its_memory_stays(start: Start) -> None:
    pool = MHAPool()
    pool.fill()
    backend = start(pool)
    keys = keys_of(4)
    assert backend.batch_set_v1([keys[0], keys[2]], pool.indices([0, 2])) == [True, True]
    stored = [pool.bytes_of(page) for page in (0, 2)]
    before = pool.bytes_of(5)

    assert backend.batch_get_v1(keys, pool.indices([4, 5, 6, 7])) == [True, False, True, False]

    assert [pool.bytes_of(page) for page in (4, 6)] == stored
    assert pool.bytes_of(5) == before


def test_the_hit_is_the_prefix_that_the_store_has(start: Start) -> None:
    pool = MHAPool()
    backend = start(pool)
    keys = keys_of(5)
    backend.batch_set_v1([keys[0], keys[1], keys[3]], pool.indices([0, 1, 3]))

    assert backend.batch_exists(keys) == 2
    assert backend.batch_exists(keys[:2]) == 2
    assert backend.batch_exists(keys[2:]) == 0
    assert backend.batch_exists([]) == 0


def test_a_page_that_the_store_has_is_not_sent_again(start: Start) -> None:
    pool = MHAPool()
    pool.fill(1)
    backend, sender = start(pool), start(pool, skip_existing=False)
    [key] = keys_of(1)
    assert backend.batch_set_v1([key], pool.indices([0])) == [True]
    first = pool.bytes_of(0)
    pool.fill(2)

    assert backend.batch_set_v1([key], pool.indices([0])) == [True]
    assert backend.batch_get_v1([key], pool.indices([1])) == [True]
    assert pool.bytes_of(1) == first

    assert sender.batch_set_v1([key], pool.indices([0])) == [True]
    assert backend.batch_get_v1([key], pool.indices([1])) == [True]
    assert pool.bytes_of(1) == pool.bytes_of(0) != first


def test_threads_that_look_up_load_and_store_at_the_same_time_get_their_own_pages(start: Start) -> None:
    pool = MHAPool("layer_first", pages=64)
    pool.fill()
    backend = start(pool)
    keys = keys_of(32)
    stored = [pool.bytes_of(page) for page in range(32)]
    assert all(backend.batch_set_v1(keys, pool.indices(range(32))))
    failures: list[str] = []

    def load(first: int) -> None:
        mine = range(first, first + 8)
        places = range(first + 32, first + 40)
        for _ in range(10):
            if backend.batch_get_v1([keys[page] for page in mine], pool.indices(places)) != [True] * 8:
                failures.append(f"load {first}")
            if [pool.bytes_of(place) for place in places] != [stored[page] for page in mine]:
                failures.append(f"bytes {first}")

    def look_up() -> None:
        failures.extend("look-up" for _ in range(20) if backend.batch_exists(keys) != 32)

    def store() -> None:
        answers = [backend.batch_set_v1(keys_of(1), pool.indices([page])) for page in range(10)]
        failures.extend("store" for flags in answers if flags != [True])

    threads = [threading.Thread(target=load, args=(first,)) for first in (0, 8, 16, 24)]
    threads += [threading.Thread(target=look_up), threading.Thread(target=store)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_pool_of_indices_alone_has_every_page(start: Start) -> None:
    pool = LogicalPool()
    backend = start(pool, mla=True)
    indices = Indices(range(8))

    assert backend.batch_set_v1(["a", "b"], indices) == [True, True]
    assert backend.batch_get_v1(["a", "b"], indices) == [True, True]
    assert backend.batch_exists(["a", "b"]) == 2
    assert backend.exists("a")


@pytest.mark.parametrize("place", ["_host_page_buffer_view", "a_name_of_a_later_release"])
def test_a_pool_that_keeps_its_memory_elsewhere_is_moved_and_not_taken_for_one_without(
    start: Start, place: str
) -> None:
    class Elsewhere(MLAPool):
        def get_page_buffer_meta(self, indices: Any) -> tuple[list[int], list[int]]:
            self.kv_buffer = getattr(self, place)
            found = super().get_page_buffer_meta(indices)
            self.kv_buffer = None
            return found

    pool = Elsewhere()
    setattr(pool, place, pool.kv_buffer)
    pool.kv_buffer = None
    pool.fill()
    backend = start(pool, mla=True)
    [key, missing] = keys_of(2)

    assert backend.batch_set_v1([key], pool.indices([0])) == [True]
    assert backend.batch_get_v1([key, missing], pool.indices([1, 2])) == [True, False]
    assert pool.bytes_of(1) == pool.bytes_of(0)
    assert backend.batch_exists([missing]) == 0


def test_memory_that_is_not_the_pools_is_not_touched(start: Start) -> None:
    pool, foreign = MHAPool(), MHAPool()
    foreign.fill()
    backend = start(pool)
    [key] = keys_of(1)
    pool.fill(1)
    assert backend.batch_set_v1([key], pool.indices([0])) == [True]
    before = foreign.array.copy()

    pool.get_page_buffer_meta = foreign.get_page_buffer_meta  # type: ignore[method-assign]
    assert backend.batch_get_v1([key], pool.indices([0])) == [False]
    assert backend.batch_set_v1(keys_of(1), pool.indices([0])) == [False]
    assert (foreign.array == before).all()


def test_a_page_that_reaches_beyond_the_pools_memory_is_refused(start: Start) -> None:
    pool = MLAPool()
    backend = start(pool, mla=True)
    beyond = Indices(range(pool.size, pool.size + pool.page_size))

    assert backend.batch_set_v1(keys_of(1), beyond) == [False]


@pytest.mark.parametrize(
    ("addresses", "sizes"),
    [([0, 0], [8, 8]), ([1, 2, 3], [1, 1, 1]), ([], []), ([1, 2], [1])],
    ids=["null", "not a whole number a page", "none", "other counts"],
)
def test_a_pool_that_names_no_proper_memory_costs_answers_of_false(
    start: Start, addresses: list[int], sizes: list[int]
) -> None:
    pool = MHAPool()
    backend = start(pool)
    pool.get_page_buffer_meta = lambda indices: (addresses, sizes)  # type: ignore[method-assign]

    assert backend.batch_get_v1(keys_of(2), pool.indices([0, 1])) == [False, False]
    assert backend.batch_set_v1(keys_of(2), pool.indices([0, 1])) == [False, False]


def test_another_number_of_indices_than_of_pages_is_refused(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    pool = MHAPool()
    backend = start(pool)

    assert backend.batch_get_v1(keys_of(2), pool.indices([0])) == [False, False]
    assert "'host_indices': 4 for 2 pages of the pool kv; expected 4 a page" in caplog.text


def test_memory_of_a_device_is_refused(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    pool = MHAPool()
    backend = start(pool)
    pool.kv_buffer.device = "cuda:0"

    assert backend.batch_get_v1(keys_of(1), pool.indices([0])) == [False]
    assert "it is on the device cuda:0" in caplog.text


def test_the_pools_memory_is_freed_only_when_nothing_touches_it(start: Start) -> None:
    freed: list[bool] = []

    class Destroyed(MHAPool):
        def destroy(self) -> None:
            freed.append(True)

    pool = Destroyed()
    backend = start(pool)
    keys = keys_of(1)
    assert backend.batch_set_v1(keys, pool.indices([0])) == [True]

    pool.destroy()

    assert freed == [True]
    assert backend.batch_get_v1(keys, pool.indices([0])) == [False]


def test_pages_that_were_missed_are_few_and_leave_when_they_are_there() -> None:
    missed = MissedPages(most=3)
    missed.add(["a", "b"])
    missed.remove(["a", "z"])
    assert ("a" in missed, "b" in missed) == (False, True)
    missed.add(["c", "d", "e"])
    assert [name for name in "bcde" if name in missed] == ["c", "d", "e"]
