"""The arena: blocks that come back by themselves, from any thread, and are announced."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
from typing import Any, Final

import pytest

from lmcache_connect.memory.allocator import BlockAllocator
from lmcache_connect.memory.arena import Arena

PAGE: Final = 4096


def test_a_lease_is_writable_and_exactly_as_long_as_asked() -> None:
    arena = Arena(16 * PAGE + 100, lambda: None)
    assert (arena.capacity, arena.usage().free, arena.usage().largest_free) == (16 * PAGE, 16 * PAGE, 16 * PAGE)
    view = arena.allocate(PAGE + 1)
    assert view is not None
    assert (len(view), view.format, view.readonly) == (PAGE + 1, "B", False)
    assert (arena.usage().free, arena.usage().blocks) == (14 * PAGE, 1)
    assert BlockAllocator.rounded(PAGE + 1) == 2 * PAGE
    assert arena.allocate(16 * PAGE) is None
    del view
    now = arena.usage()
    assert (now.free, now.blocks, now.largest_free) == (16 * PAGE, 0, 16 * PAGE)


@pytest.mark.parametrize("prefault", [True, False])
def test_fresh_memory_is_zero_and_prefaulting_does_not_change_that(prefault: bool) -> None:
    arena = Arena(64 * PAGE, lambda: None, prefault=prefault)
    view = arena.allocate(64 * PAGE)
    assert view is not None
    assert bytes(view) == bytes(64 * PAGE)


def test_a_kernel_that_cannot_prefault_has_every_page_touched_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcache_connect.memory.page_touch._MADV_POPULATE_WRITE", -1)
    arena = Arena(64 * PAGE, lambda: None, prefault=True)
    view = arena.allocate(64 * PAGE)
    assert view is not None
    assert bytes(view) == bytes(64 * PAGE)


def test_a_block_that_comes_back_is_announced() -> None:
    announced: list[int] = []
    arena = Arena(16 * PAGE, lambda: announced.append(arena.usage().free))
    view: Any = arena.allocate(PAGE)
    cycle: list[Any] = [arena.allocate(PAGE)]
    cycle.append(cycle)
    assert announced == []
    del view
    assert announced == [15 * PAGE]
    del cycle
    gc.collect()
    assert announced == [15 * PAGE, 16 * PAGE]


@pytest.mark.parametrize("busy_with", ["allocate", "usage"])
def test_a_block_that_comes_back_while_the_arena_is_busy_is_announced_by_the_thread_that_was_busy(
    busy_with: str,
) -> None:
    announced: list[None] = []
    arena = Arena(16 * PAGE, lambda: announced.append(None))
    view = arena.allocate(PAGE)
    with arena._lock:
        del view  # as it were in another thread, or in the garbage collector
    assert announced == []
    taken = arena.allocate(PAGE) if busy_with == "allocate" else arena.usage()
    assert len(announced) == 1
    del taken
    assert arena.usage().free == 16 * PAGE


def test_the_end_of_an_object_is_counted_whatever_comes_first_its_block_or_its_report() -> None:
    arena = Arena(16 * PAGE, lambda: None)
    first, second = arena.allocate(PAGE), arena.allocate(PAGE)
    assert (arena.usage().allocations, arena.usage().objects, arena.usage().leaked) == (2, 2, 0)
    del first
    arena.object_ended(leaked=False)
    with arena._lock:
        arena.object_ended(leaked=True)  # as by the garbage collector, while the arena is busy
    assert arena.usage() == (15 * PAGE, arena.usage().largest_free, 1, 2, 0, 1, 0)
    del second
    assert arena.usage() == (16 * PAGE, 16 * PAGE, 0, 2, 0, 1, 0)


def test_ten_thousand_leases_of_mixed_sizes_never_overlap_and_all_come_back() -> None:
    decide = random.Random(7)
    arena = Arena(32 << 20, lambda: None)
    held: list[tuple[memoryview, bytes]] = []
    refused = 0
    for step in range(10_000):
        if held and decide.random() < 0.5:
            index = decide.randrange(len(held))
            held[index], held[-1] = held[-1], held[index]
            view, stamp = held.pop()
            assert bytes(view[: len(stamp)]) == bytes(view[-len(stamp) :]) == stamp
            del view
            continue
        nbytes = decide.choice((decide.randrange(8, 20_000), decide.randrange(8, 3 << 20)))
        block = arena.allocate(nbytes)
        if block is None:
            refused += 1
            assert arena.usage().largest_free < nbytes
            continue
        stamp = step.to_bytes(4, "big")
        block[:4] = block[-4:] = stamp
        held.append((block, stamp))
        del block
    assert refused > 100
    assert arena.capacity - arena.usage().free == sum(BlockAllocator.rounded(len(view)) for view, _ in held)
    held.clear()
    now = arena.usage()
    assert now.free == now.largest_free == arena.capacity == 32 << 20
    assert now.blocks == 0


def test_blocks_of_thousands_of_sizes_leave_no_types_behind() -> None:
    def types() -> int:
        gc.collect()
        # Not isinstance(): it asks for __class__, with which lazy modules of torch import themselves, and warn.
        return sum(issubclass(type(found), type) for found in gc.get_objects())

    arena = Arena(3_000 * PAGE, lambda: None)
    assert arena.allocate(PAGE) is not None
    before = types()
    for pages in range(1, 3_001):
        assert arena.allocate(pages * PAGE) is not None
    assert types() == before
    assert arena.usage().free == arena.capacity


def test_four_threads_that_lease_and_drop_lose_nothing() -> None:
    arena = Arena(64 * PAGE, lambda: None)
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        decide = random.Random(seed)
        start.wait()
        for _ in range(2_000):
            view = arena.allocate(decide.randrange(1, 20 * PAGE))
            if view is not None:
                view[0] = view[-1] = seed
                assert view[0] == view[-1] == seed

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = arena.usage()
    assert (now.blocks, now.free, now.largest_free) == (0, 64 * PAGE, 64 * PAGE)


def test_an_arena_that_is_gone_leaves_its_leases_readable() -> None:
    view = Arena(16 * PAGE, lambda: None).allocate(4)
    gc.collect()
    assert view is not None
    view[:] = b"here"
    assert bytes(view) == b"here"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_childs_writes_are_not_seen_by_the_parent() -> None:
    program = """if True:
        import os
        from lmcache_connect import LocalCPUBackend
        with LocalCPUBackend(1 << 20) as backend, backend.allocate((4096,), "uint8") as obj:
            view = obj.byte_array  # the child must not take one
            view[:] = b"p" * 4096
            child = os.fork()
            if child == 0:
                same = bytes(view) == b"p" * 4096  # the child has a copy
                view[:] = b"c" * 4096
                os._exit(0 if same else 1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0, status
            assert bytes(view) == b"p" * 4096, bytes(view[:8])
            del view
        assert backend.statistics().reserved == 0
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
