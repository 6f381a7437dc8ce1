"""The warm-up: pages are touched ahead of their use, by a thread that ends."""

from __future__ import annotations

import gc
import mmap
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from lmcache_connect import LocalCPUBackend
from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.memory import page_touch, warm_up
from lmcache_connect.memory.arena import Arena
from lmcache_connect.memory.warm_up import SLICE, WarmUp

MIB: Final = 1 << 20
NAME: Final = "lmcache-connect-warm-up"

Threads: TypeAlias = Callable[[], list[threading.Thread]]

needs_populate = pytest.mark.skipif(
    not page_touch.touch_pages(0, 0), reason="this kernel cannot touch pages ahead of their use: Linux 5.14 can"
)


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


def warm_bytes(backend: LocalCPUBackend) -> int:
    return backend.statistics().warm


@pytest.fixture
def threads() -> Threads:
    """Tells which warm-ups the test has started that run still."""
    before = set(threading.enumerate())
    return lambda: [one for one in threading.enumerate() if one.name == NAME and one not in before]


def resident(backend: LocalCPUBackend) -> int:
    """Bytes of the arena that are in memory, as the kernel tells."""
    start = backend._arena.address
    found = 0
    is_in_it = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition("-")
        if " " in rest and not first.endswith(":") and all(digit in "0123456789abcdef" for digit in first):
            begin, end = int(first, 16), int(rest.split()[0], 16)
            is_in_it = begin < start + backend._arena.capacity and start < end
        elif is_in_it and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@needs_populate
def test_a_thread_makes_the_pages_ahead_and_no_others() -> None:
    with LocalCPUBackend(256 * MIB, warm_ahead=32 * MIB) as backend:
        until(lambda: warm_bytes(backend) == 34 * MIB)
        # Rather more: a huge page may reach beyond, and the kernel counts neighbours of the mapping with it.
        assert 34 * MIB <= resident(backend) < 128 * MIB


@needs_populate
def test_it_stays_ahead_of_the_highest_chunk_and_of_the_lowest_small_one() -> None:
    with LocalCPUBackend(256 * MIB, warm_ahead=32 * MIB) as backend:
        until(lambda: warm_bytes(backend) == 34 * MIB)
        large, small = backend.allocate((16 * MIB,), "uint8"), backend.allocate((4096,), "uint8")
        assert large is not None
        assert small is not None
        until(lambda: warm_bytes(backend) == (16 + 32 + 2) * MIB + 4096)
        large.ref_count_down()
        small.ref_count_down()


@needs_populate
def test_what_was_written_stays_when_its_pages_are_touched() -> None:
    with LocalCPUBackend(64 * MIB, warm_ahead=64 * MIB) as backend:
        objs = [backend.allocate((4 * MIB,), "uint8") for _ in range(15)]
        for number, obj in enumerate(objs):
            assert obj is not None
            obj.byte_array[:] = bytes([number]) * (4 * MIB)
        until(lambda: warm_bytes(backend) == 64 * MIB)
        for number, obj in enumerate(objs):
            assert obj is not None
            assert obj.byte_array == bytes([number]) * (4 * MIB)
            obj.ref_count_down()


@needs_populate
def test_while_blocks_are_handed_out_no_page_is_touched() -> None:
    with LocalCPUBackend(256 * MIB, warm_ahead=32 * MIB) as backend:
        ends = time.monotonic() + 0.6  # more than twice what it waits at first
        while time.monotonic() < ends:
            obj = backend.allocate((4096,), "uint8")
            assert obj is not None
            obj.ref_count_down()
        assert warm_bytes(backend) <= 8 * MIB  # where this thread did not run for a while
        until(lambda: warm_bytes(backend) == 34 * MIB + 4096)


@needs_populate
def test_the_thread_ends_when_all_is_warm(threads: Threads) -> None:
    with LocalCPUBackend(24 * MIB) as backend:
        until(lambda: warm_bytes(backend) == 24 * MIB and not threads())


