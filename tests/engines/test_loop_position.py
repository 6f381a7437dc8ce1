"""Whether a thread that stands still may touch memory of an engine's, by where it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from lmcache_connect.engines.loop_position import may_touch_memory

CALLS_NEXT: Final = """
def call(rest, wait):
    rest[0](rest[1:], wait) if rest else wait()
"""


def function_of(module: str) -> Any:
    """A function of a module with this name. It calls the first of what it is given, and at last what waits."""
    names: dict[str, Any] = {"__name__": module}
    exec(CALLS_NEXT, names)
    return names["call"]


@contextmanager
def standing_in(*modules: str) -> Iterator[int]:
    """A thread whose stack has functions of these modules, outermost first. The last one waits in a system call."""
    end, begun = threading.Lock(), threading.Event()
    end.acquire()

    def wait_in_c() -> Any:
        return end.acquire  # a builtin: it has no frame of its own

    outermost, *others = [function_of(module) for module in modules]

    def run() -> None:
        begun.set()
        outermost(others, wait_in_c())

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(10)
    assert thread.ident is not None
    try:
        yield thread.ident
    finally:
        end.release()
        thread.join(10)


@pytest.mark.parametrize(
    ("stack", "may"),
    [
        (["asyncio.events", "lmcache_connect.transport.wire"], True),
        (["asyncio.events", "lmcache_connect_redis.connector"], True),
        (["lmcache_connect.transport.wire", "ssl"], True),
        (["lmcache_connect.transport.wire", "ssl", "socket"], True),
        (["asyncio.events", "theirs.connector"], True),
        (["theirs.connector", "numpy.core"], True),
        (["lmcache_connect.loop.loop_thread", "asyncio.runners"], False),
        (["lmcache_connect.loop.loop_thread", "asyncio.base_events", "selectors"], False),
        (["lmcache_connect.managed.running", "others.connector"], False),
        (["others.connector", "ssl"], False),
        (["ssl"], False),
    ],
)
def test_the_first_frame_behind_those_of_helpers_tells(stack: list[str], may: bool) -> None:
    with standing_in(*stack) as thread:
        # The thread needs a moment from its beginning to the call that waits.
        for _ in range(1000):
            if may_touch_memory(thread, {"theirs"}) == may:
                break
            threading.Event().wait(0.005)
        assert may_touch_memory(thread, {"theirs"}) == may


def test_a_thread_that_has_ended_touches_nothing() -> None:
    with standing_in("lmcache_connect.x") as thread:
        pass
    assert not may_touch_memory(thread)
