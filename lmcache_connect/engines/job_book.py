"""`JobBook`: the jobs of one port that have not ended, the results that nobody has taken, and the counters of all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from ..contract import CallerMemory
from ..errors import BackendClosedError, ConnectorClosedError, InvalidArgumentError
from ..observability import JobKind, JobStatistics
from .event_descriptor import EventDescriptor
from .job import Job, JobResult


class JobBook:
    """What one port knows of its jobs. Thread-safe."""

    def __init__(self, max_waiting: int, on_over: Callable[[Job, JobResult], None]) -> None:
        """`max_waiting`: further stores are shed while more bytes wait. `on_over` is told each result.

        Raises:
            OSError: the process may have no further descriptor.
        """
        self.event = EventDescriptor()
        """Readable while `drain` has something to return."""
        self._max_waiting = max_waiting
        self._on_over = on_over
        self._changed = threading.Condition(threading.Lock())
        """Guards everything below, and the descriptor. Told when a job is over."""
        self._is_closed = False
        self._has_no_memory = False
        self._last_id = 0
        self._jobs: dict[int, Job] = {}
        self._results: dict[int, JobResult] = {}
        self._awaited: dict[int, int] = {}
        self._statistics = JobStatistics()
        self.statistics: Final = partial(_copied, self._changed, self._statistics)
        """Gives a copy of the counters. It does not keep this book alive, nor its port."""

    # ------------------------------------------------------------------------------------------------ submitting

    def add(
        self, kind: JobKind, keys: list[str], theirs: CallerMemory | None, seconds: float
    ) -> tuple[Job, int | None]:
        """A new job, and, where it is a store that is to be shed, the bytes that wait.

        Raises:
            ConnectorClosedError: after `close`.
            BackendClosedError: after `refuse_memory`, where the job has memory.
        """
        with self._changed:
            if self._is_closed:
                raise ConnectorClosedError("the job port")
            if theirs is not None and self._has_no_memory:
                raise BackendClosedError
            self._last_id += 1
            job = self._jobs[self._last_id] = Job(self._last_id, kind, keys, theirs, seconds, self)
            self._statistics.kinds[kind].in_flight += 1
            if kind != "put":
                return job, None
            waiting = self._statistics.waiting_store_bytes
            if waiting > 0 and waiting + job.nbytes > self._max_waiting:
                return job, waiting
            job.needs_room = True
            self._statistics.waiting_store_bytes += job.nbytes
            return job, None

    def refuse_memory(self) -> list[Job]:
        """Refuses further jobs with memory. Returns those that have not ended."""
        with self._changed:
            self._has_no_memory = True
            return [job for job in self._jobs.values() if job.kind in ("get", "put")]

    def close(self) -> list[Job] | None:
        """Refuses further jobs. Returns those that have not ended; None where it was called before."""
        with self._changed:
            if self._is_closed:
                return None
            self._is_closed = True
            return list(self._jobs.values())

    def close_event(self) -> None:
        """Closes the descriptor."""
        with self._changed:
            self.event.close()

    # --------------------------------------------------------------------------------------------------- results

    def drain(self) -> list[JobResult]:
        """Takes the results that no thread awaits, in the order of the ends of their jobs."""
        with self._changed:
            self.event.clear()
            if not self._awaited:
                results, self._results = list(self._results.values()), {}
                return results
            ids = [job_id for job_id in self._results if job_id not in self._awaited]
            return [self._results.pop(job_id) for job_id in ids]

    def wait(self, job_id: int, timeout: float | None) -> JobResult | None:
        """Takes the result of one job, for which it blocks; None: none came within `timeout` seconds.

        Raises:
            InvalidArgumentError: there is no such job, or its result was taken.
        """
        with self._changed:
            if job_id not in self._jobs and job_id not in self._results:
                raise InvalidArgumentError("job_id", f"{job_id!r} is not the number of a job whose result is to come")
            self._awaited[job_id] = self._awaited.get(job_id, 0) + 1
            try:
                self._changed.wait_for(lambda: job_id not in self._jobs, timeout)
                result = self._results.pop(job_id, None)
                if not self._results:
                    self.event.clear()
                return result
            finally:
                self._awaited[job_id] -= 1
                if not self._awaited[job_id]:
                    del self._awaited[job_id]
                    if job_id in self._results:  # this thread was interrupted
                        self.event.set()

    def wait_over(self, jobs: Iterable[Job], seconds: float) -> bool:
        """Blocks until these jobs are over, for `seconds` at most. Returns whether that is so."""
        left = list(jobs)
        with self._changed:
            return self._changed.wait_for(lambda: all(job.is_over for job in left), seconds)

    # ---------------------------------------------------------------------------------------- what jobs tell it

    def job_begins(self, job: Job) -> None:
        """A job's operation begins. Its bytes wait no more."""
        if job.needs_room:
            with self._changed:
                self._forget_waiting(job)

    def job_is_over(self, job: Job, flags: Sequence[bool] | None, reason: str | None, error: str | None) -> None:
        """A job has ended: with these flags, or for this reason. Only the first end of a job counts."""
        seconds = time.monotonic() - job.submitted
        given = (False,) * len(job.keys) if flags is None else tuple(flags)
        nbytes = sum(size for size, flag in zip(job.sizes, given, strict=True) if flag)
        text = error
        if reason is not None and error is not None and not error.startswith(reason):
            text = f"{reason}: {error}"
        result = JobResult(job.id, job.kind, given, text, seconds, nbytes, reason)
        with self._changed:
            if job.is_over:
                return
            job.is_over = True
            del self._jobs[job.id]
            self._forget_waiting(job)
            self._count(job, result)
            self._results[job.id] = result
            if job.id not in self._awaited:
                self.event.set()
            self._changed.notify_all()
        self._on_over(job, result)

    def _forget_waiting(self, job: Job) -> None:
        if job.needs_room:
            job.needs_room = False
            self._statistics.waiting_store_bytes -= job.nbytes

    def _count(self, job: Job, result: JobResult) -> None:
        counters = self._statistics.kinds[job.kind]
        succeeded = sum(result.flags)
        counters.in_flight -= 1
        counters.jobs += 1
        counters.keys += len(result.flags)
        counters.succeeded += succeeded
        counters.nbytes += result.nbytes
        counters.times.observe(result.seconds)
        if result.reason is None:
            counters.missed += len(result.flags) - succeeded
            return
        counters.failures[result.reason] += 1
        if result.reason == "shed":
            self._statistics.shed_jobs += 1
            self._statistics.shed_bytes += job.nbytes


def _copied(guard: threading.Condition, counters: JobStatistics) -> JobStatistics:
    with guard:
        return counters.copy()
