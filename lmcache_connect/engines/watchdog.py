"""`Watchdog`: a thread that ends jobs at their deadlines, also where the event loop stands still."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from .job import Job

_POLL: Final = 0.005
"""Seconds between looks at whether threads have let go of a job's memory."""


class Watchdog:
    """Ends jobs that the event loop has not ended by their deadlines.

    It sleeps until the earliest deadline that it was told of. When that comes, it looks at all jobs that are left, and
    sleeps until the earliest of their deadlines. So most jobs come and go without waking it.
    """

    def __init__(self, force_end: Callable[[Job, str], bool]) -> None:
        """`force_end(job, why)` returns whether the job is over. Otherwise it is called again a moment later."""
        self._force_end = force_end
        self._changed = threading.Condition(threading.Lock())
        self._jobs: dict[Job, None] = {}
        self._wakes_at = math.inf
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def watch(self, job: Job) -> None:
        """Adds a job, unless it is over: what ends a job then calls `forget`. From any thread.

        Raises:
            RuntimeError: no thread could be started.
        """
        with self._changed:
            if job.is_over:  # its port was closed, or its memory released, while it was submitted
                return
            if self._thread is None:
                # A daemon: a port that was never closed must not keep the process alive.
                self._thread = threading.Thread(target=self._watch, name="lmcache-connect watchdog", daemon=True)
                self._thread.start()
            self._jobs[job] = None
            if job.deadline < self._wakes_at:
                self._changed.notify()

    def forget(self, job: Job) -> None:
        """Removes a job, which is over. From any thread."""
        with self._changed:
            self._jobs.pop(job, None)

    def close(self) -> None:
        """Ends the thread. No job is left."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                late = [job for job in self._jobs if job.deadline <= now]
                if late:
                    self._wakes_at = now + _POLL
                    self._changed.release()
                    try:
                        # Not under the lock, which those take that end jobs.
                        self._end(late)
                    finally:
                        self._changed.acquire()
                    late = [job for job in late if job in self._jobs]
                self._wakes_at = min((job.deadline for job in self._jobs), default=math.inf)
                left = self._wakes_at - time.monotonic()
                is_stuck, late = bool(late), []  # no reference is kept meanwhile
                self._changed.wait(_POLL if is_stuck else min(max(left, 0.0), threading.TIMEOUT_MAX))

    def _end(self, late: list[Job]) -> None:
        for job in late:
            self._force_end(job, "deadline")
