"""LMCache's executors, in their place: a connector's calls, so many at a time, the most urgent first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Final

from ...errors import ConnectorClosedError
from ...outside import Lane

_Ticket = tuple[int, int, "asyncio.Future[None]"]


class BaseJobExecutor(ABC):
    """What executors have in common."""

    @abstractmethod
    async def submit_job(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of `fn(*args, **kwargs)`."""

    @abstractmethod
    def shutdown(self, wait: bool = True) -> Any:
        """Takes no further jobs; with `wait` it waits for those that it has."""


class AsyncPQExecutor(BaseJobExecutor):
    """Runs coroutines on `loop`, at most `max_workers` at a time. A small `priority` goes first; 0 is the default.

    Unlike LMCache's it has no workers: a job runs in the task of who submitted it. So a cancellation ends the job, and
    costs no worker. It can be made in any thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_workers: int = 4) -> None:
        self.loop = loop
        self.max_workers: Final = max_workers
        self._counter = itertools.count()  # of equally urgent jobs the first goes first
        self._waiting: list[_Ticket] = []
        self._running = 0
        self._closed = False
        self._idle: asyncio.Event | None = None

    async def submit_job(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of `fn(*args, **kwargs)`, without the argument `priority`.

        Raises:
            ConnectorClosedError: after `shutdown`.
            What `fn` raises.
        """
        priority = kwargs.pop("priority", 0)
        if self._closed:
            raise ConnectorClosedError("the executor")
        turn: asyncio.Future[None] = self.loop.create_future()
        heapq.heappush(self._waiting, (priority, next(self._counter), turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the same time
                self._leave()
            raise
        try:
            return await self._call(partial(fn, *args, **kwargs))
        finally:
            self._leave()

    async def _call(self, job: Callable[[], Any]) -> Any:
        return await job()

    def _admit(self) -> None:
        while self._waiting and self._running < self.max_workers:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                self._running += 1

    def _leave(self) -> None:
        self._running -= 1
        self._admit()
        if not self._running and self._idle is not None:
            self._idle.set()

    async def shutdown_async(self, wait: bool = True) -> None:
        """Takes no further jobs. With `wait` it waits for those that it has, and otherwise drops those that wait."""
        self._closed = True
        if not wait:
            while self._waiting:
                self._waiting.pop()[2].cancel()
            return
        self._idle = asyncio.Event()
        if self._running:
            await self._idle.wait()

    def shutdown(self, wait: bool = True) -> Any:
        """`shutdown_async`, for any thread. On the loop's own thread it does not block: what it returns can be awaited.

        LMCache's own returns None, blocks, and so never ends where it is called on the loop.
        """
        try:
            is_here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            is_here = False
        if is_here:
            self._closed = True
            return _Ending(partial(self.shutdown_async, wait))
        ending = asyncio.run_coroutine_threadsafe(self.shutdown_async(wait), self.loop)
        if wait:
            ending.result()
        return None


class AsyncPQThreadPoolExecutor(AsyncPQExecutor):
    """The same for plain functions, which run in threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_workers: int = 4) -> None:
        super().__init__(loop, max_workers)
        self._lane = Lane("an executor", max_workers)

    async def _call(self, job: Callable[[], Any]) -> Any:
        return await self._lane.run_in_thread("a job", job)


class _Ending:
    """Can be awaited, and need not be."""

    def __init__(self, end: Callable[[], Awaitable[None]]) -> None:
        self._end = end

    def __await__(self) -> Generator[Any, None, None]:
        return self._end().__await__()
