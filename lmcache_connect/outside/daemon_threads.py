"""`DaemonThreads`: a bounded pool of threads that do not keep the process alive."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

Job = Callable[[], None]

_IDLE_SECONDS: Final = 5.0
"""Seconds that a thread waits for a further job before it ends."""

_pools: weakref.WeakSet[DaemonThreads] = weakref.WeakSet()


class DaemonThreads:
    """Runs jobs in at most `limit` threads, in the order in which they came. Threads are started on first use.

    `concurrent.futures` and anyio join their threads when the interpreter ends, so that one job that hangs keeps the
    process alive. Nobody waits for these.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[Job] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False
        _pools.add(self)

    @property
    def threads(self) -> int:
        """The threads that live: those with a job, and those that wait for one."""
        return self._threads

    @property
    def waiting(self) -> int:
        """The jobs that no thread has begun."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Runs `job()` in a thread, at once or when one is free. `job` must not raise.

        Raises:
            RuntimeError: no thread could be started, and there is none that could run it later.
        """
        with self._changed:
            self._waiting.append(job)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._threads < self._limit:
                self._threads += 1
                try:
                    threading.Thread(target=self._serve, name=f"outside {self._name}", daemon=True).start()
                except RuntimeError:
                    self._threads -= 1
                    if not self._threads:
                        self._waiting.remove(job)
                        raise

    def withdraw(self, job: Job) -> bool:
        """Withdraws a job that no thread has begun. Returns whether that was so."""
        with self._changed:
            try:
                self._waiting.remove(job)
            except ValueError:
                return False
            return True

    def close(self) -> None:
        """Ends the threads that have no job. The others end after theirs. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            job()
            del job  # not kept, with what it holds, until the next one

    def _next(self) -> Job | None:
        with self._changed:
            self._idle += 1
            try:
                while not self._waiting:
                    if self._closed or not (self._changed.wait(_IDLE_SECONDS) or self._waiting):
                        self._threads -= 1
                        return None
                return self._waiting.popleft()
            finally:
                self._idle -= 1

    def _forget(self) -> None:
        """In a fork: the threads are the parent's, and the lock may be held by one of them."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting.clear()
        self._threads = self._idle = 0


def _forget_all() -> None:
    for pool in list(_pools):
        pool._forget()


os.register_at_fork(after_in_child=_forget_all)
