"""Stores that are damaged, slow, gone, full or locked: answers of False, in time, and no exception."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from lmcache_connect.engines.sglang import page_store
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, ValkeyServer

from ..stores import Store
from .conftest import Start, keys_of
from .pools import HostTensor, MHAPool, MLAPool
from .restated import PoolName, PoolTransfer

pytestmark = pytest.mark.in_turn

WATCHED_SECONDS: Final = 2.0
DEADLINE: Final = 1.0
LATE: Final = 1.0
"""Seconds that a busy machine may add to a deadline."""

MODES: Final = pytest.mark.parametrize("io", ["thread", "loop"])


def store_all(backend: Any, keys: list[str], indices: Any) -> None:
    """Stores pages before the test harms anything. A busy machine's S3 may miss a deadline that is this short."""
    ends = time.monotonic() + 15
    while not all(backend.batch_set_v1(keys, indices)):
        assert time.monotonic() < ends, "the pages could not be stored"
        time.sleep(0.05)


def stays(pool: MHAPool, seconds: float = WATCHED_SECONDS) -> bool:
    """Whether no byte of the pool changes for so long."""
    pool.fill(99)
    expected = pool.array.copy()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if not (pool.array == expected).all():
            return False
        time.sleep(0.01)
    return bool((pool.array == expected).all())


