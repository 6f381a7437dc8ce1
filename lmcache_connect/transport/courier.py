"""`Couriers`: threads that move the bytes of streams, while the event loop does other things."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from .connection import Connection
from .loop_stream import LoopStream
from .thread_stream import ThreadStream
from .waiting import wait_uncancelled

T = TypeVar("T")


class _Job(NamedTuple):
    work: Coroutine[Any, Any, Any]
    outcome: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


_Jobs: TypeAlias = SimpleQueue[_Job | None]


class Couriers:
    """Threads of one event loop, each of which serves one connection at a time. They are started on first use.

    A blocking socket in a thread moves a large chunk with fewer system calls than one on the event loop, and hashes it
    without holding up the loop. A job is a coroutine that waits for nothing but its connection's stream, which does not
    suspend it while a thread has it: so one body of code serves the loop and the thread.
    """

    def __init__(self) -> None:
        self._idle: list[_Jobs] = []
        self._busy = 0
        self._closed = False

    @property
    def threads(self) -> int:
        """The number of threads that live: those with a job, and those that wait for one."""
        return len(self._idle) + self._busy

    async def run(self, connection: Connection, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` in a thread, and returns its result. The thread takes the connection over meanwhile.

        `connection.stream` is a `ThreadStream` while `work` runs, and the loop stream again when this returns.

        Work that fails closes the connection. So does a caller that is cancelled. It goes on when the thread has let go
        of every buffer, which takes as long as the piece that the thread is moving.

        Raises:
            What `work` raises.
            RuntimeError: `work` waits for something else than the stream, no thread could be started, a thread has the
                connection already, or the connection speaks TLS.
        """
        try:
            with _taken_over(connection) as stream:
                jobs = self._take_thread()
                try:
                    return await _run_in(jobs, stream, work)
                finally:
                    self._release_thread(jobs)
        finally:
            work.close()  # for a job that never began

    def _take_thread(self) -> _Jobs:
        if self._idle:
            jobs = self._idle.pop()
        else:
            jobs = SimpleQueue()
            # A daemon: a connector that was never closed must not keep the process alive.
            threading.Thread(target=_serve, args=(jobs,), name="lmcache-connect courier", daemon=True).start()
        self._busy += 1
        return jobs

    def _release_thread(self, jobs: _Jobs) -> None:
        self._busy -= 1
        if self._closed:
            jobs.put(None)
        else:
            self._idle.append(jobs)

    def close(self) -> None:
        """Ends the threads. Those with a job end after it. Idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def __del__(self) -> None:
        self.close()


@contextmanager
def _taken_over(connection: Connection) -> Iterator[ThreadStream]:
    """Exchanges the connection's loop stream for a thread stream, for the length of the block."""
    loop_stream = connection.stream
    if not isinstance(loop_stream, LoopStream):
        raise RuntimeError(f"{loop_stream!r} is not on an event loop: a thread may have taken it over already")
    connection.stream = thread_stream = loop_stream.take_over()
    try:
        yield thread_stream
    finally:
        thread_stream.hand_back()
        connection.stream = loop_stream


async def _run_in(jobs: _Jobs, stream: ThreadStream, work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    jobs.put(_Job(work, outcome, loop))
    try:
        return await asyncio.shield(outcome)
    except BaseException:
        stream.close()
        await _wait_for(outcome)
        raise


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work()` in a thread, and returns its result.

    A caller that is cancelled goes on when `work` has ended, and has let go of its buffers.

    Raises:
        What `work` raises.
    """
    outcome = asyncio.ensure_future(anyio.to_thread.run_sync(work))
    try:
        return await asyncio.shield(outcome)
    except BaseException:
        await _wait_for(outcome)
        raise


async def _wait_for(outcome: asyncio.Future[Any]) -> None:
    """Waits until a thread has ended its work, however often the caller is cancelled meanwhile."""
    await wait_uncancelled(outcome)
    if not outcome.cancelled():
        outcome.exception()  # marks it as retrieved


def _serve(jobs: _Jobs) -> None:
    """What a courier does: jobs, one after the other, until it is told to end."""
    while (job := jobs.get()) is not None:
        work, outcome, loop = job
        result: Any = None
        error: BaseException | None = None
        try:
            work.send(None)
        except StopIteration as end:
            result = end.value
        except BaseException as raised:
            # Its frames hold views of buffers, which must not live as long as the error does.
            error = raised.with_traceback(None)
        else:
            work.close()
            error = RuntimeError("a courier's job waited for something that is not its stream")
        try:
            loop.call_soon_threadsafe(_resolve, outcome, result, error)
        except RuntimeError:
            return  # the loop was closed: nobody waits for the outcome, and no further job will come
        del job, work, outcome, loop, result, error  # not kept until the next job


def _resolve(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)