def test_the_thread_ends_with_the_memory(threads: Threads) -> None:
    backend = LocalCPUBackend(1 << 30)
    assert threads()
    backend.close()
    assert not threads()


def test_memory_that_nobody_closed_is_collected_with_its_thread(threads: Threads) -> None:
    arena = Arena(1 << 30, lambda: None, warm_ahead=8 * MIB)
    mapping = weakref.ref(arena._map)
    del arena
    gc.collect()
    until(lambda: not threads() and mapping() is None)


def test_without_bytes_ahead_there_is_no_thread_and_nothing_is_warm(threads: Threads) -> None:
    with LocalCPUBackend(64 * MIB, warm_ahead=0) as backend:
        assert not threads()
        assert warm_bytes(backend) == 0


def test_prefaulted_memory_is_warm_from_the_start_and_has_no_thread(threads: Threads) -> None:
    with LocalCPUBackend(8 * MIB, prefault=True) as backend:
        assert warm_bytes(backend) == 8 * MIB
        assert not threads()


@pytest.mark.parametrize("ahead", [-1, 1.5, "8MiB", None])
def test_another_number_of_bytes_is_refused(ahead: object) -> None:
    with pytest.raises(InvalidArgumentError, match="warm_ahead"):
        LocalCPUBackend(MIB, warm_ahead=ahead)  # type: ignore[arg-type]


def test_where_pages_cannot_be_touched_the_thread_ends_and_chunks_are_as_ever(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_touch, "_madvise", None)
    with LocalCPUBackend(64 * MIB) as backend:
        until(lambda: not threads())
        obj = backend.allocate((4 * MIB,), "uint8")
        assert obj is not None
        with obj:
            assert bytes(obj.byte_array) == bytes(4 * MIB)


def test_a_process_that_may_have_no_more_threads_works_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with LocalCPUBackend(MIB) as backend:
        obj = backend.allocate((4096,), "uint8")
        assert obj is not None
        obj.ref_count_down()


@needs_populate
def test_other_threads_run_while_pages_are_touched() -> None:
    mapping = mmap.mmap(-1, 512 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    warming = WarmUp(mapping, 512 * MIB, 512 * MIB)
    over = threading.Event()
    turns = 0

    def touch() -> None:
        page_touch.touch_pages(warming._address, 512 * MIB)  # in one call: much more than a slice
        over.set()

    thread = threading.Thread(target=touch)
    thread.start()
    while not over.is_set():
        time.sleep(0)
        turns += 1
    thread.join()
    assert turns > 10


def test_a_process_ends_while_its_arena_is_being_touched() -> None:
    program = "from lmcache_connect import LocalCPUBackend; b = LocalCPUBackend(1 << 30); import time; time.sleep(0.3)"
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------ the next slice


def test_slices_begin_and_end_where_huge_pages_do() -> None:
    end = warm_up._End()
    pieces = []
    while (piece := end.next_slice(5 * MIB, 64 * MIB)) is not None:
        pieces.append(piece)
        end.warm = piece[1]
    assert pieces == [(0, SLICE), (SLICE, 2 * SLICE), (2 * SLICE, 5 * MIB)]


def test_what_is_in_use_already_is_left_to_its_users() -> None:
    end = warm_up._End()
    end.used = 2 * SLICE + MIB
    assert end.next_slice(10 * MIB, 64 * MIB) == (2 * SLICE, 3 * SLICE)


@pytest.mark.parametrize("used", [0, 63 * MIB, 64 * MIB])
def test_no_slice_goes_beyond_the_limit(used: int) -> None:
    end = warm_up._End()
    end.used = used
    while (piece := end.next_slice(1 << 30, 62 * MIB + 4096)) is not None:
        assert 0 <= piece[0] <= piece[1] <= 62 * MIB + 4096
        assert piece[1] > end.warm
        end.warm = piece[1]
    assert end.warm == 62 * MIB + 4096
