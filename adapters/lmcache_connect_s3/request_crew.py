"""`RequestCrew`: makes the requests of one call, over several connections at a time, each again where that may help."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque

import anyio

from lmcache_connect import StoreError
from lmcache_connect.contract import seconds_left
from lmcache_connect.streaming import Crew, Equipment
from lmcache_connect.transport import StreamClosedError

from .http_connection import HTTPConnection
from .retries import Retries, Tries
from .signing import CallSigner


class Job(ABC):
    """One request, which may be made several times."""

    def __init__(self) -> None:
        self.tries = Tries()

    @abstractmethod
    async def run(self, connection: HTTPConnection) -> None:
        """Makes the request. Waits for nothing but the stream: a thread may have taken it over."""

    def gave_up(self, error: StoreError) -> bool:
        """Told that the request is not made again. Returns whether `error` concerns this job alone, which then ends.

        Otherwise the whole call fails.
        """
        return False


class RequestCrew(Crew[HTTPConnection]):
    """Runs jobs, which may add further ones. The first failure that is not tried again ends them all."""

    def __init__(self, equipment: Equipment[HTTPConnection], retries: Retries, signer: CallSigner) -> None:
        """`signer` signs the requests of all jobs."""
        super().__init__(equipment)
        self.signer = signer
        self._retries = retries
        self._pending: deque[Job] = deque()
        self._later: list[tuple[float, Job]] = []
        self._expired: list[tuple[Job, StoreError]] = []
        self._ends = math.inf

    def add(self, job: Job) -> None:
        """Adds a job. May be called by a job, in its thread as well."""
        self._pending.append(job)
        self.hire()

    def unbegun(self) -> int:
        return len(self._pending)

    async def run(self) -> None:
        """Runs all jobs. When it has ended, however it ended, nothing touches a buffer any more.

        Raises:
            The first failure that is not tried again.
        """
        while self._pending:
            self._ends = time.monotonic() + seconds_left()  # asked for here: threads cannot
            await super().run()
            await self._try_again()

    async def _try_again(self) -> None:
        if self._expired:
            jobs, self._expired = self._expired, []
            if not await self.signer.renew():
                raise jobs[0][1]
            self._pending.extend(job for job, _ in jobs)
        elif self._later:
            self._later.sort(key=lambda item: item[0])
            await anyio.sleep(max(0.0, self._later[0][0] - time.monotonic()))
            now = time.monotonic()
            due = [job for at, job in self._later if at <= now + 0.01]
            self._later = [item for item in self._later if item[0] > now + 0.01]
            self._pending.extend(due)

    async def _serve_one(self) -> None:
        # Where no connection could be opened, that counts as a failed attempt of the next request, so that there is one
        # budget for everything that is tried again.
        opened = False
        try:
            async with self._pool.acquired() as connection:
                opened = True
                await self._serve_over(connection)
        except StoreError as error:
            if opened:
                raise
            failure = error.with_traceback(None)
        else:
            return
        try:
            job = self._pending.popleft()
        except IndexError:
            return  # another member has a connection, and took it
        self._failed(job, None, failure)

    async def serve(self, connection: HTTPConnection) -> None:
        while True:
            try:
                job = self._pending.popleft()
            except IndexError:
                return  # another member took the last one, maybe in its thread
            failure: StoreError | StreamClosedError | None = None
            try:
                await job.run(connection)
                self._retries.succeeded()
            except (StoreError, StreamClosedError) as error:
                failure = error.with_traceback(None)
            if failure is not None:
                self._failed(job, connection, failure)
            if not connection.is_reusable:
                connection.close()
                return

    def _failed(self, job: Job, connection: HTTPConnection | None, error: StoreError | StreamClosedError) -> None:
        is_stale = connection is not None and connection.was_stale(error)
        if isinstance(error, StreamClosedError):
            error = self._pool.lost(self._pool.store, error)
        left = self._ends - time.monotonic()
        retry = self._retries.again(job.tries, error, is_stale=is_stale, seconds_left=left)
        if retry is None:
            if job.gave_up(error):
                return
            raise error
        if retry.renews:
            self._expired.append((job, error))
        elif retry.pause:
            self._later.append((time.monotonic() + retry.pause, job))
        else:
            self._pending.append(job)
