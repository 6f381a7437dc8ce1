"""`Lease`: until when an operation may touch memory that somebody else owns.

A put borrows its caller's memory, and inside an engine every chunk lies in the engine's memory. Usually the owner waits
for the operation to end. It cannot where the event loop that runs the operation has stopped: the operation neither goes
on nor ends, while a thread that it has started still moves bytes. So the owner recalls the lease:

* no use begins any more: memory objects refuse their bytes, streams and threads refuse the work;
* the uses that are under way in threads are interrupted, and each tells its end;
* what waits on the event loop touches nothing, should that loop run again.

`is_idle` then says that the memory is the owner's alone.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from .errors import ReleasedObjectError
from .process import this_process

WAIT_SECONDS: Final = 30.0
"""Seconds that somebody waits for threads to let go of memory. It takes them a few milliseconds where they move bytes
over a connection, and so long only where they run code of other packages. Torn data is worse than waiting."""

_POLL: Final = 0.001

_leases: ContextVar[tuple[Lease, ...]] = ContextVar("leases", default=())
"""The leases that the code of this context works under."""


class Lease:
    """Until when an operation may touch memory that somebody else owns. The module has the rules. Thread-safe."""

    __slots__ = ("_lock", "_uses", "is_recalled")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: set[Use] = set()
        self.is_recalled = False
        """Whether the memory is the owner's again. Never reset."""

    @property
    def is_idle(self) -> bool:
        """Whether no thread uses the memory now."""
        return not self._uses

    def recall(self) -> None:
        """Refuses further uses, and interrupts those under way. Returns at once. Idempotent, from any thread."""
        with self._lock:
            self.is_recalled = True
            # Under the lock: what is interrupted has not ended yet, and does not end meanwhile.
            for use in self._uses:
                use.interrupt()

    def wait_idle(self, seconds: float = WAIT_SECONDS) -> bool:
        """Blocks until no thread uses the memory, for `seconds` at most. Returns whether that is so."""
        ends = time.monotonic() + seconds
        while self._uses:
            if time.monotonic() >= ends:
                return False
            time.sleep(_POLL)
        return True

    def _begin(self, use: Use) -> None:
        with self._lock:
            if self.is_recalled:
                raise ReleasedObjectError("a transfer")
            self._uses.add(use)

    def _end(self, use: Use) -> None:
        with self._lock:
            self._uses.discard(use)


class Use:
    """The use of leased memory in a thread, from before it begins until the thread has let go of the memory."""

    __slots__ = ("_leases", "_process", "ended", "interrupt")

    def __init__(self, interrupt: Callable[[], object] = lambda: None) -> None:
        """Begins a use under the leases of this context. The thread calls `end`.

        `interrupt` makes the thread end it soon. It is called from any thread, and must not wait.

        Raises:
            ReleasedObjectError: a lease was recalled.
        """
        self.interrupt: Final = interrupt
        self.ended = False
        """Whether the thread has let go."""
        self._process = this_process()
        self._leases: tuple[Lease, ...] = ()
        try:
            for lease in _leases.get():
                lease._begin(self)
                self._leases += (lease,)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Tells that the thread touches the memory no more. Idempotent."""
        self.ended = True
        for lease in self._leases:
            lease._end(self)

    def wait(self) -> None:
        """Blocks until the use has ended, for `WAIT_SECONDS` at most. Returns at once where it has.

        For a caller whose event loop does not run any more. In a fork it returns at once: the thread is the parent's.
        """
        ends = time.monotonic() + WAIT_SECONDS
        while not self.ended and not self._process.is_forked() and time.monotonic() < ends:
            time.sleep(_POLL)


def leases() -> tuple[Lease, ...]:
    """The leases that the code of this context works under."""
    return _leases.get()


def check_leases(operation: str) -> None:
    """Raises `ReleasedObjectError` where a lease of this context was recalled. `operation` is named in the message."""
    for lease in _leases.get():
        if lease.is_recalled:
            raise ReleasedObjectError(operation)


def context_under(lease: Lease) -> contextvars.Context:
    """A copy of this context that works under `lease` as well."""
    context = contextvars.copy_context()
    context.run(_leases.set, (*_leases.get(), lease))
    return context


def context_without_leases() -> contextvars.Context:
    """A copy of this context that works under no lease: for work on memory that outlives the call that began it."""
    context = contextvars.copy_context()
    context.run(_leases.set, ())
    return context


def work_under(held: tuple[Lease, ...]) -> None:
    """Has the rest of this context work under these leases and no others: for a task that works for many callers."""
    if _leases.get() is not held:
        _leases.set(held)


class under:  # noqa: N801 - used as `with under(lease):`
    """Has the code of a `with` block work under `lease` as well, or under nothing new where that is None."""

    __slots__ = ("_lease", "_token")

    def __init__(self, lease: Lease | None) -> None:
        self._lease = lease

    def __enter__(self) -> None:
        if self._lease is not None:
            self._token = _leases.set((*_leases.get(), self._lease))

    def __exit__(self, *_: object) -> None:
        if self._lease is not None:
            _leases.reset(self._token)
