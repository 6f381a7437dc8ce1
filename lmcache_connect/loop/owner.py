"""`LoopOwner`: the one event loop that connectors run on, and the ways to it.

Two relations have similar names. The owner owns a loop that it started, or adopts one that somebody else runs. The
connectors belong to that loop, which is *the owning loop* to them: their operations run on it alone.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio.to_thread

from ..errors import ConnectorClosedError, LoopNotRunningError, SyncCallOnLoopError
from ..process import this_process
from .calls import call_from_loop, call_from_thread
from .loop_thread import LoopThread

P = ParamSpec("P")
T = TypeVar("T")


class LoopOwner:
    """The one event loop that a manager's connectors run on, and the ways to it from elsewhere.

    `adopt()` takes the running loop. `of(loop)` takes one that somebody else runs in any thread. `start()` makes one in
    a thread of its own, which `close()` ends. Adopted loops are never stopped or closed here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: LoopThread | None = None) -> None:
        self._loop = loop
        self._thread = thread
        self._process = this_process()
        self._closed = False
        if thread is not None:
            self._finalizer = weakref.finalize(self, thread.stop)

    @classmethod
    def adopt(cls) -> LoopOwner:
        """The owner of the loop that runs the calling coroutine.

        Raises:
            LoopNotRunningError: no loop runs in this thread.
        """
        try:
            return cls(asyncio.get_running_loop())
        except RuntimeError:
            raise LoopNotRunningError("no event loop is running in this thread") from None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopOwner:
        """The owner of a loop that somebody else runs, now or soon, in this or another thread."""
        return cls(loop)

    @classmethod
    def start(cls, name: str = "lmcache-connect") -> LoopOwner:
        """The owner of a loop of its own in a daemon thread (uvloop where installed). It runs when this returns."""
        thread = LoopThread(name)
        return cls(thread.loop, thread)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The owning loop."""
        return self._loop

    @property
    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def is_current(self) -> bool:
        """Whether the caller runs on the owning loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def check(self, what: str = "the loop owner") -> None:
        """Raises the reason why nothing can run on the loop, if there is one. `what` is named in the message.

        Raises:
            ForkedProcessError: in a fork of the process that made the owner.
            ConnectorClosedError: `close()` was called.
            LoopNotRunningError: the loop is closed.
        """
        self._process.check(what)
        if self._closed:
            raise ConnectorClosedError(what)
        if self._loop.is_closed():
            raise LoopNotRunningError("it is closed")

    def check_process(self) -> None:
        """Raises `ForkedProcessError` in a fork of the process that made the owner."""
        self._process.check("the loop owner")

    def is_forked(self) -> bool:
        """Whether this is a fork of the process that made the owner."""
        return self._process.is_forked()

    def run(
        self,
        func: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, T]:
        """Returns a coroutine that awaits `func(*args)` on the owning loop. It is to be awaited at once.

        A caller on the owning loop gets the coroutine of `func` itself. For a caller on another loop, the call is
        marshalled across. Cancelling that caller cancels the operation, and waits until it touches no buffer any more.
        A result that then comes too late is released, with every chunk in it.
        """
        try:
            current = asyncio.get_running_loop()
        except RuntimeError:  # a fork, which is refused where it is awaited
            current = None
        if current is self._loop:
            return func(*args, **kwargs)
        return self._run_from_another_loop(partial(func, *args, **kwargs))

    async def _run_from_another_loop(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.check()
        return await call_from_loop(self._loop, start)

    def run_sync(
        self,
        operation: str,
        timeout: float,
        func: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs `func(*args)` on the owning loop and blocks this thread for its result, `timeout` seconds at most.

        Raises:
            SyncCallOnLoopError: at once, on the owning loop's own thread.
            SyncTimeoutError: no answer in time. The operation was cancelled.
            LoopNotRunningError: the loop is closed, or never ran.
            What `check` and `func` raise.
        """
        self.check()
        if self.is_current():
            raise SyncCallOnLoopError(operation)
        return call_from_thread(self._loop, operation, timeout, partial(func, *args, **kwargs))

    async def close(self) -> None:
        """Ends a loop of its own and waits for its thread, from any loop. Lets an adopted loop go on. Idempotent."""
        if self._stop():
            await anyio.to_thread.run_sync(self.join)

    def close_sync(self) -> None:
        """`close()` from a thread without a loop."""
        if self._stop():
            self.join()

    def _stop(self) -> bool:
        """Stops once. Returns whether there is a thread whose end is to be waited for."""
        if self._closed:
            return False
        self._closed = True
        if self._thread is None:
            return False
        self._finalizer.detach()
        if self.is_forked():
            return False
        self._thread.stop()
        return not self.is_current()

    def join(self) -> None:
        """Waits for the thread of a closed owner to end. Does nothing on that thread, or without one."""
        if self._thread is not None and self._closed and not self.is_forked() and not self.is_current():
            self._thread.join()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_thread", None) is not None and not self._closed and not self.is_forked():
            _warn(f"{self!r} was never closed: call close()", ResourceWarning, stacklevel=1)

    def __repr__(self) -> str:
        kind = "own thread" if self._thread is not None else "adopted"
        state = "closed" if self._closed else "running" if self._loop.is_running() else "not running"
        return f"<LoopOwner {kind}, {state}>"
