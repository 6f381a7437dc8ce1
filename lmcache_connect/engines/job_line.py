"""`JobLine`: runs the jobs of all ports of one store on its event loop, loads before stores."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from ..errors import LMCacheConnectError, StoreError
from ..lease import context_under
from ..loop import mailbox_of
from ..managed import ManagedConnector
from ..observability import RepeatedEvent
from ..outside import described
from .job import WHY, Job
from .refusal import Refusal

MOST_STORES: Final = 4
"""Stores that are under way at the same time."""

_WAITS_FOR_LOADS: Final = 0.25
"""The part of its time that a store waits for loads. Then it begins beside them."""

_ENDS_EARLY: Final = 0.1
"""The part of a job's time that is left when its operation is cancelled, so that it is over by its deadline."""

_ENDS_EARLY_SECONDS: Final = 0.25
"""The most seconds of that."""


class JobLine:
    """Runs jobs on the connector's event loop. Every method but `post` and `end_soon` is called there.

    Loads, look-ups and removals begin at once. Stores begin in their order, `MOST_STORES` at a time, and while no load
    is under way. One that has waited for a quarter of its time begins nevertheless.
    """

    def __init__(self, connector: ManagedConnector, loop: asyncio.AbstractEventLoop, pause: float) -> None:
        """`pause` is in seconds: how long a store that has refused the login is not asked, at first."""
        self._connector = connector
        self._loop = loop
        self._mailbox = mailbox_of(loop)
        self.refusal: Final = Refusal(pause)
        """Whether the store refuses the login."""
        self._stores: deque[Job] = deque()
        self._loading = 0
        self._storing = 0
        self._aging: asyncio.TimerHandle | None = None
        self._failed = RepeatedEvent("engine_job_failed")

    # ---------------------------------------------------------------------------------------- from other threads

    def post(self, job: Job) -> None:
        """Takes a job. From any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._mailbox.post(partial(self._arrive, job))

    def end_soon(self, job: Job, why: str) -> None:
        """Ends a job, begun or not, as soon as the loop gets to it. From any thread. `why` is one word."""
        try:
            self._mailbox.post(partial(self._end, job, why))
        except RuntimeError:
            pass  # the loop is closed, and nothing runs on it any more

    # ----------------------------------------------------------------------------------------------- on the loop

    def _arrive(self, job: Job) -> None:
        if job.is_over:
            return
        left = job.deadline - time.monotonic()
        early = min(_ENDS_EARLY_SECONDS, _ENDS_EARLY * (job.deadline - job.submitted))
        job.timer = self._loop.call_later(max(0.0, left - early), self._end, job, "deadline")
        if job.kind == "put":
            self._stores.append(job)
            self._begin_stores()
        else:
            self._begin(job)

    def _begin_stores(self) -> None:
        """Begins the stores whose turn has come."""
        if self._aging is not None:
            self._aging.cancel()
            self._aging = None
        while self._stores and self._storing < MOST_STORES:
            job = self._stores[0]
            waits = job.submitted + _WAITS_FOR_LOADS * (job.deadline - job.submitted) - time.monotonic()
            if self._loading and waits > 0 and not job.is_over:
                self._aging = self._loop.call_later(waits, self._begin_stores)
                return
            self._begin(self._stores.popleft())

    def _begin(self, job: Job) -> None:
        if job.is_over or job.lease.is_recalled:
            self._drop_timer(job)
            return
        if (refused := self.refusal.now(self._loop.time())) is not None:
            self._drop_timer(job)
            job.let_go()
            job.fail(*refused)
            return
        job.begin()
        self._count(job, 1)
        context = context_under(job.lease)
        job.task = self._loop.create_task(self._run(job), context=context)
        job.task.add_done_callback(partial(self._ended, job))

    async def _run(self, job: Job) -> None:
        try:
            flags = await self._operate(job)
        except asyncio.CancelledError:
            self._fail_stopped(job)
        except Exception as error:
            if job.lease.is_recalled:  # it was ended without the loop, and this is how its operation saw that
                self._fail_stopped(job)
                return
            came = self._came(job)
            job.let_go()
            self._tell(job, error)
            job.fail(type(error).__name__, described(error), came)
        else:
            job.let_go()
            self.refusal.end()
            job.succeed(flags)

    async def _operate(self, job: Job) -> Sequence[bool]:
        connector, theirs = self._connector, job.theirs
        match job.kind:
            case "get" if theirs is not None:
                return await connector.batched_get_into(job.keys, theirs.regions, theirs.descriptions)
            case "put" if theirs is not None:
                return await connector.batched_put_from(job.keys, theirs.regions, theirs.descriptions)
            case "remove":
                return await connector.batched_remove(job.keys)
            case _:
                return await connector.batched_exists(job.keys)

    def _ended(self, job: Job, task: asyncio.Task[None]) -> None:
        self._count(job, -1)
        self._drop_timer(job)
        if task.cancelled() or task.exception() is not None:  # it was cancelled before its first step
            self._fail_stopped(job)
        if self._stores:
            self._begin_stores()

    def _fail_stopped(self, job: Job) -> None:
        why = job.stopped or "cancelled"
        came = self._came(job)
        job.let_go()
        job.fail(why, WHY.get(why, "its operation was cancelled"), came)

    def _came(self, job: Job) -> Sequence[bool] | None:
        return job.chunks_that_came() if self._connector.inside.tells_what_came else None

    def _end(self, job: Job, why: str) -> None:
        job.stopped = job.stopped or why
        if job.task is not None:
            job.task.cancel()
            return
        self._drop_timer(job)
        if job in self._stores:
            self._stores.remove(job)
        job.let_go()
        job.fail(job.stopped, WHY[job.stopped])

    def _count(self, job: Job, change: int) -> None:
        if job.kind == "put":
            self._storing += change
        elif job.kind == "get":
            self._loading += change

    def _drop_timer(self, job: Job) -> None:
        timer, job.timer = job.timer, None
        if timer is not None:
            timer.cancel()

    def _tell(self, job: Job, error: Exception) -> None:
        if isinstance(error, StoreError):  # the connector has told it, at a bounded rate
            if error.permanent:
                self.refusal.begin(self._loop.time(), type(error).__name__, described(error))
            return
        level = logging.WARNING if isinstance(error, LMCacheConnectError) else logging.ERROR
        self._failed.tell(level, store=self._connector.store, kind=job.kind, keys=len(job.keys), error=described(error))
