"""`JobPort`: how code without an event loop, in several threads, uses a connector.

port = JobPort("redis://store:6379", deadline=5.0)
job = port.submit_get(keys, buffers)
...                       # port.event_fd becomes readable
for result in port.drain():
    print(result.id, result.flags)
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from ..contract import CallerMemory, Descriptions
from ..errors import InvalidArgumentError
from ..keys import Key, key_strings
from ..managed import ManagedConnector
from ..manager import ConnectorManager
from ..observability import JobKind, JobStatistics, RepeatedEvent, event
from ..outside import described
from ..process import this_process
from .job import Job, JobResult
from .job_book import JobBook
from .port_settings import checked_bytes, checked_deadline, port_settings
from .shared_store import open_store
from .watched_methods import WatchedMethods

__all__ = ["JobPort", "JobResult"]

DEADLINE: Final = 10.0
"""Seconds that a job has where nobody says otherwise."""

MAX_WAITING_STORE_BYTES: Final = 512 << 20
"""Bytes of stores that may wait where nobody says otherwise."""

_CANCEL_SECONDS: Final = 1.0
"""Seconds that the event loop has to end jobs, before they are ended without its help."""

_LET_GO_SECONDS: Final = 10.0
"""Seconds that interrupted threads have to let go. They take a few milliseconds, unless the machine is busy."""

_POLL: Final = 0.005


class JobPort:
    """Submits batches to one store, and tells when they are done. Thread-safe: every method, from any thread.

    Every job ends by its deadline, with one result. A job has failed as a whole, or has one flag per key. When its
    result is there, nothing touches its buffers any more, whatever the result is. Until then they must stay as they
    are: mapped, and for stores unchanged. `release_memory` ends that early.

    Loads go before stores: a store begins while no load of any port on the same store is under way, or when it has
    waited for a quarter of its time. Stores are refused (`shed`) where too many bytes wait.

    Exceptions of the store become failures, by the class of the error: `JobResult.error`, and `statistics()`. Other
    reasons are the words `deadline`, `closed`, `released` (by `release_memory`), `shed` and `cancelled`. A store that
    is down, or refuses the login, is asked seldom, and jobs then fail at once.

    A port belongs to the process that made it. It cannot be pickled. In a fork, every method but `close` raises
    `ForkedProcessError`. All ports of a process share one event loop in a thread of its own, and those with the same
    URL and settings share one connector. They are closed with their last port.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: float = DEADLINE,
        max_waiting_store_bytes: int | str = MAX_WAITING_STORE_BYTES,
        **settings: Any,
    ) -> None:
        """Checks the whole configuration, and connects to nothing yet.

        Args:
            url: the store's URL, as `ConnectorManager` takes it.
            deadline: seconds that a job has from its submission to its result.
            max_waiting_store_bytes: further stores are shed while more bytes than this wait for their beginning. One
                store may be larger, where none waits.
            settings: those of `ConnectorConfig`, by name.

        Raises:
            InvalidURLError: the URL cannot be understood; subclasses name an unknown scheme or a wrong option.
            InvalidArgumentError, InvalidConfigError: a deadline, a size or a setting is wrong.
            AdapterLoadError, PluginError: what answers for the URL cannot be loaded.
        """
        self._process = this_process()
        self._is_closed = True  # until it is complete
        if not isinstance(url, str) or not url:
            given = "it is empty" if url == "" else f"a {type(url).__qualname__}"
            raise InvalidArgumentError("url", f"{given}; expected the store's URL, such as redis://host:6379")
        self.deadline: Final = checked_deadline(deadline)
        """Seconds that a job has where its submission does not say otherwise."""
        self._book = JobBook(checked_bytes("max_waiting_store_bytes", max_waiting_store_bytes), self._job_is_over)
        try:
            self._store = open_store(url, port_settings(self.deadline, settings))
        except BaseException:
            self._book.close_event()
            raise
        self._store.begin_counting(self._book.statistics)
        self._has_ended = threading.Event()
        self._methods = WatchedMethods(self)
        self._late = RepeatedEvent("engine_job_late")
        self._shed = RepeatedEvent("engine_stores_shed")
        self._is_closed = False

    # ------------------------------------------------------------------------------------------------ submitting

    def submit_get(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        metadata: Descriptions = None,
        *,
        deadline: float | None = None,
    ) -> int:
        """Loads chunks into memory of the caller's. Returns the job's number. Does not block.

        Args:
            keys: the chunks' keys.
            buffers: for each key a writable buffer, or a sequence of buffers that are filled one after the other.
            metadata: one description for all, or one per key. The stored one must then equal it.
            deadline: seconds that this job has. None: the port's.

        A flag is True where the buffers hold exactly this key's chunk, verified. Otherwise it is undefined which of
        their bytes were written to.

        Raises:
            InvalidArgumentError: the arguments do not fit each other, or a buffer cannot be received into.
            InvalidKeyError: a key is not valid.
            ConnectorClosedError, BackendClosedError, ForkedProcessError: after `close`, after `release_memory`, in a
                fork.
        """
        return self._submit_with_memory("get", keys, buffers, metadata, deadline)

    def submit_put(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        metadata: Descriptions = None,
        *,
        deadline: float | None = None,
    ) -> int:
        """Stores chunks from memory of the caller's. Returns the job's number. Does not block.

        The arguments and errors are those of `submit_get`, but buffers may be read-only. A flag is True where the store
        has acknowledged the whole chunk. Where too many bytes wait, the job has failed at once, as `shed`.
        """
        return self._submit_with_memory("put", keys, buffers, metadata, deadline)

    def submit_exists(self, keys: Sequence[Key], *, deadline: float | None = None) -> int:
        """Looks keys up. Returns the job's number. Does not block. A flag is True where the store holds the key.

        Raises:
            InvalidArgumentError, InvalidKeyError, ConnectorClosedError, ForkedProcessError: as for `submit_get`.
        """
        self._process.check("the job port")
        return self._submit("exists", key_strings(keys), None, deadline)

    def submit_remove(self, keys: Sequence[Key], *, deadline: float | None = None) -> int:
        """Removes keys. Returns the job's number. Does not block. A flag is True where the key is gone now.

        Raises:
            InvalidArgumentError, InvalidKeyError, ConnectorClosedError, ForkedProcessError: as for `submit_get`.
        """
        self._process.check("the job port")
        return self._submit("remove", key_strings(keys), None, deadline)

    def _submit_with_memory(
        self, kind: JobKind, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions, deadline: float | None
    ) -> int:
        self._process.check("the job port")
        # Regions of its own: the operation of a job that was ended without it may still say what it had brought.
        theirs = CallerMemory.of(keys, buffers, metadata, writable=kind == "get", own=True)
        try:
            return self._submit(kind, key_strings(theirs.keys), theirs, deadline)
        except BaseException:
            theirs.release()
            raise

    def _submit(self, kind: JobKind, keys: list[str], theirs: CallerMemory | None, deadline: float | None) -> int:
        seconds = self.deadline if deadline is None else checked_deadline(deadline)
        job, waiting = self._book.add(kind, keys, theirs, seconds)
        if waiting is not None:
            job.let_go()
            job.fail("shed", f"{waiting} bytes of stores wait already; see max_waiting_store_bytes")
            self._shed.tell(logging.WARNING, store=self.store, waiting=waiting, nbytes=job.nbytes)
        elif not keys:
            job.succeed(())
        else:
            self._start(job)
        return job.id

    def _start(self, job: Job) -> None:
        try:
            self._store.loop.watchdog.watch(job)
            self._store.line.post(job)
        except Exception as error:  # no thread could be started, or the loop was closed by somebody else
            job.lease.recall()
            job.let_go()
            job.fail(type(error).__name__, described(error))

    # --------------------------------------------------------------------------------------------------- results

    @property
    def event_fd(self) -> int:
        """The file descriptor that is readable while `drain` has something to return. -1 after `close`.

        It is closed on exec. Watch it, and call `drain` when it is readable; it may be read as well.

        Raises:
            ForkedProcessError: in a fork.
        """
        self._process.check("the job port")
        return self._book.event.fileno()

    def drain(self) -> list[JobResult]:
        """The results of jobs that have ended since the last call, in the order of their ends. Does not block.

        Those that some thread awaits with `wait` are left to it. After `close` it returns what is left.

        Raises:
            ForkedProcessError: in a fork.
        """
        self._process.check("the job port")
        return self._book.drain()

    def wait(self, job_id: int, timeout: float | None = None) -> JobResult | None:
        """Blocks until the job has ended, for `timeout` seconds at most. Returns its result, or None in time without.

        None as the timeout waits for its end, which comes by its deadline. A result is given once, by `drain` or here.

        Raises:
            InvalidArgumentError: there is no such job, or its result was given.
            ForkedProcessError: in a fork.
        """
        self._process.check("the job port")
        return self._book.wait(job_id, timeout)

    def statistics(self) -> JobStatistics:
        """A copy of the counters of this port's jobs.

        Raises:
            ForkedProcessError: in a fork.
        """
        self._process.check("the job port")
        return self._book.statistics()

    def status(self) -> dict[str, Any]:
        """What an engine's status shows: the store, whether it is asked now, and the counters. No secrets.

        Raises:
            ForkedProcessError: in a fork.
        """
        counters = self.statistics().document()
        refusal = self._store.line.refusal.answer
        return {
            "store": self.store,
            "breaker": self.connector.breaker_state.value,
            "refused": None if refusal is None else refusal[0],
            "has_succeeded": self.connector.has_succeeded,
            "is_closed": self._is_closed,
            "jobs": counters,
        }

    @property
    def store(self) -> str:
        """The store's address, without credentials and options."""
        return self.connector.store

    @property
    def connector(self) -> ManagedConnector:
        """The connector that the jobs use, for what no job does, such as listings by its `sync`. The port closes it."""
        return self._store.connector

    @property
    def manager(self) -> ConnectorManager:
        """The manager of the connector, for metrics and health. The port closes it."""
        return self._store.manager

    # -------------------------------------------------------------------------------------------------- lifetime

    def release_memory(self, grace: float = 0.0) -> bool:
        """The engine wants to free the memory of its buffers now. Blocks until nothing here touches it, now or later.

        Further loads and stores raise `BackendClosedError`. Those under way may go on for `grace` seconds, and are then
        ended: their results are failures, as `released`. Returns whether the memory may be freed; False is logged, and
        the caller must leave the memory mapped. It takes eleven seconds more than `grace` at most, and usually a few
        milliseconds.

        Raises:
            ForkedProcessError: in a fork.
        """
        self._process.check("the job port")
        return self._end_jobs(self._book.refuse_memory(), "released", grace)

    def let_go(self) -> bool:
        """`release_memory()`, for what watches a method of the engine's."""
        return self._process.is_forked() or self.release_memory()

    def guard(self, owner: Any, method: str) -> None:
        """Has `owner.method()`, which frees the engine's memory, call `release_memory` first, until the port is closed.

        Where that returns False, the engine's own method is not called.
        """
        self._process.check("the job port")
        self._methods.watch(owner, method)

    def close(self, grace: float | None = None) -> None:
        """Ends the port. Jobs under way may go on for `grace` seconds; None: for the setting `close_grace`. Idempotent.

        What has not ended by then has failed, as `closed`. Nothing touches the buffers when this returns, or it is
        logged. `drain` and `wait` still give the results. A further call waits for the same end. Where this is the last
        port of its store, the connector is closed, in bounded time. In a fork only the fork's descriptor is closed.
        On the event loop's own thread it does not wait: it goes on in another one.
        """
        if self._process.is_forked():
            if not self._is_closed:
                self._is_closed = True
                self._book.event.close()  # without the lock, which a thread of the parent may have held
            return
        if self._store.loop.owner.is_current():  # the collector has run there, and has ended what held the port
            threading.Thread(target=self.close, args=(grace,), name="lmcache-connect closing", daemon=True).start()
            return
        jobs = self._book.close()
        self._is_closed = True
        if jobs is None:
            self._has_ended.wait()
            return
        try:
            self._end_jobs(jobs, "closed", self._store.settings.close_grace if grace is None else grace)
        finally:
            self._methods.end()
            self._book.close_event()
            self._store.close(self._book.statistics)
            self._has_ended.set()

    def _end_jobs(self, jobs: Iterable[Job], why: str, grace: float) -> bool:
        """Waits for these jobs, and ends those that are left. Returns whether all are over."""
        left = [job for job in jobs if not job.is_over]
        if not left or self._book.wait_over(left, grace):
            return True
        for job in left:
            self._store.line.end_soon(job, why)
        if self._book.wait_over(left, _CANCEL_SECONDS):
            return True
        ends = time.monotonic() + _LET_GO_SECONDS
        while left := [job for job in left if not self._store.loop.force_end(job, why)]:
            if time.monotonic() >= ends:
                event(logging.ERROR, "engine_memory_kept", store=self.store, jobs=len(left), seconds=_LET_GO_SECONDS)
                return False
            time.sleep(_POLL)
        return True

    def _job_is_over(self, job: Job, result: JobResult) -> None:
        self._store.loop.watchdog.forget(job)
        if result.reason == "deadline":
            seconds = round(result.seconds, 3)
            self._late.tell(logging.WARNING, store=self.store, kind=job.kind, keys=len(job.keys), seconds=seconds)

    # ------------------------------------------------------------------------------------------------- the object

    def __enter__(self) -> Self:
        self._process.check("the job port")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot pickle a JobPort: it belongs to the process that made it; make one in each process")

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_is_closed", True):
            return
        self._is_closed = True
        self._book.event.close()
        if self._process.is_forked():
            return
        # No job is left: each refers to its port. Not closed here: the collector may run in the loop's own thread,
        # which closing waits for. An interpreter that ends starts no thread, and would wait for it for ever.
        if not sys.is_finalizing():
            try:
                threading.Thread(
                    target=self._store.close, args=(self._book.statistics,), name="lmcache-connect closing", daemon=True
                ).start()
            except RuntimeError:
                pass  # no thread could be started: the loop's own thread stays, which keeps no process alive
        _warn(f"{self!r} was never closed: call close()", ResourceWarning, stacklevel=1)

    def __repr__(self) -> str:
        return f"<JobPort {self.store}, {'closed' if self._is_closed else 'open'}>"
