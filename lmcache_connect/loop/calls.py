"""`Call`: one operation that runs on the owning loop for a caller elsewhere, on another loop or in a thread.

A call's states. What stands on the arrows happens in the caller's thread, or on the owning loop where it says so:

              submit             loop: begin               loop: the task ends
      made ──────────▶ submitted ───────────▶ running ────────────────────────────▶ done ──▶ result()
                           │                     │                                   ▲
                           │ cancel              │ cancel                            │
                           ▼                     ▼          loop: the task ends      │
                       cancelled             cancelled ──────────────────────────────┤
                           │                                                         │
                           │          loop: begin, which starts nothing              │
                           └─────────────────────────────────────────────────────────┘

`on_done` tells the caller that the call is done, also where it never began, or could not begin.

A caller that is cancelled, or has waited too long, cancels the call and waits for `done`, so that none of its
buffers is touched when it goes on. Where the owning loop does not run, the call will not be done. The caller then
recalls the operation's lease (`lease.py`) and waits until no thread works for the operation: those are interrupted.
Should that loop run again, the operation finds its memory refused.

Both waits together end after `_CANCEL_GRACE` seconds. Then the caller abandons the call, done or not: nobody takes a
result. If the operation returns one all the same, it is released: at once where the task has ended, else on the owning
loop when it ends, and then `on_done` is not called.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from ..errors import LoopNotRunningError, SyncTimeoutError
from ..lease import WAIT_SECONDS, Lease, context_under
from ..memory import release_all
from ..process import this_process
from ..transport import wait_uncancelled

T = TypeVar("T")

_CANCEL_GRACE: Final = WAIT_SECONDS
"""Seconds that a cancelled operation has to let go of its buffers before its caller goes on. It takes an iteration of
the owning loop, and so long only where that loop is blocked. Torn data is worse than waiting."""

_THREAD_POLL: Final = 0.005
"""Seconds between looks at whether threads have let go, where the owning loop does not run."""

_START_LIMIT: Final = 5.0
"""Seconds that a loop which does not run may take to begin, before a caller on another loop gives up."""

_POLL: Final = 0.25
"""Seconds between looks at whether the owning loop still runs, while a caller elsewhere waits for it."""


class Call(Generic[T]):
    """One operation that runs on the owning loop for a caller elsewhere. The module describes its states."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        start: Callable[[], Coroutine[Any, Any, T]],
        on_done: Callable[[], None],
    ) -> None:
        """`on_done` is called on the owning loop when the call is done, unless it was abandoned before."""
        self._loop = loop
        self._start = start
        self._on_done = on_done
        self._lease = Lease()
        self._process = this_process()
        self._lock = threading.Lock()
        self._task: asyncio.Task[T] | None = None
        self._failure: BaseException | None = None
        self._cancelled = False
        self._abandoned = False
        self._released = False
        self._is_done = threading.Event()

    def submit(self) -> None:
        """Has the owning loop begin the operation, in a copy of the caller's context, under a lease of its own.

        Raises:
            LoopNotRunningError: the loop is closed.
        """
        try:
            self._loop.call_soon_threadsafe(self._begin, context=context_under(self._lease))
        except RuntimeError:
            raise LoopNotRunningError("it is closed") from None

    def _begin(self) -> None:
        if self._cancelled:
            self._tell_done()
            return
        try:
            self._task = asyncio.get_running_loop().create_task(self._start())
        except BaseException as failure:  # the function refused, or returned no coroutine: the caller is told
            self._failure = failure
            self._tell_done()
            return
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[T]) -> None:
        if self._abandoned:
            self._release(task)
        else:
            self._tell_done()

    def _tell_done(self) -> None:
        self._is_done.set()
        self._on_done()

    def cancel(self) -> None:
        """Has the owning loop cancel the operation, or never begin it."""
        self._cancelled = True
        if self._process.is_forked():
            return
        call_soon(self._loop, self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def abandon(self, why: BaseException) -> None:
        """Has the result released, now or when there is one: the caller will not take it.

        Where it is not done, the operation finds its memory refused from now on. `why` is what the caller raises.
        """
        self._abandoned = True
        if not self._is_done.is_set():
            if not (self.has_let_go() or self._process.is_forked()):
                why.add_note(f"The operation had not let go of its buffers {_CANCEL_GRACE} s after it was cancelled.")
            self._lease.recall()
        if (task := self._task) is not None and task.done():
            self._release(task)

    def _release(self, task: asyncio.Task[T]) -> None:
        with self._lock:  # the caller's thread and the loop's may both find the outcome
            if self._released:
                return
            self._released = True
        if not task.cancelled() and task.exception() is None:
            release_all(task.result())

    def has_let_go(self) -> bool:
        """Whether nothing touches the caller's buffers, now or later, though the call may never be done.

        Where the owning loop does not run, this interrupts the threads that work for the operation.
        """
        if self._is_done.is_set():
            return True
        if self._is_loop_running():
            return False
        self._lease.recall()
        # Looked at again: a loop that runs by now has perhaps not seen that the lease was recalled.
        return self._lease.is_idle and not self._is_loop_running()

    def _is_loop_running(self) -> bool:
        """Whether code of the owning loop may be running in another thread."""
        return self._loop.is_running() and not _runs_here(self._loop)

    def wait(self, seconds: float) -> bool:
        """Blocks this thread until the call is done, for `seconds` at most. Returns whether it is done."""
        return self._is_done.wait(seconds)

    def give_up(self, why: BaseException) -> None:
        """Cancels and abandons the call. Blocks this thread until `has_let_go()`, for `_CANCEL_GRACE` seconds at most.

        In a fork it does not wait. `why` is what the caller raises.
        """
        self.cancel()
        ends = time.monotonic() + _CANCEL_GRACE
        while not (self._process.is_forked() or self.has_let_go()) and time.monotonic() < ends:
            self._is_done.wait(_POLL if self._is_loop_running() else _THREAD_POLL)
        self.abandon(why)

    def check_alive(self) -> None:
        """Raises `LoopNotRunningError` where the loop was closed before the call was done."""
        if self._loop.is_closed() and not (self._task is not None and self._task.done()):
            raise LoopNotRunningError("it was closed during the call")

    def result(self) -> T:
        """The result of a call that is done.

        Raises:
            LoopNotRunningError: the operation never began, or the loop was shut down under it.
            What the operation raised.
        """
        if self._failure is not None:
            raise self._failure
        if self._task is None:
            raise LoopNotRunningError("the operation never began there")
        try:
            return self._task.result()
        except asyncio.CancelledError:
            # Nobody cancelled the caller: the loop was shut down under the operation.
            raise LoopNotRunningError("the operation was cancelled there") from None


async def call_from_loop(loop: asyncio.AbstractEventLoop, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Awaits `start()` on `loop`, for a caller on another loop."""
    here = asyncio.get_running_loop()
    done = here.create_future()
    call = Call(loop, start, lambda: call_soon(here, _resolve, done))
    call.submit()
    started = time.monotonic()
    try:
        while not done.done():
            await asyncio.wait((done,), timeout=_POLL)
            call.check_alive()
            if not loop.is_running() and time.monotonic() - started > _START_LIMIT:
                raise LoopNotRunningError(f"it has not run for {_START_LIMIT} s")
    except GeneratorExit as closed:  # the caller's loop was closed under it: nothing can be awaited any more
        call.give_up(closed)
        raise
    except BaseException as error:
        call.cancel()
        ends = time.monotonic() + _CANCEL_GRACE
        while not (done.done() or call.has_let_go()) and (left := ends - time.monotonic()) > 0:
            await wait_uncancelled(done, min(left, _POLL if loop.is_running() else _THREAD_POLL))
        call.abandon(error)
        raise
    return call.result()


def call_from_thread(
    loop: asyncio.AbstractEventLoop, operation: str, timeout: float, start: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """Runs `start()` on `loop`, and blocks this thread for its result, `timeout` seconds at most.

    Raises:
        SyncTimeoutError: no answer in time. The operation was cancelled.
        LoopNotRunningError: the loop is closed, or never ran.
        What the operation raises.
    """
    call = Call(loop, start, lambda: None)
    call.submit()
    deadline = time.monotonic() + timeout
    try:
        while not call.wait(min(_POLL, max(0.0, deadline - time.monotonic()))):
            call.check_alive()
            if time.monotonic() >= deadline:
                if not loop.is_running():
                    raise LoopNotRunningError(f"it did not run within {timeout:.3f} s")
                raise SyncTimeoutError(operation, timeout)
    except BaseException as error:  # KeyboardInterrupt as well
        call.give_up(error)
        raise
    return call.result()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Has `loop` call `callback` soon, from any thread. Does nothing where the loop is closed."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        pass  # nobody is left to be told


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