class InThread:
    """A call in a thread, as HiCache makes it."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self._answer: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._answer.append(call(*args)))
        self.began = time.monotonic()
        self._thread.start()

    def answer(self, seconds: float = 30.0) -> Any:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it has not answered"
        assert self._answer, "it has raised"
        return self._answer[0]


# ---------------------------------------------------------------------------------------------------- damage


@MODES
@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_each_kind_of_damage_costs_its_own_page_alone_and_nothing_is_written_afterwards(
    start: Start, store: Store, layout: str, io: str
) -> None:
    pool = MHAPool(layout, pages=14, page_size=64, layers=4, heads=4, dim=32)
    pool.fill()
    backend = start(pool, url=store.url(io=io))
    keys = keys_of(7)
    store_all(backend, keys, pool.indices(range(7)))
    stored = [pool.bytes_of(page) for page in range(7)]
    records = [store.read(key) for key in keys]
    middle = len(records[1]) // 2
    flipped = bytes([records[1][middle] ^ 1])
    store.write(keys[1], records[1][:middle] + flipped + records[1][middle + 1 :])
    store.write(keys[2], records[0])
    store.write(keys[3], records[3][:-1])
    store.write(keys[4], records[4] + b"\0")
    store.remove(keys[5])

    flags = backend.batch_get_v1(keys, pool.indices(range(7, 14)))

    assert flags == [True, False, False, False, False, False, True]
    assert (pool.bytes_of(7), pool.bytes_of(13)) == (stored[0], stored[6])
    assert stays(pool)


def test_a_damaged_page_is_stored_again(start: Start, store: Store) -> None:
    pool = MHAPool()
    pool.fill()
    backend = start(pool, url=store.url())
    keys = keys_of(1)
    backend.batch_set_v1(keys, pool.indices([0]))
    record = store.read(keys[0])
    store.write(keys[0], record[:-20] + b"damage" + record[-14:])

    assert backend.batch_get_v1(keys, pool.indices([1])) == [False]
    assert backend.batch_set_v1(keys, pool.indices([0])) == [True]
    assert backend.batch_get_v1(keys, pool.indices([1])) == [True]
    assert pool.bytes_of(1) == pool.bytes_of(0)


def test_a_page_of_another_length_is_a_miss(start: Start, server: ValkeyServer) -> None:
    pool = MHAPool()
    backend = start(pool)
    [key] = keys_of(1)
    half = HostTensor(pool.get_dummy_flat_data_page().array[: pool.page_nbytes // 4])
    assert backend.set(key, half) is True

    assert backend.get(key, pool.get_dummy_flat_data_page()) is None


# ------------------------------------------------------------------------------------- a store that stops or dies


@MODES
@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_a_server_that_stops_during_a_load_costs_the_pages_until_the_deadline_and_writes_none_later(
    start: Start, own_store: Store, proxy: FaultProxy, layout: str, io: str
) -> None:
    pool = MHAPool(layout, pages=16, page_size=64, layers=8, heads=8, dim=64)
    pool.fill()
    backend = start(pool, url=own_store.url(proxy, io=io, pool_size=1), deadline=DEADLINE)
    keys = keys_of(8)
    store_all(backend, keys, pool.indices(range(8)))

    proxy.arm(Fault(FaultKind.STALL, after_bytes=3 * pool.page_nbytes // 2))
    call = InThread(backend.batch_get_v1, keys, pool.indices(range(8, 16)))
    assert proxy.wait_fired(10)
    own_store.server.pause()
    flags = call.answer()

    assert time.monotonic() - call.began < DEADLINE + LATE
    assert not all(flags)
    own_store.server.resume()
    proxy.disarm()  # what was held back comes now
    assert stays(pool)


def test_a_store_that_stalls_amid_a_batch_costs_the_pages_from_there_on(
    start: Start, own_store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = MHAPool(pages=48, page_size=64, layers=8, heads=4, dim=32)
    pool.fill()
    backend = start(pool, url=own_store.url(proxy, attempts=1), deadline=DEADLINE, retries=0)
    keys = keys_of(24)
    store_all(backend, keys, pool.indices(range(24)))
    monkeypatch.setattr(page_store, "PART_BYTES", 4 * pool.page_nbytes)

    proxy.arm(Fault(FaultKind.STALL, after_bytes=5 * pool.page_nbytes))
    flags = backend.batch_get_v1(keys, pool.indices(range(24, 48)))

    if own_store.answers_in_order:
        assert flags[:4] == [True] * 4
    assert False in flags
    moved = [page for page in range(24) if flags[page]]
    assert [pool.bytes_of(24 + page) for page in moved] == [pool.bytes_of(page) for page in moved]


def test_a_batch_that_is_refused_amid_its_parts_answers_when_those_before_have_ended(
    start: Start, own_store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = MHAPool(pages=8, page_size=64, layers=8, heads=4, dim=32)
    pool.fill()
    backend = start(pool, url=own_store.url(proxy, attempts=1), deadline=DEADLINE, retries=0)
    keys = keys_of(4)
    store_all(backend, keys, pool.indices(range(4)))
    monkeypatch.setattr(page_store, "PART_BYTES", 2 * pool.page_nbytes)

    proxy.arm(Fault(FaultKind.STALL, after_bytes=pool.page_nbytes // 2))
    same_place = pool.indices([4, 5, 6, 6])
    assert backend.batch_get_v1(keys, same_place) == [False] * 4

    proxy.disarm()  # what was held back comes now
    assert stays(pool)


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_a_server_that_is_killed_during_a_load_costs_answers_of_false_and_comes_back_by_itself(
    start: Start, own_store: Store, proxy: FaultProxy, layout: str
) -> None:
    pool = MHAPool(layout, pages=16, page_size=64, layers=8, heads=8, dim=64)
    pool.fill()
    backend = start(pool, url=own_store.url(proxy, attempts=1), deadline=DEADLINE, breaker_reset=0.05)
    keys = keys_of(8)
    store_all(backend, keys, pool.indices(range(8)))

    proxy.arm(Fault(FaultKind.STALL, after_bytes=3 * pool.page_nbytes // 2))
    call = InThread(backend.batch_get_v1, keys, pool.indices(range(8, 16)))
    assert proxy.wait_fired(10)
    own_store.server.kill()
    proxy.disarm()
    flags = call.answer()

    assert time.monotonic() - call.began < DEADLINE + LATE
    assert not all(flags)
    assert stays(pool)
    own_store.server.start()
    ends = time.monotonic() + 20
    while not all(backend.batch_set_v1(keys, pool.indices(range(8)))):
        assert time.monotonic() < ends, "it does not come back"
    assert backend.batch_get_v1(keys, pool.indices(range(8, 16))) == [True] * 8


def everything(backend: Any, pool: MHAPool, keys: list[str]) -> dict[str, Any]:
    """The answer of each call that HiCache can make."""
    pages = list(range(len(keys)))
    transfers = [PoolTransfer(PoolName.KV, pool.indices(pages), keys=keys)]
    found = backend.batch_exists_v2(keys, transfers)
    return {
        "batch_get_v1": backend.batch_get_v1(keys, pool.indices(pages)),
        "batch_set_v1": backend.batch_set_v1(keys, pool.indices(pages)),
        "batch_exists": backend.batch_exists(keys),
        "batch_exists_v2": (found.kv_hit_pages, found.restorable_prefix_pages),
        "batch_get_v2": backend.batch_get_v2(transfers)[PoolName.KV],
        "batch_set_v2": backend.batch_set_v2(transfers)[PoolName.KV],
        "get": backend.get(keys[0], pool.get_dummy_flat_data_page()),
        "batch_get": backend.batch_get(keys, [pool.get_dummy_flat_data_page() for _ in keys]),
        "set": backend.set(keys[0], pool.get_data_page(0)),
        "batch_set": backend.batch_set(keys, [pool.get_data_page(0) for _ in keys]),
        "exists": backend.exists(keys[0]),
        "clear": backend.clear(),
        "get_stats": backend.get_stats(),
        "close": backend.close(),
    }


NOTHING: Final[dict[str, Any]] = {
    "batch_get_v1": [False, False],
    "batch_set_v1": [False, False],
    "batch_exists": 0,
    "batch_exists_v2": (0, []),
    "batch_get_v2": [False, False],
    "batch_set_v2": [False, False],
    "get": None,
    "batch_get": [None, None],
    "set": False,
    "batch_set": False,
    "exists": False,
    "clear": False,
    "get_stats": None,
    "close": None,
}


def test_a_store_that_is_killed_between_two_calls_costs_answers_and_no_exception(
    start: Start, own_store: Store
) -> None:
    pool = MHAPool()
    backend = start(pool, url=own_store.url(), deadline=DEADLINE)
    keys = keys_of(2)
    assert backend.batch_set_v1(keys, pool.indices([0, 1])) == [True, True]
    own_store.server.kill()

    assert everything(backend, pool, keys) == NOTHING


def test_a_backend_that_was_closed_answers_and_does_not_raise(start: Start) -> None:
    pool = MHAPool()
    backend = start(pool)
    backend.close()

    assert everything(backend, pool, keys_of(2)) == NOTHING


def test_a_store_that_refuses_the_login_costs_answers_and_no_exception(start: Start) -> None:
    pool = MHAPool()
    with ValkeyServer(password="right") as locked:
        backend = start(pool, url=f"redis://:wrong@{locked.host}:{locked.port}", deadline=DEADLINE)
        assert everything(backend, pool, keys_of(2)) == NOTHING


def test_a_store_that_is_full_stores_no_more_and_gives_what_it_has(start: Start) -> None:
    pool = MLAPool(pages=64, page_size=64, layers=16, heads=8, dim=16)
    pool.fill()
    with ValkeyServer(maxmemory="8mb", config={"maxmemory-policy": "noeviction"}) as full:
        backend = start(pool, url=full.url(), mla=True)
        keys = keys_of(64)
        flags = [backend.batch_set_v1([key], pool.indices([page]))[0] for page, key in enumerate(keys)]

        assert True in flags
        assert False in flags
        held = flags.index(False)
        assert backend.batch_get_v1(keys[:held], pool.indices(range(held))) == [True] * held


def test_while_a_store_is_down_calls_are_answered_at_once_and_told_at_a_bounded_rate(
    start: Start, own_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    pool = MHAPool()
    backend = start(pool, url=own_store.url(), deadline=30.0, breaker_failures=2, breaker_reset=60.0)
    keys = keys_of(1)
    own_store.server.kill()
    for _ in range(3):
        backend.batch_exists(keys)

    began = time.monotonic()
    for _ in range(200):
        assert backend.batch_get_v1(keys, pool.indices([0])) == [False]
        assert backend.batch_set_v1(keys, pool.indices([0])) == [False]
    assert time.monotonic() - began < 10, "fewer than 30 ms a call, where each would otherwise have 30 s"
    assert len(caplog.records) < 20


# --------------------------------------------------------------------------------------------- housekeeping


def test_clear_removes_what_this_backend_could_load_and_nothing_else(start: Start) -> None:
    pool, state = MHAPool(), MLAPool(page_size=1)
    backend, other = start(pool), start(pool, model="org/other")
    backend.register_mem_host_pool_v2(state, PoolName.MAMBA)
    keys = keys_of(2)
    backend.batch_set_v1(keys, pool.indices([0, 1]))
    backend.batch_set_v2([PoolTransfer(PoolName.MAMBA, state.indices([0]), keys=keys[:1])])
    backend.set(keys[0], pool.get_data_page(0))
    other.batch_set_v1(keys, pool.indices([0, 1]))

    assert backend.clear() is True

    assert backend.batch_exists(keys) == 0
    assert backend.exists(keys[0]) is False
    assert backend.batch_get_v2([PoolTransfer(PoolName.MAMBA, state.indices([0]), keys=keys[:1])]) == {
        PoolName.MAMBA: [False]
    }
    assert other.batch_exists(keys) == 2


def test_the_statistics_have_each_batch_since_the_last_call(start: Start) -> None:
    pool = MHAPool()
    backend, silent = start(pool, metrics=True), start(pool)
    keys = keys_of(3)
    backend.batch_set_v1(keys[:2], pool.indices([0, 1]))
    backend.batch_get_v1(keys, pool.indices([0, 1, 2]))
    backend.batch_get_v1(keys[2:], pool.indices([2]))

    stats = backend.get_stats()

    assert (stats.backup_pgs, stats.prefetch_pgs) == ([2], [2])
    assert len(stats.backup_bandwidth) == len(stats.prefetch_bandwidth) == 1
    assert min(*stats.backup_bandwidth, *stats.prefetch_bandwidth) > 0
    assert backend.get_stats().prefetch_pgs == []
    assert silent.get_stats() is None


def test_the_status_has_the_store_and_the_counters_of_its_jobs(start: Start, server: ValkeyServer) -> None:
    pool = MHAPool()
    backend = start(pool)
    backend.batch_exists(keys_of(3))

    status = backend.status()

    assert str(server.port) in status["port"]["store"]
    assert status["port"]["jobs"]["exists"]["keys"] == 3
