"""`MemoryGuard`: an engine frees its memory only when nothing here touches it any more.

An engine may free its memory while transfers are under way: LMCache closes its memory before it closes its connectors.
A thread that then reads a chunk to send it ends the process with a segmentation fault. So the plug-in for an engine
has a guard watch the method that frees. Before the engine's own method runs, the guard:

1. refuses allocations and further borrowing;
2. has the plug-in close its connectors, which gives operations their grace period and then cancels them;
3. recalls the memory's lease, which interrupts threads that still move bytes, also where the event loop has stopped;
4. waits until the last view of the memory is gone.

If something holds on to the memory even then, the engine's method is not called. The memory stays mapped until the
process ends, which is logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final

from ..observability import event
from .engine_memory import EngineMemory
from .watched_methods import WatchedMethods

_END_SECONDS: Final = 2.0
"""Seconds, beside the grace period, that connectors have to close."""

_LET_GO_SECONDS: Final = 10.0
"""Seconds that interrupted threads have to let go. They take a few milliseconds, unless the machine is busy."""

_POLL: Final = 0.005


class MemoryGuard:
    """Stands between an engine's memory and the method of the engine that frees it."""

    def __init__(
        self,
        memory: EngineMemory,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[], Coroutine[Any, Any, None]],
        grace: float,
    ) -> None:
        """`loop` runs every operation on `memory`. `close` closes what starts them, within `grace` seconds."""
        self._memory = memory
        self._loop = loop
        self._close = close
        self._grace = grace
        self._methods = WatchedMethods(self)

    def watch(self, owner: Any, method: str) -> None:
        """Has `owner.method()` free nothing before `let_go()`. Several guards may watch one method."""
        self._methods.watch(owner, method)

    def end(self) -> None:
        """Watches nothing any more. For a plug-in that was closed, and that touches nothing. Idempotent."""
        self._methods.end()

    def let_go(self) -> bool:
        """Blocks until nothing touches the memory, now or later. Returns whether that is so. Idempotent.

        It takes the grace period and twelve seconds at most. On the event loop's own thread, where the operations
        cannot end meanwhile, it interrupts them at once.
        """
        self._memory.close()
        self._end_operations()
        self._memory.lease.recall()
        ends = time.monotonic() + _LET_GO_SECONDS
        while not self._has_let_go():
            if time.monotonic() >= ends:
                event(logging.ERROR, "engine_memory_kept", chunks=self._memory.touched, seconds=_LET_GO_SECONDS)
                return False
            time.sleep(_POLL)
        return True

    def _end_operations(self) -> None:
        if not self._memory.touched or not self._is_loop_elsewhere():
            return
        closing: Future[None] = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        ends = time.monotonic() + self._grace + _END_SECONDS
        while self._memory.touched and not closing.done() and self._is_loop_elsewhere() and time.monotonic() < ends:
            time.sleep(_POLL)

    def _has_let_go(self) -> bool:
        # Views in the frames of a loop that does not run are never used: the lease that was recalled refuses it.
        return not self._memory.touched or (self._memory.lease.is_idle and not self._is_loop_elsewhere())

    def _is_loop_elsewhere(self) -> bool:
        """Whether the loop runs in another thread."""
        if not self._loop.is_running():
            return False
        try:
            return asyncio.get_running_loop() is not self._loop
        except RuntimeError:
            return True
