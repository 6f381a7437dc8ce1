"""The queue of what finalizers report: appending never waits, and no entry is left behind."""

from __future__ import annotations

import gc
import threading
from typing import Any

from lmcache_connect.memory.finalizer_queue import FinalizerQueue


def queue() -> tuple[FinalizerQueue[str], threading.Lock, list[str]]:
    lock = threading.Lock()
    handled: list[str] = []

    def handle(entry: str) -> None:
        assert lock.locked()
        handled.append(entry)

    return FinalizerQueue(lock, handle), lock, handled


def test_entries_are_handled_in_their_order_under_the_lock() -> None:
    finalized, lock, handled = queue()
    finalized.append("a")
    finalized.append("b")
    assert handled == []
    finalized.handle_if_unlocked()
    assert handled == ["a", "b"]
    assert not lock.locked()


def test_where_the_lock_is_taken_its_holder_handles_the_entries() -> None:
    finalized, lock, handled = queue()
    with lock:
        finalized.append("a")
        finalized.handle_if_unlocked()  # returns at once, also in the thread that holds the lock
        assert handled == []
        finalized.handle_all()
        assert handled == ["a"]
        finalized.append("b")
    finalized.handle_if_unlocked()
    assert handled == ["a", "b"]


def test_an_entry_that_is_appended_while_others_are_handled_is_handled_as_well() -> None:
    lock = threading.Lock()
    handled: list[str] = []

    def handle(entry: str) -> None:
        handled.append(entry)
        if entry == "a":
            finalized.append("b")

    finalized = FinalizerQueue[str](lock, handle)
    finalized.append("a")
    finalized.handle_if_unlocked()
    assert handled == ["a", "b"]


def test_the_garbage_collector_may_append_in_the_middle_of_a_locked_section() -> None:
    finalized, lock, handled = queue()

    class Dying:
        def __init__(self) -> None:
            self.itself: Any = self  # a cycle: only the garbage collector ends it

        def __del__(self) -> None:
            finalized.append("dead")
            finalized.handle_if_unlocked()

    Dying()
    with lock:
        gc.collect()
        assert handled == []
    finalized.handle_if_unlocked()
    assert handled == ["dead"]


def test_no_entry_is_lost_where_threads_append_and_handle_at_once() -> None:
    finalized, lock, handled = queue()

    def work(name: str) -> None:
        for _ in range(2_000):
            finalized.append(name)
            finalized.handle_if_unlocked()
            with lock:
                finalized.handle_all()
            finalized.handle_if_unlocked()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(handled) == sorted("abcd" * 2_000)
