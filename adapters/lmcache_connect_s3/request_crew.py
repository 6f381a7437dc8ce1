"""`RequestCrew`: makes the requests of one call on the event loop, over several connections at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.transport import StreamClosedError, wait_uncancelled

from .http_connection import HTTPConnection, Pool
from .job import Job
from .request_call import RequestCall, RequestServer

_TURN_SECONDS: Final = 0.005
"""How long a member keeps a connection that others wait for. A request that it has begun is finished in any case."""


class RequestCrew(RequestServer):
    """Serves one call with as many members as there are jobs for, up to a limit. A member has one connection at a time.

    A call with one job makes it in its own task: a task for it would cost more than the rest of the work. The members
    of other calls are tasks. Jobs may come up meanwhile: there are members for them as well. The first failure ends the
    others. A member that still waits for a connection when everything is done is dismissed.
    """

    def __init__(self, pool: Pool, limit: int) -> None:
        """`limit`: how many members there are, at most."""
        self.pool = pool
        self._limit = limit
        self._call: RequestCall | None = None
        self._members: set[asyncio.Task[None]] = set()
        self._serving: set[HTTPConnection] = set()
        self._failure: Exception | None = None

    async def serve(self, call: RequestCall) -> None:
        self._call = call
        try:
            while call.pending and not self._members and (self._limit == 1 or len(call.pending) == 1):
                await self._serve_one(call)
            self._start_members()
            while self._members:
                await asyncio.wait(self._members)
        except BaseException as ended:
            self._dismiss(all_of_them=True)
            if not isinstance(ended, GeneratorExit):  # after that one nothing can be awaited
                for member in tuple(self._members):
                    await wait_uncancelled(member)
            raise
        finally:
            self._call = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame

    def add(self, call: RequestCall, job: Job) -> None:
        call.queue(job)
        if self._call is not None and self._limit > 1:
            self._start_members()

    def _start_members(self) -> None:
        call = self._call
        if call is None or not call.pending:
            return
        arriving = len(self._members) - len(self._serving)  # without a connection: there is a job for each of them
        for _ in range(min(self._limit - len(self._members), len(call.pending) - arriving)):
            member = asyncio.get_running_loop().create_task(self._work(call))
            self._members.add(member)
            member.add_done_callback(self._members.discard)

    async def _work(self, call: RequestCall) -> None:
        try:
            while call.pending and self._failure is None:
                await self._serve_one(call)
            if not self._serving:
                self._dismiss()  # they wait for connections that nothing is left to do with
        except Exception as failure:
            self._failure = self._failure or failure.with_traceback(None)
            self._dismiss(all_of_them=True)

    def _dismiss(self, *, all_of_them: bool = False) -> None:
        if all_of_them and self._call is not None:
            self._call.pending.clear()
            for connection in self._serving:
                connection.close()  # one of them may be used by the caller's own task
        for member in self._members:
            if member is not asyncio.current_task():
                member.cancel()

    async def _serve_one(self, call: RequestCall) -> None:
        # Where no connection could be opened, that counts as a failed attempt of the next request, so that there is one
        # budget for everything that is tried again.
        opened = False
        try:
            async with self.pool.acquired() as connection:
                opened = True
                self._serving.add(connection)
                try:
                    await self._serve_over(connection, call)
                finally:
                    self._serving.discard(connection)
        except StoreError as error:
            if opened:
                raise
            failure = error.with_traceback(None)
        else:
            return
        try:
            job = call.pending.popleft()
        except IndexError:
            return  # another member has a connection, and took it
        call.job_failed(job, None, failure)

    async def _serve_over(self, connection: HTTPConnection, call: RequestCall) -> None:
        ends = 0.0
        while call.pending:
            job = call.pending.popleft()
            failure: StoreError | StreamClosedError | None = None
            try:
                await job.run(connection)
                call.retries.succeeded()
            except (StoreError, StreamClosedError) as error:
                failure = error.with_traceback(None)
            if failure is not None:
                if self._failure is not None:
                    return  # it was ended by the failure of another one
                call.job_failed(job, connection, failure)
            if not connection.is_reusable:
                connection.close()
                return
            if self.pool.waiting:
                now = time.monotonic()
                ends = ends or now + _TURN_SECONDS
                if now >= ends:
                    return
