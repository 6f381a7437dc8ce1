"""Who owns the event loop: the only module that knows about loops and threads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import anyio
import anyio.to_thread

from ..errors import (
    ConnectorClosedError,
    ForkedProcessError,
    LoopNotRunningError,
    SyncCallOnLoopError,
    SyncTimeoutError,
)
from .calls import Call, call_soon

P = ParamSpec("P")
T = TypeVar("T")

_CANCEL_GRACE: Final = 30.0
"""Seconds that a cancelled operation on another loop has to let go of its buffers before its caller goes on. It takes a
turn of that loop; only one that is blocked for so long can make it take longer, and torn data is worse than waiting."""

_START_LIMIT: Final = 5.0
"""Seconds that a loop which does not run may take to begin before a caller on another loop gives up."""

_POLL: Final = 0.25
"""Seconds between looks at whether the owning loop still runs, while a caller elsewhere waits for it."""


_forks = 0
"""How often this process was made by a fork since it imported this module. Reading it is cheaper than `os.getpid()`."""


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - a fact about the process
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class LoopOwner:
    """The one event loop that a manager's connectors run on, and the ways to it from elsewhere.

    `adopt()` takes the running loop, `of(loop)` one that somebody else runs in any thread, `start()` makes one in a
    thread of its own, which `close()` ends. Adopted loops are never stopped or closed here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: _LoopThread | None = None) -> None:
        self._loop = loop
        self._thread = thread
        self._pid = os.getpid()
        self._forks = _forks
        self._closed = False
        if thread is not None:
            self._finalizer = weakref.finalize(self, thread.stop)

    @classmethod
    def adopt(cls) -> LoopOwner:
        """The loop that runs the calling coroutine.

        Raises:
            LoopNotRunningError: no loop runs in this thread.
        """
        try:
            return cls(asyncio.get_running_loop())
        except RuntimeError:
            raise LoopNotRunningError("no event loop is running in this thread") from None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopOwner:
        """A loop that somebody else runs, now or soon, in this or another thread."""
        return cls(loop)

    @classmethod
    def start(cls, name: str = "lmcache-connect") -> LoopOwner:
        """A loop of its own in a daemon thread (uvloop where installed); it runs when this returns."""
        thread = _LoopThread(name)
        return cls(thread.loop, thread)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The owning loop."""
        return self._loop

    @property
    def is_own_thread(self) -> bool:
        """Whether the loop runs in a thread that this owner started."""
        return self._thread is not None

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
        """Raises `ForkedProcessError` in a fork, `ConnectorClosedError` after close, `LoopNotRunningError` for a dead
        loop; otherwise nothing."""
        if self._forks != _forks:
            raise ForkedProcessError(what, self._pid, os.getpid())
        if self._closed:
            raise ConnectorClosedError(what)
        if self._loop.is_closed():
            raise LoopNotRunningError("it is closed")

    def is_forked(self) -> bool:
        """Whether this is a fork of the process that made the owner."""
        return self._forks != _forks

    def run(
        self,
        func: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, T]:
        """Returns what awaits `func(*args)` on the owning loop, and is to be awaited at once.

        A caller on the owning loop gets the coroutine of `func` itself. For one on another loop the call is marshalled
        across: cancelling the caller cancels the operation and waits until it touches nothing any more. A result that
        then comes too late is given to `release_all`.
        """
        if self.is_current():
            return func(*args, **kwargs)
        return self._run_across(func, *args, **kwargs)

    async def _run_across(
        self,
        func: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self.check()
        here = asyncio.get_running_loop()
        done = here.create_future()
        call = Call(partial(func, *args, **kwargs), lambda: call_soon(here, _resolve, done))
        call.submit(self._loop)
        started = time.monotonic()
        try:
            while not done.done():
                await asyncio.wait((done,), timeout=_POLL)
                self._check_answer_can_come(call)
                if not self._loop.is_running() and time.monotonic() - started > _START_LIMIT:
                    raise LoopNotRunningError(f"it has not run for {_START_LIMIT} s")
        except BaseException:
            call.cancel(self._loop)
            await self._until_let_go(done)
            call.abandon()
            raise
        return call.result()

    async def _until_let_go(self, done: asyncio.Future[None]) -> None:
        """Waits until a cancelled operation has ended. Further cancellations, which anyio delivers in every turn, must
        not cut this short: until then the operation may still read the buffer that its caller is about to reuse."""
        ends = time.monotonic() + _CANCEL_GRACE
        with anyio.CancelScope(shield=True):
            while not done.done() and self._loop.is_running() and (left := ends - time.monotonic()) > 0:
                try:
                    await asyncio.wait((done,), timeout=min(left, _POLL))
                except asyncio.CancelledError:
                    continue  # the first one is raised when this is over

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
            SyncTimeoutError: no answer in time; the operation was cancelled.
            LoopNotRunningError: the loop is closed, or never ran.
        """
        self.check()
        if self.is_current():
            raise SyncCallOnLoopError(operation)
        event = threading.Event()
        call = Call(partial(func, *args, **kwargs), event.set)
        call.submit(self._loop)
        deadline = time.monotonic() + timeout
        try:
            while not event.wait(min(_POLL, max(0.0, deadline - time.monotonic()))):
                self._check_answer_can_come(call)
                if time.monotonic() >= deadline:
                    if not self._loop.is_running():
                        raise LoopNotRunningError(f"it did not run within {timeout:.3f} s")
                    raise SyncTimeoutError(operation, timeout)
        except BaseException:  # KeyboardInterrupt as well
            call.cancel(self._loop)
            ends = time.monotonic() + _CANCEL_GRACE
            while self._loop.is_running() and time.monotonic() < ends and not event.wait(_POLL):
                pass
            call.abandon()
            raise
        return call.result()

    def _check_answer_can_come(self, call: Call[Any]) -> None:
        if self._loop.is_closed() and not call.is_done():
            raise LoopNotRunningError("it was closed during the call")

    async def close(self) -> None:
        """Ends a loop of its own, from any loop; an adopted one is let go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._finalizer.detach()
            if self.is_forked():
                return
            self._thread.stop()
            if not self.is_current():
                await anyio.to_thread.run_sync(self._thread.join)

    def close_sync(self) -> None:
        """`close()` from a thread without a loop."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._finalizer.detach()
            if self.is_forked():
                return
            self._thread.stop()
            if not self.is_current():
                self._thread.join()

    def join(self) -> None:
        """Waits for the thread of a closed owner to end; does nothing on that thread, and where there is none."""
        if self._thread is not None and self._closed and not self.is_forked() and not self.is_current():
            self._thread.join()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_thread", None) is not None and not self._closed and not self.is_forked():
            _warn(f"{self!r} was never closed: call close()", ResourceWarning, stacklevel=1)

    def __repr__(self) -> str:
        kind = "own thread" if self._thread is not None else "adopted"
        state = "closed" if self._closed else "running" if self._loop.is_running() else "not running"
        return f"<LoopOwner {kind}, {state}>"


class _LoopThread:
    """A daemon thread that runs one loop until told to stop. Knows nothing of its owner, so that can be collected."""

    def __init__(self, name: str) -> None:
        self._pid = os.getpid()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise LoopNotRunningError("its thread could not start it") from self._failure

    def _main(self) -> None:
        try:
            # The runner cancels what is left over, ends async generators and joins the executor.
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._until_stopped())
        except BaseException as failure:  # handed to the starter, who waits for it
            if self._ready.is_set():
                raise
            self._failure = failure
            self._ready.set()

    async def _until_stopped(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()

    def stop(self) -> None:
        if self._pid == os.getpid():  # a fork shares the parent's wake-up socket and must not write to it
            call_soon(self.loop, self._stop.set)

    def join(self) -> None:
        self._thread.join(timeout=10.0)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
