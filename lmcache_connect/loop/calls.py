"""`Call`: one operation that runs on the owning loop for a caller elsewhere, on another loop or in a thread.

A call's states. What stands on the arrows happens in the caller's thread, or on the owning loop where it says so:

              submit             loop: begin            loop: the operation ends
      made ──────────▶ submitted ───────────▶ running ────────────────────────────▶ done ──▶ result()
                           │                     │                                   ▲
                           │ cancel              │ cancel                            │
                           ▼                     ▼       loop: the operation ends    │
                       cancelled             cancelled ──────────────────────────────┤
                           │                                                         │
                           │          loop: begin, which starts nothing              │
                           └─────────────────────────────────────────────────────────┘

The calls of several threads and loops that are submitted together begin in one iteration of the owning loop, in order
(`mailbox.py`). A call is done when its operation has ended, in that moment: what the task does after that, an iteration
later, concerns nobody. `on_done` tells the caller that the call is done, also where it never began, or could not begin.

A caller that is cancelled, or has waited too long, cancels the call and waits for `done`, so that none of its
buffers is touched when it goes on. Where the owning loop does not run, the call will not be done. The caller then
recalls the operation's lease (`lease.py`) and waits until no thread works for the operation: those are interrupted.
Should that loop run again, the operation finds its memory refused.

Both waits together end after `_CANCEL_GRACE` seconds. Then the caller abandons the call, done or not: nobody takes a
result. If the operation returns one all the same, it is released: at once where it has ended, else on the owning loop
when it ends, and then `on_done` is not called.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, TypeVar

from ..errors import LoopNotRunningError, SyncTimeoutError
from ..lease import WAIT_SECONDS, Lease, context_under
from ..memory import release_all
from ..process import this_process
from ..transport import wait_uncancelled
from .bell import Bell, bell, keep
from .mailbox import call_soon, mailbox_of

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

    __slots__ = (
        "_bell",
        "_has_ended",
        "_is_abandoned",
        "_is_cancelled",
        "_is_released",
        "_lease",
        "_lock",
        "_loop",
        "_mailbox",
        "_on_done",
        "_outcome",
        "_process",
        "_start",
        "_task",
        "is_done",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        start: Callable[[], Coroutine[Any, Any, T]],
        on_done: Callable[[], object] | None = None,
    ) -> None:
        """`on_done` is called on the owning loop when the call is done, unless it was abandoned before."""
        self._loop = loop
        self._mailbox = mailbox_of(loop)
        self._start: Callable[[], Coroutine[Any, Any, T]] | None = start
        self._on_done = on_done
        self._lease = Lease()
        self._process = this_process()
        self._lock = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._outcome: _Result[T] | BaseException | None = None
        self._has_ended = False
        self._is_cancelled = False
        self._is_abandoned = False
        self._is_released = False
        self.is_done = False
        """Whether the operation has ended, or never will begin."""
        self._bell: Bell | None = None

    def submit(self) -> None:
        """Has the owning loop begin the operation, in a copy of the caller's context, under a lease of its own.

        Raises:
            LoopNotRunningError: the loop is closed.
        """
        context = context_under(self._lease)
        try:
            self._mailbox.post(partial(context.run, self._begin))
        except RuntimeError:
            raise LoopNotRunningError("it is closed") from None

    def _begin(self) -> None:
        start, self._start = self._start, None
        if self._is_cancelled or start is None:
            self._end()
            return
        operation = self._operate(start)
        try:
            self._task = self._loop.create_task(operation)
        except BaseException as failure:  # from a task factory of somebody else
            operation.close()
            self._outcome = failure
            self._end()

    async def _operate(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            self._outcome = _Result(await start())
        except (KeyboardInterrupt, SystemExit) as stop:  # they end the loop as well, and asyncio sees to that
            self._outcome = stop
            if self._task is not None:
                self._task.add_done_callback(_retrieve)
            raise
        except GeneratorExit:  # the loop was closed, and what it still had to do was collected
            self._outcome = LoopNotRunningError("it was closed during the call")
            raise
        except BaseException as failure:  # raised in the caller: the task itself never fails
            self._outcome = failure
        finally:
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        if self._is_abandoned:
            self._release()
        elif not self.is_done:
            self.is_done = True
            if self._process.is_forked():
                return  # its parent's loop was collected here
            if (bell := self._bell) is not None:
                bell.ring()
            if self._on_done is not None:
                self._on_done()

    def cancel(self) -> None:
        """Has the owning loop cancel the operation, or never begin it."""
        self._is_cancelled = True
        if self._process.is_forked():
            return
        self._mailbox.wake()
        call_soon(self._loop, self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is None:
            self._end()  # it was not begun, although what was submitted before has been: an interrupt came between
        else:
            self._task.add_done_callback(lambda _: self._end())  # one that was never stepped tells nothing itself
            self._task.cancel()

    def abandon(self, why: BaseException) -> None:
        """Has the result released, now or when there is one: the caller will not take it.

        Where it is not done, the operation finds its memory refused from now on. `why` is what the caller raises.
        """
        self._is_abandoned = True
        self._start = None  # which holds the caller's memory, and may stay in a loop that does not run
        if not self.is_done:
            if not (self.has_let_go() or self._process.is_forked()):
                why.add_note(f"The operation had not let go of its buffers {_CANCEL_GRACE} s after it was cancelled.")
            self._lease.recall()
        if self._has_ended:
            self._release()

    def _release(self) -> None:
        with self._lock:  # the caller's thread and the loop's may both find the outcome
            if self._is_released:
                return
            self._is_released = True
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, _Result):
            release_all(outcome.value)

    def has_let_go(self) -> bool:
        """Whether nothing touches the caller's buffers, now or later, though the call may never be done.

        Where the owning loop does not run, this interrupts the threads that work for the operation.
        """
        if self.is_done:
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
        if self._bell is None:
            self._bell = bell()
        if self.is_done:  # looked at when the bell was there to be rung
            return True
        if self._bell.wait(seconds) and self.is_done:
            keep(self._bell)
            self._bell = None
        return self.is_done

    def give_up(self, why: BaseException) -> None:
        """Cancels and abandons the call. Blocks this thread until `has_let_go()`, for `_CANCEL_GRACE` seconds at most.

        In a fork it does not wait. `why` is what the caller raises.
        """
        self.cancel()
        ends = time.monotonic() + _CANCEL_GRACE
        while not (self._process.is_forked() or self.has_let_go()) and time.monotonic() < ends:
            self.wait(_POLL if self._is_loop_running() else _THREAD_POLL)
        self.abandon(why)

    def check_alive(self) -> None:
        """Raises `LoopNotRunningError` where the loop was closed before the call was done."""
        if self.is_done:
            return
        if (task := self._task) is not None and task.done():
            self._end()  # a loop that was shut down has cancelled the task before its first step
        elif self._loop.is_closed():
            raise LoopNotRunningError("it was closed during the call")
        else:
            self._mailbox.wake()

    def result(self) -> T:
        """The result of a call that is done. It is given once.

        Raises:
            LoopNotRunningError: the operation never began, or the loop was shut down under it.
            What the operation raised.
        """
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, _Result):
            return outcome.value
        try:
            if outcome is None:
                raise LoopNotRunningError("the operation never began there")
            if isinstance(outcome, asyncio.CancelledError):
                # Nobody cancelled the caller: the loop was shut down under the operation.
                raise LoopNotRunningError("the operation was cancelled there")
            raise outcome
        finally:
            del outcome  # a failure that its own traceback holds is freed late, and what its frames hold with it


class _Result(Generic[T]):
    """What an operation returned."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


