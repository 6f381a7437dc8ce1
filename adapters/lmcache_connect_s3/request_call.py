"""`RequestCall`: the requests of one call, each made again where that may help."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque

import anyio

from lmcache_connect import StoreError
from lmcache_connect.contract import seconds_left
from lmcache_connect.transport import StreamClosedError

from .http_connection import HTTPConnection, Pool
from .job import Job
from .retries import Retries
from .signing import CallSigner


class RequestServer(ABC):
    """Makes the requests of a call, over several connections at a time.

    Attributes:
        pool: the connections.
    """

    pool: Pool

    @abstractmethod
    async def serve(self, call: RequestCall) -> None:
        """Does all jobs of a call. When it has ended, however it ended, nothing touches a buffer any more.

        Raises:
            The first failure that is not tried again.
        """

    @abstractmethod
    def add(self, call: RequestCall, job: Job) -> None:
        """Adds a job to the call. May be called by one of its jobs, in its thread as well."""


class RequestCall:
    """Jobs, which may add further ones. The first failure that is not tried again ends them all.

    It decides what becomes of a job that failed. A `RequestServer` makes the requests: on the event loop a
    `RequestCrew` of the call's own, in threads the connector's `RequestLane`.

    Attributes:
        pending: the jobs that nobody has begun.
        retries: what is tried again.
        signer: signs the requests of all jobs.
    """

    def __init__(self, server: RequestServer, retries: Retries, signer: CallSigner) -> None:
        self.pending: deque[Job] = deque()
        self.retries = retries
        self.signer = signer
        self._server = server
        self._later: list[tuple[float, Job]] = []
        self._expired: list[tuple[Job, StoreError]] = []
        self._ends = math.inf

    def add(self, job: Job) -> None:
        """Adds a job. May be called by a job, in its thread as well."""
        self._server.add(self, job)

    async def run(self) -> None:
        """Runs all jobs. When it has ended, however it ended, nothing touches a buffer any more.

        Raises:
            The first failure that is not tried again.
        """
        while self.pending:
            self._ends = time.monotonic() + seconds_left()  # asked for here: threads cannot
            await self._server.serve(self)
            if self._expired or self._later:
                await self._try_again()

    def queue(self, job: Job) -> None:
        """Puts a job where its turn comes. For the server, which knows who else looks at `pending`."""
        if job.goes_on:
            self.pending.appendleft(job)
        else:
            self.pending.append(job)

    def job_failed(self, job: Job, connection: HTTPConnection | None, error: StoreError | StreamClosedError) -> None:
        """Decides what becomes of a job that failed. `connection` None: none could be opened for it. Thread-safe.

        Raises:
            StoreError: the call has failed.
        """
        is_stale = connection is not None and connection.was_stale(error)
        if isinstance(error, StreamClosedError):
            pool = self._server.pool
            error = pool.lost(pool.store, error)
        left = self._ends - time.monotonic()
        retry = self.retries.again(job.tries, error, is_stale=is_stale, seconds_left=left)
        if retry is None:
            if job.gave_up(error):
                return
            raise error
        if retry.renews:
            self._expired.append((job, error))
        elif retry.pause:
            self._later.append((time.monotonic() + retry.pause, job))
        else:
            self.queue(job)

    async def _try_again(self) -> None:
        if self._expired:
            jobs, self._expired = self._expired, []
            if not await self.signer.renew():
                raise jobs[0][1]
            self.pending.extend(job for job, _ in jobs)
        elif self._later:
            self._later.sort(key=lambda item: item[0])
            await anyio.sleep(max(0.0, self._later[0][0] - time.monotonic()))
            now = time.monotonic()
            due = [job for at, job in self._later if at <= now + 0.01]
            self._later = [item for item in self._later if item[0] > now + 0.01]
            self.pending.extend(due)
