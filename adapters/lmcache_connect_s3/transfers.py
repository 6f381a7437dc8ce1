"""`Transfers`: the requests of one call, over several connections side by side, each again where that may help."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from lmcache_connect import StoreError, StoreUnavailableError
from lmcache_connect.loop import NativeCancellations
from lmcache_connect.transport import ConnectionPool, Couriers, StreamClosedError

from .http_connection import HTTPConnection
from .retries import Retries, Tries

Pool: TypeAlias = ConnectionPool[HTTPConnection]


class Job(ABC):
    """One request, which may be made several times."""

    def __init__(self) -> None:
        self.tries = Tries()

    @abstractmethod
    async def run(self, connection: HTTPConnection) -> None:
        """Makes the request. Waits for nothing but the stream: a thread may have taken it over."""


class Transfers:
    """Runs jobs, which may add further ones, with as many workers as there are jobs for. The first failure that cannot
    be helped ends them all."""

    def __init__(
        self,
        pool: Pool,
        workers: int,
        retries: Retries,
        couriers: Couriers | None,
        renew: Callable[[], Awaitable[bool]],
    ) -> None:
        """With `couriers`, threads move the bytes. `renew` gets other credentials; whether there are any."""
        self._pool = pool
        self._limit = workers
        self._retries = retries
        self._couriers = couriers
        self._renew = renew
        self._pending: deque[Job] = deque()
        self._later: list[tuple[float, Job]] = []
        self._expired: list[tuple[Job, StoreError]] = []
        self._active = 0
        self._has_grown = False
        self._failure: Exception | None = None
        self._group: TaskGroup | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, job: Job) -> None:
        """One job more, also from a thread that is at one."""
        self._pending.append(job)
        self._has_grown = True

    async def run(self) -> None:
        """Does everything. The first failure is raised when nothing touches a buffer any more."""
        self._loop = asyncio.get_running_loop()
        while self._pending:
            self._has_grown = False
            cancellations = NativeCancellations()
            try:
                async with anyio.create_task_group() as self._group:
                    for _ in range(min(self._limit, len(self._pending))):
                        self._active += 1
                        self._group.start_soon(self._work)
            finally:
                self._group = None
                self._active = 0
            cancellations.raise_lost()
            if self._failure is not None:
                raise self._failure
            await self._try_again()

    async def _try_again(self) -> None:
        if self._expired:
            jobs, self._expired = self._expired, []
            if not await self._renew():
                raise jobs[0][1]
            self._pending.extend(job for job, _ in jobs)
        elif self._later and not self._pending:
            self._later.sort(key=lambda item: item[0])
            await anyio.sleep(max(0.0, self._later[0][0] - time.monotonic()))
            now = time.monotonic()
            due = [job for at, job in self._later if at <= now + 0.01]
            self._later = [item for item in self._later if item[0] > now + 0.01]
            self._pending.extend(due)

    @property
    def _lacks_workers(self) -> bool:
        """Whether jobs that were added could be done side by side by more workers than there are: in a new round."""
        return self._has_grown and self._active < min(self._limit, len(self._pending))

    async def _work(self) -> None:
        try:
            while self._pending and self._failure is None and not self._lacks_workers:
                async with self._pool.acquired() as connection:
                    if self._couriers is None:
                        await self._serve(connection)
                    else:
                        await self._couriers.run(connection, self._serve(connection))
        except Exception as failure:
            # Kept rather than raised into the group, where it would swallow a cancellation of the caller's task.
            self._end(failure)
        finally:
            self._active -= 1

    async def _serve(self, connection: HTTPConnection) -> None:
        while self._failure is None and not self._lacks_workers:
            try:
                job = self._pending.popleft()
            except IndexError:
                return
            try:
                await job.run(connection)
                self._retries.succeeded()
            except (StoreError, StreamClosedError) as error:
                self._failed(job, connection, error.with_traceback(None))
            if not connection.is_reusable:
                connection.close()
                return

    def _failed(self, job: Job, connection: HTTPConnection, error: StoreError | StreamClosedError) -> None:
        is_stale = connection.was_stale(error)
        if isinstance(error, StreamClosedError):
            error = self._pool.lost(self._pool.store, error)
        retry = self._retries.again(job.tries, error, is_stale=is_stale)
        if retry is None:
            self._end(error)
        elif retry.renews:
            self._expired.append((job, error))
        elif retry.pause:
            self._later.append((time.monotonic() + retry.pause, job))
        else:
            self._pending.append(job)

    def _end(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._group is not None:
            self._group.cancel_scope.cancel()


def lost(store: str, error: StreamClosedError) -> StoreError:
    """Returns the error for a connection that was lost. It does not quote what was received last: part of an answer."""
    return StoreUnavailableError(store, str(error))