async def call_from_loop(loop: asyncio.AbstractEventLoop, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Awaits `start()` on `loop`, for a caller on another loop."""
    here = asyncio.get_running_loop()
    mailbox = mailbox_of(here)
    changed = here.create_future()

    def wake() -> None:
        if not changed.done():
            changed.set_result(None)

    def tell() -> None:
        try:
            mailbox.post(wake)
        except RuntimeError:
            pass  # nobody is left to be told

    call = Call(loop, start, tell)
    try:
        call.submit()
        started = here.time()
        while not call.is_done:
            timer = here.call_later(_POLL, wake)
            try:
                await changed
            finally:
                timer.cancel()
            if not call.is_done:
                changed = here.create_future()
                call.check_alive()
                if not loop.is_running() and here.time() - started > _START_LIMIT:
                    raise LoopNotRunningError(f"it has not run for {_START_LIMIT} s")
    except GeneratorExit as closed:  # the caller's loop was closed under it: nothing can be awaited any more
        call.give_up(closed)
        raise
    except BaseException as error:
        changed = here.create_future()  # the one before was perhaps cancelled
        call.cancel()
        ends = time.monotonic() + _CANCEL_GRACE
        while not call.has_let_go() and (left := ends - time.monotonic()) > 0:
            await wait_uncancelled(changed, min(left, _POLL if loop.is_running() else _THREAD_POLL))
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
    call = Call(loop, start)
    try:
        deadline = time.monotonic() + timeout
        call.submit()
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


def _retrieve(task: asyncio.Task[None]) -> None:
    task.exception()  # marks it as retrieved: the caller has it
