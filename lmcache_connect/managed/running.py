"""`Running`: one operation that is under way, and what ends it early."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, cast

import anyio

from .byte_budget import ByteBudget


class Running:
    """One operation that is under way, from its admission to its end. Made in the task that runs it.

    `cancel` ends what runs inside `with running:`, by one cancellation of the task. The end of the block then swallows
    the `CancelledError`, and `has_ended` tells it. Where somebody else has cancelled the task as well, the error goes
    on. So it is for connectors that let one cancellation out: see `RemoteConnector.ends_when_cancelled`.
    """

    __slots__ = (
        "_budget",
        "_cancelling",
        "_loop",
        "_seconds",
        "_share",
        "_task",
        "deadline",
        "has_ended",
        "is_cancelled",
        "is_late",
        "missed",
        "renewed",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._task = task = cast("asyncio.Task[Any]", asyncio.current_task(loop))
        self._cancelling = task.cancelling()
        self.deadline = loop.time() + seconds
        """When it has to end, by its loop's clock."""
        self.is_cancelled = False
        """Whether `cancel` was called."""
        self.is_late = False
        """Whether that was because its deadline had passed."""
        self.has_ended = False
        """Whether it was ended by that, and by nothing else."""
        self.renewed = 0.0
        """Seconds by which the deadline was moved."""
        self._budget: ByteBudget | None = None
        self._share = 0
        self.missed: tuple[str, ...] = ()
        """For each key that its last attempt has missed, and that the store may hold, the reason."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not self.is_cancelled:
            return False
        # As asyncio.timeout does it: what is left over is somebody else's cancellation. A cancelled scope of anyio that
        # the caller is in may not have cancelled the task yet.
        is_ours_alone = self._task.uncancel() <= self._cancelling and not _is_in_cancelled_scope()
        self.has_ended = is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError)
        return self.has_ended

    def cancel(self) -> None:
        """Ends it soon. To be called once, on its loop, by another task or a callback."""
        self.is_cancelled = True
        self._task.cancel()

    def let_go_of_task(self) -> None:
        """The operation has ended. Contexts that were copied meanwhile hold this object, and must not hold the task.

        A cancelled task holds its error, with the frames of the call. The garbage collector of Python 3.11 cannot see
        that, and would never find the cycle.
        """
        del self._task

    def is_lost(self) -> bool:
        """Whether the task was cancelled and the connector has turned that into another error."""
        # An anyio scope of the caller's that is cancelled counts as well, and sees to its own.
        return self._task.cancelling() > self._cancelling and not _is_in_cancelled_scope()

    def take_free(self, budget: ByteBudget, nbytes: int) -> bool:
        """Takes `nbytes` of the budget, until `release_share`, where they are free. Returns whether it did."""
        if not budget.take_free(nbytes):
            return False
        self._budget, self._share = budget, nbytes
        return True

    async def take(self, budget: ByteBudget, nbytes: int) -> None:
        """Waits for `nbytes` of the budget, and takes them, until `release_share`."""
        await budget.acquire(nbytes)
        self._budget, self._share = budget, nbytes

    def release_share(self) -> None:
        """Releases its share of the byte budget: it moves no bytes now. Idempotent."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.release(self._share)

    def note_missed(self, reason: str, keys: int) -> None:
        """Adds keys that its last attempt has missed, by the reason."""
        self.missed += (reason,) * keys

    def renew(self) -> None:
        """Lets the deadline begin again, since the operation has got on."""
        if not self.is_late:
            before, self.deadline = self.deadline, self._loop.time() + self._seconds
            self.renewed += self.deadline - before


class ScopedRunning(Running):
    """An operation of a connector that may swallow a cancellation: a scope of anyio cancels it until it ends."""

    __slots__ = ("_scope",)

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        super().__init__(loop, seconds)
        self._scope: Final = _scope_class()()

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        swallows = bool(self._scope.__exit__(kind, error, traceback))
        self.has_ended = self._scope.cancelled_caught
        return swallows

    def cancel(self) -> None:
        """Ends it soon."""
        self.is_cancelled = True
        self._scope.cancel()


class ThreadRunning:
    """An operation that its caller's own thread runs, and that another thread may end."""

    __slots__ = ("_close", "_has_let_go", "_lock", "deadline", "is_cancelled", "is_late")

    def __init__(self, close: Callable[[], object], deadline: float) -> None:
        """`close` closes the connection that the thread has. `deadline` is a time of `time.monotonic`."""
        self._close = close
        self._lock = threading.Lock()
        self._has_let_go = False
        self.deadline = deadline
        """When it has to end."""
        self.is_cancelled = False
        """Whether `cancel` was called."""
        self.is_late = False
        """Whether that was because its deadline had passed."""

    def cancel(self) -> None:
        """Ends it soon. From any thread."""
        self.is_cancelled = True
        self.interrupt()

    def look_for_lateness(self) -> None:
        """Notes that its deadline has passed, where the event loop was held up and has not done it. From its thread."""
        if not self.is_cancelled and time.monotonic() >= self.deadline:
            self.is_late = True
            self.is_cancelled = True

    def interrupt(self) -> None:
        """Closes the connection, unless the thread has let go of it. From any thread."""
        with self._lock:
            if not self._has_let_go:
                self._close()

    def let_go(self) -> None:
        """From now on the connection may be another thread's."""
        with self._lock:
            self._has_let_go = True


def _is_in_cancelled_scope() -> bool:
    return anyio.current_effective_deadline() == -math.inf


@functools.cache
def _scope_class() -> type[anyio.CancelScope]:
    # anyio.CancelScope() looks up its backend each time, which costs as much as all else that a scope does.
    return type(anyio.CancelScope())
