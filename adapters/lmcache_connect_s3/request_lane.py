"""`RequestLane`: makes the requests of all large calls of a connector, in a few threads that they share.

Why they share them. More threads than CPUs only take the interpreter's lock from one another. And a call with a thread
of its own costs two hand-overs between threads, which are as long as the transfer of a megabyte.

Where they wait for the network instead, more of them are better: one is added after the other, while jobs are pending
and the threads hardly use the CPU.

A driver is a task. It acquires a connection, and has a courier serve it: the courier takes one job after the other, of
one call after the other, while there are any. So a call with a thousand jobs does not hold up one with a single job. A
chunk that has begun to come is finished first, so that few calls hold memory for chunks that are not whole.

What ends with a call. A call that is cancelled or fails has its unbegun jobs dropped, and the connections closed that
are on one of its jobs at that moment. The driver goes on with the jobs of others, over another connection. The call
waits until its last job has ended: nothing touches its buffers then.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.errors import ConnectorClosedError
from lmcache_connect.lease import Use, leases
from lmcache_connect.transport import Couriers, StreamClosedError, wait_uncancelled

from .http_connection import HTTPConnection, Pool
from .job import Job
from .request_call import RequestCall, RequestServer

_LOOK_SECONDS: Final = 0.05
"""How often it is looked at what the threads do, while jobs are pending."""

_IDLE_SHARE: Final = 0.5
"""Threads that use less CPU time than this share of one CPU, all of them together, wait for the network."""


class _Entry:
    """A call in the lane. What threads change of it, they change under the lane's lock.

    Attributes:
        call: the call.
        over: resolved on the event loop when no job is left.
        whole: lasts until no job is left. It waits where the event loop has ended.
        context: the call's own, where the memory of its jobs is leased.
        running: the number of jobs that were begun and have not ended.
        connections: those that are on one of these jobs.
        is_queued: whether the call is in the lane's queue.
        is_stopped: whether no job begins any more.
        failure: why it was stopped.
    """

    __slots__ = ("call", "connections", "context", "failure", "is_queued", "is_stopped", "over", "running", "whole")

    def __init__(self, call: RequestCall, over: asyncio.Future[None]) -> None:
        self.call = call
        self.over = over
        self.whole: Use = contextvars.Context().run(Use)
        self.context = contextvars.copy_context() if leases() else None
        self.running = 0
        self.connections: list[HTTPConnection] = []
        self.is_queued = self.is_stopped = False
        self.failure: BaseException | None = None

    def begin_use(self, connection: HTTPConnection) -> Use | None:
        """Begins the use of leased memory in this thread. None: the memory is not leased.

        Raises:
            ReleasedObjectError: a lease was recalled.
        """
        return None if self.context is None else self.context.copy().run(Use, connection.close)


class RequestLane(RequestServer):
    """Serves many calls side by side, with a bounded number of threads. Lives on one event loop."""

    def __init__(self, pool: Pool, couriers: Couriers, limit: int, *, most: int, yields: bool) -> None:
        """`limit`: how many threads there are at most, and `most` where they wait for the network. `yields`: whether
        they leave no connection to others, and so release theirs after each job that others wait for.
        """
        self.pool = pool
        self._couriers = couriers
        self._least = limit
        self._limit = limit
        self._most = most
        self._seconds_used = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._yields = yields
        self._lock = threading.Lock()
        self._queue: deque[_Entry] = deque()
        self._entries: dict[RequestCall, _Entry] = {}
        self._drivers: set[asyncio.Task[None]] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        self._ended: deque[_Entry] = deque()
        self._is_telling = self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------------------------------ on the event loop

    async def serve(self, call: RequestCall) -> None:
        loop = self._loop = asyncio.get_running_loop()
        entry = self._entries[call] = _Entry(call, loop.create_future())
        with self._lock:
            self._enqueue(entry)
        self._start_drivers()
        if self._timer is None and self._limit < self._most:
            self._seconds_used = 0.0
            self._timer = loop.call_later(_LOOK_SECONDS, self._look_for_idle_threads)
        try:
            await entry.over
        except BaseException as ended:
            with self._lock:
                self._stop(entry)
            if not entry.running:
                entry.whole.end()
            elif not isinstance(ended, GeneratorExit):  # after that one nothing can be awaited
                entry.over = loop.create_future()  # the other one was cancelled with the task
                await wait_uncancelled(entry.over)
            raise
        finally:
            del self._entries[call]
            entry.whole.wait()  # returns at once, unless the event loop has ended and the caller's frames are collected
            if not self._entries and not loop.is_closed():
                self._dismiss()
        if entry.failure is not None:
            failure, entry.failure = entry.failure, None
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame

    async def close(self) -> None:
        """Ends the drivers. Calls that still wait fail. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for driver in self._drivers:
            driver.cancel()
        if self._drivers:
            await asyncio.wait(self._drivers)
        self._start_drivers()

    def _start_drivers(self) -> None:
        if self._is_closed:
            while self._fail_next(ConnectorClosedError(f"the connection pool of {self.pool.store}")):
                pass
            return
        room = self._limit - len(self._drivers)
        if room <= 0:
            return
        jobs = 0
        with self._lock:
            for entry in self._queue:
                jobs += len(entry.call.pending)
                if jobs >= self._limit:
                    break
        for _ in range(min(room, jobs - len(self._arriving))):  # those that arrive have a job each
            # In an empty context: it outlives the call that has started it.
            driver = asyncio.get_running_loop().create_task(self._drive(), context=contextvars.Context())
            self._drivers.add(driver)
            self._arriving.add(driver)
            driver.add_done_callback(self._driver_ended)

    def _look_for_idle_threads(self) -> None:
        """Has one more driver where jobs are pending and the threads wait for the network."""
        self._timer = None
        with self._lock:
            used, self._seconds_used = self._seconds_used, 0.0
        if not self._queue:
            self._limit = self._least
            return
        if used < _IDLE_SHARE * _LOOK_SECONDS and len(self._drivers) == self._limit < self._most:
            self._limit += 1
            self._start_drivers()
        if self._loop is not None:
            self._timer = self._loop.call_later(_LOOK_SECONDS, self._look_for_idle_threads)

    async def _drive(self) -> None:
        this = asyncio.current_task()
        assert this is not None  # noqa: S101  # it is one
        while self._queue:
            self._arriving.add(this)
            try:
                async with self.pool.acquired() as connection:
                    self._arriving.discard(this)
                    await self._couriers.run(connection, self._serve(connection))
            except Exception as error:
                self._fail_next(error)

    def _driver_ended(self, driver: asyncio.Task[None]) -> None:
        self._drivers.discard(driver)
        self._arriving.discard(driver)
        if self._queue:
            self._start_drivers()

    def _dismiss(self) -> None:
        """Ends drivers that wait for a connection which nobody wants any more."""
        for driver in self._arriving:
            driver.cancel()
            self._drivers.discard(driver)  # a call that comes at this moment gets another one
        self._arriving.clear()

    def _fail_next(self, error: Exception) -> bool:
        """Where no connection can be had, that is a failed attempt of the next job. Returns whether there was one."""
        taken = self._take()
        if taken is None:
            return False
        self._job_ended(*taken, None, error.with_traceback(None))
        return True

    def _resolve(self) -> None:
        self._is_telling = False
        while self._ended:
            entry = self._ended.popleft()
            if not entry.over.done():
                entry.over.set_result(None)

    # ---------------------------------------------------------------------------------------------- in any thread

    def add(self, call: RequestCall, job: Job) -> None:
        entry = self._entries.get(call)
        if entry is None:
            call.queue(job)  # it has not begun
            return
        with self._lock:
            if entry.is_stopped:
                return
            call.queue(job)
            self._enqueue(entry)
        if len(self._drivers) < self._limit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_drivers)

    def _enqueue(self, entry: _Entry) -> None:
        if entry.is_queued:
            return
        entry.is_queued = True
        if entry.call.pending[0].goes_on:
            self._queue.appendleft(entry)
        else:
            self._queue.append(entry)

    def _stop(self, entry: _Entry) -> None:
        """Ends a call. To be called under the lock, so that its connections are not on another call's jobs."""
        entry.is_stopped = True
        entry.call.pending.clear()
        for connection in entry.connections:
            connection.close()

    async def _serve(self, connection: HTTPConnection) -> None:
        """What a courier does: one job after the other."""
        while (taken := self._take(connection)) is not None:
            entry, job = taken
            failure: BaseException | None = None
            use: Use | None = None
            began = time.thread_time()
            try:
                use = entry.begin_use(connection)
                await job.run(connection)
                entry.call.retries.succeeded()
            except GeneratorExit:
                failure = RuntimeError("a job waited for something that is not its stream")
                raise
            except BaseException as error:
                failure = error.with_traceback(None)
            finally:
                if use is not None:
                    use.end()
                with self._lock:
                    self._seconds_used += time.thread_time() - began
                self._job_ended(entry, job, connection, failure)
                del taken, entry, job, failure, use  # not kept until the next job
            if not connection.is_reusable:
                connection.close()
                return
            if self._yields and self.pool.waiting:
                return

    def _take(self, connection: HTTPConnection | None = None) -> tuple[_Entry, Job] | None:
        """Returns the next job, of the call whose turn it is. None where no job is pending."""
        with self._lock:
            while self._queue:
                entry = self._queue.popleft()
                entry.is_queued = False
                if not entry.call.pending:
                    continue
                job = entry.call.pending.popleft()
                if entry.call.pending:
                    self._enqueue(entry)
                entry.running += 1
                if connection is not None:
                    entry.connections.append(connection)
                return entry, job
        return None

    def _job_ended(
        self, entry: _Entry, job: Job, connection: HTTPConnection | None, error: BaseException | None
    ) -> None:
        failure: BaseException | None = None
        if isinstance(error, (StoreError, StreamClosedError)) and not entry.is_stopped:
            try:
                entry.call.job_failed(job, connection, error)
            except StoreError as final:
                failure = final.with_traceback(None)
        else:
            failure = error
        with self._lock:
            entry.running -= 1
            if connection is not None:
                entry.connections.remove(connection)
            if failure is not None and not entry.is_stopped:
                entry.failure = failure
                self._stop(entry)
            if entry.is_stopped:
                entry.call.pending.clear()
            elif entry.call.pending:
                self._enqueue(entry)  # it is tried again at once
            is_over = not entry.running and not entry.call.pending
        if is_over:
            self._tell(entry)

    def _tell(self, entry: _Entry) -> None:
        """Tells the event loop that a call is over. What ends together is told together."""
        entry.whole.end()
        self._ended.append(entry)
        if not self._is_telling and self._loop is not None:
            self._is_telling = True
            try:
                self._loop.call_soon_threadsafe(self._resolve)
            except RuntimeError:
                pass  # the loop was closed: nobody waits
