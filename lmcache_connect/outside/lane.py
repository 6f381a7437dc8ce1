"""`Lane`: where the code of one party that we did not write runs."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from ..errors import AbandonedCallsError
from .call import OutsideCall
from .daemon_threads import DaemonThreads
from .raised import contain
from .task import OutsideTask

T = TypeVar("T")

MAX_THREADS: Final = 32
"""Threads of a lane, and the abandoned calls at which further ones are refused."""

MAX_ABANDONED_BYTES: Final = 256 << 20
"""Bytes that abandoned calls may hold before further ones are refused."""

CANCEL_SECONDS: Final = 0.2
"""Seconds that a task which was cancelled has to end. Then it is abandoned. A deadline is kept within 0.5 s."""


_lanes: weakref.WeakSet[Lane] = weakref.WeakSet()


class LateError(TimeoutError):
    """A call did not end in time, and was left behind. It is another error than a `TimeoutError` of the call's own."""


class Lane:
    """Runs the code of one party, such as one connector: in threads, and in tasks of the calling event loop.

    A caller that is cancelled leaves its call behind. A call in a thread is abandoned at once, since no thread can be
    stopped; a task is cancelled first, and abandoned where it has not ended `CANCEL_SECONDS` later. What the call holds
    stays held until it has ended: `on_end` is called then, from whichever thread that is. A result that nobody receives
    is given to `on_late`.

    Abandoned calls are counted, with the bytes that they hold. At `max_abandoned` calls or `max_abandoned_bytes`
    further ones are refused, until some have ended. Thread-safe.
    """

    def __init__(
        self, name: str, max_abandoned: int = MAX_THREADS, max_abandoned_bytes: int = MAX_ABANDONED_BYTES
    ) -> None:
        """`name` is the store's address, or another name for people. `max_abandoned` is the number of threads, too."""
        self.name: Final = name
        self._threads = DaemonThreads(name, max_abandoned)
        self._max_abandoned = max_abandoned
        self._max_abandoned_bytes = max_abandoned_bytes
        self._lock = threading.Lock()
        self._abandoned: dict[object, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._branches: weakref.WeakSet[Lane] = weakref.WeakSet()
        _lanes.add(self)

    @staticmethod
    def all() -> list[Lane]:
        """The lanes of this process, by name."""
        return sorted(_lanes, key=lambda lane: lane.name)

    def branch(self, name: str, max_abandoned: int) -> Lane:
        """A lane of its own with threads and a limit of its own, whose abandoned calls count in this one's figures."""
        made = Lane(name, max_abandoned)
        self._branches.add(made)
        return made

    def for_closing(self) -> Lane:
        """A branch for a last call, which also finds a thread where all others hang."""
        return self.branch(self.name, 1)

    @property
    def abandoned_calls(self) -> int:
        """The calls that were left behind and have not ended, here and in the branches."""
        return len(self._abandoned) + sum(branch.abandoned_calls for branch in tuple(self._branches))

    @property
    def abandoned_bytes(self) -> int:
        """The bytes that those calls hold."""
        with self._lock:
            own = sum(self._abandoned.values())
        return own + sum(branch.abandoned_bytes for branch in tuple(self._branches))

    @property
    def threads(self) -> int:
        """The threads that live."""
        return self._threads.threads

    def check(self, what: str) -> None:
        """Raises `AbandonedCallsError` where so much was left behind that nothing further may begin."""
        if not self._abandoned:
            return
        with self._lock:
            calls, nbytes = len(self._abandoned), sum(self._abandoned.values())
        if calls >= self._max_abandoned or nbytes >= self._max_abandoned_bytes:
            raise AbandonedCallsError(self.name, what, calls, nbytes)

    # ------------------------------------------------------------------------------------------------- threads

    def begin(self, what: str, call: Callable[[], T], on_end: Callable[[], None] | None = None) -> OutsideCall[T]:
        """Begins `call()` in a thread, and does not wait. See `run_in_thread`; `leave` abandons it.

        Raises:
            AbandonedCallsError: too much was left behind.
            RuntimeError: no thread could be started.
        """
        begun = OutsideCall(self.name, what, call, on_end)
        try:
            self.check(what)
            self._threads.submit(begun.run)
        except BaseException:
            begun.end()
            raise
        return begun

    def leave(self, call: OutsideCall[T], nbytes: int = 0, on_late: Callable[[T], object] | None = None) -> None:
        """Leaves a call behind, whose outcome nobody will look at. One that never began is withdrawn."""
        if self._threads.withdraw(call.run):
            call.end()
            call.future.cancel()
            return
        self._count(call, nbytes)

        def ended(future: Future[T]) -> None:
            self._discount(call)
            if on_late is not None and not future.cancelled() and future.exception() is None:
                _tell(self.name, on_late, future.result())

        call.future.add_done_callback(ended)

    async def run_in_thread(
        self,
        what: str,
        call: Callable[[], T],
        *,
        nbytes: int = 0,
        on_late: Callable[[T], object] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> T:
        """Runs `call()` in a thread, when one is free, and returns its result.

        A caller that is cancelled goes on at once. `what` is for messages, such as `Theirs.get`, and `nbytes` is what
        the call holds.

        Raises:
            AbandonedCallsError: too much was left behind.
            ConnectorFailureError: it raised something other than an `Exception`.
            What else `call` raises.
        """
        begun = self.begin(what, call, on_end)
        outcome = asyncio.wrap_future(begun.future)
        try:
            return await asyncio.shield(outcome)
        except BaseException:
            if not _has_failed(outcome):  # the caller was cancelled
                self.leave(begun, nbytes, on_late)
                outcome.cancel()
            raise

    def run_blocking(
        self, what: str, call: Callable[[], T], timeout: float, *, on_late: Callable[[T], object] | None = None
    ) -> T:
        """Runs `call()` in a thread, and blocks the calling one for its result, for `timeout` seconds at most.

        Raises:
            LateError: it did not end in time, and was left behind.
            AbandonedCallsError, ConnectorFailureError, and what `call` raises.
        """
        begun = self.begin(what, call)
        try:
            return begun.future.result(timeout)
        except BaseException as error:
            if not begun.future.done():
                self.leave(begun, 0, on_late)
                if isinstance(error, TimeoutError):
                    raise LateError(f"{what} did not end within {timeout:.2g} s") from None
            raise

    # --------------------------------------------------------------------------------------------------- tasks

    async def run_in_task(
        self,
        what: str,
        start: Callable[[], Coroutine[Any, Any, T]],
        *,
        nbytes: int = 0,
        on_late: Callable[[T], object] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> T:
        """Awaits `start()` in a task of its own, and returns its result.

        A caller that is cancelled goes on when the task has ended, and `CANCEL_SECONDS` later at the latest.

        Raises:
            As `run_in_thread` does.
        """
        run = OutsideTask(self.name, what, start, on_end)
        try:
            self.check(what)
            task = run.begin()
        except BaseException:
            run.end()
            raise
        self._tasks.add(task)  # the loop itself holds tasks by weak references
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except BaseException:
            if not _has_failed(task):  # the caller was cancelled
                if not task.done():
                    await run.cancel(CANCEL_SECONDS)
                if not task.done():
                    self._count(task, nbytes)
                    task.add_done_callback(self._discount)
                    run.abandon()
                task.add_done_callback(lambda done: self._late(done, on_late))
            raise

    def _late(self, task: asyncio.Task[T], on_late: Callable[[T], object] | None) -> None:
        if not task.cancelled() and task.exception() is None and on_late is not None:
            _tell(self.name, on_late, task.result())

    # -------------------------------------------------------------------------------------------------- inside

    def _count(self, call: object, nbytes: int) -> None:
        with self._lock:
            self._abandoned[call] = nbytes

    def _discount(self, call: object) -> None:
        with self._lock:
            self._abandoned.pop(call, None)

    def close(self) -> None:
        """Ends the threads that have nothing to do. Idempotent."""
        self._threads.close()

    def __del__(self) -> None:
        if (threads := getattr(self, "_threads", None)) is not None:
            threads.close()

    def __repr__(self) -> str:
        return f"<Lane {self.name}, {self.threads} threads, {self.abandoned_calls} calls abandoned>"


def _tell(name: str, on_late: Callable[[T], object], result: T) -> None:
    with suppress(Exception):  # what is released may be other people's object: nobody is left who could be told
        try:
            on_late(result)
        except BaseException as error:
            raise contain(error, name, "releasing a late result") from None


def _has_failed(outcome: asyncio.Future[Any]) -> bool:
    return outcome.done() and not outcome.cancelled() and outcome.exception() is not None
