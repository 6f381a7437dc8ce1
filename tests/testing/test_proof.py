"""Stamped values, books, guarded memory, deadlines and watches find what they are there to find."""

from __future__ import annotations

import asyncio
import ctypes
import random
import threading
import time

import pytest

from lmcache_connect import ConnectorConfig
from lmcache_connect.testing import (
    Book,
    GuardedMemory,
    LagWatch,
    ResourceUse,
    ResourceWatch,
    StampedValue,
    WrongValueError,
    seconds_allowed,
)
from lmcache_connect.testing.proof.resource_use import growth_of

BLOCK = StampedValue.BLOCK
SIZE = 5 * BLOCK + 1000
SETTINGS = ConnectorConfig(operation_timeout=5, min_throughput=64 << 20)


def filled(key: str = "k", writer: int = 1, version: int = 1, nbytes: int = SIZE) -> bytearray:
    view = bytearray(nbytes)
    asyncio.run(StampedValue.new(key, writer, version, nbytes).fill(memoryview(view)))
    return view


def read(key: str, view: bytearray | memoryview) -> StampedValue:
    return asyncio.run(StampedValue.read(key, memoryview(view)))


@pytest.mark.parametrize("nbytes", [1024, BLOCK, BLOCK + 1, SIZE])
def test_a_value_says_who_wrote_it(nbytes: int) -> None:
    found = read("k", filled("k", 7, 9, nbytes))
    assert (found.writer, found.version, found.nbytes) == (7, 9, nbytes)
    assert 0 <= found.age < 10


@pytest.mark.parametrize(
    "place",
    [0, 5, 20, 40, 63, 64, 1000, BLOCK - 1, BLOCK + 3, 3 * BLOCK + 70, SIZE - 1],
)
def test_one_changed_bit_is_found_anywhere_but_in_the_time(place: int) -> None:
    view = filled()
    view[place] ^= 1
    with pytest.raises(WrongValueError):
        read("k", view)


@pytest.mark.parametrize("is_written", [True, False])
def test_memory_that_is_written_to_after_its_call_is_found(is_written: bool) -> None:
    room = GuardedMemory(random.Random(1), SIZE)
    assert sum(map(len, room.views)) == SIZE
    address = ctypes.addressof(ctypes.c_char.from_buffer(room.views[-1]))
    room.end()
    room.paint()
    if is_written:
        ctypes.memset(address, 0, 1)
    assert room.is_painted() is not is_written


def test_another_keys_value_and_a_torn_one_are_found() -> None:
    with pytest.raises(WrongValueError, match="another key's value"):
        read("other", filled())
    torn = filled()
    torn[2 * BLOCK : 3 * BLOCK] = filled(version=2)[2 * BLOCK : 3 * BLOCK]
    with pytest.raises(WrongValueError, match=r"torn or damaged in block 2.*version 2"):
        read("k", torn)
    swapped = filled()
    swapped[:BLOCK], swapped[BLOCK : 2 * BLOCK] = (
        swapped[BLOCK : 2 * BLOCK],
        swapped[:BLOCK],
    )
    with pytest.raises(WrongValueError, match="begin with block 1"):
        read("k", swapped)
    with pytest.raises(WrongValueError, match="that begin with block 0"):
        read("k", filled()[:-1])
    with pytest.raises(WrongValueError, match="not a value"):
        read("k", bytearray(SIZE))


def test_sizes_go_from_a_kib_to_the_largest_and_meet_the_borders_of_the_layout() -> None:
    rng = random.Random(1)
    sizes = [StampedValue.random_size(rng, 40 << 20) for _ in range(3000)]
    assert min(sizes) < 1100
    assert max(sizes) > 39 << 20
    assert {(4 << 20) - 1, 4 << 20, (4 << 20) + 1} <= set(sizes)
    assert max(StampedValue.random_size(rng, 1 << 20) for _ in range(300)) == 1 << 20


def test_a_key_has_one_answer_after_an_acknowledged_call_and_several_after_a_failed_one() -> None:
    book = Book(stray=0.05)
    assert book.answers() == {None}
    book.acknowledged(1)
    assert book.answers() == {1}
    book.failed(2)
    book.failed(None)
    assert book.answers() == {1, 2, None}
    book.acknowledged(3)
    assert book.answers() == {1, 2, 3, None} - {1}, "what the failed calls sent may arrive late"
    time.sleep(0.06)
    assert book.answers() == {3}
    book.failed(4)
    time.sleep(0.06)
    assert book.answers() == {3, 4}, "nothing has told which it is"
    echoing = Book(stray=10, echoes=True)
    echoing.acknowledged(1)
    echoing.acknowledged(2)
    assert echoing.answers() == {None, 1, 2}, "the first attempt of a call may arrive after the second"


def test_deadlines_grow_with_the_bytes() -> None:
    assert seconds_allowed(SETTINGS, "exists", "k") == SETTINGS.operation_timeout
    assert seconds_allowed(SETTINGS, "batched_get", ["a", "b"]) == pytest.approx(SETTINGS.operation_timeout + 2.01)


@pytest.mark.asyncio
async def test_a_lag_watch_tells_for_how_long_the_loop_was_held_and_where() -> None:
    told: list[str] = []
    async with LagWatch(told.append) as watch:
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        time.sleep(0.6)  # noqa: ASYNC251  # holds the loop, which is what is looked for
        ended = time.monotonic()
        await asyncio.sleep(0.05)
    assert watch.loop.between(begun, ended) > 0.5
    assert watch.between(begun - 10, begun - 5) == 0
    assert any("test_a_lag_watch" in text for text in told)
    assert "lag-watch" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.asyncio
async def test_a_resource_watch_counts_descriptors_threads_and_tasks() -> None:
    before = ResourceUse.now()
    async with ResourceWatch(0.01) as watch:
        with open("/dev/null", "rb"):  # noqa: ASYNC230  # one more descriptor
            while len(watch.samples) < 2:
                await asyncio.sleep(0.01)
    use = watch.samples[-1][1]
    assert (use.descriptors, use.tasks) == (before.descriptors + 1, before.tasks + 1)
    assert use.rss > 0
    assert use.threads == before.threads


def test_growth_is_told_from_a_straight_line_and_not_from_the_first_fifth() -> None:
    flat = [(float(second), 100.0) for second in range(100)]
    assert growth_of(flat) == 0
    assert growth_of([(when, value if when >= 20 else 0.0) for when, value in flat]) == 0
    assert growth_of([(when, value + when) for when, value in flat]) == pytest.approx(79)
    assert growth_of(flat[:10]) == 0, "too few samples to tell"
